//! The HTTP client for targets. It reuses connections, uses no proxy, and sends a request once more where Go does.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::connect::Connector;
use super::connection::{Connection, ConnectionPool, Destination};
use super::progress::{Progress, Step};
use super::sockets::{AddressPermit, Sockets};
use super::stream::{MAX_HEAD_BYTES, Meter};
use crate::config;
use crate::tls::{TlsError, TlsFault};

/// The most header lines of a response.
pub(super) const MAX_HEADERS: usize = 1024;

/// Why a request could not be sent, or got no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The target's address and path do not form a URL.
    #[error("the path cannot be part of a URL")]
    Invalid(#[source] http::Error),
    /// The operating system could not connect.
    #[error("{}", io_text(.0))]
    Connect(io::Error),
    /// The process has too many open files.
    #[error("too many open files")]
    NoDescriptor,
    /// There was no response to the connection attempt.
    #[error("no response within {:.1} s", .0.as_secs_f64())]
    ConnectTimeout(Duration),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(TlsFault),
    /// The connection ended during the TLS handshake.
    #[error("{}", io_text(.0))]
    TlsClosed(io::Error),
    /// The connection ended before a byte of the response arrived.
    #[error("the connection was closed")]
    Closed,
    /// A TLS record arrived where HTTP was expected.
    #[error("a TLS record arrived instead of HTTP")]
    TlsOnHttp,
    /// The connection broke within the head of the response.
    #[error("{}", io_text(.0))]
    Broken(io::Error),
    /// The head of the response exceeds a limit.
    #[error(
        "the head of the response is larger than {MAX_HEAD_BYTES} bytes or has more than {MAX_HEADERS} headers"
    )]
    HeadTooLarge,
    /// What arrived is not HTTP/1.
    #[error("{0}")]
    NotHttp(String),
}

impl ClientError {
    /// Returns whether there was no connection, TLS included.
    pub(super) fn is_connect(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::NoDescriptor
                | Self::ConnectTimeout(_)
                | Self::Tls(_)
                | Self::TlsClosed(_)
        )
    }

    pub(super) fn connect(error: io::Error) -> Self {
        const TOO_MANY_OPEN_FILES: [rustix::io::Errno; 2] =
            [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        let errno = rustix::io::Errno::from_io_error(&error);
        match errno {
            Some(errno) if TOO_MANY_OPEN_FILES.contains(&errno) => Self::NoDescriptor,
            _ => Self::Connect(error),
        }
    }
}

/// The text of an I/O error in the words of the field, without the number of the error.
pub(super) fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::TimedOut => "the connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no local port is free, or the address cannot be used".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => {
            let text = error.to_string();
            let end = text.find(" (os error").unwrap_or(text.len());
            text[..end].to_lowercase()
        }
    }
}

/// An HTTP client with a connection pool.
#[derive(Debug)]
pub(super) struct TargetClient {
    connector: Connector,
    connections: ConnectionPool,
    sockets: Sockets,
    http: http1::Builder,
}

impl TargetClient {
    pub(super) fn try_new(settings: &config::Scrape) -> Result<Self, TlsError> {
        let mut http = http1::Builder::new();
        // What Go's client accepts: folded header lines, a blank before the colon, large heads, HTTP/1.0.
        http.max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true);
        Ok(Self {
            connector: Connector::try_new(settings)?,
            connections: ConnectionPool::default(),
            sockets: Sockets::new(settings.max_connections_per_target_ip),
            http,
        })
    }

    /// Closes connections that have been idle for too long. To be called once for each fan-out.
    pub(super) fn prune(&self) {
        self.connections.prune();
    }

    /// Sends a GET and waits for the head of the response.
    ///
    /// A target may close an idle connection just when the next request is on its way. If a request on a reused
    /// connection fails before a byte of the response has arrived, it is sent once more on a new connection, as Go's
    /// client does (`shouldRetryRequest`).
    pub(super) async fn get(
        &self,
        destination: Destination,
        request: Request<Empty<Bytes>>,
        progress: &Progress,
    ) -> Result<TargetResponse<'_>, ClientError> {
        progress.set(Step::Queue);
        let permit = self.sockets.address(destination.address.ip()).await;
        let generation = self.connector.generation(destination.scheme);
        if let Some(mut connection) = self.connections.acquire(destination, generation) {
            progress.set(Step::Response);
            match connection.send(request.clone()).await {
                Ok(response) => return Ok(TargetResponse::new(self, response, connection, permit)),
                Err(_) if connection.meter().is_empty() => {
                    tracing::debug!(address = %destination.address, "Reused connection was closed, sending the request again");
                }
                Err(error) => return Err(request_error(&error, connection.meter())),
            }
        }
        let mut connection = self.connect(destination, generation, progress).await?;
        progress.set(Step::Response);
        match connection.send(request).await {
            Ok(response) => Ok(TargetResponse::new(self, response, connection, permit)),
            Err(error) => Err(request_error(&error, connection.meter())),
        }
    }

    async fn connect(
        &self,
        destination: Destination,
        generation: u64,
        progress: &Progress,
    ) -> Result<Connection, ClientError> {
        let socket = self.sockets.socket(|| self.connections.evict()).await;
        let meter = Arc::new(Meter::default());
        let Destination { scheme, address } = destination;
        let stream = self.connector.connect(scheme, address, &meter, progress).await?;
        Connection::begin(
            &self.http,
            stream,
            Arc::clone(&meter),
            destination,
            generation,
            socket,
        )
        .await
        .map_err(|error| request_error(&error, &meter))
    }
}

/// Tells what the error of a request means.
fn request_error(error: &hyper::Error, meter: &Meter) -> ClientError {
    if meter.head_too_large() {
        return ClientError::HeadTooLarge;
    }
    if meter.is_empty() {
        return ClientError::Closed;
    }
    if meter.began_with_tls_record() {
        return ClientError::TlsOnHttp;
    }
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(io) = io {
        return ClientError::Broken(io::Error::new(io.kind(), io.to_string()));
    }
    if error.is_incomplete_message() {
        return ClientError::Broken(io::ErrorKind::UnexpectedEof.into());
    }
    // hyper has no public test for this one on the client side.
    if error.is_parse() && error.to_string().contains("too large") {
        return ClientError::HeadTooLarge;
    }
    ClientError::NotHttp(error.to_string())
}

/// A response whose body is still to be read.
pub(super) struct TargetResponse<'a> {
    client: &'a TargetClient,
    pub(super) head: response::Parts,
    body: Incoming,
    connection: Connection,
    _permit: AddressPermit,
}

impl<'a> TargetResponse<'a> {
    fn new(
        client: &'a TargetClient,
        response: http::Response<Incoming>,
        connection: Connection,
        permit: AddressPermit,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self {
            client,
            head,
            body,
            connection,
            _permit: permit,
        }
    }

    /// The length of the body, where the head states it.
    pub(super) fn content_length(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// Waits for more of the body; `None` at its end. Trailers are skipped.
    pub(super) async fn chunk(&mut self) -> Option<hyper::Result<Bytes>> {
        loop {
            match self.connection.frame(&mut self.body).await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Keeps the connection for the next request. To be called at the end of the body; otherwise the connection is
    /// closed when the response is dropped.
    pub(super) fn release(self) {
        let Self {
            client,
            body,
            connection,
            ..
        } = self;
        drop(body);
        client.connections.release(connection);
    }
}
