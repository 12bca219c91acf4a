//! The bytes of the response, gathered into chunks of about one size.

use crate::Pool;

/// Pieces are copied in whole blocks of this size, so that some bytes behind their end are copied as well and overwritten
/// by the next piece. A call of `memcpy` for each short piece, or a loop over its bytes, costs more than the copy itself.
const BLOCK: usize = 32;

/// Room behind the end of a chunk for the sample that fills it. A longer sample makes the buffer grow.
const SLACK: usize = 4096;

/// A text, padded to whole blocks.
#[derive(Debug, Default)]
pub(crate) struct Padded {
    pub(crate) padded: Vec<u8>,
    pub(crate) len: usize,
}

impl Padded {
    pub(crate) fn new(mut text: Vec<u8>) -> Self {
        let len = text.len();
        text.resize(len.next_multiple_of(BLOCK), 0);
        Self { padded: text, len }
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.padded[..self.len]
    }
}

/// Gathers pieces, and hands them to a sink in chunks.
pub(crate) struct Chunks<'a> {
    /// Initialised to its end; the first `filled` bytes belong to the chunk.
    buffer: Vec<u8>,
    filled: usize,
    chunk_bytes: usize,
    pool: Option<&'a Pool>,
    sink: &'a mut dyn FnMut(Vec<u8>) -> bool,
    is_stopped: bool,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(
        chunk_bytes: usize,
        pool: Option<&'a Pool>,
        sink: &'a mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Self {
        let mut chunks = Self {
            buffer: Vec::new(),
            filled: 0,
            chunk_bytes: chunk_bytes.max(1),
            pool,
            sink,
            is_stopped: false,
        };
        chunks.buffer = chunks.new_buffer();
        chunks
    }

    /// Whether the sink wants no more chunks.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// A buffer for one chunk, with the room behind its end.
    fn new_buffer(&self) -> Vec<u8> {
        let len = self.chunk_bytes + SLACK;
        match self.pool {
            Some(pool) => pool.chunk(len),
            None => vec![0; len],
        }
    }

    pub(crate) fn push(&mut self, text: &[u8]) {
        self.copy(text, 0, text.len());
    }

    /// Adds `text[from..to]`.
    #[inline(always)]
    pub(crate) fn copy(&mut self, text: &[u8], from: usize, to: usize) {
        let len = to - from;
        let whole = len.next_multiple_of(BLOCK);
        if self.filled + whole > self.buffer.len() {
            self.grow(whole);
        }
        let source = &text[from..];
        let target = &mut self.buffer[self.filled..];
        if let Some(source) = source.get(..whole)
            && let Some(target) = target.get_mut(..whole)
        {
            let blocks = source.as_chunks::<BLOCK>().0;
            for (target, source) in target.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
                *target = *source;
            }
        } else {
            target[..len].copy_from_slice(&source[..len]);
        }
        self.filled += len;
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        self.buffer
            .resize((self.filled + more).max(2 * self.buffer.len()), 0);
    }

    /// Hands the chunk to the sink if it is full.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        if self.filled >= self.chunk_bytes {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&mut self) {
        let next = self.new_buffer();
        let mut full = std::mem::replace(&mut self.buffer, next);
        full.truncate(self.filled);
        self.filled = 0;
        self.is_stopped |= !(self.sink)(full);
    }

    /// Hands the last chunk to the sink.
    pub(crate) fn finish(mut self) {
        if self.filled > 0 {
            self.buffer.truncate(self.filled);
            (self.sink)(self.buffer);
        }
    }
}
