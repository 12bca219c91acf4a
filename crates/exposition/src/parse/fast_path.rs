//! The fast path: lines in the plain spelling, compared with the last line of their name (core).

use super::hash::{
    bytes_eq, collect_plain, common_prefix_len, hash_extend, mix32, prefix_eq, same_names, soon_differing,
    to_u32, token_end, value_end,
};
use super::{NONE, Parser, Place, Scratch, or_unlimited};
use crate::index::Sample;
use crate::simd::{self, Lane};
use crate::syntax::sample_line::{Name, Span};
use crate::syntax::{name, number};

/// The identity of a sample in the plain spelling.
struct Series {
    /// `NONE` without labels.
    schema: u32,
    hash: u64,
    /// Bytes up to the closing brace, or of the name.
    len: usize,
}

impl Parser<'_> {
    /// Keeps the sample at `start`, and the ones after it that are like it, and gives the position after them; `None`
    /// for a line that is not plain, which the slow path reads or refuses.
    pub(crate) fn read_plain(&mut self, start: usize) -> Option<usize> {
        let body = self.body;
        let line = &body[start..];
        let (id, series) = match self.follow(start) {
            Some(found) => found,
            None => self.match_series(start)?,
        };
        let (at, mut flags, schema) = match series.schema {
            NONE => (series.len, 0, 0),
            // Past the closing brace.
            schema => (series.len + 1, Sample::LABELS, schema),
        };
        let (end, has_timestamp) = self.read_tail(line, at)?;
        if has_timestamp {
            flags |= Sample::TIMESTAMP;
            self.index.has_timestamps = true;
        }
        if series.schema == NONE {
            // Not before: `a {b="c"} 1` begins like one.
            self.note_bare(id, start);
        }
        let positions = [start, start + series.len, start + end].map(to_u32);
        self.keep(
            id,
            Sample::new(positions[0], positions[1], positions[2], flags, schema),
            series.hash,
        );
        let next = (start + end + 1).min(body.len());
        if self.scratch.known[id as usize].steady {
            return Some(self.read_alike(id, next));
        }
        Some(next)
    }

    /// The series at `start`, compared with the last line of its name where there is one.
    #[inline(always)]
    fn match_series(&mut self, start: usize) -> Option<(u32, Series)> {
        let (id, same) = self.match_name(start)?;
        let name_len = self.scratch.known[id as usize].name_len as usize;
        if self.body.get(start + name_len) != Some(&b'{') {
            let series = Series {
                schema: NONE,
                hash: self.name_hash(name_len),
                len: name_len,
            };
            return Some((id, series));
        }
        let matched = if same > 0 {
            self.match_labels(id, start, same)
        } else {
            None
        };
        let series = match matched {
            Some(series) => series,
            None => self.learn_labels(id, start)?,
        };
        Some((id, series))
    }

    /// The series at `start` where its name is the one that tends to come after the line before, and its labels are
    /// those of that line, or the first of them: sums and counts after their buckets.
    #[inline(always)]
    fn follow(&mut self, start: usize) -> Option<(u32, Series)> {
        let body = self.body;
        let Scratch { known, places, .. } = &mut *self.scratch;
        let last = known.get(self.last as usize)?;
        let id = last.next;
        let next = known.get(id as usize)?;
        if !next.follows
            || next.asked != (self.last, last.schema, next.schema)
            || last.series_len == 0
            || next.series_len == 0
            || self
                .context
                .position()
                .is_some_and(|bound| next.bounds[bound] != NONE)
        {
            return None;
        }
        let line = &body[start..];
        let name_len = next.name_len as usize;
        if !prefix_eq(&body[next.line_start as usize..], line, name_len + 1) {
            return None;
        }
        let n_places = next.n_places as usize;
        let from = last.places as usize;
        let labels_len = (places.get(from + n_places - 1)?.end + 1 - last.name_len) as usize;
        let before = &body[(last.line_start + last.name_len) as usize..];
        let labels = &line[name_len..];
        if !prefix_eq(before, labels, labels_len) || labels.get(labels_len) != Some(&b'}') {
            return None;
        }
        let (to, shift) = (next.places as usize, next.name_len.wrapping_sub(last.name_len));
        let mut has_empty = false;
        for index in 0..n_places {
            let Place { start, end } = places[from + index];
            has_empty |= start == end;
            places[to + index] = Place {
                start: start.wrapping_add(shift),
                end: end.wrapping_add(shift),
            };
        }
        let value = places[to + n_places - 1].start as usize;
        let len = name_len + labels_len;
        let next = &mut known[id as usize];
        next.empty_values |= has_empty;
        next.line_start = to_u32(start);
        next.series_len = to_u32(len);
        next.prefix_hash = hash_extend(self.seed, line, 0, value, self.key);
        let series = Series {
            schema: next.schema,
            hash: hash_extend(next.prefix_hash, line, value, len, self.key),
            len,
        };
        Some((id, series))
    }

    /// Notes whether the labels of a name's lines are the first of those of another's, which came before it.
    pub(crate) fn note_follower(&mut self, last: u32, id: u32) {
        let body = self.body;
        let known = &mut self.scratch.known;
        let (last_schema, schema) = (known[last as usize].schema, known[id as usize].schema);
        let wanted = (last, last_schema, schema);
        let next = &mut known[id as usize];
        // Without places there is nothing yet to follow with.
        if next.asked == wanted || next.n_places == 0 {
            return;
        }
        next.asked = wanted;
        let n_schemas = self.index.schemas.len();
        let are_schemas = (last_schema as usize) < n_schemas && (schema as usize) < n_schemas;
        let fits = are_schemas && {
            let (names, others) = (
                self.index.schema_names(schema as usize),
                self.index.schema_names(last_schema as usize),
            );
            others
                .get(..names.len())
                .is_some_and(|others| same_names(body, names, others))
        };
        next.follows = fits;
    }

    /// The end of the line whose series ends at `at`, and whether it has a timestamp; `None` where it is not plain.
    #[inline(always)]
    fn read_tail(&self, line: &[u8], at: usize) -> Option<(usize, bool)> {
        if *line.get(at)? != b' ' {
            return None;
        }
        let end = match number::value_end(line, at + 1) {
            Some(end) => end,
            None => float_end(line, at + 1)?,
        };
        match line.get(end) {
            Some(b'\n') => Some((end, false)),
            Some(b' ') => self.timestamp_end(line, end).map(|end| (end, true)),
            None if !self.open_metrics => Some((end, false)),
            _ => None,
        }
    }

    /// The end of the timestamp after the blank at `blank`.
    #[inline(never)]
    fn timestamp_end(&self, line: &[u8], blank: usize) -> Option<usize> {
        if self.open_metrics && line[blank..].starts_with(b" # {") {
            // Exemplars are rare, and their rules are many.
            return None;
        }
        let end = token_end(line, blank + 1);
        let token = &line[blank + 1..end];
        let fits = if self.open_metrics {
            number::is_seconds(token)
        } else {
            number::parse_millis(token).is_some()
        };
        let ends = match line.get(end) {
            Some(b'\n') => true,
            None => !self.open_metrics,
            _ => false,
        };
        (fits && ends).then_some(end)
    }

    /// The name at `start`, guessed from the sample before, and how many bytes are as in that name's last line; 0 where
    /// there is none to compare with.
    #[inline(always)]
    fn match_name(&mut self, start: usize) -> Option<(u32, usize)> {
        if let Some(last) = self.scratch.known.get(self.last as usize) {
            let next = last.next;
            if let Some(same) = self.compare(self.last, start) {
                return Some((self.last, same));
            }
            if next != NONE
                && let Some(same) = self.compare(next, start)
            {
                return Some((next, same));
            }
        }
        self.find_name_at(start)
    }

    #[inline(never)]
    fn find_name_at(&mut self, start: usize) -> Option<(u32, usize)> {
        let rest = &self.body[start..];
        let len = name::metric_name_len(rest);
        if len == 0 || len > self.max_value_len || !matches!(rest.get(len), Some(b'{' | b' ')) {
            return None;
        }
        let id = self.know(Name {
            span: Span::new(start, start + len),
            quoted: false,
        });
        match self.compare(id, start) {
            Some(same) => Some((id, same)),
            None if self.scratch.known[id as usize].quoted => None,
            None => Some((id, 0)),
        }
    }

    /// How many bytes at `start` are as in the last line of a name; `None` where it is another name.
    #[inline(always)]
    fn compare(&self, id: u32, start: usize) -> Option<usize> {
        let known = &self.scratch.known[id as usize];
        let (name_len, series_len) = (known.name_len as usize, known.series_len as usize);
        let before = &self.body[known.line_start as usize..];
        let line = &self.body[start..];
        // The brace, or the blank of a series without labels: so that the name is known to end there.
        if series_len == 0 || line.get(name_len) != before.get(name_len) {
            return None;
        }
        let same = common_prefix_len(before, line, series_len + 1);
        (same > name_len).then_some(same.min(series_len))
    }

    /// Remembers a line without labels as the last one of its name.
    fn note_bare(&mut self, id: u32, start: usize) {
        self.note_schema(id, NONE);
        let known = &mut self.scratch.known[id as usize];
        known.line_start = to_u32(start);
        known.series_len = known.name_len;
        known.n_places = 0;
        known.steady = false;
    }

    /// Matches the labels of the line at `start` against the last line of its name, of which `same` bytes are equal, and
    /// remembers it as the last line.
    #[inline(always)]
    fn match_labels(&mut self, id: u32, start: usize, same: usize) -> Option<Series> {
        let body = self.body;
        let Scratch { known, places, .. } = &mut *self.scratch;
        let known = &mut known[id as usize];
        let places = &mut places[known.places as usize..][..known.n_places as usize];
        let line = &body[start..];
        let before = &body[known.line_start as usize..];
        let series_len = known.series_len as usize;
        // Until this line has been matched whole, its places are half the other line's.
        known.series_len = 0;
        // Values before the first difference stay where they are.
        let first = places
            .iter()
            .rposition(|place| (place.end as usize) < same)
            .map_or(0, |last| last + 1);
        // Both lines are equal up to here: `at` in this one, `old` in the one before.
        let (mut at, mut old) = (same, same);
        let mut rest = places[first..].iter_mut();
        while let Some(place) = rest.next() {
            // The name of the label differs, or what stands around it.
            if old < place.start as usize {
                return None;
            }
            let value = at - (old - place.start as usize);
            let end = value_end(body, line, value, at, &mut self.utf8)?;
            if (end - value).wrapping_sub(1) >= self.max_value_len {
                if end > value {
                    return None;
                }
                known.empty_values = true;
            }
            at = end + 1;
            old = place.end as usize + 1;
            *place = Place {
                start: to_u32(value),
                end: to_u32(end),
            };
            if rest.as_slice().is_empty() {
                break;
            }
            let more = soon_differing(before.get(old..)?, line.get(at..)?, series_len);
            at += more;
            old += more;
            // Values that are equal but stand elsewhere.
            while let Some(next) = rest.as_slice().first()
                && (next.end as usize) < old
                && let Some(place) = rest.next()
            {
                *place = Place {
                    start: to_u32(at - (old - place.start as usize)),
                    end: to_u32(at - (old - place.end as usize)),
                };
            }
        }
        let &[ref others @ .., last] = &*places else {
            return None;
        };
        let (value, len) = (last.start as usize, last.end as usize + 1);
        // All values are matched; the brace must follow.
        if line.get(len) != Some(&b'}') {
            return None;
        }
        if first < others.len() {
            known.prefix_hash = hash_extend(self.seed, line, 0, value, self.key);
        } else {
            known.steady = true;
        }
        let hash = hash_extend(known.prefix_hash, line, value, len, self.key);
        known.line_start = to_u32(start);
        known.series_len = to_u32(len);
        if let Some(bound) = self.context.position()
            && let Some(place) = places.get(known.bounds[bound] as usize)
            && (known.bounds[bound] as usize >= first || known.noted != self.context)
        {
            known.noted = self.context;
            let text = &line[place.start as usize..];
            let value_len = (place.end - place.start) as usize;
            self.bounds
                .add(text, value_len, known.group, 0, &mut self.index.families);
        }
        Some(Series {
            schema: known.schema,
            hash,
            len,
        })
    }

    /// Keeps the lines at `start` that differ from the last line of their name in the last label's value only (the
    /// buckets of one histogram, say), and gives the position after them.
    #[inline(never)]
    fn read_alike(&mut self, id: u32, start: usize) -> usize {
        let body = self.body;
        let Scratch {
            known,
            places,
            duplicates,
            ..
        } = &mut *self.scratch;
        let known = &mut known[id as usize];
        let places = &mut places[known.places as usize..][..known.n_places as usize];
        let Some((last, others)) = places.split_last_mut() else {
            return start;
        };
        let value = last.start as usize;
        let before = &body[known.line_start as usize..];
        let is_bound = self
            .context
            .position()
            .is_some_and(|bound| known.bounds[bound] as usize == others.len());
        let (group, schema, salt, prefix_hash) = (known.group, known.schema, mix32(id), known.prefix_hash);
        if self.endings.owner != (id, is_bound) {
            self.endings = Endings {
                owner: (id, is_bound),
                ..Endings::default()
            };
        }
        let mut at = start;
        let mut found = None;
        let mut n_lines = 0;
        while self.index.samples.len() < self.max_samples {
            let line = &body[at..];
            if !prefix_eq(before, line, value) {
                break;
            }
            let text = &line[value..];
            let Some(block) = text.first_chunk() else {
                break;
            };
            n_lines += 1;
            let ending = &mut self.endings.seen[n_lines % N_ENDINGS];
            if ending.len == 0 || simd::differing(block, &ending.block) & ending.mask != 0 {
                let Some(new) = Ending::of(block, self.max_value_len) else {
                    break;
                };
                *ending = new;
                if is_bound {
                    let len = new.len as usize;
                    self.bounds
                        .add(text, len, group, n_lines, &mut self.index.families);
                }
            }
            let len = ending.len as usize;
            let Some(end) = number_end(text, len + 3) else {
                break;
            };
            let quote = value + len;
            let hash = hash_extend(prefix_hash, line, value, quote + 1, self.key);
            let [start, series_end, end] = [at, at + quote + 1, at + value + end].map(to_u32);
            self.index
                .samples
                .push(Sample::new(start, series_end, end, Sample::LABELS, schema));
            duplicates.push(hash ^ salt);
            found = Some((start, quote));
            at = end as usize + 1;
        }
        if let Some((start, quote)) = found {
            known.line_start = start;
            known.series_len = to_u32(quote + 1);
            last.end = to_u32(quote);
        }
        known.steady = found.is_some();
        at
    }

    /// Reads the labels of a line in the plain spelling without a line to compare with, and remembers it as one.
    #[inline(never)]
    fn learn_labels(&mut self, id: u32, start: usize) -> Option<Series> {
        let mut names = std::mem::take(&mut self.scratch.spans);
        let mut values = std::mem::take(&mut self.scratch.values);
        names.clear();
        values.clear();
        let name_len = self.scratch.known[id as usize].name_len as usize;
        let inside = start + name_len + 1;
        let series = collect_plain(self.body, inside, &mut names, &mut values, &mut self.utf8)
            .filter(|_| values.iter().all(|value| value.len() <= self.max_value_len))
            .and_then(|end| {
                let schema = if let Some(schema) = self.find_schema(&names) {
                    schema
                } else {
                    // Not for a line that is not plain after all.
                    self.read_tail(&self.body[start..], end + 1 - start)?;
                    if !self.is_sound(&names) {
                        return None;
                    }
                    self.add_schema(&mut names)?
                };
                Some(self.remember(id, schema, start, &values, end - start))
            });
        self.scratch.spans = names;
        self.scratch.values = values;
        series
    }

    /// Whether a sample may have these label names. The slow path knows why not.
    fn is_sound(&self, names: &[Span]) -> bool {
        let body = self.body;
        let max_name_len = or_unlimited(self.limits.max_label_name_length);
        let is_new = |(index, name): (usize, &Span)| {
            name.len() <= max_name_len
                && name.of(body) != b"__name__"
                && !names[..index]
                    .iter()
                    .any(|other| bytes_eq(other.of(body), name.of(body)))
        };
        // Longer sets would take time that grows with their square.
        names.len() <= or_unlimited(self.limits.max_labels).min(64) && names.iter().enumerate().all(is_new)
    }

    /// Makes the line at `start` the last one of its name; its series ends after `len` bytes.
    fn remember(&mut self, id: u32, schema: u32, start: usize, values: &[Span], len: usize) -> Series {
        self.note_schema(id, schema);
        let line = &self.body[start..];
        let Scratch { known, places, .. } = &mut *self.scratch;
        let known = &mut known[id as usize];
        if (known.places_room as usize) < values.len() {
            known.places = to_u32(places.len());
            known.places_room = to_u32(values.len());
            places.resize(places.len() + values.len(), Place::default());
        }
        known.n_places = to_u32(values.len());
        for (place, value) in places[known.places as usize..].iter_mut().zip(values) {
            *place = Place {
                start: value.start - to_u32(start),
                end: value.end - to_u32(start),
            };
            known.empty_values |= value.is_empty();
        }
        let value = values.last().map_or(0, |value| value.start as usize - start);
        known.prefix_hash = hash_extend(self.seed, line, 0, value, self.key);
        known.line_start = to_u32(start);
        known.series_len = to_u32(len);
        known.noted = self.context;
        known.steady = true;
        if let Some(bound) = self.context.position()
            && let Some(value) = values.get(known.bounds[bound] as usize)
        {
            let text = &self.body[value.start as usize..];
            self.bounds
                .add(text, value.len(), known.group, 0, &mut self.index.families);
        }
        Series {
            schema,
            hash: hash_extend(known.prefix_hash, line, value, len, self.key),
            len,
        }
    }
}

