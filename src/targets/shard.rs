//! Which unit serves which pod when several share the work.
//!
//! Rendezvous hashing by pod UID: each unit gives each pod a weight, the greatest wins. From N to N+1 units only the pods
//! that the new one wins move, and back only those of the one that goes; the others stay where they are.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

/// How long a pod is kept, at most, for a new owner that is not ready.
const LONGEST_HANDOVER: SignedDuration = SignedDuration::from_secs(60);

/// Who serves a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// This unit.
    Own,
    /// This unit still, until then or until its new owner is ready: a pod served twice is better than one by nobody.
    Held(Timestamp),
    /// The unit of this number.
    Other(u32),
}

/// This unit's share of the pods, and what it still holds of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    index: u32,
    total: u32,
    /// Earlier numbers of units, and when each ended.
    past: Vec<(u32, Timestamp)>,
    /// The units that are ready, as far as known.
    ready: BTreeSet<u32>,
    /// How long other units may need to learn of a new number.
    learning: SignedDuration,
}

impl Share {
    /// Unit `index` of `total`, counted from 0. Units learn of a change within `learning`; until then what was ours is
    /// kept, ready or not.
    pub fn new(index: u32, total: u32, learning: SignedDuration) -> Self {
        Self {
            index,
            total: total.max(1),
            past: Vec::new(),
            ready: BTreeSet::new(),
            learning,
        }
    }

    /// This unit's number, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many units there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Tells of the units as they are now. Returns whether anything is new.
    pub fn update(&mut self, total: u32, ready: BTreeSet<u32>, now: Timestamp) -> bool {
        let total = total.max(1);
        let before = self.clone();
        self.past.retain(|(_, ended)| handover_end(*ended) > now);
        if total != self.total {
            self.past.push((self.total, now));
            self.total = total;
        }
        self.ready = ready;
        *self != before
    }

    /// Who serves the pod of this UID.
    pub fn serving(&self, uid: &str, now: Timestamp) -> Serving {
        let owner = owner(uid, self.total);
        if owner == self.index {
            return Serving::Own;
        }
        let held_until = |ended: &Timestamp| {
            if self.ready.contains(&owner) {
                ended
                    .checked_add(self.learning.min(LONGEST_HANDOVER))
                    .unwrap_or(*ended)
            } else {
                handover_end(*ended)
            }
        };
        let held = self
            .past
            .iter()
            .filter(|(total, _)| self::owner(uid, *total) == self.index)
            .map(|(_, ended)| held_until(ended))
            .max();
        match held {
            Some(until) if until > now => Serving::Held(until),
            _ => Serving::Other(owner),
        }
    }

    /// Whether the owner of this pod was ready when we last looked.
    pub fn is_owner_ready(&self, uid: &str) -> bool {
        self.ready.contains(&owner(uid, self.total))
    }
}

fn handover_end(ended: Timestamp) -> Timestamp {
    ended.checked_add(LONGEST_HANDOVER).unwrap_or(ended)
}

/// The unit, from 0, that the pod of this UID belongs to among `total`.
///
/// Units of different versions must agree, so the hash is spelt out: FNV-1a over the UID, then the finalizer of
/// `splitmix64` over that and the unit's number.
pub fn owner(uid: &str, total: u32) -> u32 {
    let pod = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let weight = |unit: &u32| mix(pod ^ mix(u64::from(*unit) + 1));
    (0..total.max(1)).max_by_key(weight).unwrap_or(0)
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|n| format!("6f1c4d2e-{n:04x}-4b7a-9c3d-0123456789ab"))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn shares_are_even_and_a_change_moves_few() {
        let count = 10_000;
        for total in [2u32, 3, 5, 8] {
            let mut shares = vec![0usize; total as usize];
            let mut moved = 0usize;
            for uid in uids(count) {
                let before = owner(&uid, total);
                let after = owner(&uid, total + 1);
                shares[before as usize] += 1;
                if before != after {
                    assert_eq!(after, total, "only to the new unit");
                    moved += 1;
                }
            }
            let (even, expected) = (count / total as usize, count / (total as usize + 1));
            for share in shares {
                assert!(share.abs_diff(even) < even / 10, "{share} of {even}");
            }
            assert!(
                moved.abs_diff(expected) < expected / 10,
                "{moved} of {expected} moved"
            );
        }
    }

    /// Pinned: units of two versions share the work during an upgrade.
    #[test]
    fn owners_never_change_between_versions() {
        let owners: Vec<u32> = uids(12).map(|uid| owner(&uid, 5)).collect();
        assert_eq!(owners, PINNED);
        assert_eq!(owner("any", 1), 0);
        assert_eq!(owner("any", 0), 0);
    }

    #[test]
    fn what_was_ours_is_held_until_its_new_owner_is_ready_and_has_learnt() {
        let learning = SignedDuration::from_secs(15);
        let mut share = Share::new(0, 1, learning);
        let moved = uids(100).find(|uid| owner(uid, 2) == 1).unwrap();
        let stays = uids(100).find(|uid| owner(uid, 2) == 0).unwrap();
        assert_eq!(share.serving(&moved, at(0)), Serving::Own);
        assert!(share.update(2, BTreeSet::from([0]), at(0)));
        assert!(!share.update(2, BTreeSet::from([0]), at(1)));
        assert_eq!(share.serving(&stays, at(1)), Serving::Own);
        assert_eq!(share.serving(&moved, at(1)), Serving::Held(at(60)));
        assert_eq!(share.serving(&moved, at(59)), Serving::Held(at(60)));
        assert_eq!(share.serving(&moved, at(60)), Serving::Other(1));
        assert!(share.update(2, BTreeSet::from([0, 1]), at(5)));
        assert_eq!(
            share.serving(&moved, at(5)),
            Serving::Held(at(15)),
            "it may not know yet"
        );
        assert_eq!(share.serving(&moved, at(15)), Serving::Other(1));
    }

    #[test]
    fn a_unit_that_is_scaled_away_holds_its_share_while_others_learn() {
        let mut share = Share::new(2, 3, SignedDuration::from_secs(15));
        let own = uids(100).find(|uid| owner(uid, 3) == 2).unwrap();
        share.update(2, BTreeSet::from([0, 1]), at(0));
        assert_eq!(share.serving(&own, at(14)), Serving::Held(at(15)));
        assert!(matches!(share.serving(&own, at(15)), Serving::Other(0 | 1)));
        let new = uids(100).find(|uid| owner(uid, 3) != 2).unwrap();
        assert!(matches!(share.serving(&new, at(1)), Serving::Other(_)));
    }

    /// Worked out by another program.
    const PINNED: [u32; 12] = [2, 0, 4, 0, 3, 3, 2, 3, 1, 1, 1, 2];
}
