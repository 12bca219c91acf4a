//! Quantities as people write them: Go's durations and sizes in bytes.

use std::time::Duration;

/// A text that is not a duration, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form at all.
    #[error("not a duration; use Go's syntax with a unit, for example 9s, 1m30s or 500ms")]
    Syntax,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// More than can be counted.
    #[error("too long; 24h is the most")]
    TooLong,
}

const LONGEST: Duration = Duration::from_hours(24);

/// Parses a duration as Go's `time.ParseDuration` does: `9s`, `1m30s`, `500ms`, `1.5h`, `0`.
///
/// # Errors
/// [`DurationError`], also for what Go takes and a proxy cannot use: negative values and more than a day.
///
/// Source: Go, package time, ParseDuration.
pub fn parse_go_duration(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(DurationError::Syntax),
        };
        nanos = nanos.saturating_add(scaled(number, scale)?);
        rest = tail;
    }
    if negative && nanos > 0 {
        return Err(DurationError::Negative);
    }
    let duration = u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| DurationError::TooLong)?;
    if duration > LONGEST {
        Err(DurationError::TooLong)
    } else {
        Ok(duration)
    }
}

/// `number` (digits with at most one point) times `scale`, truncated.
fn scaled(number: &str, scale: u128) -> Result<u128, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::Syntax);
    }
    let mut total: u128 = 0;
    if !whole.is_empty() {
        let whole: u128 = whole.parse().map_err(|_| DurationError::TooLong)?;
        total = whole.saturating_mul(scale);
    }
    let mut unit = scale;
    for digit in fraction.bytes() {
        unit /= 10;
        total = total.saturating_add(u128::from(digit - b'0') * unit);
    }
    Ok(total)
}

/// Writes a duration as Go's `Duration.String` does, which is how Pebble shows it: `1m0s`, `1.5s`, `500ms`.
///
/// Source: Go, package time, Duration.String.
pub fn format_go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let point = |value: u128, scale: u128, unit: &str| {
        let fraction = value % scale;
        let width = scale.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        let digits = digits.trim_end_matches('0');
        let whole = value / scale;
        if fraction == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}.{digits}{unit}")
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => point(n, 1_000, "µs"),
        n if n < 1_000_000_000 => point(n, 1_000_000, "ms"),
        n => {
            let seconds = n / 1_000_000_000;
            let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
            let rest = point(
                n - (hours * 3_600 + minutes * 60) * 1_000_000_000,
                1_000_000_000,
                "s",
            );
            match (hours, minutes) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

/// Parses a size: plain bytes, or a whole number with `kB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<Duration, DurationError>) {
        assert_eq!(parse_go_duration(text), expect, "{text:?}");
    }

    #[test]
    fn go_durations_are_understood() {
        check("9s", Ok(Duration::from_secs(9)));
        check("1m30s", Ok(Duration::from_secs(90)));
        check("500ms", Ok(Duration::from_millis(500)));
        check("1.5h", Ok(Duration::from_mins(90)));
        check(".5s", Ok(Duration::from_millis(500)));
        check("5.s", Ok(Duration::from_secs(5)));
        check("+2us", Ok(Duration::from_micros(2)));
        check("2µs3ns", Ok(Duration::from_nanos(2_003)));
        check("0", Ok(Duration::ZERO));
        check("0s", Ok(Duration::ZERO));
        check("-0s", Ok(Duration::ZERO));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "", "9", "s", "9 s", "1d", ".s", "1..5s", "9s ", "ten", "1e3s", "+", "-",
        ] {
            check(text, Err(DurationError::Syntax));
        }
        check("-5s", Err(DurationError::Negative));
        check("25h", Err(DurationError::TooLong));
        check(
            "99999999999999999999999999999999999999999999h",
            Err(DurationError::TooLong),
        );
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for text in [
            "0s",
            "1ns",
            "1.5µs",
            "500ms",
            "1.5s",
            "1m0s",
            "1h0m0s",
            "1h1m1.001s",
            "10s",
        ] {
            assert_eq!(format_go_duration(parse_go_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_understood() {
        assert_eq!(parse_bytes("100"), Some(100));
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("2 GB"), Some(2_000_000_000));
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "1XB",
            "99999999999999999999",
            "99999999999999GiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }
}
