//! Listener of the proxy's HTTP server.
//!
//! Shell. [`Server::bind`] takes the port, [`Server::serve`] accepts connections until shutdown and lets requests in
//! progress finish.

mod api;
mod connection;
mod connections;
mod merge_pool;
mod metrics_handler;
mod page;
mod report;
mod response;
mod response_stream;
mod routes;
mod self_metrics;
mod status;
mod target_log;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use api::TargetsResponse;
pub use merge_pool::MergePool;
pub use report::{ConflictReport, LastRequest, LastScrape, Report, SkippedReport, TargetReport};
pub use response::Body;
pub use status::{RequestSummary, ScrapeStatus, report};

use crate::config::{self, Config};
use crate::discovery;
use crate::health::Health;
use crate::pebble::PebbleScraper;
use crate::scrape::{Scraper, WriteTimes};
use crate::shutdown::Shutdown;
use crate::telemetry::{Reason, Telemetry};
use connection::{ClientTimeouts, ConnectionState, TimedStream};
use connections::{Connections, Slot};

/// How long to wait after a failed accept, which mostly means that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for the descriptor of a connection that was closed for a new one.
const CLOSE_PAUSE: Duration = Duration::from_millis(1);

/// What the handlers share.
#[derive(Debug)]
pub struct AppState {
    /// Settings of scrapes.
    pub settings: config::Scrape,
    /// Pods and targets.
    pub discovery: discovery::Handle,
    /// Conditions.
    pub health: Arc<Health>,
    /// The proxy's own metrics.
    pub telemetry: Arc<Telemetry>,
    /// Fan-out.
    pub scraper: Arc<Scraper>,
    /// The latest scrape of each target.
    pub scrape_status: ScrapeStatus,
    /// How long the latest merges took.
    pub write_times: WriteTimes,
    /// Pebble's metrics.
    pub pebble: Option<PebbleScraper>,
    /// One permit for each response of `/metrics` that may be in progress.
    pub responses: Arc<Semaphore>,
    /// Threads for merges, as many as there are permits.
    pub merges: MergePool,
}

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    grace: Duration,
    timeouts: ClientTimeouts,
    max_connections_per_client: usize,
}

impl Server {
    /// Takes the port, on IPv6 and IPv4 where the address is `::`.
    ///
    /// # Errors
    /// The system's error where the address is in use or does not belong to this machine.
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
            timeouts: ClientTimeouts {
                header: listen.header_timeout,
                write: listen.write_timeout,
            },
            max_connections_per_client: listen.max_connections_per_client,
        })
    }

    /// The address in use.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until shutdown, then lets requests in progress finish within the grace period. Idle connections are closed
    /// at once, and the port is free before the first request has finished.
    pub async fn serve(self, state: Arc<AppState>, shutdown: Shutdown) {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Connections::new(self.max_connections_per_client));
        let mut failures = AcceptFailures::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    failures.end();
                    self.admit(stream, client, &connections, &state, &graceful);
                }
                Err(error) => {
                    failures.begin(&error);
                    // A connection that waits for its client gives its descriptor to the next one, which must not wait long:
                    // a health check may be behind many others in the listen queue.
                    let has_closed = connections.close_longest_waiting();
                    let pause = if has_closed { CLOSE_PAUSE } else { ACCEPT_PAUSE };
                    tokio::time::sleep(pause).await;
                }
            }
        }
        drop(self.listener);
        if tokio::time::timeout(self.grace, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(grace = ?self.grace, "Requests were still in progress at the end of the grace period");
        }
    }

    /// Serves a new connection, unless the limits forbid it.
    fn admit(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        connections: &Arc<Connections>,
        state: &Arc<AppState>,
        graceful: &GracefulShutdown,
    ) {
        let connection = Arc::new(ConnectionState::new());
        let admission = connections.admit(client.ip(), &connection);
        let metrics = &state.telemetry.scrape;
        if let Some(reason) = admission.limit {
            metrics.connections_closed.get_or_create(&Reason { reason }).inc();
        }
        metrics
            .connections
            .set(i64::try_from(connections.len()).unwrap_or(i64::MAX));
        let Some(slot) = admission.slot else {
            return;
        };
        // Responses leave in large writes already; waiting to fill a segment would only delay the last one.
        let _ = stream.set_nodelay(true);
        let stream = TimedStream::new(stream, Arc::clone(&connection), self.timeouts);
        serve_connection(stream, slot, connection, state, graceful);
    }
}

/// Serves the requests of one connection in a task of its own, which `graceful` waits for.
fn serve_connection(
    stream: TimedStream,
    slot: Slot,
    connection: Arc<ConnectionState>,
    state: &Arc<AppState>,
    graceful: &GracefulShutdown,
) {
    let state = Arc::clone(state);
    let service = service_fn({
        let connection = Arc::clone(&connection);
        move |request| routes::handle(Arc::clone(&state), Arc::clone(&connection), request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let served = graceful.watch(served);
    tokio::spawn(async move {
        let _slot = slot;
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::debug!(%error, "Connection ended early");
            },
            () = connection.closing.cancelled() => {
                tracing::debug!("Closed a waiting connection in favour of a new one");
            }
        }
    });
}

/// Logs failures to accept once when they begin, and once when there were none for a while.
#[derive(Debug, Default)]
struct AcceptFailures {
    count: u64,
    latest: Option<Instant>,
}

impl AcceptFailures {
    /// How long accepts must succeed before the failures count as over. A process at its limit of open files accepts one
    /// connection for each one that it closes.
    const QUIET: Duration = Duration::from_secs(10);

    fn begin(&mut self, error: &io::Error) {
        if self.latest.replace(Instant::now()).is_none() {
            tracing::warn!(
                %error,
                "Cannot accept connections; raise the limit of open files (ulimit -n) if it has been reached"
            );
        }
        self.count += 1;
    }

    fn end(&mut self) {
        if self.latest.is_some_and(|latest| latest.elapsed() >= Self::QUIET) {
            tracing::info!(failures = self.count, "Accepting connections again");
            *self = Self::default();
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
