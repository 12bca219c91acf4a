//! Assigns the source families of all targets to families of the response.
//!
//! 1. [`collect`] translates each source family into families of the response (name, type, sample names).
//! 2. Families of one sample name are joined where only metadata differs.
//! 3. Families that conflict lose their type, so that no sample is lost or renamed ([`conflicts`]).
//! 4. The families that are left are brought into their order, with the metadata that the targets agree on.
//!
//! No step looks at the value of a sample (rule `values`). Rules: `type-conflict`, `name-conflict`, `help-and-unit`,
//! `up`, `openmetrics-to-text`, `text-to-openmetrics` of docs/explanation/merge-rules.md.

use std::collections::HashMap;

use super::collect;
use super::conflicts::{self, Conflict, ConflictKind};
use super::family::{self, Contribution, Help, OutputFamily, SourceText};
use super::names::{NameId, Names};
use super::slots::{SlotId, Slots};
use crate::cancel::{Cancel, Cancelled};
use crate::index::SourceFamily;
use crate::negotiate::OutputFormat;
use crate::syntax::name;
use crate::syntax::sample_line::Span;
use crate::types::{MetricType, Suffix};
use crate::{Exposition, Input};

/// The families of the response, in the order in which they are written, and what the targets disagree on.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) names: Names,
    pub(crate) families: Vec<OutputFamily>,
    /// The contributions to all families; each family has a range of them.
    pub(crate) contributions: Vec<Contribution>,
    pub(crate) conflicts: Vec<Conflict>,
}

pub(super) fn plan(inputs: &[Input], format: &OutputFormat, cancel: Cancel<'_>) -> Result<Plan, Cancelled> {
    let open_metrics = format.is_open_metrics();
    let mut slots = collect::collect(inputs, format, cancel)?;
    for slot in conflicts::contested_info_and_stateset(&slots, open_metrics) {
        slots.move_members(slot, |slots, name| slots.slot(name, MetricType::Gauge));
    }
    join_untyped(&mut slots, open_metrics);
    let mut conflicts = Vec::new();
    // A family that lost its type has no further conflicts, so each step looks at what the ones before it left.
    let mut untype = |slots: &mut Slots, found: Vec<conflicts::Found>| {
        for found in found {
            slots.untype(found.slots);
            conflicts.push(found.conflict);
        }
    };
    cancel.check()?;
    let found = conflicts::by_name(&slots, open_metrics);
    untype(&mut slots, found);
    let found = conflicts::by_normalization(&slots, inputs, format, cancel)?;
    untype(&mut slots, found);
    let found = conflicts::by_timestamps(&slots, inputs, format, cancel)?;
    untype(&mut slots, found);
    finish(slots, inputs, format, conflicts, cancel)
}

/// Lets untyped samples join the counter or gauge that another target declares for their name: only metadata differs.
fn join_untyped(slots: &mut Slots, open_metrics: bool) {
    let mut by_sample: Vec<(NameId, SlotId)> = slots
        .ids()
        .flat_map(|slot| {
            let members = slots.members(slot);
            members.map(move |member| (member, slot))
        })
        .map(|(member, slot)| (slots.sample_name(member), slot))
        .collect();
    by_sample.sort_unstable();
    by_sample.dedup();
    for claims in by_sample.chunk_by(|a, b| a.0 == b.0) {
        let &[(sample, a), (_, b)] = claims else {
            continue;
        };
        let (untyped, typed) = match (slots.get(a).kind, slots.get(b).kind) {
            (MetricType::Unknown, MetricType::Counter | MetricType::Gauge) => (a, b),
            (MetricType::Counter | MetricType::Gauge, MetricType::Unknown) => (b, a),
            _ => continue,
        };
        // A `_created` sample belongs to a counter; an untyped sample of that name from another target does not.
        let is_created = slots
            .names
            .get(sample)
            .ends_with(Suffix::Created.as_str().as_bytes());
        if slots.up == Some(typed) || open_metrics && is_created && slots.get(typed).name != sample {
            continue;
        }
        slots.move_members(untyped, |_, _| typed);
    }
}

/// Brings the families into the order of their first samples, and gives them their metadata.
fn finish(
    mut slots: Slots,
    inputs: &[Input],
    format: &OutputFormat,
    mut conflicts: Vec<Conflict>,
    cancel: Cancel<'_>,
) -> Result<Plan, Cancelled> {
    let written: Vec<SlotId> = slots.ids().filter(|&slot| slots.is_written(slot)).collect();
    let mut families: Vec<OutputFamily> = written
        .into_iter()
        .map(|id| {
            let contributions = slots.arrange(id);
            let slot = slots.get(id);
            OutputFamily {
                name: slot.name,
                kind: slot.kind,
                help: if slots.up == Some(id) {
                    Help::OfUp
                } else {
                    Help::None
                },
                unit: None,
                contributions,
            }
        })
        .collect();
    cancel.check()?;
    let (names, contributions) = slots.into_parts();
    families.sort_by_cached_key(|family| {
        let first = contributions[family.contributions.clone()].first();
        (family.help != Help::OfUp, first.map(Contribution::position))
    });
    for (position, family) in families.iter_mut().enumerate() {
        cancel.check_at(position)?;
        let found = Metadata::of(inputs, &contributions[family.contributions.clone()]);
        conflicts.extend(found.conflicts(names.get(family.name)));
        if let (Some(help), Help::None) = (found.help, family.help) {
            family.help = Help::Of(help);
        }
        family.unit = found.unit.filter(|unit| {
            found.other_unit.is_none() && is_legal_unit(family, &names, unit.bytes(inputs), format)
        });
    }
    add_help_without_samples(&mut families, inputs, format, &names);
    conflicts.sort_by(|a, b| (&a.family, a.kind).cmp(&(&b.family, b.kind)));
    Ok(Plan {
        names,
        families,
        contributions,
        conflicts,
    })
}

