//! The listener, the routes, the configuration's report, start and stop, on the real binary.

mod clients;
mod page;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::support::app::{self, App};
use crate::support::http as client;
use crate::support::kube::NewPod;
use crate::support::pebble::{Options, Pebble};
use crate::support::pod::{Answer, Pod};
use crate::support::process;
use crate::support::tools::{Missing, skipped};

const SOON: Duration = Duration::from_secs(10);

/// A body of so many series of one family.
fn series(n: usize) -> String {
    (0..n).fold(String::new(), |body, n| {
        body + "a{n=\"" + &n.to_string() + "\"} 1\n"
    })
}

#[test]
fn five_problems_are_five_lines_and_exit_2() {
    let env = [
        ("POD_LABEL_SELECTOR", "app in x"),
        ("SCRAPE_TIMEOUT", "-5s"),
        ("PORT", "metrics"),
    ];
    let output = app::run(&["--pebble", "perhaps", "--max-body-bytes", "lots"], &env, "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty());
    assert!(text.contains("5 problems in the configuration"), "{text}");
    for origin in [
        "POD_LABEL_SELECTOR",
        "SCRAPE_TIMEOUT",
        "PORT",
        "--pebble",
        "--max-body-bytes",
    ] {
        assert_eq!(
            text.lines()
                .filter(|line| line.trim().starts_with(&format!("{origin}=")))
                .count(),
            1,
            "{text}"
        );
    }
}

#[test]
fn help_and_version_exit_0_and_an_unknown_flag_exits_2() {
    let help = app::run(&["--help"], &[], "");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("POD_LABEL_SELECTOR"));
    assert_eq!(app::run(&["--version"], &[], "").stdout, b"metrics-proxy 0.1.0\n");
    assert_eq!(app::run(&["--no-such"], &[], "").status.code(), Some(2));
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_clear_line_and_exit_1() {
    let app = App::with_pods(&[], &[]).await;
    let port = app.address.port().to_string();
    let second = app::run(&["--pebble", "off", "--port", &port], &[], "");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("cannot listen on port {port}")), "{text}");
}

