//! Work that can be stopped.

/// The work was stopped because its caller asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the merge was cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// Asks the caller whether to stop.
#[derive(Clone, Copy)]
pub(crate) struct Cancel<'a>(&'a dyn Fn() -> bool);

impl<'a> Cancel<'a> {
    pub(crate) fn new(is_cancelled: &'a dyn Fn() -> bool) -> Self {
        Self(is_cancelled)
    }

    pub(crate) fn check(self) -> Result<(), Cancelled> {
        if (self.0)() { Err(Cancelled) } else { Ok(()) }
    }

    /// As [`check`](Self::check), but only at one step of many: a step may cost less than the question.
    pub(crate) fn check_at(self, step: usize) -> Result<(), Cancelled> {
        if step.is_multiple_of(STEPS) {
            self.check()
        } else {
            Ok(())
        }
    }
}

/// Steps between two questions. A step takes a few microseconds at most.
const STEPS: usize = 1024;