/// How a line goes on from its last value: the value, `"} `.
#[derive(Debug, Clone, Copy, Default)]
struct Ending {
    block: Lane,
    /// The bytes of it that count.
    mask: u32,
    /// Bytes of the value, not 0.
    len: u32,
}

const N_ENDINGS: usize = 16;

/// Endings that one name's lines had, by their place in a group of lines alike: the bounds of one histogram are those
/// of the next.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    /// The name, and whether its bounds were taken note of.
    owner: (u32, bool),
    seen: [Ending; N_ENDINGS],
}

impl Ending {
    /// The ending that a block begins with. Empty values, long ones and such with escapes need a closer look.
    #[inline(always)]
    fn of(block: &Lane, max_len: usize) -> Option<Self> {
        let specials = simd::specials(block);
        let len = specials.trailing_zeros();
        let fits =
            (1..=13).contains(&len) && len as usize <= max_len && block[len as usize..].starts_with(b"\"} ");
        fits.then(|| Self {
            block: *block,
            mask: (1 << (len + 3)) - 1,
            len,
        })
    }
}

/// The end of the number at `at`, which must be that of the line.
#[inline(always)]
fn number_end(text: &[u8], at: usize) -> Option<usize> {
    if let Some(len) = number::line_value_len(simd::at(text, at)?) {
        return Some(at + len);
    }
    number::value_end(text, at).filter(|end| text.get(*end) == Some(&b'\n'))
}

#[inline(never)]
fn float_end(line: &[u8], at: usize) -> Option<usize> {
    let end = token_end(line, at);
    number::is_float(&line[at..end]).then_some(end)
}
