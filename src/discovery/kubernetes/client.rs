//! The HTTP client of the API server: TLS, token and client certificate as client-go handles them.
//!
//! kube's own client is not used as it is, for three reasons. It takes a token file as it stands, where client-go trims
//! white space at its ends. Its verifier rejects a self-signed certificate that is pinned as its own authority, which
//! `openssl req -x509` makes by default. And it reads a kubeconfig's authorities and client certificate only once. The
//! layers for the base URL, impersonation and the other ways to authenticate are kube's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Request;
use http::header::{AUTHORIZATION, HeaderValue};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tower::filter::FilterLayer;
use tower::{BoxError, ServiceBuilder};
use tower_http::decompression::DecompressionLayer;

use crate::discovery::DiscoveryError;
use crate::tls::{self, FileVerifier, SkipVerification, Verifier};

/// A TCP connection may take this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An idle connection is kept for this long. Longer would outlive a renewed client certificate, which the server checks
/// with each request.
const IDLE: Duration = Duration::from_secs(5);
/// How often a token file is read again, as by client-go.
const TOKEN_LIFE: Duration = Duration::from_secs(10);

/// Files that the configuration names and that may change while the program runs.
#[derive(Debug, Default)]
pub(super) struct WatchedFiles {
    /// The authorities that sign the API server's certificate.
    pub(super) authorities: Option<PathBuf>,
}

/// Makes a client.
pub(super) fn build(mut config: kube::Config, files: &WatchedFiles) -> Result<kube::Client, DiscoveryError> {
    if config.proxy_url.is_some() {
        // Tunnels are kube's business.
        return kube::Client::try_from(config).map_err(DiscoveryError::Client);
    }
    let token = token_layer(&mut config);
    let tls = tls_config(&config, files)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let https = match &config.tls_server_name {
        None => https,
        Some(name) => {
            let name = ServerName::try_from(name.clone()).map_err(|source| DiscoveryError::ServerName {
                name: name.clone(),
                source,
            })?;
            https.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
    };
    let http = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(https.enable_http1().wrap_connector(tcp));
    let namespace = config.default_namespace.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(DecompressionLayer::new().gzip(!config.disable_compression))
        .option_layer(token)
        .option_layer(config.auth_layer().map_err(DiscoveryError::Client)?)
        .layer(config.extra_headers_layer().map_err(DiscoveryError::Client)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, namespace).build())
}

/// TLS as client-go sets it up: the configured authorities, else those of the system, and the client certificate.
fn tls_config(config: &kube::Config, files: &WatchedFiles) -> Result<ClientConfig, DiscoveryError> {
    // The client certificate, inline or of a credential plugin, is kube's business. Its verifier is replaced below, and
    // an empty list of authorities keeps it from parsing the configured ones.
    let mut identity = config.clone();
    identity.accept_invalid_certs = true;
    identity.root_cert = Some(Vec::new());
    identity.root_cert_file = None;
    let mut tls = identity.rustls_client_config().map_err(DiscoveryError::Client)?;
    tls.dangerous().set_certificate_verifier(verifier(config, files)?);
    // A resumed session would verify neither certificate again.
    tls.resumption = rustls::client::Resumption::disabled();
    let auth = &config.auth_info;
    if let (Some(certificate), Some(key)) = (&auth.client_certificate, &auth.client_key)
        && auth.client_certificate_data.is_none()
        && auth.client_key_data.is_none()
    {
        tls.client_auth_cert_resolver = Arc::new(IdentityFiles {
            certificate: certificate.into(),
            key: key.into(),
            latest: Mutex::default(),
        });
    }
    Ok(tls)
}

fn verifier(
    config: &kube::Config,
    files: &WatchedFiles,
) -> Result<Arc<dyn ServerCertVerifier>, DiscoveryError> {
    if config.accept_invalid_certs {
        return Ok(Arc::new(SkipVerification));
    }
    // In a pod, kube names the mounted file of authorities itself.
    if let Some(path) = files.authorities.as_ref().or(config.root_cert_file.as_ref()) {
        return Ok(Arc::new(
            FileVerifier::try_new(path).map_err(DiscoveryError::Tls)?,
        ));
    }
    let Some(authorities) = &config.root_cert else {
        let system = rustls_native_certs::load_native_certs().certs;
        return Ok(Arc::new(Verifier::of_system(system)));
    };
    let authorities = authorities.iter().cloned().map(CertificateDer::from).collect();
    Ok(Arc::new(
        Verifier::try_new(authorities).map_err(DiscoveryError::Tls)?,
    ))
}

/// A client certificate in files, read for each connection, so that a renewed one is used.
#[derive(Debug)]
struct IdentityFiles {
    certificate: PathBuf,
    key: PathBuf,
    /// The last pair that could be read. It stays in use while the files cannot be, for example between two writes.
    latest: Mutex<Option<Arc<CertifiedKey>>>,
}

