//! Where the watch loop starts again after an attempt, and when: a pure function over its states (core).

use std::time::{Duration, Instant};

use super::super::error::ApiError;
use super::super::permission::Denial;

/// A 410 within this time after another one counts as a further failure.
const GONE_AGAIN: Duration = Duration::from_mins(1);
/// A watch that lived this long was a good one: what follows it is the first failure.
pub(super) const GOOD_LIFE: Duration = Duration::from_secs(10);

/// Where the loop is between two attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::discovery::kubernetes) enum Position {
    /// Nothing was read yet, or what was read is too old for the server: the whole set must be read first.
    Empty,
    /// The whole set as of this resource version is stored, and a watch continues from it.
    Listed(String),
}

/// How an attempt ended.
#[derive(Debug)]
pub(in crate::discovery::kubernetes) enum End {
    /// The server closed the watch, as it does every few minutes.
    Closed,
    /// Nothing arrived for too long.
    Silent,
    /// A request failed, or the server reported an error within the watch.
    Failed(ApiError),
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::discovery::kubernetes) enum Restart {
    /// Start the next attempt at once: nothing is wrong.
    Now,
    /// Wait a moment that does not grow: the server has restarted.
    Soon,
    /// Wait for longer after each failure.
    Backoff,
    /// Ask again soon, to find out whether a 403 lasts.
    CheckDenial,
    /// Watching is denied for good.
    GiveUp,
}

/// Whether the set is read as a stream of initial events (Kubernetes 1.32 and later) instead of page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::discovery::kubernetes) enum Streaming {
    /// It is tried.
    Tried,
    /// A stream fell silent: the next sets are read page by page until watching starts over.
    Stalled,
    /// The server does not know it.
    Unsupported,
}

/// What the loop remembers of earlier attempts.
#[derive(Debug)]
pub(in crate::discovery::kubernetes) struct History {
    pub(super) streaming: Streaming,
    pub(super) n_silent: u32,
    pub(super) last_gone: Option<Instant>,
    pub(super) denial: Denial,
}

/// One attempt, as [`after`] sees it.
#[derive(Debug)]
pub(in crate::discovery::kubernetes) struct Attempt {
    pub(super) end: End,
    /// How long it took.
    pub(super) lived: Duration,
    /// When it ended.
    pub(super) at: Instant,
}

/// Says where the next attempt starts, and when.
pub(in crate::discovery::kubernetes) fn after(
    attempt: &Attempt,
    position: &mut Position,
    history: &mut History,
    grace: Duration,
) -> Restart {
    let was_empty = *position == Position::Empty;
    match &attempt.end {
        End::Closed if attempt.lived >= GOOD_LIFE => {
            history.n_silent = 0;
            Restart::Now
        }
        End::Silent => {
            history.n_silent += 1;
            // The first silence may be the connection. The second is the resource version, or streaming.
            if was_empty && history.streaming == Streaming::Tried {
                history.streaming = Streaming::Stalled;
            } else if history.n_silent > 1 {
                *position = Position::Empty;
            }
            Restart::Backoff
        }
        End::Failed(ApiError::Expired) => {
            *position = Position::Empty;
            // The first one means that the server has restarted, and nothing about this client.
            let is_first = history
                .last_gone
                .is_none_or(|last| attempt.at.saturating_duration_since(last) > GONE_AGAIN);
            history.last_gone = Some(attempt.at);
            if is_first { Restart::Soon } else { Restart::Backoff }
        }
        End::Failed(ApiError::Forbidden(_)) => {
            if history.denial.lasts(attempt.at, grace) {
                Restart::GiveUp
            } else {
                Restart::CheckDenial
            }
        }
        End::Failed(ApiError::Rejected(_)) if was_empty && history.streaming != Streaming::Unsupported => {
            history.streaming = Streaming::Unsupported;
            Restart::Now
        }
        End::Failed(ApiError::Rejected(_)) => {
            // A version that the server rejects must not be repeated for ever.
            *position = Position::Empty;
            Restart::Backoff
        }
        // A watch that was closed soon, or a server that fails.
        End::Closed | End::Failed(_) => Restart::Backoff,
    }
}

impl Position {
    /// Continues from a later version, where an object names one.
    pub(super) fn advance(&mut self, version: Option<String>) {
        if let Some(version) = version {
            *self = Self::Listed(version);
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            streaming: Streaming::Tried,
            n_silent: 0,
            last_gone: None,
            denial: Denial::default(),
        }
    }
}

impl History {
    /// Forgets what concerned one run only.
    pub(super) fn start_over(&mut self) {
        if self.streaming == Streaming::Stalled {
            self.streaming = Streaming::Tried;
        }
        self.n_silent = 0;
        self.last_gone = None;
    }
}
