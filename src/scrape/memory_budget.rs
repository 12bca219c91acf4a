//! The memory account of the process: what all scrapes of all requests may occupy at the same time.
//!
//! Each scrape has a [`Charge`], which grows while its body is read, decompressed and parsed, and which lives until its
//! response is written. If all charges together exceed the limit, the most expensive scrape is refused, whatever came
//! first, so that every scrape of the same pods refuses the same ones. A refused scrape gives its memory back at its next
//! step; until then it counts, but no other is refused in its place.
//!
//! Refusing the most expensive scrape at each overflow has the same result as refusing the most expensive ones at the
//! end: one that is refused early is at least as large as each one that is kept at that moment.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a thread waits for refused scrapes to give their memory back before it goes on.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The account. There is one per process; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit_bytes: u64,
    state: Mutex<State>,
    /// Notified when a charge ends.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    charges: HashMap<u64, Entry>,
    /// Bytes of all charges.
    total_bytes: u64,
    /// Bytes of the refused ones, which will end soon.
    leaving_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    stage: Stage,
    signal: Arc<Notify>,
    /// All scrapes of one response.
    group: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// May be refused.
    Open,
    /// Refused, and about to end.
    Refused,
    /// Part of a response that is being written.
    Committed,
}

/// A scrape was refused because of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget {
    /// The limit in force.
    pub limit_bytes: u64,
}

/// The part of the account that one scrape occupies. It ends when it is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: MemoryBudget,
    id: u64,
    signal: Arc<Notify>,
}

