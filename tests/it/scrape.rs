//! The fan-out on scripted pods: what each fault costs, and the limits. A script plays what real exporters do not do on
//! request (hang, break off, lie about their encoding); real exporters are scraped in `end_to_end`.

mod connections;
mod idle;
mod memory;
mod reasons;
mod tls;

use std::time::Duration;

use serde_json::Value;

use crate::support::app::App;
use crate::support::http;
use crate::support::kube::NewPod;
use crate::support::pod::{Answer, Pod};
use crate::support::process;

const SOON: Duration = Duration::from_secs(10);

/// The reason that `/api/v1/targets` gives for a pod, after a scrape.
async fn error_kind(app: &App, pod: &str) -> Option<String> {
    last_scrape(app, pod).await["reason"].as_str().map(str::to_owned)
}

/// What `/api/v1/targets` says about the last scrape of a pod.
async fn last_scrape(app: &App, pod: &str) -> Value {
    let report: Value = app.get("/api/v1/targets", &[]).await.json();
    let targets = report["data"]["activeTargets"]
        .as_array()
        .expect("a list of targets");
    let target = targets
        .iter()
        .find(|target| target["pod"] == pod)
        .expect("the pod is a target");
    target.clone()
}

/// Lines of an answer that are not our own metrics.
fn theirs(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.contains("metrics_proxy_"))
        .collect()
}

