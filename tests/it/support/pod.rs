//! What stands behind a pod's address: a [`Pod`] that answers by a script, and a real [`NodeExporter`].
//!
//! Both listen on any loopback address (all of 127.0.0.0/8 is this machine), so that pods have addresses of their own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::http as client;
use super::process::{self, Process};
use super::tools;

/// The `Content-Type` of the text format.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The `Content-Type` of `OpenMetrics` 1.0.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A loopback address that no other pod of this test run has.
pub(crate) fn address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // The second part by process, so that test runs beside each other rarely meet; 127.0 is for everything else. No
    // last part of 0 or 255, which would work but look like a mistake.
    let run = u8::try_from(std::process::id() % 250).unwrap_or(0) + 1;
    let [_, high] = (next / 254).to_be_bytes();
    let [_, low] = (next % 254 + 1).to_be_bytes();
    Ipv4Addr::new(127, run, high, low).into()
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// In the order in which they came, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The connection that it came on, counted from 1.
    pub(crate) connection: usize,
}

impl Seen {
    /// A header's value, empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(have, _)| have == name)
            .map_or("", |(_, value)| value)
    }
}

/// What a pod answers; built from one of the constructors and changed by the methods.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    before: Duration,
    way: Way,
}

/// How the bytes leave.
#[derive(Debug, Clone)]
enum Way {
    Whole,
    /// No `Content-Length`: chunks of this many bytes, this long apart.
    Chunks(usize, Duration),
    /// The full `Content-Length`, so many bytes of the body, then the connection ends in order.
    Truncated(usize),
    /// The same, but it ends with a TCP reset.
    Reset(usize),
    /// The head and so many bytes of the body, then nothing while the client waits.
    Stuck(usize),
    /// Not even a head.
    Silent,
    /// These bytes instead of any HTTP, then the connection ends in order.
    Raw,
    /// The same, but it ends with a TCP reset.
    RawReset,
}

impl Answer {
    fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self {
            status,
            headers,
            body: body.into(),
            before: Duration::ZERO,
            way: Way::Whole,
        }
    }

    /// An exposition in the text format.
    pub(crate) fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, TEXT, body)
    }

    /// An exposition in `OpenMetrics`.
    pub(crate) fn open_metrics(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, OPEN_METRICS, body)
    }

    /// A page of a pod that has no metrics here.
    pub(crate) fn html() -> Self {
        Self::new(
            200,
            "text/html; charset=utf-8",
            "<!doctype html>\n<html><body>Welcome</body></html>\n",
        )
    }

    /// A refusal or a fault, with a short text.
    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, "text/plain", format!("status {status}\n"))
    }

    /// A 302 to another place.
    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).with_header("Location", to)
    }

    /// Takes the request and never answers.
    pub(crate) fn hang() -> Self {
        Self {
            way: Way::Silent,
            ..Self::status(200)
        }
    }

    /// Bytes that are not HTTP (or broken HTTP), then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            way: Way::Raw,
            ..Self::new(200, TEXT, bytes)
        }
    }

    /// Ends the connection with a TCP reset, without a byte.
    pub(crate) fn reset() -> Self {
        Self {
            way: Way::RawReset,
            ..Self::raw("")
        }
    }

    /// Sets a header, in place of one of that name.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another status.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn content_type(self, value: &str) -> Self {
        self.with_header("Content-Type", value)
    }

    /// Without any `Content-Type`.
    pub(crate) fn without_content_type(mut self) -> Self {
        self.headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        self
    }

    /// Compresses the body and says so.
    pub(crate) fn gzip(mut self) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.body).expect("a Vec takes every byte");
        self.body = encoder.finish().expect("a Vec takes every byte");
        self.with_header("Content-Encoding", "gzip")
    }

    /// Waits before the first byte.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.before = delay;
        self
    }

    /// Chunks of `bytes`, `every` so often.
    pub(crate) fn drip(self, bytes: usize, every: Duration) -> Self {
        Self {
            way: Way::Chunks(bytes.max(1), every),
            ..self
        }
    }

    /// Ends the connection in order after `bytes` of the promised body.
    pub(crate) fn truncated(self, bytes: usize) -> Self {
        Self {
            way: Way::Truncated(bytes),
            ..self
        }
    }

    /// Resets the connection after `bytes` of the promised body.
    pub(crate) fn reset_after(self, bytes: usize) -> Self {
        Self {
            way: Way::Reset(bytes),
            ..self
        }
    }

    /// Sends `bytes` of the promised body and then nothing.
    pub(crate) fn stuck_after(self, bytes: usize) -> Self {
        Self {
            way: Way::Stuck(bytes),
            ..self
        }
    }
}

type Script = Box<dyn Fn(&Seen) -> Answer + Send>;

/// An HTTP server that answers by a script and remembers what it was asked.
///
/// It ends with its value; connections that are open then are cut.
pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    connections: usize,
    answering: usize,
    most_answering: usize,
    hangups: usize,
}

