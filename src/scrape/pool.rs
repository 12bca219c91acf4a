//! Buffers that go from one scrape to the next.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Buffers by capacity. Fresh memory costs more than scanning what is written to it, so bodies are read into buffers
/// of the scrape before.
///
/// What was not used for two answers in a row is let go, so that the pool follows the fleet down as well as up.
#[derive(Debug, Default)]
pub struct BufferPool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    young: BTreeMap<usize, Vec<Vec<u8>>>,
    old: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl BufferPool {
    /// An empty buffer of at least `bytes` capacity, and at most four times as much.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let bytes = bytes.max(1 << 10);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { young, old } = &mut *state;
        take_from(young, bytes)
            .or_else(|| take_from(old, bytes))
            .unwrap_or_else(|| {
                drop(state);
                Vec::with_capacity(bytes)
            })
    }

    /// Takes a buffer back.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.young.entry(buffer.capacity()).or_default().push(buffer);
    }

    /// Marks the end of an answer: buffers that lay idle since the last mark are let go.
    pub fn age(&self) {
        let idle = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let young = std::mem::take(&mut state.young);
            std::mem::replace(&mut state.old, young)
        };
        drop(idle);
    }

    /// Bytes that lie idle.
    #[cfg(test)]
    fn idle_bytes(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .young
            .iter()
            .chain(&state.old)
            .map(|(capacity, buffers)| capacity * buffers.len())
            .sum()
    }
}

fn take_from(buffers: &mut BTreeMap<usize, Vec<Vec<u8>>>, bytes: usize) -> Option<Vec<u8>> {
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
    fn a_buffer_comes_back_for_a_body_of_its_size() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(10_000);
        buffer.extend_from_slice(b"abc");
        let place = buffer.as_ptr();
        pool.give(buffer);
        let again = pool.take(9_000);
        assert_eq!(again.as_ptr(), place);
        assert!(again.is_empty());
    }

    #[test]
    fn a_large_buffer_is_not_spent_on_a_small_body() {
        let pool = BufferPool::default();
        pool.give(Vec::with_capacity(1 << 20));
        assert!(pool.take(2_000).capacity() < 1 << 20);
        assert_eq!(pool.idle_bytes(), 1 << 20);
    }

    #[test]
    fn idle_buffers_are_let_go_after_two_answers() {
        let pool = BufferPool::default();
        pool.give(Vec::with_capacity(5_000));
        pool.age();
        assert!(pool.idle_bytes() > 0);
        pool.age();
        assert_eq!(pool.idle_bytes(), 0);
    }
}
