//! Bytes to index: one pass over a body (core).
//!
//! The common line (bare names, no slack, labels in an order seen before) is compared with the last line of its name:
//! what is equal needs no second look, so most lines cost that comparison, a look at one label value, and one at the
//! number. Every other line goes through [`Line::read`], which is slower and decides what is accepted. Both give the
//! same index.

mod duplicates;
mod fast_path;
mod hash;
mod names;

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::index::{Index, Run, Sample, SourceFamily, Suffix, TypeContext};
use crate::syntax::sample_line::{ParseError, SampleLine, Span};
use crate::syntax::{name, number};
use crate::{Limits, RejectionKind};
use duplicates::DuplicateFilter;
use fast_path::Endings;
use hash::{hash_extend, is_plain, mix32, odd_series_end, to_u32};
use names::Named;

/// Offsets are 32 bits wide.
pub(crate) const MAX_BODY_BYTES: usize = u32::MAX as usize - 64;

/// What is wrong with a body, before it is put into words.
pub(crate) struct RejectionAt {
    pub(crate) kind: RejectionKind,
    pub(crate) error: ParseError,
}

impl From<ParseError> for RejectionAt {
    fn from(error: ParseError) -> Self {
        Self {
            kind: RejectionKind::Parse,
            error,
        }
    }
}

fn stop(kind: RejectionKind, at: usize, reason: impl Into<Cow<'static, str>>) -> RejectionAt {
    RejectionAt {
        kind,
        error: ParseError {
            at,
            reason: reason.into(),
        },
    }
}

const NONE: u32 = u32::MAX;

/// A name that no line has been kept for yet; told apart from `NONE`, which is a line without labels.
const FRESH: u32 = u32::MAX - 1;

/// A sample name and what is known of it.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an answer to a question of its own"
)]
struct Known {
    /// The last plain line of this name, which the next is compared with: where it starts, and how many bytes its
    /// series has (up to the closing brace, or the end of the name). 0 where there is none.
    line_start: u32,
    series_len: u32,
    name_len: u32,
    /// Hash of that series up to its last label's value.
    prefix_hash: u64,
    /// Its values' places in [`Scratch::places`], and how many fit there.
    places: u32,
    n_places: u32,
    places_room: u32,
    /// The schema this name had last time, `NONE` for a line without labels, `FRESH` before the first line.
    schema: u32,
    /// Positions of `le` and of `quantile` in that schema, or `NONE`.
    bounds: [u32; 2],
    /// The TYPE under which the last line's bound was looked at.
    noted: TypeContext,
    suffix: Suffix,
    group: u32,
    /// The other name that came after this one last time.
    next: u32,
    /// A name, a schema of that, and one of this, and whether its labels are the first of those: see `follow`.
    asked: (u32, u32, u32),
    /// Itself in [`Scratch::names`].
    named: u32,
    quoted: bool,
    follows: bool,
    /// Its lines tend to come in groups that differ in the last label only.
    steady: bool,
    /// More than one schema, or lines without labels beside lines with.
    schemas_vary: bool,
    /// A label with an empty value, which counts as absent.
    empty_values: bool,
    /// Lines without a label `le`, without `quantile`, without one of the sample's own name.
    without: [bool; 3],
}

/// Tables that are only needed while parsing; reused from body to body.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    known: Vec<Known>,
    /// Every name that HELP, TYPE, UNIT, a sample or a family has.
    names: Vec<Named>,
    names_by_text: HashTable<u32>,
    /// The name of each group.
    group_names: Vec<u32>,
    schemas_by_names: HashTable<u32>,
    /// Shapes by their sorted names, to see permutations.
    schemas_by_set: HashTable<(u64, u32)>,
    duplicates: DuplicateFilter,
    spans: Vec<Span>,
    values: Vec<Span>,
    /// Places of label values in each name's last line.
    places: Vec<Place>,
    line: SampleLine,
    permuted: bool,
}

/// A label value in a line, as offsets from the line's start.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    start: u32,
    end: u32,
}

impl Scratch {
    /// Bytes of memory that the tables take, apart from a few that stay small.
    pub(crate) fn n_bytes(&self) -> usize {
        use std::mem::size_of;
        self.known.capacity() * size_of::<Known>()
            + self.names.capacity() * size_of::<Named>()
            + self.names_by_text.allocation_size()
            + self.group_names.capacity() * size_of::<u32>()
            + self.schemas_by_names.allocation_size()
            + self.schemas_by_set.allocation_size()
            + self.duplicates.n_bytes()
            + (self.spans.capacity() + self.values.capacity()) * size_of::<Span>()
            + self.places.capacity() * size_of::<Place>()
    }

