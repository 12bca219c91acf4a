//! What can be wrong with a response of the API server, in the words of an operator.
//!
//! [`ApiError::from`] sorts the client library's errors; [`ApiError::cause`] says what happened and what to do about it.

use std::fmt;
use std::io;
use std::time::Duration;

use kube::core::Status;

use super::client::TokenError;
use crate::error::{causes, chain};
use crate::tls::TlsFault;

/// Host and port of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerAddress(String);

impl ServerAddress {
    /// Reads them from the URL of the server.
    pub(super) fn of(url: &http::Uri) -> Self {
        let host = url.host().unwrap_or_default();
        let default_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
        Self(format!("{host}:{}", url.port_u16().unwrap_or(default_port)))
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request to the API server has failed. Texts are the server's or the client library's own words.
#[derive(Debug)]
pub(super) enum ApiError {
    /// 403: a permission is missing, or the server has just started.
    Forbidden(String),
    /// 410: the server no longer knows the resource version; list again.
    Expired,
    /// The server does not accept the request's parameters, or does not know the kind.
    Rejected(String),
    /// 401: the token is not accepted. This says nothing about permissions.
    Unauthorized(String),
    /// The server fails or is overloaded.
    Overloaded(String),
    /// There was no connection.
    Unreachable { step: Step, detail: String },
    /// There was no response in this time.
    Timeout(Duration),
    /// The token or client certificate cannot be read.
    Credentials(String),
    /// The response cannot be decoded.
    Undecodable(String),
}

/// The step at which a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The name of the server has no address.
    Resolve,
    /// Nothing listens on the port.
    Refused,
    /// The network has no way to the server, or does not answer.
    Route,
    /// The TLS handshake.
    Tls(TlsFault),
    /// Any other.
    Other,
}

impl ApiError {
    /// The word in `metrics_proxy_discovery_failures_total{reason=…}`.
    pub(super) fn metric_reason(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "forbidden",
            Self::Expired => "gone",
            Self::Rejected(_) | Self::Overloaded(_) | Self::Undecodable(_) => "refused",
            Self::Unauthorized(_) | Self::Credentials(_) => "unauthorized",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout(_) => "timeout",
        }
    }

    /// What happened and what to do, for `/readyz`, the log and the page.
    pub(super) fn cause(&self, server: &ServerAddress) -> String {
        match self {
            Self::Forbidden(_) => format!("the API server {server} denies the request (403)"),
            Self::Expired => format!("the list took longer than the API server {server} keeps its version (410)"),
            Self::Rejected(_) => format!("the API server {server} does not accept the request"),
            Self::Unauthorized(_) => format!(
                "the API server does not accept the token (401); the server is {server}, a token may have expired or \
                 belong to another cluster"
            ),
            Self::Overloaded(_) => format!("the API server {server} fails or is overloaded"),
            Self::Unreachable { step, .. } => format!("the API server cannot be reached: {}", step.cause(server)),
            Self::Timeout(limit) => format!("the API server {server} does not respond within {limit:?}"),
            Self::Credentials(_) => {
                "the token or certificate for the API server cannot be read; check the files that the kubeconfig names, \
                 or the mounted ServiceAccount"
                    .to_owned()
            }
            Self::Undecodable(_) => format!("the response of the API server {server} cannot be decoded"),
        }
    }

    /// What the server or the client library said, for the log.
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Forbidden(text)
            | Self::Rejected(text)
            | Self::Unauthorized(text)
            | Self::Overloaded(text)
            | Self::Unreachable { detail: text, .. }
            | Self::Credentials(text)
            | Self::Undecodable(text) => text,
            Self::Expired | Self::Timeout(_) => "",
        }
    }
}

impl Step {
    fn cause(&self, server: &ServerAddress) -> String {
        match self {
            Self::Resolve => format!("no such host {server}; check the server in the kubeconfig, and DNS"),
            Self::Refused => format!("connection refused by {server}; check that the API server runs there"),
            Self::Route => format!("no route to {server}; check NetworkPolicy and firewall"),
            Self::Tls(fault) => format!("TLS to {server}: {fault}{}", tls_remedy(fault)),
            Self::Other => format!("the connection to {server} fails"),
        }
    }

    /// Finds the step in the causes of a connection's error.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        for cause in causes(error) {
            // hyper-util's connector has no public type for a failed lookup.
            if cause.to_string() == "dns error" {
                return Self::Resolve;
            }
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(TlsFault::from_rustls(error));
            }
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                // The `source` of an error of I/O is the source of the one that it wraps, not that one itself.
                if let Some(fault) = tls_fault(io) {
                    return Self::Tls(fault);
                }
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => return Self::Refused,
                    io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::TimedOut => return Self::Route,
                    _ => {}
                }
            }
        }
        Self::Other
    }
}

/// The remedy for a failed handshake with the API server, as the end of a sentence.
fn tls_remedy(fault: &TlsFault) -> &'static str {
    match fault {
        TlsFault::UnknownAuthority => "; check certificate-authority in the kubeconfig",
        TlsFault::Expired { .. } => "; renew the certificate, or check the clock",
        TlsFault::NotYetValid { .. } => "; check the clock",
        TlsFault::OtherName { .. } => "; check the server in the kubeconfig, or set tls-server-name",
        TlsFault::NotTls => "; check scheme and port of the server in the kubeconfig",
        TlsFault::ClientCertificate => "; check client-certificate and client-key in the kubeconfig",
        _ => "",
    }
}

