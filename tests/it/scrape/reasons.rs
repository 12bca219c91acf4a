//! What a person reads about a pod that cannot be scraped: planted problems, and the exact text on the pages.

use std::sync::Arc;

use rcgen::date_time_ymd;

use super::last_scrape;
use super::tls::{TlsPod, params, self_signed};
use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::{self, Answer, Pod, TEXT};
use crate::support::process;

/// Scrapes each pod once and compares the text of its error; `ADDRESS` stands for the pod's address.
async fn check(cases: Vec<(&str, Answer, &str)>, args: &[&str]) {
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for (name, answer, _) in &cases {
        let server = Pod::start(answer.clone()).await;
        pods.push(NewPod::scraped(name, server.address));
        servers.push(server);
    }
    let app = App::with_pods(&pods, args).await;
    app.metrics().await;
    for ((name, _, expected), server) in cases.iter().zip(&servers) {
        let error = last_scrape(&app, name).await["lastError"].clone();
        let expected = expected.replace("ADDRESS", &server.address.to_string());
        assert_eq!(error.as_str(), Some(expected.as_str()), "{name}");
    }
}

#[tokio::test]
async fn bodies_that_are_not_metrics_are_named() {
    let html = "<!DOCTYPE html><html><head><title>Sign in</title>";
    let cases = vec![
        (
            "html",
            Answer::text(html).content_type("text/html; charset=utf-8"),
            "the response is an HTML page and not metrics, such as a login page or a wrong path; \
             check prometheus.io/path and prometheus.io/port, and whether the endpoint wants a login",
        ),
        (
            "json",
            Answer::text("{\"status\":\"ok\"}").content_type("application/json"),
            "the response is JSON and not metrics; check prometheus.io/path",
        ),
        (
            "crlf",
            Answer::text("x 1\r\ny 2\r\n"),
            "the lines of the body end with a carriage return (CRLF); \
             let the exporter end its lines with a line feed only",
        ),
        (
            "still-gzip",
            Answer::text("a 1\n")
                .gzip()
                .with_header("Content-Encoding", "x-gzip"),
            "the body is still compressed (gzip), but its Content-Encoding does not say so; \
             let the exporter set Content-Encoding, or send plain text",
        ),
        (
            "cut-off",
            Answer::text("a 1\nb 2\n").truncated(4),
            "the connection was closed within the body, after 4 bytes; look at the pod's own log",
        ),
        (
            "reset",
            Answer::text("a 1\nb 2\n").reset_after(4),
            "the connection broke within the body, after 4 bytes: the connection was reset; look at the pod's own log",
        ),
        (
            "gzip",
            Answer::text("a body that is no gzip at all\n").with_header("Content-Encoding", "gzip"),
            "the body is not valid gzip: invalid gzip header; look at what compresses the response",
        ),
        (
            "large",
            Answer::text("x".repeat(70_000)),
            "the body exceeds 65536 bytes; raise --max-body-bytes or reduce what the target exposes",
        ),
    ];
    check(cases, &["--max-body-bytes", "65536"]).await;
}

#[tokio::test]
async fn statuses_are_shown_with_the_start_of_their_body() {
    let status = |status: u16, body: &str| Answer::text(body).with_status(status).content_type(TEXT);
    let long = "An error has occurred while serving metrics:\n\n2 error(s) occurred:\n* collected metric \"a\" was collected before";
    let cases = vec![
        (
            "401",
            status(401, ""),
            "HTTP status 401 Unauthorized; the pod wants credentials and metrics-proxy sends none: \
             expose the metrics without a login inside the cluster",
        ),
        (
            "403",
            status(403, "Forbidden"),
            "HTTP status 403 Forbidden: Forbidden; the pod wants credentials and metrics-proxy sends none: \
             expose the metrics without a login inside the cluster",
        ),
        (
            "404",
            status(404, "404 page not found\n"),
            "HTTP status 404 Not Found: 404 page not found; set prometheus.io/path to the path that serves the metrics",
        ),
        (
            "503",
            status(503, "warming\x1b[31m up\r\n"),
            "HTTP status 503 Service Unavailable: warming [31m up; look at the pod's own log",
        ),
        (
            "500",
            status(500, long),
            "HTTP status 500 Internal Server Error: An error has occurred while serving metrics: 2 error(s) occurred: \
             * collected me…; look at the pod's own log",
        ),
        (
            "redirect",
            Answer::redirect("https://login.example/?next=/metrics"),
            "redirected (302 Found) to https://login.example/?next=/metrics, which is another address and is not followed; \
             set prometheus.io/path (or port, or scheme) to where the pod itself serves its metrics",
        ),
    ];
    check(cases, &[]).await;
}

#[tokio::test]
async fn connections_that_fail_are_explained() {
    let cases = vec![
        (
            "hang",
            Answer::hang(),
            "no complete response within 0.7 s (--timeout): still waiting for the response; \
             make the exporter faster, or raise --timeout (SCRAPE_TIMEOUT) and the scraper's scrape_timeout",
        ),
        (
            "stuck",
            Answer::text("a 1\nb 1\n").stuck_after(4),
            "no complete response within 0.7 s (--timeout): still reading the body; \
             make the exporter faster, or raise --timeout (SCRAPE_TIMEOUT) and the scraper's scrape_timeout",
        ),
        (
            "closed",
            Answer::raw(""),
            "ADDRESS closed the connection without a response; \
             if it speaks https, set prometheus.io/scheme to https; else look at the pod's log",
        ),
        (
            "no-http",
            Answer::raw("SSH-2.0-OpenSSH\r\n"),
            "ADDRESS does not speak HTTP/1: invalid HTTP version parsed; \
             check prometheus.io/port: another service listens there",
        ),
    ];
    check(cases, &["--timeout", "700ms"]).await;
}

