//! Errors of a request to Pebble.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

/// A request to Pebble that failed. `request` is method and path.
#[derive(Debug, thiserror::Error)]
pub enum PebbleError {
    /// There is no socket, nothing listens on it, or this user may not reach it.
    #[error("cannot connect to Pebble at {}: {}", socket.display(), connect_reason(*kind))]
    Connect { socket: PathBuf, kind: ErrorKind },
    /// The connection broke.
    #[error("cannot finish {request}")]
    Broken {
        request: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There was no response in time.
    #[error("no response to {request} within {limit:?}")]
    Timeout { request: String, limit: Duration },
    /// Pebble's own error, in its words.
    #[error("Pebble refused {request} ({status}): {message}")]
    Refused {
        request: String,
        status: u16,
        message: String,
    },
    /// The response is not in Pebble's format.
    #[error("cannot parse the response to {request}")]
    Response {
        request: String,
        #[source]
        source: serde_json::Error,
    },
    /// The response is larger than any of Pebble's.
    #[error("the response to {request} exceeds {limit_bytes} bytes")]
    TooLarge { request: String, limit_bytes: usize },
    /// The plan cannot be parsed.
    #[error("cannot read Pebble's plan")]
    Plan(#[from] super::PlanError),
    /// A change that Pebble started failed; `pebble tasks ID` shows more.
    #[error("Pebble's change {id} ended as {status}: {message}")]
    Change {
        id: String,
        status: String,
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
            Self::Connect { .. } | Self::Broken { .. } | Self::Timeout { .. }
        )
    }

    /// Whether there is no socket, or one that an ended Pebble left behind.
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Connect {
                kind: ErrorKind::NotFound | ErrorKind::ConnectionRefused,
                ..
            }
        )
    }

    /// Whether this user may not reach the socket, as in a folder of mode 0700.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Connect {
                kind: ErrorKind::PermissionDenied,
                ..
            }
        )
    }

    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Broken { .. } => "broken",
            Self::Timeout { .. } => "timeout",
            Self::Refused { status: 401, .. } => "denied",
            Self::Refused { .. } => "refused",
            Self::Response { .. } | Self::TooLarge { .. } | Self::Plan(_) => "response",
            Self::Change { .. } => "change",
        }
    }
}

/// Why a connection failed, and what to do.
fn connect_reason(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::NotFound => "there is no socket; start Pebble, or set --pebble-socket".to_owned(),
        ErrorKind::ConnectionRefused => "nothing listens on it; start Pebble".to_owned(),
        ErrorKind::PermissionDenied => format!(
            "permission denied for uid {}; run this as Pebble's user or as root",
            rustix::process::geteuid().as_raw()
        ),
        kind => kind.to_string(),
    }
}

/// The reason of the operating system, among the causes of an HTTP client's error.
pub(super) fn io_kind(error: &(dyn Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind();
        }
        cause = error.source();
    }
    ErrorKind::Other
}
