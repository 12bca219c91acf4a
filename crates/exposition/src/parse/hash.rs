//! Looking at bytes: where tokens end, how far lines agree, and hashing piece by piece (core).

use std::hash::{BuildHasher as _, Hasher as _};

use super::Utf8;
use crate::simd::{self, Lane};
use crate::syntax::name;
use crate::syntax::sample_line::{SampleLine, Span};

#[allow(
    clippy::cast_possible_truncation,
    reason = "counts and offsets are below MAX_BODY_BYTES"
)]
pub(crate) fn to_u32(value: usize) -> u32 {
    value as u32
}

/// A number for a whole hash: small ones differ in the top bits too.
pub(crate) fn mix32(small: u32) -> u64 {
    mix64(u64::from(small))
}

pub(crate) fn mix64(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(crate) fn hash_with(hasher: &foldhash::quality::RandomState, bytes: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

pub(crate) fn hash_names<'a>(
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

/// Takes the bytes `from..end` of a line into a running hash: sixteen at a time, multiplied and folded, under a key that
/// nobody knows. The last sixteen may reach back before `from`, into what was taken in already.
///
/// Hashing in two pieces is what lets a line begin where the one before it ended being equal. A hash decides nothing
/// alone: bytes are compared before a series counts as seen.
#[inline(always)]
pub(crate) fn hash_extend(hash: u64, line: &[u8], from: usize, end: usize, key: u64) -> u64 {
    let mut hash = hash ^ mix64((end - from) as u64);
    let (blocks, _) = line[from..end].as_chunks::<16>();
    for block in blocks {
        let (low, high) = split_u128(block);
        hash = fold(low ^ hash, high ^ key);
    }
    let (low, high) = if let Some(last) = line[..end].last_chunk() {
        split_u128(last)
    } else {
        short_halves(&line[..end])
    };
    fold(low ^ hash, high ^ key)
}

#[cold]
fn short_halves(text: &[u8]) -> (u64, u64) {
    let mut first = [0; 16];
    first[..text.len()].copy_from_slice(text);
    split_u128(&first)
}

#[inline]
pub(crate) fn split_u128(chunk: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*chunk);
    #[allow(clippy::cast_possible_truncation, reason = "the split_u128 of sixteen bytes")]
    let split_u128 = (whole as u64, (whole >> 64) as u64);
    split_u128
}

#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "both split_u128 are taken")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// How many bytes `a` and `b` begin with in common, `limit` at most.
#[inline(always)]
pub(crate) fn common_prefix_len(a: &[u8], b: &[u8], limit: usize) -> usize {
    let mut len = 0;
    // Looking past the limit costs less than minding it.
    for (x, y) in a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0) {
        if x != y {
            let differ = differing(x, y);
            return limit.min(len + differ.trailing_zeros() as usize);
        }
        len += 32;
        if len >= limit {
            return limit;
        }
    }
    limit.min(len + common_tail(&a[len..], &b[len..]))
}

/// As [`common_prefix_len`], for texts that mostly differ soon; it may look a block past the limit.
#[inline(always)]
pub(crate) fn soon_differing(a: &[u8], b: &[u8], limit: usize) -> usize {
    if let (Some(x), Some(y)) = (a.first_chunk(), b.first_chunk()) {
        let differ = simd::differing(x, y);
        if differ != 0 {
            return differ.trailing_zeros() as usize;
        }
    }
    common_prefix_len(a, b, limit)
}

/// Whether the first `len` bytes of `a` and `b` are the same.
#[inline(always)]
pub(crate) fn prefix_eq(a: &[u8], b: &[u8], len: usize) -> bool {
    let (Some(a), Some(b)) = (a.get(..len), b.get(..len)) else {
        return false;
    };
    let blocks = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0);
    for (x, y) in blocks {
        if x != y {
            return false;
        }
    }
    // What is left, and some bytes once more.
    match (a.last_chunk::<32>(), b.last_chunk::<32>()) {
        (Some(x), Some(y)) => x == y,
        _ => common_tail(a, b) == len,
    }
}

/// Whether two short texts are the same, without a call.
#[inline(always)]
pub(crate) fn bytes_eq(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() >= 32 {
        return prefix_eq(a, b, a.len());
    }
    // Two blocks that may overlap.
    if let (Some(x), Some(y)) = (a.first_chunk::<16>(), b.first_chunk::<16>()) {
        return x == y && a.last_chunk::<16>() == b.last_chunk::<16>();
    }
    if let (Some(x), Some(y)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        return x == y && a.last_chunk::<8>() == b.last_chunk::<8>();
    }
    a.iter().zip(b).all(|(x, y)| x == y)
}

