//! Sixteen bytes at a time.
//!
//! Questions about a lane are answered by a mask, whose bit `n` is about byte `n`. One comparison answers for all sixteen
//! bytes, where a loop would mispredict its end at every short token.

use wide::u8x16;

/// Sixteen bytes of a text.
pub(crate) type Lane = [u8; 16];

/// The lane at `at`; `None` where the text ends before its end.
#[inline(always)]
pub(crate) fn at(text: &[u8], at: usize) -> Option<&Lane> {
    text.get(at..)?.first_chunk()
}

/// Which bytes differ.
#[inline(always)]
pub(crate) fn differing(a: &Lane, b: &Lane) -> u32 {
    u8x16::new(*a).simd_eq(u8x16::new(*b)).to_bitmask() ^ 0xffff
}

/// Which bytes are quotes, backslashes, line feeds, or outside ASCII.
#[inline(always)]
pub(crate) fn specials(lane: &Lane) -> u32 {
    let bytes = u8x16::new(*lane);
    let is = |byte| bytes.simd_eq(u8x16::splat(byte));
    // The mask takes the top bit of each byte, which is set outside ASCII.
    (is(b'"') | is(b'\\') | is(b'\n') | bytes).to_bitmask()
}

/// Which bytes are decimal digits.
#[inline(always)]
pub(crate) fn digits(lane: &Lane) -> u32 {
    let bytes = u8x16::new(*lane) - u8x16::splat(b'0');
    bytes.simd_eq(bytes.min(u8x16::splat(9))).to_bitmask()
}

/// Which bytes are letters, digits, underscores or, with `colon`, colons.
#[inline(always)]
pub(crate) fn name_bytes(lane: &Lane, colon: bool) -> u32 {
    let bytes = u8x16::new(*lane);
    let within = |bytes: u8x16, from: u8, to: u8| {
        let bytes = bytes - u8x16::splat(from);
        bytes.simd_eq(bytes.min(u8x16::splat(to - from)))
    };
    let letters = within(bytes | u8x16::splat(0x20), b'a', b'z');
    // In ASCII the colon comes after the nine.
    let digits = within(bytes, b'0', if colon { b':' } else { b'9' });
    (letters | digits | bytes.simd_eq(u8x16::splat(b'_'))).to_bitmask()
}

/// Which bytes are equal to one.
#[inline(always)]
pub(crate) fn equal_to(lane: &Lane, byte: u8) -> u32 {
    u8x16::new(*lane).simd_eq(u8x16::splat(byte)).to_bitmask()
}

/// The length of the common prefix of `a` and `b`, at most `limit`.
#[inline(always)]
pub(crate) fn common_prefix_len(a: &[u8], b: &[u8], limit: usize) -> usize {
    let mut len = 0;
    // Comparing past the limit costs less than stopping at it.
    for (x, y) in a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0) {
        if x != y {
            let differ = differing32(x, y);
            return limit.min(len + differ.trailing_zeros() as usize);
        }
        len += 32;
        if len >= limit {
            return limit;
        }
    }
    limit.min(len + common_tail(&a[len..], &b[len..]))
}

/// As [`common_prefix_len`], for texts that mostly differ within sixteen bytes. The result may exceed the limit by less than
/// a lane.
#[inline(always)]
pub(crate) fn short_common_prefix_len(a: &[u8], b: &[u8], limit: usize) -> usize {
    if let (Some(x), Some(y)) = (a.first_chunk(), b.first_chunk()) {
        let differ = differing(x, y);
        if differ != 0 {
            return differ.trailing_zeros() as usize;
        }
    }
    common_prefix_len(a, b, limit)
}

