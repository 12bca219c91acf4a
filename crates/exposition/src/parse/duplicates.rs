//! Series that come twice in one body, spelled the same (core).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::hash::to_u32;
use crate::index::{Index, Sample};

/// Hashes of the series of one body, looked at all at once when it has been read.
///
/// Almost no body has a double, and the work is to be sure of that: so the hashes go through a Bloom filter first, which
/// fits a processor's nearest caches where a table of series does not. Only where it suspects something (in one body of
/// five of the usual size it does so without reason) is there a second look, and bytes are compared.
///
/// Source: Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom filters" (2007): all bits of one hash in one
/// word.
#[derive(Debug, Default)]
pub(crate) struct DuplicateFilter {
    /// By sample.
    hashes: Vec<u64>,
    filter: Vec<u64>,
    suspects: Vec<u64>,
    /// Samples, the first of each suspected series.
    firsts: HashTable<u32>,
}

impl DuplicateFilter {
    /// Bytes of memory that it takes.
    pub(crate) fn n_bytes(&self) -> usize {
        let hashes = self.hashes.capacity() + self.filter.capacity() + self.suspects.capacity();
        hashes * size_of::<u64>() + self.firsts.allocation_size()
    }

    pub(crate) fn clear(&mut self) {
        self.hashes.clear();
        self.firsts.clear();
    }

    /// Adds the series of the next sample.
    #[inline]
    pub(crate) fn push(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// Marks the samples whose series came before. With timestamps in play the matter is left to the writer, which knows
    /// its format's resolution.
    pub(crate) fn mark(&mut self, body: &[u8], index: &mut Index) {
        let Self {
            hashes,
            filter,
            suspects,
            firsts,
        } = self;
        suspects.clear();
        empty(filter, hashes.len());
        let last_word = filter.len() - 1;
        for &hash in &*hashes {
            let (word, bits) = place(hash, last_word);
            if filter[word] & bits == bits {
                suspects.push(hash);
            }
            filter[word] |= bits;
        }
        if suspects.is_empty() {
            return;
        }
        empty(filter, suspects.len());
        let last_word = filter.len() - 1;
        for &hash in &*suspects {
            let (word, bits) = place(hash, last_word);
            filter[word] |= bits;
        }
        for (id, &hash) in hashes.iter().enumerate() {
            let (word, bits) = place(hash, last_word);
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

/// Makes room for `n` hashes: 32 bits for each, a power of two in all.
fn empty(filter: &mut Vec<u64>, n: usize) {
    let n_words = (n / 2).next_power_of_two();
    filter.clear();
    filter.resize(n_words, 0);
}

/// Where a hash's bits are: word, and four bits in it.
#[inline(always)]
fn place(hash: u64, last_word: usize) -> (usize, u64) {
    let bit = |shift: u32| 1 << (hash >> shift & 63);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "cut to the number of words anyway"
    )]
    let word = (hash >> 24) as usize & last_word;
    (word, bit(0) | bit(6) | bit(12) | bit(18))
}
