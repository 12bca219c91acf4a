//! Numbers as Prometheus parses and writes them.
//!
//! Values keep their own bytes from body to response. This module decides whether a token is a number, and does the
//! arithmetic that cannot be avoided: timestamps between milliseconds and seconds, and the form in which Prometheus 3 stores
//! `le` and `quantile`.

use crate::simd::{self, Lane};

/// Whether `token` is a float that a scrape accepts.
///
/// These are the floats of Go's `ParseFloat` without the hexadecimal forms and those with underscores. Rust's parser does not
/// decide it: it accepts `+nan` and turns `1e400` into infinity, and both fail a scrape.
///
/// Source: prometheus, model/textparse/promparse.go, `parseFloat`.
pub(crate) fn is_float(token: &[u8]) -> bool {
    match decimal(token) {
        Some(Decimal { may_overflow: false }) => true,
        Some(_) => to_f64(token).is_some_and(f64::is_finite),
        None => is_special(token),
    }
}

/// The end of the value at `at`, where it is a decimal of the usual forms (`-1`, `0.25`, `1.5e+09`) with a blank or a
/// line feed after it. After `None` it may still be a number, which [`is_float`] decides.
#[inline(always)]
pub(crate) fn value_end(line: &[u8], at: usize) -> Option<usize> {
    if let Some(lane) = simd::at(line, at)
        && let Some(len) = line_value_len(lane)
    {
        return Some(at + len);
    }
    any_value_end(line, at)
}

/// The length of the value that a lane begins with, where a line feed follows and the value has one of the usual forms: digits,
/// perhaps with one dot, perhaps with an exponent of two digits. After `None` it may still be a number.
///
/// All sixteen bytes are classified at once, and the masks are then compared with what a number looks like. For example
/// (bit 0 is the leftmost, and the bytes after the line feed belong to the next line):
///
/// ```text
/// lane         1 . 5 e + 0 9 \n r p c _ d u r a
/// line_feeds   0 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0     len = 7
/// value        1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0     the bytes before the line feed
/// digits       1 0 1 0 0 1 1 0 0 0 0 0 0 0 0 0
/// others       0 1 0 1 1 0 0 0 0 0 0 0 0 0 0 0     in the value, but not digits
/// dot            ^                                 the first of the others: it must be the dot
/// more         0 0 0 1 1 0 0 0 0 0 0 0 0 0 0 0     the rest of the others: none, or `e+` or `e-` at len - 4
/// ```
#[inline(always)]
pub(crate) fn line_value_len(lane: &Lane) -> Option<usize> {
    let line_feeds = simd::equal_to(lane, b'\n');
    let len = line_feeds.trailing_zeros() as usize;
    // Subtracting one sets the bits below the lowest one. Without a line feed it sets all bits, and `len` is 32.
    let value = line_feeds.wrapping_sub(1) & !line_feeds;
    let others = value & !simd::digits(lane);
    let dot = others.trailing_zeros() as usize & 15;
    let more = others & others.wrapping_sub(1);
    // `value > 1`: a dot alone is no number. `dot > 0`: an exponent needs a digit before the dot.
    let is_decimal = (others == 0 || lane[dot] == b'.' && value > 1)
        && (more == 0 || dot > 0 && is_exponent(lane, more, len));
    ((1..16).contains(&len) && is_decimal).then_some(len)
}

/// Whether the bytes after the dot that are not digits are `e+` or `e-` before the last two digits.
#[inline(always)]
fn is_exponent(lane: &Lane, others: u32, len: usize) -> bool {
    let at = len.wrapping_sub(4) & 15;
    others == 0b11 << at && lane[at] == b'e' && matches!(lane[(at + 1) & 15], b'+' | b'-')
}