impl Pod {
    /// Answers every request the same way, on an address of its own.
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::start_on((address(), 0).into(), move |_| answer.clone()).await
    }

    /// Answers every request with an exposition in the text format.
    pub(crate) async fn serving(body: &str) -> Self {
        Self::start(Answer::text(body)).await
    }

    /// Listens on an address (port 0: any) and answers what `script` says of each request.
    pub(crate) async fn start_on(
        address: SocketAddr,
        script: impl Fn(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await;
        let listener = listener.unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
        let address = listener.local_addr().expect("a listening socket has an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            counts: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    /// From now on answers otherwise.
    pub(crate) fn set(&self, answer: Answer) {
        *lock(&self.shared.script) = Box::new(move |_| answer.clone());
    }

    /// From now on answers by another script.
    pub(crate) fn set_script(&self, script: impl Fn(&Seen) -> Answer + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every request so far, in order.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared.counts).connections
    }

    /// How many requests wait for the end of their answer just now.
    pub(crate) fn answering(&self) -> usize {
        lock(&self.shared.counts).answering
    }

    /// The most requests that ever waited at once.
    pub(crate) fn most_answering(&self) -> usize {
        lock(&self.shared.counts).most_answering
    }

    /// How often a client went away before its answer was whole.
    pub(crate) fn hangups(&self) -> usize {
        lock(&self.shared.counts).hangups
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped, and so cut, when this task is aborted.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = {
            let mut counts = lock(&shared.counts);
            counts.connections += 1;
            counts.connections
        };
        connections.spawn(serve(stream, number, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        };
        let seen = parse(&String::from_utf8_lossy(&buffer[..end]), connection);
        buffer.drain(..end);
        let answer = lock(&shared.script)(&seen);
        lock(&shared.seen).push(seen);
        let _answering = Answering::new(&shared);
        let (mut read, mut write) = stream.split();
        let end = {
            let watched = async {
                // A scraper sends nothing while it waits: the end, or an error, means that it went away.
                let mut byte = [0];
                read.read(&mut byte).await.map_or(0, |n| n)
            };
            tokio::select! {
                // In this order: a client that has the whole answer may send its next request at once.
                biased;
                end = send(&mut write, &answer) => end,
                _ = watched => End::HungUp,
            }
        };
        match end {
            End::KeepAlive => {}
            End::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            End::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
            End::HungUp => {
                lock(&shared.counts).hangups += 1;
                return;
            }
        }
    }
}

/// One request being answered, counted while it lives.
struct Answering<'a>(&'a Shared);

impl<'a> Answering<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut counts = lock(&shared.counts);
        counts.answering += 1;
        counts.most_answering = counts.most_answering.max(counts.answering);
        Self(shared)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        lock(&self.0.counts).answering -= 1;
    }
}

enum End {
    KeepAlive,
    Close,
    Reset,
    HungUp,
}

async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> End {
    tokio::time::sleep(answer.before).await;
    let head = || {
        let reason = StatusCode::from_u16(answer.status)
            .ok()
            .and_then(|s| s.canonical_reason());
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason.unwrap_or("Status"));
        for (name, value) in &answer.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if matches!(answer.way, Way::Chunks(..)) {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        } else {
            let _ = write!(head, "Content-Length: {}\r\n\r\n", answer.body.len());
        }
        head.into_bytes()
    };
    let cut = |bytes: usize| [head(), answer.body[..bytes.min(answer.body.len())].to_vec()].concat();
    let written = match &answer.way {
        Way::Silent => std::future::pending().await,
        Way::Raw => stream.write_all(&answer.body).await.map(|()| End::Close),
        Way::RawReset => stream.write_all(&answer.body).await.map(|()| End::Reset),
        Way::Whole => stream.write_all(&cut(usize::MAX)).await.map(|()| End::KeepAlive),
        Way::Truncated(bytes) => stream.write_all(&cut(*bytes)).await.map(|()| End::Close),
        Way::Reset(bytes) => {
            let written = stream.write_all(&cut(*bytes)).await;
            // A reset overtakes what the client has not read yet: let those bytes arrive.
            tokio::time::sleep(Duration::from_millis(100)).await;
            written.map(|()| End::Reset)
        }
        Way::Stuck(bytes) => {
            let _ = stream.write_all(&cut(*bytes)).await;
            std::future::pending().await
        }
        Way::Chunks(bytes, every) => chunks(stream, &head(), &answer.body, *bytes, *every).await,
    };
    written.unwrap_or(End::HungUp)
}

async fn chunks(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    head: &[u8],
    body: &[u8],
    bytes: usize,
    every: Duration,
) -> std::io::Result<End> {
    stream.write_all(head).await?;
    for chunk in body.chunks(bytes) {
        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        stream.write_all(&framed).await?;
        tokio::time::sleep(every).await;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    Ok(End::KeepAlive)
}

fn parse(head: &str, connection: usize) -> Seen {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Seen {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        headers,
        connection,
    }
}

/// A real `node_exporter`, an exporter as most machines have one.
#[derive(Debug)]
pub(crate) struct NodeExporter {
    pub(crate) address: SocketAddr,
    process: Process,
    _dir: tempfile::TempDir,
}

impl NodeExporter {
    /// Starts it on a free port of `ip`; it answers when this returns.
    pub(crate) async fn start(ip: IpAddr) -> Self {
        let dir = process::fresh_dir();
        loop {
            let address = SocketAddr::new(ip, process::free_port());
            let mut command = Command::new(tools::path("node-exporter"));
            command.arg(format!("--web.listen-address={address}"));
            let mut process = Process::spawn("node_exporter", command, &dir.path().join("log"));
            let is_up = async || client::get(address, "/").send().await.is_ok();
            if process
                .wait_until_up("node_exporter answers", Duration::from_secs(20), is_up)
                .await
            {
                return Self {
                    address,
                    process,
                    _dir: dir,
                };
            }
        }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