    fn clear(&mut self) {
        self.known.clear();
        self.names.clear();
        self.names_by_text.clear();
        self.group_names.clear();
        self.schemas_by_names.clear();
        self.schemas_by_set.clear();
        self.duplicates.clear();
        self.spans.clear();
        self.places.clear();
        self.permuted = false;
    }
}

/// Reads a whole body into `index`.
pub(crate) fn parse_into(
    body: &[u8],
    open_metrics: bool,
    limits: &Limits,
    index: &mut Index,
    scratch: &mut Scratch,
) -> Result<(), RejectionAt> {
    read_body(body, open_metrics, limits, index, scratch, true)
}

/// As [`parse_into`]; without `shortcuts` every line is read the slow way, to the same result.
fn read_body(
    body: &[u8],
    open_metrics: bool,
    limits: &Limits,
    index: &mut Index,
    scratch: &mut Scratch,
    shortcuts: bool,
) -> Result<(), RejectionAt> {
    index.clear();
    scratch.clear();
    let mut parser = Parser {
        body,
        open_metrics,
        shortcuts,
        limits,
        max_samples: or_unlimited(limits.max_samples),
        max_value_len: or_unlimited(limits.max_label_value_length),
        hasher: crate::hasher(),
        seed: crate::hasher().hash_one(0_u8),
        key: crate::hasher().hash_one(1_u8),
        utf8: Utf8::Unasked,
        context: TypeContext::Other,
        last: NONE,
        turned: false,
        declared: NONE,
        bounds: BoundNotes::default(),
        endings: Endings::default(),
        index,
        scratch,
    };
    parser.parse()?;
    parser.finish();
    Ok(())
}

/// How the bounds of a group are spelled, and which were looked at already: the same few come in the same order.
#[derive(Debug, Default)]
struct BoundNotes {
    group: u32,
    /// Bounds of up to seven bytes with their closing quote, by their place among the lines of one metric.
    seen: [u64; 32],
}

impl BoundNotes {
    /// Takes note of the bound that `text` begins with.
    #[inline(always)]
    fn add(&mut self, text: &[u8], len: usize, group: u32, place: usize, groups: &mut [SourceFamily]) {
        const FIRST: [u64; 8] = {
            let mut masks = [0; 8];
            let mut len = 0;
            while len < 8 {
                masks[len] = u64::MAX >> (56 - 8 * len);
                len += 1;
            }
            masks
        };
        if group != self.group {
            *self = Self {
                group,
                ..Self::default()
            };
        }
        if let (Some(mask), Some(word)) = (FIRST.get(len), text.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word) & mask;
            let seen = &mut self.seen[place % 32];
            if *seen == word {
                return;
            }
            *seen = word;
        }
        groups[group as usize].notes |= Self::look(&text[..len]);
    }

    #[inline(never)]
    fn look(value: &[u8]) -> u8 {
        if !value.is_empty() && value.len() <= 6 && value.iter().all(u8::is_ascii_digit) {
            SourceFamily::BOUND_INTEGER
        } else if !number::is_plainly_canonical(value) {
            SourceFamily::BOUND_OTHER
        } else if value.ends_with(b".0") {
            SourceFamily::BOUND_DOT_ZERO
        } else {
            0
        }
    }
}

/// Whether the body is UTF-8 as a whole, which saves a look at each of its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Utf8 {
    /// No sample so far had a byte outside ASCII in a label value.
    Unasked,
    Whole,
    /// Somewhere it is not: perhaps only in a comment, so values are looked at one by one.
    Broken,
}

struct Parser<'a> {
    body: &'a [u8],
    open_metrics: bool,
    shortcuts: bool,
    limits: &'a Limits,
    max_samples: usize,
    max_value_len: usize,
    hasher: &'static foldhash::quality::RandomState,
    /// What series are hashed with, see [`hash_extend`].
    seed: u64,
    key: u64,
    utf8: Utf8,
    context: TypeContext,
    /// The name of the sample before, in [`Scratch::known`].
    last: u32,
    /// A TYPE line came after it.
    turned: bool,
    /// The name that was declared last, in [`Scratch::names`].
    declared: u32,
    bounds: BoundNotes,
    endings: Endings,
    index: &'a mut Index,
    scratch: &'a mut Scratch,
}