#[tokio::test]
async fn the_scrapers_own_timeout_is_named() {
    let hanging = Pod::start(Answer::hang()).await;
    let app = App::with_pods(&[NewPod::scraped("p", hanging.address)], &[]).await;
    app.get("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "1")])
        .await;
    assert_eq!(
        last_scrape(&app, "p").await["lastError"],
        "no complete response within 0.5 s (the scraper's timeout): still waiting for the response; \
         make the exporter faster, or raise the scraper's scrape_timeout and --timeout (SCRAPE_TIMEOUT)"
    );
}

#[tokio::test]
async fn a_wrong_port_is_told_from_the_default_port() {
    let refused = process::free_address();
    let no_port = NewPod::new("no-port")
        .ip(&pod::address().to_string())
        .annotation("prometheus.io/scrape", "true");
    let pods = [NewPod::scraped("wrong-port", refused), no_port];
    let app = App::with_pods(&pods, &[]).await;
    app.metrics().await;
    assert_eq!(
        last_scrape(&app, "wrong-port").await["lastError"],
        format!("nothing listens on {refused}; check prometheus.io/port against the container's ports")
    );
    let error = last_scrape(&app, "no-port").await["lastError"].to_string();
    assert!(
        error.contains(":80; 80 is the default: set prometheus.io/port to the port that serves the metrics"),
        "{error}"
    );
}

/// An HTTP server that responds to anything with 400, as to a request that it cannot parse.
async fn plain_http_server() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind((pod::address(), 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    address
}

#[tokio::test]
async fn faults_of_tls_are_named_with_dates_and_names() {
    let http = plain_http_server().await;
    // Each pod has an address of its own: one address belongs to one pod.
    let ips = [pod::address(), pod::address(), pod::address(), pod::address()];
    let mut expired = params(&ips[0].to_string());
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2024, 2, 1);
    let expired = self_signed(expired);
    let mut future = params(&ips[1].to_string());
    future.not_before = date_time_ymd(2100, 1, 1);
    future.not_after = date_time_ymd(2101, 1, 1);
    let future = self_signed(future);
    let unknown = self_signed(params(&ips[2].to_string()));
    let mut servers = Vec::new();
    for (ip, key) in ips
        .into_iter()
        .zip([&expired.key, &future.key, &unknown.key, &unknown.key])
    {
        servers.push(TlsPod::start((ip, 0).into(), Arc::clone(key)).await);
    }
    let dir = process::fresh_dir();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, [expired.pem, future.pem].concat()).expect("a fresh folder can be written");
    let https =
        |name: &str, address| NewPod::scraped(name, address).annotation("prometheus.io/scheme", "https");
    let pods = [
        https("http-pod", http),
        https("expired", servers[0].address),
        https("future", servers[1].address),
        https("unknown", servers[2].address),
        NewPod::scraped("https-pod", servers[3].address),
    ];
    let app = App::with_pods(&pods, &["--target-ca", ca.to_str().expect("UTF-8")]).await;
    app.metrics().await;
    let error = async |name: &str| {
        let error = last_scrape(&app, name).await["lastError"].clone();
        error.as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(
        error("http-pod").await,
        format!(
            "{http} speaks HTTP (or another protocol) where https is asked; set prometheus.io/scheme to http"
        )
    );
    let text = error("expired").await;
    let start = format!(
        "TLS with {} failed: the certificate expired at 2024-02-01T00:00:00Z; it is 20",
        servers[0].address
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(
        text.ends_with("Z now; renew the certificate, or check the clock of this machine"),
        "{text}"
    );
    let text = error("future").await;
    let start = format!(
        "TLS with {} failed: the certificate is not valid before 2100-01-01T00:00:00Z; it is 20",
        servers[1].address
    );
    assert!(text.starts_with(&start), "{text}");
    assert_eq!(
        error("unknown").await,
        format!(
            "TLS with {} failed: the certificate is signed by an unknown authority; \
             give the authority with --target-ca FILE, or use --target-insecure-skip-verify",
            servers[2].address
        )
    );
    assert_eq!(
        error("https-pod").await,
        format!(
            "{} speaks https where http is asked; set prometheus.io/scheme to https",
            servers[3].address
        )
    );
    // A server in Go answers such a request with a status.
    let go = Answer::text("Client sent an HTTP request to an HTTPS server.\n").with_status(400);
    check(
        vec![(
            "go",
            go,
            "HTTP status 400 Bad Request: Client sent an HTTP request to an HTTPS server.; set prometheus.io/scheme to https",
        )],
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_pod_that_never_accepts_is_explained() {
    let full = super::connections::FullListener::new();
    let app = App::with_pods(
        &[NewPod::scraped("p", full.address())],
        &["--connect-timeout", "300ms", "--timeout", "2s"],
    )
    .await;
    app.metrics().await;
    assert_eq!(
        last_scrape(&app, "p").await["lastError"],
        format!(
            "cannot connect to {}: no response within 0.3 s; check NetworkPolicies and the network between the two pods",
            full.address()
        )
    );
}
