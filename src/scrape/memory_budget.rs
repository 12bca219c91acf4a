//! The memory budget of one response, and which bodies are refused when it is exceeded.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts the bytes of the bodies of one response.
///
/// When the sum exceeds the limit, the largest bodies are refused in whatever order they arrived, so that every scrape
/// refuses the same targets. Refusing the largest body at each overflow has the same result as refusing the largest
/// ones at the end: a body that is refused early is at least as large as each one that is kept at that moment, so it
/// would not fit beside them later either.
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: u64,
    state: Mutex<State>,
    in_progress_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    sum_bytes: u64,
    /// Sorted by size, then by index: of two equal bodies the one of the later target is refused.
    bodies: BinaryHeap<(u64, usize)>,
    refused: Vec<usize>,
}

impl MemoryBudget {
    /// An empty budget.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            state: Mutex::default(),
            in_progress_bytes: AtomicU64::new(0),
        }
    }

    /// Adds a complete body. Returns `false` if that body is refused; [`MemoryBudget::drain_refused`] returns the other
    /// bodies that are refused because of it.
    pub fn add(&self, index: usize, bytes: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sum_bytes += bytes;
        state.bodies.push((bytes, index));
        let mut kept = true;
        while state.sum_bytes > self.limit_bytes {
            let Some((largest_bytes, largest)) = state.bodies.pop() else {
                break;
            };
            state.sum_bytes -= largest_bytes;
            if largest == index {
                kept = false;
            } else {
                state.refused.push(largest);
            }
        }
        kept
    }

    /// Returns the indexes of the targets whose bodies were refused since the last call.
    pub fn drain_refused(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).refused)
    }

    /// Adds bytes that are still being read. Returns `false` if all bodies in progress together exceed the limit and
    /// this one is large itself: it would be refused in the end.
    pub fn grow(&self, body_bytes: u64, by_bytes: u64) -> bool {
        let all = self.in_progress_bytes.fetch_add(by_bytes, Ordering::Relaxed) + by_bytes;
        all <= self.limit_bytes || body_bytes < self.limit_bytes / 64
    }

    /// The limit in force.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Releases what [`MemoryBudget::grow`] added, when the body is complete or abandoned.
    pub fn shrink(&self, by_bytes: u64) {
        self.in_progress_bytes.fetch_sub(by_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the bodies in the given order and returns the targets that are kept.
    fn kept(limit: u64, order: &[usize], sizes: &[u64]) -> Vec<usize> {
        let budget = MemoryBudget::new(limit);
        let mut kept = vec![false; sizes.len()];
        for &index in order {
            kept[index] = budget.add(index, sizes[index]);
            for refused in budget.drain_refused() {
                kept[refused] = false;
            }
        }
        (0..sizes.len()).filter(|index| kept[*index]).collect()
    }

    #[test]
    fn the_largest_body_is_refused_in_any_order() {
        let sizes = [60, 50, 40];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(kept(100, &order, &sizes), [1, 2], "{order:?}");
        }
    }

    #[test]
    fn of_equal_bodies_the_last_is_refused() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            assert_eq!(kept(100, &order, &[40, 40, 40]), [0, 1], "{order:?}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_and_the_rest_is_kept() {
        assert_eq!(kept(100, &[1, 0, 2], &[10, 1000, 20]), [0, 2]);
    }

    #[test]
    fn a_large_body_in_progress_is_refused_when_all_together_are_too_large() {
        let budget = MemoryBudget::new(6400);
        assert!(budget.grow(6000, 6000));
        assert!(!budget.grow(6500, 500));
        assert!(
            budget.grow(50, 50),
            "a small body is never refused because of large ones"
        );
        budget.shrink(6550);
        assert!(budget.grow(6000, 6000));
    }

    proptest::proptest! {
        #[test]
        fn any_order_keeps_the_same_bodies(
            sizes in proptest::collection::vec(0u64..100, 0..20),
            limit in 1u64..500,
            seed in proptest::prelude::any::<u64>(),
        ) {
            let forward: Vec<usize> = (0..sizes.len()).collect();
            let mut shuffled = forward.clone();
            let mut state = seed;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            proptest::prop_assert_eq!(kept(limit, &forward, &sizes), kept(limit, &shuffled, &sizes));
        }
    }
}
