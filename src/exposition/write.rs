//! The answer: families in order, each once, written in chunks (core).

use super::dedup::{self, Place};
use super::line::Line;
use super::model::{Ambient, Group, Run, Sample, Suffix, Suffixes, Type};
use super::name;
use super::negotiate::{Answer, Format};
use super::plan::{self, Entry, Family};
use super::relabel::{self, Bounds};
use super::{Conflict, Exposition, Part, Pool, number};

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
    pub(super) pool: Option<Pool>,
}

/// What the writer needs of one part at each of its samples.
#[derive(Debug, Default)]
struct Context {
    /// The added labels after others: `,a="b",c="d"`.
    after_labels: Vec<u8>,
    /// The added labels on their own: `{a="b",c="d"}`.
    alone: Vec<u8>,
    /// Shapes with a label that an added one pushes aside.
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
        for (label, value) in part.labels.iter().filter(|(_, value)| !value.is_empty()) {
            context.after_labels.push(b',');
            name::write_label(label.as_bytes(), value.as_bytes(), &mut context.after_labels);
        }
        if !context.after_labels.is_empty() {
            context.alone = [b"{", &context.after_labels[1..], b"}"].concat();
        }
        if let Some(exposition) = &part.exposition {
            let index = &exposition.index;
            let pushed = |span: &super::line::Span| {
                part.labels
                    .iter()
                    .any(|(label, _)| label.as_bytes() == span.of(&exposition.body))
            };
            context.clashes = index
                .shapes
                .iter()
                .map(|shape| {
                    index.shape_names[shape.names.0 as usize..shape.names.1 as usize]
                        .iter()
                        .any(pushed)
                })
                .collect();
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
        let mut out = Out {
            buffer: Vec::new(),
            pool: self.pool.as_ref(),
            chunk_bytes: chunk_bytes.max(1),
            sink,
            stopped: false,
        };
        out.buffer = out.fresh();
        let mut line = Line::default();
        for (family_id, family) in (0..).zip(&self.families) {
            self.write_family(family_id, family, &mut line, &mut out);
            if out.stopped {
                return;
            }
        }
        if self.answer.format == Format::OpenMetrics {
            out.buffer.extend_from_slice(b"# EOF\n");
        }
        if !out.buffer.is_empty() {
            (out.sink)(out.buffer);
        }
    }

    fn write_family(&self, family_id: u32, family: &Family, line: &mut Line, out: &mut Out<'_>) {
        self.write_metadata(family, &mut out.buffer);
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
                    if let Some(block) = self.block(family, entry, run) {
                        block.write(
                            block.exposition.index.samples[sample as usize],
                            line,
                            &mut out.buffer,
                        );
                        out.flush();
                    }
                    if out.stopped {
                        return;
                    }
                }
            } else if let Some(exposition) = &self.parts[entry.part as usize].exposition {
                let runs = exposition.index.groups[entry.group as usize].runs;
                for run in runs.0..runs.1 {
                    if let Some(block) = self.block(family, entry, run) {
                        block.write_all(line, out);
                    }
                    if out.stopped {
                        return;
                    }
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

    fn write_up(&self, out: &mut Out<'_>) {
        for (part, context) in self.parts.iter().zip(&self.contexts) {
            let Some(up) = part.up else {
                continue;
            };
            out.buffer.extend_from_slice(b"up");
            out.buffer.extend_from_slice(&context.alone);
            out.buffer.extend_from_slice(if up { b" 1\n" } else { b" 0\n" });
            out.flush();
        }
    }

    fn block<'a>(&'a self, family: &'a Family, entry: &Entry, run: u32) -> Option<Block<'a>> {
        let part = &self.parts[entry.part as usize];
        let exposition = part.exposition.as_ref()?;
        let group = &exposition.index.groups[entry.group as usize];
        let run = &exposition.index.runs[exposition.index.run_order[run as usize] as usize];
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
                && (group.notes & Group::BOUND_OTHER != 0 || run.ambient != Ambient::Histogram),
        };
        Some(Block {
            part,
            exposition,
            context: &self.contexts[entry.part as usize],
            answer: &self.answer,
            group,
            run,
            filter: (entry.suffixes != group.suffixes).then_some(entry.suffixes),
            kind: family.kind,
            bounds,
            renamed: plan::is_renamed(part, &group.name.decode(&exposition.body)),
            same_time: exposition.open_metrics == open_metrics,
            open_metrics,
        })
    }
}

