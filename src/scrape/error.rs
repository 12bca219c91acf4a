//! Why a scrape of a target failed.

use std::time::Duration;

use http::StatusCode;

use super::client::ClientError;
use exposition::Refusal;

/// Why a scrape gave no samples.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// There is no connection to the target.
    #[error("cannot connect")]
    Connect(#[source] ClientError),
    /// The request failed before the head of the response was complete.
    #[error("cannot read the response")]
    Request(#[source] ClientError),
    /// The response was not complete before the deadline.
    #[error("no complete response within {:.1} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// A redirect. It is not followed, because a target must not make the proxy send requests elsewhere.
    #[error("the target responded with a redirect ({0}), which is not followed")]
    Redirect(StatusCode),
    /// Any other status than 200.
    #[error("the target responded with {0}")]
    Status(StatusCode),
    /// The connection ended within the body.
    #[error("the body ended after {read_bytes} bytes")]
    Body {
        /// Bytes received so far.
        read_bytes: u64,
        /// The error of the connection.
        #[source]
        source: hyper::Error,
    },
    /// The body is not what its Content-Encoding says.
    #[error("the body is not valid gzip")]
    Gzip(#[source] std::io::Error),
    /// The body exceeds `--max-body-bytes`.
    #[error("the body exceeds {limit_bytes} bytes; raise --max-body-bytes or reduce what the target exposes")]
    TooLarge {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// All bodies together exceed the limit, and this one is among the largest.
    #[error(
        "all bodies together exceed {limit_bytes} bytes and this is among the largest; raise --max-held-bytes or use shards"
    )]
    MemoryBudget {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// The body is not an exposition, or exceeds one of its limits.
    #[error("{0}")]
    Refused(Refusal),
    /// During the scrape, the pod's address was assigned to another pod.
    #[error("the pod lost its address while it was scraped")]
    Moved,
    /// A bug: the task of the scrape ended without a result.
    #[error("the scrape ended without a result; please report this")]
    Lost,
}

impl ScrapeError {
    /// The stable word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Request(_) => "request",
            Self::Deadline(_) => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Body { .. } => "body",
            Self::Gzip(_) => "gzip",
            Self::TooLarge { .. } => "body_bytes",
            Self::MemoryBudget { .. } => "held_bytes",
            Self::Refused(refusal) => refusal.kind.as_str(),
            Self::Moved => "moved",
            Self::Lost => "internal",
        }
    }
}
