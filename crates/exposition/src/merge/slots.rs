//! The families of the response while they are planned.
//!
//! A slot is a family name with a type. Its members are the sample names that belong to it, and each member has the
//! contributions of all targets to that sample name. Joining two families, or taking one apart, moves members between
//! slots; contributions stay where they are:
//!
//! ```text
//! slots          (x, counter)               (x_total, unknown)
//!                 │                          │
//! members         x_total ── x_created       x_total               joining moves this member into (x, counter)
//!                 │          │               │
//! contributions   [p0 p1]    [p1]            [p2]                  ranges of one vector
//! ```

use std::collections::HashMap;
use std::ops::Range;

use super::family::Contribution;
use super::names::{NameId, Names};
use crate::types::MetricType;

/// A slot, by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId(u32);

/// A member, by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(u32);

/// A family name with a type.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: NameId,
    pub(super) kind: MetricType,
    first_member: Option<MemberId>,
}

/// A sample name of a slot.
#[derive(Debug)]
struct Member {
    name: NameId,
    /// The next member of the same slot.
    next: Option<MemberId>,
    /// Its contributions, as a range of [`Slots::contributions`]. Empty until they are all known.
    from: u32,
    to: u32,
}

/// All slots, with their members and contributions.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) names: Names,
    all: Vec<Slot>,
    members: Vec<Member>,
    by_key: HashMap<(NameId, MetricType), SlotId, foldhash::fast::RandomState>,
    /// Grouped by member, each member's in the order of the inputs.
    contributions: Vec<Contribution>,
    /// The slot of the family `up` that the proxy writes. It has a sample for each target, and is never taken apart.
    pub(super) up: Option<SlotId>,
}

