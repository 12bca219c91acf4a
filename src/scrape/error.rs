//! Why a scrape of a target failed: the cause in the words of the field, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;

use super::client::ClientError;
use super::content::NotMetrics;
use super::deadline::TimeLimit;
use super::progress::Step;
use super::redirect::MAX_REDIRECTS;
use crate::targets::{Scheme, Target};
use crate::tls::TlsFault;
use exposition::Rejection;

/// What the texts say about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The address.
    pub address: SocketAddr,
    /// The scheme.
    pub scheme: Scheme,
}

impl From<&Target> for Asked {
    fn from(target: &Target) -> Self {
        Self {
            address: target.address,
            scheme: target.scheme,
        }
    }
}

/// Why a scrape gave no samples. [`fmt::Display`] gives the cause and, after a semicolon, the remedy.
#[derive(Debug)]
pub enum ScrapeError {
    /// There is no connection, or no HTTP response.
    Request(Asked, ClientError),
    /// The response was not complete before the deadline.
    Deadline {
        /// The time that there was.
        after: Duration,
        /// What set it.
        limit: TimeLimit,
        /// What the scrape was doing.
        step: Step,
        /// The target.
        asked: Asked,
    },
    /// A redirect to another address.
    RedirectElsewhere {
        /// The status.
        status: StatusCode,
        /// The Location, shortened for display.
        location: String,
    },
    /// Too many redirects, or one without a usable Location.
    RedirectUnusable {
        /// The status.
        status: StatusCode,
        /// The Location, shortened for display.
        location: Option<String>,
    },
    /// Any other status than 200.
    Status {
        /// The status.
        status: StatusCode,
        /// The start of the body, shortened for display.
        body: String,
    },
    /// The connection ended within the body.
    Body {
        /// Bytes received so far.
        read_bytes: u64,
        /// Why, if the connection says more than that it ended.
        reason: String,
    },
    /// The body arrives in very small pieces, each of which costs CPU time.
    Fragmented {
        /// The number of pieces.
        pieces: u64,
        /// Bytes received so far.
        read_bytes: u64,
    },
    /// The body is not what its Content-Encoding says.
    Gzip(std::io::Error),
    /// The body exceeds `--max-body-bytes`.
    TooLarge {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// Everything that is in memory exceeds the limit, and this target is among the largest.
    MemoryBudget {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// The body is something else than an exposition.
    NotMetrics(NotMetrics),
    /// The body is not an exposition, or exceeds one of its limits.
    Refused(Rejection),
    /// During the scrape, the pod's address was assigned to another pod.
    Moved,
    /// A bug: the task of the scrape ended without a result.
    Lost,
}

impl std::error::Error for ScrapeError {}

impl fmt::Display for ScrapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        let remedy = self.remedy();
        if !remedy.is_empty() {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl ScrapeError {
    /// Returns whether nothing listens at the address: the connection was refused.
    pub fn is_connection_refused(&self) -> bool {
        matches!(
            self,
            Self::Request(_, ClientError::Connect(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused
        )
    }

    /// The stable word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request(_, error) if error.is_connect() => "connect",
            Self::Request(..) => "request",
            Self::Deadline { .. } => "timeout",
            Self::RedirectElsewhere { .. } | Self::RedirectUnusable { .. } => "redirect",
            Self::Status { .. } => "status",
            Self::Body { .. } | Self::Fragmented { .. } => "body",
            Self::Gzip(_) => "gzip",
            Self::TooLarge { .. } => "body_bytes",
            Self::MemoryBudget { .. } => "memory_budget",
            Self::NotMetrics(NotMetrics::Protobuf) => "protobuf",
            Self::NotMetrics(_) => "parse",
            Self::Refused(refusal) => refusal.kind.as_str(),
            Self::Moved => "moved",
            Self::Lost => "internal",
        }
    }

    /// What is wrong.
    pub fn cause(&self) -> String {
        match self {
            Self::Request(asked, error) => request_cause(*asked, error),
            Self::Deadline {
                after,
                limit,
                step,
                asked,
            } => deadline_cause(*after, *limit, *step, *asked),
            Self::RedirectElsewhere { status, location } => {
                format!("redirected ({status}) to {location}, which is another address and is not followed")
            }
            Self::RedirectUnusable {
                status,
                location: None,
            } => {
                format!("redirected ({status}) without a usable Location")
            }
            Self::RedirectUnusable {
                status,
                location: Some(location),
            } => format!("redirected ({status}) more than {MAX_REDIRECTS} times, at last to {location}"),
            Self::Status { status, body } if body.is_empty() => format!("HTTP status {status}"),
            Self::Status { status, body } => format!("HTTP status {status}: {body}"),
            Self::Body { read_bytes, reason } if reason.is_empty() => {
                format!("the connection was closed within the body, after {read_bytes} bytes")
            }
            Self::Body { read_bytes, reason } => {
                format!("the connection broke within the body, after {read_bytes} bytes: {reason}")
            }
            Self::Fragmented { pieces, read_bytes } => {
                format!("the body arrives in very small chunks: {read_bytes} bytes in {pieces} chunks")
            }
            Self::Gzip(error) => format!("the body is not valid gzip: {error}"),
            Self::TooLarge { limit_bytes } => format!("the body exceeds {limit_bytes} bytes"),
            Self::MemoryBudget { limit_bytes } => {
                format!(
                    "all scrapes together need more memory than the budget of {limit_bytes} bytes, and this one is among the largest"
                )
            }
            Self::NotMetrics(found) => found.to_string(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::Moved => "the pod lost its address while it was scraped".to_owned(),
            Self::Lost => "the scrape ended without a result".to_owned(),
        }
    }

    /// What to do about it; empty if nothing can be said.
    pub fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Request(asked, error) => return request_remedy(*asked, error),
            Self::Deadline { limit, step, .. } => return deadline_remedy(*limit, *step),
            Self::RedirectElsewhere { .. } => {
                "set prometheus.io/path (or port, or scheme) to where the pod itself serves its metrics"
            }
            Self::RedirectUnusable { .. } => "set prometheus.io/path to the path that serves the metrics",
            Self::Status { status, body } => return status_remedy(*status, body).into(),
            Self::Body { .. } => "look at the pod's own log",
            Self::Fragmented { .. } => "let the exporter write larger pieces",
            Self::Gzip(_) => "look at what compresses the response",
            Self::TooLarge { .. } => "raise --max-body-bytes or reduce what the target exposes",
            Self::MemoryBudget { .. } => {
                "raise --memory-budget, use shards, or reduce what the target exposes"
            }
            Self::NotMetrics(found) => found.remedy(),
            Self::Refused(_) | Self::Moved => "",
            Self::Lost => "please report this",
        }
        .into()
    }
}

fn request_cause(asked: Asked, error: &ClientError) -> String {
    let Asked { address, .. } = asked;
    match error {
        ClientError::Connect(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {address}")
        }
        ClientError::Connect(_) | ClientError::ConnectTimeout(_) => {
            format!("cannot connect to {address}: {error}")
        }
        ClientError::NoDescriptor => "this process has no free file descriptor".to_owned(),
        ClientError::Tls(TlsFault::NotTls) => {
            format!("{address} speaks HTTP (or another protocol) where https is asked")
        }
        ClientError::Tls(fault) => format!("TLS with {address} failed: {fault}"),
        ClientError::TlsClosed(_) => {
            format!("{address} ended the TLS handshake: {error}")
        }
        ClientError::Closed => format!("{address} closed the connection without a response"),
        ClientError::TlsOnHttp => format!("{address} speaks https where http is asked"),
        ClientError::Broken(_) => format!("the connection broke within the head of the response: {error}"),
        ClientError::HeadTooLarge => error.to_string(),
        ClientError::NotHttp(text) => format!("{address} does not speak HTTP/1: {text}"),
        ClientError::Invalid(source) => format!("the path cannot be part of a URL: {source}"),
    }
}

fn request_remedy(asked: Asked, error: &ClientError) -> Cow<'static, str> {
    let default_port = match asked.scheme {
        Scheme::Http => asked.address.port() == 80,
        Scheme::Https => false,
    };
    match error {
        ClientError::Connect(io) if io.kind() == std::io::ErrorKind::ConnectionRefused && default_port => {
            "80 is the default: set prometheus.io/port to the port that serves the metrics"
        }
        ClientError::Connect(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            "check prometheus.io/port against the container's ports"
        }
        ClientError::Connect(_) | ClientError::ConnectTimeout(_) => {
            "check NetworkPolicies and the network between the two pods"
        }
        ClientError::NoDescriptor => "raise the limit on open files of the service",
        ClientError::Tls(TlsFault::NotTls) => "set prometheus.io/scheme to http",
        ClientError::Tls(TlsFault::UnknownAuthority) => {
            "give the authority with --target-ca FILE, or use --target-insecure-skip-verify"
        }
        ClientError::Tls(TlsFault::Expired { .. }) => {
            "renew the certificate, or check the clock of this machine"
        }
        ClientError::Tls(TlsFault::NotYetValid { .. }) => {
            "check the clocks of this machine and of the certificate's issuer"
        }
        ClientError::Tls(TlsFault::OtherName { .. }) => {
            "use a certificate with the pod's address, or --target-insecure-skip-verify"
        }
        ClientError::Tls(_) => {
            "see docs/reference/tls.md; --target-insecure-skip-verify accepts any certificate"
        }
        ClientError::TlsClosed(_) => "if it speaks plain HTTP, set prometheus.io/scheme to http",
        ClientError::Closed => {
            return match asked.scheme {
                Scheme::Http => {
                    "if it speaks https, set prometheus.io/scheme to https; else look at the pod's log"
                }
                Scheme::Https => "look at the pod's own log",
            }
            .into();
        }
        ClientError::TlsOnHttp => "set prometheus.io/scheme to https",
        ClientError::Broken(_) => "look at the pod's own log",
        ClientError::HeadTooLarge => "let the target send fewer or smaller headers",
        ClientError::NotHttp(_) => "check prometheus.io/port: another service listens there",
        ClientError::Invalid(_) => "correct prometheus.io/path",
    }
    .into()
}

fn deadline_cause(after: Duration, limit: TimeLimit, step: Step, asked: Asked) -> String {
    let seconds = after.as_secs_f64();
    let address = asked.address;
    let doing = match step {
        Step::Queue => format!("waiting for other connections to {}", address.ip()),
        Step::Connect => format!("connecting to {address}"),
        Step::TlsHandshake => "in the TLS handshake".to_owned(),
        Step::Response => "waiting for the response".to_owned(),
        Step::Body => "reading the body".to_owned(),
        Step::Parse => "decompressing and parsing the body".to_owned(),
    };
    let whose = match limit {
        TimeLimit::Setting => "--timeout",
        TimeLimit::Scraper => "the scraper's timeout",
    };
    format!("no complete response within {seconds:.1} s ({whose}): still {doing}")
}

fn deadline_remedy(limit: TimeLimit, step: Step) -> Cow<'static, str> {
    match (step, limit) {
        (Step::Queue, _) => "raise --max-connections-per-target-ip, or find out which targets there hang",
        (Step::TlsHandshake, _) => "if the target speaks plain HTTP, set prometheus.io/scheme to http",
        (Step::Connect, _) => "check NetworkPolicies and the network between the two pods",
        (Step::Parse, _) => "reduce what the target exposes, or give this process more CPU",
        (_, TimeLimit::Setting) => {
            "make the exporter faster, or raise --timeout (SCRAPE_TIMEOUT) and the scraper's scrape_timeout"
        }
        (_, TimeLimit::Scraper) => {
            "make the exporter faster, or raise the scraper's scrape_timeout and --timeout (SCRAPE_TIMEOUT)"
        }
    }
    .into()
}

fn status_remedy(status: StatusCode, body: &str) -> &'static str {
    match status.as_u16() {
        401 | 403 | 407 => {
            "the pod wants credentials and metrics-proxy sends none: expose the metrics without a login inside the cluster"
        }
        404 | 405 | 410 => "set prometheus.io/path to the path that serves the metrics",
        400 if body.to_ascii_lowercase().contains("https") => "set prometheus.io/scheme to https",
        500..=599 => "look at the pod's own log",
        _ => "check prometheus.io/port and prometheus.io/path",
    }
}