struct Out<'a> {
    buffer: Vec<u8>,
    pool: Option<&'a Pool>,
    chunk_bytes: usize,
    sink: &'a mut dyn FnMut(Vec<u8>) -> bool,
    stopped: bool,
}

impl Out<'_> {
    /// A buffer for one chunk, and for the sample that goes past its end.
    fn fresh(&self) -> Vec<u8> {
        let capacity = self.chunk_bytes + self.chunk_bytes / 8;
        match self.pool {
            Some(pool) => pool.chunk(capacity),
            None => Vec::with_capacity(capacity),
        }
    }

    fn flush(&mut self) {
        if self.buffer.len() >= self.chunk_bytes {
            let next = self.fresh();
            let full = std::mem::replace(&mut self.buffer, next);
            self.stopped |= !(self.sink)(full);
        }
    }
}

/// One run of one part, on its way into one family.
struct Block<'a> {
    part: &'a Part,
    exposition: &'a Exposition,
    context: &'a Context,
    answer: &'a Answer,
    group: &'a Group,
    run: &'a Run,
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
    fn write_all(&self, line: &mut Line, out: &mut Out<'_>) {
        let first = self.run.first as usize;
        for &sample in &self.exposition.index.samples[first..first + self.run.len as usize] {
            self.write(sample, line, &mut out.buffer);
            out.flush();
            if out.stopped {
                return;
            }
        }
    }

    fn write(&self, sample: Sample, line: &mut Line, out: &mut Vec<u8>) {
        if sample.has(Sample::DROPPED) {
            return;
        }
        if let Some(filter) = self.filter
            && !filter.has(self.exposition.suffix(self.group, &sample, line))
        {
            return;
        }
        if self.is_careful(sample) {
            self.write_careful(sample, line, out);
            return;
        }
        let body = &self.exposition.body;
        let series_end = sample.series_end as usize;
        out.extend_from_slice(&body[sample.start as usize..series_end]);
        if sample.has(Sample::LABELS) {
            out.extend_from_slice(&self.context.after_labels);
        } else {
            out.extend_from_slice(&self.context.alone);
        }
        out.extend_from_slice(&body[series_end..sample.end as usize]);
        out.push(b'\n');
    }

    /// Whether a sample cannot be written by copying.
    fn is_careful(&self, sample: Sample) -> bool {
        if self.renamed
            || sample.has(Sample::ODD | Sample::EXEMPLAR)
            || sample.has(Sample::TIMESTAMP) && !self.same_time
        {
            return true;
        }
        if !sample.has(Sample::LABELS) {
            return false;
        }
        let shape = &self.exposition.index.shapes[sample.shape()];
        self.context.clashes[sample.shape()]
            || self.bounds.sign_infinity && shape.le.is_some()
            || match self.bounds.respell {
                Ambient::Other => false,
                Ambient::Histogram => shape.le.is_some(),
                Ambient::Summary => shape.quantile.is_some(),
            }
    }

    /// Takes the line apart and writes it anew.
    fn write_careful(&self, sample: Sample, line: &mut Line, out: &mut Vec<u8>) {
        let body = &self.exposition.body;
        if line
            .read(body, sample.start as usize, self.exposition.open_metrics)
            .is_err()
        {
            return;
        }
        let written = out.len();
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
                    out.truncate(written);
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
        let suffix = self.exposition.suffix(self.group, &sample, &mut Line::default());
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
        let twice = super::line::find_twice(body, &line.exemplar_labels).is_some();
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
