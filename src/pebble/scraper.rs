//! `/v1/metrics`: Pebble's own metrics, for our answer.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Client;
use crate::config::{self, PebbleMode};

/// Pebble logs each request, so it is asked no more often than this.
const KEEP: Duration = Duration::from_secs(10);
/// What one answer of ours waits for it at most.
const LIMIT: Duration = Duration::from_secs(1);

/// Pebble's own metrics: the body as it is (families repeated and interleaved; the merge regroups them).
#[derive(Debug)]
pub struct PebbleScraper {
    client: Option<Client>,
    /// How long to leave a Pebble alone that refused: each refusal makes it log a CRITICAL line.
    refused_interval: Duration,
    last: Mutex<Option<Answer>>,
}

#[derive(Debug)]
struct Answer {
    body: Option<Bytes>,
    until: Instant,
}

impl PebbleScraper {
    /// Nothing is asked yet. With `--pebble off` or `--pebble-metrics=false` nothing ever is.
    pub fn new(settings: &config::Pebble) -> Self {
        let wanted = settings.own_metrics && settings.mode != PebbleMode::Off;
        Self {
            client: wanted.then(|| Client::new(&settings.socket)),
            refused_interval: settings.refused_interval,
            last: Mutex::new(None),
        }
    }

    /// The body, at most 10 s old; `None` where it is not wanted, or Pebble is not there, or did not answer within 1 s.
    /// Answers that ask at the same time share one request.
    pub async fn fetch(&self) -> Option<Bytes> {
        let client = self.client.as_ref()?;
        let mut last = self.last.lock().await;
        if let Some(answer) = &*last
            && Instant::now() < answer.until
        {
            return answer.body.clone();
        }
        // If the client hangs up while we ask, the last body stays in use; asking again at once would be too often.
        *last = Some(Answer {
            body: last.take().and_then(|answer| answer.body),
            until: Instant::now() + KEEP,
        });
        let (body, keep) = match client.get_raw("/v1/metrics", LIMIT).await {
            Ok((StatusCode::OK, body)) => (Some(body), KEEP),
            // Refused, or older than 1.19.
            Ok(_) => (None, self.refused_interval.max(KEEP)),
            Err(error) if error.is_absent() => (None, Duration::ZERO),
            Err(_) => (None, KEEP),
        };
        *last = Some(Answer {
            body: body.clone(),
            until: Instant::now() + keep,
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

    /// A Pebble that answers every connection with `answer` and counts them.
    fn fake(socket: &std::path::Path, answer: &'static str) -> Arc<AtomicUsize> {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        asked
    }

    fn settings(socket: &std::path::Path) -> config::Pebble {
        config::Pebble {
            socket: socket.to_owned(),
            ..Config::default().pebble
        }
    }

    #[tokio::test]
    async fn many_answers_ask_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let asked = fake(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na\n");
        let metrics = PebbleScraper::new(&settings(&socket));
        let (a, b) = tokio::join!(metrics.fetch(), metrics.fetch());
        assert_eq!(a.as_deref(), Some(&b"a\n"[..]));
        assert_eq!(a, b);
        assert_eq!(metrics.fetch().await, a);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_refusal_is_not_asked_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let asked = fake(&socket, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let metrics = PebbleScraper::new(&settings(&socket));
        assert_eq!(metrics.fetch().await, None);
        assert_eq!(metrics.fetch().await, None);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn off_or_absent_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert_eq!(PebbleScraper::new(&settings(&socket)).fetch().await, None);
        let asked = fake(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na\n");
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
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }
}
