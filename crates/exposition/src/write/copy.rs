//! The fast path of the writer: lines copied from the body, with the added labels between their parts.

use super::chunks::Chunks;
use super::rewrite::Scratch;
use super::{AddedLabels, PREFETCH_BYTES};
use crate::index::{Run, Sample, SourceFamily};
use crate::negotiate::OutputFormat;
use crate::relabel::BoundChanges;
use crate::simd;
use crate::syntax::sample_line::SampleLine;
use crate::types::{FamilyId, Id as _, MetricType, Suffixes};
use crate::{Exposition, Input};

/// Writes samples of one run of one input into one family.
pub(super) struct RunWriter<'a> {
    pub(super) input: &'a Input,
    pub(super) exposition: &'a Exposition,
    pub(super) added_labels: &'a AddedLabels,
    pub(super) format: &'a OutputFormat,
    pub(super) source_family: FamilyId,
    pub(super) run: Run,
    /// The suffixes of the samples that are written; `None` for all of the source family.
    pub(super) filter: Option<Suffixes>,
    /// The type of the family.
    pub(super) kind: MetricType,
    pub(super) bounds: BoundChanges,
    /// The metric's name is changed (rule `own-names`).
    pub(super) is_renamed: bool,
    /// Timestamps are written in the format in which they came.
    pub(super) keeps_timestamps: bool,
}

/// How a sample gets into the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Its bytes are copied, with the added labels between them.
    Copy,
    /// It is parsed and put together again.
    Rewrite,
    /// It is left out.
    Skip,
}

/// Bytes of the body that are still to be copied: what stands behind the labels of the previous sample.
#[derive(Clone, Copy)]
struct Pending {
    from: usize,
    /// The end of the previous sample's line, without its line feed.
    line_end: usize,
}

impl Pending {
    /// Copies the pending bytes and the next line up to its labels. If that line follows directly, this is one copy.
    #[inline(always)]
    fn extend(self, body: &[u8], start: usize, labels_at: usize, out: &mut Chunks<'_>) {
        // A line that can be copied ends with its value or timestamp, so only the line feed stands between the two.
        if self.line_end + 1 == start {
            out.copy(body, self.from, labels_at);
        } else {
            self.flush(body, out);
            out.copy(body, start, labels_at);
        }
    }

    /// Copies the pending bytes and ends the line.
    fn flush(self, body: &[u8], out: &mut Chunks<'_>) {
        out.copy(body, self.from, self.line_end);
        out.push(b"\n");
    }
}

impl<'a> RunWriter<'a> {
    pub(super) fn write_run(&self, scratch: &mut Scratch, out: &mut Chunks<'_>) {
        let samples = &self.exposition.index.samples[self.run.first as usize..];
        self.write(&samples[..self.run.len as usize], scratch, out);
    }

    pub(super) fn source_family(&self) -> &'a SourceFamily {
        &self.exposition.index.families[self.source_family]
    }

    /// Writes samples that follow each other in the body.
    ///
    /// The added labels go between two parts of each line, so a line would take two copies: the series up to its labels,
    /// and the rest. But the rest of one line and the beginning of the next mostly stand together in the body. So the rest
    /// is kept as [`Pending`], and copied together with the beginning of the next line:
    ///
    /// ```text
    /// body       a{x="1"} 7\na{x="2"} 9\n
    ///            |     ||         |
    ///            start  pending.from = end of the first labels
    ///                  |          end of the second labels
    ///
    /// copies     a{x="1"  ,pod="p"  } 7\na{x="2"  ,pod="p"  } 9\n
    ///            1st line  added     one copy      added     flushed at the end
    /// ```
    ///
    /// A sample that is rewritten or left out ends this: the pending bytes are flushed with a line feed. The first
    /// condition keeps the common case short, in which no sample of the run needs a second look.
    pub(super) fn write(&self, samples: &[Sample], scratch: &mut Scratch, out: &mut Chunks<'_>) {
        let body = &self.exposition.body[..];
        let mut special = Sample::NON_CANONICAL | Sample::EXEMPLAR | Sample::DROPPED;
        if !self.keeps_timestamps {
            special |= Sample::TIMESTAMP;
        }
        let is_special_run = self.is_renamed
            || self.filter.is_some()
            || !self.added_labels.clashing_schemas.is_empty()
            || self.bounds != BoundChanges::default();
        let mut pending: Option<Pending> = None;
        let end = samples.last().map_or(0, |sample| sample.end as usize);
        for sample in samples {
            if sample.has(special) || is_special_run {
                let action = self.action(*sample, &mut scratch.line);
                if action != Action::Copy {
                    if let Some(pending) = pending.take() {
                        pending.flush(body, out);
                    }
                    if action == Action::Rewrite {
                        self.rewrite(*sample, scratch);
                        out.push(&scratch.text);
                    }
                    out.flush();
                    if out.is_stopped() {
                        return;
                    }
                    continue;
                }
            }
            let (start, labels_at) = (sample.start as usize, sample.series_end as usize);
            if start + PREFETCH_BYTES < end {
                simd::prefetch(body, start + PREFETCH_BYTES);
                simd::prefetch(body, start + PREFETCH_BYTES + 64);
            }
            match pending {
                Some(pending) => pending.extend(body, start, labels_at, out),
                None => out.copy(body, start, labels_at),
            }
            let labels = if sample.has(Sample::LABELS) {
                &self.added_labels.behind_others
            } else {
                &self.added_labels.alone
            };
            out.copy(&labels.padded, 0, labels.len);
            pending = Some(Pending {
                from: labels_at,
                line_end: sample.end as usize,
            });
            out.flush();
            if out.is_stopped() {
                return;
            }
        }
        if let Some(pending) = pending {
            pending.flush(body, out);
        }
        out.flush();
    }

    fn action(&self, sample: Sample, line: &mut SampleLine) -> Action {
        let is_elsewhere =
            |filter: Suffixes, line| !filter.has(self.exposition.suffix(self.source_family(), &sample, line));
        if sample.has(Sample::DROPPED) || self.filter.is_some_and(|filter| is_elsewhere(filter, line)) {
            return Action::Skip;
        }
        if self.is_renamed
            || sample.has(Sample::NON_CANONICAL | Sample::EXEMPLAR)
            || sample.has(Sample::TIMESTAMP) && !self.keeps_timestamps
        {
            return Action::Rewrite;
        }
        let Some(schema) = sample.schema() else {
            return Action::Copy;
        };
        let clashes = self.added_labels.clashing_schemas.get(schema.index()) == Some(&true);
        let bounds = self.exposition.index.schemas[schema].bounds;
        let changes_bound =
            self.bounds.sign_infinity && bounds.le.is_some() || bounds.of(self.bounds.normalize).is_some();
        if clashes || changes_bound {
            Action::Rewrite
        } else {
            Action::Copy
        }
    }
}
