//! From bytes to an index: one pass over a body.
//!
//! ```text
//!             ┌ metadata ─────────── HELP, TYPE and UNIT lines
//! body, line ─┤           canonical? ┌ histogram_tail ── `_sum` and `_count` after their buckets
//! by line     └ sample ──┬ fast_path ┼ (match or learn labels)
//!                        │           └ bucket_loop ───── lines that differ in the last label only
//!                        └ slow_path ─ any other line, strictly
//! end of body ─ finish ── families of late TYPE lines, duplicates, runs by family
//! ```
//!
//! A canonical line (`name{label="value"} 1`, no other blanks, label names seen before) is compared with the previous line
//! of its name. Bytes that are equal need no second look, so that most lines cost that comparison, one label value and the
//! number. Every other line goes through [`SampleLine::parse`](crate::syntax::sample_line::SampleLine::parse), which is slower and decides what is accepted. Both give the
//! same index; the test `the_fast_path_finds_what_the_slow_path_finds` compares them.
//!
//! What is remembered of a body, and how the tables refer to each other:
//!
//! ```text
//! a_bucket{le="1"} 5     names            sample_names       index.families    index.runs
//! a_sum 7                NameId           SampleNameId       FamilyId          RunId
//!                        "a"         ←──────────────────────  "a" ←───────────  3 samples
//! with TYPE a histogram  "a_bucket"  ←──  suffix _bucket ──→      ╱
//!                        "a_sum"     ←──  suffix _sum ──────────→╱
//! ```

mod bounds;
mod bucket_loop;
mod duplicates;
mod fast_path;
mod finish;
mod hash;
mod histogram_tail;
mod metadata;
mod names;
mod scan;
mod schemas;
mod slow_path;

use std::borrow::Cow;
use std::hash::BuildHasher;

use crate::index::{Index, Run, Sample};
use crate::syntax::sample_line::ParseError;
use crate::types::{FamilyId, NameId, SampleNameId, TypeContext};
use crate::{Limits, Meter, RejectionKind};
use bounds::BoundSpellings;
use bucket_loop::Endings;
use hash::mix32;
pub(crate) use names::Scratch;

/// Offsets into a body are 32 bits wide.
pub(crate) const MAX_BODY_BYTES: usize = u32::MAX as usize - 64;

/// After so many bytes the meter is asked whether to go on. Shorter steps cost time; longer ones let a body of very many
/// metric names allocate more than the meter knows of.
const METER_STEP_BYTES: usize = 64 << 10;

/// Why a body is rejected, and at which byte; not yet put into words for people.
pub(crate) struct RejectionAt {
    pub(crate) kind: RejectionKind,
    pub(crate) error: ParseError,
}

impl From<ParseError> for RejectionAt {
    fn from(error: ParseError) -> Self {
        Self {
            kind: RejectionKind::Parse,
            error,
        }
    }
}

fn reject<T>(kind: RejectionKind, at: usize, reason: impl Into<Cow<'static, str>>) -> Result<T, RejectionAt> {
    Err(RejectionAt {
        kind,
        error: ParseError {
            at,
            reason: reason.into(),
        },
    })
}

/// As [`reject`], for a line that is not written as its format demands.
fn syntax_error<T>(at: usize, reason: &'static str) -> Result<T, RejectionAt> {
    reject(RejectionKind::Parse, at, reason)
}

/// Parses a whole body into `index`.
pub(crate) fn parse_into(
    body: &[u8],
    open_metrics: bool,
    limits: &Limits,
    meter: &mut dyn Meter,
    index: &mut Index,
    scratch: &mut Scratch,
) -> Result<(), RejectionAt> {
    let mut parser = Parser::new(body, open_metrics, limits, meter, index, scratch);
    parser.parse(Parser::parse_sample)?;
    parser.finish();
    parser.charge(body.len())
}

/// Whether a whole body is UTF-8, which makes checking each of its texts needless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Utf8 {
    /// Not yet asked: no label value so far has had a byte outside ASCII.
    Unknown,
    Valid,
    /// Some text is not UTF-8. It may be in a comment, where that is allowed, so that values are checked one by one.
    Invalid,
}

struct Parser<'a> {
    body: &'a [u8],
    open_metrics: bool,
    limits: &'a Limits,
    max_samples: usize,
    max_families: usize,
    max_value_len: usize,
    hasher: &'static foldhash::quality::RandomState,
    /// The keys under which series are hashed, see [`hash::hash_extend`].
    seed: u64,
    key: u64,
    utf8: Utf8,
    context: TypeContext,
    /// The name of the previous sample.
    previous: Option<SampleNameId>,
    /// A TYPE line came after the previous sample.
    context_changed: bool,
    /// The name of the previous HELP, TYPE or UNIT line.
    declared: Option<NameId>,
    bounds: BoundSpellings,
    endings: Endings,
    meter: &'a mut dyn Meter,
    /// Bytes of the tables that the meter knows of.
    charged_bytes: usize,
    /// Where in the body the meter is asked next.
    next_check: usize,
    index: &'a mut Index,
    scratch: &'a mut Scratch,
}

