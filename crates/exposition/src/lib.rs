//! The exposition engine (core): what targets say, merged into one answer.
//!
//! [`parse()`] turns one decompressed body into an index over its own bytes, or refuses it whole. [`merge`] settles who
//! shares which family and finds series that became equal; [`Merged::write`] then copies the bodies out, family by
//! family, with the labels added. Values, timestamps, exemplars and escapes keep their own spelling wherever the
//! answer's format can hold it. [`negotiate()`] chooses that format from a request's headers.
//!
//! Edges: bytes in, bytes out. No I/O, no clock. The seeds of the hash tables never show in the output.

#![warn(missing_docs)]

mod cancel;
mod content_type;
mod gzip;
mod index;
mod merge;
mod negotiate;
mod parse;
mod pool;
mod relabel;
mod simd;
mod syntax;
mod write;

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

pub use cancel::Cancelled;
pub use gzip::{DeflatedBlock, GzipStream, deflate_block};
pub use merge::{Conflict, ConflictKind, Input, Merged, RefusedInput, limit_samples, merge, merge_unless};
pub use negotiate::{Format, OutputFormat, negotiate};
pub use pool::Pool;
pub use syntax::name::Escaping;

use content_type::MediaType;
use index::Index;
use parse::Scratch;

/// What one target may send; 0 means no limit. Counted before labels are added, duplicates included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Samples in one body.
    pub max_samples: u64,
    /// Labels of one sample, its name not counted.
    pub max_labels: u64,
    /// Bytes of a label name.
    pub max_label_name_length: u64,
    /// Bytes of a label value, escapes undone; also of a metric name, which is the value of `__name__`.
    pub max_label_value_length: u64,
}

/// The kind of a refusal, for metrics and for people who look for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// A line that Prometheus would refuse, or no exposition at all.
    Parse,
    /// A format that is not read here.
    Protobuf,
    /// The body is too large to be indexed (4 GiB).
    BodySize,
    /// Over [`Limits::max_samples`].
    Samples,
    /// Over [`Limits::max_labels`].
    Labels,
    /// Over [`Limits::max_label_name_length`].
    LabelNameLength,
    /// Over [`Limits::max_label_value_length`].
    LabelValueLength,
}

impl RejectionKind {
    /// A word that stays the same between releases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Protobuf => "protobuf",
            Self::BodySize => "body_size",
            Self::Samples => "samples",
            Self::Labels => "labels",
            Self::LabelNameLength => "label_name_length",
            Self::LabelValueLength => "label_value_length",
        }
    }
}

/// Why a body was refused. Displays as one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What kind of error it is.
    pub kind: RejectionKind,
    /// The line at error, from 1.
    pub line: Option<u64>,
    /// What stands there: at most 80 printable characters.
    pub excerpt: String,
    /// What is wrong with it.
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

/// One parsed body: its bytes and the index over them.
#[derive(Debug)]
pub struct Exposition {
    body: Vec<u8>,
    index: Index,
    open_metrics: bool,
    /// Where the index goes in the end.
    pool: Option<Pool>,
}

impl Drop for Exposition {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release_index(std::mem::take(&mut self.index));
        }
    }
}

impl Exposition {
    fn new(body: Vec<u8>, index: Index, format: Format, pool: Option<Pool>) -> Self {
        Self {
            body,
            index,
            open_metrics: format == Format::OpenMetrics,
            pool,
        }
    }

    /// Samples in the body, those included that repeat a series.
    pub fn n_samples(&self) -> usize {
        self.index.samples.len()
    }

    /// Bytes of the body.
    pub fn n_bytes(&self) -> usize {
        self.body.len()
    }

    /// Bytes of memory held: the body's buffer and the index over it, about an eighth of it on top.
    pub fn n_held_bytes(&self) -> usize {
        self.body.capacity() + self.index.n_bytes()
    }

