//! What can go wrong with a request to Pebble.

use std::path::PathBuf;
use std::time::Duration;

/// A request to Pebble that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PebbleError {
    /// There is no socket, or nobody listens on it.
    #[error("cannot connect to Pebble at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    /// The connection broke.
    #[error("cannot finish {request}")]
    Broken {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer to {request} within {limit:?}")]
    Late {
        /// Method and path.
        request: String,
        /// What we would have waited.
        limit: Duration,
    },
    /// Pebble's own error.
    #[error("Pebble refused {request} ({status}): {message}")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Pebble's words.
        message: String,
    },
    /// An answer that is not Pebble's.
    #[error("cannot understand the answer to {request}")]
    Answer {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// An answer larger than any of Pebble's.
    #[error("the answer to {request} exceeds {limit_bytes} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// Pebble's plan in words that we cannot read.
    #[error("cannot read Pebble's plan")]
    Plan(#[from] super::PlanError),
    /// A change that Pebble started and that failed.
    #[error("Pebble's change {id} ended as {status}: {message}")]
    Change {
        /// Its number, for `pebble tasks`.
        id: String,
        /// How it ended.
        status: String,
        /// Pebble's words.
        message: String,
    },
}

impl PebbleError {
    /// Whether Pebble knows us and does not let us: 401, whatever the resource.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. })
    }

    /// Whether Pebble has no such resource, as one that is too old.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether Pebble was not reached, so that it is worth trying again.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Broken { .. } | Self::Late { .. }
        )
    }

    /// Whether nobody is there: no socket, or one that a Pebble left behind.
    pub fn is_absent(&self) -> bool {
        let Self::Connect { source, .. } = self else {
            return false;
        };
        let mut cause: Option<&dyn std::error::Error> = Some(source);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                );
            }
            cause = error.source();
        }
        false
    }

    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Broken { .. } => "broken",
            Self::Late { .. } => "late",
            Self::Refused { status: 401, .. } => "denied",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } | Self::TooLarge { .. } | Self::Plan(_) => "answer",
            Self::Change { .. } => "change",
        }
    }
}
