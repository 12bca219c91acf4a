//! A flag that stops long work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a merge to stop: when a deadline has passed, or when the scraper has disconnected. Cheap to clone; clones share the
/// flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The work was stopped by [`Cancel::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the merge was cancelled")
    }
}

impl std::error::Error for Cancelled {}

impl Cancel {
    /// Stops the work within 100 ms.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    /// As [`check`](Self::check), at one step of many only: an item is much cheaper than looking at memory that other
    /// threads write.
    pub(crate) fn check_at(&self, step: usize) -> Result<(), Cancelled> {
        if step.is_multiple_of(STEPS) {
            self.check()
        } else {
            Ok(())
        }
    }
}

/// Steps between two checks. A step takes a few microseconds at most.
const STEPS: usize = 1024;
