//! Waiting between attempts: short at first, never long, never in step with other proxies.

use std::time::Duration;

use rand::Rng as _;

/// The longest wait. Fifty proxies at this pace are a dozen requests a second for a server that comes back, and the
/// set is right a few seconds after it does.
const CAP: Duration = Duration::from_secs(4);
const FIRST: Duration = Duration::from_millis(200);

/// Counts failures in a row and says how long to wait.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Forgets all failures.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure: doubling up to [`CAP`], and from half of that on by chance.
    pub(super) fn next(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        jittered(doubled.min(CAP))
    }
}

/// Between half of `duration` and all of it.
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_differ() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= FIRST);
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        let late = &waits[10..];
        assert!(late.iter().all(|wait| (CAP / 2..=CAP).contains(wait)));
        assert!(late.windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
