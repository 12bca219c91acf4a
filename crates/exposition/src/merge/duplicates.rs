//! Samples whose series is in the response already (rules `duplicates` and `up`).
//!
//! The parser drops the samples that repeat a series of their body in the same spelling. What else can make two series equal
//! is found here: added labels, escaping, timestamps that are cut off, bounds that the scraper normalizes, inputs with the
//! same labels. It costs a parse of each line, so it is done only for inputs in which it can happen.

use std::collections::HashMap;

use super::family::{Contribution, OutputFamily};
use super::plan::Plan;
use super::series_key::{KeyMaker, SeriesMap, sample_time};
use super::source;
use crate::cancel::{Cancel, Cancelled};
use crate::index::{Sample, SourceFamily};
use crate::negotiate::{Format, OutputFormat};
use crate::syntax::name::Escaping;
use crate::syntax::sample_line::SampleLine;
use crate::types::MetricType;
use crate::{Exposition, Input};

/// What is known of a series when its next sample is looked at.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// It is the `up` that we write ourselves: no other sample of it is written.
    Ours,
    /// Its last sample had no timestamp.
    Untimed,
    /// The timestamp of its last sample, in milliseconds.
    At(i64),
}

impl Seen {
    /// Whether the next sample of the series, with this timestamp, is written.
    fn allows(self, time: Option<i64>, format: Format) -> bool {
        match (self, time) {
            (Self::Ours, _) | (_, None) => false,
            // The Python parser refuses a metric with and without timestamps.
            (Self::Untimed, Some(_)) => format == Format::Text,
            (Self::At(last), Some(time)) => time > last,
        }
    }
}

/// Which inputs can hold the same series: those in one domain.
#[derive(Debug)]
pub(super) struct Domains(Vec<u32>);

impl Domains {
    /// Domains are numbered in the order of their first inputs.
    pub(super) fn of(&self, input: u32) -> u32 {
        self.0[input as usize]
    }

    /// Finds the domains. The labels that are added to an input tell its series from those of every input which has
    /// another value for one of them.
    pub(super) fn new(inputs: &[Input]) -> Self {
        let has_labels = |input: &&Input| input.labels.iter().any(|(_, value)| !value.is_empty());
        let common = common_labels(inputs.iter().filter(has_labels));
        // The samples of an input without added labels may have labels of these names themselves.
        let exposes_common = |input: &Input| {
            input
                .exposition
                .as_ref()
                .is_some_and(|exposition| common.iter().all(|name| exposition.has_label(name.as_bytes())))
        };
        let unlabelled_may_collide = inputs
            .iter()
            .any(|input| input.labels.is_empty() && exposes_common(input));
        if inputs.iter().any(|input| has_labels(&input)) && (common.is_empty() || unlabelled_may_collide) {
            return Self(vec![0; inputs.len()]);
        }
        let mut numbers: HashMap<Vec<&str>, u32> = HashMap::new();
        let domain = |input| {
            let key: Vec<&str> = common
                .iter()
                .filter_map(|name| {
                    let (_, value) = labels_of(input).find(|(other, _)| other == name)?;
                    Some(value)
                })
                .collect();
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(key).or_insert(next)
        };
        Self(inputs.iter().map(domain).collect())
    }
}

fn labels_of(input: &Input) -> impl Iterator<Item = (&str, &str)> {
    input
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The names of the labels that are added to all of these inputs, sorted.
fn common_labels<'a>(inputs: impl Iterator<Item = &'a Input>) -> Vec<&'a str> {
    let mut common: Option<Vec<&str>> = None;
    for input in inputs {
        let names: Vec<&str> = labels_of(input)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, _)| name)
            .collect();
        common = Some(match common {
            None => names,
            Some(before) => before.into_iter().filter(|name| names.contains(name)).collect(),
        });
    }
    let mut common = common.unwrap_or_default();
    common.sort_unstable();
    common.dedup();
    common
}

/// Whether this input alone may hold two samples of one series.
fn may_hold_duplicates(input: &Input, format: &OutputFormat) -> bool {
    let Some(exposition) = &input.exposition else {
        return false;
    };
    let index = &exposition.index;
    let cuts_time = exposition.open_metrics && format.format == Format::Text && index.has_timestamps;
    let is_special = |source_family: &SourceFamily| {
        input.up.is_some() && source_family.notes & SourceFamily::UP != 0
            || !input.own && source_family.notes & SourceFamily::OUR_PREFIX != 0
            || format.quirks.normalizes_bounds && has_ambiguous_bounds(exposition, source_family)
    };
    index.uncertain
        || cuts_time
        || index.quoted && format.escaping != Escaping::AllowUtf8
        || index.families.iter().any(is_special)
        || renames_onto_existing(input, exposition)
}

