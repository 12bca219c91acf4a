//! How long the targets of one answer may take.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config;

/// The least that is left for targets whatever was kept back: an answer without targets helps nobody.
const LEAST: Duration = Duration::from_millis(50);

/// The time for the targets of one answer: the smaller of our own timeout and what the scraper's header leaves after
/// the offset, less the time that writing answers took lately (but never more than half).
///
/// A header that is not a positive, finite number of seconds is ignored, as exporters do.
pub fn budget(settings: &config::Scrape, header: Option<&str>, write_time: Duration) -> Duration {
    let theirs = header
        .and_then(|text| text.trim().parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|timeout| timeout.saturating_sub(settings.timeout_offset));
    let whole = theirs.map_or(settings.timeout, |theirs| theirs.min(settings.timeout));
    whole.saturating_sub(write_time.min(whole / 2)).max(LEAST)
}

/// How long the last few answers took to write.
#[derive(Debug, Default)]
pub struct WriteTimes {
    last: Mutex<VecDeque<Duration>>,
}

impl WriteTimes {
    const KEPT: usize = 4;

    /// Notes one more answer.
    pub fn note(&self, duration: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(duration);
        if last.len() > Self::KEPT {
            last.pop_front();
        }
    }

    /// What to expect of the next: the longest of the last few, since one that is too late is lost whole.
    pub fn expected(&self) -> Duration {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .max()
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: Option<&str>, write_ms: u64, expect_ms: u64) {
        let settings = config::Config::default().scrape;
        let budget = budget(&settings, header, Duration::from_millis(write_ms));
        assert_eq!(budget, Duration::from_millis(expect_ms), "{header:?}");
    }

    #[test]
    fn the_smaller_timeout_wins() {
        check(None, 0, 9_000);
        check(Some("10"), 0, 9_000);
        check(Some("9.5"), 0, 9_000);
        check(Some("2"), 0, 1_500);
        check(Some("1.25"), 0, 750);
        check(Some("1e2"), 0, 9_000);
    }

    #[test]
    fn writing_is_kept_back_but_never_more_than_half() {
        check(None, 1_000, 8_000);
        check(Some("2"), 500, 1_000);
        check(Some("2"), 60_000, 750);
    }

    #[test]
    fn a_useless_header_is_ignored() {
        for header in ["", "0", "-1", "NaN", "inf", "ten", "1e400", "1,5", "0x10"] {
            check(Some(header), 0, 9_000);
        }
    }

    #[test]
    fn something_is_left_for_targets_however_short_the_timeout() {
        check(Some("0.1"), 0, 50);
    }

    #[test]
    fn the_longest_of_the_last_four_answers_counts() {
        let times = WriteTimes::default();
        assert_eq!(times.expected(), Duration::ZERO);
        for ms in [900, 10, 20, 30] {
            times.note(Duration::from_millis(ms));
        }
        assert_eq!(times.expected(), Duration::from_millis(900));
        times.note(Duration::from_millis(5));
        assert_eq!(times.expected(), Duration::from_millis(30));
    }
}
