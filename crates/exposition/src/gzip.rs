//! Compression of the response, block by block.
//!
//! Blocks are compressed independently of each other, so that several threads can do it, and joined to one gzip member. A
//! member for each block would be simpler, and Go's reader accepts it, but curl stops after the first.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// RFC 1952: magic number, deflate, no flags, no time, fastest level, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// RFC 1951: an empty block that is marked as the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// One compressed block: raw deflate data that ends at a byte boundary, and the checksum of the data before compression.
#[derive(Debug)]
pub struct DeflatedBlock {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses one block at level 1. Higher levels take more time than a scrape has, and save a few per cent.
pub fn deflate_block(block: &[u8]) -> DeflatedBlock {
    let mut crc = Crc::new();
    crc.update(block);
    let mut bytes = Vec::with_capacity(block.len() / 6 + 64);
    let mut deflate = Compress::new(Compression::fast(), false);
    loop {
        // Enough room for the flush marker, so that the loop ends.
        bytes.reserve(bytes.len().max(1 << 10));
        let consumed = usize::try_from(deflate.total_in())
            .unwrap_or(usize::MAX)
            .min(block.len());
        let status = deflate.compress_vec(&block[consumed..], &mut bytes, FlushCompress::Sync);
        let is_through = deflate.total_in() == block.len() as u64 && bytes.len() < bytes.capacity();
        // If room is left, all output is written, and the stream is at a byte boundary.
        if is_through || !matches!(status, Ok(Status::Ok)) {
            return DeflatedBlock { bytes, crc };
        }
    }
}

/// Joins blocks to one gzip stream, in the order of the calls.
#[derive(Debug, Default)]
pub struct GzipStream {
    crc: Crc,
    begun: bool,
}

impl GzipStream {
    /// The bytes to send for the next block.
    pub fn push(&mut self, block: DeflatedBlock) -> Vec<u8> {
        self.crc.combine(&block.crc);
        if self.begun {
            return block.bytes;
        }
        self.begun = true;
        [&HEADER[..], &block.bytes].concat()
    }

    /// The bytes to send last. Without them readers report a truncated stream.
    pub fn finish(self) -> Vec<u8> {
        let mut end = Vec::new();
        if !self.begun {
            end.extend_from_slice(&HEADER);
        }
        end.extend_from_slice(&LAST_BLOCK);
        end.extend_from_slice(&self.crc.sum().to_le_bytes());
        end.extend_from_slice(&self.crc.amount().to_le_bytes());
        end
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn joined(blocks: &[&[u8]]) -> Vec<u8> {
        let mut stream = GzipStream::default();
        let mut bytes: Vec<u8> = blocks
            .iter()
            .flat_map(|block| stream.push(deflate_block(block)))
            .collect();
        bytes.extend(stream.finish());
        bytes
    }

    #[track_caller]
    fn check(blocks: &[&[u8]]) {
        let stream = joined(blocks);
        let mut plain = Vec::new();
        // This reader stops after the first member, so that data behind it would be missing.
        let mut reader = flate2::bufread::GzDecoder::new(&stream[..]);
        reader.read_to_end(&mut plain).expect("valid gzip");
        assert_eq!(plain, blocks.concat());
        assert!(
            reader.into_inner().is_empty(),
            "there is no data behind the member"
        );
    }

    #[test]
    fn blocks_are_one_member() {
        let noise: Vec<u8> = (0..400_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1])
            .collect();
        check(&[]);
        check(&[b""]);
        check(&[b"a 1\n"]);
        check(&[&vec![b'a'; 300_000], b"", &noise, b"b 2\n"]);
        check(&[&noise[..1], &noise[..65_535], &noise[..65_536], &noise[..65_537]]);
    }

    #[test]
    fn a_stream_that_is_not_finished_is_not_valid() {
        let mut stream = GzipStream::default();
        let bytes = stream.push(deflate_block(b"a 1\n"));
        let read = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut Vec::new());
        assert!(read.is_err());
    }
}
