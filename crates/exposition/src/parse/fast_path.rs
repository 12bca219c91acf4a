//! The fast path: canonical lines, compared with the previous line of their name.

use super::hash::hash_extend;
use super::names::{Scratch, ValueOffsets};
use super::scan::{bytes_eq, collect_labels, to_u32, token_end, value_end};
use super::{Parser, or_unlimited};
use crate::index::{Sample, TableRange};
use crate::simd::{common_prefix_len, short_common_prefix_len};
use crate::syntax::sample_line::{Name, Span};
use crate::syntax::{name, number};
use crate::types::{Id as _, SampleNameId, SchemaId};

/// The series of a canonical line.
pub(super) struct Series {
    /// `None` without labels.
    pub(super) schema: Option<SchemaId>,
    pub(super) hash: u64,
    /// The bytes of the line up to the closing brace, or up to the end of the name.
    pub(super) len: usize,
}

/// How the rest of a line ends.
struct Tail {
    end: usize,
    has_timestamp: bool,
}

/// A sample name, and how many bytes of the line are as in the previous line of that name.
struct MatchedName {
    id: SampleNameId,
    /// 0 where there is no line to compare with.
    n_equal: usize,
}

impl Parser<'_> {
    /// Adds the sample at `start`, and the following ones that differ from it in their last label only. Returns the position
    /// after them, or `None` for a line that is not canonical, which the slow path parses or rejects.
    pub(super) fn parse_canonical(&mut self, start: usize) -> Option<usize> {
        let body = self.body;
        let line = &body[start..];
        let (id, series) = match self.follow(start) {
            Some(found) => found,
            None => self.match_series(start)?,
        };
        // A series with labels ends before its closing brace.
        let (at, mut flags) = match series.schema {
            None => (series.len, 0),
            Some(_) => (series.len + 1, Sample::LABELS),
        };
        let tail = self.parse_tail(line, at)?;
        if tail.has_timestamp {
            flags |= Sample::TIMESTAMP;
            self.index.has_timestamps = true;
        }
        if series.schema.is_none() {
            // Only now: `a {b="c"} 1` begins like a line without labels, but has no value at this place.
            self.note_unlabelled(id, start);
        }
        let [line_start, series_end, end] = [start, start + series.len, start + tail.end].map(to_u32);
        let sample = Sample::new(line_start, series_end, end, flags, series.schema);
        self.push_sample(id, sample, series.hash);
        let next = (start + tail.end + 1).min(body.len());
        if self.scratch.sample_names[id].in_loop {
            return Some(self.parse_alike(id, next));
        }
        Some(next)
    }

    /// The series at `start`, compared with the previous line of its name where there is one.
    #[inline(always)]
    fn match_series(&mut self, start: usize) -> Option<(SampleNameId, Series)> {
        let MatchedName { id, n_equal } = self.match_name(start)?;
        let name_len = self.scratch.sample_names[id].name_len as usize;
        if self.body.get(start + name_len) != Some(&b'{') {
            let series = Series {
                schema: None,
                hash: self.unlabelled_hash(name_len),
                len: name_len,
            };
            return Some((id, series));
        }
        let matched = if n_equal > 0 {
            self.match_labels(id, start, n_equal)
        } else {
            None
        };
        let series = match matched {
            Some(series) => series,
            None => self.learn_labels(id, start)?,
        };
        Some((id, series))
    }

    /// The end of the line whose series ends at `at`; `None` where what follows is not canonical.
    #[inline(always)]
    fn parse_tail(&self, line: &[u8], at: usize) -> Option<Tail> {
        if *line.get(at)? != b' ' {
            return None;
        }
        let end = match number::value_end(line, at + 1) {
            Some(end) => end,
            None => float_end(line, at + 1)?,
        };
        let value_only = Some(Tail {
            end,
            has_timestamp: false,
        });
        match line.get(end) {
            Some(b'\n') => value_only,
            Some(b' ') => self.timestamp_end(line, end).map(|end| Tail {
                end,
                has_timestamp: true,
            }),
            None if !self.open_metrics => value_only,
            _ => None,
        }
    }

    /// The end of the timestamp after the blank at `blank`.
    #[inline(never)]
    fn timestamp_end(&self, line: &[u8], blank: usize) -> Option<usize> {
        if self.open_metrics && line[blank..].starts_with(b" # {") {
            // Exemplars are rare and have many rules: the slow path parses them.
            return None;
        }
        let end = token_end(line, blank + 1);
        let token = &line[blank + 1..end];
        let is_timestamp = if self.open_metrics {
            number::is_seconds(token)
        } else {
            number::parse_millis(token).is_some()
        };
        let is_last = match line.get(end) {
            Some(b'\n') => true,
            None => !self.open_metrics,
            _ => false,
        };
        (is_timestamp && is_last).then_some(end)
    }

    /// The name at `start`: that of the previous sample, or the one that came after it last time, or found by its text.
    #[inline(always)]
    fn match_name(&mut self, start: usize) -> Option<MatchedName> {
        if let Some(previous) = self.previous {
            let next = self.scratch.sample_names[previous].next;
            if let Some(found) = self.compare(previous, start) {
                return Some(found);
            }
            if let Some(found) = next.and_then(|next| self.compare(next, start)) {
                return Some(found);
            }
        }
        self.find_name_at(start)
    }

    #[inline(never)]
    fn find_name_at(&mut self, start: usize) -> Option<MatchedName> {
        let rest = &self.body[start..];
        let len = name::metric_name_len(rest);
        if len == 0 || len > self.max_value_len || !matches!(rest.get(len), Some(b'{' | b' ')) {
            return None;
        }
        let id = self.sample_name_id(Name {
            span: Span::new(start, start + len),
            quoted: false,
        });
        match self.compare(id, start) {
            Some(found) => Some(found),
            None if self.scratch.sample_names[id].quoted => None,
            None => Some(MatchedName { id, n_equal: 0 }),
        }
    }

    /// Compares the line at `start` with the previous line of a name; `None` where it has another name.
    #[inline(always)]
    fn compare(&self, id: SampleNameId, start: usize) -> Option<MatchedName> {
        let entry = &self.scratch.sample_names[id];
        let (name_len, series_len) = (entry.name_len as usize, entry.series_len as usize);
        let before = &self.body[entry.line_start as usize..];
        let line = &self.body[start..];
        // The byte after the name, a brace or a blank, must be the same, so that the name is known to end there.
        if series_len == 0 || line.get(name_len) != before.get(name_len) {
            return None;
        }
        let n_equal = common_prefix_len(before, line, series_len + 1);
        (n_equal > name_len).then_some(MatchedName {
            id,
            n_equal: n_equal.min(series_len),
        })
    }

    /// Makes a line without labels the previous line of its name.
    fn note_unlabelled(&mut self, id: SampleNameId, start: usize) {
        self.note_schema(id, None);
        let entry = &mut self.scratch.sample_names[id];
        entry.line_start = to_u32(start);
        entry.series_len = entry.name_len;
        entry.n_values = 0;
        entry.in_loop = false;
    }

    /// Matches the labels of the line at `start` against the previous line of its name, with which it shares its first
    /// `n_equal` bytes, and makes it the previous line. `None` where the label names differ or a value is not canonical.
    ///
    /// Only what differs is looked at. For example:
    ///
    /// ```text
    /// before  http_requests_total{method="GET",code="200"} 12
    /// line    http_requests_total{method="GET",code="404"} 3
    ///         |<------------- n_equal = 39 ---------->|
    ///                                     ^^^         `old` in `before` and `at` in `line`
    ///                                     first = 1: values before it end inside the equal bytes
    /// ```
    ///
    /// The values before `first` (here `method`) keep their offsets and are not looked at again. The value `first` (`code`)
    /// contains the first difference, so that its end is searched in `line`. Behind a changed value the lines are equal for
    /// a while again (`",path="/api`), at another offset if the value has another length: `at` and `old` advance together
    /// through the equal bytes, and values that lie inside of them are only shifted. Then the next difference follows, and
    /// so on, until the last value has ended. The closing brace must follow.
    ///
    /// While offsets are half updated, `series_len` is 0, which says that there is no previous line. So an early return
    /// never leaves a wrong one.
    #[inline(always)]
    fn match_labels(&mut self, id: SampleNameId, start: usize, n_equal: usize) -> Option<Series> {
        let body = self.body;
        let Scratch {
            sample_names, values, ..
        } = &mut *self.scratch;
        let entry = &mut sample_names[id];
        let values = &mut values[entry.values.start as usize..][..entry.n_values as usize];
        let line = &body[start..];
        let before = &body[entry.line_start as usize..];
        let series_len = entry.series_len as usize;
        entry.series_len = 0;
        let first = values
            .iter()
            .rposition(|value| (value.end as usize) < n_equal)
            .map_or(0, |last| last + 1);
        let (mut at, mut old) = (n_equal, n_equal);
        let mut rest = values[first..].iter_mut();
        while let Some(offsets) = rest.next() {
            // The difference is before the value: the name of the label differs, or what stands around it.
            if old < offsets.start as usize {
                return None;
            }
            let value = at - (old - offsets.start as usize);
            let end = value_end(body, line, value, at, &mut self.utf8)?;
            // One comparison for the two rare cases: an empty value wraps to the largest number.
            if (end - value).wrapping_sub(1) >= self.max_value_len {
                if end > value {
                    return None;
                }
                entry.has_empty_values = true;
            }
            at = end + 1;
            old = offsets.end as usize + 1;
            *offsets = ValueOffsets {
                start: to_u32(value),
                end: to_u32(end),
            };
            if rest.as_slice().is_empty() {
                break;
            }
            let more = short_common_prefix_len(before.get(old..)?, line.get(at..)?, series_len);
            at += more;
            old += more;
            // Values that are equal but may stand at another offset.
            while let Some(next) = rest.as_slice().first()
                && (next.end as usize) < old
                && let Some(offsets) = rest.next()
            {
                *offsets = ValueOffsets {
                    start: to_u32(at - (old - offsets.start as usize)),
                    end: to_u32(at - (old - offsets.end as usize)),
                };
            }
        }
        let &[ref others @ .., last] = &*values else {
            return None;
        };
        let (value, len) = (last.start as usize, last.end as usize + 1);
        if line.get(len) != Some(&b'}') {
            return None;
        }
        if first < others.len() {
            entry.prefix_hash = hash_extend(self.seed, line, 0, value, self.key);
        } else {
            entry.in_loop = true;
        }
        let hash = hash_extend(entry.prefix_hash, line, value, len, self.key);
        entry.line_start = to_u32(start);
        entry.series_len = to_u32(len);
        if let Some(bound) = entry.bounds.of(self.context)
            && let Some(offsets) = values.get(bound.index())
            && (bound.index() >= first || entry.bounds_context != self.context)
        {
            entry.bounds_context = self.context;
            let text = &line[offsets.start as usize..];
            let value_len = (offsets.end - offsets.start) as usize;
            self.bounds
                .add(text, value_len, entry.family, 0, &mut self.index.families);
        }
        Some(Series {
            schema: entry.schema,
            hash,
            len,
        })
    }

    /// Parses the labels of a canonical line without a line to compare with, and makes it the previous line of its name.
    #[inline(never)]
    fn learn_labels(&mut self, id: SampleNameId, start: usize) -> Option<Series> {
        let mut names = std::mem::take(&mut self.scratch.name_spans);
        let mut values = std::mem::take(&mut self.scratch.value_spans);
        names.clear();
        values.clear();
        let name_len = self.scratch.sample_names[id].name_len as usize;
        let inside = start + name_len + 1;
        let series = collect_labels(self.body, inside, &mut names, &mut values, &mut self.utf8)
            .filter(|_| values.iter().all(|value| value.len() <= self.max_value_len))
            .and_then(|end| {
                let schema = if let Some(schema) = self.find_schema(&names) {
                    schema
                } else {
                    // A line that turns out not to be canonical must not leave a schema behind.
                    self.parse_tail(&self.body[start..], end + 1 - start)?;
                    if !self.are_valid_label_names(&names) {
                        return None;
                    }
                    self.add_schema(&mut names)?
                };
                Some(self.note_labelled(id, schema, start, &values, end - start))
            });
        self.scratch.name_spans = names;
        self.scratch.value_spans = values;
        series
    }

    /// Whether a sample may have these label names. The slow path says why not.
    fn are_valid_label_names(&self, names: &[Span]) -> bool {
        let body = self.body;
        let max_name_len = or_unlimited(self.limits.max_label_name_length);
        let is_valid = |(index, name): (usize, &Span)| {
            name.len() <= max_name_len
                && name.of(body) != b"__name__"
                && !names[..index]
                    .iter()
                    .any(|other| bytes_eq(other.of(body), name.of(body)))
        };
        // The time for more names would grow with their square.
        names.len() <= or_unlimited(self.limits.max_labels).min(64) && names.iter().enumerate().all(is_valid)
    }

    /// Makes the line at `start`, whose series has `len` bytes, the previous line of its name.
    fn note_labelled(
        &mut self,
        id: SampleNameId,
        schema: SchemaId,
        start: usize,
        spans: &[Span],
        len: usize,
    ) -> Series {
        self.note_schema(id, Some(schema));
        let line = &self.body[start..];
        let Scratch {
            sample_names, values, ..
        } = &mut *self.scratch;
        let entry = &mut sample_names[id];
        if (entry.values.len() as usize) < spans.len() {
            let from = values.len();
            values.resize(from + spans.len(), ValueOffsets::default());
            entry.values = TableRange {
                start: to_u32(from),
                end: to_u32(values.len()),
            };
        }
        entry.n_values = to_u32(spans.len());
        for (offsets, span) in values[entry.values.start as usize..].iter_mut().zip(spans) {
            *offsets = ValueOffsets {
                start: span.start - to_u32(start),
                end: span.end - to_u32(start),
            };
            entry.has_empty_values |= span.is_empty();
        }
        let value = spans.last().map_or(0, |span| span.start as usize - start);
        entry.prefix_hash = hash_extend(self.seed, line, 0, value, self.key);
        entry.line_start = to_u32(start);
        entry.series_len = to_u32(len);
        entry.bounds_context = self.context;
        entry.in_loop = true;
        if let Some(bound) = entry.bounds.of(self.context)
            && let Some(span) = spans.get(bound.index())
        {
            let text = &self.body[span.start as usize..];
            self.bounds
                .add(text, span.len(), entry.family, 0, &mut self.index.families);
        }
        Series {
            schema: Some(schema),
            hash: hash_extend(entry.prefix_hash, line, value, len, self.key),
            len,
        }
    }
}

#[inline(never)]
fn float_end(line: &[u8], at: usize) -> Option<usize> {
    let end = token_end(line, at);
    number::is_float(&line[at..end]).then_some(end)
}
