//! Pods as they are: watched, listed or read from files, and published as one [`Snapshot`] (shell).

use std::sync::Arc;
use std::time::Instant;

use crate::target::TargetSet;

/// How far discovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sync {
    /// Nothing is known yet, and why; the text is the answer's reason.
    Pending(String),
    /// The set was complete at some moment and is kept up since.
    Synced,
    /// Not allowed at all; the text names the remedy.
    Refused(String),
}

/// What discovery knows at a moment. Replaced whole, never changed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How far discovery is.
    pub sync: Sync,
    /// The targets.
    pub targets: Arc<TargetSet>,
    /// When the set was last known to be right.
    pub confirmed_at: Option<Instant>,
}

/// Latest snapshot, shared with the server.
pub type Snapshots = tokio::sync::watch::Receiver<Arc<Snapshot>>;
