//! Duplicates within one body: series that occur more than once, spelled alike.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::scan::to_u32;
use crate::index::{Index, Sample};

/// The hashes of the series of one body, which are compared when the whole body has been parsed.
///
/// Almost no body has duplicates, so that the work is to be sure of that. The hashes go through a Bloom filter first, which
/// fits into the processor's nearest caches where a table of all series does not. Only where the filter has seen a hash
/// before (in one body of five of the usual size this is a false positive) is a second pass made, which compares bytes.
///
/// Source: Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom filters" (2007): all bits of one hash in one
/// word.
#[derive(Debug, Default)]
pub(super) struct DuplicateFilter {
    /// The hash of each sample's series.
    hashes: Vec<u64>,
    filter: Vec<u64>,
    /// Hashes that the filter had seen before.
    suspects: Vec<u64>,
    /// The first sample of each suspected series, as positions in [`Index::samples`].
    firsts: HashTable<u32>,
}

impl DuplicateFilter {
    /// Bytes of memory that it takes.
    pub(super) fn n_bytes(&self) -> usize {
        let hashes = self.hashes.capacity() + self.filter.capacity() + self.suspects.capacity();
        hashes * size_of::<u64>() + self.firsts.allocation_size()
    }

    /// Bytes of what is in it at most, once the body has been parsed.
    pub(super) fn n_used_bytes(&self) -> usize {
        // A hash, its four bytes in the filter, and room for a suspect.
        self.hashes.len() * (size_of::<u64>() + 4)
    }

    pub(super) fn clear(&mut self) {
        self.hashes.clear();
        self.firsts.clear();
    }

    /// Adds the series of the next sample.
    #[inline]
    pub(super) fn push(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// Marks the samples whose series occurred before. Where one of them has a timestamp it only marks the body as uncertain:
    /// whether both are one sample depends on the resolution of the output format.
    pub(super) fn mark(&mut self, body: &[u8], index: &mut Index) {
        let Self {
            hashes,
            filter,
            suspects,
            firsts,
        } = self;
        suspects.clear();
        reset(filter, hashes.len());
        let last_word = filter.len() - 1;
        for &hash in &*hashes {
            let (word, bits) = bits_of(hash, last_word);
            if filter[word] & bits == bits {
                suspects.push(hash);
            }
            filter[word] |= bits;
        }
        if suspects.is_empty() {
            return;
        }
        reset(filter, suspects.len());
        let last_word = filter.len() - 1;
        for &hash in &*suspects {
            let (word, bits) = bits_of(hash, last_word);
            filter[word] |= bits;
        }
        for (id, &hash) in hashes.iter().enumerate() {
            let (word, bits) = bits_of(hash, last_word);
            if filter[word] & bits != bits {
                continue;
            }
            let samples = &mut index.samples;
            let key = |sample: &Sample| &body[sample.start as usize..sample.series_end as usize];
            let found = firsts.entry(
                hash,
                |&first| hashes[first as usize] == hash && key(&samples[first as usize]) == key(&samples[id]),
                |&first| hashes[first as usize],
            );
            match found {
                Entry::Vacant(vacant) => {
                    vacant.insert(to_u32(id));
                }
                Entry::Occupied(occupied) => {
                    let first = samples[*occupied.get() as usize];
                    if first.has(Sample::TIMESTAMP) || samples[id].has(Sample::TIMESTAMP) {
                        index.uncertain = true;
                    } else {
                        samples[id].set(Sample::DROPPED);
                        index.n_dropped += 1;
                    }
                }
            }
        }
    }
}

/// Clears a filter and gives it 32 bits for each of `n` hashes, rounded up to a power of two.
fn reset(filter: &mut Vec<u64>, n: usize) {
    let n_words = (n / 2).next_power_of_two();
    filter.clear();
    filter.resize(n_words, 0);
}

/// The word of the filter that a hash belongs to, and the four bits of it that stand for the hash.
#[inline(always)]
fn bits_of(hash: u64, last_word: usize) -> (usize, u64) {
    let bit = |shift: u32| 1 << (hash >> shift & 63);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the mask cuts it to the number of words"
    )]
    let word = (hash >> 24) as usize & last_word;
    (word, bit(0) | bit(6) | bit(12) | bit(18))
}
