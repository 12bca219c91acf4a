//! What a body is that is not an exposition, and how a part of it is shown.

use std::fmt;

/// The most characters of a body or header that a person gets to see.
const MAX_EXCERPT_CHARS: usize = 80;

/// The most bytes at the start of a body that are looked at.
pub(super) const MAX_START_BYTES: usize = 512;

/// A common kind of body that is no exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotMetrics {
    /// A web page.
    Html,
    /// A JSON value.
    Json,
    /// The delimited protobuf format, which was not asked for.
    Protobuf,
    /// Compressed bytes that no Content-Encoding announces.
    Compressed(&'static str),
    /// Lines that end with a carriage return.
    CarriageReturn,
}

impl NotMetrics {
    /// Looks at the start of a body that cannot be parsed.
    pub(super) fn detect(content_type: Option<&str>, start: &[u8]) -> Option<Self> {
        let media = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default();
        let media = media.trim().to_ascii_lowercase();
        for (magic, name) in [
            (&b"\x1f\x8b"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"PK\x03\x04", "zip"),
        ] {
            if start.starts_with(magic) {
                return Some(Self::Compressed(name));
            }
        }
        if media == "application/vnd.google.protobuf" {
            return Some(Self::Protobuf);
        }
        let text = start.trim_ascii_start();
        let lower = text.to_ascii_lowercase();
        let is_html = [&b"<!doctype html"[..], b"<html", b"<head", b"<body"]
            .iter()
            .any(|tag| lower.starts_with(tag));
        if is_html || (media == "text/html" && text.starts_with(b"<")) {
            return Some(Self::Html);
        }
        if looks_like_json(text) && (media.ends_with("json") || text.starts_with(b"[") || has_json_key(text))
        {
            return Some(Self::Json);
        }
        if start.windows(2).any(|two| two == b"\r\n") {
            return Some(Self::CarriageReturn);
        }
        None
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Html => {
                "check prometheus.io/path and prometheus.io/port, and whether the endpoint wants a login"
            }
            Self::Json => "check prometheus.io/path",
            Self::Protobuf => "let the exporter send text",
            Self::Compressed(_) => "let the exporter set Content-Encoding, or send plain text",
            Self::CarriageReturn => "let the exporter end its lines with a line feed only",
        }
    }
}

impl fmt::Display for NotMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Html => f.write_str(
                "the response is an HTML page and not metrics, such as a login page or a wrong path",
            ),
            Self::Json => f.write_str("the response is JSON and not metrics"),
            Self::Protobuf => f.write_str("the response is protobuf, which was not asked for"),
            Self::Compressed(how) => {
                write!(
                    f,
                    "the body is still compressed ({how}), but its Content-Encoding does not say so"
                )
            }
            Self::CarriageReturn => f.write_str("the lines of the body end with a carriage return (CRLF)"),
        }
    }
}

fn looks_like_json(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'{' | b'['))
}

/// Tells `{"status": …` from a series with a quoted name, `{"http.requests", …`.
fn has_json_key(text: &[u8]) -> bool {
    let inside = text[1..].trim_ascii_start();
    let Some(key) = inside.strip_prefix(b"\"") else {
        return inside.starts_with(b"}") || inside.starts_with(b"{");
    };
    let Some(end) = key.iter().position(|&byte| byte == b'"') else {
        return false;
    };
    key[end + 1..].trim_ascii_start().starts_with(b":")
}

/// Makes a part of what a target sent fit for a log line and a page: control characters become blanks, and runs of
/// blanks one.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    let mut n_chars = 0;
    let mut blank = false;
    for c in text.chars() {
        if c.is_control() || c.is_whitespace() {
            blank = !shown.is_empty();
            continue;
        }
        if n_chars + usize::from(blank) >= MAX_EXCERPT_CHARS {
            shown.push('…');
            break;
        }
        if blank {
            shown.push(' ');
            n_chars += 1;
            blank = false;
        }
        shown.push(c);
        n_chars += 1;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, start: &str, expect: Option<NotMetrics>) {
        assert_eq!(
            NotMetrics::detect(Some(content_type), start.as_bytes()),
            expect,
            "{start}"
        );
    }

    #[test]
    fn common_bodies_are_recognised() {
        check("text/html; charset=utf-8", "<div>", Some(NotMetrics::Html));
        check("text/plain", " \n<!DOCTYPE html><html>", Some(NotMetrics::Html));
        check("text/plain", "{\"status\" : \"ok\"}", Some(NotMetrics::Json));
        check("application/json", "{}", Some(NotMetrics::Json));
        check("text/plain", "[1]", Some(NotMetrics::Json));
        check("text/plain", "x 1\r\ny 2\r\n", Some(NotMetrics::CarriageReturn));
        check(
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily",
            "\u{1}",
            Some(NotMetrics::Protobuf),
        );
        assert_eq!(
            NotMetrics::detect(None, b"\x1f\x8b\x08"),
            Some(NotMetrics::Compressed("gzip"))
        );
        assert_eq!(
            NotMetrics::detect(None, b"\x28\xb5\x2f\xfd"),
            Some(NotMetrics::Compressed("zstd"))
        );
    }

    #[test]
    fn a_faulty_exposition_is_none_of_them() {
        check("text/plain", "{\"http.requests\", a=\"b\"} x\n", None);
        check("text/plain", "a{b=\"c\"} 1,5\n", None);
        check("text/html", "a 1\nb\n", None);
        check("application/json", "a 1\nb\n", None);
        check("text/plain", "", None);
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt(b"  warming\x1b[1m up\r\n\n\0now "), "warming [1m up now");
        let long = excerpt(&[b'x'; 500]);
        assert_eq!(long.chars().count(), MAX_EXCERPT_CHARS + 1);
        assert_eq!(excerpt(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
