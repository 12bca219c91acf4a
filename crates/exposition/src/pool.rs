//! Buffers that outlive a scrape (core).
//!
//! Getting fresh pages from the kernel costs more than parsing into them: indexes, tables and output chunks are kept
//! from one answer to the next, up to a limit in bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::index::Index;
use crate::parse::Scratch;
use crate::{Exposition, Limits, Refusal};

/// Parses and merges as the free functions do, with buffers that are used again. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    indexes: Vec<Index>,
    scratches: Vec<Scratch>,
    chunks: Vec<Vec<u8>>,
    /// Bytes of indexes and chunks. Scratch is as many as there are threads.
    bytes: usize,
}

impl Default for Pool {
    /// A pool that keeps up to 256 MiB, which is the index of about 2 GB of bodies.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

impl Pool {
    /// A pool that keeps up to `max_bytes` of memory from one answer to the next.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                max_bytes,
                kept: Mutex::default(),
            }),
        }
    }

    /// As [`parse`](crate::parse()). The index comes back to the pool when the exposition is dropped.
    pub fn parse(
        &self,
        body: Vec<u8>,
        content_type: Option<&str>,
        limits: &Limits,
    ) -> Result<Exposition, Refusal> {
        let (mut index, mut scratch) = {
            let mut kept = self.kept();
            let index = kept.indexes.pop().unwrap_or_default();
            kept.bytes = kept.bytes.saturating_sub(index.n_bytes());
            (index, kept.scratches.pop().unwrap_or_default())
        };
        let parsed = crate::parse_with(&body, content_type, limits, &mut index, &mut scratch);
        self.kept().scratches.push(scratch);
        match parsed {
            Ok(format) => Ok(Exposition::new(body, index, format, Some(self.clone()))),
            Err(refusal) => {
                self.keep_index(index);
                Err(refusal)
            }
        }
    }

    /// Takes a chunk back that [`Merged::write`] gave, for the next one.
    pub fn give_back(&self, chunk: Vec<u8>) {
        let mut kept = self.kept();
        if kept.bytes + chunk.capacity() <= self.shared.max_bytes {
            kept.bytes += chunk.capacity();
            kept.chunks.push(chunk);
        }
    }

    /// A buffer of at least this length, whatever is in it: to clear it would cost another pass over its bytes.
    pub(crate) fn chunk(&self, len: usize) -> Vec<u8> {
        let found = {
            let mut kept = self.kept();
            let found = kept.chunks.pop();
            kept.bytes = kept.bytes.saturating_sub(found.as_ref().map_or(0, Vec::capacity));
            found
        };
        let mut chunk = found.unwrap_or_default();
        if chunk.len() < len {
            chunk.resize(len, 0);
        }
        chunk
    }

    pub(crate) fn keep_index(&self, index: Index) {
        let mut kept = self.kept();
        let bytes = index.n_bytes();
        if kept.bytes + bytes <= self.shared.max_bytes {
            kept.bytes += bytes;
            kept.indexes.push(index);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whatever panicked while holding it, what is kept is whole: only pushes and pops happen under the lock.
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_up_to_the_limit() {
        let pool = Pool::new(1 << 20);
        let limits = Limits::default();
        for _ in 0..3 {
            let exposition = pool
                .parse(b"a 1\na{b=\"c\"} 2\n".to_vec(), None, &limits)
                .expect("well-formed");
            assert_eq!(pool.kept().indexes.len(), 0);
            assert_eq!(exposition.n_samples(), 2);
            drop(exposition);
            // One lock at a time: both in one statement would wait for each other.
            assert_eq!(pool.kept().indexes.len(), 1);
            assert_eq!(pool.kept().scratches.len(), 1);
            assert!(pool.parse(b"}".to_vec(), None, &limits).is_err());
        }
        pool.give_back(Vec::with_capacity(1000));
        let before = pool.kept().bytes;
        assert!(pool.chunk(10).capacity() >= 1000);
        assert_eq!(pool.kept().bytes, before - 1000);
        let none = Pool::new(0);
        none.give_back(Vec::with_capacity(1000));
        drop(none.parse(b"a 1\n".to_vec(), None, &limits));
        assert_eq!(none.kept().chunks.len(), 0);
        assert_eq!(none.kept().indexes.len(), 0);
    }
}