#[inline(never)]
fn any_value_end(body: &[u8], at: usize) -> Option<usize> {
    let mut end = at + usize::from(*body.get(at)? == b'-');
    let whole = digits_len(body, end);
    end += whole;
    let mut next = *body.get(end)?;
    if next == b'.' {
        let fraction = digits_len(body, end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
        next = *body.get(end)?;
    }
    if next == b'e' {
        end += 1 + usize::from(matches!(body.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits_len(body, end);
        // With an exponent of up to two digits, no mantissa of up to 200 digits is out of range.
        if !(1..=2).contains(&exponent) {
            return None;
        }
        end += exponent;
        next = *body.get(end)?;
    }
    (whole > 0 && end - at <= 200 && matches!(next, b'\n' | b' ')).then_some(end)
}

/// The number of digits at `at`.
fn digits_len(text: &[u8], at: usize) -> usize {
    let (lanes, rest) = text.get(at..).unwrap_or_default().as_chunks::<16>();
    for (index, lane) in lanes.iter().enumerate() {
        let len = simd::digits(lane).trailing_ones() as usize;
        if len < 16 {
            return 16 * index + len;
        }
    }
    16 * lanes.len() + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Parses a float that a scrape accepts; `None` for anything else.
pub(crate) fn parse_float(token: &[u8]) -> Option<f64> {
    if is_float(token) { to_f64(token) } else { None }
}

fn to_f64(token: &[u8]) -> Option<f64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

struct Decimal {
    /// The magnitude may be out of the range of a float, so that it has to be computed.
    may_overflow: bool,
}

fn decimal(token: &[u8]) -> Option<Decimal> {
    let mut at = usize::from(matches!(token.first(), Some(b'+' | b'-')));
    let whole = digits_len(token, at);
    at += whole;
    let mut fraction = 0;
    if token.get(at) == Some(&b'.') {
        fraction = digits_len(token, at + 1);
        at += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    let mut may_overflow = whole > 300;
    if matches!(token.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(token.get(at), Some(b'+' | b'-')));
        let exponent = digits_len(token, at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
        // With an exponent of up to two digits, no mantissa of up to 200 digits is out of range.
        may_overflow |= exponent > 2 || whole > 200;
    }
    (at == token.len()).then_some(Decimal { may_overflow })
}

fn is_special(token: &[u8]) -> bool {
    let unsigned = match token.first() {
        Some(b'+' | b'-') => &token[1..],
        // A NaN has no sign in Go.
        _ if token.eq_ignore_ascii_case(b"nan") => return true,
        _ => token,
    };
    unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity")
}

/// Parses a timestamp of the text format, in milliseconds: decimal digits without a sign, within 63 bits.
pub(crate) fn parse_millis(token: &[u8]) -> Option<i64> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0_i64, |sum, byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        sum.checked_mul(10)?.checked_add(i64::from(byte - b'0'))
    })
}

/// Whether `token` is a timestamp of OpenMetrics: a finite float, in seconds.
pub(crate) fn is_seconds(token: &[u8]) -> bool {
    parse_float(token).is_some_and(f64::is_finite)
}

/// Converts an OpenMetrics timestamp to milliseconds exactly as Prometheus does: `int64(seconds * 1000)`.
///
/// `None` where the text format cannot write the result: before the epoch, or past 63 bits.
pub(crate) fn seconds_to_millis(token: &[u8]) -> Option<i64> {
    let millis = (parse_float(token)? * 1000.0).trunc();
    // 2^63 is a float, 2^63 - 1 is not.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&millis) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "in range by the test above")]
    Some(millis as i64)
}

/// The milliseconds that Prometheus stores for an OpenMetrics timestamp, saturating; only to order timestamps.
pub(crate) fn seconds_to_millis_saturating(token: &[u8]) -> i64 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "saturates, which is what is wanted"
    )]
    let millis = (parse_float(token).unwrap_or(0.0) * 1000.0) as i64;
    millis
}

/// Writes a millisecond timestamp as OpenMetrics seconds, with three decimals and without a float in between.
pub(crate) fn write_seconds(millis: i64, out: &mut Vec<u8>) {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    out.extend_from_slice(text.as_bytes());
}

/// The form in which Prometheus 3 stores a bound (`le` of a histogram, `quantile` of a summary).
///
/// `None` where Prometheus keeps the value as it is, because Go's `ParseFloat` does not parse it. That function does accept
/// hexadecimal forms and underscores.
///
/// Source: prometheus, model/textparse, `normalizeFloatsInLabelValues` and `formatOpenMetricsFloat`.
pub(crate) fn canonical_bound(value: &[u8]) -> Option<String> {
    let number = match parse_float(value) {
        Some(number) => number,
        None => parse_go_literal(value)?,
    };
    Some(format_bound(number))
}

