//! Connections to pods: what the program accepts as Go's client does, and what it limits.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{error_kind, last_scrape};
use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::{self, Answer, Pod};

const GOOD: &str = "good 1\n";

fn head(lines: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{lines}\r\nContent-Length: {}\r\n\r\n{GOOD}",
        GOOD.len()
    )
}

/// The pods whose scrape succeeded, in the order of the response.
fn up(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("up{k8s_pod_name=\"")?.strip_suffix(" 1"))
        .filter_map(|line| line.split('"').next())
        .collect()
}

/// H11: hyperium/hyper#2136, prometheus/prometheus#2495.
#[tokio::test]
async fn a_reused_connection_that_ends_without_a_byte_costs_no_scrape() {
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for (name, end) in [("fin", Answer::raw("")), ("reset", Answer::reset())] {
        let seen = std::sync::Mutex::new(std::collections::HashSet::new());
        let server = Pod::start_on((pod::address(), 0).into(), move |request| {
            let first = seen.lock().expect("no panic").insert(request.connection);
            if first { Answer::text(GOOD) } else { end.clone() }
        })
        .await;
        pods.push(NewPod::scraped(name, server.address));
        servers.push(server);
    }
    let app = App::with_pods(&pods, &[]).await;
    for _ in 0..5 {
        let text = app.metrics().await;
        assert_eq!(up(&text), ["fin", "reset"], "{text}");
    }
    // One request for the first scrape, then two for each: the reused connection and the new one.
    for server in &servers {
        assert_eq!(server.requests().len(), 9);
    }
}

/// A request is sent again once, and only if the connection was reused and not a byte of the response arrived.
#[tokio::test]
async fn a_request_is_not_repeated_otherwise() {
    let always = Pod::start(Answer::raw("")).await;
    let partial = Pod::start(Answer::text(GOOD)).await;
    let pods = [
        NewPod::scraped("always", always.address),
        NewPod::scraped("partial", partial.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    assert_eq!(up(&app.metrics().await), ["partial"]);
    assert_eq!(always.requests().len(), 1, "a new connection is not tried again");
    partial.set(Answer::raw("HTTP/1.1 200 OK\r\n"));
    assert_eq!(up(&app.metrics().await), [""; 0]);
    assert_eq!(partial.requests().len(), 2, "a response had begun");
    assert_eq!(error_kind(&app, "partial").await.as_deref(), Some("request"));
}

/// H15, H16, H28 and odd status lines: hyperium/hyper#3283, seanmonstar/reqwest#3065.
#[tokio::test]
async fn heads_that_go_accepts_are_accepted() {
    let cookies: Vec<String> = (0..10)
        .map(|n| format!("Set-Cookie: s{n}={}", "x".repeat(2000)))
        .collect();
    let many: Vec<String> = (0..1000).map(|n| format!("X-H{n}: 1")).collect();
    let cases = [
        (
            "blank-before-colon",
            head("Content-Type : text/plain; version=0.0.4"),
        ),
        ("folded", head("X-Long: a\r\n b")),
        ("cookies", head(&cookies.join("\r\n"))),
        (
            "one-header-900kB",
            head(&format!("X-Policy: {}", "x".repeat(900_000))),
        ),
        ("headers-1000", head(&many.join("\r\n"))),
        ("http-1-0", format!("HTTP/1.0 200 OK\r\n\r\n{GOOD}")),
        ("no-reason", format!("HTTP/1.1 200\r\n\r\n{GOOD}")),
        (
            "other-reason",
            format!("HTTP/1.1 200 Fine, thank you\r\n\r\n{GOOD}"),
        ),
        (
            "line-feeds",
            format!("HTTP/1.1 200 OK\nContent-Type: text/plain\n\n{GOOD}"),
        ),
        (
            "hints-first",
            format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", head("X-A: b")),
        ),
        ("same-length-twice", head("Content-Length: 7")),
    ];
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for (name, response) in &cases {
        let server = Pod::start(Answer::raw(response.as_str())).await;
        pods.push(NewPod::scraped(name, server.address));
        servers.push(server);
    }
    let app = App::with_pods(&pods, &[]).await;
    let text = app.metrics().await;
    let mut expected: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    let mut found = up(&text);
    found.sort_unstable();
    let mut why = Vec::new();
    for name in &expected {
        why.push(last_scrape(&app, name).await["lastError"].clone());
    }
    assert_eq!(found, expected, "{why:?}");
}

/// Endless informational responses, endless heads, and bodies of single bytes.
#[tokio::test]
async fn endless_heads_and_tiny_chunks_are_bounded() {
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(200_000);
    let endless = format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(3 << 20));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    let tiny = chunked.clone() + &"1\r\nx\r\n".repeat(300_000) + "0\r\n\r\n";
    // A server that writes line by line is a usual one.
    let by_line = chunked + &"9\r\n# abcdef\n\r\n".repeat(100_000) + "0\r\n\r\n";
    let cases = [
        ("hints", Answer::raw(hints), Some("request")),
        ("endless", Answer::raw(endless), Some("request")),
        ("tiny", Answer::raw(tiny), Some("body")),
        ("by-line", Answer::raw(by_line), None),
    ];
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for (name, answer, _) in &cases {
        let server = Pod::start(answer.clone()).await;
        pods.push(NewPod::scraped(name, server.address));
        servers.push(server);
    }
    let app = App::with_pods(&pods, &["--timeout", "20s"]).await;
    app.metrics().await;
    for (name, _, kind) in cases {
        assert_eq!(error_kind(&app, name).await.as_deref(), kind, "{name}");
    }
}

/// A listener whose accept queue is full: the kernel drops connection requests.
pub(super) struct FullListener {
    listener: TcpListener,
    _occupying: Vec<Socket>,
}

impl FullListener {
    pub(super) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&SocketAddr::from((pod::address(), 0)).into())
            .expect("a free port");
        socket.listen(0).expect("it listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("it is bound");
        let occupying = (0..3)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                client
                    .set_nonblocking(true)
                    .expect("a socket can be non-blocking");
                let _ = client.connect(&address.into());
                client
            })
            .collect();
        Self {
            listener,
            _occupying: occupying,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Accepts and answers from `after` on.
    fn serve(self, after: Duration) {
        use std::io::{Read as _, Write as _};
        std::thread::spawn(move || {
            std::thread::sleep(after);
            let answer = |mut stream: TcpStream| {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                    let _ = stream.write_all(head("Connection: close").as_bytes());
                }
            };
            for stream in self.listener.incoming().flatten() {
                answer(stream);
            }
        });
    }
}

