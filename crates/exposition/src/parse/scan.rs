//! Where the parts of a canonical line end.

use super::Utf8;
use crate::simd::{self, halve};
use crate::syntax::name;
use crate::syntax::sample_line::Span;

pub(super) use crate::simd::bytes_eq;

#[allow(
    clippy::cast_possible_truncation,
    reason = "counts and offsets are below MAX_BODY_BYTES"
)]
#[inline(always)]
pub(super) fn to_u32(value: usize) -> u32 {
    value as u32
}

/// Whether two lists of names are equal, in order.
pub(super) fn names_eq(body: &[u8], a: &[Span], b: &[Span]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bytes_eq(a.of(body), b.of(body)))
}

/// The end of the token at `from`.
pub(super) fn token_end(body: &[u8], from: usize) -> usize {
    from + body[from..]
        .iter()
        .take_while(|byte| !matches!(byte, b' ' | b'\n' | b'\t' | b'{'))
        .count()
}

/// The position after the closing quote of the string at `at`; `None` where it does not end on its line.
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

impl Utf8 {
    fn of(body: &[u8]) -> Self {
        if std::str::from_utf8(body).is_ok() {
            Self::Valid
        } else {
            Self::Invalid
        }
    }
}

/// The position of the closing quote of the label value that starts at `value`, of which the bytes before `at` were looked at
/// already. `None` for a value that cannot be written as it is. Positions count from the start of the line.
#[inline(always)]
pub(super) fn value_end(body: &[u8], line: &[u8], value: usize, at: usize, utf8: &mut Utf8) -> Option<usize> {
    // Most values end within two lanes, without an escape before.
    if *utf8 != Utf8::Invalid
        && let Some([before, lanes @ ..]) = line[at - 1..].first_chunk::<33>()
        && *before != b'\\'
    {
        let (low, high) = halve(lanes);
        let mut specials = simd::specials(&low);
        if specials == 0 {
            specials = simd::specials(&high) << 16;
        }
        let end = specials.trailing_zeros() as usize;
        if specials != 0 && lanes[end & 31] == b'"' {
            return Some(at + end);
        }
    }
    any_value_end(body, line, value, at, utf8)
}

#[inline(never)]
fn any_value_end(body: &[u8], line: &[u8], value: usize, at: usize, utf8: &mut Utf8) -> Option<usize> {
    let mut from = at;
    // A backslash just before `at` may be the first half of an escape.
    while from > value && line[from - 1] == b'\\' {
        from -= 1;
    }
    loop {
        from += find_special(line.get(from..)?, *utf8 == Utf8::Unknown)?;
        match line[from] {
            b'"' => break,
            b'\\' if matches!(line.get(from + 1), Some(b'\\' | b'"' | b'n')) => from += 2,
            0x80.. => *utf8 = Utf8::of(body),
            _ => return None,
        }
    }
    if *utf8 == Utf8::Invalid && std::str::from_utf8(&line[value..from]).is_err() {
        return None;
    }
    Some(from)
}

/// The position of the first quote, backslash or line feed, or with `beyond_ascii` also of the first byte outside ASCII.
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

/// Collects the names and values of the labels after an opening brace, if they are canonical, and returns the position of
/// the closing brace.
pub(super) fn collect_labels(
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
