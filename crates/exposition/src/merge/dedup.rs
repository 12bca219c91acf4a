//! Series that become equal, and metrics that lie apart (core).
//!
//! The parser has dropped what repeats within a body in the same spelling. Whatever can make other series equal
//! (added labels, escaping, cut timestamps, respelled bounds, parts with the same labels) is looked at here by
//! meaning, and only in the parts where it can happen.
//!
//! Source: exposition.md 1 ("Doubles inside a pod") and 5, rules 8, 10, 11, 13, 15.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use crate::index::{Ambient, Group, Run, Sample, Suffix, Type};
use crate::merge::order;
use crate::merge::plan::{self, Entry, Family};
use crate::negotiate::{Answer, Format};
use crate::syntax::line::Line;
use crate::syntax::{name, number};
use crate::write::relabel::{self, Bounds, Value};
use crate::{Exposition, Part};

/// Two independent hashes: no two series of one process's lifetime share both.
type Key = (u64, u64);

struct Hash {
    first: foldhash::quality::RandomState,
    second: foldhash::quality::RandomState,
}

impl Hash {
    fn new() -> Self {
        Self {
            first: foldhash::quality::RandomState::default(),
            second: foldhash::quality::RandomState::default(),
        }
    }

    fn of<'a>(&self, pieces: &(impl Iterator<Item = &'a [u8]> + Clone)) -> Key {
        let one = |state: &foldhash::quality::RandomState| {
            let mut hasher = state.build_hasher();
            for piece in pieces.clone() {
                hasher.write_usize(piece.len());
                hasher.write(piece);
            }
            hasher.finish()
        };
        (one(&self.first), one(&self.second))
    }
}

/// What is known of a series when its next sample comes.
#[derive(Clone, Copy)]
enum Seen {
    /// A sample without a timestamp.
    Now,
    /// The latest timestamp, milliseconds.
    At(i64),
}

/// Which parts can hold the same series: equal numbers may, others cannot.
///
/// Labels that are added to a part tell its series from those of every part with another value for one of them.
pub(crate) fn domains(parts: &[Part]) -> Vec<u32> {
    let labelled = || {
        parts
            .iter()
            .filter(|part| part.labels.iter().any(|(_, value)| !value.is_empty()))
    };
    let mut common: Option<Vec<&str>> = None;
    for part in labelled() {
        let names = part
            .labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, _)| name.as_str());
        common = Some(match common {
            None => names.collect(),
            Some(before) => {
                let names: Vec<&str> = names.collect();
                before.into_iter().filter(|name| names.contains(name)).collect()
            }
        });
    }
    let mut common = common.unwrap_or_default();
    common.sort_unstable();
    common.dedup();
    let unlabelled_may_meet = parts.iter().any(|part| {
        part.labels.is_empty()
            && part
                .exposition
                .as_ref()
                .is_some_and(|exposition| common.iter().all(|name| exposition.has_label(name.as_bytes())))
    });
    if labelled().next().is_some() && (common.is_empty() || unlabelled_may_meet) {
        return vec![0; parts.len()];
    }
    let mut numbers: HashMap<Vec<&str>, u32> = HashMap::new();
    parts
        .iter()
        .map(|part| {
            let key: Vec<&str> = common
                .iter()
                .filter_map(|name| {
                    let (_, value) = part.labels.iter().find(|(other, _)| other == name)?;
                    Some(value.as_str())
                })
                .collect();
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(key).or_insert(next)
        })
        .collect()
}

impl Exposition {
    /// Whether a label of this name occurs in some sample.
    fn has_label(&self, wanted: &[u8]) -> bool {
        self.label_names().any(|name| *name == *wanted)
    }

    /// Names of labels that occur; some several times.
    fn label_names(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let plain = self
            .index
            .shape_names
            .iter()
            .map(|span| Cow::Borrowed(span.of(&self.body)));
        let odd = self
            .index
            .odd_label_names
            .iter()
            .map(|name| name.decode(&self.body));
        plain.chain(odd)
    }

