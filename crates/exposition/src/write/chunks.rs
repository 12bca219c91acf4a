//! The answer's bytes, gathered into chunks (core).

use crate::Pool;

/// Pieces are copied in blocks of this size, past their end: a call for each short piece, or a loop over its bytes, would
/// cost more than the copy itself.
const BLOCK: usize = 32;

/// Room past a chunk's end for the sample that fills it. Longer ones make room for themselves.
const SLACK: usize = 4096;

/// A text with room behind it for whole blocks.
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

/// Hands chunks of about one size to a sink.
pub(crate) struct Chunks<'a> {
    /// Initialised to its end; what counts is the first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
    chunk_bytes: usize,
    pool: Option<&'a Pool>,
    sink: &'a mut dyn FnMut(Vec<u8>) -> bool,
    stopped: bool,
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
            stopped: false,
        };
        chunks.buffer = chunks.fresh();
        chunks
    }

    /// The sink wants no more.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// A buffer for one chunk, and for the sample that goes past its end.
    fn fresh(&self) -> Vec<u8> {
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

    /// Hands the chunk over if it is full.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        if self.filled >= self.chunk_bytes {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&mut self) {
        let next = self.fresh();
        let mut full = std::mem::replace(&mut self.buffer, next);
        full.truncate(self.filled);
        self.filled = 0;
        self.stopped |= !(self.sink)(full);
    }

    /// Hands over what is left.
    pub(crate) fn finish(mut self) {
        if self.filled > 0 {
            self.buffer.truncate(self.filled);
            (self.sink)(self.buffer);
        }
    }
}
