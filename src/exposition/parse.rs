//! Bytes to index: one pass over a body (core).
//!
//! The common line (bare names, no slack, labels in an order seen before) is matched against what the line before
//! it looked like, so that a name costs one comparison; every other line goes through [`Line::read`], which is
//! slower and decides what is accepted. Both give the same index.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::line::{Fault, Line, Name, Span};
use super::model::{Ambient, Declaration, Group, Index, Run, Sample, Shape, Suffix, Type};
use super::{Limits, RefusalKind, name};

/// Offsets are 32 bits wide.
pub(super) const MAX_BODY_BYTES: usize = u32::MAX as usize - 64;

/// What is wrong with a body, before it is put into words.
pub(super) struct Stop {
    pub(super) kind: RefusalKind,
    pub(super) fault: Fault,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self {
            kind: RefusalKind::Parse,
            fault,
        }
    }
}

fn stop(kind: RefusalKind, at: usize, reason: impl Into<Cow<'static, str>>) -> Stop {
    Stop {
        kind,
        fault: Fault {
            at,
            reason: reason.into(),
        },
    }
}

const NONE: u32 = u32::MAX;

/// A sample name and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Known {
    name: Name,
    group: u32,
    suffix: Suffix,
    /// The other name that came after this one last time.
    next: u32,
    /// The shape this name had last time, or `NONE`.
    shape: u32,
    /// More than one shape, or lines without labels beside lines with.
    shapes_vary: bool,
    /// A label with an empty value, which counts as absent.
    empty_values: bool,
    /// Lines without a label `le`, without `quantile`, without one of the sample's own name.
    without: [bool; 3],
}

/// Tables that are only needed while parsing; reused from body to body.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    known: Vec<Known>,
    known_by_name: HashTable<u32>,
    declarations: Vec<Declaration>,
    declarations_by_name: HashTable<u32>,
    groups_by_name: HashTable<u32>,
    shapes_by_names: HashTable<u32>,
    /// Shapes by their sorted names, to see permutations.
    shapes_by_set: HashTable<(u64, u32)>,
    /// Series seen: 32 bits of the hash, sample.
    series: HashTable<(u32, u32)>,
    spans: Vec<Span>,
    line: Line,
    permuted: bool,
}

impl Scratch {
    fn clear(&mut self) {
        self.known.clear();
        self.known_by_name.clear();
        self.declarations.clear();
        self.declarations_by_name.clear();
        self.groups_by_name.clear();
        self.shapes_by_names.clear();
        self.shapes_by_set.clear();
        self.series.clear();
        self.spans.clear();
        self.permuted = false;
    }
}

/// Reads a whole body into `index`.
pub(super) fn parse_into(
    body: &[u8],
    open_metrics: bool,
    limits: &Limits,
    index: &mut Index,
    scratch: &mut Scratch,
) -> Result<(), Stop> {
    index.clear();
    scratch.clear();
    let mut parser = Parser {
        body,
        open_metrics,
        limits,
        hasher: super::hasher(),
        // One look at the whole body instead of one at each value.
        utf8: std::str::from_utf8(body).is_ok(),
        ambient: Ambient::Other,
        last: NONE,
        index,
        scratch,
    };
    parser.parse()?;
    parser.finish();
    Ok(())
}

struct Parser<'a> {
    body: &'a [u8],
    open_metrics: bool,
    limits: &'a Limits,
    hasher: &'static foldhash::quality::RandomState,
    utf8: bool,
    ambient: Ambient,
    /// The name of the sample before.
    last: u32,
    index: &'a mut Index,
    scratch: &'a mut Scratch,
}

/// What the fast path learned of one line.
struct Plain {
    known: u32,
    shape: u32,
    series_end: usize,
    flags: u32,
    end: usize,
    bound: Option<Span>,
}

