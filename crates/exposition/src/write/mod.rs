//! The answer: families in order, each once, written in chunks (core).

mod chunks;
pub(crate) mod relabel;

use crate::index::{Ambient, Group, Run, Sample, Suffix, Suffixes, Type};
use crate::merge::dedup::{self, Place};
use crate::merge::plan::{self, Entry, Family};
use crate::negotiate::{Answer, Format};
use crate::simd;
use crate::syntax::line::Line;
use crate::syntax::name;
use crate::syntax::number;
use crate::{Conflict, Exposition, Part, Pool};
use chunks::{Chunks, Padded};
use relabel::Bounds;

/// Several expositions merged: planned, not yet written.
#[derive(Debug)]
pub struct Merged {
    parts: Vec<Part>,
    families: Vec<Family>,
    conflicts: Vec<Conflict>,
    answer: Answer,
    contexts: Vec<Context>,
    /// Explicit orders, by family and first entry.
    orders: Vec<(u32, u32, Vec<Place>)>,
    n_samples: usize,
    n_dropped: usize,
    pub(crate) pool: Option<Pool>,
}

/// What the writer needs of one part at each of its samples.
#[derive(Debug, Default)]
struct Context {
    /// The added labels after others: `,a="b",c="d"`.
    after_labels: Padded,
    /// The added labels on their own: `{a="b",c="d"}`.
    alone: Padded,
    /// Shapes with a label that an added one pushes aside; empty where there are none.
    clashes: Vec<bool>,
}

/// Merges the expositions of several targets into one, in the order given.
///
/// Equal input gives equal bytes. Families come in the order of their first sample, after `up`; a family's samples
/// part after part, each part's in its own order, timestamps and (in OpenMetrics) exemplars kept.
///
/// Targets that disagree are settled (exposition.md 5, rules 5 to 7) and listed in [`Merged::problems`].
pub fn merge(parts: Vec<Part>, answer: &Answer) -> Merged {
    let mut parts = parts;
    let (mut families, conflicts) = plan::plan(&parts, answer);
    let domains = dedup::domains(&parts);
    let mut n_dropped = dedup::drop_doubles(&mut parts, &domains, &families, answer);
    let orders = if answer.format == Format::OpenMetrics {
        order_metrics(&parts, &domains, &mut families, answer)
    } else {
        Vec::new()
    };
    let mut n_samples = parts.iter().filter(|part| part.up.is_some()).count();
    for part in &parts {
        if let Some(exposition) = &part.exposition {
            n_samples += exposition.index.samples.len();
            n_dropped += exposition.index.n_dropped;
        }
    }
    Merged {
        contexts: parts.iter().map(Context::new).collect(),
        parts,
        families,
        conflicts,
        answer: answer.clone(),
        orders,
        n_samples: n_samples - n_dropped,
        n_dropped,
        pool: None,
    }
}

/// Brings entries of one domain together and finds out which of them must be written in another order.
fn order_metrics(
    parts: &[Part],
    domains: &[u32],
    families: &mut [Family],
    answer: &Answer,
) -> Vec<(u32, u32, Vec<Place>)> {
    let mut orders = Vec::new();
    for (family_id, family) in (0..).zip(families.iter_mut()) {
        // Domains are numbered by their first part, so this only moves parts that share one.
        family.entries.sort_by_key(|entry| domains[entry.part as usize]);
        let mut first = 0;
        while first < family.entries.len() {
            let domain = domains[family.entries[first].part as usize];
            let len = family.entries[first..]
                .iter()
                .take_while(|entry| domains[entry.part as usize] == domain)
                .count();
            let entries = &family.entries[first..first + len];
            #[allow(clippy::cast_possible_truncation, reason = "entries are counted in 32 bits")]
            if let Some(order) = dedup::regroup(parts, family, entries, first as u32, answer) {
                orders.push((family_id, first as u32, order));
            }
            first += len;
        }
    }
    orders
}

impl Context {
    fn new(part: &Part) -> Self {
        let mut context = Self::default();
        let mut labels = Vec::new();
        for (label, value) in part.labels.iter().filter(|(_, value)| !value.is_empty()) {
            labels.push(b',');
            name::write_label(label.as_bytes(), value.as_bytes(), &mut labels);
        }
        if !labels.is_empty() {
            context.alone = Padded::new([b"{", &labels[1..], b"}"].concat());
            context.after_labels = Padded::new(labels);
        }
        if let Some(exposition) = &part.exposition {
            let index = &exposition.index;
            let pushed = |span: &crate::syntax::line::Span| {
                part.labels
                    .iter()
                    .any(|(label, _)| label.as_bytes() == span.of(&exposition.body))
            };
            context.clashes = (0..index.shapes.len())
                .map(|shape| index.shape_names(shape).iter().any(pushed))
                .collect();
            if !context.clashes.contains(&true) {
                context.clashes = Vec::new();
            }
        }
        context
    }
}

