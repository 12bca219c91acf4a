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
use super::{Limits, RefusalKind, name, number};

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
    /// The shape this name had last time, `NONE` for a line without labels, `FRESH` before the first line.
    shape: u32,
    /// The last plain line of this name, which the next is compared with: where it starts, and how many bytes its
    /// series has (up to the closing brace, or the end of the name). 0 where there is none.
    line_start: u32,
    series_len: u32,
    /// Its values' places in [`Scratch::places`], and how many fit there.
    places: u32,
    n_places: u32,
    places_room: u32,
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
    /// Places of label values in each name's last line.
    places: Vec<Place>,
    line: Line,
    permuted: bool,
}

/// A label value in a line, as offsets from the line's start, and the hash of the series up to and with its quote.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    start: u32,
    end: u32,
    hash: u64,
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
        self.places.clear();
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
        seed: super::hasher().hash_one(0_u8),
        key: super::hasher().hash_one(1_u8),
        // One look at the whole body instead of one at each value.
        utf8: body.is_ascii() || std::str::from_utf8(body).is_ok(),
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
    /// What series are hashed with, see [`absorb`].
    seed: u64,
    key: u64,
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
    hash: u64,
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
    ///
    /// What is equal to the name's last line needs no second look, so most lines cost a comparison, a look at the values
    /// that differ, and one at the number.
    fn read_plain(&mut self, start: usize) -> Option<Plain> {
        let body = self.body;
        let (known, same) = self.match_name(start)?;
        let entry = self.scratch.known[known as usize];
        let name_len = entry.name.span.len();
        let mut bound = None;
        let (shape, hash, series_end) = if entry.n_places > 0 && body.get(start + name_len) == Some(&b'{') {
            if let Some(found) = self.match_labels(&entry, known, start, same, &mut bound) {
                (entry.shape, found.0, found.1)
            } else {
                self.learn_labels(known, start, name_len, &mut bound)?
            }
        } else if body.get(start + name_len) == Some(&b'{') {
            self.learn_labels(known, start, name_len, &mut bound)?
        } else {
            (NONE, self.name_hash(name_len), start + name_len)
        };
        // Past the closing brace.
        let mut at = series_end + usize::from(shape != NONE);
        let mut flags = if shape == NONE { 0 } else { Sample::LABELS };
        if *body.get(at)? != b' ' {
            return None;
        }
        at += 1;
        let mut end = self.number_end(at)?;
        if body.get(end) == Some(&b' ') {
            if self.open_metrics && body[end..].starts_with(b" # {") {
                // Exemplars are rare, and their rules are many.
                return None;
            }
            at = end + 1;
            end = token_end(body, at);
            let token = &body[at..end];
            let fits = if self.open_metrics {
                number::is_seconds(token)
            } else {
                number::parse_millis(token).is_some()
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
            hash,
            bound,
        })
    }

    /// The end of the value that starts at `at`; `None` where it is none, or not followed as it should be.
    fn number_end(&self, at: usize) -> Option<usize> {
        let body = self.body;
        // Most values are digits with one dot at most, and short.
        let len = number::simple_len(&body[at..]);
        let end = at + len;
        if len > 0 && matches!(body.get(end), Some(b'\n' | b' ')) {
            return Some(end);
        }
        let end = token_end(body, at);
        number::is_float(&body[at..end]).then_some(end)
    }

    /// The known name at `start`, guessed from the sample before, and how many bytes are as in that name's last line.
    fn match_name(&self, start: usize) -> Option<(u32, usize)> {
        let rest = &self.body[start..];
        let fits = |id: u32| {
            let entry = self.scratch.known.get(id as usize)?;
            let name_len = entry.name.span.len();
            if entry.series_len == 0 {
                return None;
            }
            // Of a series without labels the blank is compared too, so that the name is known to end there.
            let from = entry.line_start as usize;
            let same = common_len(rest, &self.body[from..=from + entry.series_len as usize]);
            (same > name_len).then_some((id, same.min(entry.series_len as usize)))
        };
        if let Some(entry) = self.scratch.known.get(self.last as usize) {
            let next = entry.next;
            if let Some(found) = fits(self.last) {
                return Some(found);
            }
            if let Some(found) = fits(next) {
                return Some(found);
            }
        }
        let len = name::metric_name_len(rest);
        if len == 0 || !matches!(rest.get(len), Some(b'{' | b' ')) {
            return None;
        }
        let id = self.find_known(&rest[..len])?;
        fits(id).or_else(|| (!self.scratch.known[id as usize].name.quoted).then_some((id, len)))
    }

    fn find_known(&self, decoded: &[u8]) -> Option<u32> {
        let known = &self.scratch.known;
        self.scratch
            .known_by_name
            .find(self.hash(decoded), |&id| *known[id as usize].name.decode(self.body) == *decoded)
            .copied()
    }

    /// Matches the labels of the line at `start` against the last line of its name, of which `same` bytes are equal.
    /// Gives the hash of the series and the position of the closing brace, and notes the places of the values.
    fn match_labels(
        &mut self,
        entry: &Known,
        known: u32,
        start: usize,
        same: usize,
        bound: &mut Option<Span>,
    ) -> Option<(u64, usize)> {
        let body = self.body;
        let before = &body[entry.line_start as usize..=(entry.line_start + entry.series_len) as usize];
        let now = &body[start..];
        let bound_at = self.bound_at(entry.shape);
        // Until this line has been matched whole, its places are half the other line's.
        self.scratch.known[known as usize].series_len = 0;
        self.scratch.known[known as usize].n_places = 0;
        let places = &mut self.scratch.places[entry.places as usize..][..entry.n_places as usize];
        // Both lines are equal up to here: `at` in this one, `old` in the one before.
        let (mut at, mut old) = (same, same);
        let mut index = 0;
        let mut hash = self.seed;
        // Values before the first difference stay where they are.
        while index < places.len() && (places[index].end as usize) < same {
            hash = places[index].hash;
            index += 1;
        }
        if let Some(bound_at) = bound_at
            && bound_at < index
        {
            *bound = Some(Span::new(start + places[bound_at].start as usize, start + places[bound_at].end as usize));
        }
        let mut segment = if index == 0 { entry.name.span.len() } else { places[index - 1].end as usize + 1 };
        let mut empty = false;
        while index < places.len() {
            let place = places[index];
            // The name of the label differs, or what stands around it.
            if old < place.start as usize {
                return None;
            }
            let value = at - (old - place.start as usize);
            // A backslash just before the difference may have belonged to an escape.
            let escapes = now[value..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
            let end = plain_value_end(now, at - escapes)?;
            if !self.utf8 && std::str::from_utf8(&now[value..end]).is_err() {
                return None;
            }
            if self.limits.max_label_value_length > 0 && (end - value) as u64 > self.limits.max_label_value_length {
                return None;
            }
            empty |= end == value;
            if bound_at == Some(index) {
                *bound = Some(Span::new(start + value, start + end));
            }
            hash = absorb(hash, &now[segment..=end], self.key);
            places[index] = Place {
                start: narrow(value),
                end: narrow(end),
                hash,
            };
            segment = end + 1;
            at = end + 1;
            old = place.end as usize + 1;
            index += 1;
            let more = common_len(&now[at..], &before[old..]);
            at += more;
            old += more;
            // Values that are equal but stand elsewhere.
            while index < places.len() && (places[index].end as usize) < old {
                let place = &mut places[index];
                let (value, end) = (at - (old - place.start as usize), at - (old - place.end as usize));
                hash = absorb(hash, &now[segment..=end], self.key);
                if bound_at == Some(index) {
                    *bound = Some(Span::new(start + value, start + end));
                }
                *place = Place {
                    start: narrow(value),
                    end: narrow(end),
                    hash,
                };
                segment = end + 1;
                index += 1;
            }
        }
        // All values are matched; the brace must follow.
        if now.get(segment) != Some(&b'}') {
            return None;
        }
        let n_places = entry.n_places;
        let entry = &mut self.scratch.known[known as usize];
        entry.n_places = n_places;
        entry.empty_values |= empty;
        entry.line_start = narrow(start);
        entry.series_len = narrow(segment);
        Some((hash, start + segment))
    }

    /// The position of the label that Prometheus 3 respells under the current TYPE, in lines of this shape.
    fn bound_at(&self, shape: u32) -> Option<usize> {
        if self.ambient == Ambient::Other {
            return None;
        }
        let Shape { le, quantile, .. } = *self.index.shapes.get(shape as usize)?;
        let found = if self.ambient == Ambient::Histogram { le } else { quantile };
        found.map(|position| position as usize)
    }

    /// Reads the labels of a line in the plain spelling without a line to compare with, and remembers it as one. Gives
    /// shape, hash and the position of the closing brace; `None` where the label names are new in this order.
    fn learn_labels(
        &mut self,
        known: u32,
        start: usize,
        name_len: usize,
        bound: &mut Option<Span>,
    ) -> Option<(u32, u64, usize)> {
        let body = self.body;
        let mut spans = std::mem::take(&mut self.scratch.spans);
        spans.clear();
        let plain = collect_plain(body, start + name_len + 1, &mut spans);
        // Names and values by turns.
        let names = || spans.iter().step_by(2).map(|span| span.of(body));
        let shape = plain.and_then(|_| {
            let hash = hash_names(self.hasher, names());
            let index = &self.index;
            let by_names = &self.scratch.shapes_by_names;
            by_names
                .find(hash, |&id| shape_names(index, id).iter().map(|span| span.of(body)).eq(names()))
                .copied()
        });
        let fits = spans.iter().skip(1).step_by(2).all(|value| {
            let limit = self.limits.max_label_value_length;
            (limit == 0 || value.len() as u64 <= limit) && (self.utf8 || std::str::from_utf8(value.of(body)).is_ok())
        });
        let Some((shape, series_end)) = shape.zip(plain).filter(|_| fits) else {
            self.scratch.spans = spans;
            return None;
        };
        let bound_at = self.bound_at(shape);
        let mut hash = self.seed;
        let mut segment = start + name_len;
        let n_labels = spans.len() / 2;
        let Scratch { known: all, places, .. } = &mut *self.scratch;
        let entry = &mut all[known as usize];
        if (entry.places_room as usize) < n_labels {
            entry.places = narrow(places.len());
            entry.places_room = narrow(n_labels);
            places.resize(places.len() + n_labels, Place::default());
        }
        for (index, pair) in spans.chunks_exact(2).enumerate() {
            let (value, end) = (pair[1].start as usize, pair[1].end as usize);
            hash = absorb(hash, &body[segment..=end], self.key);
            places[entry.places as usize + index] = Place {
                start: narrow(value - start),
                end: narrow(end - start),
                hash,
            };
            segment = end + 1;
            entry.empty_values |= value == end;
            if bound_at == Some(index) {
                *bound = Some(pair[1]);
            }
        }
        entry.n_places = narrow(n_labels);
        entry.line_start = narrow(start);
        entry.series_len = narrow(series_end - start);
        self.scratch.spans = spans;
        Some((shape, hash, series_end))
    }

    /// The hash of a series without labels. Names tell series apart by themselves, in [`Parser::keep_series`].
    fn name_hash(&self, name_len: usize) -> u64 {
        absorb(self.seed, &[], self.key) ^ name_len as u64
    }

    fn keep_plain(&mut self, start: usize, plain: &Plain) -> usize {
        if let Some(bound) = plain.bound {
            self.note_bound(plain.known, bound);
        }
        self.note_shape(plain.known, plain.shape);
        if plain.shape == NONE {
            let entry = &mut self.scratch.known[plain.known as usize];
            entry.line_start = narrow(start);
            entry.series_len = narrow(plain.series_end - start);
            entry.n_places = 0;
        }
        let shape = if plain.shape == NONE { 0 } else { plain.shape };
        let (series_end, end) = (narrow(plain.series_end), narrow(plain.end));
        let sample = Sample::new(narrow(start), series_end, end, plain.flags, shape);
        self.keep(plain.known, sample, plain.hash);
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
    fn keep(&mut self, known: u32, sample: Sample, hash: u64) {
        if self.last != known {
            if let Some(last) = self.scratch.known.get_mut(self.last as usize) {
                last.next = known;
            }
            self.last = known;
        }
        let id = narrow(self.index.samples.len());
        self.index.samples.push(sample);
        self.index.has_timestamps |= sample.has(Sample::TIMESTAMP);
        self.keep_series(id, sample, hash ^ spread(known));
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
    fn keep_series(&mut self, id: u32, sample: Sample, hash: u64) {
        let body = self.body;
        let key = &body[sample.start as usize..sample.series_end as usize];
        #[allow(clippy::cast_possible_truncation, reason = "the low half is what is kept")]
        let short = (hash ^ (hash >> 32)) as u32;
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
        let hash = self.line_hash(line, start as usize, series_end as usize);
        let sample = Sample::new(start, series_end, end, flags, shape.unwrap_or(0));
        self.keep(known, sample, hash);
        Ok((line.end + 1).min(body.len()))
    }

    /// The hash that the fast path gives a series of the same bytes.
    fn line_hash(&self, line: &Line, start: usize, series_end: usize) -> u64 {
        let body = self.body;
        if line.name.quoted || line.name.span.start as usize != start {
            return absorb(self.seed, &body[start..series_end], self.key);
        }
        if line.labels.is_empty() {
            return self.name_hash(line.name.span.len());
        }
        let mut hash = self.seed;
        let mut segment = line.name.span.end as usize;
        for label in &line.labels {
            hash = absorb(hash, &body[segment..=label.value.end as usize], self.key);
            segment = label.value.end as usize + 1;
        }
        hash
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
            line_start: 0,
            series_len: 0,
            places: 0,
            n_places: 0,
            places_room: 0,
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
        let hash = hash_names(hasher, spans.iter().map(|span| span.of(body)));
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
            .insert_unique(hash, id, |&id| {
                hash_names(hasher, shape_names(index, id).iter().map(|span| span.of(body)))
            });
        spans.sort_unstable_by(|a, b| a.of(body).cmp(b.of(body)));
        let set = hash_names(hasher, spans.iter().map(|span| span.of(body)));
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

fn hash_names<'a>(hasher: &foldhash::quality::RandomState, names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = hasher.build_hasher();
    for name in names {
        hasher.write(name);
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// Takes `bytes` into a running hash: sixteen at a time, multiplied and folded, under a key that nobody knows.
///
/// Hashing piece by piece is what lets a line begin where the one before it ended being equal. A hash decides nothing
/// alone: bytes are compared before a series counts as seen.
#[inline]
fn absorb(hash: u64, bytes: &[u8], key: u64) -> u64 {
    let mut hash = hash ^ (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rest = bytes;
    while let Some((chunk, after)) = rest.split_first_chunk::<16>() {
        let (low, high) = halves(chunk);
        hash = fold(low ^ hash, high ^ key);
        rest = after;
    }
    if rest.is_empty() {
        return fold(hash, key);
    }
    // The last sixteen bytes once more where there are that many, else the rest with zeros.
    let mut last = [0; 16];
    if let Some(chunk) = bytes.last_chunk::<16>() {
        last = *chunk;
    } else {
        last[..rest.len()].copy_from_slice(rest);
    }
    let (low, high) = halves(&last);
    fold(low ^ hash, high ^ key)
}

#[inline]
fn halves(chunk: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*chunk);
    #[allow(clippy::cast_possible_truncation, reason = "the halves of sixteen bytes")]
    let halves = (whole as u64, (whole >> 64) as u64);
    halves
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// How many bytes `a` and `b` begin with in common.
#[inline]
fn common_len(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    for (x, y) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        let x: [u8; 16] = x.try_into().expect("chunks_exact gives sixteen");
        let y: [u8; 16] = y.try_into().expect("chunks_exact gives sixteen");
        let differ = u128::from_le_bytes(x) ^ u128::from_le_bytes(y);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 16;
    }
    let tail = a[len..].iter().zip(&b[len..]).take_while(|(x, y)| x == y).count();
    len + tail
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
#[inline]
fn plain_value_end(body: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += find_special(body.get(at..)?)?;
        match body[at] {
            b'"' => return Some(at),
            b'\\' if matches!(body.get(at + 1), Some(b'\\' | b'"' | b'n')) => at += 2,
            _ => return None,
        }
    }
}

/// The first quote, backslash or line feed. Most values are short: eight bytes at a time cost less than a call.
#[inline]
fn find_special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut at = 0;
    let mut rest = text;
    for _ in 0..4 {
        let Some((chunk, after)) = rest.split_first_chunk::<8>() else {
            break;
        };
        let word = u64::from_le_bytes(*chunk);
        let hits = zero_bytes(word ^ (ONES * u64::from(b'"')))
            | zero_bytes(word ^ (ONES * u64::from(b'\\')))
            | zero_bytes(word ^ (ONES * u64::from(b'\n')));
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
        rest = after;
    }
    memchr::memchr3(b'"', b'\\', b'\n', rest).map(|found| at + found)
}

/// Names and values of plain labels by turns, from after the opening brace; gives the closing one's position.
fn collect_plain(body: &[u8], start: usize, spans: &mut Vec<Span>) -> Option<usize> {
    let mut at = start;
    loop {
        let len = name::label_name_len(body.get(at..)?);
        if len == 0 || !body[at + len..].starts_with(b"=\"") {
            return None;
        }
        spans.push(Span::new(at, at + len));
        let value = at + len + 2;
        at = plain_value_end(body, value)? + 1;
        spans.push(Span::new(value, at - 1));
        match body.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => return Some(at),
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
