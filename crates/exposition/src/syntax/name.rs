//! Names and quoted text: what needs no quotes, how the rest is quoted, and how it is escaped for old clients.
//!
//! Source: prometheus/common, model/metric.go (`EscapeName`); prometheus, model/textparse (`unreplace`).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::simd;

/// How names with characters that need quotes are written for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escaping {
    /// In quotes, unchanged. Only a client that says `escaping=allow-utf-8` can parse that.
    AllowUtf8,
    /// Every such character becomes `_`. The default for clients that name no escaping.
    #[default]
    Underscores,
    /// `.` becomes `_dot_`, `_` becomes `__`.
    Dots,
    /// `U__` and the code points in hexadecimal: the only escaping that can be reversed.
    Values,
}

impl Escaping {
    /// The parameter's value, as in `escaping=allow-utf-8`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowUtf8 => "allow-utf-8",
            Self::Underscores => "underscores",
            Self::Dots => "dots",
            Self::Values => "values",
        }
    }
}

/// The length of the unquoted metric name at the start of `text`; 0 where none starts there.
pub(crate) fn metric_name_len(text: &[u8]) -> usize {
    name_len(text, true)
}

/// The length of the unquoted label name at the start of `text`; 0 where none starts there.
pub(crate) fn label_name_len(text: &[u8]) -> usize {
    name_len(text, false)
}

#[inline(always)]
fn name_len(text: &[u8], colon: bool) -> usize {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || colon && byte == b':';
    match text.first() {
        Some(&byte) if is_name(byte) && !byte.is_ascii_digit() => {}
        _ => return 0,
    }
    let (lanes, rest) = text.as_chunks::<16>();
    for (index, lane) in lanes.iter().enumerate() {
        let len = simd::name_bytes(lane, colon).trailing_ones() as usize;
        if len < 16 {
            return 16 * index + len;
        }
    }
    16 * lanes.len() + rest.iter().take_while(|&&byte| is_name(byte)).count()
}

/// Whether a metric of this name is written without quotes.
pub(crate) fn is_legacy_metric(name: &[u8]) -> bool {
    !name.is_empty() && metric_name_len(name) == name.len()
}

/// Whether a label of this name is written without quotes.
pub(crate) fn is_legacy_label(name: &[u8]) -> bool {
    !name.is_empty() && label_name_len(name) == name.len()
}

/// The name as a client of this escaping gets it. Names that need no quotes are never changed, although `dots` and `values`
/// would escape some of them: a pod that escapes by itself has done so already.
pub(crate) fn escape_metric(name: &[u8], escaping: Escaping) -> Cow<'_, [u8]> {
    if escaping == Escaping::AllowUtf8 || is_legacy_metric(name) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(escape(name, escaping, true))
}

/// As [`escape_metric`], for a label name, which may not contain a colon.
pub(crate) fn escape_label(name: &[u8], escaping: Escaping) -> Cow<'_, [u8]> {
    if escaping == Escaping::AllowUtf8 || is_legacy_label(name) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(escape(name, escaping, false))
}

fn escape(name: &[u8], escaping: Escaping, colon: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(name);
    let mut out = String::with_capacity(text.len() + 8);
    if escaping == Escaping::Values {
        out.push_str("U__");
    }
    for (at, c) in text.char_indices() {
        let legal = c.is_ascii_alphabetic() || c == '_' || c == ':' && colon || c.is_ascii_digit() && at > 0;
        match escaping {
            Escaping::AllowUtf8 => out.push(c),
            Escaping::Underscores => out.push(if legal { c } else { '_' }),
            Escaping::Dots if c == '.' => out.push_str("_dot_"),
            Escaping::Dots if legal && c != '_' => out.push(c),
            Escaping::Dots => out.push_str("__"),
            Escaping::Values if c == '_' => out.push_str("__"),
            Escaping::Values if legal => out.push(c),
            // Writing to a String cannot fail.
            Escaping::Values => drop(write!(out, "_{:x}_", u32::from(c))),
        }
    }
    out.into_bytes()
}

/// Replaces the escapes `\\`, `\"` and `\n` of a label value or quoted name. Any other backslash stays.
pub(crate) fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    unescape_with(raw, true)
}