/// A limit as a number to compare with: 0 means that there is none.
fn or_unlimited(limit: u64) -> usize {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

impl<'a> Parser<'a> {
    fn new(
        body: &'a [u8],
        open_metrics: bool,
        limits: &'a Limits,
        meter: &'a mut dyn Meter,
        index: &'a mut Index,
        scratch: &'a mut Scratch,
    ) -> Self {
        index.clear();
        scratch.clear();
        Self {
            body,
            open_metrics,
            limits,
            max_samples: or_unlimited(limits.max_samples),
            max_families: or_unlimited(limits.max_families),
            max_value_len: or_unlimited(limits.max_label_value_length),
            hasher: crate::hasher(),
            seed: crate::hasher().hash_one(0_u8),
            key: crate::hasher().hash_one(1_u8),
            utf8: Utf8::Unknown,
            context: TypeContext::Other,
            previous: None,
            context_changed: false,
            declared: None,
            bounds: BoundSpellings::default(),
            endings: Endings::default(),
            meter,
            charged_bytes: 0,
            next_check: METER_STEP_BYTES,
            index,
            scratch,
        }
    }

    /// Parses line by line; `parse_sample` is given the position of each sample and returns that of the next line.
    #[inline(always)]
    fn parse(
        &mut self,
        parse_sample: impl Fn(&mut Self, usize) -> Result<usize, RejectionAt>,
    ) -> Result<(), RejectionAt> {
        let body = self.body;
        let mut at = 0;
        while at < body.len() {
            if at >= self.next_check {
                self.charge(at)?;
            }
            at = match body[at] {
                b'#' => match self.parse_comment(at)? {
                    Some(next) => next,
                    None => return Ok(()),
                },
                b'\n' | b' ' | b'\t' if !self.open_metrics => at + 1,
                // Prometheus takes it for the end of the body and silently loses the rest.
                0 if !self.open_metrics => return syntax_error(at, "a NUL at the start of a line"),
                _ => {
                    if self.index.samples.len() >= self.max_samples {
                        let reason = format!("more than {} samples", self.limits.max_samples);
                        return reject(RejectionKind::Samples, at, reason);
                    }
                    parse_sample(self, at)?
                }
            };
        }
        if self.open_metrics && !body.is_empty() {
            return syntax_error(at, "the body does not end with # EOF");
        }
        Ok(())
    }

    fn parse_sample(&mut self, start: usize) -> Result<usize, RejectionAt> {
        match self.parse_canonical(start) {
            Some(next) => Ok(next),
            None => self.parse_any(start),
        }
    }

    /// Tells the meter by how much the tables have grown, and checks the number of families.
    #[cold]
    fn charge(&mut self, at: usize) -> Result<(), RejectionAt> {
        self.next_check = at + METER_STEP_BYTES;
        if self.index.families.len() > self.max_families {
            let reason = format!("more than {} metric families", self.limits.max_families);
            return reject(RejectionKind::Families, at, reason);
        }
        let n_bytes = self.index.n_used_bytes() + self.scratch.n_used_bytes();
        let growth = n_bytes.saturating_sub(self.charged_bytes);
        self.charged_bytes = self.charged_bytes.max(n_bytes);
        if growth > 0 && !self.meter.charge(growth) {
            return reject(
                RejectionKind::MemoryBudget,
                at,
                "its index does not fit into the memory budget",
            );
        }
        if self.meter.is_cancelled() {
            return reject(RejectionKind::Cancelled, at, "parsing was cancelled");
        }
        Ok(())
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        hash::hash_with(self.hasher, bytes)
    }

    /// Adds a sample to its run.
    #[inline(always)]
    fn push_sample(&mut self, id: SampleNameId, sample: Sample, hash: u64) {
        if self.previous != Some(id) || self.context_changed {
            self.change_run(id, sample.start);
        }
        self.index.samples.push(sample);
        self.scratch.duplicates.push(hash ^ mix32(id.bits()));
    }

    /// Begins a new run where the next sample has another name or follows a TYPE line, unless it belongs to the same
    /// source family in the same type context.
    fn change_run(&mut self, id: SampleNameId, start: u32) {
        if self.previous != Some(id) {
            if let Some(previous) = self.previous {
                self.scratch.sample_names[previous].next = Some(id);
                self.note_follower(previous, id);
            }
            self.previous = Some(id);
        }
        self.context_changed = false;
        let family: FamilyId = self.scratch.sample_names[id].family;
        let context = self.context;
        if let Some(run) = self.index.runs.last()
            && run.family == family
            && run.context == context
        {
            return;
        }
        self.close_run();
        self.index.runs.push(Run {
            family,
            first: scan::to_u32(self.index.samples.len()),
            len: 0,
            start,
            context,
        });
    }

    /// Counts the samples of the last run.
    fn close_run(&mut self) {
        if let Some(run) = self.index.runs.last_mut() {
            run.len = scan::to_u32(self.index.samples.len()) - run.first;
        }
    }
}

#[cfg(test)]
mod tests;
