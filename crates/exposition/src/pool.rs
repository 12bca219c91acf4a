//! Memory that is reused from one response to the next.
//!
//! Fresh pages from the kernel cost more than parsing into them. So buffers for bodies and chunks, indexes and the parser's
//! tables are kept, up to a limit in bytes. What lies idle for two responses is released, so that the pool follows the
//! number and the size of the targets down as well as up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::index::Index;
use crate::parse::Scratch;

/// The smallest buffer, in bytes.
const MIN_BUFFER_BYTES: usize = 1 << 10;

/// Indexes up to this size are used for any body.
const MIN_INDEX_BYTES: usize = 16 << 10;

/// Larger tables of the parser are not kept: the next body, whatever its size, would get them, and they would never be
/// idle. Only bodies of more than 500,000 samples, or with many thousand metric names, need larger ones.
const MAX_SCRATCH_BYTES: usize = 4 << 20;

/// Keeps memory for the next response. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

/// What is kept. `stale` was there at the end of the last response and has not been used since.
#[derive(Debug, Default)]
struct Kept {
    fresh: Shelf,
    stale: Shelf,
    /// Bytes of both.
    n_bytes: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    buffers: BySize<Vec<u8>>,
    indexes: BySize<Index>,
    scratches: Vec<Scratch>,
}

/// Things by their size in bytes.
#[derive(Debug)]
struct BySize<T>(BTreeMap<usize, Vec<T>>);

impl<T> Default for BySize<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> BySize<T> {
    fn add(&mut self, n_bytes: usize, item: T) {
        self.0.entry(n_bytes).or_default().push(item);
    }

    /// The smallest item of at least `n_bytes`, and at most four times as much: a large one is not spent on a small need.
    fn take_at_least(&mut self, n_bytes: usize) -> Option<(usize, T)> {
        let found = *self.0.range(n_bytes..=n_bytes.saturating_mul(4)).next()?.0;
        self.take(found)
    }

    /// The largest item of at most `n_bytes`.
    fn take_at_most(&mut self, n_bytes: usize) -> Option<(usize, T)> {
        let found = *self.0.range(..=n_bytes).next_back()?.0;
        self.take(found)
    }

    fn take(&mut self, n_bytes: usize) -> Option<(usize, T)> {
        let items = self.0.get_mut(&n_bytes)?;
        let item = items.pop()?;
        if items.is_empty() {
            self.0.remove(&n_bytes);
        }
        Some((n_bytes, item))
    }

    fn n_bytes(&self) -> usize {
        self.0.iter().map(|(n_bytes, items)| n_bytes * items.len()).sum()
    }
}

impl Shelf {
    fn n_bytes(&self) -> usize {
        let scratches: usize = self.scratches.iter().map(Scratch::n_bytes).sum();
        self.buffers.n_bytes() + self.indexes.n_bytes() + scratches
    }
}

impl Kept {
    fn take_buffer(&mut self, n_bytes: usize) -> Option<Vec<u8>> {
        let fresh = self.fresh.buffers.take_at_least(n_bytes);
        let (size, buffer) = fresh.or_else(|| self.stale.buffers.take_at_least(n_bytes))?;
        self.n_bytes -= size;
        Some(buffer)
    }

    fn take_index(&mut self, n_bytes: usize) -> Option<Index> {
        let fresh = self.fresh.indexes.take_at_most(n_bytes);
        let (size, index) = fresh.or_else(|| self.stale.indexes.take_at_most(n_bytes))?;
        self.n_bytes -= size;
        Some(index)
    }

    fn take_scratch(&mut self) -> Option<Scratch> {
        let scratch = self
            .fresh
            .scratches
            .pop()
            .or_else(|| self.stale.scratches.pop())?;
        self.n_bytes -= scratch.n_bytes();
        Some(scratch)
    }
}

