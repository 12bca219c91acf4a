//! Questions about the samples of one input that its index alone does not answer.

use std::borrow::Cow;

use super::family::Contribution;
use crate::cancel::{Cancel, Cancelled};
use crate::index::{Run, Sample, SourceFamily};
use crate::syntax::sample_line::SampleLine;
use crate::syntax::{name, number};
use crate::types::Suffix;
use crate::{Exposition, Input};

/// A sample of a contribution, while it is visited. Its line is in the `Line` of the visitor.
#[derive(Clone, Copy)]
pub(super) struct Visited<'a> {
    pub(super) exposition: &'a Exposition,
    /// Its run, and the position of that run in the index's run order.
    pub(super) run: &'a Run,
    pub(super) run_position: u32,
    /// Its position among the samples of the body.
    pub(super) id: u32,
}

/// Parses each sample of a contribution that is not dropped, in the order of the body, and hands it to `visit`, until
/// that returns false. Returns whether all were visited.
///
/// # Errors
/// If the work is cancelled.
pub(super) fn visit_samples<'a>(
    input: &'a Input,
    contribution: &Contribution,
    line: &mut SampleLine,
    cancel: Cancel<'_>,
    mut visit: impl FnMut(Visited<'a>, &SampleLine) -> bool,
) -> Result<bool, Cancelled> {
    let Some(exposition) = &input.exposition else {
        return Ok(true);
    };
    let index = &exposition.index;
    let source_family = &index.families[contribution.source_family];
    for run_position in source_family.runs.start..source_family.runs.end {
        let run = &index.runs[index.run_order[run_position as usize]];
        for id in run.first..run.first + run.len {
            cancel.check_at(id as usize)?;
            let sample = index.samples[id as usize];
            let is_here = !contribution.is_partial()
                || contribution
                    .suffixes
                    .has(exposition.suffix(source_family, &sample, line));
            if sample.has(Sample::DROPPED)
                || !is_here
                || line
                    .parse(&exposition.body, sample.start as usize, exposition.open_metrics)
                    .is_err()
            {
                continue;
            }
            let visited = Visited {
                exposition,
                run,
                run_position,
                id,
            };
            if !visit(visited, line) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Exposition {
    /// Whether a label of this name occurs in some sample.
    pub(super) fn has_label(&self, wanted: &[u8]) -> bool {
        self.label_names().any(|name| *name == *wanted)
    }

    /// Names of labels that occur; some several times.
    pub(super) fn label_names(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let canonical = self
            .index
            .schema_names
            .iter()
            .map(|span| Cow::Borrowed(span.of(&self.body)));
        let others = self
            .index
            .non_canonical_label_names
            .iter()
            .map(|name| name.decode(&self.body));
        canonical.chain(others)
    }

    /// What a sample's name has beyond the name of its source family.
    pub(crate) fn suffix(
        &self,
        source_family: &SourceFamily,
        sample: &Sample,
        line: &mut SampleLine,
    ) -> Suffix {
        let body = &self.body;
        let start = sample.start as usize;
        let len = name::metric_name_len(&body[start..]);
        let full = if len > 0 {
            Cow::Borrowed(&body[start..start + len])
        } else {
            // The parser has read this line before, so that it cannot fail.
            drop(line.parse(body, start, self.open_metrics));
            line.name.decode(body)
        };
        let family = source_family.name.decode(body);
        let rest = full.strip_prefix(&*family).unwrap_or_default();
        Suffix::ALL
            .into_iter()
            .find(|suffix| suffix.as_str().as_bytes() == rest)
            .unwrap_or(Suffix::Unsuffixed)
    }

    /// Whether Prometheus 3 would change the value of the label `label` of this sample (rule `bounds`).
    pub(super) fn is_normalized(&self, sample: &Sample, label: &[u8], line: &mut SampleLine) -> bool {
        if line
            .parse(&self.body, sample.start as usize, self.open_metrics)
            .is_err()
        {
            return false;
        }
        line.labels
            .iter()
            .filter(|found| *found.name.decode(&self.body) == *label)
            .any(|found| {
                let value = name::unescape(found.value.of(&self.body));
                number::canonical_bound(&value).is_some_and(|bound| bound.as_bytes() != &*value)
            })
    }
}
