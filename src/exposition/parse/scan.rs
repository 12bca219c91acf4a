//! Looking at bytes: where tokens end, how far lines agree, and hashing piece by piece (core).

use std::hash::{BuildHasher as _, Hasher as _};

use super::super::line::{Line, Span};
use super::super::model::Index;
use super::super::name;

#[allow(
    clippy::cast_possible_truncation,
    reason = "counts and offsets are below MAX_BODY_BYTES"
)]
pub(super) fn narrow(value: usize) -> u32 {
    value as u32
}

/// Half a hash for a whole one: the table takes its low bits and its top bits.
pub(super) fn spread(short: u32) -> u64 {
    u64::from(short).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

/// Takes `bytes` into a running hash: sixteen at a time, multiplied and folded, under a key that nobody knows.
///
/// Hashing piece by piece is what lets a line begin where the one before it ended being equal. A hash decides nothing
/// alone: bytes are compared before a series counts as seen.
#[inline]
pub(super) fn absorb(hash: u64, bytes: &[u8], key: u64) -> u64 {
    let mut hash = hash ^ (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rest = bytes;
    while let Some((chunk, after)) = rest.split_first_chunk::<16>() {
        let (low, high) = halves(chunk);
        hash = fold(low ^ hash, high ^ key);
        rest = after;
    }
    if rest.is_empty() {
        return fold(hash, key);
    }
    // The last sixteen bytes once more where there are that many, else the rest with zeros.
    let mut last = [0; 16];
    if let Some(chunk) = bytes.last_chunk::<16>() {
        last = *chunk;
    } else {
        last[..rest.len()].copy_from_slice(rest);
    }
    let (low, high) = halves(&last);
    fold(low ^ hash, high ^ key)
}

#[inline]
pub(super) fn halves(chunk: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*chunk);
    #[allow(clippy::cast_possible_truncation, reason = "the halves of sixteen bytes")]
    let halves = (whole as u64, (whole >> 64) as u64);
    halves
}

#[inline]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// How many bytes `a` and `b` begin with in common.
#[inline]
pub(super) fn common_len(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    for (x, y) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        let x: [u8; 16] = x.try_into().expect("chunks_exact gives sixteen");
        let y: [u8; 16] = y.try_into().expect("chunks_exact gives sixteen");
        let differ = u128::from_le_bytes(x) ^ u128::from_le_bytes(y);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 16;
    }
    let tail = a[len..].iter().zip(&b[len..]).take_while(|(x, y)| x == y).count();
    len + tail
}

pub(super) fn shape_names(index: &Index, id: u32) -> &[Span] {
    let (from, to) = index.shapes[id as usize].names;
    &index.shape_names[from as usize..to as usize]
}

pub(super) fn same_names(body: &[u8], a: &[Span], b: &[Span]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.of(body) == b.of(body))
}

pub(super) fn token_end(body: &[u8], from: usize) -> usize {
    from + body[from..]
        .iter()
        .take_while(|byte| !matches!(byte, b' ' | b'\n' | b'\t' | b'{'))
        .count()
}

pub(super) fn quoted_end(body: &[u8], at: usize) -> Option<usize> {
    let mut from = at + 1;
    loop {
        let found = memchr::memchr2(b'"', b'\\', body.get(from..)?)?;
        from += found;
        match body[from] {
            b'"' => return Some(from + 1),
            _ if matches!(body.get(from + 1), None | Some(b'\n')) => return None,
            _ => from += 2,
        }
    }
}

/// The closing quote of a value that can be written as it is; `None` for any other.
#[inline]
pub(super) fn plain_value_end(body: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += find_special(body.get(at..)?)?;
        match body[at] {
            b'"' => return Some(at),
            b'\\' if matches!(body.get(at + 1), Some(b'\\' | b'"' | b'n')) => at += 2,
            _ => return None,
        }
    }
}

/// The first quote, backslash or line feed. Most values are short: eight bytes at a time cost less than a call.
#[inline]
pub(super) fn find_special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut at = 0;
    let mut rest = text;
    for _ in 0..4 {
        let Some((chunk, after)) = rest.split_first_chunk::<8>() else {
            break;
        };
        let word = u64::from_le_bytes(*chunk);
        let hits = zero_bytes(word ^ (ONES * u64::from(b'"')))
            | zero_bytes(word ^ (ONES * u64::from(b'\\')))
            | zero_bytes(word ^ (ONES * u64::from(b'\n')));
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
        rest = after;
    }
    memchr::memchr3(b'"', b'\\', b'\n', rest).map(|found| at + found)
}

/// Names and values of plain labels by turns, from after the opening brace; gives the closing one's position.
pub(super) fn collect_plain(body: &[u8], start: usize, spans: &mut Vec<Span>) -> Option<usize> {
    let mut at = start;
    loop {
        let len = name::label_name_len(body.get(at..)?);
        if len == 0 || !body[at + len..].starts_with(b"=\"") {
            return None;
        }
        spans.push(Span::new(at, at + len));
        let value = at + len + 2;
        at = plain_value_end(body, value)? + 1;
        spans.push(Span::new(value, at - 1));
        match body.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => return Some(at),
            _ => return None,
        }
    }
}

/// Where labels go into a line written the plain way; `None` for any other.
pub(super) fn is_plain(body: &[u8], start: usize, line: &Line) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    let mut series_end = at;
    if line.series_end > at {
        for (index, label) in line.labels.iter().enumerate() {
            let expect = if index == 0 { b'{' } else { b',' };
            let named = label.name;
            if named.quoted
                || body[at] != expect
                || named.span.start as usize != at + 1
                || label.value.start != named.span.end + 2
                || !name::is_legal_value(label.value.of(body))
            {
                return None;
            }
            at = label.value.end as usize + 1;
        }
        if line.labels.is_empty() || body[at] != b'}' {
            return None;
        }
        series_end = at;
        at += 1;
    }
    let spaced = |span: Span, at: usize| span.start as usize == at + 1 && body[at] == b' ';
    if !spaced(line.value, at) {
        return None;
    }
    at = line.value.end as usize;
    if let Some(timestamp) = line.timestamp {
        if !spaced(timestamp, at) {
            return None;
        }
        at = timestamp.end as usize;
    }
    if line.exemplar.is_none() && at != line.end {
        return None;
    }
    Some(series_end)
}

/// For a line with slack outside its labels, or a trailing comma: the end of what identifies the series.
pub(super) fn odd_series_end(body: &[u8], start: usize, line: &Line) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    for (index, label) in line.labels.iter().enumerate() {
        let expect = if index == 0 { b'{' } else { b',' };
        if label.name.quoted
            || body[at] != expect
            || label.name.span.start as usize != at + 1
            || label.value.start != label.name.span.end + 2
            || !name::is_legal_value(label.value.of(body))
        {
            return None;
        }
        at = label.value.end as usize + 1;
    }
    Some(at)
}
