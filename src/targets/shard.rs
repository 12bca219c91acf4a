//! Which shard serves which pod.
//!
//! Shards are assigned by rendezvous hashing of the pod's UID: each shard has a weight for each pod, and the greatest
//! weight wins. When the number of shards grows from N to N+1, only the pods that the new shard wins move; when it
//! shrinks again, only those move back.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

/// The longest time that a pod is still served here after it was assigned to a shard that is not ready.
const LONGEST_HANDOVER: SignedDuration = SignedDuration::from_secs(60);

/// Which shard serves a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// This shard, to which the pod is assigned.
    Own,
    /// This shard, until the given time or until the newly assigned shard is ready. A pod that two shards serve for a
    /// moment is better than a pod that no shard serves.
    HandingOver(Timestamp),
    /// Another shard.
    Other {
        /// Its number, from 0.
        shard: u32,
        /// The number of shards.
        total: u32,
    },
}

/// The most shards that share the pods, by `--total-shards` or by the replicas of a StatefulSet. Each pod is hashed once for
/// each shard, so a number that is too large by mistake would cost minutes.
pub const MAX_SHARDS: u32 = 1000;

/// The pods that are assigned to this shard, and those that it still hands over after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardAssignment {
    index: u32,
    total: u32,
    /// Earlier numbers of shards, and when each was replaced.
    past: Vec<(u32, Timestamp)>,
    /// The shards that are known to be ready.
    ready: BTreeSet<u32>,
    /// How long other shards may need to notice a change of the number.
    learning: SignedDuration,
}

impl ShardAssignment {
    /// Makes the assignment of shard `index` of `total`, counted from 0. Other shards notice a change of `total` within
    /// `learning`; until then this shard keeps its pods, whether the new shard is ready or not.
    pub fn new(index: u32, total: u32, learning: SignedDuration) -> Self {
        Self {
            index,
            total: total.max(1),
            past: Vec::new(),
            ready: BTreeSet::new(),
            learning,
        }
    }

    /// Returns the number of this shard, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the number of shards.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Records the current number of shards, and which of them are ready. Returns whether anything has changed.
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

    /// Returns which shard serves the pod with this UID.
    pub fn serving(&self, uid: &str, now: Timestamp) -> Serving {
        let owner = owner(uid, self.total);
        if owner == self.index {
            return Serving::Own;
        }
        let handover_until = |ended: &Timestamp| {
            if self.ready.contains(&owner) {
                ended
                    .checked_add(self.learning.min(LONGEST_HANDOVER))
                    .unwrap_or(*ended)
            } else {
                handover_end(*ended)
            }
        };
        let until = self
            .past
            .iter()
            .filter(|(total, _)| self::owner(uid, *total) == self.index)
            .map(|(_, ended)| handover_until(ended))
            .max();
        match until {
            Some(until) if until > now => Serving::HandingOver(until),
            _ => Serving::Other {
                shard: owner,
                total: self.total,
            },
        }
    }

    /// Returns whether the shard that this pod is assigned to was ready at the last update.
    pub fn is_owner_ready(&self, uid: &str) -> bool {
        self.ready.contains(&owner(uid, self.total))
    }
}

fn handover_end(ended: Timestamp) -> Timestamp {
    ended.checked_add(LONGEST_HANDOVER).unwrap_or(ended)
}

/// Returns the shard, from 0, that the pod with this UID is assigned to among `total`.
///
/// Shards of different versions must agree, so the hash is fixed: FNV-1a over the UID, then the finalizer of `splitmix64`
/// over that and the number of the shard.
pub fn owner(uid: &str, total: u32) -> u32 {
    let pod = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let weight = |shard: &u32| mix(pod ^ mix(u64::from(*shard) + 1));
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
                    assert_eq!(after, total, "only to the new shard");
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

    /// Pinned: shards of two versions share the work during an upgrade.
    #[test]
    fn owners_never_change_between_versions() {
        let owners: Vec<u32> = uids(12).map(|uid| owner(&uid, 5)).collect();
        assert_eq!(owners, PINNED);
        assert_eq!(owner("any", 1), 0);
        assert_eq!(owner("any", 0), 0);
    }

    #[test]
    fn a_pod_is_handed_over_once_its_new_shard_is_ready_and_has_noticed() {
        let learning = SignedDuration::from_secs(15);
        let mut share = ShardAssignment::new(0, 1, learning);
        let moved = uids(100).find(|uid| owner(uid, 2) == 1).unwrap();
        let stays = uids(100).find(|uid| owner(uid, 2) == 0).unwrap();
        assert_eq!(share.serving(&moved, at(0)), Serving::Own);
        assert!(share.update(2, BTreeSet::from([0]), at(0)));
        assert!(!share.update(2, BTreeSet::from([0]), at(1)));
        assert_eq!(share.serving(&stays, at(1)), Serving::Own);
        assert_eq!(share.serving(&moved, at(1)), Serving::HandingOver(at(60)));
        assert_eq!(share.serving(&moved, at(59)), Serving::HandingOver(at(60)));
        assert_eq!(
            share.serving(&moved, at(60)),
            Serving::Other { shard: 1, total: 2 }
        );
        assert!(share.update(2, BTreeSet::from([0, 1]), at(5)));
        assert_eq!(
            share.serving(&moved, at(5)),
            Serving::HandingOver(at(15)),
            "it may not have noticed yet"
        );
        assert_eq!(
            share.serving(&moved, at(15)),
            Serving::Other { shard: 1, total: 2 }
        );
    }

    #[test]
    fn a_shard_that_is_scaled_away_serves_its_pods_while_others_notice() {
        let mut share = ShardAssignment::new(2, 3, SignedDuration::from_secs(15));
        let own = uids(100).find(|uid| owner(uid, 3) == 2).unwrap();
        share.update(2, BTreeSet::from([0, 1]), at(0));
        assert_eq!(share.serving(&own, at(14)), Serving::HandingOver(at(15)));
        assert!(matches!(
            share.serving(&own, at(15)),
            Serving::Other { shard: 0 | 1, .. }
        ));
        let new = uids(100).find(|uid| owner(uid, 3) != 2).unwrap();
        assert!(matches!(share.serving(&new, at(1)), Serving::Other { .. }));
    }

    /// Computed by another program.
    const PINNED: [u32; 12] = [2, 0, 4, 0, 3, 3, 2, 3, 1, 1, 1, 2];
}
