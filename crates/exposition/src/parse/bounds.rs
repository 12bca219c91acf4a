//! How the bounds of a histogram or summary are spelled.
//!
//! Prometheus 3 stores `le="1"` as `le="1.0"`. The merge has to know which spellings occur in a source family, to see
//! series that become equal. The same few bounds follow each other in each metric of a family, so that remembering them by
//! position answers almost always.

use crate::index::SourceFamily;
use crate::syntax::number;
use crate::types::{FamilyId, Table};

/// The number of remembered bounds: most histograms have fewer buckets.
const N_BOUNDS: usize = 32;

/// Bounds of one source family that were looked at already.
#[derive(Debug, Default)]
pub(super) struct BoundSpellings {
    family: Option<FamilyId>,
    /// Bounds of up to seven bytes with their closing quote, as a little-endian word, by their position in the metric.
    seen: [u64; N_BOUNDS],
}

impl BoundSpellings {
    /// Notes in the family how the bound is spelled that `text` begins with.
    #[inline(always)]
    pub(super) fn add(
        &mut self,
        text: &[u8],
        len: usize,
        family: FamilyId,
        position: usize,
        families: &mut Table<FamilyId, SourceFamily>,
    ) {
        /// The mask for the first `n + 1` bytes of a word.
        const FIRST_BYTES: [u64; 8] = {
            let mut masks = [0; 8];
            let mut n = 0;
            while n < 8 {
                masks[n] = u64::MAX >> (56 - 8 * n);
                n += 1;
            }
            masks
        };
        if self.family != Some(family) {
            *self = Self {
                family: Some(family),
                ..Self::default()
            };
        }
        if let (Some(mask), Some(word)) = (FIRST_BYTES.get(len), text.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word) & mask;
            let seen = &mut self.seen[position % N_BOUNDS];
            if *seen == word {
                return;
            }
            *seen = word;
        }
        families[family].notes |= classify(&text[..len]);
    }
}

#[inline(never)]
fn classify(value: &[u8]) -> u8 {
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
