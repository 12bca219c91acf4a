//! Who shares a family with whom (core).
//!
//! Each target's groups are first said in the answer's own terms (which family, which type, which sample names), then
//! settled: what can join joins, what cannot is degraded to `untyped`/`unknown`, one family per sample name, so that
//! no sample is lost and no series changes its name. Nothing here looks at a sample's value.
//!
//! Source: exposition.md 5, rules 5, 6, 7, 10, 11, 12.

use std::collections::BTreeMap;
use std::collections::HashMap;

use super::line::Line;
use super::model::{Ambient, Group, Sample, Suffix, Suffixes, Type};
use super::negotiate::{Answer, Format};
use super::{Conflict, ConflictKind, Exposition, Part, name, number};

/// One family of the answer.
#[derive(Debug)]
pub(super) struct Family {
    /// As it is written: escaped, and quoted by the writer where needed.
    pub(super) name: Vec<u8>,
    pub(super) kind: Type,
    pub(super) help: Vec<u8>,
    pub(super) unit: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

/// What one target contributes to a family: a group, or those of its samples whose names end so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) part: u32,
    pub(super) group: u32,
    pub(super) suffixes: Suffixes,
}

/// The name of a group in the answer.
pub(super) fn output_name(part: &Part, decoded: &[u8], answer: &Answer) -> Vec<u8> {
    let escaped = name::escape_metric(decoded, answer.escaping);
    if is_renamed(part, decoded) {
        [b"exported_", &*escaped].concat()
    } else {
        escaped.into_owned()
    }
}

/// A target's `metrics_proxy_*` would look like our own metrics.
pub(super) fn is_renamed(part: &Part, decoded: &[u8]) -> bool {
    !part.own && decoded.starts_with(b"metrics_proxy_")
}

/// A family as somebody sees it, before anything is settled.
#[derive(Debug)]
struct Slot {
    name: Vec<u8>,
    kind: Type,
    /// Sample names, and where each comes from.
    entries: Vec<(Vec<u8>, Entry)>,
}

/// The families of the answer, in the order of their first sample, and what could not be settled without loss.
pub(super) fn plan(parts: &[Part], answer: &Answer) -> (Vec<Family>, Vec<Conflict>) {
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
        let mut known: HashMap<GroupKey, Vec<(usize, Vec<u8>, Suffixes)>, foldhash::quality::RandomState> =
            HashMap::default();
        if self.synthetic_up {
            self.slot(b"up".to_vec(), Type::Gauge);
        }
        for (part_id, part) in self.parts.iter().enumerate() {
            let Some(exposition) = &part.exposition else {
                continue;
            };
            let folds = self.created_families(exposition);
            for (group_id, group) in exposition.index.groups.iter().enumerate() {
                if group.runs.0 == group.runs.1 {
                    continue;
                }
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
                if !known.contains_key(&key) {
                    let places = self.places(&key);
                    known.insert(key.clone(), places);
                }
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "parts and groups are counted in 32 bits"
                )]
                for (slot, sample, suffixes) in &known[&key] {
                    let entry = Entry {
                        part: part_id as u32,
                        group: group_id as u32,
                        suffixes: *suffixes,
                    };
                    self.slots[*slot].entries.push((sample.clone(), entry));
                }
            }
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
    fn places(&mut self, key: &GroupKey) -> Vec<(usize, Vec<u8>, Suffixes)> {
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
            places.push((self.slot(family, kind), sample, suffix.bit()));
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
                    entries: Vec::new(),
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
            for (sample, _) in &slot.entries {
                match found.get_mut(sample) {
                    Some(slots) if slots.last() == Some(&id) => {}
                    Some(slots) => slots.push(id),
                    None => drop(found.insert(sample.clone(), vec![id])),
                }
            }
        }
        for slots in found.values_mut() {
            slots.sort_unstable();
            slots.dedup();
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
                    let moved = self.take(slot, &sample);
                    self.slots[target].entries.extend(moved);
                }
            }
        }
    }

    fn take(&mut self, slot: usize, sample: &[u8]) -> Vec<(Vec<u8>, Entry)> {
        let entries = std::mem::take(&mut self.slots[slot].entries);
        let (moved, kept) = entries.into_iter().partition(|(name, _)| name == sample);
        self.slots[slot].entries = kept;
        moved
    }

    /// Makes every family that shares a name with another one untyped, one family per sample name.
    fn degrade(&mut self) {
        let mut claims: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (id, slot) in self.slots.iter().enumerate() {
            if slot.entries.is_empty() && !self.is_pinned(id) {
                continue;
            }
            let mut names: Vec<Vec<u8>> = reserved(slot.kind, self.open_metrics)
                .iter()
                .map(|suffix| [&slot.name, suffix.as_str().as_bytes()].concat())
                .collect();
            names.push(slot.name.clone());
            names.extend(slot.entries.iter().map(|(sample, _)| sample.clone()));
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
        for (id, doomed) in doomed.into_iter().enumerate() {
            if doomed {
                for (sample, entry) in std::mem::take(&mut self.slots[id].entries) {
                    let target = self.slot(sample.clone(), Type::Unknown);
                    self.slots[target].entries.push((sample, entry));
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
        slot.entries.iter().any(|(_, entry)| {
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
        let mut slots: Vec<Slot> = std::mem::take(&mut self.slots)
            .into_iter()
            .filter(|slot| {
                !slot.entries.is_empty()
                    || self.synthetic_up && slot.name == b"up" && slot.kind == Type::Gauge
            })
            .collect();
        let parts = self.parts;
        let place = |entry: &Entry| {
            (
                entry.part,
                first_sample(parts, entry),
                entry.group,
                entry.suffixes,
            )
        };
        for slot in &mut slots {
            slot.entries.sort_by_key(|(_, entry)| place(entry));
        }
        let synthetic_up = self.synthetic_up;
        slots.sort_by_key(|slot| {
            let pinned = synthetic_up && slot.name == b"up" && slot.kind == Type::Gauge;
            (!pinned, slot.entries.first().map(|(_, entry)| place(entry)))
        });
        let families = slots.into_iter().map(|slot| self.family(slot)).collect();
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

    fn family(&mut self, slot: Slot) -> Family {
        let mut help: Vec<u8> = Vec::new();
        let mut unit: Option<Vec<u8>> = None;
        let mut units_differ = false;
        let mut helps_differ = false;
        let mut entries: Vec<Entry> = Vec::with_capacity(slot.entries.len());
        let mut last_help = None;
        for (_, entry) in &slot.entries {
            if let Some(last) = entries.last_mut()
                && last.part == entry.part
                && last.group == entry.group
            {
                last.suffixes.add(entry.suffixes);
                continue;
            }
            entries.push(*entry);
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

/// Where a group begins in its body. Groups are numbered in the order in which their names were seen, which is another
/// one where a TYPE line came late.
fn first_sample(parts: &[Part], entry: &Entry) -> u32 {
    let Some(exposition) = &parts[entry.part as usize].exposition else {
        return 0;
    };
    let group = &exposition.index.groups[entry.group as usize];
    exposition
        .index
        .group_runs(group)
        .next()
        .map_or(0, |run| run.first)
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
    pub(super) fn respelled(&self, sample: &Sample, label: &[u8], line: &mut Line) -> bool {
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
