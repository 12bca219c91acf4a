//! How long the targets of one response may take.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

/// The shortest time that targets get: a response without targets is useless, so even a scraper with a very short
/// timeout leaves them this much.
const MIN_FAN_OUT_TIME: Duration = Duration::from_millis(50);

/// What set the time of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLimit {
    /// `--timeout`.
    Setting,
    /// The scraper's own timeout, less `--timeout-offset`.
    Scraper,
}

/// When the scrapes of one response end.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// What set it.
    pub limit: TimeLimit,
}

impl Deadline {
    /// Returns the deadline of a response that was requested at `start`.
    ///
    /// The targets have the smaller of `--timeout` and of the scraper's own timeout less `--timeout-offset`, reduced by the time
    /// that writing took lately, by at most one half. `header` is the value of `X-Prometheus-Scrape-Timeout-Seconds`; a
    /// value that is not a positive, finite number of seconds is ignored, as exporters do.
    pub fn new(
        start: Instant,
        settings: &config::Scrape,
        header: Option<&str>,
        write_time: Duration,
    ) -> Self {
        let (time, limit) = fan_out_time(settings, header, write_time);
        Self {
            at: start + time,
            limit,
        }
    }

    /// The time that is left.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

fn fan_out_time(
    settings: &config::Scrape,
    header: Option<&str>,
    write_time: Duration,
) -> (Duration, TimeLimit) {
    let scraper_timeout = header
        .and_then(|text| text.trim().parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|timeout| timeout.saturating_sub(settings.timeout_offset));
    let (whole, limit) = match scraper_timeout {
        Some(timeout) if timeout < settings.timeout => (timeout, TimeLimit::Scraper),
        _ => (settings.timeout, TimeLimit::Setting),
    };
    let time = whole
        .saturating_sub(write_time.min(whole / 2))
        .max(MIN_FAN_OUT_TIME);
    (time, limit)
}

/// How long the last few responses took to write.
#[derive(Debug, Default)]
pub struct WriteTimes {
    last: Mutex<VecDeque<Duration>>,
}

impl WriteTimes {
    const REMEMBERED: usize = 4;

    /// Records the time of one more response.
    pub fn record(&self, duration: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(duration);
        if last.len() > Self::REMEMBERED {
            last.pop_front();
        }
    }

    /// Returns the longest of the recorded times. The longest and not the average, because a response that is late is
    /// lost as a whole.
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
        let (time, limit) = fan_out_time(&settings, header, Duration::from_millis(write_ms));
        let is_default = Duration::from_millis(expect_ms + write_ms) == settings.timeout;
        assert_eq!(limit == TimeLimit::Setting, is_default, "{header:?}");
        assert_eq!(time, Duration::from_millis(expect_ms), "{header:?}");
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
    fn time_for_writing_is_reserved_but_at_most_half() {
        check(None, 1_000, 8_000);
        check(Some("2"), 500, 1_000);
        check(Some("2"), 60_000, 750);
    }

    #[test]
    fn an_unusable_header_is_ignored() {
        for header in ["", "0", "-1", "NaN", "inf", "ten", "1e400", "1,5", "0x10"] {
            check(Some(header), 0, 9_000);
        }
    }

    #[test]
    fn targets_have_some_time_however_short_the_timeout_is() {
        check(Some("0.1"), 0, 50);
    }

    #[test]
    fn the_longest_of_the_last_four_responses_counts() {
        let times = WriteTimes::default();
        assert_eq!(times.expected(), Duration::ZERO);
        for ms in [900, 10, 20, 30] {
            times.record(Duration::from_millis(ms));
        }
        assert_eq!(times.expected(), Duration::from_millis(900));
        times.record(Duration::from_millis(5));
        assert_eq!(times.expected(), Duration::from_millis(30));
    }
}