#[inline(always)]
fn differing(x: &[u8; 32], y: &[u8; 32]) -> u32 {
    let ((x0, x1), (y0, y1)) = (halved(x), halved(y));
    simd::differing(&x0, &y0) | simd::differing(&x1, &y1) << 16
}

#[inline(always)]
fn halved(blocks: &[u8; 32]) -> (Lane, Lane) {
    let (low, high) = blocks.split_at(16);
    (
        low.try_into().expect("half of 32"),
        high.try_into().expect("half of 32"),
    )
}

#[cold]
fn common_tail(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

pub(crate) fn same_names(body: &[u8], a: &[Span], b: &[Span]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bytes_eq(a.of(body), b.of(body)))
}

pub(crate) fn token_end(body: &[u8], from: usize) -> usize {
    from + body[from..]
        .iter()
        .take_while(|byte| !matches!(byte, b' ' | b'\n' | b'\t' | b'{'))
        .count()
}

pub(crate) fn quoted_end(body: &[u8], at: usize) -> Option<usize> {
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

impl Utf8 {
    fn of(body: &[u8]) -> Self {
        if std::str::from_utf8(body).is_ok() {
            Self::Whole
        } else {
            Self::Broken
        }
    }
}

/// The closing quote of the label value that starts at `value`, of which the bytes before `at` were seen already;
/// `None` for one that cannot be written as it is. Positions count from the start of the line.
#[inline(always)]
pub(crate) fn value_end(body: &[u8], line: &[u8], value: usize, at: usize, utf8: &mut Utf8) -> Option<usize> {
    // Most values end within two blocks, and have nothing in them to look at.
    if *utf8 != Utf8::Broken
        && let Some([before, blocks @ ..]) = line[at - 1..].first_chunk::<33>()
        && *before != b'\\'
    {
        let (low, high) = halved(blocks);
        let mut specials = simd::specials(&low);
        if specials == 0 {
            specials = simd::specials(&high) << 16;
        }
        let end = specials.trailing_zeros() as usize;
        if specials != 0 && blocks[end & 31] == b'"' {
            return Some(at + end);
        }
    }
    any_value_end(body, line, value, at, utf8)
}

#[inline(never)]
fn any_value_end(body: &[u8], line: &[u8], value: usize, at: usize, utf8: &mut Utf8) -> Option<usize> {
    let mut from = at;
    // A backslash just before may be the first half of an escape.
    while from > value && line[from - 1] == b'\\' {
        from -= 1;
    }
    loop {
        from += find_special(line.get(from..)?, *utf8 == Utf8::Unasked)?;
        match line[from] {
            b'"' => break,
            b'\\' if matches!(line.get(from + 1), Some(b'\\' | b'"' | b'n')) => from += 2,
            0x80.. => *utf8 = Utf8::of(body),
            _ => return None,
        }
    }
    if *utf8 == Utf8::Broken && std::str::from_utf8(&line[value..from]).is_err() {
        return None;
    }
    Some(from)
}

/// The first quote, backslash or line feed, and if asked for the first byte outside ASCII.
fn find_special(text: &[u8], beyond_ascii: bool) -> Option<usize> {
    if !beyond_ascii {
        return memchr::memchr3(b'"', b'\\', b'\n', text);
    }
    let (blocks, rest) = text.as_chunks::<16>();
    for (index, block) in blocks.iter().enumerate() {
        let specials = simd::specials(block);
        if specials != 0 {
            return Some(16 * index + specials.trailing_zeros() as usize);
        }
    }
    let found = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | 0x80..))?;
    Some(16 * blocks.len() + found)
}

/// Names and values of plain labels, from after the opening brace; gives the closing one's position.
pub(crate) fn collect_plain(
    body: &[u8],
    start: usize,
    names: &mut Vec<Span>,
    values: &mut Vec<Span>,
    utf8: &mut Utf8,
) -> Option<usize> {
    let mut at = start;
    loop {
        let len = name::label_name_len(body.get(at..)?);
        if len == 0 || !body[at + len..].starts_with(b"=\"") {
            return None;
        }
        names.push(Span::new(at, at + len));
        let value = at + len + 2;
        at = value_end(body, body, value, value, utf8)? + 1;
        values.push(Span::new(value, at - 1));
        match body.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => return Some(at),
            _ => return None,
        }
    }
}

/// Where labels go into a line written the plain way; `None` for any other.
pub(crate) fn is_plain(body: &[u8], start: usize, line: &SampleLine) -> Option<usize> {
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
pub(crate) fn odd_series_end(body: &[u8], start: usize, line: &SampleLine) -> Option<usize> {
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