impl IdentityFiles {
    fn read(&self) -> Result<CertifiedKey, BoxError> {
        let certificate = std::fs::read(&self.certificate)?;
        let chain = tls::parse_certificates(&certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&std::fs::read(&self.key)?)?;
        Ok(CertifiedKey::from_der(chain, key, &tls::provider())?)
    }
}

impl ResolvesClientCert for IdentityFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read() {
            Ok(read) => *latest = Some(Arc::new(read)),
            Err(error) => {
                let path = self.certificate.display();
                tracing::debug!(%path, %error, "Cannot read the client certificate, using the last one");
            }
        }
        latest.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why there is no token to send.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file has nothing but white space.
    #[error("the token file {path:?} is empty")]
    Empty { path: PathBuf },
    /// The file is no token.
    #[error("the token file {path:?} has a character that no token has")]
    Invalid { path: PathBuf },
}

/// A token in a file, as client-go reads it: without white space at its ends, and again after [`TOKEN_LIFE`]. A file that
/// cannot be read keeps the last token in use.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    latest: Option<(HeaderValue, Instant)>,
}

impl TokenFile {
    fn header(&mut self, now: Instant) -> Result<HeaderValue, TokenError> {
        if let Some((header, read_at)) = &self.latest
            && now.saturating_duration_since(*read_at) < TOKEN_LIFE
        {
            return Ok(header.clone());
        }
        match (read_token(&self.path), &self.latest) {
            (Ok(header), _) => {
                self.latest = Some((header.clone(), now));
                Ok(header)
            }
            (Err(_), Some((header, _))) => Ok(header.clone()),
            (Err(error), None) => Err(error),
        }
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, TokenError> {
    let path = || path.to_owned();
    let text = std::fs::read_to_string(path()).map_err(|source| TokenError::Read { path: path(), source })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(TokenError::Empty { path: path() });
    }
    let mut header =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| TokenError::Invalid { path: path() })?;
    header.set_sensitive(true);
    Ok(header)
}

/// Sends the token of the configured file with each request. Takes the file from the configuration, so that kube does not
/// read it as well.
fn token_layer(config: &mut kube::Config) -> Option<FilterLayer<SharedToken>> {
    let auth = &mut config.auth_info;
    if auth.token.is_some() || auth.auth_provider.is_some() || auth.username.is_some() {
        return None;
    }
    let path = auth.token_file.take()?.into();
    let file = TokenFile { path, latest: None };
    Some(FilterLayer::new(SharedToken(Arc::new(Mutex::new(file)))))
}

/// Adds the token to a request.
#[derive(Debug, Clone)]
struct SharedToken(Arc<Mutex<TokenFile>>);

impl tower::filter::Predicate<Request<Body>> for SharedToken {
    type Request = Request<Body>;

    fn check(&mut self, mut request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let header = file.header(Instant::now())?;
        request.headers_mut().insert(AUTHORIZATION, header);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_token(content: &str, expect: Result<&str, &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, content).unwrap();
        let header = read_token(&path).map_err(|error| error.to_string());
        match expect {
            Ok(token) => assert_eq!(header.unwrap(), format!("Bearer {token}")),
            Err(expect) => {
                let error = header.unwrap_err();
                assert!(error.ends_with(expect), "{error}");
            }
        }
    }

    /// kubernetes/kubernetes#52919, prometheus/prometheus#5221, 1Password/connect-sdk-go#73.
    #[test]
    fn white_space_around_a_token_is_not_part_of_it() {
        check_token("tok", Ok("tok"));
        check_token("tok\n", Ok("tok"));
        check_token("tok\r\n", Ok("tok"));
        check_token(" \ttok \n\n", Ok("tok"));
        check_token("\n", Err("is empty"));
        check_token("", Err("is empty"));
        check_token("t\nk", Err("has a character that no token has"));
        check_token("t\u{0}k", Err("has a character that no token has"));
    }

    #[test]
    fn a_renewed_token_is_used_and_a_missing_file_keeps_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let mut file = TokenFile {
            path: path.clone(),
            latest: None,
        };
        let now = Instant::now();
        assert!(matches!(file.header(now), Err(TokenError::Read { .. })));
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(file.header(now).unwrap(), "Bearer first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(file.header(now).unwrap(), "Bearer first", "not on each request");
        let later = now + TOKEN_LIFE;
        assert_eq!(file.header(later).unwrap(), "Bearer second");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.header(later + TOKEN_LIFE).unwrap(), "Bearer second");
    }

    #[test]
    fn a_token_is_never_printed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "s3cret").unwrap();
        let header = read_token(&path).unwrap();
        assert!(!format!("{header:?}").contains("s3cret"));
    }
}