impl Parser<'_> {
    fn parse(&mut self) -> Result<(), Stop> {
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
                    return Err(stop(RefusalKind::Parse, at, "a NUL at the start of a line"));
                }
                _ => self.read_sample(at)?,
            };
        }
        if self.open_metrics && !body.is_empty() {
            return Err(stop(RefusalKind::Parse, at, "the body does not end with # EOF"));
        }
        Ok(())
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    // ---- metadata -------------------------------------------------------------------------------------------------

    /// Reads a line that starts with `#`; `None` after `# EOF`.
    fn read_comment(&mut self, start: usize) -> Result<Option<usize>, Stop> {
        let body = self.body;
        let line_end = memchr::memchr(b'\n', &body[start..]).map_or(body.len(), |len| start + len);
        let line = &body[start..line_end];
        let next = (line_end + 1).min(body.len());
        let blank = |byte: &u8| *byte == b' ' || *byte == b'\t' && !self.open_metrics;
        if self.open_metrics {
            if line == b"# EOF" {
                return if next == body.len() {
                    Ok(None)
                } else {
                    Err(stop(RefusalKind::Parse, next, "data after # EOF"))
                };
            }
            if line_end == body.len() {
                return Err(stop(
                    RefusalKind::Parse,
                    start,
                    "the body does not end with # EOF",
                ));
            }
        }
        let blanks = line[1..].iter().take_while(|byte| blank(byte)).count();
        let words = &line[1 + blanks..];
        let keyword = words.get(..4).unwrap_or_default();
        let known = matches!(keyword, b"HELP" | b"TYPE") || self.open_metrics && keyword == b"UNIT";
        let is_metadata =
            blanks > 0 && (!self.open_metrics || blanks == 1) && known && words.get(4).is_some_and(blank);
        if !is_metadata {
            if self.open_metrics {
                return Err(stop(
                    RefusalKind::Parse,
                    start,
                    "a comment, which OpenMetrics does not have",
                ));
            }
            if let Some(nul) = memchr::memchr(0, line) {
                return Err(stop(RefusalKind::Parse, start + nul, "a NUL in a comment"));
            }
            return Ok(Some(next));
        }
        let mut at = start + 1 + blanks + 5;
        if !self.open_metrics {
            at += body[at..line_end].iter().take_while(|byte| blank(byte)).count();
        }
        self.read_declaration(keyword, at, line_end)
    }

    /// Reads what follows the keyword: a name and a text.
    fn read_declaration(
        &mut self,
        keyword: &[u8],
        at: usize,
        line_end: usize,
    ) -> Result<Option<usize>, Stop> {
        let body = self.body;
        let (named, after) = if body.get(at) == Some(&b'"') {
            let Some(end) = quoted_end(body, at) else {
                return Err(stop(RefusalKind::Parse, at, "a quoted name does not end"));
            };
            let span = Span::new(at + 1, end - 1);
            (Name { span, quoted: true }, end)
        } else {
            let len = name::metric_name_len(&body[at..line_end]);
            if len == 0 {
                return Err(stop(
                    RefusalKind::Parse,
                    at,
                    "no metric name after HELP, TYPE or UNIT",
                ));
            }
            let span = Span::new(at, at + len);
            (Name { span, quoted: false }, at + len)
        };
        // A quoted name may hold line feeds, so the line can end later than its first one.
        let line_end = if after <= line_end {
            line_end
        } else {
            memchr::memchr(b'\n', &body[after..]).map_or(body.len(), |len| after + len)
        };
        if self.open_metrics && body.get(after) != Some(&b' ') {
            return Err(stop(RefusalKind::Parse, after, "no blank after the metric name"));
        }
        // Prometheus cuts exactly one byte, whatever it is.
        let text = Span::new((after + 1).min(line_end), line_end);
        let next = (line_end + 1).min(body.len());
        let declaration = self.declare(named);
        match keyword {
            b"TYPE" => {
                let text_bytes = text.of(body);
                let Some(kind) = Type::parse(text_bytes, self.open_metrics) else {
                    return Err(stop(
                        RefusalKind::Parse,
                        text.start as usize,
                        "an unknown metric type",
                    ));
                };
                self.ambient = Ambient::of(kind);
                self.scratch.declarations[declaration].kind.get_or_insert(kind);
            }
            b"HELP" => {
                if !self.utf8 && std::str::from_utf8(text.of(body)).is_err() {
                    return Err(stop(
                        RefusalKind::Parse,
                        text.start as usize,
                        "the help text is not UTF-8",
                    ));
                }
                self.scratch.declarations[declaration].help.get_or_insert(text);
            }
            _ => {
                let unit = text.of(body);
                let stem = named.span.of(body).strip_suffix(unit);
                if !unit.is_empty() && !stem.is_some_and(|stem| stem.ends_with(b"_")) {
                    return Err(stop(
                        RefusalKind::Parse,
                        text.start as usize,
                        "the unit is not the end of the metric's name",
                    ));
                }
                self.scratch.declarations[declaration].unit.get_or_insert(text);
            }
        }
        Ok(Some(next))
    }

    fn declare(&mut self, named: Name) -> usize {
        let body = self.body;
        let decoded = named.decode(body);
        let hash = self.hash(&decoded);
        let hasher = self.hasher;
        let Scratch {
            declarations,
            declarations_by_name,
            ..
        } = &mut *self.scratch;
        let found =
            declarations_by_name.find(hash, |&id| declarations[id as usize].name.decode(body) == decoded);
        if let Some(&id) = found {
            return id as usize;
        }
        let id = declarations.len();
        declarations.push(Declaration {
            name: named,
            kind: None,
            help: None,
            unit: None,
        });
        #[allow(clippy::cast_possible_truncation, reason = "fewer declarations than bytes")]
        declarations_by_name.insert_unique(hash, id as u32, |&id| {
            hash_with(hasher, &declarations[id as usize].name.decode(body))
        });
        id
    }

    fn find_declaration(&self, decoded: &[u8]) -> Option<&Declaration> {
        let hash = self.hash(decoded);
        let declarations = &self.scratch.declarations;
        self.scratch
            .declarations_by_name
            .find(hash, |&id| {
                *declarations[id as usize].name.decode(self.body) == *decoded
            })
            .map(|&id| &declarations[id as usize])
    }

    // ---- samples --------------------------------------------------------------------------------------------------

    fn read_sample(&mut self, start: usize) -> Result<usize, Stop> {
        if self.limits.max_samples > 0 && self.index.samples.len() as u64 >= self.limits.max_samples {
            return Err(stop(
                RefusalKind::Samples,
                start,
                format!("more than {} samples", self.limits.max_samples),
            ));
        }
        match self.read_plain(start) {
            Some(plain) => Ok(self.keep_plain(start, &plain)),
            None => self.read_any(start),
        }
    }

    /// The fast path: a line in the plain spelling whose name and label names were seen before. Gives up otherwise.
    fn read_plain(&mut self, start: usize) -> Option<Plain> {
        let body = self.body;
        let known = self.match_name(start)?;
        let entry = self.scratch.known[known as usize];
        let mut at = entry.name.span.end as usize - entry.name.span.start as usize + start;
        let mut flags = 0;
        let mut shape = NONE;
        let mut bound = None;
        let mut series_end = at;
        if *body.get(at)? == b'{' {
            flags |= Sample::LABELS;
            (shape, at, bound) = self.match_labels(known, at + 1)?;
            series_end = at;
            // Past the closing brace.
            at += 1;
        }
        if *body.get(at)? != b' ' {
            return None;
        }
        let mut end = token_end(body, at + 1);
        if !super::number::is_float(&body[at + 1..end]) {
            return None;
        }
        if body.get(end) == Some(&b' ') {
            if self.open_metrics && body[end..].starts_with(b" # {") {
                // Exemplars are rare, and their rules are many.
                return None;
            }
            let from = end + 1;
            end = token_end(body, from);
            let token = &body[from..end];
            let fits = if self.open_metrics {
                super::number::is_seconds(token)
            } else {
                super::number::parse_millis(token).is_some()
            };
            if !fits {
                return None;
            }
            flags |= Sample::TIMESTAMP;
        }
        match body.get(end) {
            Some(b'\n') => {}
            None if !self.open_metrics => {}
            _ => return None,
        }
        Some(Plain {
            known,
            shape,
            series_end,
            flags,
            end,
            bound,
        })
    }

    /// The known name at `start`, guessed from the sample before.
    fn match_name(&self, start: usize) -> Option<u32> {
        let rest = &self.body[start..];
        let fits = |id: u32| {
            let entry = self.scratch.known.get(id as usize)?;
            let name = entry.name.span.of(self.body);
            let matches = !entry.name.quoted
                && rest.starts_with(name)
                && matches!(rest.get(name.len()), Some(b'{' | b' '));
            matches.then_some(entry)
        };
        if let Some(entry) = self.scratch.known.get(self.last as usize) {
            let next = entry.next;
            if fits(self.last).is_some() {
                return Some(self.last);
            }
            if fits(next).is_some() {
                return Some(next);
            }
        }
        let len = name::metric_name_len(rest);
        if len == 0 || !matches!(rest.get(len), Some(b'{' | b' ')) {
            return None;
        }
        self.find_known(&rest[..len])
            .filter(|&id| !self.scratch.known[id as usize].name.quoted)
    }

    fn find_known(&self, decoded: &[u8]) -> Option<u32> {
        let known = &self.scratch.known;
        self.scratch
            .known_by_name
            .find(self.hash(decoded), |&id| {
                *known[id as usize].name.decode(self.body) == *decoded
            })
            .copied()
    }

    /// Matches the labels from after the opening brace. Gives the shape, the position of the closing brace, and the
    /// value of `le` or `quantile` where the last TYPE makes one of them a bound.
    fn match_labels(&mut self, known: u32, start: usize) -> Option<(u32, usize, Option<Span>)> {
        let guess = self.scratch.known[known as usize].shape;
        if (guess as usize) < self.index.shapes.len()
            && let Some((at, bound)) = self.match_shape(known, guess, start)
        {
            return Some((guess, at, bound));
        }
        let shape = self.find_shape(start)?;
        let (at, bound) = self.match_shape(known, shape, start)?;
        Some((shape, at, bound))
    }

    fn match_shape(&mut self, known: u32, shape: u32, start: usize) -> Option<(usize, Option<Span>)> {
        let body = self.body;
        let Shape { names, le, quantile } = self.index.shapes[shape as usize];
        let bound_at = match self.ambient {
            Ambient::Other => None,
            Ambient::Histogram => le,
            Ambient::Summary => quantile,
        };
        let names = &self.index.shape_names[names.0 as usize..names.1 as usize];
        let mut bound = None;
        let mut empty = false;
        let mut at = start;
        for (position, span) in names.iter().enumerate() {
            // In a plain line the name is followed by `="`, so the comparison takes that in.
            let expect = &body[span.start as usize..span.end as usize + 2];
            if !body[at..].starts_with(expect) {
                return None;
            }
            let value = at + expect.len();
            let end = plain_value_end(body, value)?;
            if !self.utf8 && std::str::from_utf8(&body[value..end]).is_err() {
                return None;
            }
            if self.limits.max_label_value_length > 0
                && (end - value) as u64 > self.limits.max_label_value_length
            {
                return None;
            }
            empty |= end == value;
            #[allow(clippy::cast_possible_truncation, reason = "fewer labels than bytes")]
            if bound_at == Some(position as u32) {
                bound = Some(Span::new(value, end));
            }
            at = end + 1;
            let separator = if position + 1 == names.len() { b'}' } else { b',' };
            if *body.get(at)? != separator {
                return None;
            }
            at += 1;
        }
        if empty {
            self.scratch.known[known as usize].empty_values = true;
        }
        Some((at - 1, bound))
    }

    /// Looks the label names of a plain line up.
    fn find_shape(&mut self, start: usize) -> Option<u32> {
        let body = self.body;
        let mut spans = std::mem::take(&mut self.scratch.spans);
        spans.clear();
        let plain = collect_plain_names(body, start, &mut spans);
        let hash = hash_names(self.hasher, body, &spans);
        let index = &self.index;
        let found = self
            .scratch
            .shapes_by_names
            .find(hash, |&id| same_names(body, shape_names(index, id), &spans))
            .copied();
        self.scratch.spans = spans;
        if plain.is_some() { found } else { None }
    }

    fn keep_plain(&mut self, start: usize, plain: &Plain) -> usize {
        if let Some(bound) = plain.bound {
            self.note_bound(plain.known, bound);
        }
        self.note_shape(plain.known, plain.shape);
        let shape = if plain.shape == NONE { 0 } else { plain.shape };
        let (series_end, end) = (narrow(plain.series_end), narrow(plain.end));
        let sample = Sample::new(narrow(start), series_end, end, plain.flags, shape);
        self.keep(plain.known, sample);
        (plain.end + 1).min(self.body.len())
    }

    fn note_shape(&mut self, known: u32, shape: u32) {
        let entry = &mut self.scratch.known[known as usize];
        if entry.shape == shape {
            return;
        }
        if entry.shape != FRESH {
            entry.shapes_vary = true;
        }
        entry.shape = shape;
        let Some(shape) = self.index.shapes.get(shape as usize) else {
            entry.without = [true; 3];
            return;
        };
        let own = entry.name.span.of(self.body);
        entry.without[0] |= shape.le.is_none();
        entry.without[1] |= shape.quantile.is_none();
        entry.without[2] |= !self.index.shape_names[shape.names.0 as usize..shape.names.1 as usize]
            .iter()
            .any(|span| span.of(self.body) == own);
    }

    fn note_bound(&mut self, known: u32, bound: Span) {
        let group = self.scratch.known[known as usize].group as usize;
        let value = bound.of(self.body);
        let note = if !value.is_empty() && value.len() <= 6 && value.iter().all(u8::is_ascii_digit) {
            Group::BOUND_INTEGER
        } else if super::number::is_plainly_canonical(value) {
            if value.ends_with(b".0") {
                Group::BOUND_DOT_ZERO
            } else {
                0
            }
        } else {
            Group::BOUND_OTHER
        };
        self.index.groups[group].notes |= note;
    }

    /// Adds a sample to its run and looks whether its series was there before.
    fn keep(&mut self, known: u32, sample: Sample) {
        if self.last != known {
            if let Some(last) = self.scratch.known.get_mut(self.last as usize) {
                last.next = known;
            }
            self.last = known;
        }
        let id = narrow(self.index.samples.len());
        self.index.samples.push(sample);
        self.index.has_timestamps |= sample.has(Sample::TIMESTAMP);
        self.keep_series(id, sample);
        let group = self.scratch.known[known as usize].group;
        match self.index.runs.last_mut() {
            Some(run) if run.group == group && run.ambient == self.ambient => run.len += 1,
            _ => self.index.runs.push(Run {
                group,
                first: id,
                len: 1,
                ambient: self.ambient,
            }),
        }
    }

    /// Marks a sample whose series, spelled the same, came before. With timestamps in play the matter is left to the
    /// writer, which knows its format's resolution.
    fn keep_series(&mut self, id: u32, sample: Sample) {
        let body = self.body;
        let key = &body[sample.start as usize..sample.series_end as usize];
        let hash = self.hash(key);
        #[allow(clippy::cast_possible_truncation, reason = "the low half is what is kept")]
        let short = hash as u32;
        let samples = &mut self.index.samples;
        let found = self.scratch.series.entry(
            spread(short),
            |&(other_short, other)| {
                let other = &samples[other as usize];
                other_short == short && &body[other.start as usize..other.series_end as usize] == key
            },
            |&(short, _)| spread(short),
        );
        match found {
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert((short, id));
            }
            hashbrown::hash_table::Entry::Occupied(occupied) => {
                let first = samples[occupied.get().1 as usize];
                if first.has(Sample::TIMESTAMP) || sample.has(Sample::TIMESTAMP) {
                    self.index.uncertain = true;
                } else {
                    samples[id as usize].set(Sample::DROPPED);
                    self.index.n_dropped += 1;
                }
            }
        }
    }

    /// The slow path: any line, strictly.
    fn read_any(&mut self, start: usize) -> Result<usize, Stop> {
        let mut line = std::mem::take(&mut self.scratch.line);
        let read = line.read(self.body, start, self.open_metrics);
        let kept = read
            .map_err(Stop::from)
            .and_then(|()| self.keep_line(start, &line));
        self.scratch.line = line;
        kept
    }

    fn keep_line(&mut self, start: usize, line: &Line) -> Result<usize, Stop> {
        self.check_limits(line)?;
        let body = self.body;
        let known = self.know(line.name);
        let mut flags = 0;
        if line.timestamp.is_some() {
            flags |= Sample::TIMESTAMP;
        }
        if line.exemplar.is_some() {
            flags |= Sample::EXEMPLAR;
        }
        let end = line.timestamp.unwrap_or(line.value).end as usize;
        let plain_end = is_plain(body, start, line);
        let shape = if line.labels.is_empty() {
            None
        } else {
            self.know_shape(line, plain_end.is_some())?
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
            self.note_shape(known, shape.unwrap_or(NONE));
        } else {
            flags |= Sample::ODD;
            self.index.quoted |= line.name.quoted || line.labels.iter().any(|label| label.name.quoted);
            for label in &line.labels {
                self.index.odd_label_names.push(label.name);
            }
            // A trailing comma or slack outside the braces does not hide a double; anything else may.
            series_end = odd_series_end(body, start, line).unwrap_or_else(|| {
                self.index.uncertain = true;
                line.series_end
            });
            self.note_odd(known, line);
        }
        if let Some(wanted) = self.ambient.label() {
            for label in &line.labels {
                if *label.name.decode(body) == *wanted {
                    self.note_bound(known, label.value);
                }
            }
        }
        let (start, series_end, end) = (narrow(start), narrow(series_end), narrow(end));
        let sample = Sample::new(start, series_end, end, flags, shape.unwrap_or(0));
        self.keep(known, sample);
        Ok((line.end + 1).min(body.len()))
    }

    /// A line of no shape: its name's label sets vary, as far as anybody knows.
    fn note_odd(&mut self, known: u32, line: &Line) {
        let body = self.body;
        let entry = &mut self.scratch.known[known as usize];
        entry.shapes_vary = true;
        let own = entry.name.decode(body);
        let has = |wanted: &[u8]| {
            line.labels
                .iter()
                .any(|label| *label.name.decode(body) == *wanted)
        };
        entry.without[0] |= !has(b"le");
        entry.without[1] |= !has(b"quantile");
        entry.without[2] |= !has(&own);
    }

    fn check_limits(&self, line: &Line) -> Result<(), Stop> {
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
            return Err(stop(RefusalKind::Labels, at, reason));
        }
        for label in &line.labels {
            let at = label.name.span.start as usize;
            if over(label.name.decode(body).len(), max_label_name_length) {
                let reason = format!("a label name longer than {max_label_name_length} bytes");
                return Err(stop(RefusalKind::LabelNameLength, at, reason));
            }
            if over(name::unescape(label.value.of(body)).len(), max_label_value_length) {
                let reason = format!("a label value longer than {max_label_value_length} bytes");
                return Err(stop(RefusalKind::LabelValueLength, at, reason));
            }
        }
        // The metric name is the value of the label __name__ to Prometheus, and so to its limits.
        if over(line.name.decode(body).len(), max_label_value_length) {
            let reason = format!("a metric name longer than {max_label_value_length} bytes");
            return Err(stop(RefusalKind::LabelValueLength, at, reason));
        }
        Ok(())
    }

    // ---- names, groups and shapes ---------------------------------------------------------------------------------

    /// The entry of a sample name, made at its first sight.
    fn know(&mut self, named: Name) -> u32 {
        let body = self.body;
        let decoded = named.decode(body);
        if let Some(id) = self.find_known(&decoded) {
            return id;
        }
        let (group_name, suffix) = self.belongs_to(named);
        let group = self.group(group_name);
        self.index.groups[group as usize].suffixes.add(suffix.bit());
        let hash = self.hash(&decoded);
        let hasher = self.hasher;
        let Scratch {
            known, known_by_name, ..
        } = &mut *self.scratch;
        let id = narrow(known.len());
        known.push(Known {
            name: named,
            group,
            suffix,
            next: NONE,
            shape: FRESH,
            shapes_vary: false,
            empty_values: false,
            without: [false; 3],
        });
        known_by_name.insert_unique(hash, id, |&id| {
            hash_with(hasher, &known[id as usize].name.decode(body))
        });
        id
    }

    /// The family that a sample name belongs to, as far as has been declared: its own if that has a type, else the
    /// one that its ending points to, else its own again.
    fn belongs_to(&self, named: Name) -> (Name, Suffix) {
        let decoded = named.decode(self.body);
        if self
            .find_declaration(&decoded)
            .is_some_and(|found| found.kind.is_some())
        {
            return (named, Suffix::Bare);
        }
        for suffix in Suffix::ALL {
            let Some(base) = decoded.strip_suffix(suffix.as_str().as_bytes()) else {
                continue;
            };
            if suffix == Suffix::Bare || base.is_empty() {
                continue;
            }
            if let Some(found) = self.find_declaration(base)
                && found.kind.is_some_and(|kind| kind.suffixes().contains(&suffix))
            {
                return (found.name, suffix);
            }
        }
        (named, Suffix::Bare)
    }

    fn group(&mut self, named: Name) -> u32 {
        let body = self.body;
        let decoded = named.decode(body);
        let hash = self.hash(&decoded);
        let groups = &self.index.groups;
        let found = self
            .scratch
            .groups_by_name
            .find(hash, |&id| groups[id as usize].name.decode(body) == decoded);
        if let Some(&id) = found {
            return id;
        }
        let declared = self.find_declaration(&decoded).copied();
        let id = narrow(self.index.groups.len());
        self.index.groups.push(Group {
            name: named,
            kind: declared.and_then(|found| found.kind),
            help: None,
            unit: None,
            suffixes: super::model::Suffixes::default(),
            runs: (0, 0),
            notes: 0,
        });
        let hasher = self.hasher;
        let groups = &self.index.groups;
        self.scratch.groups_by_name.insert_unique(hash, id, |&id| {
            hash_with(hasher, &groups[id as usize].name.decode(body))
        });
        id
    }

    /// The shape of a plain line, made at its first sight; `None` for a line that is not plain.
    fn know_shape(&mut self, line: &Line, plain: bool) -> Result<Option<u32>, Stop> {
        if !plain {
            return Ok(None);
        }
        let body = self.body;
        let mut spans = std::mem::take(&mut self.scratch.spans);
        spans.clear();
        spans.extend(line.labels.iter().map(|label| label.name.span));
        let hasher = self.hasher;
        let hash = hash_names(hasher, body, &spans);
        let index = &mut *self.index;
        let found = self
            .scratch
            .shapes_by_names
            .find(hash, |&id| same_names(body, shape_names(index, id), &spans))
            .copied();
        if let Some(id) = found {
            self.scratch.spans = spans;
            return Ok(Some(id));
        }
        if index.shapes.len() + 1 >= Sample::MAX_SHAPES {
            let at = line.name.span.start as usize;
            return Err(stop(
                RefusalKind::Labels,
                at,
                "too many different sets of label names",
            ));
        }
        let id = narrow(index.shapes.len());
        let first = narrow(index.shape_names.len());
        index.shape_names.extend_from_slice(&spans);
        let position = |wanted: &[u8]| spans.iter().position(|span| span.of(body) == wanted).map(narrow);
        index.shapes.push(Shape {
            names: (first, narrow(index.shape_names.len())),
            le: position(b"le"),
            quantile: position(b"quantile"),
        });
        let index = &*index;
        self.scratch
            .shapes_by_names
            .insert_unique(hash, id, |&id| hash_names(hasher, body, shape_names(index, id)));
        spans.sort_unstable_by(|a, b| a.of(body).cmp(b.of(body)));
        let set = hash_names(hasher, body, &spans);
        // Two sets of one hash are taken for permutations: that only costs a second look.
        match self
            .scratch
            .shapes_by_set
            .entry(set, |&(other, _)| other == set, |&(hash, _)| hash)
        {
            hashbrown::hash_table::Entry::Occupied(_) => self.scratch.permuted = true,
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert((set, id));
            }
        }
        self.scratch.spans = spans;
        Ok(Some(id))
    }

    // ---- the end --------------------------------------------------------------------------------------------------

    /// Settles what could not be known earlier: TYPE lines that came after their samples, and where doubles hide.
    fn finish(&mut self) {
        let body = self.body;
        let mut moved_to: Vec<u32> = Vec::new();
        for id in 0..self.scratch.known.len() {
            let mut entry = self.scratch.known[id];
            if entry.shapes_vary && (entry.empty_values || self.scratch.permuted) {
                self.index.uncertain = true;
            }
            if entry.suffix == Suffix::Bare {
                let (family, suffix) = self.belongs_to(entry.name);
                if suffix != Suffix::Bare {
                    let target = self.group(family);
                    self.index.groups[target as usize].suffixes.add(suffix.bit());
                    self.index.groups[target as usize].notes |= self.index.groups[entry.group as usize].notes;
                    moved_to.resize(self.index.groups.len(), NONE);
                    moved_to[entry.group as usize] = target;
                    entry.group = target;
                    entry.suffix = suffix;
                }
            }
            self.scratch.known[id] = entry;
        }
        if !moved_to.is_empty() {
            moved_to.resize(self.index.groups.len(), NONE);
            for run in &mut self.index.runs {
                let target = moved_to[run.group as usize];
                if target != NONE {
                    run.group = target;
                }
            }
        }
        for group in 0..self.index.groups.len() {
            let declared = self
                .find_declaration(&self.index.groups[group].name.decode(body))
                .copied();
            if let Some(declared) = declared {
                let group = &mut self.index.groups[group];
                group.kind = declared.kind;
                group.help = declared.help;
                group.unit = declared.unit;
            }
        }
        for entry in &self.scratch.known {
            let group = &mut self.index.groups[entry.group as usize];
            let lacks = match (entry.suffix, group.kind) {
                (Suffix::Bucket, _) => entry.without[0],
                (Suffix::Bare, Some(Type::Summary)) => entry.without[1],
                (Suffix::Bare, Some(Type::StateSet)) => entry.without[2],
                _ => false,
            };
            if lacks {
                group.notes |= Group::LACKS_LABEL;
            }
        }
        self.sort_runs();
    }

    fn sort_runs(&mut self) {
        let runs = &self.index.runs;
        self.index.run_order.extend(0..narrow(runs.len()));
        self.index.run_order.sort_by_key(|&run| runs[run as usize].group);
        let mut from = 0;
        while from < self.index.run_order.len() {
            let group = self.index.runs[self.index.run_order[from] as usize].group;
            let len = self.index.run_order[from..]
                .iter()
                .take_while(|&&run| self.index.runs[run as usize].group == group)
                .count();
            self.index.groups[group as usize].runs = (narrow(from), narrow(from + len));
            from += len;
        }
    }
}

