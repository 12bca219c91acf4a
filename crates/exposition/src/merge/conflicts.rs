//! Families that cannot be written under their type next to the others.
//!
//! Each function looks for one reason and returns what it found, without changing anything. [`Slots::untype`] then takes the
//! families apart that were found, into one `untyped` (`unknown`) family per sample name.

use std::fmt;

use super::classify;
use super::names::NameId;
use super::series_key::{KeyMaker, SeriesMap, distinguishing_label};
use super::slots::{SlotId, Slots};
use super::{family, source};
use crate::Input;
use crate::cancel::{Cancel, Cancelled};
use crate::negotiate::OutputFormat;
use crate::relabel::{self, BoundChanges};
use crate::syntax::sample_line::SampleLine;
use crate::types::{MetricType, TypeContext};

/// What targets disagree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConflictKind {
    /// A family has several types: it is written without one.
    Type,
    /// Two families claim one name: both are written without a type.
    Name,
    /// A family has several HELP texts: the first one is written.
    Help,
    /// A family has several units: none is written.
    Unit,
}

impl ConflictKind {
    /// A word for metrics, which stays the same between releases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Name => "name",
            Self::Help => "help",
            Self::Unit => "unit",
        }
    }
}

/// A disagreement between targets. No sample is lost by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The family, or the name that several families claim.
    pub family: String,
    /// What the targets disagree on.
    pub kind: ConflictKind,
    /// The claims, in words.
    pub detail: String,
    /// One input for each family that takes part, as an index into the inputs of the merge.
    pub inputs: Vec<usize>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} conflict over {}: {}",
            self.kind.as_str(),
            self.family,
            self.detail
        )
    }
}

/// A conflict, and the families that lose their type by it.
pub(super) struct Found {
    pub(super) conflict: Conflict,
    pub(super) slots: Vec<SlotId>,
}

/// The names that each slot claims: its own, those of its samples, and those that its type reserves. Sorted by name; a slot
/// occurs once per name. Names that nobody else uses may be missing.
fn claims(slots: &Slots, open_metrics: bool) -> Vec<(NameId, SlotId)> {
    let mut claims = Vec::new();
    let mut reserved = Vec::new();
    for id in slots.ids().filter(|&id| slots.is_written(id)) {
        let slot = slots.get(id);
        claims.push((slot.name, id));
        for suffix in classify::claimed_suffixes(slot.kind, open_metrics) {
            reserved.clear();
            reserved.extend_from_slice(slots.names.get(slot.name));
            reserved.extend_from_slice(suffix.as_str().as_bytes());
            // A name that nobody has cannot be claimed by a second family: no suffix ends in another one, so that two
            // families which reserve one name are called the same.
            if let Some(name) = slots.names.find(&reserved) {
                claims.push((name, id));
            }
        }
        let samples = slots.members(id).map(|member| slots.sample_name(member));
        claims.extend(samples.map(|name| (name, id)));
    }
    claims.sort_unstable();
    claims.dedup();
    claims
}

/// The claims on one name each that several slots have.
fn contested(claims: &[(NameId, SlotId)]) -> impl Iterator<Item = &[(NameId, SlotId)]> {
    claims
        .chunk_by(|a, b| a.0 == b.0)
        .filter(|claims| claims.len() > 1)
}