    /// The ending of a sample's name beyond its group's.
    pub(crate) fn suffix(&self, group: &Group, sample: &Sample, line: &mut Line) -> Suffix {
        let body = &self.body;
        let start = sample.start as usize;
        let len = name::metric_name_len(&body[start..]);
        let full = if len > 0 {
            Cow::Borrowed(&body[start..start + len])
        } else {
            // Read once already, so it reads again.
            drop(line.read(body, start, self.open_metrics));
            line.name.decode(body)
        };
        let family = group.name.decode(body);
        let rest = full.strip_prefix(&*family).unwrap_or_default();
        Suffix::ALL
            .into_iter()
            .find(|suffix| suffix.as_str().as_bytes() == rest)
            .unwrap_or(Suffix::Bare)
    }
}

/// Whether equal series may hide in this part, given how the answer is written.
fn needs_look(part: &Part, answer: &Answer) -> bool {
    let Some(exposition) = &part.exposition else {
        return false;
    };
    let index = &exposition.index;
    let cuts_time = exposition.open_metrics && answer.format == Format::Text && index.has_timestamps;
    let respells = |group: &Group| {
        let both = Group::BOUND_INTEGER | Group::BOUND_DOT_ZERO;
        // Under one TYPE line `1` is stored as `1.0`, under another it is not.
        let mixed = || {
            let mut runs = index.group_runs(group);
            let first = runs.next().map(|run| run.ambient);
            runs.any(|run| Some(run.ambient) != first)
        };
        group.notes & Group::BOUND_OTHER != 0
            || group.notes & both == both
            || group.notes & both != 0 && mixed()
    };
    let exports = || {
        part.labels
            .iter()
            .any(|(label, _)| exposition.has_label(label.as_bytes()))
            && exposition
                .label_names()
                .any(|label| label.starts_with(b"exported_"))
    };
    let special = |group: &Group| {
        part.up.is_some() && group.notes & Group::UP != 0 || !part.own && group.notes & Group::OUR_PREFIX != 0
    };
    index.uncertain
        || cuts_time
        || index.quoted && answer.escaping != name::Escaping::AllowUtf8
        || answer.prometheus_3 && index.groups.iter().any(respells)
        || index.groups.iter().any(special)
        || exports()
}

/// Marks the samples that repeat a series, or whose timestamp the answer cannot hold. Returns how many.
pub(crate) fn drop_doubles(
    parts: &mut [Part],
    domains: &[u32],
    families: &[Family],
    answer: &Answer,
) -> usize {
    let mut n_in_domain: HashMap<u32, usize> = HashMap::new();
    let mut look: HashMap<u32, bool> = HashMap::new();
    for (part, domain) in parts.iter().zip(domains) {
        if part.exposition.is_some() {
            *n_in_domain.entry(*domain).or_default() += 1;
            *look.entry(*domain).or_default() |= needs_look(part, answer);
        }
    }
    look.retain(|domain, look| *look || n_in_domain.get(domain).is_some_and(|n| *n > 1));
    if look.is_empty() {
        return 0;
    }
    let hash = Hash::new();
    let mut n_dropped = 0;
    let mut seen: HashMap<Key, Seen, foldhash::fast::RandomState> = HashMap::default();
    let mut line = Line::default();
    for family in families {
        seen.clear();
        if family.name == b"up" && family.kind == Type::Gauge {
            for part in parts.iter().filter(|part| part.up.is_some()) {
                let labels = part.labels.iter().map(|(name, value)| {
                    (
                        Cow::Borrowed(name.as_bytes()),
                        Value::Decoded(value.as_bytes().to_vec()),
                    )
                });
                seen.insert(series_key(&hash, b"up", labels.collect()), Seen::Now);
            }
        }
        for entry in &family.entries {
            if !look.contains_key(&domains[entry.part as usize]) {
                continue;
            }
            let part = &mut parts[entry.part as usize];
            for id in doubles(part, entry, answer, &hash, &mut seen, &mut line) {
                if let Some(exposition) = &mut part.exposition {
                    exposition.index.samples[id as usize].set(Sample::DROPPED);
                    n_dropped += 1;
                }
            }
        }
    }
    n_dropped
}