impl Merged {
    /// What the targets disagreed on.
    pub fn problems(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Samples that [`Merged::write`] writes, `up` included.
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Samples left out because their series is there already, or because their time cannot be written.
    pub fn n_dropped(&self) -> usize {
        self.n_dropped
    }

    /// Families of the answer.
    pub fn n_families(&self) -> usize {
        self.families.len()
    }

    /// Gives the parts back, so that their buffers can be used again.
    pub fn into_parts(self) -> Vec<Part> {
        self.parts
    }

    /// Writes the answer in chunks of about `chunk_bytes`; stops early when `sink` returns false.
    pub fn write(&self, chunk_bytes: usize, sink: &mut dyn FnMut(Vec<u8>) -> bool) {
        let mut out = Chunks::new(chunk_bytes, self.pool.as_ref(), sink);
        let mut careful = Careful::default();
        for (family_id, family) in (0..).zip(&self.families) {
            self.write_family(family_id, family, &mut careful, &mut out);
            if out.stopped() {
                return;
            }
        }
        if self.answer.format == Format::OpenMetrics {
            out.push(b"# EOF\n");
        }
        out.finish();
    }

    fn write_family(&self, family_id: u32, family: &Family, careful: &mut Careful, out: &mut Chunks<'_>) {
        careful.text.clear();
        self.write_metadata(family, &mut careful.text);
        out.push(&careful.text);
        if family.name == b"up" && family.kind == Type::Gauge {
            self.write_up(out);
        }
        let mut entry_id = 0;
        while let Some(entry) = family.entries.get(entry_id as usize) {
            if let Ok(found) = self
                .orders
                .binary_search_by_key(&(family_id, entry_id), |(family, first, _)| (*family, *first))
            {
                let order = &self.orders[found].2;
                for &(entry, run, sample) in order {
                    entry_id = entry_id.max(entry);
                    let entry = &family.entries[entry as usize];
                    let Some(exposition) = &self.parts[entry.part as usize].exposition else {
                        continue;
                    };
                    let run = exposition.index.runs[exposition.index.run_order[run as usize] as usize];
                    if let Some(block) = self.block(family, entry, run) {
                        block.write(
                            &block.exposition.index.samples[sample as usize..][..1],
                            careful,
                            out,
                        );
                    }
                    if out.stopped() {
                        return;
                    }
                }
            } else if let Some(block) = self.block(family, entry, entry.run()) {
                // By the time that this entry is written the next one's samples and lines have come.
                if let Some(next) = family.entries.get(entry_id as usize + 1) {
                    self.prefetch(next);
                }
                block.write_run(careful, out);
                if entry.n_runs > 1 {
                    let group = &block.exposition.index.groups[entry.group as usize];
                    for run in block.exposition.index.group_runs(group).skip(1) {
                        if out.stopped() {
                            return;
                        }
                        if let Some(block) = self.block(family, entry, *run) {
                            block.write_run(careful, out);
                        }
                    }
                }
                if out.stopped() {
                    return;
                }
            }
            entry_id += 1;
        }
    }

    fn write_metadata(&self, family: &Family, out: &mut Vec<u8>) {
        let open_metrics = self.answer.format == Format::OpenMetrics;
        let line = |out: &mut Vec<u8>, keyword: &str| {
            out.extend_from_slice(keyword.as_bytes());
            name::write_metric_name(&family.name, out);
            out.push(b' ');
        };
        let write_type = |out: &mut Vec<u8>| {
            line(out, "# TYPE ");
            out.extend_from_slice(family.kind.as_str(open_metrics).as_bytes());
            out.push(b'\n');
        };
        if open_metrics {
            write_type(out);
            if !family.unit.is_empty() {
                line(out, "# UNIT ");
                out.extend_from_slice(&family.unit);
                out.push(b'\n');
            }
        }
        if !family.help.is_empty() {
            line(out, "# HELP ");
            name::write_help(&family.help, open_metrics, out);
            out.push(b'\n');
        }
        if !open_metrics {
            write_type(out);
        }
    }

    fn write_up(&self, out: &mut Chunks<'_>) {
        for (part, context) in self.parts.iter().zip(&self.contexts) {
            let Some(up) = part.up else {
                continue;
            };
            out.push(b"up");
            out.push(context.alone.text());
            out.push(if up { b" 1\n" } else { b" 0\n" });
            out.flush();
        }
    }

    fn prefetch(&self, entry: &Entry) {
        let Some(exposition) = &self.parts[entry.part as usize].exposition else {
            return;
        };
        let samples = &exposition.index.samples;
        let run = entry.run();
        simd::prefetch(samples, run.first as usize);
        // About as much as its lines have, and as the writer asks for from there on.
        let len = (run.len as usize * 128).min(AHEAD);
        for at in (0..len).step_by(64) {
            simd::prefetch(&exposition.body, entry.start as usize + at);
        }
    }

    fn block<'a>(&'a self, family: &'a Family, entry: &Entry, run: Run) -> Option<Block<'a>> {
        let part = &self.parts[entry.part as usize];
        let exposition = part.exposition.as_ref()?;
        let open_metrics = self.answer.format == Format::OpenMetrics;
        let histogram = matches!(family.kind, Type::Histogram | Type::GaugeHistogram);
        let bounds = Bounds {
            respell: if self.answer.prometheus_3 && Ambient::of(family.kind) != run.ambient {
                run.ambient
            } else {
                Ambient::Other
            },
            sign_infinity: open_metrics
                && histogram
                && (entry.notes & Group::BOUND_OTHER != 0 || run.ambient != Ambient::Histogram),
        };
        Some(Block {
            part,
            exposition,
            context: &self.contexts[entry.part as usize],
            answer: &self.answer,
            group: entry.group,
            run,
            filter: (entry.suffixes != entry.all_suffixes).then_some(entry.suffixes),
            kind: family.kind,
            bounds,
            renamed: !part.own && entry.notes & Group::OUR_PREFIX != 0,
            same_time: exposition.open_metrics == open_metrics,
            open_metrics,
        })
    }
}

/// How far ahead of the copying memory is asked for.
const AHEAD: usize = 4096;

/// How a sample gets into the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its bytes as they are, the added labels between them.
    Copied,
    /// Taken apart and put together again.
    Anew,
    /// Not at all.
    LeftOut,
}

