//! A merged response written in chunks: families in their order, each once.
//!
//! Most lines are copied from the body, with the added labels between their parts ([`copy`]). Others are parsed and put
//! together again ([`rewrite`]).

mod chunks;
mod copy;
mod exemplar;
mod rewrite;

use crate::index::{Run, SourceFamily};
use crate::merge::family::{Contribution, Help, OutputFamily};
use crate::merge::{ExplicitOrder, Merged, help_text};
use crate::relabel::BoundChanges;
use crate::simd;
use crate::syntax::name;
use crate::syntax::sample_line::Span;
use crate::types::{MetricType, TypeContext};
use crate::{Exposition, Input};
use chunks::{Chunks, Padded};
use copy::RunWriter;
use rewrite::Scratch;

/// How far ahead of the copying memory is requested.
const PREFETCH_BYTES: usize = 4096;

/// The HELP text of the family `up` that the proxy writes.
const UP_HELP: &[u8] = b"Whether the target was scraped and its exposition accepted (1) or not (0).";

impl Merged {
    /// Writes the response in chunks of about `chunk_bytes`. Stops early if `sink` returns false.
    pub fn write(&self, chunk_bytes: usize, sink: &mut dyn FnMut(Vec<u8>) -> bool) {
        let mut out = Chunks::new(chunk_bytes, self.pool.as_ref(), sink);
        let writer = Writer {
            merged: self,
            added_labels: self.inputs.iter().map(AddedLabels::new).collect(),
            open_metrics: self.format.is_open_metrics(),
        };
        let mut scratch = Scratch::default();
        for (id, family) in self.plan.families.iter().enumerate() {
            writer.write_family(id, family, &mut scratch, &mut out);
            if out.is_stopped() {
                return;
            }
        }
        if writer.open_metrics {
            out.push(b"# EOF\n");
        }
        out.finish();
    }
}

/// The labels that are added to the samples of one input, in the forms in which they are copied.
#[derive(Debug, Default)]
struct AddedLabels {
    /// Behind other labels: `,a="b",c="d"`.
    behind_others: Padded,
    /// Alone: `{a="b",c="d"}`.
    alone: Padded,
    /// Label schemas with a label of the same name as an added one; empty if there are none.
    clashing_schemas: Vec<bool>,
}

impl AddedLabels {
    fn new(input: &Input) -> Self {
        let mut added = Self::default();
        let mut labels = Vec::new();
        for (label, value) in input.labels.iter().filter(|(_, value)| !value.is_empty()) {
            labels.push(b',');
            name::write_label(label.as_bytes(), value.as_bytes(), &mut labels);
        }
        if !labels.is_empty() {
            added.alone = Padded::new([b"{", &labels[1..], b"}"].concat());
            added.behind_others = Padded::new(labels);
        }
        if let Some(exposition) = &input.exposition {
            added.clashing_schemas = clashing_schemas(input, exposition);
        }
        added
    }
}

/// For each label schema, whether it has a label of the same name as an added one; empty if none has.
///
/// There are many names and few clashes. So the length of a name decides first, which is in the index; only if an added
/// label has the same length is the name looked up in the body.
fn clashing_schemas(input: &Input, exposition: &Exposition) -> Vec<bool> {
    let bit = |len: usize| 1_u64 << len.min(63);
    let lengths = input
        .labels
        .iter()
        .fold(0, |bits, (label, _)| bits | bit(label.len()));
    let is_added = |span: &Span| {
        let is_name = |name: &[u8]| input.labels.iter().any(|(label, _)| label.as_bytes() == name);
        lengths & bit(span.len()) != 0 && is_name(span.of(&exposition.body))
    };
    let index = &exposition.index;
    if !index.schema_names.iter().any(is_added) {
        return Vec::new();
    }
    index
        .schemas
        .ids()
        .map(|schema| index.schema_names(schema).iter().any(is_added))
        .collect()
}

struct Writer<'a> {
    merged: &'a Merged,
    /// By input.
    added_labels: Vec<AddedLabels>,
    open_metrics: bool,
}

