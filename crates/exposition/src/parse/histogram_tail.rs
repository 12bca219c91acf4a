//! `_sum` and `_count` after their buckets.
//!
//! A histogram with many label sets is mostly buckets, and after each group of them come two lines whose labels are those of
//! the buckets without `le`:
//!
//! ```text
//! h_bucket{path="/a",le="+Inf"} 9
//! h_sum{path="/a"} 1.5
//! h_count{path="/a"} 9
//! ```
//!
//! The previous line of their own name is the one of the group before (`path="/z"`), and so a bad line to compare with. The
//! line just before is a good one.

use super::Parser;
use super::fast_path::Series;
use super::hash::hash_extend;
use super::names::{FollowerKey, Scratch, ValueOffsets};
use super::scan::{names_eq, to_u32};
use crate::simd::prefix_eq;
use crate::types::SampleNameId;

impl Parser<'_> {
    /// The series at `start` where its name is the one that came after the previous sample's name last time, and its labels
    /// are those of the previous sample, or the first of them.
    ///
    /// ```text
    /// before  h_bucket{path="/a",le="+Inf"} 9        the previous sample, of the name `previous`
    /// line    h_sum{path="/a"} 1.5                   the series at `start`, of the name `next`
    ///              |<--------->|                     labels_len: `{path="/a"`, equal in both
    ///                          }                     must follow in `line`
    /// ```
    ///
    /// The offsets of the values are those in `before`, shifted by the difference of the lengths of the names, which may be
    /// negative (`wrapping_sub`).
    #[inline(always)]
    pub(super) fn follow(&mut self, start: usize) -> Option<(SampleNameId, Series)> {
        let body = self.body;
        let Scratch {
            sample_names, values, ..
        } = &mut *self.scratch;
        let previous_id = self.previous?;
        let previous = &sample_names[previous_id];
        let id = previous.next?;
        let next = &sample_names[id];
        let key = FollowerKey {
            before: previous_id,
            before_schema: previous.schema,
            schema: next.schema,
        };
        if !next.follows
            || next.follower_key != Some(key)
            || previous.series_len == 0
            || next.series_len == 0
            // The bound would have to be noted.
            || next.bounds.of(self.context).is_some()
        {
            return None;
        }
        let line = &body[start..];
        let name_len = next.name_len as usize;
        // The name, and the brace after it.
        if !prefix_eq(&body[next.line_start as usize..], line, name_len + 1) {
            return None;
        }
        let n_values = next.n_values as usize;
        let from = previous.values.start as usize;
        let labels_len = (values.get(from + n_values - 1)?.end + 1 - previous.name_len) as usize;
        let before = &body[(previous.line_start + previous.name_len) as usize..];
        let labels = &line[name_len..];
        if !prefix_eq(before, labels, labels_len) || labels.get(labels_len) != Some(&b'}') {
            return None;
        }
        let to = next.values.start as usize;
        let shift = next.name_len.wrapping_sub(previous.name_len);
        let mut has_empty = false;
        for position in 0..n_values {
            let ValueOffsets { start, end } = values[from + position];
            has_empty |= start == end;
            values[to + position] = ValueOffsets {
                start: start.wrapping_add(shift),
                end: end.wrapping_add(shift),
            };
        }
        let value = values[to + n_values - 1].start as usize;
        let len = name_len + labels_len;
        let next = &mut sample_names[id];
        next.has_empty_values |= has_empty;
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

    /// Notes whether the label names of `id` are the first of those of `before`, the name of the sample before.
    pub(super) fn note_follower(&mut self, before: SampleNameId, id: SampleNameId) {
        let body = self.body;
        let sample_names = &mut self.scratch.sample_names;
        let before_schema = sample_names[before].schema;
        let next = &mut sample_names[id];
        let key = FollowerKey {
            before,
            before_schema,
            schema: next.schema,
        };
        // Without values there is no line yet to follow with.
        if next.follower_key == Some(key) || next.n_values == 0 {
            return;
        }
        next.follower_key = Some(key);
        next.follows = match (before_schema, next.schema) {
            (Some(before_schema), Some(schema)) => {
                let names = self.index.schema_names(schema);
                self.index
                    .schema_names(before_schema)
                    .get(..names.len())
                    .is_some_and(|first| names_eq(body, names, first))
            }
            _ => false,
        };
    }
}