#[tokio::test]
async fn without_a_selector_it_starts_and_says_so() {
    let app = App::start(&["--pebble", "off"], &[]).await;
    for path in ["/metrics", "/readyz"] {
        let answer = app.get(path, &[]).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(
            answer.text().starts_with("selector: "),
            "{path}: {}",
            answer.text()
        );
    }
    assert_eq!(app.get("/healthz", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_condition_is_400_with_the_words_that_there_are() {
    let app = App::with_pods(&[], &[]).await;
    let known = app.get("/readyz?only=discovery", &[]).await;
    assert_eq!((known.status, known.text().as_str()), (StatusCode::OK, "ready\n"));
    let unknown = app.get("/readyz?verbose&only=discovry", &[]).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    let text = unknown.text();
    assert!(
        text.starts_with("unknown condition \"discovry\"; use one of selector, discovery, "),
        "{text}"
    );
}

#[tokio::test]
async fn no_pods_at_all_is_200_with_our_own_metrics() {
    let app = App::with_pods(&[], &[]).await;
    let answer = app.get("/metrics", &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(
        answer.text().contains("metrics_proxy_build_info"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn every_route_answers_and_others_say_what_there_is() {
    let pod = Pod::serving("a 1\n").await;
    let app = App::with_pods(&[NewPod::scraped("web-<b>", pod.address)], &[]).await;
    app.metrics().await;
    let page = app.get("/", &[]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.text().contains("web-&lt;b&gt;"), "{}", page.text());
    assert_eq!(
        app.get("/readyz?verbose", &[]).await.text().lines().next(),
        Some("ready")
    );
    let report = app.get("/api/v1/targets", &[]).await.json();
    assert_eq!(report["status"], "success");
    let target = &report["data"]["activeTargets"][0];
    assert_eq!((&target["health"], &target["samples"]), (&"up".into(), &1.into()));
    assert_eq!(target["labels"]["k8s_pod_name"], "web-<b>");
    let unknown = app.get("/nope", &[]).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.text().contains("/metrics"));
    let post = client::request(Method::POST, app.address, "/metrics")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (post.status, post.header("allow")),
        (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD")
    );
    let before = pod.requests().len();
    let head = client::request(Method::HEAD, app.address, "/metrics")
        .send()
        .await
        .expect("an answer");
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(pod.requests().len(), before, "HEAD asks no pod");
}

#[tokio::test]
async fn targets_that_disagree_are_named_with_a_pod_for_each_type() {
    let counter = Pod::serving("# TYPE job_size counter\njob_size 1\n").await;
    let gauge = Pod::serving(
        "# TYPE job_size histogram\njob_size_bucket{le=\"+Inf\"} 1\njob_size_count 1\njob_size_sum 1\n",
    )
    .await;
    let pods = [
        NewPod::scraped("a", counter.address),
        NewPod::scraped("b", gauge.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    app.metrics().await;
    let report = app.get("/api/v1/targets?state=active", &[]).await.json();
    let conflict = &report["data"]["conflicts"][0];
    assert_eq!(conflict["family"], "job_size", "{report}");
    assert_eq!(conflict["pods"], serde_json::json!(["ns/a", "ns/b"]));
    assert_eq!(conflict["detail"], "counter job_size, histogram job_size");
    let page = app.get("/targets", &[]).await.text();
    assert!(page.contains("counter job_size, histogram job_size"), "{page}");
    assert!(page.contains("ns/a, ns/b"), "{page}");
}

#[tokio::test]
async fn it_listens_on_ipv4_and_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        let missing = Missing::because("this machine has no [::1]; enable IPv6 on the loopback interface");
        skipped("server::it_listens_on_ipv4_and_ipv6", &missing);
        return;
    }
    let app = App::with_pods(&[], &[]).await;
    for host in ["127.0.0.1", "::1"] {
        let host_ip: std::net::IpAddr = host.parse().expect("an address");
        let answer = client::get(std::net::SocketAddr::new(host_ip, app.address.port()), "/healthz")
            .send()
            .await
            .expect(host);
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn a_stop_with_nothing_in_flight_is_quick_and_frees_the_port() {
    let mut app = App::with_pods(&[], &[]).await;
    let address = app.address;
    // A scraper's connection stays open between its scrapes, as Prometheus keeps it.
    let mut idle = TcpStream::connect(address).expect("a connection");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).expect("an answer") > 0);
    let started = Instant::now();
    assert_eq!(app.stop().code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    // Its end of the connection lingers here; the next process must have the port all the same.
    let port = address.port().to_string();
    let dir = process::fresh_dir();
    let command = app::command(&["--pebble", "off", "--port", &port], &[]);
    let mut again = process::Process::spawn("metrics-proxy", command, &dir.path().join("log"));
    let up = async || {
        client::get(address, "/healthz")
            .send()
            .await
            .ok()
            .map(|answer| answer.status)
    };
    assert_eq!(
        again
            .wait_for("the next process answers on the port", SOON, up)
            .await,
        StatusCode::OK
    );
}

#[tokio::test]
async fn requests_in_flight_finish_within_the_grace_period() {
    let pod = Pod::start(Answer::text("a 1\n").after(Duration::from_millis(600))).await;
    let mut app = App::with_pods(&[NewPod::scraped("p", pod.address)], &[]).await;
    let asking = tokio::spawn(client::get(app.address, "/metrics").send());
    process::wait_for("the pod is asked", SOON, String::new, async || {
        (pod.answering() == 1).then_some(())
    })
    .await;
    app.process().signal(process::Signal::TERM);
    let answer = asking.await.expect("no panic").expect("a whole answer");
    assert!(
        answer.text().contains("a{k8s_pod_name=\"p\""),
        "{}",
        answer.text()
    );
    assert_eq!(app.process().wait(SOON).code(), Some(0));
}

#[tokio::test]
async fn the_grace_period_ends_before_pebble_would_kill() {
    let pod = Pod::start(Answer::hang()).await;
    let args = ["--timeout", "1h", "--shutdown-grace", "300ms"];
    let mut app = App::with_pods(&[NewPod::scraped("p", pod.address)], &args).await;
    let asking = tokio::spawn(client::get(app.address, "/metrics").limit(SOON).send());
    process::wait_for("the pod is asked", SOON, String::new, async || {
        (pod.answering() == 1).then_some(())
    })
    .await;
    app.process().signal(process::Signal::TERM);
    assert_eq!(app.process().wait(Duration::from_secs(5)).code(), Some(0));
    assert!(asking.await.expect("no panic").is_err());
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_let_go() {
    let app = App::with_pods(&[], &["--header-timeout", "200ms"]).await;
    let mut slow = TcpStream::connect(app.address).expect("a connection");
    slow.set_read_timeout(Some(SOON)).expect("a timeout");
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:").expect("sent");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest)
        .expect("the connection is ended by the proxy");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let body = series(400_000);
    let pod = Pod::serving(&body).await;
    let mut app = App::with_pods(
        &[NewPod::scraped("p", pod.address)],
        &["--write-timeout", "300ms"],
    )
    .await;
    let mut stuck = TcpStream::connect(app.address).expect("a connection");
    stuck
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let let_go = |text: &str| text.contains("metrics_proxy_cancelled_requests_total 1\n");
    process::wait_for("the pod is asked", SOON, String::new, async || {
        (!pod.requests().is_empty()).then_some(())
    })
    .await;
    pod.set(Answer::text("a 1\n"));
    app.wait_metrics("the stuck request is given up", SOON, let_go)
        .await;
    drop(stuck);
}

#[tokio::test]
async fn a_compressed_answer_is_one_gzip_member_of_the_same_text() {
    let body = series(20_000);
    let pod = Pod::serving(&body).await;
    let app = App::with_pods(&[NewPod::scraped("p", pod.address)], &[]).await;
    let plain = app.metrics().await;
    let answer = app
        .get("/metrics", &[("Accept-Encoding", "deflate, gzip;q=0.5")])
        .await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    // Of one member: curl reads no further than the first.
    let mut decoder = flate2::bufread::GzDecoder::new(&answer.body[..]);
    let mut text = String::new();
    decoder.read_to_string(&mut text).expect("valid gzip");
    assert!(decoder.into_inner().is_empty());
    let theirs = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("a{"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(theirs(&text).len(), 20_000);
    assert_eq!(theirs(&text), theirs(&plain));
}

#[tokio::test]
async fn a_pebble_that_hangs_delays_no_answer() {
    let pod = Pod::serving("a 1\n").await;
    let pebble = Pebble::start("pebble-1.26", &[], Options::default()).await;
    let dir = process::fresh_dir();
    let pods = dir.path().join("pods.json");
    let manifest = NewPod::scraped("p", pod.address).printed("ns").to_string();
    std::fs::write(&pods, manifest).expect("a fresh folder can be written");
    let (pods, socket) = (pods.display().to_string(), pebble.socket().display().to_string());
    let mut app = App::start(&["--pods-file", &pods], &[("PEBBLE_SOCKET", &socket)]).await;
    app.ready(SOON).await;
    let pid = i32::try_from(pebble.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.expect("a process has a pid");
    rustix::process::kill_process(pid, process::Signal::STOP).expect("it is ours");
    let request = client::get(app.address, "/metrics")
        .header("X-Prometheus-Scrape-Timeout-Seconds", "1")
        .limit(Duration::from_secs(1));
    let answer = request.send().await;
    rustix::process::kill_process(pid, process::Signal::CONT).expect("it is ours");
    let text = answer.expect("an answer within the scraper's timeout").text();
    assert!(text.contains("a{k8s_pod_name=\"p\""), "{text}");
    assert!(!text.contains("pebble_service"), "{text}");
    let seen = |text: &str| text.contains("pebble_check_up");
    app.wait_metrics(
        "Pebble's metrics are there when it goes on",
        Duration::from_secs(30),
        seen,
    )
    .await;
}
