//! Debounce of readings (pure apart from the clock's type).

use std::time::Duration;

use tokio::time::Instant;

use super::{Fingerprint, Reading, Refusal};

/// The secret once it has been unchanged for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StableSecret {
    /// It has not been unchanged for long enough yet.
    Unknown,
    /// There is none, since then.
    Absent(Instant),
    /// There is one that cannot be used.
    Refused(Refusal),
    /// There is a credential; [`super::Watcher::credential`] reads it while it is needed.
    Usable(Fingerprint),
}

/// Accepts a reading after it has been unchanged for `duration`, so that two files which are written one after the other
/// are never read as a mixed pair.
#[derive(Debug)]
pub(super) struct Debounce {
    duration: Duration,
    candidate: Option<(Fingerprint, Instant)>,
    accepted: Option<(Fingerprint, StableSecret)>,
}

impl Debounce {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            duration,
            candidate: None,
            accepted: None,
        }
    }

    pub(super) fn stable(&self) -> StableSecret {
        self.accepted
            .as_ref()
            .map_or(StableSecret::Unknown, |(_, secret)| secret.clone())
    }

    /// Takes a reading; returns when it becomes stable, if it stays the same.
    pub(super) fn observe(
        &mut self,
        fingerprint: Fingerprint,
        reading: &Reading,
        now: Instant,
    ) -> Option<Instant> {
        if self
            .accepted
            .as_ref()
            .is_some_and(|(accepted, _)| *accepted == fingerprint)
        {
            self.candidate = None;
            return None;
        }
        let since = match self.candidate {
            Some((candidate, since)) if candidate == fingerprint => since,
            _ => now,
        };
        self.candidate = Some((fingerprint, since));
        if now < since + self.duration {
            return Some(since + self.duration);
        }
        self.candidate = None;
        let secret = match reading {
            Reading::Absent => StableSecret::Absent(since),
            Reading::Refused(refusal) => StableSecret::Refused(refusal.clone()),
            Reading::Usable(_) => StableSecret::Usable(fingerprint),
        };
        self.accepted = Some((fingerprint, secret));
        None
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::secret::{Fingerprints, parse_entries};

    fn reading(username: &str, password: &str) -> Reading {
        let own = |text: &str| Some(Zeroizing::new(text.as_bytes().to_vec()));
        parse_entries(own(username), own(password), false)
    }

    /// Feeds readings at milliseconds; returns the stable state after each.
    #[track_caller]
    fn check(readings: &[(u64, Reading)], expect: &[Option<&Reading>]) {
        let fingerprints = Fingerprints::default();
        let mut debounce = Debounce::new(Duration::from_secs(1));
        let start = Instant::now();
        for ((at, reading), expect) in readings.iter().zip(expect) {
            let now = start + Duration::from_millis(*at);
            debounce.observe(fingerprints.of(reading), reading, now);
            match (debounce.stable(), expect) {
                (StableSecret::Unknown, None) | (StableSecret::Absent(_), Some(Reading::Absent)) => {}
                (StableSecret::Refused(refusal), Some(Reading::Refused(expect))) => {
                    assert_eq!(&refusal, expect);
                }
                (StableSecret::Usable(stable), Some(expect)) => assert_eq!(stable, fingerprints.of(expect)),
                (stable, expect) => panic!("at {at}: {stable:?} is not {expect:?}"),
            }
        }
    }

    #[test]
    fn a_mixed_pair_is_never_accepted() {
        let (old, mixed, new) = (reading("a", "1"), reading("b", "1"), reading("b", "2"));
        check(
            &[
                (0, old.clone()),
                (1000, old.clone()),
                (5000, mixed),
                (5300, new.clone()),
                (6000, new.clone()),
                (6300, new.clone()),
            ],
            &[None, Some(&old), Some(&old), Some(&old), Some(&old), Some(&new)],
        );
    }

    #[test]
    fn what_comes_back_was_never_away() {
        let old = reading("a", "1");
        check(
            &[
                (0, old.clone()),
                (1000, old.clone()),
                (2000, Reading::Absent),
                (2500, old.clone()),
                (3100, Reading::Absent),
                (4100, Reading::Absent),
            ],
            &[
                None,
                Some(&old),
                Some(&old),
                Some(&old),
                Some(&old),
                Some(&Reading::Absent),
            ],
        );
    }
}