/// A limit, 0 being none.
fn or_unlimited(limit: u64) -> usize {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

impl Parser<'_> {
    fn parse(&mut self) -> Result<(), RejectionAt> {
        let body = self.body;
        let mut at = 0;
        while at < body.len() {
            at = match body[at] {
                b'#' => match self.read_comment(at)? {
                    Some(next) => next,
                    None => return Ok(()),
                },
                b'\n' | b' ' | b'\t' if !self.open_metrics => at + 1,
                0 if !self.open_metrics => {
                    // Prometheus takes it for the end and silently loses the rest.
                    return Err(stop(RejectionKind::Parse, at, "a NUL at the start of a line"));
                }
                _ => self.read_sample(at)?,
            };
        }
        if self.open_metrics && !body.is_empty() {
            return Err(stop(RejectionKind::Parse, at, "the body does not end with # EOF"));
        }
        Ok(())
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        hash::hash_with(self.hasher, bytes)
    }

    fn read_sample(&mut self, start: usize) -> Result<usize, RejectionAt> {
        if self.index.samples.len() >= self.max_samples {
            return Err(stop(
                RejectionKind::Samples,
                start,
                format!("more than {} samples", self.limits.max_samples),
            ));
        }
        if self.shortcuts
            && let Some(next) = self.read_plain(start)
        {
            return Ok(next);
        }
        self.read_any(start)
    }

    fn note_schema(&mut self, id: u32, schema: u32) {
        let known = &mut self.scratch.known[id as usize];
        if known.schema == schema {
            return;
        }
        if known.schema != FRESH {
            known.schemas_vary = true;
        }
        known.schema = schema;
        // The last line is of another schema.
        known.series_len = 0;
        let Some(schema) = self.index.schemas.get(schema as usize) else {
            known.without = [true; 3];
            known.bounds = [NONE; 2];
            return;
        };
        known.bounds = [schema.le.unwrap_or(NONE), schema.quantile.unwrap_or(NONE)];
        let own = self.scratch.names[known.named as usize].name.span.of(self.body);
        known.without[0] |= schema.le.is_none();
        known.without[1] |= schema.quantile.is_none();
        known.without[2] |= !self
            .index
            .schema_names(known.schema as usize)
            .iter()
            .any(|span| span.of(self.body) == own);
    }

    /// Adds a sample to its run.
    #[inline(always)]
    fn keep(&mut self, id: u32, sample: Sample, hash: u64) {
        if self.last != id || self.turned {
            self.turn(id, sample.start);
        }
        self.index.samples.push(sample);
        self.scratch.duplicates.push(hash ^ mix32(id));
    }

    /// Goes on to another name, or another TYPE line.
    fn turn(&mut self, id: u32, start: u32) {
        if self.last != id {
            if let Some(last) = self.scratch.known.get_mut(self.last as usize) {
                last.next = id;
                self.note_follower(self.last, id);
            }
            self.last = id;
        }
        self.turned = false;
        let group = self.scratch.known[id as usize].group;
        let context = self.context;
        if let Some(run) = self.index.runs.last()
            && run.group == group
            && run.context == context
        {
            return;
        }
        self.close_run();
        self.index.runs.push(Run {
            group,
            first: to_u32(self.index.samples.len()),
            len: 0,
            start,
            context,
        });
    }

    /// Counts the samples of the last run.
    fn close_run(&mut self) {
        if let Some(run) = self.index.runs.last_mut() {
            run.len = to_u32(self.index.samples.len()) - run.first;
        }
    }

    /// The slow path: any line, strictly.
    fn read_any(&mut self, start: usize) -> Result<usize, RejectionAt> {
        let mut line = std::mem::take(&mut self.scratch.line);
        let read = line.read(self.body, start, self.open_metrics);
        let kept = read
            .map_err(RejectionAt::from)
            .and_then(|()| self.keep_line(start, &line));
        self.scratch.line = line;
        kept
    }

    fn keep_line(&mut self, start: usize, line: &SampleLine) -> Result<usize, RejectionAt> {
        self.check_limits(line)?;
        let body = self.body;
        let known = self.know(line.name);
        let mut flags = 0;
        if line.timestamp.is_some() {
            flags |= Sample::TIMESTAMP;
            self.index.has_timestamps = true;
        }
        if line.exemplar.is_some() {
            flags |= Sample::EXEMPLAR;
        }
        let end = line.timestamp.unwrap_or(line.value).end as usize;
        let plain_end = is_plain(body, start, line);
        let schema = if line.labels.is_empty() {
            None
        } else {
            self.know_schema(line, plain_end.is_some())?
        };
        if line.labels.iter().any(|label| label.value.is_empty()) {
            self.scratch.known[known as usize].empty_values = true;
        }
        let series_end;
        if let Some(plain_end) = plain_end {
            series_end = plain_end;
            if !line.labels.is_empty() {
                flags |= Sample::LABELS;
            }
            self.note_schema(known, schema.unwrap_or(NONE));
        } else {
            flags |= Sample::NON_CANONICAL;
            self.index.quoted |= line.name.quoted || line.labels.iter().any(|label| label.name.quoted);
            for label in &line.labels {
                self.index.non_canonical_label_names.push(label.name);
            }
            // A trailing comma or slack outside the braces does not hide a double; anything else may.
            series_end = odd_series_end(body, start, line).unwrap_or_else(|| {
                self.index.uncertain = true;
                line.series_end
            });
            self.note_odd(known, line);
        }
        if let Some(wanted) = self.context.label() {
            for label in &line.labels {
                if *label.name.decode(body) == *wanted {
                    let group = self.scratch.known[known as usize].group;
                    let text = &body[label.value.start as usize..];
                    let groups = &mut self.index.families;
                    self.bounds.add(text, label.value.len(), group, 0, groups);
                }
            }
        }
        let (start, series_end, end) = (to_u32(start), to_u32(series_end), to_u32(end));
        let hash = self.line_hash(line, start as usize, series_end as usize);
        let sample = Sample::new(start, series_end, end, flags, schema.unwrap_or(0));
        self.keep(known, sample, hash);
        Ok((line.end + 1).min(body.len()))
    }

    /// The hash of a series without labels. Names tell series apart by themselves, in [`Parser::keep`].
    fn name_hash(&self, name_len: usize) -> u64 {
        self.seed ^ name_len as u64
    }

    /// The hash that the fast path gives a series of the same bytes.
    fn line_hash(&self, line: &SampleLine, start: usize, series_end: usize) -> u64 {
        let body = self.body;
        if line.name.quoted || line.name.span.start as usize != start {
            return hash_extend(self.seed, &body[start..], 0, series_end - start, self.key);
        }
        if line.labels.is_empty() {
            return self.name_hash(line.name.span.len());
        }
        let value = line.labels[line.labels.len() - 1].value.start as usize;
        let line = &body[start..];
        let prefix = hash_extend(self.seed, line, 0, value - start, self.key);
        hash_extend(prefix, line, value - start, series_end - start, self.key)
    }

    /// A line of no schema: its name's label sets vary, as far as anybody knows.
    fn note_odd(&mut self, known: u32, line: &SampleLine) {
        let body = self.body;
        let entry = &mut self.scratch.known[known as usize];
        entry.schemas_vary = true;
        let own = self.scratch.names[entry.named as usize].name.decode(body);
        let has = |wanted: &[u8]| {
            line.labels
                .iter()
                .any(|label| *label.name.decode(body) == *wanted)
        };
        entry.without[0] |= !has(b"le");
        entry.without[1] |= !has(b"quantile");
        entry.without[2] |= !has(&own);
    }

    fn check_limits(&self, line: &SampleLine) -> Result<(), RejectionAt> {
        let Limits {
            max_labels,
            max_label_name_length,
            max_label_value_length,
            ..
        } = *self.limits;
        let at = line.name.span.start as usize;
        let body = self.body;
        let over = |len: usize, limit: u64| limit > 0 && len as u64 > limit;
        if over(line.labels.len(), max_labels) {
            let reason = format!("{} labels where {max_labels} are allowed", line.labels.len());
            return Err(stop(RejectionKind::Labels, at, reason));
        }
        for label in &line.labels {
            let at = label.name.span.start as usize;
            if over(label.name.decode(body).len(), max_label_name_length) {
                let reason = format!("a label name longer than {max_label_name_length} bytes");
                return Err(stop(RejectionKind::LabelNameLength, at, reason));
            }
            if over(name::unescape(label.value.of(body)).len(), max_label_value_length) {
                let reason = format!("a label value longer than {max_label_value_length} bytes");
                return Err(stop(RejectionKind::LabelValueLength, at, reason));
            }
        }
        // The metric name is the value of the label __name__ to Prometheus, and so to its limits.
        if over(line.name.decode(body).len(), max_label_value_length) {
            let reason = format!("a metric name longer than {max_label_value_length} bytes");
            return Err(stop(RejectionKind::LabelValueLength, at, reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;

    use super::*;

    fn indexed(body: &[u8], open_metrics: bool, limits: &Limits, shortcuts: bool) -> String {
        let mut index = Index::default();
        // Twice, so that nothing of one body is left for the next.
        let mut scratch = Scratch::default();
        drop(read_body(
            b"x{a=\"b\"} 1\ny 2\n",
            false,
            limits,
            &mut index,
            &mut scratch,
            shortcuts,
        ));
        match read_body(body, open_metrics, limits, &mut index, &mut scratch, shortcuts) {
            Ok(()) => format!("{index:#?}"),
            Err(stop) => format!("{:?} {:?}", stop.kind, stop.error),
        }
    }

    #[track_caller]
    fn check(body: &[u8]) {
        for limits in [
            Limits::default(),
            Limits {
                max_samples: 9,
                max_labels: 3,
                max_label_name_length: 6,
                max_label_value_length: 12,
            },
        ] {
            for open_metrics in [false, true] {
                let fast = indexed(body, open_metrics, &limits, true);
                let slow = indexed(body, open_metrics, &limits, false);
                assert!(
                    fast == slow,
                    "fast: {fast}\nslow: {slow}\n{}",
                    String::from_utf8_lossy(body)
                );
            }
        }
    }

    fn weighted(good: &[&'static str], bad: &[&'static str]) -> impl Strategy<Value = String> + use<> {
        prop_oneof![
            60 => prop::sample::select(good.to_vec()),
            1 => prop::sample::select(bad.to_vec()),
        ]
        .prop_map(str::to_owned)
    }

    /// Pieces that lines are put together from: those that real bodies have, and those that trip shortcuts up.
    fn line() -> impl Strategy<Value = String> {
        let name = weighted(
            &["a", "a_sum", "a_count", "a_bucket", "b", "ab"],
            &["{\"a\"}", "a.b"],
        );
        let labels = prop::sample::subsequence(
            vec!["x", "le", "quantile", "yy", "code", "\"q\"", "longest_label"],
            0..4,
        )
        .prop_shuffle();
        let value = prop_oneof![
            60 => prop::sample::select(vec![
                "", "0", "0.5", "0.50", "1", "1.0", "+Inf", "é", r"\\", r#"\""#, r"\n", "sixteen bytes ab", "fifteen bytes a",
                "thirty-two bytes, none of them odd", "}", "12345678901", "\u{80}",
            ])
            .prop_map(str::to_owned),
            1 => prop::sample::select(vec![r"\x", "\n", "\""]).prop_map(str::to_owned),
            9 => "[a-c0é]{0,20}",
        ];
        let number = prop_oneof![
            60 => prop::sample::select(vec![
                "1", "0.5", "-1", "+1", "NaN", "+Inf", "1e5", "1.5e+09", ".5", "5.", "123456789012345", "1234567890123456",
                "1.23456789012345678", "1 1700000000000", "1e-99", "12 1700000000",
            ])
            .prop_map(str::to_owned),
            1 => prop::sample::select(vec![
                "1e400", ".", "-", "1.2.3", "0x1", "1 ", "1 1.5", "1 # {t=\"x\"} 1", "1\r", "", "1e", "1_0", "1{", "1\t",
            ])
            .prop_map(str::to_owned),
            9 => "[0-9]{1,9}\\.[0-9]{1,9}",
        ];
        let brace = weighted(&["{"], &["{ ", " {"]);
        let close = weighted(&["} "], &[",} ", "}", "}  "]);
        let values = prop::collection::vec(value, 4);
        (name, labels, values, brace, close, number).prop_map(
            |(name, labels, values, brace, close, number)| {
                if labels.is_empty() {
                    return format!("{name} {number}\n");
                }
                let labels: Vec<String> = labels
                    .iter()
                    .zip(values)
                    .map(|(name, value)| format!("{name}=\"{value}\""))
                    .collect();
                format!("{name}{brace}{}{close}{number}\n", labels.join(","))
            },
        )
    }

    fn comment() -> impl Strategy<Value = String> {
        weighted(
            &[
                "# TYPE a histogram\n",
                "# TYPE a summary\n",
                "# TYPE a_sum gauge\n",
                "# TYPE b counter\n",
                "# HELP a Some é text.\n",
                "# HELP ab Another.\n",
            ],
            &["# a comment\n", "\n", "# EOF\n", "# HELP ab\n", "# TYPE b what\n"],
        )
    }

    /// A line, how often it comes, and what changes each time: a place in it and what to put there.
    type Lines = Vec<(String, usize, Vec<(usize, u8)>)>;

    fn lines() -> impl Strategy<Value = Lines> {
        let changes = prop::collection::vec((0_usize..60, any::<u8>()), 0..3);
        let line = prop_oneof![6 => line(), 1 => comment()];
        prop::collection::vec((line, 1_usize..5, changes), 1..12)
    }

    /// Lines come again with a byte changed, which is what the fast path lives on.
    fn body(lines: Lines, open_metrics: bool) -> Vec<u8> {
        let mut body = Vec::new();
        for (line, n_times, changes) in lines {
            let mut line = line.into_bytes();
            for time in 0..n_times {
                body.extend_from_slice(&line);
                for (at, byte) in &changes {
                    let at = at % line.len();
                    if byte % 64 == 0 {
                        line[at] = *byte;
                    } else if line[at].is_ascii_digit() {
                        line[at] = b'0' + (byte.wrapping_add(u8::try_from(time).unwrap_or(0)) % 10);
                    }
                }
            }
        }
        if open_metrics {
            body.extend_from_slice(b"# EOF\n");
        }
        body
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_fast_path_finds_what_the_slow_one_finds(lines in lines(), open_metrics in any::<bool>()) {
            let mut body = body(lines, open_metrics);
            check(&body);
            // Without the last line feed.
            body.pop();
            check(&body);
        }
    }

    #[test]
    fn most_of_these_bodies_are_read() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let n_read = (0..400)
            .filter(|_| {
                let lines = lines()
                    .new_tree(&mut runner)
                    .expect("nothing is filtered")
                    .current();
                let found = indexed(&body(lines, false), false, &Limits::default(), true);
                found.starts_with("Index")
            })
            .count();
        assert!(n_read > 150, "{n_read}");
    }

    #[test]
    fn half_a_character_is_no_value_however_it_is_found() {
        // Prometheus takes anything in a comment, so that alone refuses nothing.
        let start = b"# \xff\na{x=\"\xc3\xa9\"} 1\na{x=\"\xc3\xa9\"} 2\n";
        check(start);
        assert!(indexed(start, false, &Limits::default(), true).starts_with("Index"));
        let body = [&start[..], b"a{x=\"\xc3\"} 1\na{x=\"longer than a block\"} 1\n"].concat();
        check(&body);
        assert!(indexed(&body, false, &Limits::default(), true).contains("not UTF-8"));
    }

    #[test]
    fn the_odd_one_among_lines_alike_is_found() {
        for odd in [
            "a{x=\"\"} 1",
            "a{x=\"fourteen bytes\"} 1",
            "a{x=\"thirteen byte\"} 1",
            "a{x=.3\"} 1",
            "a{y=\"3\"} 1",
            "a{x=\"3\",} 1",
            "a{x=\"3\"}  1",
        ] {
            check(
                format!("a{{x=\"1\"}} 1\na{{x=\"2\"}} 1\n{odd}\na 1\na{{x=\"4\"}} 12345678901234\n")
                    .as_bytes(),
            );
        }
    }

    #[test]
    fn long_bodies_of_one_kind_are_found_alike() {
        let mut body = String::new();
        for name in ["h", "i"] {
            body += &format!("# TYPE {name} histogram\n");
            for metric in 0..40 {
                let labels = format!("path=\"/p{metric}\",code=\"{}\"", metric * 7);
                for bound in [
                    "0.005",
                    "0.25",
                    "1",
                    "10",
                    "123456789012",
                    "1234567890123456",
                    "+Inf",
                ] {
                    body += &format!(
                        "{name}_bucket{{{labels},le=\"{bound}\"}} {}\n",
                        metric + bound.len()
                    );
                }
                body += &format!("{name}_sum{{{labels}}} 1.5\n{name}_count{{{labels}}} 7\n");
            }
        }
        check(body.as_bytes());
        // Some series come twice.
        let again: Vec<&str> = body.split_inclusive('\n').skip(20).step_by(13).collect();
        let again = again.concat();
        body += &again;
        check(body.as_bytes());
        let n_again = again.lines().filter(|line| !line.starts_with('#')).count();
        let found = indexed(body.as_bytes(), false, &Limits::default(), true);
        assert!(n_again > 50 && found.contains(&format!("n_dropped: {n_again},")));
    }
}
