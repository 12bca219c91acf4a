//! The wait between attempts after failures (leaf).
//!
//! The wait doubles from a first value up to a cap. Half of it is random, so that proxies that lost the same server at
//! the same moment do not return to it at the same moment.

use std::time::Duration;

use rand::Rng as _;

/// Counts consecutive failures and gives the wait after each.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of at most `first` after the first failure, and of at most `cap` after many.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            failures: 0,
        }
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts one more failure and gives the wait after it.
    pub fn next_delay(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        jittered(doubled.min(self.cap))
    }
}

/// A random duration between half of `duration` and all of it.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_differ() {
        let (first, cap) = (Duration::from_millis(200), Duration::from_secs(4));
        let mut backoff = Backoff::new(first, cap);
        assert!(backoff.next_delay() <= first);
        let waits: Vec<_> = (0..40).map(|_| backoff.next_delay()).collect();
        let late = &waits[10..];
        assert!(late.iter().all(|wait| (cap / 2..=cap).contains(wait)));
        assert!(late.windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }
}
