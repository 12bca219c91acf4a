//! The HTTP client for targets. It reuses connections, uses no proxy and follows no redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config;

/// Idle connections are kept for longer than the usual scrape intervals of up to one minute.
const IDLE: Duration = Duration::from_secs(90);

/// Each idle connection keeps its read buffer. With thousands of pods, larger buffers would need more memory than the
/// bodies, and they are not faster here.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Why a request could not be sent, or got no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of certificate authorities.
    #[error("cannot read certificate authorities from {path:?}")]
    Authorities {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The TLS configuration.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The target's address and path do not form a URL.
    #[error("cannot build a request from the target's path")]
    Invalid(#[source] http::Error),
    /// A connection error or a protocol error.
    #[error("{}", crate::error::root_cause(.0))]
    Http(legacy::Error),
}

impl ClientError {
    /// Whether no connection could be made.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_connect())
    }
}

/// An HTTP client with a connection pool.
#[derive(Debug, Clone)]
pub(super) struct TargetClient {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl TargetClient {
    pub(super) fn try_new(settings: &config::Scrape) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(settings)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(2)
            .http1_max_buf_size(READ_BUFFER_BYTES)
            .build(connector);
        Ok(Self { inner })
    }

    pub(super) async fn send(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.inner.request(request).await.map_err(ClientError::Http)
    }
}

fn tls(settings: &config::Scrape) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if settings.target_insecure_skip_verify {
        let verifier = Arc::new(AnyCertificate(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match &settings.target_ca {
        Some(path) => {
            let failed = |source| ClientError::Authorities {
                path: path.clone(),
                source,
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
                roots.add(certificate.map_err(failed)?)?;
            }
            if roots.is_empty() {
                return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
            }
        }
        None => {
            // A machine without any authorities must not prevent the start, because most targets use plain http.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts any certificate, for `--target-insecure-skip-verify`. Signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