/// Whether the first `len` bytes of `a` and `b` are equal.
#[inline(always)]
pub(crate) fn prefix_eq(a: &[u8], b: &[u8], len: usize) -> bool {
    let (Some(a), Some(b)) = (a.get(..len), b.get(..len)) else {
        return false;
    };
    let chunks = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0);
    for (x, y) in chunks {
        if x != y {
            return false;
        }
    }
    // The remaining bytes, and some once more.
    match (a.last_chunk::<32>(), b.last_chunk::<32>()) {
        (Some(x), Some(y)) => x == y,
        _ => common_tail(a, b) == len,
    }
}

/// Whether two short texts are equal, without calling `memcmp`.
#[inline(always)]
pub(crate) fn bytes_eq(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() >= 32 {
        return prefix_eq(a, b, a.len());
    }
    // Two lanes that may overlap.
    if let (Some(x), Some(y)) = (a.first_chunk::<16>(), b.first_chunk::<16>()) {
        return x == y && a.last_chunk::<16>() == b.last_chunk::<16>();
    }
    if let (Some(x), Some(y)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        return x == y && a.last_chunk::<8>() == b.last_chunk::<8>();
    }
    a.iter().zip(b).all(|(x, y)| x == y)
}

#[inline(always)]
fn differing32(x: &[u8; 32], y: &[u8; 32]) -> u32 {
    let ((x0, x1), (y0, y1)) = (halve(x), halve(y));
    differing(&x0, &y0) | differing(&x1, &y1) << 16
}

#[inline(always)]
pub(crate) fn halve(bytes: &[u8; 32]) -> (Lane, Lane) {
    let (low, high) = bytes.split_at(16);
    (
        low.try_into().expect("half of 32"),
        high.try_into().expect("half of 32"),
    )
}

#[cold]
fn common_tail(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Prefetches one item, if there is one. Loading it takes longer than working on it, and the processor prefetches by itself
/// only while one body is read from front to back.
#[inline(always)]
pub(crate) fn prefetch<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(index) {
        safe_arch::prefetch_t0(item);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_tell_what_each_byte_is() {
        for byte in 0..=255_u8 {
            for at in 0..16 {
                let mut block = *b"abcdefghijklmnop";
                block[at] = byte;
                let bit = |is: bool| u32::from(is) << at;
                assert_eq!(
                    specials(&block),
                    bit(matches!(byte, b'"' | b'\\' | b'\n' | 0x80..))
                );
                assert_eq!(digits(&block), bit(byte.is_ascii_digit()));
                assert_eq!(equal_to(&block, b'\n'), bit(byte == b'\n'));
                for colon in [false, true] {
                    let is = byte.is_ascii_alphanumeric() || byte == b'_' || colon && byte == b':';
                    assert_eq!(name_bytes(&block, colon), 0xffff & !bit(!is), "{byte}");
                }
                let letters = b"abcdefghijklmnop";
                assert_eq!(differing(&block, letters), bit(byte != letters[at]));
            }
        }
        assert_eq!(at(b"abcdefghijklmnopq", 1), Some(b"bcdefghijklmnopq"));
        assert_eq!(at(b"abcdefghijklmnopq", 2), None);
        assert_eq!(at(b"", 2), None);
    }

    #[test]
    fn texts_are_compared_byte_by_byte() {
        let text: Vec<u8> = (0..100).collect();
        for len in 0..100 {
            let a = &text[..len];
            assert!(bytes_eq(a, a) && prefix_eq(a, &text, len));
            assert!(!prefix_eq(a, &text, len + 1));
            assert_eq!(common_prefix_len(a, &text, 200), len);
            assert_eq!(common_prefix_len(&text, &text, len), len);
            for at in 0..len {
                let mut b = a.to_vec();
                b[at] ^= 0x80;
                assert!(!bytes_eq(a, &b) && !prefix_eq(a, &b, len), "{len} {at}");
                assert!(prefix_eq(a, &b, at));
                assert_eq!(common_prefix_len(a, &b, len), at);
                assert_eq!(short_common_prefix_len(a, &b, len), at);
            }
        }
    }
}
