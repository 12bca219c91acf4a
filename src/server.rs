//! Listener and routes; a handler always answers.
//!
//! Shell. [`Server::bind`] takes the port, [`Server::serve`] accepts until shutdown and lets requests in flight finish.

mod metrics_handler;
mod page;
mod response;
mod response_stream;
mod self_metrics;
mod status;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

pub use response::Body;
pub use status::{LastScrape, Report, ScrapeStatus, SkippedReport, TargetReport, report};

use crate::config::{self, Config};
use crate::discovery;
use crate::health::{Condition, Health};
use crate::pebble::PebbleScraper;
use crate::scrape::{Scraper, WriteTimes};
use crate::shutdown::Shutdown;
use crate::telemetry::{Request as RequestLabels, Telemetry};
use response::{json, text};

/// Connections at the same time. Scrapers need a handful; the rest waits in the listen queue.
const MAX_CONNECTIONS: usize = 512;

/// How long to wait after an accept error, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers share.
#[derive(Debug)]
pub struct AppState {
    /// Settings of scrapes.
    pub settings: config::Scrape,
    /// Pods.
    pub discovery: discovery::Handle,
    /// Conditions.
    pub health: Arc<Health>,
    /// Our own metrics.
    pub telemetry: Arc<Telemetry>,
    /// Fan-out.
    pub scraper: Arc<Scraper>,
    /// What became of each target lately.
    pub scrape_status: ScrapeStatus,
    /// How long answers take to write.
    pub write_times: WriteTimes,
    /// Pebble's own metrics.
    pub pebble: Option<PebbleScraper>,
}

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    grace: Duration,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Server {
    /// Takes the port, on IPv6 and IPv4 where the address is `::`.
    ///
    /// # Errors
    /// Where the address is taken or not ours, in the system's words.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let listen = &config.listen;
        let wanted = SocketAddr::new(listen.address, listen.port);
        let listener = match bind(wanted) {
            // A machine without IPv6 has no `::`; it is served on IPv4 rather than not at all.
            Err(error) if listen.is_dual_stack() && error.kind() != io::ErrorKind::AddrInUse => {
                bind((Ipv4Addr::UNSPECIFIED, listen.port).into()).map_err(|_| error)?
            }
            other => other?,
        };
        Ok(Self {
            listener: TcpListener::from_std(listener.into())?,
            grace: listen.grace,
            header_timeout: listen.header_timeout,
            write_timeout: listen.write_timeout,
        })
    }

    /// The address in use.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts and answers until shutdown, then lets requests in flight finish within the grace period. Idle
    /// connections are closed at once, and the port is free before the first request has finished.
    pub async fn serve(self, state: Arc<AppState>, shutdown: Shutdown) {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(64 << 10);
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = async {
                    let permit = Arc::clone(&connections).acquire_owned().await.expect("the semaphore is never closed");
                    self.listener.accept().await.map(|(stream, _)| (stream, permit))
                } => accepted,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers leave in large writes already; waiting to fill a segment would only delay the last one.
            let _ = stream.set_nodelay(true);
            // A client that stops reading would hold its answer's bodies for ever.
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(self.write_timeout));
            let stream = TokioIo::new(Box::pin(stream));
            let state = Arc::clone(&state);
            let service = service_fn(move |request| handle(Arc::clone(&state), request));
            let connection = graceful.watch(http.serve_connection(stream, service));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "Connection ended early");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(self.grace, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(grace = ?self.grace, "Requests were still in flight at the end of the grace period");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A replan starts the next process while connections of this one still linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Answers one request; a bug in a handler is answered with 500 and logged, never with silence.
async fn handle(state: Arc<AppState>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, _) = request.into_parts();
    let handler = route_name(head.uri.path());
    let telemetry = Arc::clone(&state.telemetry);
    let response = AssertUnwindSafe(route(state, &head))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(handler, "Cannot answer, the handler failed; please report this");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error; see the log\n".to_owned(),
            )
        });
    let code = response.status().as_u16();
    telemetry
        .scrape
        .requests
        .get_or_create(&RequestLabels { handler, code })
        .inc();
    tracing::debug!(method = %head.method, path = head.uri.path(), code, "Answered");
    Ok(response)
}

fn route_name(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/metrics" => "/metrics",
        "/healthz" => "/healthz",
        "/readyz" => "/readyz",
        "/targets" => "/targets",
        "/api/v1/targets" => "/api/v1/targets",
        _ => "other",
    }
}

async fn route(state: Arc<AppState>, head: &http::request::Parts) -> Response<Body> {
    let handler = route_name(head.uri.path());
    if handler == "other" {
        let known = "not found; there is /metrics, /healthz, /readyz, /targets and /api/v1/targets\n";
        return text(StatusCode::NOT_FOUND, known.to_owned());
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n".to_owned());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match handler {
        "/metrics" => metrics_handler::handle(state, head).await,
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => readyz(&state.health, head.uri.query()),
        "/api/v1/targets" => json(&status::report(&state.scrape_status, &state.discovery.latest())),
        _ => {
            let report = status::report(&state.scrape_status, &state.discovery.latest());
            let readiness = state.health.readiness(None, true);
            let mut response = text(StatusCode::OK, page::render(&report, &readiness));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            response
        }
    }
}

/// `/readyz`, `/readyz?verbose`, `/readyz?only=identity`. An unknown word is an error: a misspelled probe that always
/// passed would hide every problem.
fn readyz(health: &Health, query: Option<&str>) -> Response<Body> {
    let mut only = None;
    let mut verbose = false;
    for part in query.unwrap_or_default().split('&') {
        match part.split_once('=') {
            Some(("only", word)) => match Condition::parse(word) {
                Ok(condition) => only = Some(condition),
                Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
            },
            Some(("verbose", value)) => verbose = value != "false" && value != "0",
            None if part == "verbose" => verbose = true,
            _ => {}
        }
    }
    let readiness = health.readiness(only, verbose);
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, readiness.body)
}