/// What it takes to write a sample anew; reused from sample to sample.
#[derive(Debug, Default)]
struct Careful {
    line: Line,
    text: Vec<u8>,
}

/// One run of one part, on its way into one family.
struct Block<'a> {
    part: &'a Part,
    exposition: &'a Exposition,
    context: &'a Context,
    answer: &'a Answer,
    group: u32,
    run: Run,
    /// Only samples with these endings, where the group is split.
    filter: Option<Suffixes>,
    kind: Type,
    bounds: Bounds,
    renamed: bool,
    /// Timestamps are written as they stand.
    same_time: bool,
    open_metrics: bool,
}

impl Block<'_> {
    fn write_run(&self, careful: &mut Careful, out: &mut Chunks<'_>) {
        let samples = &self.exposition.index.samples[self.run.first as usize..];
        self.write(&samples[..self.run.len as usize], careful, out);
    }

    fn group(&self) -> &Group {
        &self.exposition.index.groups[self.group as usize]
    }

    /// Writes samples that follow each other in the body.
    fn write(&self, samples: &[Sample], careful: &mut Careful, out: &mut Chunks<'_>) {
        let body = &self.exposition.body[..];
        let mut odd = Sample::ODD | Sample::EXEMPLAR | Sample::DROPPED;
        if !self.same_time {
            odd |= Sample::TIMESTAMP;
        }
        let look = self.renamed
            || self.filter.is_some()
            || !self.context.clashes.is_empty()
            || self.bounds != Bounds::default();
        // What comes after the labels of one sample and before those of the next mostly stands together in the body, and
        // is copied at once: from the first of these places, where the line ends at the second.
        let mut begun: Option<(usize, usize)> = None;
        let end = samples.last().map_or(0, |sample| sample.end as usize);
        for sample in samples {
            if sample.has(odd) || look {
                match self.way(*sample, &mut careful.line) {
                    Way::Copied => {}
                    way => {
                        if let Some((from, end)) = begun.take() {
                            out.copy(body, from, end);
                            out.push(b"\n");
                        }
                        if way == Way::Anew {
                            self.write_anew(*sample, careful);
                            out.push(&careful.text);
                        }
                        out.flush();
                        if out.stopped() {
                            return;
                        }
                        continue;
                    }
                }
            }
            let (start, labels_at) = (sample.start as usize, sample.series_end as usize);
            if start + AHEAD < end {
                simd::prefetch(body, start + AHEAD);
                simd::prefetch(body, start + AHEAD + 64);
            }
            match begun {
                // Past the line feed: a line that can be copied has nothing else after its value.
                Some((from, end)) if end + 1 == start => out.copy(body, from, labels_at),
                Some((from, end)) => {
                    out.copy(body, from, end);
                    out.push(b"\n");
                    out.copy(body, start, labels_at);
                }
                None => out.copy(body, start, labels_at),
            }
            let labels = if sample.has(Sample::LABELS) {
                &self.context.after_labels
            } else {
                &self.context.alone
            };
            out.copy(&labels.padded, 0, labels.len);
            begun = Some((labels_at, sample.end as usize));
            out.flush();
            if out.stopped() {
                return;
            }
        }
        if let Some((from, end)) = begun {
            out.copy(body, from, end);
            out.push(b"\n");
        }
        out.flush();
    }

    fn way(&self, sample: Sample, line: &mut Line) -> Way {
        if sample.has(Sample::DROPPED) {
            return Way::LeftOut;
        }
        if let Some(filter) = self.filter
            && !filter.has(self.exposition.suffix(self.group(), &sample, line))
        {
            return Way::LeftOut;
        }
        if self.renamed
            || sample.has(Sample::ODD | Sample::EXEMPLAR)
            || sample.has(Sample::TIMESTAMP) && !self.same_time
        {
            return Way::Anew;
        }
        if !sample.has(Sample::LABELS) {
            return Way::Copied;
        }
        let shape = &self.exposition.index.shapes[sample.shape()];
        let pushed = self.context.clashes.get(sample.shape()) == Some(&true);
        let respelled = self.bounds.sign_infinity && shape.le.is_some()
            || match self.bounds.respell {
                Ambient::Other => false,
                Ambient::Histogram => shape.le.is_some(),
                Ambient::Summary => shape.quantile.is_some(),
            };
        if pushed || respelled {
            Way::Anew
        } else {
            Way::Copied
        }
    }

    /// Takes the line apart and writes it anew, into `careful.text`.
    fn write_anew(&self, sample: Sample, careful: &mut Careful) {
        let Careful { line, text: out } = careful;
        out.clear();
        let body = &self.exposition.body;
        if line
            .read(body, sample.start as usize, self.exposition.open_metrics)
            .is_err()
        {
            return;
        }
        let labels = relabel::relabel(body, line, &self.part.labels, self.answer, self.bounds);
        let name = plan::output_name(self.part, &line.name.decode(body), self.answer);
        relabel::write_series(&name, &labels, out);
        out.push(b' ');
        out.extend_from_slice(line.value.of(body));
        if let Some(timestamp) = line.timestamp {
            out.push(b' ');
            let token = timestamp.of(body);
            if self.same_time {
                out.extend_from_slice(token);
            } else {
                let millis = if self.open_metrics {
                    number::parse_millis(token)
                } else {
                    number::seconds_to_millis(token)
                };
                let Some(millis) = millis else {
                    out.clear();
                    return;
                };
                if self.open_metrics {
                    number::write_seconds(millis, out);
                } else {
                    out.extend_from_slice(millis.to_string().as_bytes());
                }
            }
        }
        if line.exemplar.is_some() && self.open_metrics {
            self.write_exemplar(sample, line, out);
        }
        out.push(b'\n');
    }

    /// Passes an exemplar on where every client takes one.
    fn write_exemplar(&self, sample: Sample, line: &mut Line, out: &mut Vec<u8>) {
        let body = &self.exposition.body;
        let suffix = self
            .exposition
            .suffix(self.group(), &sample, &mut Line::default());
        let total = self.kind == Type::Counter && line.name.decode(body).ends_with(b"_total");
        let bucket = matches!(self.kind, Type::Histogram | Type::GaugeHistogram) && suffix == Suffix::Bucket;
        let Some(exemplar) = line.exemplar else {
            return;
        };
        let characters: usize = line
            .exemplar_labels
            .iter()
            .map(|label| {
                let name = label.name.decode(body);
                let value = name::unescape(label.value.of(body));
                [name, value]
                    .iter()
                    .map(|text| String::from_utf8_lossy(text).chars().count())
                    .sum::<usize>()
            })
            .sum();
        // Clients refuse longer ones; quoted names fail the scrape of a Prometheus 2, a trailing comma an old one's.
        let quoted = line.exemplar_labels.iter().any(|label| label.name.quoted);
        let trailing_comma = line
            .exemplar_labels
            .last()
            .is_some_and(|label| body.get(label.value.end as usize + 1) == Some(&b','));
        // The reference parser trips over an escaped quote here; a Prometheus does not.
        let escaped_quote = !self.answer.prometheus
            && line
                .exemplar_labels
                .iter()
                .any(|label| name::unescape(label.value.of(body)).contains(&b'"'));
        let twice = crate::syntax::line::find_twice(body, &line.exemplar_labels).is_some();
        if !(total || bucket)
            || characters > 128
            || twice
            || escaped_quote
            || quoted && self.answer.escaping != name::Escaping::AllowUtf8
        {
            return;
        }
        out.push(b' ');
        if trailing_comma {
            let comma = line
                .exemplar_labels
                .last()
                .map_or(0, |label| label.value.end as usize + 1);
            out.extend_from_slice(&body[exemplar.start as usize..comma]);
            out.extend_from_slice(&body[comma + 1..exemplar.end as usize]);
        } else {
            out.extend_from_slice(exemplar.of(body));
        }
    }
}