/// The fault of a handshake in an error of I/O. The TLS connector wraps such an error into another one.
fn tls_fault(error: &io::Error) -> Option<TlsFault> {
    let inner = || error.get_ref()?.downcast_ref::<io::Error>();
    TlsFault::from_io(error).or_else(|| tls_fault(inner()?))
}

fn is_token_error(error: &kube::Error) -> bool {
    causes(error).any(<dyn std::error::Error + 'static>::is::<TokenError>)
}

impl From<&kube::Error> for ApiError {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(&**status),
            kube::Error::Auth(_) => Self::Credentials(chain(error)),
            _ if is_token_error(error) => Self::Credentials(chain(error)),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Undecodable(chain(error)),
            _ => Self::Unreachable {
                step: Step::of(error),
                detail: chain(error),
            },
        }
    }
}

impl From<&Status> for ApiError {
    fn from(status: &Status) -> Self {
        let detail = format!("{} ({}, {})", status.message, status.reason, status.code);
        match status.code {
            401 => Self::Unauthorized(detail),
            403 => Self::Forbidden(status.message.clone()),
            410 => Self::Expired,
            400 | 404 | 405 | 406 | 415 | 422 => Self::Rejected(detail),
            _ if status.is_forbidden() => Self::Forbidden(status.message.clone()),
            _ => Self::Overloaded(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerAddress {
        ServerAddress::of(&http::Uri::from_static("https://api.example:6443"))
    }

    #[test]
    fn statuses_are_told_apart_by_code() {
        let of = |code| {
            ApiError::from(&Status {
                code,
                ..Status::default()
            })
        };
        assert!(matches!(of(401), ApiError::Unauthorized(_)));
        assert!(matches!(of(403), ApiError::Forbidden(_)));
        assert!(matches!(of(410), ApiError::Expired));
        assert!(matches!(of(422), ApiError::Rejected(_)));
        assert!(matches!(of(429), ApiError::Overloaded(_)));
        assert!(matches!(of(504), ApiError::Overloaded(_)));
    }

    #[track_caller]
    fn check_tls(error: rustls::Error, expect: &str) {
        let handshake = io::Error::new(io::ErrorKind::InvalidData, error);
        let wrapped = kube::Error::Service(Box::new(io::Error::other(handshake)));
        let error = ApiError::from(&wrapped);
        assert_eq!(
            error.cause(&server()),
            format!("the API server cannot be reached: TLS to api.example:6443: {expect}")
        );
        assert_eq!(error.metric_reason(), "unreachable");
    }

    #[test]
    fn each_problem_of_a_handshake_has_a_cause_and_a_remedy() {
        use rustls::CertificateError;
        use rustls::pki_types::UnixTime;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        check_tls(
            CertificateError::UnknownIssuer.into(),
            "the certificate is signed by an unknown authority; check certificate-authority in the kubeconfig",
        );
        check_tls(
            CertificateError::ExpiredContext {
                time: at(1_800_000_000),
                not_after: at(1_700_000_000),
            }
            .into(),
            "the certificate expired at 2023-11-14T22:13:20Z; it is 2027-01-15T08:00:00Z now; renew the certificate, or \
             check the clock",
        );
        check_tls(
            CertificateError::NotValidForNameContext {
                expected: "api.example".try_into().unwrap(),
                presented: vec!["other.example".to_owned()],
            }
            .into(),
            "the certificate is valid for other.example and not for api.example; check the server in the kubeconfig, or \
             set tls-server-name",
        );
        check_tls(
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            "the server speaks plain HTTP (or another protocol) instead of TLS; check scheme and port of the server in \
             the kubeconfig",
        );
    }

    #[track_caller]
    fn check_io(kind: io::ErrorKind, expect: &str) {
        let error = kube::Error::Service(Box::new(io::Error::new(kind, "x")));
        let cause = ApiError::from(&error).cause(&server());
        assert_eq!(cause, format!("the API server cannot be reached: {expect}"));
    }

    #[test]
    fn each_step_of_a_connection_has_a_cause_and_a_remedy() {
        check_io(
            io::ErrorKind::ConnectionRefused,
            "connection refused by api.example:6443; check that the API server runs there",
        );
        check_io(
            io::ErrorKind::HostUnreachable,
            "no route to api.example:6443; check NetworkPolicy and firewall",
        );
        check_io(
            io::ErrorKind::ConnectionReset,
            "the connection to api.example:6443 fails",
        );
    }

    #[test]
    fn a_server_without_a_port_listens_on_that_of_its_scheme() {
        let of = |url: &'static str| ServerAddress::of(&http::Uri::from_static(url)).to_string();
        assert_eq!(of("https://api.example"), "api.example:443");
        assert_eq!(of("http://api.example"), "api.example:80");
        assert_eq!(of("https://[fd00::1]:6443"), "[fd00::1]:6443");
    }
}
