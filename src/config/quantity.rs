//! Quantities as people write them: Go's durations, and sizes in bytes.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not follow the syntax.
    #[error("not a duration; use Go's syntax with a unit, for example 9s, 1m30s or 500ms")]
    Syntax,
    /// It is negative.
    #[error("must not be negative")]
    Negative,
    /// It is longer than a day.
    #[error("too long; 24h is the most")]
    TooLong,
}

const LONGEST: Duration = Duration::from_hours(24);

/// Parses a duration as Go's `time.ParseDuration` does: `9s`, `1m30s`, `500ms`, `1.5h`, `0`.
///
/// # Errors
/// [`DurationError`], also for values that Go accepts and a proxy cannot use: negative ones and more than a day.
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

/// Returns `number`, which is digits with at most one point, times `scale`, truncated.
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

/// Parses a size in bytes: a whole number, alone or with a unit. Units are those of Kubernetes' quantities (`k`, `M`, `G`,
/// `T`, `Ki`, `Mi`, `Gi`, `Ti`), with or without a `B` at the end.
///
/// Source: apimachinery, pkg/api/resource/suffix.go.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
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
    fn sizes_are_understood() {
        assert_eq!(parse_bytes("100"), Some(100));
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("2 GB"), Some(2_000_000_000));
        // The units of Kubernetes.
        assert_eq!(parse_bytes("500k"), Some(500_000));
        assert_eq!(parse_bytes("10Mi"), Some(10 << 20));
        assert_eq!(parse_bytes("1Gi"), Some(1 << 30));
        assert_eq!(parse_bytes("3M"), Some(3_000_000));
        assert_eq!(parse_bytes("1Ti"), Some(1 << 40));
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "1XB",
            "1K",
            "1mi",
            "1m",
            "1Gib",
            "99999999999999999999",
            "99999999999999GiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }
}
