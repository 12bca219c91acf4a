//! Servers whose idle timeout equals the scrape interval, beside a real Prometheus on the same servers (H11).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod;
use crate::support::prometheus::{Prometheus, job};
use crate::support::tools::{say, tool_or_skip};

const PODS: usize = 50;
const IDLE: Duration = Duration::from_secs(1);
const SCRAPES: usize = 60;

/// Serves one series on each connection, and closes it after a second without a request, as Node, uvicorn and gunicorn
/// do after some seconds.
async fn serve(mut stream: TcpStream) {
    let mut request = Vec::new();
    loop {
        match tokio::time::timeout(IDLE, stream.read_buf(&mut request)).await {
            Ok(Ok(1..)) => {}
            _ => return,
        }
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let response = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: 10\r\n\r\nidle_ok 1\n";
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn start() -> SocketAddr {
    let listener = TcpListener::bind((pod::address(), 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A minute of scrapes: no scrape fails, as none does in Prometheus.
#[tokio::test]
#[ignore = "takes a minute; make test-real runs it"]
async fn an_idle_timeout_equal_to_the_interval_costs_no_scrape() {
    let prometheus = tool_or_skip!("prometheus");
    let mut addresses = Vec::new();
    for _ in 0..PODS {
        addresses.push(start().await);
    }
    let pods: Vec<NewPod> = addresses
        .iter()
        .enumerate()
        .map(|(n, address)| NewPod::scraped(&format!("idle-{n:02}"), *address))
        .collect();
    let app = App::with_pods(&pods, &[]).await;
    let mut direct = job("direct", addresses[0]);
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    direct["static_configs"] = json!([{"targets": all}]);
    let prometheus = Prometheus::start(&prometheus, &[direct]).await;
    let mut failed = 0;
    for n in 0..SCRAPES {
        let text = app.metrics().await;
        failed += text
            .lines()
            .filter(|line| line.starts_with("up{") && line.ends_with(" 0"))
            .count();
        // Around the idle timeout of the servers: shortly before and shortly after they close.
        tokio::time::sleep(Duration::from_millis(985 + (n as u64 % 8) * 2)).await;
    }
    let sum = async |expression: &str| {
        let value = prometheus.value(expression).await.unwrap_or_default();
        value.parse::<f64>().unwrap_or_default()
    };
    let direct_all = sum("sum(count_over_time(up[5m]))").await;
    let direct_up = sum("sum(sum_over_time(up[5m]))").await;
    say(&format!(
        "idle timeout of 1 s: {failed} of {} scrapes failed, directly {} of {direct_all}",
        PODS * SCRAPES,
        direct_all - direct_up
    ));
    assert!(direct_all > 1000.0, "Prometheus scraped directly");
    assert_eq!(failed, 0);
}