/// Positions are 32 bits wide: a member takes at least a line of a body, and all bodies together fit into memory.
fn to_u32(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

impl Slots {
    pub(super) fn get(&self, id: SlotId) -> &Slot {
        &self.all[id.0 as usize]
    }

    /// The slot of a name and type, created where it is missing.
    pub(super) fn slot(&mut self, name: NameId, kind: MetricType) -> SlotId {
        let Self { all, by_key, .. } = self;
        *by_key.entry((name, kind)).or_insert_with(|| {
            all.push(Slot {
                name,
                kind,
                first_member: None,
            });
            SlotId(to_u32(all.len() - 1))
        })
    }

    /// The member of a slot for a sample name, created where it is missing.
    pub(super) fn member(&mut self, slot: SlotId, name: NameId) -> MemberId {
        if let Some(found) = self
            .members(slot)
            .find(|&member| self.sample_name(member) == name)
        {
            return found;
        }
        let id = MemberId(to_u32(self.members.len()));
        self.members.push(Member {
            name,
            next: None,
            from: 0,
            to: 0,
        });
        self.attach(id, slot);
        id
    }

    fn attach(&mut self, member: MemberId, slot: SlotId) {
        let slot = &mut self.all[slot.0 as usize];
        self.members[member.0 as usize].next = slot.first_member.replace(member);
    }

    /// Gives each member its contributions, by a counting sort, which keeps their order.
    pub(super) fn set_contributions(&mut self, found: &[(MemberId, Contribution)]) {
        for (member, _) in found {
            self.members[member.0 as usize].to += 1;
        }
        let mut end = 0;
        for member in &mut self.members {
            member.from = end;
            end += member.to;
            member.to = member.from;
        }
        let Some(&(_, any)) = found.first() else {
            return;
        };
        self.contributions = vec![any; found.len()];
        for (member, contribution) in found {
            let to = &mut self.members[member.0 as usize].to;
            self.contributions[*to as usize] = *contribution;
            *to += 1;
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..to_u32(self.all.len())).map(SlotId)
    }

    pub(super) fn members(&self, slot: SlotId) -> impl Iterator<Item = MemberId> {
        let first = self.get(slot).first_member;
        std::iter::successors(first, |member| self.members[member.0 as usize].next)
    }

    /// A slot without members is not written, apart from that of `up`.
    pub(super) fn is_written(&self, slot: SlotId) -> bool {
        self.get(slot).first_member.is_some() || self.up == Some(slot)
    }

    pub(super) fn sample_name(&self, member: MemberId) -> NameId {
        self.members[member.0 as usize].name
    }

    pub(super) fn of_member(&self, member: MemberId) -> &[Contribution] {
        let Member { from, to, .. } = self.members[member.0 as usize];
        &self.contributions[from as usize..to as usize]
    }

    pub(super) fn contributions(&self, slot: SlotId) -> impl Iterator<Item = &Contribution> {
        self.members(slot).flat_map(|member| self.of_member(member))
    }

    /// Moves the members of `from` to the slots that `target` names; a member whose target is `from` itself stays.
    pub(super) fn move_members(&mut self, from: SlotId, mut target: impl FnMut(&mut Self, NameId) -> SlotId) {
        let mut next = self.all[from.0 as usize].first_member.take();
        while let Some(member) = next {
            next = self.members[member.0 as usize].next;
            let name = self.sample_name(member);
            let to = target(self, name);
            self.attach(member, to);
        }
    }

    /// Gives each slot one `untyped` (`unknown`) slot per sample name in its place.
    pub(super) fn untype(&mut self, slots: impl IntoIterator<Item = SlotId>) {
        for slot in slots {
            self.move_members(slot, |slots, name| slots.slot(name, MetricType::Unknown));
        }
    }

    /// Hands the names and all contributions over, when planning is done.
    pub(super) fn into_parts(self) -> (Names, Vec<Contribution>) {
        (self.names, self.contributions)
    }

    /// The contributions to a slot as a range of all contributions, in the order in which they are written.
    pub(super) fn arrange(&mut self, slot: SlotId) -> Range<usize> {
        let ranges: Vec<Range<usize>> = self
            .members(slot)
            .map(|member| {
                let Member { from, to, .. } = self.members[member.0 as usize];
                from as usize..to as usize
            })
            .collect();
        let mut range = match &ranges[..] {
            [] => return 0..0,
            [only] => only.clone(),
            [first, others @ ..] => self.join_equal(first, others).unwrap_or_else(|| {
                let start = self.contributions.len();
                for range in ranges {
                    self.contributions.extend_from_within(range);
                }
                start..self.contributions.len()
            }),
        };
        let found = &mut self.contributions[range.clone()];
        // One contribution of each input, in the order of the inputs, needs no sorting. Most families are like that.
        if !found.windows(2).all(|pair| pair[0].input < pair[1].input) {
            found.sort_by_key(Contribution::position);
            range.end = range.start + join_source_families(found);
        }
        range
    }

    /// Joins members whose contributions come from the same source families of the same inputs, such as the `_bucket`,
    /// `_sum` and `_count` of a histogram in all targets: then nothing has to be copied or sorted.
    fn join_equal(&mut self, first: &Range<usize>, others: &[Range<usize>]) -> Option<Range<usize>> {
        let sources = |range: &Range<usize>| {
            let contributions = &self.contributions[range.clone()];
            contributions
                .iter()
                .map(|contribution| (contribution.input, contribution.source_family))
        };
        if !others.iter().all(|other| sources(first).eq(sources(other))) {
            return None;
        }
        for other in others {
            for (to, from) in first.clone().zip(other.clone()) {
                let suffixes = self.contributions[from].suffixes;
                self.contributions[to].suffixes.add(suffixes);
            }
        }
        Some(first.clone())
    }
}

/// Makes one contribution of all that an input has of one source family. Returns how many are left.
fn join_source_families(contributions: &mut [Contribution]) -> usize {
    let mut n_left = 0;
    for at in 0..contributions.len() {
        let next = contributions[at];
        match contributions[..n_left].last_mut() {
            Some(last) if last.input == next.input && last.source_family == next.source_family => {
                last.suffixes.add(next.suffixes);
            }
            _ => {
                contributions[n_left] = next;
                n_left += 1;
            }
        }
    }
    n_left
}