impl MemoryBudget {
    /// An empty account.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit_bytes,
                state: Mutex::default(),
                freed: Condvar::new(),
            }),
        }
    }

    /// The limit in force.
    pub fn limit_bytes(&self) -> u64 {
        self.shared.limit_bytes
    }

    /// Bytes of all charges.
    pub fn used_bytes(&self) -> u64 {
        self.state().total_bytes
    }

    /// Opens a charge of zero bytes. `group` is notified when it is refused.
    pub fn open(&self, group: &Arc<Notify>) -> Charge {
        let signal = Arc::new(Notify::new());
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.charges.insert(
            id,
            Entry {
                bytes: 0,
                stage: Stage::Open,
                signal: Arc::clone(&signal),
                group: Arc::clone(group),
            },
        );
        Charge {
            budget: self.clone(),
            id,
            signal,
        }
    }

    fn over_budget(&self) -> OverBudget {
        OverBudget {
            limit_bytes: self.shared.limit_bytes,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Refuses the most expensive scrapes until the rest fits. Of two equal ones, the later is refused.
    fn refuse(&mut self, limit_bytes: u64) {
        while self.total_bytes - self.leaving_bytes > limit_bytes {
            let most_expensive = self
                .charges
                .iter_mut()
                .filter(|(_, entry)| entry.stage == Stage::Open && entry.bytes > 0)
                .max_by_key(|(id, entry)| (entry.bytes, **id));
            let Some((_, entry)) = most_expensive else { return };
            entry.stage = Stage::Refused;
            self.leaving_bytes += entry.bytes;
            entry.signal.notify_one();
            entry.group.notify_one();
        }
    }
}

impl Charge {
    /// Adds bytes.
    ///
    /// # Errors
    /// If this scrape is refused, now or since an earlier call.
    pub fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        self.change(|entry| entry.bytes += bytes)
    }

    /// Removes bytes.
    pub fn shrink(&self, bytes: u64) {
        let _ = self.change(|entry| entry.bytes = entry.bytes.saturating_sub(bytes));
    }

    /// Returns whether this scrape is refused.
    pub fn is_refused(&self) -> bool {
        !self.is_open(&self.budget.state())
    }

    /// Replaces an estimate by the actual number of bytes.
    ///
    /// # Errors
    /// If this scrape is refused, now or since an earlier call.
    pub fn set(&self, bytes: u64) -> Result<(), OverBudget> {
        self.change(|entry| entry.bytes = bytes)
    }

    /// As [`Charge::grow`], for threads: waits a moment until refused scrapes have given their memory back, so that the
    /// process does not exceed the limit by what they have.
    ///
    /// # Errors
    /// If this scrape is refused, now or since an earlier call.
    pub fn grow_blocking(&self, bytes: u64) -> Result<(), OverBudget> {
        self.grow(bytes)?;
        let limit = self.budget.shared.limit_bytes;
        let state = self.budget.state();
        let fits =
            |state: &mut State| state.total_bytes > limit && state.leaving_bytes > 0 && self.is_open(state);
        let (state, _) = self
            .budget
            .shared
            .freed
            .wait_timeout_while(state, MAX_WAIT, fits)
            .unwrap_or_else(PoisonError::into_inner);
        if self.is_open(&state) {
            Ok(())
        } else {
            Err(self.budget.over_budget())
        }
    }

    fn is_open(&self, state: &State) -> bool {
        state
            .charges
            .get(&self.id)
            .is_some_and(|entry| entry.stage != Stage::Refused)
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) -> Result<(), OverBudget> {
        let mut state = self.budget.state();
        let state = &mut *state;
        if let Some(entry) = state.charges.get_mut(&self.id) {
            let before = entry.bytes;
            change(entry);
            let after = entry.bytes;
            state.total_bytes = state.total_bytes - before + after;
            if entry.stage == Stage::Refused {
                state.leaving_bytes = state.leaving_bytes - before + after;
            }
        }
        state.refuse(self.budget.shared.limit_bytes);
        if self.is_open(state) {
            Ok(())
        } else {
            Err(self.budget.over_budget())
        }
    }

    /// Waits until this scrape is refused.
    pub async fn refused(&self) -> OverBudget {
        // `notify_one` stores a permit where nobody waits yet, so that no refusal is missed.
        self.signal.notified().await;
        self.budget.over_budget()
    }

    /// From now on this scrape is part of a response and is not refused any more.
    ///
    /// # Errors
    /// If it has been refused already.
    pub fn commit(&self) -> Result<(), OverBudget> {
        let mut state = self.budget.state();
        match state.charges.get_mut(&self.id) {
            Some(entry) if entry.stage != Stage::Refused => {
                entry.stage = Stage::Committed;
                Ok(())
            }
            _ => Err(self.budget.over_budget()),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        if let Some(entry) = state.charges.remove(&self.id) {
            state.total_bytes -= entry.bytes;
            if entry.stage == Stage::Refused {
                state.leaving_bytes -= entry.bytes;
            }
        }
        drop(state);
        self.budget.shared.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grows charges to these sizes in the order given, and returns which are kept.
    fn kept(limit: u64, order: &[usize], sizes: &[u64]) -> Vec<usize> {
        let budget = MemoryBudget::new(limit);
        let mut charges: Vec<Option<Charge>> =
            sizes.iter().map(|_| Some(budget.open(&Arc::default()))).collect();
        for &index in order {
            if let Some(charge) = &charges[index] {
                let _ = charge.grow(sizes[index]);
            }
            for charge in &mut charges {
                if charge.as_ref().is_some_and(|charge| charge.grow(0).is_err()) {
                    *charge = None;
                }
            }
        }
        (0..sizes.len())
            .filter(|index| charges[*index].is_some())
            .collect()
    }

    #[test]
    fn the_largest_is_refused_in_any_order() {
        let sizes = [60, 50, 40];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(kept(100, &order, &sizes), [1, 2], "{order:?}");
        }
    }

    #[test]
    fn of_equal_ones_the_last_is_refused() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            assert_eq!(kept(100, &order, &[40, 40, 40]), [0, 1], "{order:?}");
        }
    }

    #[test]
    fn one_over_the_limit_is_refused_and_the_rest_is_kept() {
        assert_eq!(kept(100, &[1, 0, 2], &[10, 1000, 20]), [0, 2]);
    }

    #[test]
    fn the_account_is_one_for_all_and_counts_until_the_end() {
        let budget = MemoryBudget::new(100);
        let writing = budget.open(&Arc::default());
        writing.grow(70).unwrap();
        writing.commit().unwrap();
        let other = budget.clone().open(&Arc::default());
        assert_eq!(other.grow(40), Err(OverBudget { limit_bytes: 100 }));
        assert_eq!(budget.used_bytes(), 110);
        drop(other);
        let small = budget.open(&Arc::default());
        small.grow(30).unwrap();
        drop(writing);
        assert_eq!(budget.used_bytes(), 30);
        small.set(90).unwrap();
        drop(small);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_scrape_that_waits_learns_that_it_is_refused() {
        let budget = MemoryBudget::new(100);
        let large = budget.open(&Arc::default());
        large.grow(80).unwrap();
        let small = budget.open(&Arc::default());
        small.grow(40).unwrap();
        assert_eq!(large.refused().await, OverBudget { limit_bytes: 100 });
        assert!(large.commit().is_err());
        small.commit().unwrap();
    }

    #[test]
    fn a_thread_waits_until_a_refused_scrape_has_ended() {
        let budget = MemoryBudget::new(100);
        let large = budget.open(&Arc::default());
        large.grow(80).unwrap();
        let small = budget.open(&Arc::default());
        std::thread::scope(|scope| {
            let growing = scope.spawn(|| {
                small.grow_blocking(40).unwrap();
                budget.used_bytes()
            });
            while large.grow(0).is_ok() {
                std::thread::yield_now();
            }
            drop(large);
            assert_eq!(growing.join().unwrap(), 40);
        });
    }

    proptest::proptest! {
        #[test]
        fn any_order_keeps_the_same(
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