/// Info and stateset families that share a name with another family (rule `type-conflict`). As gauges, which is what
/// Prometheus takes them for, they claim their sample names only.
pub(super) fn contested_info_and_stateset(slots: &Slots, open_metrics: bool) -> Vec<SlotId> {
    let claims = claims(slots, open_metrics);
    let mut found: Vec<SlotId> = contested(&claims)
        .flatten()
        .map(|&(_, slot)| slot)
        .filter(|&slot| matches!(slots.get(slot).kind, MetricType::Info | MetricType::StateSet))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Families that share a name with another one (rules `type-conflict` and `name-conflict`).
pub(super) fn by_name(slots: &Slots, open_metrics: bool) -> Vec<Found> {
    let claims = claims(slots, open_metrics);
    contested(&claims)
        .map(|claims| {
            let same_family = claims
                .windows(2)
                .all(|pair| slots.get(pair[0].1).name == slots.get(pair[1].1).name);
            let detail: Vec<String> = claims
                .iter()
                .map(|&(_, slot)| {
                    let slot = slots.get(slot);
                    let name = String::from_utf8_lossy(slots.names.get(slot.name));
                    format!("{} {name}", slot.kind.as_str(open_metrics))
                })
                .collect();
            let kind = if same_family {
                ConflictKind::Type
            } else {
                ConflictKind::Name
            };
            Found {
                conflict: conflict(
                    slots,
                    claims[0].0,
                    kind,
                    detail.join(", "),
                    claims.iter().map(|&(_, slot)| slot),
                ),
                slots: claims
                    .iter()
                    .map(|&(_, slot)| slot)
                    .filter(|&slot| slots.up != Some(slot))
                    .collect(),
            }
        })
        .collect()
}

/// Families in which Prometheus 3 would normalize a bound under our TYPE line that it leaves alone in a direct scrape,
/// because the target's own TYPE line comes after the sample, or another one stands between (rule `bounds`).
pub(super) fn by_normalization(
    slots: &Slots,
    inputs: &[Input],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Vec<Found>, Cancelled> {
    let mut found = Vec::new();
    if !format.quirks.normalizes_bounds {
        return Ok(found);
    }
    let mut line = SampleLine::default();
    for id in slots.ids() {
        if is_normalized_by_our_type(slots, id, inputs, &mut line, cancel)? {
            let slot = slots.get(id);
            let kind = slot.kind.as_str(format.is_open_metrics());
            let detail = format!("{kind}, declared after its samples");
            found.push(Found {
                conflict: conflict(slots, slot.name, ConflictKind::Type, detail, [id]),
                slots: vec![id],
            });
        }
    }
    Ok(found)
}

fn is_normalized_by_our_type(
    slots: &Slots,
    id: SlotId,
    inputs: &[Input],
    line: &mut SampleLine,
    cancel: Cancel<'_>,
) -> Result<bool, Cancelled> {
    let context = TypeContext::of(slots.get(id).kind);
    let Some(label) = context.label() else {
        return Ok(false);
    };
    for contribution in slots.contributions(id) {
        let Some(exposition) = &inputs[contribution.input as usize].exposition else {
            continue;
        };
        let index = &exposition.index;
        let source_family = &index.families[contribution.source_family];
        for run in index
            .family_runs(source_family)
            .filter(|run| run.context != context)
        {
            for id in run.first..run.first + run.len {
                cancel.check_at(id as usize)?;
                if exposition.is_normalized(&index.samples[id as usize], label, line) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Families in which a metric has samples with and without timestamps (rule `mixed-timestamps`). Prometheus accepts them.
pub(super) fn by_timestamps(
    slots: &Slots,
    inputs: &[Input],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Vec<Found>, Cancelled> {
    let mut found = Vec::new();
    if !format.is_open_metrics() || format.quirks.is_prometheus || !inputs.iter().any(has_timestamps) {
        return Ok(found);
    }
    for id in slots.ids() {
        if mixes_timestamps(slots, id, inputs, format, cancel)? {
            let slot = slots.get(id);
            let detail = format!(
                "{} with timestamps on some of a metric's samples",
                slot.kind.as_str(true)
            );
            found.push(Found {
                conflict: conflict(slots, slot.name, ConflictKind::Type, detail, [id]),
                slots: vec![id],
            });
        }
    }
    Ok(found)
}

fn mixes_timestamps(
    slots: &Slots,
    id: SlotId,
    inputs: &[Input],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<bool, Cancelled> {
    let slot = slots.get(id);
    let has_several_names = matches!(
        slot.kind,
        MetricType::Histogram
            | MetricType::GaugeHistogram
            | MetricType::Summary
            | MetricType::Counter
            | MetricType::StateSet
            | MetricType::Info
    );
    let input_of = |input: u32| &inputs[input as usize];
    if !has_several_names
        || !slots
            .contributions(id)
            .any(|contribution| has_timestamps(input_of(contribution.input)))
    {
        return Ok(false);
    }
    let keys = KeyMaker::default();
    let mut line = SampleLine::default();
    // Whether each metric's samples have timestamps.
    let mut metrics: SeriesMap<bool> = SeriesMap::default();
    // The Python parser takes all samples of an info family for one metric, whatever their labels and targets.
    let is_info = slot.kind == MetricType::Info;
    let mut info_has_time = None;
    for contribution in slots.contributions(id) {
        let input = input_of(contribution.input);
        if !is_info && !has_timestamps(input) {
            continue;
        }
        let is_uniform = source::visit_samples(input, contribution, &mut line, cancel, |visited, line| {
            let has_time = line.timestamp.is_some();
            if is_info {
                return *info_has_time.get_or_insert(has_time) == has_time;
            }
            let body = &visited.exposition.body;
            let mut labels = relabel::relabel(body, line, &input.labels, format, BoundChanges::default());
            let name = family::output_name(input, &line.name.decode(body), format);
            let own = distinguishing_label(slot.kind, slots.names.get(slot.name), &name);
            labels.retain(|(name, _)| **name != *own);
            *metrics.entry(keys.metric(labels)).or_insert(has_time) == has_time
        })?;
        if !is_uniform {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_timestamps(input: &Input) -> bool {
    let exposition = input.exposition.as_ref();
    exposition.is_some_and(|exposition| exposition.index.has_timestamps)
}

fn conflict(
    slots: &Slots,
    name: NameId,
    kind: ConflictKind,
    detail: String,
    families: impl IntoIterator<Item = SlotId>,
) -> Conflict {
    let first_input = |slot| slots.contributions(slot).next().map(|first| first.input as usize);
    Conflict {
        inputs: families.into_iter().filter_map(first_input).collect(),
        family: String::from_utf8_lossy(slots.names.get(name)).into_owned(),
        kind,
        detail,
    }
}
