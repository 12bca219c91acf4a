//! Bytes to index: one pass over a body (core).
//!
//! The common line (bare names, no slack, labels in an order seen before) is matched against what the line before
//! it looked like, so that a name costs one comparison; every other line goes through [`Line::read`], which is
//! slower and decides what is accepted. Both give the same index.

mod family;
mod scan;

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::line::{Fault, Line, Name, Span};
use super::model::{Ambient, Declaration, Group, Index, Run, Sample, Shape, Suffix};
use super::{Limits, RefusalKind, name, number};
use scan::{
    absorb, collect_plain, common_len, hash_names, is_plain, narrow, odd_series_end, plain_value_end,
    shape_names, spread, token_end,
};

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
            .find(self.hash(decoded), |&id| {
                *known[id as usize].name.decode(self.body) == *decoded
            })
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
            *bound = Some(Span::new(
                start + places[bound_at].start as usize,
                start + places[bound_at].end as usize,
            ));
        }
        let mut segment = if index == 0 {
            entry.name.span.len()
        } else {
            places[index - 1].end as usize + 1
        };
        let mut empty = false;
        while index < places.len() {
            let place = places[index];
            // The name of the label differs, or what stands around it.
            if old < place.start as usize {
                return None;
            }
            let value = at - (old - place.start as usize);
            // A backslash just before the difference may have belonged to an escape.
            let escapes = now[value..at]
                .iter()
                .rev()
                .take_while(|&&byte| byte == b'\\')
                .count();
            let end = plain_value_end(now, at - escapes)?;
            if !self.utf8 && std::str::from_utf8(&now[value..end]).is_err() {
                return None;
            }
            if self.limits.max_label_value_length > 0
                && (end - value) as u64 > self.limits.max_label_value_length
            {
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
        let found = if self.ambient == Ambient::Histogram {
            le
        } else {
            quantile
        };
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
                .find(hash, |&id| {
                    shape_names(index, id)
                        .iter()
                        .map(|span| span.of(body))
                        .eq(names())
                })
                .copied()
        });
        let fits = spans.iter().skip(1).step_by(2).all(|value| {
            let limit = self.limits.max_label_value_length;
            (limit == 0 || value.len() as u64 <= limit)
                && (self.utf8 || std::str::from_utf8(value.of(body)).is_ok())
        });
        let Some((shape, series_end)) = shape.zip(plain).filter(|_| fits) else {
            self.scratch.spans = spans;
            return None;
        };
        let bound_at = self.bound_at(shape);
        let mut hash = self.seed;
        let mut segment = start + name_len;
        let n_labels = spans.len() / 2;
        let Scratch {
            known: all, places, ..
        } = &mut *self.scratch;
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
}

/// A name that no line has been kept for yet; told apart from `NONE`, which is a line without labels.
const FRESH: u32 = u32::MAX - 1;
