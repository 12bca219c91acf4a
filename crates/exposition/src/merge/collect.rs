//! The first step of the plan: each source family of each target is translated into families of the response.

use std::collections::HashMap;

use super::classify::{self, FamilyName, Traits};
use super::created;
use super::family::{self, Contribution};
use super::names::NameId;
use super::slots::{MemberId, Slots};
use crate::cancel::{Cancel, Cancelled};
use crate::index::SourceFamily;
use crate::negotiate::{Format, OutputFormat};
use crate::types::{FamilyId, Id as _, MetricType, Suffix, Suffixes};
use crate::{Exposition, Input};

/// What decides to which families the samples of a source family belong. It is equal for most targets, so it is worked
/// out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Terms {
    /// The source family's name in the response.
    name: NameId,
    kind: Option<MetricType>,
    suffixes: Suffixes,
    lacks_label: bool,
    /// For a gauge that holds the `_created` of another family: the type of that family.
    created_of: Option<MetricType>,
}

/// Where the samples with one suffix belong.
#[derive(Debug, Clone, Copy)]
struct Destination {
    member: MemberId,
    suffixes: Suffixes,
}

/// The destinations of all samples of a source family, as a position in [`Collector::destinations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destinations {
    from: u32,
    to: u32,
}

/// The input before the current one, which most often has the same families at the same positions.
struct PreviousInput<'a> {
    input: &'a Input,
    exposition: &'a Exposition,
    /// By position of the source family; `None` for one without samples.
    destinations: Vec<Option<Destinations>>,
}

impl PreviousInput<'_> {
    /// The destinations of a source family, if the one at the same position was translated in the same terms; and whether
    /// HELP and UNIT are equal too.
    fn find(
        &self,
        exposition: &Exposition,
        id: FamilyId,
        source_family: &SourceFamily,
    ) -> Option<(Destinations, bool)> {
        let destinations = (*self.destinations.get(id.index())?)?;
        let other = self.exposition.index.families.get(id)?;
        let same_terms = exposition.open_metrics == self.exposition.open_metrics
            && source_family.kind == other.kind
            && source_family.suffixes == other.suffixes
            && (source_family.notes ^ other.notes) & SourceFamily::LACKS_LABEL == 0
            && source_family.name_key == other.name_key;
        same_terms.then_some((destinations, source_family.texts_key == other.texts_key))
    }
}

struct Collector<'a> {
    format: &'a OutputFormat,
    slots: Slots,
    /// Whether the response has a family `up` of ours.
    has_up: bool,
    by_terms: HashMap<Terms, Destinations, foldhash::fast::RandomState>,
    destinations: Vec<Destination>,
}

