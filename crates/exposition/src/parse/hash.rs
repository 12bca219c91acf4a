//! Hashes of names and series.
//!
//! A series is hashed in two pieces, so that a line which begins like the previous one starts from the hash of that
//! beginning. A hash alone decides nothing: bytes are compared before two series count as one.

use std::hash::{BuildHasher as _, Hasher as _};

/// Spreads a small number over all bits of a word, so that it can be combined with a hash.
pub(super) fn mix32(small: u32) -> u64 {
    mix64(u64::from(small))
}

fn mix64(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) fn hash_with(hasher: &foldhash::quality::RandomState, bytes: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

pub(super) fn hash_names<'a>(
    hasher: &foldhash::quality::RandomState,
    names: impl Iterator<Item = &'a [u8]>,
) -> u64 {
    let mut hasher = hasher.build_hasher();
    for name in names {
        hasher.write(name);
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// Extends a running hash by the bytes `from..end` of a line: sixteen at a time, by folded multiplication (as in foldhash and
/// wyhash) under a secret key.
///
/// The last sixteen bytes may reach back before `from`, into bytes that are part of the hash already: `end - from` goes
/// into the hash too, so that the result depends on every byte exactly as before.
#[inline(always)]
pub(super) fn hash_extend(hash: u64, line: &[u8], from: usize, end: usize, key: u64) -> u64 {
    let mut hash = hash ^ mix64((end - from) as u64);
    let (blocks, _) = line[from..end].as_chunks::<16>();
    for block in blocks {
        let (low, high) = split_u128(block);
        hash = fold(low ^ hash, high ^ key);
    }
    let (low, high) = if let Some(last) = line[..end].last_chunk() {
        split_u128(last)
    } else {
        split_short(&line[..end])
    };
    fold(low ^ hash, high ^ key)
}

#[cold]
fn split_short(text: &[u8]) -> (u64, u64) {
    let mut first = [0; 16];
    first[..text.len()].copy_from_slice(text);
    split_u128(&first)
}

#[inline]
fn split_u128(chunk: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*chunk);
    #[allow(clippy::cast_possible_truncation, reason = "both halves are taken")]
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
