//! The bytes held for one answer, and who loses when they are too many.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Accounts for the bodies of one answer.
///
/// Where their sum passes the limit, the largest are refused, whatever came first: the same targets lose at every
/// scrape. Refusing the largest at each overflow keeps the same bodies as refusing the largest at the end would: a
/// body refused early is at least as large as each one held then, so with these it would not have fitted later either.
#[derive(Debug)]
pub struct Held {
    limit_bytes: u64,
    state: Mutex<State>,
    in_progress_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    sum_bytes: u64,
    /// By size, then by place: of two equal bodies the later target loses.
    bodies: BinaryHeap<(u64, usize)>,
    refused: Vec<usize>,
}

impl Held {
    /// Nothing held yet.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            state: Mutex::default(),
            in_progress_bytes: AtomicU64::new(0),
        }
    }

    /// Takes a complete body into the account; `false` where it is the one to go. Other bodies that have to go are
    /// told by [`Held::take_refused`].
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

    /// The targets whose bodies have to go since the last call.
    pub fn take_refused(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).refused)
    }

    /// Accounts for bytes that are still being read. `false` where the bodies under way are too large in all and this
    /// one is large itself: it would be refused in the end.
    pub fn grow(&self, body_bytes: u64, by_bytes: u64) -> bool {
        let all = self.in_progress_bytes.fetch_add(by_bytes, Ordering::Relaxed) + by_bytes;
        all <= self.limit_bytes || body_bytes < self.limit_bytes / 64
    }

    /// The limit in force.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Gives back what [`Held::grow`] took, once a body is complete or given up.
    pub fn shrink(&self, by_bytes: u64) {
        self.in_progress_bytes.fetch_sub(by_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the bodies in the order given and returns the targets that are kept.
    fn kept(limit: u64, order: &[usize], sizes: &[u64]) -> Vec<usize> {
        let held = Held::new(limit);
        let mut kept = vec![false; sizes.len()];
        for &index in order {
            kept[index] = held.add(index, sizes[index]);
            for refused in held.take_refused() {
                kept[refused] = false;
            }
        }
        (0..sizes.len()).filter(|index| kept[*index]).collect()
    }

    #[test]
    fn the_largest_body_goes_whatever_came_first() {
        let sizes = [60, 50, 40];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(kept(100, &order, &sizes), [1, 2], "{order:?}");
        }
    }

    #[test]
    fn equal_bodies_go_from_the_end() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            assert_eq!(kept(100, &order, &[40, 40, 40]), [0, 1], "{order:?}");
        }
    }

    #[test]
    fn a_body_over_the_limit_alone_goes_and_the_rest_stays() {
        assert_eq!(kept(100, &[1, 0, 2], &[10, 1000, 20]), [0, 2]);
    }

    #[test]
    fn a_large_body_under_way_is_given_up_when_all_together_are_too_large() {
        let held = Held::new(6400);
        assert!(held.grow(6000, 6000));
        assert!(!held.grow(6500, 500));
        assert!(
            held.grow(50, 50),
            "a small one is never given up for the large ones' sake"
        );
        held.shrink(6550);
        assert!(held.grow(6000, 6000));
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
