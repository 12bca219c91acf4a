//! Lines that differ from the previous line of their name in the last label's value only, as the buckets of a histogram do.

use super::Parser;
use super::hash::{hash_extend, mix32};
use super::names::Scratch;
use super::scan::to_u32;
use crate::index::Sample;
use crate::simd::{self, Lane, prefix_eq};
use crate::syntax::number;
use crate::types::{Id as _, SampleNameId};

/// How a line goes on from its last value: the value and `"} `, for example `0.25"} `.
#[derive(Debug, Clone, Copy, Default)]
struct Ending {
    lane: Lane,
    /// The bytes of the lane that count.
    mask: u32,
    /// The bytes of the value; 0 where no ending is remembered.
    len: u32,
}

const N_ENDINGS: usize = 16;

/// The endings of one name's lines by their position in a group of alike lines. The buckets of one metric have the bounds of
/// the previous metric's, so that one comparison with the remembered ending replaces the search for the end of the value.
#[derive(Debug, Default)]
pub(super) struct Endings {
    owner: Option<EndingsOwner>,
    seen: [Ending; N_ENDINGS],
}

/// Whose endings are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EndingsOwner {
    name: SampleNameId,
    /// The last label is one that Prometheus 3 normalizes, and each remembered ending was noted as such.
    is_bound: bool,
}

impl Ending {
    /// The ending that a lane begins with. Empty values, long ones, and those with escapes are left to the other paths.
    #[inline(always)]
    fn of(lane: &Lane, max_len: usize) -> Option<Self> {
        let len = simd::specials(lane).trailing_zeros();
        let is_ending =
            (1..=13).contains(&len) && len as usize <= max_len && lane[len as usize..].starts_with(b"\"} ");
        is_ending.then(|| Self {
            lane: *lane,
            mask: (1 << (len + 3)) - 1,
            len,
        })
    }
}

impl Parser<'_> {
    /// Adds the lines at `start` that differ from the previous line of their name in the last label's value only, and returns
    /// the position after them.
    ///
    /// ```text
    /// before  h_bucket{path="/a",le="0.1"} 3
    /// line    h_bucket{path="/a",le="0.25"} 8
    ///         |<------- value -------->|            equal to `before`, one comparison
    ///                                   0.25"}      `Ending`, one comparison with the remembered one
    ///                                         8\n   the number
    /// ```
    #[inline(never)]
    pub(super) fn parse_alike(&mut self, id: SampleNameId, start: usize) -> usize {
        let body = self.body;
        let Scratch {
            sample_names,
            values,
            duplicates,
            ..
        } = &mut *self.scratch;
        let entry = &mut sample_names[id];
        let values = &mut values[entry.values.start as usize..][..entry.n_values as usize];
        let Some((last, others)) = values.split_last_mut() else {
            return start;
        };
        let value = last.start as usize;
        let before = &body[entry.line_start as usize..];
        let position = entry.bounds.of(self.context);
        let is_bound = position.is_some_and(|position| position.index() == others.len());
        let owner = Some(EndingsOwner { name: id, is_bound });
        if self.endings.owner != owner {
            self.endings = Endings {
                owner,
                ..Endings::default()
            };
        }
        let (family, schema, prefix_hash) = (entry.family, entry.schema, entry.prefix_hash);
        let name_hash = mix32(id.bits());
        let mut at = start;
        let mut found = None;
        let mut n_lines = 0;
        // The meter must be asked in between, however many lines are alike.
        while self.index.samples.len() < self.max_samples && at < self.next_check {
            let line = &body[at..];
            if !prefix_eq(before, line, value) {
                break;
            }
            let text = &line[value..];
            let Some(chunk) = text.first_chunk() else {
                break;
            };
            n_lines += 1;
            let ending = &mut self.endings.seen[n_lines % N_ENDINGS];
            if ending.len == 0 || simd::differing(chunk, &ending.lane) & ending.mask != 0 {
                let Some(new) = Ending::of(chunk, self.max_value_len) else {
                    break;
                };
                *ending = new;
                if is_bound {
                    let len = new.len as usize;
                    self.bounds
                        .add(text, len, family, n_lines, &mut self.index.families);
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
            duplicates.push(hash ^ name_hash);
            found = Some((start, quote));
            at = end as usize + 1;
        }
        if let Some((start, quote)) = found {
            entry.line_start = start;
            entry.series_len = to_u32(quote + 1);
            last.end = to_u32(quote);
        }
        entry.in_loop = found.is_some();
        at
    }
}

/// The end of the number at `at`, if a line feed follows it.
#[inline(always)]
fn number_end(text: &[u8], at: usize) -> Option<usize> {
    if let Some(len) = number::line_value_len(simd::at(text, at)?) {
        return Some(at + len);
    }
    number::value_end(text, at).filter(|end| text.get(*end) == Some(&b'\n'))
}
