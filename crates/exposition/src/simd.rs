//! Sixteen bytes at a time (core).
//!
//! What is asked of a block comes back as a mask: bit `n` is about byte `n`. One comparison answers for all sixteen,
//! where a loop would guess its end wrong at every short token.

use wide::u8x16;

pub(crate) type Lane = [u8; 16];

/// The sixteen bytes at `at`; `None` where the text ends before.
#[inline(always)]
pub(crate) fn at(text: &[u8], at: usize) -> Option<&Lane> {
    text.get(at..)?.first_chunk()
}

/// Bytes that differ.
#[inline(always)]
pub(crate) fn differing(a: &Lane, b: &Lane) -> u32 {
    u8x16::new(*a).simd_eq(u8x16::new(*b)).to_bitmask() ^ 0xffff
}

/// Quotes, backslashes, line feeds, and bytes outside ASCII.
#[inline(always)]
pub(crate) fn specials(block: &Lane) -> u32 {
    let bytes = u8x16::new(*block);
    let is = |byte| bytes.simd_eq(u8x16::splat(byte));
    // The mask takes the top bit of each byte.
    (is(b'"') | is(b'\\') | is(b'\n') | bytes).to_bitmask()
}

/// Decimal digits.
#[inline(always)]
pub(crate) fn digits(block: &Lane) -> u32 {
    let bytes = u8x16::new(*block) - u8x16::splat(b'0');
    bytes.simd_eq(bytes.min(u8x16::splat(9))).to_bitmask()
}

/// Letters, digits and underscores; colons if asked.
#[inline(always)]
pub(crate) fn name_bytes(block: &Lane, colon: bool) -> u32 {
    let bytes = u8x16::new(*block);
    let within = |bytes: u8x16, from: u8, to: u8| {
        let bytes = bytes - u8x16::splat(from);
        bytes.simd_eq(bytes.min(u8x16::splat(to - from)))
    };
    let letters = within(bytes | u8x16::splat(0x20), b'a', b'z');
    // A colon follows the nine.
    let digits = within(bytes, b'0', if colon { b':' } else { b'9' });
    (letters | digits | bytes.simd_eq(u8x16::splat(b'_'))).to_bitmask()
}

/// Bytes that are equal to one.
#[inline(always)]
pub(crate) fn equal_to(block: &Lane, byte: u8) -> u32 {
    u8x16::new(*block).simd_eq(u8x16::splat(byte)).to_bitmask()
}

/// Asks for the memory of one item, if there is one: it takes longer to come than to be worked through, and the
/// processor only guesses right as long as one body is read from front to back.
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
    fn masks_say_what_each_byte_is() {
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
}
