//! `/v1/metrics`: the metrics of Pebble, for the proxy's own response.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Client;
use crate::config::{self, PebbleMode};

/// Pebble logs each request, so a body is used for this long.
const MAX_AGE: Duration = Duration::from_secs(10);
/// How long one response of the proxy waits for it.
const LIMIT: Duration = Duration::from_secs(1);

/// Fetches Pebble's metrics and keeps the last body as it is: families are repeated and interleaved, and the merge groups
/// them.
#[derive(Debug)]
pub struct PebbleScraper {
    client: Option<Client>,
    /// How long no request is sent after a refusal: each one makes Pebble log a CRITICAL line.
    denied_interval: Duration,
    last: Mutex<Option<CachedBody>>,
}

#[derive(Debug)]
struct CachedBody {
    body: Option<Bytes>,
    until: Instant,
}

impl PebbleScraper {
    /// Sends no request yet, and none at all with `--pebble off` or `--pebble-metrics=false`.
    pub fn new(settings: &config::Pebble) -> Self {
        let wanted = settings.own_metrics && settings.mode != PebbleMode::Off;
        Self {
            client: wanted.then(|| Client::new(&settings.socket)),
            denied_interval: settings.denied_retry_interval,
            last: Mutex::new(None),
        }
    }

    /// The body, at most 10 s old; `None` where it is switched off, or Pebble cannot be reached or did not respond within
    /// 1 s. Concurrent calls share one request.
    pub async fn fetch(&self) -> Option<Bytes> {
        let client = self.client.as_ref()?;
        let mut last = self.last.lock().await;
        if let Some(cached) = &*last
            && Instant::now() < cached.until
        {
            return cached.body.clone();
        }
        // If this call is dropped meanwhile, the last body stays in use, so that the next call sends no request at once.
        *last = Some(CachedBody {
            body: last.take().and_then(|cached| cached.body),
            until: Instant::now() + MAX_AGE,
        });
        let (body, max_age) = match client.get_raw("/v1/metrics", LIMIT).await {
            Ok((StatusCode::OK, body)) => (Some(body), MAX_AGE),
            // Refused, or older than 1.19.
            Ok(_) => (None, self.denied_interval.max(MAX_AGE)),
            Err(error) if error.is_absent() => (None, Duration::ZERO),
            Err(_) => (None, MAX_AGE),
        };
        *last = Some(CachedBody {
            body: body.clone(),
            until: Instant::now() + max_age,
        });
        body
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::Config;

    /// A Pebble that sends `response` on every connection and counts the connections.
    fn fake(socket: &std::path::Path, response: &'static str) -> Arc<AtomicUsize> {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let n_requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&n_requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        n_requests
    }

    fn settings(socket: &std::path::Path) -> config::Pebble {
        config::Pebble {
            socket: socket.to_owned(),
            ..Config::default().pebble
        }
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_request() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let n_requests = fake(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na\n");
        let metrics = PebbleScraper::new(&settings(&socket));
        let (a, b) = tokio::join!(metrics.fetch(), metrics.fetch());
        assert_eq!(a.as_deref(), Some(&b"a\n"[..]));
        assert_eq!(a, b);
        assert_eq!(metrics.fetch().await, a);
        assert_eq!(n_requests.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_refusal_is_not_repeated_soon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let n_requests = fake(&socket, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let metrics = PebbleScraper::new(&settings(&socket));
        assert_eq!(metrics.fetch().await, None);
        assert_eq!(metrics.fetch().await, None);
        assert_eq!(n_requests.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn off_or_absent_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert_eq!(PebbleScraper::new(&settings(&socket)).fetch().await, None);
        let n_requests = fake(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na\n");
        for off in [
            config::Pebble {
                own_metrics: false,
                ..settings(&socket)
            },
            config::Pebble {
                mode: PebbleMode::Off,
                ..settings(&socket)
            },
        ] {
            assert_eq!(PebbleScraper::new(&off).fetch().await, None);
        }
        assert_eq!(n_requests.load(Ordering::Relaxed), 0);
    }
}
