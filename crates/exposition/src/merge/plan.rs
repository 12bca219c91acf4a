//! Who shares a family with whom (core).
//!
//! Each target's groups are first said in the answer's own terms (which family, which type, which sample names), then
//! settled: what can join joins, what cannot is degraded to `untyped`/`unknown`, one family per sample name, so that
//! no sample is lost and no series changes its name. Nothing here looks at a sample's value.
//!
//! Source: exposition.md 5, rules 5, 6, 7, 10, 11, 12.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::index::{Ambient, Group, Index, Run, Sample, Suffix, Suffixes, Type};
use crate::merge::dedup;
use crate::negotiate::{Answer, Format};
use crate::syntax::line::Line;
use crate::syntax::{name, number};
use crate::{Conflict, ConflictKind, Exposition, Part};

/// One family of the answer.
#[derive(Debug)]
pub(crate) struct Family {
    /// As it is written: escaped, and quoted by the writer where needed.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Type,
    pub(crate) help: Vec<u8>,
    pub(crate) unit: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

/// What one target contributes to a family: a group, or those of its samples whose names end so.
///
/// It says what the writer needs of the group as well, since that lies far away by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) part: u32,
    pub(crate) group: u32,
    pub(crate) suffixes: Suffixes,
    /// All that the group has.
    pub(crate) all_suffixes: Suffixes,
    pub(crate) notes: u8,
    /// HELP and UNIT are those of the entry before.
    same_texts: bool,
    /// The group's first run, often its only one: its first sample, how many there are, and the TYPE above it.
    first: u32,
    len: u32,
    ambient: Ambient,
    pub(crate) n_runs: u32,
    /// Where that run begins in the body.
    pub(crate) start: u32,
}

impl Entry {
    fn new(part: u32, group_id: u32, index: &Index) -> Self {
        let group = &index.groups[group_id as usize];
        let run = index.runs[index.run_order[group.runs.0 as usize] as usize];
        Self {
            part,
            group: group_id,
            suffixes: group.suffixes,
            all_suffixes: group.suffixes,
            notes: group.notes,
            same_texts: false,
            first: run.first,
            len: run.len,
            ambient: run.ambient,
            n_runs: group.runs.1 - group.runs.0,
            start: run.start,
        }
    }

    /// The group's first run.
    pub(crate) fn run(&self) -> Run {
        Run {
            group: self.group,
            first: self.first,
            len: self.len,
            start: self.start,
            ambient: self.ambient,
        }
    }
}

/// What our own metrics are called.
pub(crate) const OUR_PREFIX: &[u8] = b"metrics_proxy_";

/// The name of a group in the answer.
pub(crate) fn output_name(part: &Part, decoded: &[u8], answer: &Answer) -> Vec<u8> {
    let escaped = name::escape_metric(decoded, answer.escaping);
    if is_renamed(part, decoded) {
        [b"exported_", &*escaped].concat()
    } else {
        escaped.into_owned()
    }
}

/// A target's `metrics_proxy_*` would look like our own metrics.
pub(crate) fn is_renamed(part: &Part, decoded: &[u8]) -> bool {
    !part.own && decoded.starts_with(OUR_PREFIX)
}

/// A family as somebody sees it, before anything is settled.
#[derive(Debug)]
struct Slot {
    name: Vec<u8>,
    kind: Type,
    samples: Vec<SampleName>,
}

/// A sample name of a family, and where it comes from: in the order of the parts.
#[derive(Debug)]
struct SampleName {
    name: Vec<u8>,
    entries: Vec<Entry>,
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.samples.iter().all(|sample| sample.entries.is_empty())
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.samples.iter().flat_map(|sample| &sample.entries)
    }

    /// The position of a sample name, added where it is new.
    fn sample(&mut self, name: &[u8]) -> usize {
        self.samples
            .iter()
            .position(|sample| sample.name == name)
            .unwrap_or_else(|| {
                self.samples.push(SampleName {
                    name: name.to_vec(),
                    entries: Vec::new(),
                });
                self.samples.len() - 1
            })
    }
}