/// The samples of one entry that repeat what was seen.
fn doubles(
    part: &Part,
    entry: &Entry,
    answer: &Answer,
    hash: &Hash,
    seen: &mut HashMap<Key, Seen, foldhash::fast::RandomState>,
    line: &mut Line,
) -> Vec<u32> {
    let mut found = Vec::new();
    let Some(exposition) = &part.exposition else {
        return found;
    };
    let group = &exposition.index.groups[entry.group as usize];
    for run in exposition.index.group_runs(group) {
        for id in run.first..run.first + run.len {
            let sample = exposition.index.samples[id as usize];
            if sample.has(Sample::DROPPED)
                || !entry.suffixes.has(exposition.suffix(group, &sample, line))
                || line
                    .read(&exposition.body, sample.start as usize, exposition.open_metrics)
                    .is_err()
            {
                continue;
            }
            let Ok(time) = time_of(exposition, line, answer) else {
                found.push(id);
                continue;
            };
            let key = stored_key(hash, part, exposition, line, run, answer);
            let keep = match (seen.get(&key), time) {
                (None, _) => true,
                (Some(_), None) => false,
                // The reference parser refuses a metric with and without timestamps.
                (Some(Seen::Now), Some(_)) => answer.format == Format::Text,
                (Some(Seen::At(before)), Some(time)) => time > *before,
            };
            if keep {
                seen.insert(key, time.map_or(Seen::Now, Seen::At));
            } else {
                found.push(id);
            }
        }
    }
    found
}

/// A sample's time in milliseconds; `Err` where the answer cannot hold it.
fn time_of(exposition: &Exposition, line: &Line, answer: &Answer) -> Result<Option<i64>, ()> {
    let Some(span) = line.timestamp else {
        return Ok(None);
    };
    let token = span.of(&exposition.body);
    match (exposition.open_metrics, answer.format) {
        (false, _) => Ok(number::parse_millis(token)),
        (true, Format::Text) => number::seconds_to_millis(token).map(Some).ok_or(()),
        (true, Format::OpenMetrics) => Ok(Some(number::seconds_to_millis_saturating(token))),
    }
}

/// The series as the client will store it.
fn stored_key(
    hash: &Hash,
    part: &Part,
    exposition: &Exposition,
    line: &Line,
    run: &Run,
    answer: &Answer,
) -> Key {
    let bounds = Bounds {
        respell: if answer.prometheus_3 {
            run.ambient
        } else {
            Ambient::Other
        },
        sign_infinity: false,
    };
    let labels = relabel::relabel(&exposition.body, line, &part.labels, answer, bounds);
    let name = plan::output_name(part, &line.name.decode(&exposition.body), answer);
    series_key(hash, &name, labels)
}

fn series_key(hash: &Hash, name: &[u8], mut labels: Vec<(Cow<'_, [u8]>, Value<'_>)>) -> Key {
    labels.retain(|(_, value)| !value.decode().is_empty());
    label_key(hash, name, labels)
}

