//! Clients that harm others: half-open connections, slow readers, too many requests, no descriptors left.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use http::StatusCode;
use socket2::{Domain, Socket, Type};

use super::SOON;
use crate::support::app::App;
use crate::support::http as client;
use crate::support::kube::NewPod;
use crate::support::pod::{Answer, Pod};
use crate::support::process;

/// A health check must respond within this, whatever other clients do: Pebble gives it three seconds.
const HEALTHY: Duration = Duration::from_secs(1);

/// A connection from a loopback address of the test's choice.
fn connect_from(source: [u8; 4], address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// The address by which clients of IPv4 reach the program.
fn ipv4(app: &App) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], app.address.port()))
}

async fn assert_healthy(app: &App) {
    let answer = client::get(ipv4(app), "/healthz").limit(HEALTHY).send().await;
    assert_eq!(
        answer.expect("a response in time").status,
        StatusCode::OK,
        "/healthz"
    );
}

#[tokio::test]
async fn half_open_connections_do_not_delay_health_checks() {
    let app = App::with_pods(&[], &["--header-timeout", "1h"]).await;
    let mut half_open = Vec::new();
    // More than there may be in all, from one client and from many; the last ones share the address of the checks.
    for n in 0..1_200_u16 {
        let source = match n {
            0..300 => [127, 0, 7, 1],
            300..1_000 => [127, 0, 8, u8::try_from(n % 100).expect("below 256")],
            _ => [127, 0, 0, 1],
        };
        let mut stream = connect_from(source, ipv4(&app)).expect("the listener accepts");
        // The program may have closed it already in favour of a later one.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:");
        half_open.push(stream);
        if n % 100 == 0 {
            assert_healthy(&app).await;
        }
    }
    assert_healthy(&app).await;
    let text = app.metrics().await;
    for reason in ["client", "total"] {
        let name = format!("metrics_proxy_connection_limit_reached_total{{reason=\"{reason}\"}}");
        assert!(text.contains(&name), "{text}");
    }
}

#[tokio::test]
async fn more_responses_than_allowed_are_503_with_retry_after() {
    let pod = Pod::start(Answer::hang()).await;
    let args = ["--max-concurrent-responses", "2", "--timeout", "1h"];
    let app = App::with_pods(&[NewPod::scraped("p", pod.address)], &args).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(client::get(app.address, "/metrics").send()))
        .collect();
    process::wait_for("the pod is asked twice", SOON, String::new, async || {
        (pod.answering() == 2).then_some(())
    })
    .await;
    let refused = app.get("/metrics", &[]).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("retry-after"), "1");
    assert!(
        refused.text().contains("--max-concurrent-responses"),
        "{}",
        refused.text()
    );
    assert_healthy(&app).await;
    for request in waiting {
        request.abort();
    }
    // A client that has left gives its permit back.
    pod.set(Answer::text("a 1\n"));
    process::wait_for("a response", SOON, String::new, async || {
        (app.get("/metrics", &[]).await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_trickles_is_disconnected_and_shortens_no_budget() {
    // Far more bytes than the buffers of both sockets hold, in few enough lines to be parsed in time.
    let body = (0..100_000).fold(String::new(), |body, n| {
        body + &format!("a{{n=\"{n:0200}\"}} 1\n")
    });
    let pod = Pod::serving(&body).await;
    let mut app = App::with_pods(&[NewPod::scraped("p", pod.address)], &[]).await;
    let mut slow = connect_from([127, 0, 0, 1], ipv4(&app)).expect("a connection");
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 5\r\n\r\n")
        .expect("sent");
    let started = Instant::now();
    let trickling = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 1 << 10];
        // Far below what the response needs, and never silent for as long as the write timeout.
        while slow.read(&mut buffer).is_ok_and(|n| n > 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    process::wait_for("the pod is asked", SOON, String::new, async || {
        (!pod.requests().is_empty()).then_some(())
    })
    .await;
    pod.set(Answer::text("a 1\n"));
    app.wait_metrics("the reader is disconnected", Duration::from_secs(40), |text| {
        text.contains("metrics_proxy_cancelled_requests_total 1\n")
    })
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    // The next response gives its targets the whole time.
    app.metrics().await;
    let request = pod.requests().pop().expect("it was scraped");
    let seconds: f64 = request
        .header("x-prometheus-scrape-timeout-seconds")
        .parse()
        .expect("a number");
    assert!(seconds > 8.0, "{seconds}");
    trickling.abort();
}

#[tokio::test]
async fn without_descriptors_it_says_so_once_and_recovers() {
    let mut app = App::with_pods(&[], &["--max-connections-per-client", "512"]).await;
    let pid = i32::try_from(app.process().pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let limit = rustix::process::Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).expect("it is our process");
    let connections: Vec<_> = (0..150)
        .map(|_| TcpStream::connect(ipv4(&app)).expect("the listen queue has room"))
        .collect();
    process::wait_for("it says so", SOON, String::new, async || {
        app.process()
            .log()
            .contains("Cannot accept connections")
            .then_some(())
    })
    .await;
    assert_healthy_soon(&app).await;
    drop(connections);
    assert_healthy_soon(&app).await;
    assert_eq!(
        app.process().log().matches("Cannot accept connections").count(),
        1
    );
}

/// Without descriptors a connection takes the time of a few failed accepts.
async fn assert_healthy_soon(app: &App) {
    let answer = client::get(ipv4(app), "/healthz").limit(SOON).send().await;
    assert_eq!(answer.expect("a response").status, StatusCode::OK);
}

#[tokio::test]
async fn a_target_that_goes_down_and_comes_back_is_one_line_each() {
    let pod = Pod::serving("a 1\n").await;
    let mut app = App::with_pods(&[NewPod::scraped("web", pod.address)], &[]).await;
    app.metrics().await;
    pod.set(Answer::html());
    app.metrics().await;
    app.metrics().await;
    pod.set(Answer::text("a 1\n"));
    app.metrics().await;
    let log = app.process().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ns/web")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains("INFO Target went down target=\"ns/web\" url=\"http://")
            && lines[0].contains("reason=\"parse\" error=\""),
        "{log}"
    );
    assert!(
        lines[1].contains("INFO Target came back target=\"ns/web\"") && lines[1].contains("after="),
        "{log}"
    );
}