impl Writer<'_> {
    fn write_family(&self, id: usize, family: &OutputFamily, scratch: &mut Scratch, out: &mut Chunks<'_>) {
        scratch.text.clear();
        self.write_metadata(family, &mut scratch.text);
        out.push(&scratch.text);
        if family.help == Help::OfUp {
            self.write_up(out);
        }
        let mut at = family.contributions.start;
        while at < family.contributions.end && !out.is_stopped() {
            if let Some(order) = self.order_at(id, at) {
                self.write_in_order(family, order, scratch, out);
                at += order.n_contributions;
            } else {
                // By the time that this contribution is written, the lines of the next one have come from memory.
                if at + 1 < family.contributions.end {
                    self.prefetch(&self.merged.plan.contributions[at + 1]);
                }
                self.write_contribution(family, at, scratch, out);
                at += 1;
            }
        }
    }

    fn order_at(&self, family: usize, first: usize) -> Option<&ExplicitOrder> {
        let orders = &self.merged.orders;
        let found = orders.binary_search_by_key(&(family, first), |order| (order.family, order.first));
        found.ok().map(|position| &orders[position])
    }

    fn write_contribution(
        &self,
        family: &OutputFamily,
        at: usize,
        scratch: &mut Scratch,
        out: &mut Chunks<'_>,
    ) {
        let contribution = &self.merged.plan.contributions[at];
        let Some(writer) = self.run_writer(family, contribution, contribution.first_run()) else {
            return;
        };
        writer.write_run(scratch, out);
        if contribution.n_runs > 1 {
            let index = &writer.exposition.index;
            let source_family = &index.families[contribution.source_family];
            for run in index.family_runs(source_family).skip(1) {
                if out.is_stopped() {
                    return;
                }
                if let Some(writer) = self.run_writer(family, contribution, *run) {
                    writer.write_run(scratch, out);
                }
            }
        }
    }

    fn write_in_order(
        &self,
        family: &OutputFamily,
        order: &ExplicitOrder,
        scratch: &mut Scratch,
        out: &mut Chunks<'_>,
    ) {
        for position in &order.samples {
            let at = order.first + position.contribution as usize;
            let contribution = &self.merged.plan.contributions[at];
            let Some(exposition) = &self.merged.inputs[contribution.input as usize].exposition else {
                continue;
            };
            let index = &exposition.index;
            let run = index.runs[index.run_order[position.run as usize]];
            if let Some(writer) = self.run_writer(family, contribution, run) {
                writer.write(&index.samples[position.sample as usize..][..1], scratch, out);
            }
            if out.is_stopped() {
                return;
            }
        }
    }

    /// TYPE, UNIT and HELP, in the order that the format asks for or is used to.
    fn write_metadata(&self, family: &OutputFamily, out: &mut Vec<u8>) {
        let Merged { plan, inputs, .. } = self.merged;
        let line = |out: &mut Vec<u8>, keyword: &str| {
            out.extend_from_slice(keyword.as_bytes());
            name::write_metric_name(plan.names.get(family.name), out);
            out.push(b' ');
        };
        let write_type = |out: &mut Vec<u8>| {
            line(out, "# TYPE ");
            out.extend_from_slice(family.kind.as_str(self.open_metrics).as_bytes());
            out.push(b'\n');
        };
        if self.open_metrics {
            write_type(out);
            if let Some(unit) = family.unit {
                line(out, "# UNIT ");
                out.extend_from_slice(unit.bytes(inputs));
                out.push(b'\n');
            }
        }
        let help = match family.help {
            Help::None => None,
            Help::Of(text) => Some(help_text(text, inputs)),
            Help::OfUp => Some(UP_HELP.into()),
        };
        if let Some(help) = help {
            line(out, "# HELP ");
            name::write_help(&help, self.open_metrics, out);
            out.push(b'\n');
        }
        if !self.open_metrics {
            write_type(out);
        }
    }

    /// The samples of the family `up` that the proxy writes (rule `up`).
    fn write_up(&self, out: &mut Chunks<'_>) {
        for (input, added) in self.merged.inputs.iter().zip(&self.added_labels) {
            let Some(up) = input.up else {
                continue;
            };
            out.push(b"up");
            out.push(added.alone.text());
            out.push(if up { b" 1\n" } else { b" 0\n" });
            out.flush();
        }
    }

    fn prefetch(&self, contribution: &Contribution) {
        let Some(exposition) = &self.merged.inputs[contribution.input as usize].exposition else {
            return;
        };
        let run = contribution.first_run();
        simd::prefetch(&exposition.index.samples, run.first as usize);
        // About as much as its lines have, and as the writer requests itself from there on.
        let len = (run.len as usize * 128).min(PREFETCH_BYTES);
        for at in (0..len).step_by(64) {
            simd::prefetch(&exposition.body, contribution.start as usize + at);
        }
    }

    fn run_writer<'a>(
        &'a self,
        family: &OutputFamily,
        contribution: &Contribution,
        run: Run,
    ) -> Option<RunWriter<'a>> {
        let input = &self.merged.inputs[contribution.input as usize];
        let exposition = input.exposition.as_ref()?;
        let format = &self.merged.format;
        let is_histogram = matches!(family.kind, MetricType::Histogram | MetricType::GaugeHistogram);
        let bounds = BoundChanges {
            normalize: if format.quirks.normalizes_bounds && TypeContext::of(family.kind) != run.context {
                run.context
            } else {
                TypeContext::Other
            },
            sign_infinity: self.open_metrics
                && is_histogram
                && (contribution.notes & SourceFamily::BOUND_OTHER != 0
                    || run.context != TypeContext::Histogram),
        };
        Some(RunWriter {
            input,
            exposition,
            added_labels: &self.added_labels[contribution.input as usize],
            format,
            source_family: contribution.source_family,
            run,
            filter: contribution.is_partial().then_some(contribution.suffixes),
            kind: family.kind,
            bounds,
            is_renamed: !input.own && contribution.notes & SourceFamily::OUR_PREFIX != 0,
            keeps_timestamps: exposition.open_metrics == self.open_metrics,
        })
    }
}