/// As [`series_key`], empty labels told from absent ones: the reference parser does so.
fn label_key(hash: &Hash, name: &[u8], mut labels: Vec<(Cow<'_, [u8]>, Value<'_>)>) -> Key {
    labels.sort_by(|a, b| a.0.cmp(&b.0));
    let decoded: Vec<(&[u8], Cow<'_, [u8]>)> = labels
        .iter()
        .map(|(name, value)| (&**name, value.decode()))
        .collect();
    hash.of(&std::iter::once(name).chain(decoded.iter().flat_map(|(name, value)| [*name, &**value])))
}

/// Whether a metric of an OpenMetrics family would have samples with and without timestamps, which the reference
/// parser refuses. Prometheus takes it, so such a family is written without a type: then each series stands alone.
pub(crate) fn mixes_times(
    parts: &[Part],
    kind: Type,
    family: &[u8],
    entries: &[Entry],
    answer: &Answer,
) -> bool {
    let several_names = matches!(
        kind,
        Type::Histogram | Type::GaugeHistogram | Type::Summary | Type::Counter | Type::StateSet | Type::Info
    );
    let timed = |entry: &&Entry| {
        let exposition = parts[entry.part as usize].exposition.as_ref();
        exposition.is_some_and(|exposition| exposition.index.has_timestamps)
    };
    if !several_names || !entries.iter().any(|entry| timed(&entry)) {
        return false;
    }
    let hash = Hash::new();
    let mut line = Line::default();
    let mut metrics: HashMap<Key, bool, foldhash::fast::RandomState> = HashMap::default();
    // The metrics of an info family are all one to the reference parser, whatever their labels and targets.
    for entry in entries.iter().filter(|entry| kind == Type::Info || timed(entry)) {
        let part = &parts[entry.part as usize];
        let Some(exposition) = &part.exposition else {
            continue;
        };
        let group = &exposition.index.groups[entry.group as usize];
        for run in exposition.index.group_runs(group) {
            for sample in &exposition.index.samples[run.first as usize..][..run.len as usize] {
                if sample.has(Sample::DROPPED)
                    || !entry.suffixes.has(exposition.suffix(group, sample, &mut line))
                    || line
                        .read(&exposition.body, sample.start as usize, exposition.open_metrics)
                        .is_err()
                {
                    continue;
                }
                let key = if kind == Type::Info {
                    (0, 0)
                } else {
                    let mut labels =
                        relabel::relabel(&exposition.body, &line, &part.labels, answer, Bounds::default());
                    let name = plan::output_name(part, &line.name.decode(&exposition.body), answer);
                    let bound = bound_label(kind, family, &name);
                    labels.retain(|(name, _)| **name != *bound);
                    label_key(&hash, b"", labels)
                };
                let has_time = line.timestamp.is_some();
                if *metrics.entry(key).or_insert(has_time) != has_time {
                    return true;
                }
            }
        }
    }
    false
}

/// The label that is not part of a metric's identity: `le` of a bucket, `quantile` of a summary's own sample, a state.
/// Empty for other samples, whatever their labels.
fn bound_label<'a>(kind: Type, family: &'a [u8], sample: &[u8]) -> &'a [u8] {
    match kind {
        Type::Histogram | Type::GaugeHistogram if sample.strip_prefix(family) == Some(b"_bucket") => b"le",
        Type::Summary if sample == family => b"quantile",
        Type::StateSet if sample == family => family,
        _ => b"",
    }
}

/// A sample in an explicit order: entry of the family, run, sample.
pub(crate) type Place = (u32, u32, u32);

/// For OpenMetrics: the order in which a family's samples must be written so that each metric's stand together, its
/// buckets ascend, and so do its timestamps. `None` where they are written as they come.
///
/// `entries` are those of parts that may hold the same metric.
pub(crate) fn regroup(
    parts: &[Part],
    family: &Family,
    entries: &[Entry],
    first_entry: u32,
    answer: &Answer,
) -> Option<Vec<Place>> {
    if let [entry] = entries
        && order::comes_in_order(&parts[entry.part as usize], family, entry)
    {
        debug_assert!(
            sorted(parts, family, entries, first_entry, answer).is_none(),
            "{} is in order only at first sight",
            String::from_utf8_lossy(&family.name)
        );
        return None;
    }
    sorted(parts, family, entries, first_entry, answer)
}