impl Default for Pool {
    /// A pool that keeps up to 256 MiB.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

impl Pool {
    /// A pool that keeps up to `max_bytes` of memory from one response to the next.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                max_bytes,
                kept: Mutex::default(),
            }),
        }
    }

    /// An empty buffer with a capacity of at least `n_bytes`.
    pub fn acquire(&self, n_bytes: usize) -> Vec<u8> {
        let n_bytes = n_bytes.max(MIN_BUFFER_BYTES);
        let found = self.kept().take_buffer(n_bytes);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(n_bytes));
        buffer.clear();
        buffer
    }

    /// Takes a buffer back: a body, or a chunk that [`Merged::write`](crate::Merged::write) has handed out.
    pub fn release(&self, buffer: Vec<u8>) {
        let n_bytes = buffer.capacity();
        if n_bytes > 0 {
            self.keep(n_bytes, |shelf| shelf.buffers.add(n_bytes, buffer));
        }
    }

    /// Marks the end of a response. What has lain idle since the mark before is released.
    pub fn end_of_response(&self) {
        let idle = {
            let mut kept = self.kept();
            let kept = &mut *kept;
            let fresh = std::mem::take(&mut kept.fresh);
            let idle = std::mem::replace(&mut kept.stale, fresh);
            kept.n_bytes -= idle.n_bytes();
            idle
        };
        // Without the lock: unmapping memory takes time.
        drop(idle);
    }

    /// Bytes that lie idle.
    pub fn n_idle_bytes(&self) -> usize {
        self.kept().n_bytes
    }

    /// A buffer of at least this length, with arbitrary content: to clear it would cost a pass over its bytes.
    pub(crate) fn chunk(&self, len: usize) -> Vec<u8> {
        let found = self.kept().take_buffer(len);
        let mut chunk = found.unwrap_or_else(|| Vec::with_capacity(len));
        if chunk.len() < len {
            chunk.resize(len, 0);
        }
        chunk
    }

    /// An index with no more room than a body of this length can need, and tables for the parser.
    pub(crate) fn parser_memory(&self, body_len: usize) -> (Index, Scratch) {
        let mut kept = self.kept();
        // An index takes an eighth of its body, or up to twice as much as a body of very short lines.
        let index = kept.take_index((2 * body_len).max(MIN_INDEX_BYTES));
        let scratch = kept.take_scratch();
        (index.unwrap_or_default(), scratch.unwrap_or_default())
    }

    pub(crate) fn release_index(&self, index: Index) {
        let n_bytes = index.n_bytes();
        if n_bytes > 0 {
            self.keep(n_bytes, |shelf| shelf.indexes.add(n_bytes, index));
        }
    }

    pub(crate) fn release_scratch(&self, scratch: Scratch) {
        let n_bytes = scratch.n_bytes();
        if n_bytes <= MAX_SCRATCH_BYTES {
            self.keep(n_bytes, |shelf| shelf.scratches.push(scratch));
        }
    }

    fn keep(&self, n_bytes: usize, add: impl FnOnce(&mut Shelf)) {
        let mut kept = self.kept();
        if kept.n_bytes + n_bytes <= self.shared.max_bytes {
            kept.n_bytes += n_bytes;
            add(&mut kept.fresh);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic cannot leave it half changed: items are only moved in and out under the lock.
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn body(n_samples: usize) -> Vec<u8> {
        (0..n_samples)
            .flat_map(|i| format!("a{{i=\"{i}\"}} 1\n").into_bytes())
            .collect()
    }

    #[test]
    fn a_buffer_is_reused_for_a_body_of_its_size() {
        let pool = Pool::default();
        let mut buffer = pool.acquire(10_000);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        pool.release(buffer);
        let again = pool.acquire(9_000);
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
        assert_eq!(pool.n_idle_bytes(), 0);
    }

    #[test]
    fn a_large_buffer_is_not_spent_on_a_small_body() {
        let pool = Pool::default();
        pool.release(Vec::with_capacity(1 << 20));
        assert!(pool.acquire(2_000).capacity() < 1 << 20);
        assert_eq!(pool.n_idle_bytes(), 1 << 20);
    }

    #[test]
    fn a_chunk_is_not_cleared() {
        let pool = Pool::default();
        pool.release(vec![7; 5_000]);
        let chunk = pool.chunk(4_000);
        assert_eq!(chunk, vec![7; 5_000]);
    }

    #[test]
    fn indexes_and_tables_are_reused() {
        let pool = Pool::default();
        let limits = Limits::default();
        let n_idle = || {
            let kept = pool.kept();
            let shelves = [&kept.fresh, &kept.stale];
            let n_indexes = |shelf: &&Shelf| shelf.indexes.0.values().map(Vec::len).sum::<usize>();
            let n_scratches = |shelf: &&Shelf| shelf.scratches.len();
            (
                shelves.iter().map(n_indexes).sum::<usize>(),
                shelves.iter().map(n_scratches).sum::<usize>(),
            )
        };
        let exposition = pool.parse(body(1_000), None, &limits).expect("well-formed");
        assert_eq!(n_idle(), (0, 1));
        drop(exposition);
        assert_eq!(n_idle(), (1, 1));
        let before = pool.n_idle_bytes();
        assert!(before > 0);
        let exposition = pool.parse(body(1_000), None, &limits).expect("well-formed");
        assert_eq!(n_idle(), (0, 1));
        drop(exposition);
        assert_eq!(pool.n_idle_bytes(), before);
        // A body that is refused gives them back as well.
        assert!(pool.parse(b"}".to_vec(), None, &limits).is_err());
        assert_eq!(n_idle().1, 1);
    }

    #[test]
    fn what_is_idle_for_two_responses_is_released() {
        let pool = Pool::default();
        let limits = Limits::default();
        let parse = |n| drop(pool.parse(body(n), None, &limits));
        pool.release(Vec::with_capacity(5_000));
        parse(50_000);
        let large = pool.n_idle_bytes();
        pool.end_of_response();
        assert_eq!(pool.n_idle_bytes(), large);
        // Small bodies do not keep the large index alive; the tables, which are smaller, they do.
        for _ in 0..3 {
            parse(10);
            pool.end_of_response();
        }
        assert!(
            pool.n_idle_bytes() < large / 2,
            "{} of {large}",
            pool.n_idle_bytes()
        );
        pool.end_of_response();
        pool.end_of_response();
        assert_eq!(pool.n_idle_bytes(), 0);
    }

    #[test]
    fn tables_of_a_body_with_very_many_names_are_not_kept() {
        let pool = Pool::default();
        let names = (0..100_000).flat_map(|i| format!("name_{i} 1\n").into_bytes());
        drop(pool.parse(names.collect(), None, &Limits::default()));
        assert!(pool.kept().fresh.scratches.is_empty());
    }

    #[test]
    fn nothing_is_kept_over_the_limit() {
        let pool = Pool::new(0);
        pool.release(Vec::with_capacity(1_000));
        drop(pool.parse(body(10), None, &Limits::default()));
        assert_eq!(pool.n_idle_bytes(), 0);
    }
}