/// Translates the source families of all inputs.
///
/// A source family is described in terms of the response ([`Terms`]), and the terms give a destination for each suffix
/// that occurs: a slot (family name and type) and a member of it (sample name). For an OpenMetrics response:
///
/// ```text
/// source family            terms                                  destinations
/// p0  x: x_total           (x, counter, {_total})               → _total: slot (x, counter), member x_total
/// p1  x_total: x_total     (x_total, counter, {unsuffixed})     → unsuffixed: slot (x, counter), member x_total
/// p2  x: x_total           as p0, found by its position         → as p0
/// ```
///
/// Two shortcuts: targets of one kind have the same families at the same positions, so each family is first compared with
/// the one at the same position of the previous input, by the hashes that the parser left; only if they differ is its
/// name decoded, escaped and looked up by terms.
pub(super) fn collect(
    inputs: &[Input],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Slots, Cancelled> {
    let has_up = inputs.iter().any(|input| input.up.is_some());
    let mut collector = Collector {
        format,
        slots: Slots::default(),
        has_up,
        by_terms: HashMap::default(),
        destinations: Vec::new(),
    };
    if has_up {
        let up = collector.slots.names.intern(b"up");
        collector.slots.up = Some(collector.slots.slot(up, MetricType::Gauge));
    }
    let n_source_families = inputs
        .iter()
        .filter_map(|input| input.exposition.as_ref())
        .map(|exposition| exposition.index.families.len())
        .sum();
    let mut found: Vec<(MemberId, Contribution)> = Vec::with_capacity(n_source_families);
    let mut previous: Option<PreviousInput<'_>> = None;
    for (input_id, input) in (0_u32..).zip(inputs) {
        if let Some(exposition) = &input.exposition {
            cancel.check()?;
            previous =
                Some(collector.collect_input(input_id, input, exposition, previous, &mut found, cancel)?);
        }
    }
    let mut slots = collector.slots;
    slots.set_contributions(&found);
    Ok(slots)
}

impl<'a> Collector<'a> {
    fn collect_input(
        &mut self,
        input_id: u32,
        input: &'a Input,
        exposition: &'a Exposition,
        previous: Option<PreviousInput<'a>>,
        found: &mut Vec<(MemberId, Contribution)>,
        cancel: Cancel<'_>,
    ) -> Result<PreviousInput<'a>, Cancelled> {
        let created = created::created_gauges(exposition, self.format);
        // A gauge `x_created` is translated differently where its family is present, which is not part of its position.
        let previous = previous.filter(|previous| previous.input.own == input.own && created.is_empty());
        let mut all = Vec::with_capacity(exposition.index.families.len());
        for id in exposition.index.families.ids() {
            let source_family = &exposition.index.families[id];
            if source_family.runs.is_empty() {
                all.push(None);
                continue;
            }
            cancel.check_at(id.index())?;
            let as_before = previous
                .as_ref()
                .and_then(|previous| previous.find(exposition, id, source_family));
            let (destinations, same_texts) = as_before.unwrap_or_else(|| {
                let decoded = source_family.name.decode(&exposition.body);
                let name = family::output_name(input, &decoded, self.format);
                let terms = Terms {
                    name: self.slots.names.intern(&name),
                    kind: source_family.kind,
                    suffixes: source_family.suffixes,
                    lacks_label: source_family.notes & SourceFamily::LACKS_LABEL != 0,
                    created_of: created.get(&*decoded).copied(),
                };
                (self.destinations(terms), false)
            });
            all.push(Some(destinations));
            let contribution = Contribution::new(input_id, id, &exposition.index, same_texts);
            for destination in &self.destinations[destinations.from as usize..destinations.to as usize] {
                found.push((
                    destination.member,
                    contribution.with_suffixes(destination.suffixes),
                ));
            }
        }
        if !created.is_empty() {
            all.clear();
        }
        Ok(PreviousInput {
            input,
            exposition,
            destinations: all,
        })
    }

    fn destinations(&mut self, terms: Terms) -> Destinations {
        if let Some(&known) = self.by_terms.get(&terms) {
            return known;
        }
        let position = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let from = position(self.destinations.len());
        for suffix in terms.suffixes.iter() {
            let source = self.slots.names.get(terms.name).to_vec();
            let sample = [&source, suffix.as_str().as_bytes()].concat();
            let (family, kind) = if self.has_up && sample == b"up" {
                (sample.clone(), MetricType::Gauge)
            } else if let Some(kind) = terms.created_of {
                let base = sample.len() - Suffix::Created.as_str().len();
                (sample[..base].to_vec(), kind)
            } else {
                output_family(
                    &source,
                    &sample,
                    terms.kind,
                    suffix,
                    terms.lacks_label,
                    self.format,
                )
            };
            let (family, sample) = (self.slots.names.intern(&family), self.slots.names.intern(&sample));
            let slot = self.slots.slot(family, kind);
            self.destinations.push(Destination {
                member: self.slots.member(slot, sample),
                suffixes: suffix.bit(),
            });
        }
        let to = position(self.destinations.len());
        let found = Destinations { from, to };
        self.by_terms.insert(terms, found);
        found
    }
}

/// Name and type of the family of the response that a sample belongs to.
pub(super) fn output_family(
    source: &[u8],
    sample: &[u8],
    kind: Option<MetricType>,
    suffix: Suffix,
    lacks_label: bool,
    format: &OutputFormat,
) -> (Vec<u8>, MetricType) {
    let kind = kind.unwrap_or(MetricType::Unknown);
    let without_total = source.strip_suffix(b"_total").unwrap_or_default();
    let traits = Traits {
        ends_in_total: !without_total.is_empty(),
        lacks_label,
        unsuffixed_counters: format.quirks.is_prometheus,
    };
    let (name, kind) = match format.format {
        Format::Text => classify::in_text(kind, suffix),
        Format::OpenMetrics => classify::in_openmetrics(kind, suffix, traits),
    };
    let name = match name {
        FamilyName::Source => source,
        FamilyName::Sample => sample,
        FamilyName::WithoutTotal => without_total,
    };
    (name.to_vec(), kind)
}