/// Replaces the escapes of a HELP text. In the text format a quote is not escaped, so that `\"` stays two characters.
pub(crate) fn unescape_help(raw: &[u8], open_metrics: bool) -> Cow<'_, [u8]> {
    unescape_with(raw, open_metrics)
}

fn unescape_with(raw: &[u8], quote: bool) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let (byte, step) = match (raw[at], raw.get(at + 1)) {
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'"')) if quote => (b'"', 2),
            (byte, _) => (byte, 1),
        };
        out.push(byte);
        at += step;
    }
    Cow::Owned(out)
}

/// Writes `text` with the escapes of a label value, without the quotes around it.
pub(crate) fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => out.push(byte),
        }
    }
}

/// Writes a HELP text; only OpenMetrics escapes the quote.
pub(crate) fn write_help(text: &[u8], open_metrics: bool, out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' if open_metrics => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => out.push(byte),
        }
    }
}

/// Whether an escaped label value can be written unchanged: it has only known escapes and no line feed.
pub(crate) fn is_legal_value(raw: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\\', b'\n', &raw[at..]) {
        at += found;
        if raw[at] == b'\n' || !matches!(raw.get(at + 1), Some(b'\\' | b'"' | b'n')) {
            return false;
        }
        at += 2;
    }
    true
}

/// Writes `,name="value"` for a label whose name and value are decoded.
pub(crate) fn write_label(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    write_label_name(name, out);
    out.extend_from_slice(b"=\"");
    write_escaped(value, out);
    out.push(b'"');
}

/// Writes a label name, in quotes where it needs them.
pub(crate) fn write_label_name(name: &[u8], out: &mut Vec<u8>) {
    if is_legacy_label(name) {
        out.extend_from_slice(name);
    } else {
        write_quoted(name, out);
    }
}

/// Writes a metric name in a line of metadata, in quotes where it needs them.
pub(crate) fn write_metric_name(name: &[u8], out: &mut Vec<u8>) {
    if is_legacy_metric(name) {
        out.extend_from_slice(name);
    } else {
        write_quoted(name, out);
    }
}

/// Writes `"text"` with escapes.
pub(crate) fn write_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_prometheus_common_does() {
        let cases = [
            (
                "no:escaping_required",
                "no:escaping_required",
                "no:escaping_required",
                "no:escaping_required",
            ),
            (
                "mysystem.prod.west.cpu.load",
                "mysystem_prod_west_cpu_load",
                "mysystem_dot_prod_dot_west_dot_cpu_dot_load",
                "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load",
            ),
            (
                "http.status:sum",
                "http_status:sum",
                "http_dot_status:sum",
                "U__http_2e_status:sum",
            ),
            (
                "label with 😱",
                "label_with__",
                "label__with____",
                "U__label_20_with_20__1f631_",
            ),
            ("0a.b", "_a_b", "__a_dot_b", "U___30_a_2e_b"),
        ];
        for (name, underscores, dots, values) in cases {
            for (escaping, expect) in [
                (Escaping::AllowUtf8, name),
                (Escaping::Underscores, underscores),
                (Escaping::Dots, dots),
                (Escaping::Values, values),
            ] {
                let got = escape_metric(name.as_bytes(), escaping);
                assert_eq!(String::from_utf8_lossy(&got), expect, "{escaping:?}");
            }
        }
        assert_eq!(&*escape_label(b"a:b", Escaping::Underscores), b"a_b");
    }

    #[test]
    fn escapes_are_undone_from_left_to_right() {
        assert_eq!(&*unescape(br"\\n"), br"\n");
        assert_eq!(&*unescape(br#"C:\dir\"x\n"#), b"C:\\dir\"x\n");
        assert_eq!(&*unescape_help(br#"a\"b\\c"#, false), br#"a\"b\c"#);
        assert_eq!(&*unescape_help(br#"a\"b"#, true), br#"a"b"#);
    }

    #[test]
    fn a_value_is_legal_output_if_its_escapes_are_known() {
        assert!(is_legal_value(br#"a\\b\"c\n"#));
        assert!(!is_legal_value(br"C:\dir"));
        assert!(!is_legal_value(b"a\nb"));
        assert!(is_legal_value(b"a\rb"));
    }
}