/// As [`regroup`], every line taken apart.
fn sorted(
    parts: &[Part],
    family: &Family,
    entries: &[Entry],
    first_entry: u32,
    answer: &Answer,
) -> Option<Vec<Place>> {
    let several = entries.len() > 1;
    let exposition_of = |entry: &Entry| parts[entry.part as usize].exposition.as_ref();
    let has_bounds = matches!(
        family.kind,
        Type::Histogram | Type::GaugeHistogram | Type::Summary | Type::StateSet
    );
    let relevant = has_bounds
        || several
        || entries.iter().any(|entry| {
            exposition_of(entry).is_some_and(|exposition| {
                exposition.index.uncertain
                    || exposition.index.groups[entry.group as usize]
                        .suffixes
                        .has(Suffix::Created)
            })
        });
    if !relevant {
        return None;
    }
    let hash = Hash::new();
    let mut line = Line::default();
    let mut metrics: HashMap<Key, u32, foldhash::fast::RandomState> = HashMap::default();
    let mut order: Vec<(u32, i64, f64, Place)> = Vec::new();
    for (entry_id, entry) in (first_entry..).zip(entries) {
        let part = &parts[entry.part as usize];
        let Some(exposition) = &part.exposition else {
            continue;
        };
        let body = &exposition.body;
        let group = &exposition.index.groups[entry.group as usize];
        for run_id in group.runs.0..group.runs.1 {
            let run = &exposition.index.runs[exposition.index.run_order[run_id as usize] as usize];
            for id in run.first..run.first + run.len {
                let sample = exposition.index.samples[id as usize];
                // The group's other samples are in other families, and say nothing of the order in this one.
                let is_here = entry.suffixes == entry.all_suffixes
                    || entry.suffixes.has(exposition.suffix(group, &sample, &mut line));
                if sample.has(Sample::DROPPED)
                    || !is_here
                    || line
                        .read(body, sample.start as usize, exposition.open_metrics)
                        .is_err()
                {
                    continue;
                }
                let mut labels = relabel::relabel(body, &line, &part.labels, answer, Bounds::default());
                let name = plan::output_name(part, &line.name.decode(body), answer);
                let bound = bound_label(family.kind, &family.name, &name);
                let mut rank = f64::INFINITY;
                let mut has_bound = false;
                labels.retain(|(name, value)| {
                    if **name != *bound {
                        return true;
                    }
                    has_bound = true;
                    rank = number::parse_float(&value.decode()).unwrap_or(f64::INFINITY);
                    false
                });
                // Sums and counts come after the buckets, in their own order.
                let rank = match (has_bound, family.kind) {
                    (true, Type::Histogram | Type::GaugeHistogram) => rank,
                    (false, Type::Histogram | Type::GaugeHistogram) => f64::NAN,
                    _ => 0.0,
                };
                let key = label_key(&hash, b"", labels);
                let next = u32::try_from(metrics.len()).unwrap_or(u32::MAX);
                let metric = *metrics.entry(key).or_insert(next);
                let time = time_of(exposition, &line, answer)
                    .unwrap_or(None)
                    .unwrap_or(i64::MIN);
                order.push((metric, time, rank, (entry_id, run_id, id)));
            }
        }
    }
    let compare = |a: &(u32, i64, f64, Place), b: &(u32, i64, f64, Place)| {
        (a.0, a.1)
            .cmp(&(b.0, b.1))
            .then_with(|| a.2.is_nan().cmp(&b.2.is_nan()))
            .then_with(|| a.2.partial_cmp(&b.2).unwrap_or(std::cmp::Ordering::Equal))
    };
    // Sums before buckets are as good, where the target writes them so and nothing else is out of order.
    if !several && order.windows(2).all(|pair| in_order(&pair[0], &pair[1])) {
        return None;
    }
    order.sort_by(compare);
    Some(order.into_iter().map(|(_, _, _, place)| place).collect())
}

fn in_order(a: &(u32, i64, f64, Place), b: &(u32, i64, f64, Place)) -> bool {
    match a.0.cmp(&b.0) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => a.1 < b.1 || a.1 == b.1 && (a.2.is_nan() || b.2.is_nan() || a.2 <= b.2),
    }
}