/// Whether `value` is spelled as [`canonical_bound`] spells it, decided without arithmetic. `false` means that it may be.
pub(crate) fn is_plainly_canonical(value: &[u8]) -> bool {
    if value == b"+Inf" {
        return true;
    }
    let whole = digits_len(value, 0);
    let fraction = if value.get(whole) == Some(&b'.') {
        digits_len(value, whole + 1)
    } else {
        return false;
    };
    if whole + 1 + fraction != value.len() || !(1..=6).contains(&whole) || !(1..=8).contains(&fraction) {
        return false;
    }
    let padded = whole > 1 && value[0] == b'0' || fraction > 1 && value[value.len() - 1] == b'0';
    // "0.00001" is stored as 1e-05, so that four zeros after the dot need arithmetic.
    let tiny = value[0] == b'0' && value[2..].starts_with(b"0000");
    !padded && !tiny
}

fn format_bound(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number == 0.0 {
        return "0.0".to_owned();
    }
    // Rust and Go both print the shortest digits that read back the same; only the layout differs.
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// Go's literal forms that a sample value may not have: digits with underscores, hexadecimal floats.
fn parse_go_literal(value: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(value).ok()?;
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let hex = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"));
    if !underscores_separate_digits(unsigned.as_bytes(), hex.is_some()) {
        return None;
    }
    let magnitude = if let Some(digits) = hex {
        parse_hex_float(&digits.replace('_', ""))?
    } else if unsigned.contains('_') {
        parse_float(unsigned.replace('_', "").as_bytes())?
    } else {
        return None;
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Go's `underscoreOK`, for floats.
fn underscores_separate_digits(text: &[u8], hex: bool) -> bool {
    let mut last = if hex { b'0' } else { b'^' };
    for &byte in &text[if hex { 2 } else { 0 }..] {
        let digit = byte.is_ascii_digit() || hex && byte.is_ascii_hexdigit();
        if digit {
            last = b'0';
        } else if byte == b'_' {
            if last != b'0' {
                return false;
            }
            last = b'_';
        } else {
            if last == b'_' {
                return false;
            }
            last = b'!';
        }
    }
    last != b'_'
}

/// Parses `1.8p-3`, without its `0x`, exactly. `None` for mantissas of more than 53 bits: no exporter writes them, and to
/// round one differently from Go would be worse than to keep its bytes.
fn parse_hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let exponent_digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if exponent_digits.is_empty() || !exponent_digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    let bits = if significant.is_empty() {
        0
    } else {
        u64::from_str_radix(significant, 16).ok()?
    };
    if bits >= 1 << 53 {
        return None;
    }
    let scale: i32 = exponent.parse().ok()?;
    let scale = scale.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    if !(-900..=900).contains(&scale) {
        return None;
    }
    let number = bits as f64 * 2.0_f64.powi(scale);
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_the_floats_that_go_reads() {
        for good in [
            "0",
            "1",
            "-1",
            "+1",
            "NaN",
            "nan",
            "Nan",
            "Inf",
            "+inf",
            "-Inf",
            "infinity",
            "1e5",
            "1E+5",
            ".5",
            "5.",
            "007",
            "-0",
            "5e-324",
            "1e-400",
            "9007199254740993",
            "12345678901234567890",
        ] {
            assert!(is_float(good.as_bytes()), "{good}");
        }
        for bad in [
            "", "+NaN", "-NaN", "1e400", "-1e400", "0x10", "0x1p-2", "1_000", "1,5", ".", "+", "e5", "1e",
            "1e+", "in", "1.2.3", "1\r", "\u{661}",
        ] {
            assert!(!is_float(bad.as_bytes()), "{bad}");
        }
        assert!(is_float("9".repeat(308).as_bytes()));
        assert!(!is_float("9".repeat(310).as_bytes()));
    }

    #[test]
    fn timestamps_of_the_text_format_are_digits_within_63_bits() {
        assert_eq!(parse_millis(b"9223372036854775807"), Some(i64::MAX));
        for bad in ["9223372036854775808", "-5", "+5", "1.5", "1e9", ""] {
            assert_eq!(parse_millis(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn seconds_are_cut_to_milliseconds_as_prometheus_does() {
        assert_eq!(seconds_to_millis(b"1700000000.1239"), Some(1_700_000_000_123));
        assert_eq!(seconds_to_millis(b"-0.0001"), Some(0));
        assert_eq!(seconds_to_millis(b"-1"), None);
        assert_eq!(seconds_to_millis(b"1e300"), None);
        assert_eq!(seconds_to_millis(b"9223372036854775.808"), None);
        assert!(!is_seconds(b"NaN"));
        assert!(!is_seconds(b"+Inf"));
        let mut out = Vec::new();
        write_seconds(1_700_000_000_007, &mut out);
        assert_eq!(out, b"1700000000.007");
    }

    #[test]
    fn bounds_are_spelled_as_prometheus_3_stores_them() {
        for (given, stored) in [
            ("1", "1.0"),
            ("0", "0.0"),
            ("-0", "0.0"),
            ("-1", "-1.0"),
            ("1e1", "10.0"),
            ("100000", "100000.0"),
            ("1000000", "1e+06"),
            ("Inf", "+Inf"),
            ("+Inf", "+Inf"),
            ("-inf", "-Inf"),
            ("nan", "NaN"),
            ("0.50", "0.5"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("123456789", "1.23456789e+08"),
            ("1_000", "1000.0"),
            ("0x1p-2", "0.25"),
            ("0x1_0p0", "16.0"),
            ("5e-324", "5e-324"),
        ] {
            assert_eq!(
                canonical_bound(given.as_bytes()).as_deref(),
                Some(stored),
                "{given}"
            );
        }
        for alone in ["", "x", "1e400", "0x10", "1__0", "_1", "+nan"] {
            assert_eq!(canonical_bound(alone.as_bytes()), None, "{alone}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_plainly_canonical_is_canonical(value in "[0-9.]{1,12}|[0-9]{1,3}\\.0{0,5}[0-9]{1,4}") {
            if is_plainly_canonical(value.as_bytes()) {
                prop_assert_eq!(canonical_bound(value.as_bytes()), Some(value));
            }
        }

        /// Both shortcuts accept only what [`is_float`] accepts, up to the same place.
        #[test]
        fn the_shortcuts_find_the_end_of_a_number(
            value in "-?[0-9]{0,4}\\.?[0-9]{0,4}(e[+-]?[0-9]{0,3})?|[0-9.e+-]{1,16}",
            rest in "[\n ][0-9a-z \n]{0,20}",
        ) {
            let text = format!("{value}{rest}");
            if let Some(end) = value_end(text.as_bytes(), 0) {
                prop_assert_eq!(end, value.len());
                prop_assert!(is_float(value.as_bytes()), "{}", value);
            }
            if let Some(len) = simd::at(text.as_bytes(), 0).and_then(line_value_len) {
                prop_assert_eq!(len, value.len());
                prop_assert!(is_float(value.as_bytes()), "{}", value);
            }
        }
    }

    #[test]
    fn usual_numbers_take_the_shortcut() {
        for value in ["0", "12", "0.25", "5.", "1.5e+09", "1.25e-05", "123456789012345"] {
            let text = format!("{value}\nnext_line_of_the_body 1\n");
            let len = simd::at(text.as_bytes(), 0).and_then(line_value_len);
            assert_eq!(len, Some(value.len()), "{value}");
        }
        for value in [".", "e+05", ".e+05", ".5e+05", "1e5", "1.2.3", "-1", "NaN", ""] {
            let text = format!("{value}\nnext_line_of_the_body 1\n");
            let len = simd::at(text.as_bytes(), 0).and_then(line_value_len);
            assert_eq!(len, None, "{value}");
        }
    }

    #[test]
    fn usual_bounds_are_plainly_canonical() {
        for bound in ["0.005", "2.5", "10.0", "+Inf", "99999.5"] {
            assert!(is_plainly_canonical(bound.as_bytes()), "{bound}");
        }
        for bound in ["1", "00.5", "1.50", "0.000025", "1e-05", ""] {
            assert!(!is_plainly_canonical(bound.as_bytes()), "{bound}");
        }
    }
}