/// U01: tuist/tuist#13133.
#[tokio::test]
async fn one_lost_connection_request_costs_a_second_and_no_scrape() {
    let full = FullListener::new();
    let app = App::with_pods(&[NewPod::scraped("busy", full.address())], &[]).await;
    full.serve(Duration::from_millis(400));
    let started = Instant::now();
    let text = app.metrics().await;
    assert_eq!(up(&text), ["busy"], "{text}");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert!(
        started.elapsed() > Duration::from_millis(900),
        "the first request was not lost, so that nothing is shown: {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_pod_that_never_accepts_delays_no_other() {
    let full = FullListener::new();
    let good = Pod::serving(GOOD).await;
    let pods = [
        NewPod::scraped("a-full", full.address()),
        NewPod::scraped("good", good.address),
    ];
    let app = App::with_pods(&pods, &["--connect-timeout", "1500ms"]).await;
    let text = app.metrics().await;
    assert_eq!(up(&text), ["good"], "{text}");
    let seconds = |scrape: &Value| scrape["lastScrapeDuration"].as_f64().expect("a duration");
    assert!(seconds(&last_scrape(&app, "good").await) < 1.0);
    assert!(seconds(&last_scrape(&app, "a-full").await) < 2.5);
}

/// One pod with many targets that hang takes neither descriptors nor time from the others.
#[tokio::test]
async fn connections_to_one_address_are_limited() {
    let address = pod::address();
    let mut servers = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..12 {
        let server = Pod::start_on((address, 0).into(), |_| Answer::hang()).await;
        ports.push(server.port().to_string());
        servers.push(server);
    }
    let good = Pod::serving(GOOD).await;
    let bad = NewPod::scraped("bad", servers[0].address).annotation("prometheus.io/port", &ports.join(","));
    let pods = [bad, NewPod::scraped("good", good.address)];
    let args = ["--max-connections-per-target-ip", "4", "--timeout", "1s"];
    let app = App::with_pods(&pods, &args).await;
    let text = app.metrics().await;
    assert_eq!(up(&text), ["good"], "{text}");
    let asked: usize = servers.iter().map(|server| server.requests().len()).sum();
    assert_eq!(asked, 4);
    // The waiting ones get their turn when the others are done.
    for server in &servers {
        server.set(Answer::text(GOOD).after(Duration::from_millis(50)));
    }
    let text = app.metrics().await;
    assert_eq!(up(&text).len(), 13, "{text}");
}

/// H17: prometheus/client_python#1016.
#[tokio::test]
async fn a_redirect_within_the_same_address_is_followed() {
    let slash = Pod::start_on((pod::address(), 0).into(), |request| {
        match request.path.as_str() {
            "/metrics" => Answer::redirect("/metrics/"),
            "/metrics/" => Answer::text(GOOD),
            _ => Answer::status(404),
        }
    })
    .await;
    let absolute = Pod::start_on((pod::address(), 0).into(), |request| {
        match request.path.as_str() {
            "/metrics" => Answer::redirect(&format!("http://{}/m", request.header("host"))),
            "/m" => Answer::text(GOOD),
            _ => Answer::status(404),
        }
    })
    .await;
    let circle = Pod::start(Answer::redirect("/metrics")).await;
    let pods = [
        NewPod::scraped("slash", slash.address),
        NewPod::scraped("absolute", absolute.address),
        NewPod::scraped("circle", circle.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    let text = app.metrics().await;
    assert_eq!(up(&text), ["absolute", "slash"], "{text}");
    assert_eq!(circle.requests().len(), 11);
    assert_eq!(circle.connections(), 1);
    let error = last_scrape(&app, "circle").await["lastError"].clone();
    assert_eq!(
        error,
        "redirected (302 Found) more than 10 times, at last to /metrics; set prometheus.io/path to the path that serves the metrics"
    );
}
