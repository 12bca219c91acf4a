//! Why a body is rejected.

use std::borrow::Cow;
use std::fmt;

/// Why a body is rejected, as one of a fixed set of words for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// A line that Prometheus would reject, or no exposition at all.
    Parse,
    /// The delimited protobuf format, which is not supported.
    Protobuf,
    /// The body is larger than 4 GiB, so that it cannot be indexed.
    BodySize,
    /// More than [`Limits::max_samples`](crate::Limits::max_samples) allows.
    Samples,
    /// More than [`Limits::max_families`](crate::Limits::max_families) allows.
    Families,
    /// More than [`Limits::max_labels`](crate::Limits::max_labels) allows.
    Labels,
    /// More than [`Limits::max_label_name_length`](crate::Limits::max_label_name_length) allows.
    LabelNameLength,
    /// More than [`Limits::max_label_value_length`](crate::Limits::max_label_value_length) allows.
    LabelValueLength,
    /// [`Meter::charge`](crate::Meter::charge) returned `false`.
    MemoryBudget,
    /// [`Meter::is_cancelled`](crate::Meter::is_cancelled) returned `true`.
    Cancelled,
}

impl RejectionKind {
    /// The word, which stays the same from release to release.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Protobuf => "protobuf",
            Self::BodySize => "body_size",
            Self::Samples => "samples",
            Self::Families => "families",
            Self::Labels => "labels",
            Self::LabelNameLength => "label_name_length",
            Self::LabelValueLength => "label_value_length",
            Self::MemoryBudget => "memory_budget",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a body is rejected. It is displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of the reason.
    pub kind: RejectionKind,
    /// The number of the line, from 1.
    pub line: Option<u64>,
    /// The beginning of that line: at most 80 printable characters.
    pub excerpt: String,
    /// The reason in words.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.reason)?;
        if !self.excerpt.is_empty() {
            write!(f, ": {}", self.excerpt)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

impl Rejection {
    /// A rejection at a position of the body.
    pub(crate) fn at(body: &[u8], kind: RejectionKind, at: usize, reason: Cow<'static, str>) -> Self {
        let at = at.min(body.len());
        let start = memchr::memrchr(b'\n', &body[..at]).map_or(0, |found| found + 1);
        let line = memchr::memchr_iter(b'\n', &body[..at]).count() as u64 + 1;
        // Eighty characters have at most 320 bytes.
        let shown = &body[start..body.len().min(start + 320)];
        let shown = shown.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let excerpt = String::from_utf8_lossy(shown)
            .chars()
            .take(80)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        Self {
            kind,
            line: Some(line),
            excerpt,
            reason,
        }
    }
}