    /// Bytes to count against a budget: the body and the index over it, without the spare room of their buffers, so that
    /// the same body counts the same at every scrape.
    pub fn n_budget_bytes(&self) -> usize {
        self.body.len() + self.index.n_used_bytes()
    }

    /// The format that the body was read as.
    pub fn format(&self) -> Format {
        if self.open_metrics {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// Gives the body back, so that its buffer can be used again.
    pub fn into_body(mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }
}

/// Parses one decompressed body completely.
///
/// An OpenMetrics media type is read as OpenMetrics, protobuf is refused, and anything else (missing and unreadable
/// ones too) is read as text, as Prometheus 2 does; but a body whose last line is `# EOF` is tried as OpenMetrics
/// first, since some targets (ztunnel) send that under a text label.
///
/// # Errors
/// A body with one line that Prometheus would refuse, or over a limit, is refused whole.
pub fn parse(body: Vec<u8>, content_type: Option<&str>, limits: &Limits) -> Result<Exposition, Rejection> {
    let mut index = Index::default();
    let format = parse_with(&body, content_type, limits, &mut index, &mut Scratch::default())?;
    Ok(Exposition::new(body, index, format, None))
}

impl Pool {
    /// As [`parse()`], with memory of the pool. The index returns to the pool when the exposition is dropped.
    ///
    /// # Errors
    /// As [`parse()`].
    pub fn parse(
        &self,
        body: Vec<u8>,
        content_type: Option<&str>,
        limits: &Limits,
    ) -> Result<Exposition, Rejection> {
        let (mut index, mut scratch) = self.parser_memory(body.len());
        let parsed = parse_with(&body, content_type, limits, &mut index, &mut scratch);
        self.release_scratch(scratch);
        match parsed {
            Ok(format) => Ok(Exposition::new(body, index, format, Some(self.clone()))),
            Err(refusal) => {
                self.release_index(index);
                Err(refusal)
            }
        }
    }
}

fn parse_with(
    body: &[u8],
    content_type: Option<&str>,
    limits: &Limits,
    index: &mut Index,
    scratch: &mut Scratch,
) -> Result<Format, Rejection> {
    let refuse = |kind, reason| {
        Err(Rejection {
            kind,
            line: None,
            excerpt: String::new(),
            reason: Cow::Borrowed(reason),
        })
    };
    if body.len() > parse::MAX_BODY_BYTES {
        return refuse(RejectionKind::BodySize, "the body is larger than 4 GiB");
    }
    let media = content_type::media_type(content_type);
    if media == MediaType::Protobuf {
        return refuse(RejectionKind::Protobuf, "protobuf, which was not asked for");
    }
    let at = |stop: parse::RejectionAt| Rejection::at(body, stop.kind, stop.error.at, stop.error.reason);
    let labelled = media == MediaType::OpenMetrics;
    if labelled || ends_with_eof(body) {
        match parse::parse_into(body, true, limits, index, scratch) {
            Ok(()) => return Ok(Format::OpenMetrics),
            Err(stop) if labelled || stop.kind != RejectionKind::Parse => return Err(at(stop)),
            Err(_) => {}
        }
    }
    parse::parse_into(body, false, limits, index, scratch).map_err(at)?;
    Ok(Format::Text)
}

fn ends_with_eof(body: &[u8]) -> bool {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body.strip_suffix(b"# EOF")
        .is_some_and(|before| before.is_empty() || before.ends_with(b"\n"))
}

impl Rejection {
    fn at(body: &[u8], kind: RejectionKind, at: usize, reason: Cow<'static, str>) -> Self {
        let at = at.min(body.len());
        let start = memchr::memrchr(b'\n', &body[..at]).map_or(0, |found| found + 1);
        let line = memchr::memchr_iter(b'\n', &body[..at]).count() as u64 + 1;
        // A few bytes more than can be shown: characters have up to four.
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

/// One seed for the process: bodies are hostile, and must not know which names fall together.
fn hasher() -> &'static foldhash::quality::RandomState {
    static STATE: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);
    &STATE
}

#[cfg(test)]
mod tests;