/// Where samples of one ending go: slot, sample name in it.
#[derive(Debug, Clone, Copy)]
struct Destination {
    slot: usize,
    sample: usize,
    suffixes: Suffixes,
}

/// The families of the answer, in the order of their first sample, and what could not be settled without loss.
pub(crate) fn plan(parts: &[Part], answer: &Answer) -> (Vec<Family>, Vec<Conflict>) {
    let mut planner = Planner {
        parts,
        answer,
        open_metrics: answer.format == Format::OpenMetrics,
        synthetic_up: parts.iter().any(|part| part.up.is_some()),
        slots: Vec::new(),
        by_key: HashMap::default(),
        conflicts: BTreeMap::new(),
    };
    planner.collect();
    planner.join();
    planner.degrade();
    planner.finish()
}

struct Planner<'a> {
    parts: &'a [Part],
    answer: &'a Answer,
    open_metrics: bool,
    synthetic_up: bool,
    slots: Vec<Slot>,
    by_key: HashMap<(Vec<u8>, Type), usize, foldhash::quality::RandomState>,
    conflicts: BTreeMap<(Vec<u8>, ConflictKind), String>,
}

/// What decides where a group's samples go; equal for most targets, so it is worked out once.
type GroupKey = (Vec<u8>, Option<Type>, Suffixes, bool, Option<Type>);