/// A name that no line has been kept for yet; told apart from `NONE`, which is a line without labels.
const FRESH: u32 = u32::MAX - 1;

#[allow(
    clippy::cast_possible_truncation,
    reason = "counts and offsets are below MAX_BODY_BYTES"
)]
fn narrow(value: usize) -> u32 {
    value as u32
}

/// Half a hash for a whole one: the table takes its low bits and its top bits.
fn spread(short: u32) -> u64 {
    u64::from(short).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn hash_with(hasher: &foldhash::quality::RandomState, bytes: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

fn hash_names(hasher: &foldhash::quality::RandomState, body: &[u8], spans: &[Span]) -> u64 {
    let mut hasher = hasher.build_hasher();
    for span in spans {
        hasher.write(span.of(body));
        hasher.write_u8(0);
    }
    hasher.finish()
}

fn shape_names(index: &Index, id: u32) -> &[Span] {
    let (from, to) = index.shapes[id as usize].names;
    &index.shape_names[from as usize..to as usize]
}

fn same_names(body: &[u8], a: &[Span], b: &[Span]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.of(body) == b.of(body))
}

fn token_end(body: &[u8], from: usize) -> usize {
    from + body[from..]
        .iter()
        .take_while(|byte| !matches!(byte, b' ' | b'\n' | b'\t' | b'{'))
        .count()
}

fn quoted_end(body: &[u8], at: usize) -> Option<usize> {
    let mut from = at + 1;
    loop {
        let found = memchr::memchr2(b'"', b'\\', body.get(from..)?)?;
        from += found;
        match body[from] {
            b'"' => return Some(from + 1),
            _ if matches!(body.get(from + 1), None | Some(b'\n')) => return None,
            _ => from += 2,
        }
    }
}

/// The closing quote of a value that can be written as it is; `None` for any other.
fn plain_value_end(body: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr3(b'"', b'\\', b'\n', body.get(at..)?)?;
        match body[at] {
            b'"' => return Some(at),
            b'\\' if matches!(body.get(at + 1), Some(b'\\' | b'"' | b'n')) => at += 2,
            _ => return None,
        }
    }
}

