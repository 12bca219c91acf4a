//! One log line for each change of a target's state, limited in rate.
//!
//! Logs are what many operators have: a target that goes down is in them once, with its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::targets::Target;

/// Lines per [`WINDOW`]. A fault that takes down all pods must not flood the log.
const MAX_LINES: u64 = 60;

const WINDOW: Duration = Duration::from_mins(1);

/// A change of a target's state.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Down {
        target: Arc<Target>,
        reason: &'static str,
        error: String,
    },
    Up {
        target: Arc<Target>,
        /// How long it was down.
        after: Duration,
    },
}

/// Counts lines, and those that were left out.
#[derive(Debug, Default)]
pub(super) struct TargetLog {
    window_began: Option<Instant>,
    n_lines: u64,
    n_suppressed: u64,
}

impl TargetLog {
    /// Logs the changes of one fan-out.
    pub(super) fn log(&mut self, changes: &[Change], now: Instant) {
        let n_suppressed = self.begin_window(now);
        if n_suppressed > 0 {
            tracing::info!(
                count = n_suppressed,
                "More targets changed state; their state is on /targets"
            );
        }
        for change in changes {
            if self.allows_line() {
                change.log();
            }
        }
    }

    /// Begins the next window where the present one is over; returns the number of lines that it left out.
    fn begin_window(&mut self, now: Instant) -> u64 {
        let is_over = self
            .window_began
            .is_none_or(|began| now.duration_since(began) >= WINDOW);
        if !is_over {
            return 0;
        }
        self.window_began = Some(now);
        self.n_lines = 0;
        std::mem::take(&mut self.n_suppressed)
    }

    fn allows_line(&mut self) -> bool {
        if self.n_lines >= MAX_LINES {
            self.n_suppressed += 1;
            return false;
        }
        self.n_lines += 1;
        true
    }
}

impl Change {
    fn log(&self) {
        let name = |target: &Target| format!("{}/{}", target.pod.namespace, target.pod.name);
        match self {
            Self::Down {
                target,
                reason,
                error,
            } => {
                let url = target.public_url();
                tracing::info!(target = name(target), url, reason, error, "Target went down");
            }
            Self::Up { target, after } => {
                let url = target.public_url();
                tracing::info!(
                    target = name(target),
                    url,
                    after = age(*after),
                    "Target came back"
                );
            }
        }
    }
}

/// A duration in its two largest units: `12m5s`, `3h4m`, `2d1h`.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, size)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut text = String::new();
    for (unit, size) in units.iter().skip(first).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_changes_is_cut_and_counted() {
        let mut log = TargetLog::default();
        let start = Instant::now();
        assert_eq!(log.begin_window(start), 0);
        let allowed = (0..100).filter(|_| log.allows_line()).count() as u64;
        assert_eq!(allowed, MAX_LINES);
        assert_eq!(log.begin_window(start + WINDOW / 2), 0);
        assert!(!log.allows_line());
        assert_eq!(log.begin_window(start + WINDOW), 41);
        assert!(log.allows_line());
        assert_eq!(log.begin_window(start + WINDOW * 2), 0);
    }

    #[track_caller]
    fn check_age(seconds: u64, expect: &str) {
        assert_eq!(age(Duration::from_secs(seconds)), expect);
    }

    #[test]
    fn an_age_has_two_units() {
        check_age(0, "0s");
        check_age(59, "59s");
        check_age(60, "1m");
        check_age(725, "12m5s");
        check_age(3 * 3600 + 240 + 7, "3h4m");
        check_age(2 * 86_400 + 3600, "2d1h");
        check_age(2 * 86_400 + 5, "2d");
    }
}