#[tokio::test]
async fn each_fault_costs_its_own_pod_only_and_has_a_reason() {
    let body = "# TYPE a counter\na{x=\"1\"} 1\n";
    let garbage = Answer::text("not gzip at all").with_header("Content-Encoding", "gzip");
    let cases = [
        ("html", Answer::html(), "parse"),
        ("truncated", Answer::text(body).truncated(10), "body"),
        ("reset", Answer::text(body).reset_after(10), "body"),
        ("status-500", Answer::status(500), "status"),
        ("status-204", Answer::status(204), "status"),
        ("redirect", Answer::redirect("/other"), "redirect"),
        ("garbage", garbage, "gzip"),
        ("no-http", Answer::raw("SSH-2.0-OpenSSH\r\n"), "request"),
        ("hang", Answer::hang(), "timeout"),
        ("stuck", Answer::text(body).stuck_after(10), "timeout"),
        ("late-error", Answer::text("a{x=\"2\"} 1\nb 1\nc{ 1\n"), "parse"),
    ];
    let good = Pod::serving(body).await;
    let mut pods = vec![NewPod::scraped("good", good.address)];
    let mut servers = Vec::new();
    for (name, answer, _) in &cases {
        let server = Pod::start(answer.clone()).await;
        pods.push(NewPod::scraped(name, server.address));
        servers.push(server);
    }
    // A port that nothing listens on.
    pods.push(NewPod::scraped("refused", process::free_address()));
    let app = App::with_pods(&pods, &["--timeout", "700ms"]).await;
    let text = app.metrics().await;
    assert!(
        text.contains("a{x=\"1\",k8s_pod_name=\"good\",k8s_namespace=\"ns\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("up{k8s_pod_name=\"good\",k8s_namespace=\"ns\"} 1\n"),
        "{text}"
    );
    assert_eq!(error_kind(&app, "good").await, None);
    for (name, kind) in cases
        .iter()
        .map(|(name, _, kind)| (*name, *kind))
        .chain([("refused", "connect")])
    {
        assert_eq!(error_kind(&app, name).await.as_deref(), Some(kind), "{name}");
        assert!(
            text.contains(&format!("up{{k8s_pod_name=\"{name}\",k8s_namespace=\"ns\"}} 0\n")),
            "{name}\n{text}"
        );
        assert_eq!(
            text.lines()
                .filter(|line| line.contains(&format!("k8s_pod_name=\"{name}\"")))
                .count(),
            1,
            "{name} leaves nothing but its up\n{text}"
        );
    }
    assert!(
        text.contains("metrics_proxy_target_scrape_failures_total{reason=\"timeout\"} 2"),
        "{text}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_proxy_is_asked() {
    let elsewhere = Pod::serving("secret 1\n").await;
    let redirecting = Pod::start(Answer::redirect(&format!("http://{}/", elsewhere.address))).await;
    let good = Pod::serving("a 1\n").await;
    let dir = process::fresh_dir();
    let file = dir.path().join("pods.json");
    let items = [
        NewPod::scraped("r", redirecting.address).printed("ns"),
        NewPod::scraped("g", good.address).printed("ns"),
    ];
    std::fs::write(
        &file,
        serde_json::json!({"kind": "List", "items": items}).to_string(),
    )
    .expect("writable");
    let proxy = format!("http://{}", elsewhere.address);
    let env = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, proxy.as_str()));
    let args = ["--pebble", "off", "--pods-file", file.to_str().expect("UTF-8")];
    let mut app = App::start(&args, &env).await;
    app.ready(SOON).await;
    let text = app.metrics().await;
    assert!(text.contains("a{k8s_pod_name=\"g\""), "{text}");
    assert_eq!(error_kind(&app, "r").await.as_deref(), Some("redirect"));
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn the_scrapers_timeout_bounds_the_answer_and_late_pods_are_down() {
    let slow = Pod::start(Answer::text("late 1\n").after(Duration::from_secs(30))).await;
    let good = Pod::serving("a 1\n").await;
    let pods = [
        NewPod::scraped("slow", slow.address),
        NewPod::scraped("good", good.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    let request = http::get(app.address, "/metrics")
        .header("X-Prometheus-Scrape-Timeout-Seconds", "2")
        // A scraper would have given up by then.
        .limit(Duration::from_secs(2));
    let text = request
        .send()
        .await
        .expect("an answer within the scraper's timeout")
        .text();
    assert!(text.contains("a{k8s_pod_name=\"good\""), "{text}");
    assert!(
        text.contains("up{k8s_pod_name=\"slow\",k8s_namespace=\"ns\"} 0\n"),
        "{text}"
    );
    let seen = slow.requests().pop().expect("the slow pod was asked");
    let passed_on: f64 = seen
        .header("x-prometheus-scrape-timeout-seconds")
        .parse()
        .expect("seconds");
    assert!(passed_on > 0.0 && passed_on <= 1.5, "{passed_on}");
}

#[tokio::test]
async fn pods_are_asked_as_a_scraper_would_ask_over_connections_that_stay() {
    let pod = Pod::serving("a 1\n").await;
    let app = App::with_pods(&[NewPod::scraped("p", pod.address)], &[]).await;
    for _ in 0..3 {
        app.metrics().await;
    }
    assert_eq!(pod.requests().len(), 3);
    assert_eq!(pod.connections(), 1);
    let seen = &pod.requests()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/metrics"));
    assert_eq!(seen.header("host"), pod.address.to_string());
    assert_eq!(seen.header("accept-encoding"), "gzip");
    assert!(
        seen.header("user-agent").starts_with("metrics-proxy/"),
        "{seen:?}"
    );
    assert!(seen.header("accept").starts_with("text/plain"), "{seen:?}");
    for (name, _) in &seen.headers {
        assert!(
            !["authorization", "cookie", "proxy-authorization"].contains(&name.as_str()),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_scrapes() {
    let hanging = Pod::start(Answer::hang()).await;
    let mut app = App::with_pods(&[NewPod::scraped("h", hanging.address)], &["--timeout", "1h"]).await;
    let asked = http::get(app.address, "/metrics")
        .limit(Duration::from_millis(500))
        .send()
        .await;
    assert!(asked.is_err(), "nothing can have answered");
    process::wait_for(
        "the pod sees that its scrape was given up",
        SOON,
        String::new,
        async || (hanging.hangups() == 1 && hanging.answering() == 0).then_some(()),
    )
    .await;
    hanging.set(Answer::text("a 1\n"));
    let counted = |text: &str| text.contains("metrics_proxy_cancelled_requests_total 1\n");
    app.wait_metrics("the cancelled request is counted", SOON, counted)
        .await;
}

#[tokio::test]
async fn slow_pods_hold_no_slot_that_another_needs() {
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for n in 0..8 {
        let answer = if n % 2 == 0 {
            Answer::hang()
        } else {
            Answer::text("x 1\nx 2\n").stuck_after(3)
        };
        let server = Pod::start(answer).await;
        pods.push(NewPod::scraped(&format!("a-slow-{n}"), server.address));
        servers.push(server);
    }
    for n in 0..8 {
        let server = Pod::serving("good 1\n").await;
        pods.push(NewPod::scraped(&format!("b-good-{n}"), server.address));
        servers.push(server);
    }
    let app = App::with_pods(&pods, &["--max-concurrent-scrapes", "1", "--timeout", "4s"]).await;
    let text = app.metrics().await;
    assert_eq!(
        text.lines().filter(|line| line.starts_with("good{")).count(),
        8,
        "{text}"
    );
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("up{") && line.ends_with(" 0"))
            .count(),
        8,
        "{text}"
    );
}

#[tokio::test]
async fn the_body_limit_holds_after_decompression_too() {
    let big = format!("# {}\nbig 1\n", "x".repeat(100_000));
    let plain = Pod::start(Answer::text(big.clone())).await;
    let bomb = Pod::start(Answer::text(big).gzip()).await;
    let good = Pod::start(Answer::text("a 1\n").gzip()).await;
    let pods = [
        NewPod::scraped("plain", plain.address),
        NewPod::scraped("bomb", bomb.address),
        NewPod::scraped("good", good.address),
    ];
    let app = App::with_pods(&pods, &["--max-body-bytes", "50kB"]).await;
    let text = app.metrics().await;
    assert!(text.contains("a{k8s_pod_name=\"good\""), "{text}");
    assert!(!text.contains("big{"), "{text}");
    for name in ["plain", "bomb"] {
        assert_eq!(
            error_kind(&app, name).await.as_deref(),
            Some("body_bytes"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn where_all_bodies_are_too_large_the_largest_goes_at_every_scrape() {
    let body = |bytes: usize| format!("# {}\na 1\n", "x".repeat(bytes));
    let large = Pod::serving(&body(8_000_000)).await;
    let small = [
        Pod::serving(&body(5_000_000)).await,
        Pod::serving(&body(4_000_000)).await,
    ];
    let pods = [
        NewPod::scraped("large", large.address),
        NewPod::scraped("s1", small[0].address),
        NewPod::scraped("s2", small[1].address),
    ];
    let app = App::with_pods(&pods, &["--memory-budget", "16MiB"]).await;
    for late in ["s1", "large"] {
        // Scrapes get three quarters of the budget. Whoever comes last, the same pod loses.
        large.set(
            Answer::text(body(8_000_000)).after(Duration::from_millis(if late == "large" { 200 } else { 0 })),
        );
        small[0].set(
            Answer::text(body(5_000_000)).after(Duration::from_millis(if late == "s1" { 200 } else { 0 })),
        );
        let text = app.metrics().await;
        assert_eq!(
            text.lines().filter(|line| line.starts_with("a{")).count(),
            2,
            "{text}"
        );
        assert_eq!(
            error_kind(&app, "large").await.as_deref(),
            Some("memory_budget"),
            "{late} last"
        );
    }
}

#[tokio::test]
async fn the_same_input_gives_the_same_bytes_whoever_answers_first() {
    let first = Pod::serving("# TYPE a gauge\na 1\nb 2\n").await;
    let second = Pod::serving("# TYPE b counter\nb 3\na 4\n").await;
    let pods = [
        NewPod::scraped("p1", first.address),
        NewPod::scraped("p2", second.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    let one = app.metrics().await;
    first.set(Answer::text("# TYPE a gauge\na 1\nb 2\n").after(Duration::from_millis(100)));
    let two = app.metrics().await;
    assert_eq!(theirs(&one), theirs(&two));
    assert!(theirs(&one).iter().any(|line| line.starts_with("a{")), "{one}");
}

#[tokio::test]
async fn a_sibling_proxy_gets_our_own_metrics_only() {
    let pod = Pod::serving("a 1\n").await;
    let app = App::with_pods(&[NewPod::scraped("p", pod.address)], &[]).await;
    let text = app
        .get("/metrics", &[("User-Agent", "metrics-proxy/0.1.0")])
        .await
        .text();
    assert!(text.contains("metrics_proxy_build_info"), "{text}");
    assert!(!text.contains("k8s_pod_name"), "{text}");
    assert!(pod.requests().is_empty());
}

#[tokio::test]
async fn https_targets_are_verified_unless_told_otherwise() {
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    // A pod with TLS is made here: the scripted pods speak plain HTTP.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a key for its certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut head = [0; 4096];
                if stream.read(&mut head).await.is_ok() {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ntls 1\n";
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    let dir = process::fresh_dir();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).expect("writable");
    let pod = || NewPod::scraped("p", address).annotation("prometheus.io/scheme", "https");
    let ca_args = ["--target-ca", ca.to_str().expect("UTF-8")];
    for (args, up) in [
        (&[][..], false),
        (&ca_args[..], true),
        (&["--target-insecure-skip-verify"][..], true),
    ] {
        let app = App::with_pods(&[pod()], args).await;
        let text = app.metrics().await;
        assert_eq!(text.contains("tls{k8s_pod_name=\"p\""), up, "{args:?}\n{text}");
        if !up {
            assert_eq!(error_kind(&app, "p").await.as_deref(), Some("connect"));
        }
    }
    server.abort();
}