fn collect_plain_names(body: &[u8], start: usize, spans: &mut Vec<Span>) -> Option<()> {
    let mut at = start;
    loop {
        let len = name::label_name_len(body.get(at..)?);
        if len == 0 || !body[at + len..].starts_with(b"=\"") {
            return None;
        }
        spans.push(Span::new(at, at + len));
        at = plain_value_end(body, at + len + 2)? + 1;
        match body.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => return Some(()),
            _ => return None,
        }
    }
}

/// Where labels go into a line written the plain way; `None` for any other.
fn is_plain(body: &[u8], start: usize, line: &Line) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    let mut series_end = at;
    if line.series_end > at {
        for (index, label) in line.labels.iter().enumerate() {
            let expect = if index == 0 { b'{' } else { b',' };
            let named = label.name;
            if named.quoted
                || body[at] != expect
                || named.span.start as usize != at + 1
                || label.value.start != named.span.end + 2
                || !name::is_legal_value(label.value.of(body))
            {
                return None;
            }
            at = label.value.end as usize + 1;
        }
        if line.labels.is_empty() || body[at] != b'}' {
            return None;
        }
        series_end = at;
        at += 1;
    }
    let spaced = |span: Span, at: usize| span.start as usize == at + 1 && body[at] == b' ';
    if !spaced(line.value, at) {
        return None;
    }
    at = line.value.end as usize;
    if let Some(timestamp) = line.timestamp {
        if !spaced(timestamp, at) {
            return None;
        }
        at = timestamp.end as usize;
    }
    if line.exemplar.is_none() && at != line.end {
        return None;
    }
    Some(series_end)
}

/// For a line with slack outside its labels, or a trailing comma: the end of what identifies the series.
fn odd_series_end(body: &[u8], start: usize, line: &Line) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    for (index, label) in line.labels.iter().enumerate() {
        let expect = if index == 0 { b'{' } else { b',' };
        if label.name.quoted
            || body[at] != expect
            || label.name.span.start as usize != at + 1
            || label.value.start != label.name.span.end + 2
            || !name::is_legal_value(label.value.of(body))
        {
            return None;
        }
        at = label.value.end as usize + 1;
    }
    Some(at)
}
