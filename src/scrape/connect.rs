//! Opens connections to targets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client::ClientError;
use super::progress::{Progress, Step};
use super::stream::{Meter, TargetStream};
use crate::config;
use crate::targets::Scheme;
use crate::tls::{self, FileVerifier, SkipVerification, TlsError, TlsFault, Verifier};

/// How long an idle connection is silent before the kernel checks it, and between two checks, as in Go.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Opens plain and TLS connections.
pub(super) struct Connector {
    connect_timeout: Duration,
    tls: TlsConnector,
    /// The authorities of `--target-ca`.
    authorities: Option<Arc<FileVerifier>>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn try_new(settings: &config::Scrape) -> Result<Self, TlsError> {
        let mut authorities = None;
        let verifier: Arc<dyn rustls::client::danger::ServerCertVerifier> =
            if settings.target_insecure_skip_verify {
                Arc::new(SkipVerification)
            } else if let Some(path) = &settings.target_ca {
                let file = Arc::new(FileVerifier::try_new(path)?);
                authorities = Some(Arc::clone(&file));
                file
            } else {
                Arc::new(Verifier::of_system(
                    rustls_native_certs::load_native_certs().certs,
                ))
            };
        let mut tls = tls::client_config(verifier)?.with_no_client_auth();
        // A resumed session would not verify the certificate again after the authorities changed. Connections are kept
        // between scrapes, so that handshakes are rare.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            connect_timeout: settings.connect_timeout,
            tls: TlsConnector::from(Arc::new(tls)),
            authorities,
        })
    }

    /// Returns a number that grows when the authorities for TLS change: older connections must not be used then.
    pub(super) fn generation(&self, scheme: Scheme) -> u64 {
        match (scheme, &self.authorities) {
            (Scheme::Https, Some(authorities)) => authorities.generation(),
            _ => 0,
        }
    }

    /// Connects to a target.
    pub(super) async fn connect(
        &self,
        scheme: Scheme,
        address: SocketAddr,
        meter: &Arc<Meter>,
        progress: &Progress,
    ) -> Result<TargetStream, ClientError> {
        progress.set(Step::Connect);
        let connected = tokio::time::timeout(self.connect_timeout, TcpStream::connect(address)).await;
        let stream = connected
            .map_err(|_| ClientError::ConnectTimeout(self.connect_timeout))?
            .map_err(ClientError::connect)?;
        self.set_options(&stream).map_err(ClientError::connect)?;
        let meter = Arc::clone(meter);
        match scheme {
            Scheme::Http => Ok(TargetStream::plain(stream, meter)),
            Scheme::Https => {
                progress.set(Step::TlsHandshake);
                let name = ServerName::from(address.ip());
                let stream = self.tls.connect(name, stream).await.map_err(tls_error)?;
                Ok(TargetStream::tls(stream, meter))
            }
        }
    }

    fn set_options(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive)?;
        // If a router has forgotten an idle connection, nothing acknowledges the next request. Without this option the
        // scrape would wait until its deadline; with it, the request fails in time to be sent again.
        socket.set_tcp_user_timeout(Some(self.connect_timeout))
    }
}

fn tls_error(error: io::Error) -> ClientError {
    match TlsFault::from_io(&error) {
        Some(fault) => ClientError::Tls(fault),
        None => ClientError::TlsClosed(error),
    }
}
