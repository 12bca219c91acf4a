//! Series that come twice in one body, spelled the same (core).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::super::model::{Index, Sample};
use super::scan::narrow;

/// Hashes of the series of one body, looked at all at once when it has been read.
///
/// Almost no body has a double, and most of the work is to be sure of that: so the hashes go through a bitmap first,
/// which fits a processor's nearest cache where a table of series does not. What meets a bit that is set already is
/// suspected, and only what looks like a suspect is compared byte by byte.
#[derive(Debug, Default)]
pub(super) struct Doubles {
    /// By sample.
    hashes: Vec<u64>,
    bits: Vec<u64>,
    suspects: Vec<u64>,
    /// Samples, the first of each suspected series.
    firsts: HashTable<u32>,
}

/// Bits a hash that is put in: one in about 40 hashes is suspected without reason.
const BITS_EACH: usize = 16;

impl Doubles {
    pub(super) fn clear(&mut self) {
        self.hashes.clear();
        self.firsts.clear();
    }

    /// Adds the series of the next sample.
    #[inline]
    pub(super) fn push(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// Marks the samples whose series came before. With timestamps in play the matter is left to the writer, which knows
    /// its format's resolution.
    pub(super) fn mark(&mut self, body: &[u8], index: &mut Index) {
        let Self {
            hashes,
            bits,
            suspects,
            firsts,
        } = self;
        let n_bits = fill(bits, hashes.len());
        if suspects.len() <= hashes.len() {
            suspects.resize(hashes.len() + 1, 0);
        }
        let mut n_suspects = 0;
        for &hash in &*hashes {
            let (word, bit) = place(hash >> 32, n_bits);
            // Written always and counted sometimes: a branch would be guessed wrong too often.
            suspects[n_suspects] = hash;
            n_suspects += usize::from(bits[word] & bit != 0);
            bits[word] |= bit;
        }
        let suspects = &suspects[..n_suspects];
        if suspects.is_empty() {
            return;
        }
        let n_bits = fill(bits, suspects.len());
        for &hash in suspects {
            let (word, bit) = place(hash, n_bits);
            bits[word] |= bit;
        }
        for (id, &hash) in hashes.iter().enumerate() {
            let (word, bit) = place(hash, n_bits);
            if bits[word] & bit == 0 {
                continue;
            }
            let samples = &mut index.samples;
            let key = |sample: &Sample| &body[sample.start as usize..sample.series_end as usize];
            let found = firsts.entry(
                hash,
                |&first| {
                    hashes[first as usize] == hash && key(&samples[first as usize]) == key(&samples[id])
                },
                |&first| hashes[first as usize],
            );
            match found {
                Entry::Vacant(vacant) => {
                    vacant.insert(narrow(id));
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

/// Makes room for `n` hashes; gives the number of bits, a power of two.
fn fill(bits: &mut Vec<u64>, n: usize) -> usize {
    let n_bits = (n * BITS_EACH).next_power_of_two().max(64);
    bits.clear();
    bits.resize(n_bits / 64, 0);
    n_bits
}

/// Where a hash's bit is: word, and bit in it.
#[inline]
fn place(hash: u64, n_bits: usize) -> (usize, u64) {
    #[allow(clippy::cast_possible_truncation, reason = "cut to the number of bits anyway")]
    let at = hash as usize & (n_bits - 1);
    (at / 64, 1 << (at % 64))
}
