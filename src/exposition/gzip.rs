//! Compression of the answer, a block at a time (core).

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Compresses one block to a gzip member of its own.
///
/// Members one after the other are one gzip stream, so blocks can be compressed apart and at the same time. Level 1:
/// higher levels cost more time than a scrape has, for a few per cent.
#[allow(clippy::missing_panics_doc, reason = "writing to a Vec does not fail")]
pub fn gzip_member(block: &[u8]) -> Vec<u8> {
    let out = Vec::with_capacity(block.len() / 6 + 64);
    let mut encoder = GzEncoder::new(out, Compression::fast());
    encoder.write_all(block).expect("writing to a Vec does not fail");
    encoder.finish().expect("writing to a Vec does not fail")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn members_in_a_row_are_one_stream() {
        let (first, second) = (vec![b'a'; 300_000], vec![b'b'; 5]);
        let stream = [gzip_member(&first), gzip_member(b""), gzip_member(&second)].concat();
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(&stream[..]).read_to_end(&mut plain);
        assert!(read.is_ok());
        assert_eq!(plain, [first, second].concat());
    }
}