/// OpenMetrics allows a unit where the family's name ends in it, and not for all types.
fn is_legal_unit(family: &OutputFamily, names: &Names, unit: &[u8], format: &OutputFormat) -> bool {
    let base = names.get(family.name).strip_suffix(unit).unwrap_or_default();
    format.is_open_metrics()
        && !matches!(family.kind, MetricType::Info | MetricType::StateSet)
        && base.ends_with(b"_")
}

/// HELP and UNIT of one family, from all targets that contribute to it.
#[derive(Default)]
struct Metadata {
    help: Option<SourceText>,
    unit: Option<SourceText>,
    /// The first input whose HELP differs from `help`.
    other_help: Option<u32>,
    /// The first input whose UNIT differs from `unit`.
    other_unit: Option<u32>,
}

impl Metadata {
    fn of(inputs: &[Input], contributions: &[Contribution]) -> Self {
        let mut metadata = Self::default();
        for (position, contribution) in contributions.iter().enumerate() {
            // The contribution that it equals is in this family too, and was looked at.
            if contribution.same_texts && position > 0 {
                continue;
            }
            let Some(exposition) = &inputs[contribution.input as usize].exposition else {
                continue;
            };
            let source_family = &exposition.index.families[contribution.source_family];
            metadata.add(inputs, contribution.input, exposition, source_family);
        }
        metadata
    }

    fn conflicts(&self, family: &[u8]) -> impl Iterator<Item = Conflict> {
        let conflict = |kind, detail: &str, first: Option<SourceText>, other: Option<u32>| {
            let inputs = [first?.input, other?];
            Some(Conflict {
                family: String::from_utf8_lossy(family).into_owned(),
                kind,
                detail: detail.to_owned(),
                inputs: inputs.map(|input| input as usize).to_vec(),
            })
        };
        let help = conflict(
            ConflictKind::Help,
            "the first is kept",
            self.help,
            self.other_help,
        );
        let unit = conflict(ConflictKind::Unit, "dropped", self.unit, self.other_unit);
        help.into_iter().chain(unit)
    }

    fn add(&mut self, inputs: &[Input], input: u32, exposition: &Exposition, source_family: &SourceFamily) {
        if let Some(span) = trimmed(source_family.help, &exposition.body) {
            let text = SourceText { input, span };
            match self.help {
                None => self.help = Some(text),
                Some(first) if help_text(first, inputs) != help_text(text, inputs) => {
                    self.other_help.get_or_insert(input);
                }
                Some(_) => {}
            }
        }
        if let Some(span) = source_family.unit.filter(|unit| !unit.is_empty()) {
            let text = SourceText { input, span };
            match self.unit {
                None => self.unit = Some(text),
                Some(first) if first.bytes(inputs) != text.bytes(inputs) => {
                    self.other_unit.get_or_insert(input);
                }
                Some(_) => {}
            }
        }
    }
}

/// A text without the blanks around it, if anything is left.
fn trimmed(text: Option<Span>, body: &[u8]) -> Option<Span> {
    let Span { start, end } = text?;
    let raw = &body[start as usize..end as usize];
    let n_before = raw.len() - raw.trim_ascii_start().len();
    let len = raw.trim_ascii().len();
    (len > 0).then(|| Span::new(start as usize + n_before, start as usize + n_before + len))
}

/// A HELP text with its escapes undone.
pub(crate) fn help_text(text: SourceText, inputs: &[Input]) -> std::borrow::Cow<'_, [u8]> {
    let open_metrics = inputs[text.input as usize]
        .exposition
        .as_ref()
        .is_some_and(|exposition| exposition.open_metrics);
    name::unescape_help(text.bytes(inputs), open_metrics)
}

/// Families without a HELP text take that of a target which declares the family and has no samples of it.
fn add_help_without_samples(
    families: &mut [OutputFamily],
    inputs: &[Input],
    format: &OutputFormat,
    names: &Names,
) {
    let lacks_help = |family: &OutputFamily| family.help == Help::None;
    if !families.iter().any(lacks_help) {
        return;
    }
    let mut texts: HashMap<NameId, SourceText, foldhash::fast::RandomState> = HashMap::default();
    for (input_id, input) in (0_u32..).zip(inputs) {
        let Some(exposition) = &input.exposition else {
            continue;
        };
        for source_family in &exposition.index.families {
            let Some(span) =
                trimmed(source_family.help, &exposition.body).filter(|_| source_family.runs.is_empty())
            else {
                continue;
            };
            let source = family::output_name(input, &source_family.name.decode(&exposition.body), format);
            let kind = source_family.kind.unwrap_or(MetricType::Unknown);
            for &suffix in [Suffix::Unsuffixed].iter().chain(kind.suffixes()) {
                let sample = [&source, suffix.as_str().as_bytes()].concat();
                let (name, _) =
                    collect::output_family(&source, &sample, source_family.kind, suffix, false, format);
                if let Some(name) = names.find(&name) {
                    let text = SourceText {
                        input: input_id,
                        span,
                    };
                    texts.entry(name).or_insert(text);
                }
            }
        }
    }
    for family in families.iter_mut().filter(|family| lacks_help(family)) {
        if let Some(&text) = texts.get(&family.name) {
            family.help = Help::Of(text);
        }
    }
}

impl SourceText {
    pub(crate) fn bytes(self, inputs: &[Input]) -> &[u8] {
        let exposition = inputs[self.input as usize].exposition.as_ref();
        exposition.map_or(b"", |exposition| self.span.of(&exposition.body))
    }
}