impl Planner<'_> {
    /// Says every group in the answer's terms.
    fn collect(&mut self) {
        let mut known: HashMap<GroupKey, usize, foldhash::quality::RandomState> = HashMap::default();
        let mut places: Vec<Vec<Destination>> = Vec::new();
        // Targets of one kind say the same things in the same order: then nothing needs to be looked up.
        let mut before: Option<(&Part, &Exposition)> = None;
        let mut places_before: Vec<usize> = Vec::new();
        let mut places_now: Vec<usize> = Vec::new();
        if self.synthetic_up {
            self.slot(b"up".to_vec(), Type::Gauge);
        }
        for (part_id, part) in (0_u32..).zip(self.parts) {
            let Some(exposition) = &part.exposition else {
                continue;
            };
            let folds = self.created_families(exposition);
            places_now.clear();
            for (group_id, group) in (0_u32..).zip(&exposition.index.groups) {
                if group.runs.0 == group.runs.1 {
                    places_now.push(NOWHERE);
                    continue;
                }
                let position = group_id as usize;
                let as_before = before
                    .filter(|(other, _)| other.own == part.own && folds.is_empty())
                    .and_then(|(_, other)| {
                        let place = *places_before.get(position)?;
                        let other_group = other.index.groups.get(position)?;
                        (place != NOWHERE && same_terms(exposition, group, other, other_group))
                            .then_some((place, group.texts_key == other_group.texts_key))
                    });
                let (place, same_texts) = as_before.unwrap_or_else(|| {
                    let decoded = group.name.decode(&exposition.body);
                    let fold = folds.get(&*decoded).copied();
                    let lacks = group.notes & Group::LACKS_LABEL != 0;
                    let key = (
                        output_name(part, &decoded, self.answer),
                        group.kind,
                        group.suffixes,
                        lacks,
                        fold,
                    );
                    let place = *known.entry(key).or_insert_with_key(|key| {
                        places.push(self.places(key));
                        places.len() - 1
                    });
                    (place, false)
                });
                places_now.push(place);
                let entry = Entry {
                    same_texts,
                    ..Entry::new(part_id, group_id, &exposition.index)
                };
                for destination in &places[place] {
                    self.slots[destination.slot].samples[destination.sample]
                        .entries
                        .push(Entry {
                            suffixes: destination.suffixes,
                            ..entry
                        });
                }
            }
            // What is folded in goes elsewhere than it would without its family.
            before = folds.is_empty().then_some((part, exposition));
            std::mem::swap(&mut places_before, &mut places_now);
        }
    }

    /// Gauges of a text target that are the `_created` of one of its own families: to be folded in for OpenMetrics.
    fn created_families(&self, exposition: &Exposition) -> HashMap<Vec<u8>, Type> {
        let mut found = HashMap::new();
        if !self.open_metrics || exposition.open_metrics {
            return found;
        }
        let body = &exposition.body;
        let created = |group: &&Group| {
            group.kind == Some(Type::Gauge)
                && !group.name.quoted
                && group
                    .name
                    .span
                    .of(body)
                    .ends_with(Suffix::Created.as_str().as_bytes())
        };
        if !exposition.index.groups.iter().any(|group| created(&group)) {
            return found;
        }
        let mut bases = HashMap::new();
        for group in &exposition.index.groups {
            let name = group.name.decode(body).into_owned();
            match group.kind {
                Some(kind @ (Type::Histogram | Type::Summary)) if group.notes & Group::LACKS_LABEL == 0 => {
                    bases.insert(name, kind);
                }
                Some(Type::Counter) => {
                    let base = name.strip_suffix(b"_total").map(<[u8]>::to_vec);
                    if let Some(base) = base {
                        bases.insert(base, Type::Counter);
                    } else if self.answer.prometheus || group.suffixes.has(Suffix::Total) {
                        bases.insert(name, Type::Counter);
                    }
                }
                _ => {}
            }
        }
        for group in exposition.index.groups.iter().filter(created) {
            let name = group.name.span.of(body);
            let base = &name[..name.len() - Suffix::Created.as_str().len()];
            if let Some(kind) = bases.get(base) {
                found.insert(name.to_vec(), *kind);
            }
        }
        found
    }

    /// Where the samples of such a group go: slot, sample name, endings.
    fn places(&mut self, key: &GroupKey) -> Vec<Destination> {
        let (name, kind, suffixes, lacks, fold) = key;
        let mut places = Vec::new();
        for suffix in suffixes.iter() {
            let sample = [name, suffix.as_str().as_bytes()].concat();
            let (family, kind) = if self.synthetic_up && sample == b"up" {
                (sample.clone(), Type::Gauge)
            } else if let Some(kind) = fold {
                let base = sample[..sample.len() - Suffix::Created.as_str().len()].to_vec();
                (base, *kind)
            } else {
                self.place(name, *kind, suffix, &sample, *lacks)
            };
            let slot = self.slot(family, kind);
            places.push(Destination {
                slot,
                sample: self.slots[slot].sample(&sample),
                suffixes: suffix.bit(),
            });
        }
        places
    }

    /// The family and type of one sample name, in the answer's format.
    fn place(
        &self,
        name: &[u8],
        kind: Option<Type>,
        suffix: Suffix,
        sample: &[u8],
        lacks: bool,
    ) -> (Vec<u8>, Type) {
        let alone = |kind| (sample.to_vec(), kind);
        let family = |kind| (name.to_vec(), kind);
        let om = self.open_metrics;
        match (kind.unwrap_or(Type::Unknown), suffix) {
            (Type::Counter, Suffix::Total) if om => family(Type::Counter),
            (Type::Counter, Suffix::Total) => alone(Type::Counter),
            (Type::Counter, Suffix::Bare) if om => match name.strip_suffix(b"_total") {
                Some(base) if !base.is_empty() => (base.to_vec(), Type::Counter),
                // Prometheus takes the type; nobody else does, and `_total` would rename the series.
                _ if self.answer.prometheus => family(Type::Counter),
                _ => alone(Type::Unknown),
            },
            (Type::Counter, Suffix::Bare) => family(Type::Counter),
            (Type::Counter, Suffix::Created) if om && !name.ends_with(b"_total") => family(Type::Counter),
            (Type::Histogram | Type::Summary, Suffix::Created) if om && !lacks => {
                family(kind.unwrap_or(Type::Unknown))
            }
            (Type::Counter | Type::Histogram | Type::Summary, Suffix::Created) if !om => alone(Type::Gauge),
            (Type::Histogram, Suffix::Bucket | Suffix::Sum | Suffix::Count) if !(om && lacks) => {
                family(Type::Histogram)
            }
            (Type::Summary, Suffix::Bare | Suffix::Sum | Suffix::Count) if !(om && lacks) => {
                family(Type::Summary)
            }
            (Type::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount) if om && !lacks => {
                family(Type::GaugeHistogram)
            }
            // Text has no such type, and `histogram` would be a lie.
            (Type::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount) if !om => {
                alone(Type::Gauge)
            }
            (Type::Info, Suffix::Info) if om => family(Type::Info),
            (Type::StateSet, Suffix::Bare) if om && !lacks => family(Type::StateSet),
            (Type::Info, Suffix::Info) | (Type::StateSet | Type::Gauge, Suffix::Bare) => alone(Type::Gauge),
            _ => alone(Type::Unknown),
        }
    }

    fn slot(&mut self, name: Vec<u8>, kind: Type) -> usize {
        let slots = &mut self.slots;
        *self
            .by_key
            .entry((name, kind))
            .or_insert_with_key(|(name, kind)| {
                slots.push(Slot {
                    name: name.clone(),
                    kind: *kind,
                    samples: Vec::new(),
                });
                slots.len() - 1
            })
    }

    fn is_pinned(&self, slot: usize) -> bool {
        self.synthetic_up && self.slots[slot].name == b"up" && self.slots[slot].kind == Type::Gauge
    }

    /// Slots by the sample names they hold.
    fn by_sample(&self) -> BTreeMap<Vec<u8>, Vec<usize>> {
        let mut found: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (id, slot) in self.slots.iter().enumerate() {
            for sample in slot.samples.iter().filter(|sample| !sample.entries.is_empty()) {
                found.entry(sample.name.clone()).or_default().push(id);
            }
        }
        found
    }

    /// Lets simple types join that differ in their metadata only.
    fn join(&mut self) {
        for (sample, slots) in self.by_sample() {
            let kinds: Vec<Type> = slots.iter().map(|&slot| self.slots[slot].kind).collect();
            if slots.len() < 2 || slots.iter().any(|&slot| self.is_pinned(slot)) {
                continue;
            }
            let real = |kind: &Type| matches!(kind, Type::Counter | Type::Gauge);
            let gaugelike =
                |kind: &Type| matches!(kind, Type::Gauge | Type::Info | Type::StateSet | Type::Unknown);
            let target = if slots.len() == 2 && kinds.contains(&Type::Unknown) && kinds.iter().any(real) {
                let position = usize::from(kinds[0] == Type::Unknown);
                slots[position]
            } else if kinds.iter().all(gaugelike) {
                self.slot(sample.clone(), Type::Gauge)
            } else {
                continue;
            };
            // A `_created` is part of its family: a stranger's sample of that name is not.
            if self.open_metrics && sample.ends_with(b"_created") && self.slots[target].name != sample {
                continue;
            }
            for slot in slots {
                if slot != target {
                    self.move_sample(slot, &sample, target);
                }
            }
        }
    }

    fn move_sample(&mut self, from: usize, sample: &[u8], to: usize) {
        let position = self.slots[from].sample(sample);
        let entries = std::mem::take(&mut self.slots[from].samples[position].entries);
        let position = self.slots[to].sample(sample);
        self.slots[to].samples[position].entries.extend(entries);
    }

    /// Makes every family that shares a name with another one untyped, one family per sample name.
    fn degrade(&mut self) {
        let mut claims: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (id, slot) in self.slots.iter().enumerate() {
            if slot.is_empty() && !self.is_pinned(id) {
                continue;
            }
            let mut names: Vec<Vec<u8>> = reserved(slot.kind, self.open_metrics)
                .iter()
                .map(|suffix| [&slot.name, suffix.as_str().as_bytes()].concat())
                .collect();
            names.push(slot.name.clone());
            let samples = slot.samples.iter().filter(|sample| !sample.entries.is_empty());
            names.extend(samples.map(|sample| sample.name.clone()));
            names.sort_unstable();
            names.dedup();
            for name in names {
                claims.entry(name).or_default().push(id);
            }
        }
        let mut doomed = vec![false; self.slots.len()];
        for (name, slots) in &claims {
            if slots.len() < 2 {
                continue;
            }
            let one_name = slots
                .windows(2)
                .all(|pair| self.slots[pair[0]].name == self.slots[pair[1]].name);
            let kind = if one_name {
                ConflictKind::Type
            } else {
                ConflictKind::Name
            };
            let what: Vec<String> = slots
                .iter()
                .map(|&slot| {
                    let slot = &self.slots[slot];
                    let kind = slot.kind.as_str(self.open_metrics);
                    format!("{kind} {}", String::from_utf8_lossy(&slot.name))
                })
                .collect();
            self.conflicts
                .entry((name.clone(), kind))
                .or_insert_with(|| what.join(", "));
            for &slot in slots {
                doomed[slot] = !self.is_pinned(slot);
            }
        }
        if self.answer.prometheus_3 {
            for (id, doomed) in doomed.iter_mut().enumerate() {
                if !*doomed && self.would_respell(id) {
                    *doomed = true;
                    let slot = &self.slots[id];
                    let what = format!(
                        "{}, declared after its samples",
                        slot.kind.as_str(self.open_metrics)
                    );
                    self.conflicts
                        .insert((slot.name.clone(), ConflictKind::Type), what);
                }
            }
        }
        let timed = |part: &Part| {
            part.exposition
                .as_ref()
                .is_some_and(|found| found.index.has_timestamps)
        };
        if self.open_metrics && self.parts.iter().any(timed) {
            for (id, doomed) in doomed.iter_mut().enumerate() {
                let slot = &self.slots[id];
                let entries: Vec<Entry> = slot.entries().copied().collect();
                if !*doomed && dedup::mixes_times(self.parts, slot.kind, &slot.name, &entries, self.answer) {
                    *doomed = true;
                    let what = format!(
                        "{} with timestamps on some of a metric's samples",
                        slot.kind.as_str(true)
                    );
                    self.conflicts
                        .insert((slot.name.clone(), ConflictKind::Type), what);
                }
            }
        }
        for (id, doomed) in doomed.into_iter().enumerate() {
            if doomed {
                for sample in 0..self.slots[id].samples.len() {
                    let name = self.slots[id].samples[sample].name.clone();
                    let target = self.slot(name.clone(), Type::Unknown);
                    // A family that was untyped before stays what it is.
                    if target != id {
                        self.move_sample(id, &name, target);
                    }
                }
            }
        }
    }

    /// Whether Prometheus 3 would respell a bound under this family's TYPE that it leaves alone in a direct scrape,
    /// because the target's own TYPE line comes too late or another one came between.
    fn would_respell(&self, slot: usize) -> bool {
        let slot = &self.slots[slot];
        let ambient = Ambient::of(slot.kind);
        let Some(label) = ambient.label() else {
            return false;
        };
        let mut line = Line::default();
        slot.entries().any(|entry| {
            let Some(exposition) = &self.parts[entry.part as usize].exposition else {
                return false;
            };
            let group = &exposition.index.groups[entry.group as usize];
            exposition
                .index
                .group_runs(group)
                .filter(|run| run.ambient != ambient)
                .flat_map(|run| exposition.index.samples[run.first as usize..][..run.len as usize].iter())
                .any(|sample| exposition.respelled(sample, label, &mut line))
        })
    }

    /// The families in order, with the metadata that the targets agree on.
    fn finish(mut self) -> (Vec<Family>, Vec<Conflict>) {
        let place = |entry: &Entry| (entry.part, entry.first, entry.group, entry.suffixes);
        let mut found: Vec<(Slot, Vec<Entry>)> = Vec::new();
        for (id, mut slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            let pinned = id == 0 && self.synthetic_up;
            slot.samples.retain(|sample| !sample.entries.is_empty());
            if slot.samples.is_empty() && !pinned {
                continue;
            }
            let mut entries = match &mut slot.samples[..] {
                [only] => std::mem::take(&mut only.entries),
                all => all
                    .iter_mut()
                    .flat_map(|sample| std::mem::take(&mut sample.entries))
                    .collect(),
            };
            // One group of each part, in their order, needs no sorting; that is most families.
            if !entries.windows(2).all(|pair| pair[0].part < pair[1].part) {
                entries.sort_by_key(place);
            }
            found.push((slot, entries));
        }
        let pinned = usize::from(self.synthetic_up);
        found[pinned..].sort_by_key(|(_, entries)| entries.first().map(place));
        let families = found
            .into_iter()
            .map(|(slot, entries)| self.family(slot, entries))
            .collect();
        let conflicts = std::mem::take(&mut self.conflicts)
            .into_iter()
            .map(|((family, kind), detail)| Conflict {
                family: String::from_utf8_lossy(&family).into_owned(),
                kind,
                detail,
            })
            .collect();
        (families, conflicts)
    }

    fn family(&mut self, slot: Slot, mut entries: Vec<Entry>) -> Family {
        let mut help: Vec<u8> = Vec::new();
        let mut unit: Option<Vec<u8>> = None;
        let mut units_differ = false;
        let mut helps_differ = false;
        let mut last_help = None;
        // One entry for all that a part has of one group.
        entries.dedup_by(|entry, last| {
            let same = last.part == entry.part && last.group == entry.group;
            if same {
                last.suffixes.add(entry.suffixes);
            }
            same
        });
        for (position, entry) in entries.iter().enumerate() {
            if entry.same_texts && position > 0 {
                continue;
            }
            let Some(exposition) = &self.parts[entry.part as usize].exposition else {
                continue;
            };
            let group = &exposition.index.groups[entry.group as usize];
            if let Some(span) = group.help {
                let raw = span.of(&exposition.body).trim_ascii();
                // Most targets say the same; then nothing is decoded.
                if last_help != Some((raw, exposition.open_metrics)) {
                    last_help = Some((raw, exposition.open_metrics));
                    let decoded = name::unescape_help(raw, exposition.open_metrics);
                    if help.is_empty() {
                        help = decoded.into_owned();
                    } else if !decoded.is_empty() && help != *decoded {
                        helps_differ = true;
                    }
                }
            }
            if let Some(span) = group.unit.filter(|unit| !unit.is_empty()) {
                let found = span.of(&exposition.body);
                match &unit {
                    Some(first) if first != found => units_differ = true,
                    Some(_) => {}
                    None => unit = Some(found.to_vec()),
                }
            }
        }
        if helps_differ {
            self.note(&slot.name, ConflictKind::Help, "the first is kept");
        }
        if units_differ {
            self.note(&slot.name, ConflictKind::Unit, "dropped");
        }
        let unit = unit
            .filter(|unit| {
                !units_differ
                    && self.open_metrics
                    && !matches!(slot.kind, Type::Info | Type::StateSet)
                    && slot.name.ends_with(&[b"_", &**unit].concat())
            })
            .unwrap_or_default();
        if self.synthetic_up && slot.name == b"up" && slot.kind == Type::Gauge {
            help = b"Whether the target was scraped and its exposition accepted (1) or not (0).".to_vec();
        }
        // A degraded family takes its samples by name; a whole one takes all of a group.
        Family {
            name: slot.name,
            kind: slot.kind,
            help,
            unit,
            entries,
        }
    }

    fn note(&mut self, name: &[u8], kind: ConflictKind, detail: &str) {
        self.conflicts.insert((name.to_vec(), kind), detail.to_owned());
    }
}

/// A group without samples.
const NOWHERE: usize = usize::MAX;

/// Whether two groups of two bodies would be said in the same terms.
fn same_terms(exposition: &Exposition, group: &Group, other: &Exposition, before: &Group) -> bool {
    exposition.open_metrics == other.open_metrics
        && group.kind == before.kind
        && group.suffixes == before.suffixes
        && (group.notes ^ before.notes) & Group::LACKS_LABEL == 0
        && group.name_key == before.name_key
}

/// Names that a family of this type keeps from others, besides its own.
fn reserved(kind: Type, open_metrics: bool) -> &'static [Suffix] {
    match (kind, open_metrics) {
        (Type::Histogram, false) => &[Suffix::Bucket, Suffix::Sum, Suffix::Count],
        (Type::Summary, false) => &[Suffix::Sum, Suffix::Count],
        (_, false) => &[],
        (_, true) => kind.suffixes(),
    }
}

impl Exposition {
    /// Whether Prometheus 3 would respell the label `label` of this sample.
    pub(crate) fn respelled(&self, sample: &Sample, label: &[u8], line: &mut Line) -> bool {
        if line
            .read(&self.body, sample.start as usize, self.open_metrics)
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
