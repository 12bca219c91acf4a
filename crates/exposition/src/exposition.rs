//! A parsed body, and how a body is parsed.

use std::borrow::Cow;

use crate::content_type::{self, MediaType};
use crate::index::Index;
use crate::limits::Unmetered;
use crate::parse::{MAX_BODY_BYTES, RejectionAt, Scratch, parse_into};
use crate::{Format, Limits, Meter, Pool, Rejection, RejectionKind};

/// A parsed body: its bytes and an index over them.
#[derive(Debug)]
pub struct Exposition {
    pub(crate) body: Vec<u8>,
    pub(crate) index: Index,
    pub(crate) open_metrics: bool,
    /// Where the index is kept for the next body.
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

    /// The number of samples in the body, duplicates included.
    pub fn n_samples(&self) -> usize {
        self.index.samples.len()
    }

    /// The size of the body in bytes.
    pub fn n_bytes(&self) -> usize {
        self.body.len()
    }

    /// Bytes of memory: the body's buffer, and its index, which mostly takes an eighth of that.
    pub fn n_held_bytes(&self) -> usize {
        self.body.capacity() + self.index.n_bytes()
    }

    /// Bytes to count against a budget: the body and its index without spare capacity, so that an equal body counts equally
    /// at every scrape.
    pub fn n_budget_bytes(&self) -> usize {
        self.body.len() + self.index.n_used_bytes()
    }

    /// The format as which the body was parsed.
    pub fn format(&self) -> Format {
        if self.open_metrics {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// Returns the body, so that its buffer can be reused.
    pub fn into_body(mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }
}

/// Parses one decompressed body completely.
///
/// With an OpenMetrics media type it is parsed as OpenMetrics, with that of protobuf it is rejected, and with any other (or
/// none, or one that cannot be parsed) it is parsed in the text format, as Prometheus 2 does. A body whose last line is
/// `# EOF` is tried as OpenMetrics first, since some targets (ztunnel) send OpenMetrics as `text/plain`.
///
/// # Errors
/// A body with one line that Prometheus would reject is rejected as a whole, and so is one over a limit.
pub fn parse(body: Vec<u8>, content_type: Option<&str>, limits: &Limits) -> Result<Exposition, Rejection> {
    parse_metered(body, content_type, limits, &mut Unmetered)
}

/// As [`parse()`], asking `meter` on the way whether to go on.
///
/// # Errors
/// As [`parse()`], and if the meter says so.
pub fn parse_metered(
    body: Vec<u8>,
    content_type: Option<&str>,
    limits: &Limits,
    meter: &mut dyn Meter,
) -> Result<Exposition, Rejection> {
    let mut index = Index::default();
    let format = parse_with(
        &body,
        content_type,
        limits,
        meter,
        &mut index,
        &mut Scratch::default(),
    )?;
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
        self.parse_metered(body, content_type, limits, &mut Unmetered)
    }

    /// As [`parse_metered`], with memory of the pool.
    ///
    /// # Errors
    /// As [`parse_metered`].
    pub fn parse_metered(
        &self,
        body: Vec<u8>,
        content_type: Option<&str>,
        limits: &Limits,
        meter: &mut dyn Meter,
    ) -> Result<Exposition, Rejection> {
        let (mut index, mut scratch) = self.parser_memory(body.len());
        let parsed = parse_with(&body, content_type, limits, meter, &mut index, &mut scratch);
        self.release_scratch(scratch);
        match parsed {
            Ok(format) => Ok(Exposition::new(body, index, format, Some(self.clone()))),
            Err(rejection) => {
                self.release_index(index);
                Err(rejection)
            }
        }
    }
}

fn parse_with(
    body: &[u8],
    content_type: Option<&str>,
    limits: &Limits,
    meter: &mut dyn Meter,
    index: &mut Index,
    scratch: &mut Scratch,
) -> Result<Format, Rejection> {
    let reject = |kind, reason| {
        Err(Rejection {
            kind,
            line: None,
            excerpt: String::new(),
            reason: Cow::Borrowed(reason),
        })
    };
    if body.len() > MAX_BODY_BYTES {
        return reject(RejectionKind::BodySize, "the body is larger than 4 GiB");
    }
    let media = content_type::media_type(content_type);
    if media == MediaType::Protobuf {
        return reject(RejectionKind::Protobuf, "protobuf, which was not asked for");
    }
    let at = |found: RejectionAt| Rejection::at(body, found.kind, found.error.at, found.error.reason);
    let is_labelled = media == MediaType::OpenMetrics;
    if is_labelled || ends_with_eof(body) {
        match parse_into(body, true, limits, meter, index, scratch) {
            Ok(()) => return Ok(Format::OpenMetrics),
            Err(found) if is_labelled || found.kind != RejectionKind::Parse => return Err(at(found)),
            Err(_) => {}
        }
    }
    parse_into(body, false, limits, meter, index, scratch).map_err(at)?;
    Ok(Format::Text)
}

fn ends_with_eof(body: &[u8]) -> bool {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body.strip_suffix(b"# EOF")
        .is_some_and(|before| before.is_empty() || before.ends_with(b"\n"))
}
