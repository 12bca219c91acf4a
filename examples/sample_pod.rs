//! A small exporter that plays one pod of the demo.
//!
//! `sample_pod ADDRESS KIND NAME`, where KIND is `good` (a counter, a gauge and a histogram that move), `slow` (the
//! same after 30 s, which no scrape waits for) or `html` (a login page with status 200, as a misrouted port gives).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const USAGE: &str = "usage: sample_pod ADDRESS good|slow|html NAME";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, kind, name] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    if !["good", "slow", "html"].contains(&kind.as_str()) {
        return Err(USAGE.into());
    }
    let listener = TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    let pod: &'static Pod = Box::leak(Box::new(Pod {
        kind: kind.clone(),
        name: name.clone(),
        started: Instant::now(),
        requests: AtomicU64::new(0),
    }));
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service_fn(move |request| pod.answer(request));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

struct Pod {
    kind: String,
    name: String,
    started: Instant,
    requests: AtomicU64,
}

impl Pod {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let n = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (content_type, body) = match self.kind.as_str() {
            "html" => (
                "text/html",
                "<html><body><h1>Sign in</h1></body></html>\n".to_owned(),
            ),
            kind => {
                if kind == "slow" {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                ("text/plain; version=0.0.4", self.exposition(n))
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(content_type),
        );
        drop(request);
        Ok(response)
    }

    /// What the pod measures, all of it functions of its uptime and its requests so that graphs move.
    fn exposition(&self, n: u64) -> String {
        let uptime = self.started.elapsed().as_secs_f64();
        let temperature = 20.0 + 5.0 * (uptime / 30.0).sin();
        let fast = n - n / 4;
        format!(
            "# HELP sample_requests_total Requests served.\n\
             # TYPE sample_requests_total counter\n\
             sample_requests_total{{path=\"/metrics\"}} {n}\n\
             # HELP sample_temperature_celsius Temperature of the room that the pod is not in.\n\
             # TYPE sample_temperature_celsius gauge\n\
             sample_temperature_celsius{{sensor=\"{}\"}} {temperature}\n\
             # HELP sample_request_duration_seconds How long requests took.\n\
             # TYPE sample_request_duration_seconds histogram\n\
             sample_request_duration_seconds_bucket{{le=\"0.1\"}} {fast}\n\
             sample_request_duration_seconds_bucket{{le=\"1\"}} {n}\n\
             sample_request_duration_seconds_bucket{{le=\"+Inf\"}} {n}\n\
             sample_request_duration_seconds_sum {}\n\
             sample_request_duration_seconds_count {n}\n",
            self.name,
            n as f64 * 0.125,
        )
    }
}
