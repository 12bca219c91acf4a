//! Body buffers that are reused by the next scrape.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Free buffers, sorted by capacity.
///
/// The kernel needs longer to provide fresh pages than the parser needs to read what is written to them. Bodies are
/// therefore read into the buffers of an earlier scrape. A buffer that two responses in a row did not use is freed, so
/// that the pool shrinks with the number of pods as well as it grows.
#[derive(Debug, Default)]
pub struct BufferPool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Returned since the last call of [`BufferPool::end_of_response`].
    fresh: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Not used since the last call; the next one frees them.
    stale: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Returns an empty buffer with a capacity of at least `bytes`; a reused one has at most four times as much.
    pub fn acquire(&self, bytes: usize) -> Vec<u8> {
        let bytes = bytes.max(1 << 10);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { fresh, stale } = &mut *state;
        acquire_from(fresh, bytes)
            .or_else(|| acquire_from(stale, bytes))
            .unwrap_or_else(|| {
                drop(state);
                Vec::with_capacity(bytes)
            })
    }

    /// Returns a buffer to the pool.
    pub fn release(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fresh.entry(buffer.capacity()).or_default().push(buffer);
    }

    /// Frees the buffers that were not used since the previous call.
    pub fn end_of_response(&self) {
        let unused = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = std::mem::take(&mut state.fresh);
            std::mem::replace(&mut state.stale, fresh)
        };
        // Freed outside of the lock.
        drop(unused);
    }

    /// Bytes of all buffers in the pool.
    #[cfg(test)]
    fn n_pooled_bytes(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .fresh
            .iter()
            .chain(&state.stale)
            .map(|(capacity, buffers)| capacity * buffers.len())
            .sum()
    }
}

fn acquire_from(buffers: &mut BTreeMap<usize, Vec<Vec<u8>>>, bytes: usize) -> Option<Vec<u8>> {
    let (&capacity, list) = buffers.range_mut(bytes..=bytes.saturating_mul(4)).next()?;
    let buffer = list.pop();
    if list.is_empty() {
        buffers.remove(&capacity);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_reused_for_a_body_of_its_size() {
        let pool = BufferPool::default();
        let mut buffer = pool.acquire(10_000);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        pool.release(buffer);
        let reused = pool.acquire(9_000);
        assert_eq!(reused.as_ptr(), address);
        assert!(reused.is_empty());
    }

    #[test]
    fn a_large_buffer_is_not_used_for_a_small_body() {
        let pool = BufferPool::default();
        pool.release(Vec::with_capacity(1 << 20));
        assert!(pool.acquire(2_000).capacity() < 1 << 20);
        assert_eq!(pool.n_pooled_bytes(), 1 << 20);
    }

    #[test]
    fn unused_buffers_are_freed_after_two_responses() {
        let pool = BufferPool::default();
        pool.release(Vec::with_capacity(5_000));
        pool.end_of_response();
        assert!(pool.n_pooled_bytes() > 0);
        pool.end_of_response();
        assert_eq!(pool.n_pooled_bytes(), 0);
    }
}