/// Whether two bounds of a source family may become equal when they are normalized.
fn has_ambiguous_bounds(exposition: &Exposition, source_family: &SourceFamily) -> bool {
    let both = SourceFamily::BOUND_INTEGER | SourceFamily::BOUND_DOT_ZERO;
    // Under one TYPE line `1` is stored as `1.0`, under another one it is not.
    let has_several_contexts = || {
        let mut runs = exposition.index.family_runs(source_family).map(|run| run.context);
        let first = runs.next();
        runs.any(|context| Some(context) != first)
    };
    source_family.notes & SourceFamily::BOUND_OTHER != 0
        || source_family.notes & both == both
        || source_family.notes & both != 0 && has_several_contexts()
}

/// Whether a label that becomes `exported_<name>` may meet one of that name.
fn renames_onto_existing(input: &Input, exposition: &Exposition) -> bool {
    labels_of(input).any(|(label, _)| exposition.has_label(label.as_bytes()))
        && exposition
            .label_names()
            .any(|label| label.starts_with(b"exported_"))
}

/// Marks the samples whose series is in the response already, or whose timestamp the response cannot hold. Returns how
/// many.
pub(super) fn drop_duplicates(
    inputs: &mut [Input],
    domains: &Domains,
    plan: &Plan,
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<usize, Cancelled> {
    let examined = domains_to_examine(inputs, domains, format);
    if examined.is_empty() {
        return Ok(0);
    }
    let keys = KeyMaker::default();
    let mut n_dropped = 0;
    let mut seen: SeriesMap<Seen> = SeriesMap::default();
    let mut line = SampleLine::default();
    for (position, family) in plan.families.iter().enumerate() {
        cancel.check_at(position)?;
        // Clearing takes time for the room that a map has, and a small family may follow a large one.
        if seen.capacity() > 1 << 12 {
            seen = SeriesMap::default();
        }
        seen.clear();
        if is_up(plan, family) {
            let ours = inputs.iter().filter(|input| input.up.is_some());
            seen.extend(ours.map(|input| (keys.up_of(input), Seen::Ours)));
        }
        for contribution in &plan.contributions[family.contributions.clone()] {
            if !examined.contains_key(&domains.of(contribution.input)) {
                continue;
            }
            let input = &mut inputs[contribution.input as usize];
            let found = find_duplicates(input, contribution, format, &keys, &mut seen, &mut line, cancel)?;
            n_dropped += found.len();
            if let Some(exposition) = &mut input.exposition {
                for id in found {
                    exposition.index.samples[id as usize].set(Sample::DROPPED);
                }
            }
        }
    }
    Ok(n_dropped)
}

/// Whether a family is the `up` that the proxy writes.
fn is_up(plan: &Plan, family: &OutputFamily) -> bool {
    family.kind == MetricType::Gauge && plan.names.get(family.name) == b"up"
}

/// The domains in which a series may occur twice: those of several inputs, and those of an input that may hold duplicates
/// by itself.
fn domains_to_examine(inputs: &[Input], domains: &Domains, format: &OutputFormat) -> HashMap<u32, usize> {
    let mut n_inputs: HashMap<u32, usize> = HashMap::new();
    for (id, input) in (0..).zip(inputs).filter(|(_, input)| input.exposition.is_some()) {
        let n = n_inputs.entry(domains.of(id)).or_default();
        *n += if may_hold_duplicates(input, format) { 2 } else { 1 };
    }
    n_inputs.retain(|_, n| *n > 1);
    n_inputs
}

/// The samples of one contribution that are not written, and the others added to `seen`.
fn find_duplicates(
    input: &Input,
    contribution: &Contribution,
    format: &OutputFormat,
    keys: &KeyMaker,
    seen: &mut SeriesMap<Seen>,
    line: &mut SampleLine,
    cancel: Cancel<'_>,
) -> Result<Vec<u32>, Cancelled> {
    let mut found = Vec::new();
    source::visit_samples(input, contribution, line, cancel, |visited, line| {
        let Ok(time) = sample_time(visited.exposition, line, format) else {
            found.push(visited.id);
            return true;
        };
        let key = keys.stored_series(input, visited.exposition, line, visited.run, format);
        if seen.get(&key).is_none_or(|seen| seen.allows(time, format.format)) {
            seen.insert(key, time.map_or(Seen::Untimed, Seen::At));
        } else {
            found.push(visited.id);
        }
        true
    })?;
    Ok(found)
}
