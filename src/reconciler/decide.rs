//! What to do next: desired state against observed state. Pure, so that every case is a line in a test.

use std::collections::{BTreeMap, BTreeSet};

use crate::credential::Username;
use crate::pebble::{Change, IdentityInfo, Marker, Meaning, Ownership, Plan, Proof};

/// What the secret asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing can be said just now: the secret is refused or not settled. What is there stays.
    Unchanged,
    /// There has been no secret for long enough: what is ours goes.
    Gone,
    /// This identity, with the password of the secret.
    Present {
        /// Its name.
        username: Username,
        /// Who asks for it: decides which marker stands beside it, and what of ours goes.
        ownership: Ownership,
        /// Take over an identity of this name that carries no marker.
        adopt: bool,
    },
}

/// What to do about identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Done,
    /// Find out whether the credential works, and ask again.
    Prove,
    /// Apply this change; then prove, and ask again.
    Change(Change, Why),
    /// The name is somebody else's.
    Refuse(Foreign),
}

/// Why identities change, as far as the state of Pebble tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There was nothing of ours.
    Created,
    /// The password is another.
    Rotated,
    /// The name is another; the old one goes with the same call.
    Renamed,
    /// The secret is gone.
    Revoked,
    /// It was somebody else's and we were told to take it over.
    Adopted,
    /// Only markers are put in order.
    Tidied,
}

impl Why {
    /// The word for metrics, logs and notices.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Rotated => "rotated",
            Self::Renamed => "renamed",
            Self::Revoked => "revoked",
            Self::Adopted => "adopted",
            Self::Tidied => "tidied",
        }
    }
}

/// Why an identity of the secret's name is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// It has other access than metrics, or is of another type than basic.
    OtherAccess,
    /// It carries no marker of ours.
    Unmarked,
}

/// Decides about identities.
///
/// `proof` is what trying the credential showed after the last change, `None` where it was not tried yet.
pub fn decide_identity(
    wanted: &Wanted,
    identities: &BTreeMap<String, IdentityInfo>,
    proof: Option<Proof>,
) -> Step {
    let markers: BTreeSet<Marker> = identities.keys().filter_map(|name| Marker::parse(name)).collect();
    let (username, ownership, adopt) = match wanted {
        Wanted::Unchanged => return Step::Done,
        Wanted::Gone => {
            let remove = removals(&markers, identities, Ownership::Secret, None);
            return if remove.is_empty() {
                Step::Done
            } else {
                Step::Change(
                    Change {
                        remove,
                        ..Change::default()
                    },
                    Why::Revoked,
                )
            };
        }
        Wanted::Present {
            username,
            ownership,
            adopt,
        } => (username, *ownership, *adopt),
    };
    let marker = Marker::new(username.clone(), ownership);
    let is_marked = markers.iter().any(|marker| marker.username == *username);
    let existing = identities.get(username.as_str());
    if let Some(existing) = existing {
        if !existing.is_metrics_only() {
            return Step::Refuse(Foreign::OtherAccess);
        }
        if !is_marked && !adopt {
            return Step::Refuse(Foreign::Unmarked);
        }
    }
    let remove = removals(&markers, identities, ownership, Some(&marker));
    let renames = remove.iter().any(|name| Marker::parse(name).is_none());
    let mark: Vec<Marker> = (!markers.contains(&marker))
        .then_some(marker)
        .into_iter()
        .collect();
    let write = match (existing, proof) {
        (Some(_), None) => return Step::Prove,
        (None, _) | (Some(_), Some(Proof::Fails)) => true,
        // What cannot be proved is not overwritten: it may well work, and a write is heard of by everybody.
        (Some(_), Some(Proof::Works | Proof::Unknown)) => false,
    };
    if !write && mark.is_empty() && remove.is_empty() {
        return Step::Done;
    }
    let why = match (write, existing) {
        _ if renames => Why::Renamed,
        (true, None) => Why::Created,
        (_, Some(_)) if !is_marked => Why::Adopted,
        (true, Some(_)) => Why::Rotated,
        (false, _) => Why::Tidied,
    };
    Step::Change(
        Change {
            write: write.then(|| username.clone()),
            mark,
            remove,
        },
        why,
    )
}

/// The names to remove: markers of `ownership` other than `keep`, and the identities that they mark. An identity that
/// somebody has given other access since is theirs now and only loses its marker. A name that is written by hand and
/// then taken over by the secret (or the other way) loses the other marker.
fn removals(
    markers: &BTreeSet<Marker>,
    identities: &BTreeMap<String, IdentityInfo>,
    ownership: Ownership,
    keep: Option<&Marker>,
) -> Vec<String> {
    let mut remove = Vec::new();
    for marker in markers {
        let same_name = keep.is_some_and(|keep| keep.username == marker.username);
        let is_due = match ownership {
            // One secret, one identity: what the secret named before goes.
            Ownership::Secret => marker.ownership == Ownership::Secret || same_name,
            // A person may set several.
            Ownership::ByHand => same_name,
        };
        if Some(marker) == keep || !is_due {
            continue;
        }
        let also_marked = markers
            .iter()
            .any(|other| other.username == marker.username && other.ownership != marker.ownership);
        let is_ours = identities
            .get(marker.username.as_str())
            .is_some_and(IdentityInfo::is_metrics_only);
        if is_ours && !same_name && !also_marked {
            remove.push(marker.username.to_string());
        }
        remove.push(marker.name());
    }
    remove
}

/// Stops a fight: somebody else keeps changing what we keep putting back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fight {
    rounds: u32,
    calm_looks: u32,
}

/// How often the same secret is put back before we stop.
const MAX_ROUNDS: u32 = 3;
/// After so many looks that found all well, earlier rounds are forgotten.
const CALM_LOOKS: u32 = 10;

impl Fight {
    /// Whether to put it back once more; counts the round.
    pub fn enter(&mut self) -> bool {
        self.calm_looks = 0;
        if self.rounds >= MAX_ROUNDS {
            return false;
        }
        self.rounds += 1;
        true
    }

    /// A look that found all well.
    pub fn calm(&mut self) {
        self.calm_looks += 1;
        if self.calm_looks >= CALM_LOOKS {
            *self = Self::default();
        }
    }

    /// Whether we have stopped.
    pub fn is_over(&self) -> bool {
        self.rounds >= MAX_ROUNDS
    }
}

/// What to do about the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    /// The plan holds our checks.
    Done,
    /// Post them.
    Post,
    /// We did post them, and the plan holds something else under their names.
    Shadowed(BTreeSet<String>),
}

/// Decides about the layer. `overruled` is what the plan held under our names after our last post, where that was not
/// ours: posting again would change nothing, until the plan changes.
pub fn decide_layer(
    wanted: &BTreeMap<String, Meaning>,
    plan: &Plan,
    overruled: Option<&BTreeMap<String, Meaning>>,
) -> LayerStep {
    if plan.holds(wanted) {
        return LayerStep::Done;
    }
    let held = plan.under_names_of(wanted);
    if overruled != Some(&held) {
        return LayerStep::Post;
    }
    LayerStep::Shadowed(
        wanted
            .iter()
            .filter(|(name, check)| held.get(*name) != Some(check))
            .map(|(name, _)| name.clone())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::pebble::{Inputs, Layer};

    /// `alice` is metrics with a password, `@alice` her marker, `_alice` her marker by hand, `alice!` an admin, `alice#`
    /// a local one.
    fn identities(text: &str) -> BTreeMap<String, IdentityInfo> {
        text.split_whitespace()
            .map(|word| {
                let user = |name: &str| Username::parse(name).unwrap();
                if let Some(name) = word.strip_prefix('@') {
                    let name = Marker::new(user(name), Ownership::Secret).name();
                    (name, IdentityInfo::new("untrusted", &["basic"]))
                } else if let Some(name) = word.strip_prefix('_') {
                    let name = Marker::new(user(name), Ownership::ByHand).name();
                    (name, IdentityInfo::new("untrusted", &["basic"]))
                } else if let Some(name) = word.strip_suffix('!') {
                    (name.to_owned(), IdentityInfo::new("admin", &["basic"]))
                } else if let Some(name) = word.strip_suffix('#') {
                    (name.to_owned(), IdentityInfo::new("metrics", &["local"]))
                } else {
                    (word.to_owned(), IdentityInfo::new("metrics", &["basic"]))
                }
            })
            .collect()
    }

    fn short(name: &str) -> String {
        match Marker::parse(name) {
            Some(Marker {
                username,
                ownership: Ownership::Secret,
            }) => format!("@{username}"),
            Some(Marker { username, .. }) => format!("_{username}"),
            None => name.to_owned(),
        }
    }

    fn show(step: &Step) -> String {
        match step {
            Step::Done => "done".to_owned(),
            Step::Prove => "prove".to_owned(),
            Step::Refuse(foreign) => format!("refuse {foreign:?}"),
            Step::Change(change, why) => {
                let mut text = why.as_str().to_owned();
                if let Some(username) = &change.write {
                    let _ = write!(text, " +{username}");
                }
                for marker in &change.mark {
                    let _ = write!(text, " +{}", short(&marker.name()));
                }
                for name in &change.remove {
                    let _ = write!(text, " -{}", short(name));
                }
                text
            }
        }
    }

    fn present(name: &str, ownership: Ownership, adopt: bool) -> Wanted {
        Wanted::Present {
            username: Username::parse(name).unwrap(),
            ownership,
            adopt,
        }
    }

    #[track_caller]
    fn check(wanted: &Wanted, there: &str, proof: Option<Proof>, expect: &str) {
        let step = decide_identity(wanted, &identities(there), proof);
        assert_eq!(show(&step), expect, "{there:?} {proof:?}");
    }

    #[track_caller]
    fn check_alice(there: &str, proof: Option<Proof>, expect: &str) {
        check(&present("alice", Ownership::Secret, false), there, proof, expect);
    }

    const WORKS: Option<Proof> = Some(Proof::Works);
    const FAILS: Option<Proof> = Some(Proof::Fails);
    const UNKNOWN: Option<Proof> = Some(Proof::Unknown);

    #[test]
    fn a_new_secret_is_created_with_its_marker() {
        check_alice("", None, "created +alice +@alice");
        check_alice("", FAILS, "created +alice +@alice");
        check_alice("charm! bob carol#", None, "created +alice +@alice");
    }

    #[test]
    fn what_works_is_not_written() {
        check_alice("alice @alice", None, "prove");
        check_alice("alice @alice", WORKS, "done");
        check_alice("alice @alice", UNKNOWN, "done");
        check_alice("alice @alice charm! bob carol#", WORKS, "done");
    }

    #[test]
    fn another_password_is_written_alone() {
        check_alice("alice @alice", FAILS, "rotated +alice");
    }

    #[test]
    fn another_name_takes_the_old_one_along() {
        check_alice("bob @bob", None, "renamed +alice +@alice -bob -@bob");
        check_alice("bob @bob carol", None, "renamed +alice +@alice -bob -@bob");
        check_alice(
            "bob @bob eve @eve",
            None,
            "renamed +alice +@alice -bob -@bob -eve -@eve",
        );
        check_alice("alice @alice bob @bob", WORKS, "renamed -bob -@bob");
    }

    #[test]
    fn what_somebody_removed_is_put_back() {
        check_alice("@alice", None, "created +alice");
        check_alice("@alice @bob", None, "created +alice -@bob");
    }

    #[test]
    fn an_old_identity_that_became_somebody_elses_only_loses_its_marker() {
        check_alice("bob! @bob", None, "created +alice +@alice -@bob");
        check(&Wanted::Gone, "bob! @bob", None, "revoked -@bob");
    }

    #[test]
    fn foreign_identities_are_left_alone() {
        check_alice("alice", None, "refuse Unmarked");
        check_alice("alice", WORKS, "refuse Unmarked");
        check_alice("alice bob @bob", None, "refuse Unmarked");
        check_alice("alice!", None, "refuse OtherAccess");
        check_alice("alice! @alice", None, "refuse OtherAccess");
        check_alice("alice#", None, "refuse OtherAccess");
    }

    #[test]
    fn adopting_takes_an_unmarked_one_and_no_other() {
        let alice = present("alice", Ownership::Secret, true);
        check(&alice, "alice", None, "prove");
        check(&alice, "alice", WORKS, "adopted +@alice");
        check(&alice, "alice", FAILS, "adopted +alice +@alice");
        check(&alice, "alice!", None, "refuse OtherAccess");
        check(&alice, "alice @alice", WORKS, "done");
    }

    #[test]
    fn gone_removes_what_is_ours_and_nothing_else() {
        check(&Wanted::Gone, "alice @alice", None, "revoked -alice -@alice");
        check(&Wanted::Gone, "@alice", None, "revoked -@alice");
        check(&Wanted::Gone, "alice bob! charm!", None, "done");
        check(&Wanted::Gone, "alice _alice", None, "done");
    }

    #[test]
    fn a_refused_secret_changes_nothing() {
        check(&Wanted::Unchanged, "alice @alice", None, "done");
        check(&Wanted::Unchanged, "", None, "done");
    }

    #[test]
    fn by_hand_and_by_secret_keep_apart() {
        check_alice("bob _bob", None, "created +alice +@alice");
        check_alice("alice _alice", WORKS, "tidied +@alice -_alice");
        check_alice("alice @alice _alice", WORKS, "tidied -_alice");
        let by_hand = present("bob", Ownership::ByHand, false);
        check(&by_hand, "alice @alice", None, "created +bob +_bob");
        check(&by_hand, "bob @bob", FAILS, "rotated +bob +_bob -@bob");
        check(&by_hand, "eve _eve", None, "created +bob +_bob");
        check(&Wanted::Gone, "alice @alice _alice", None, "revoked -@alice");
    }

    /// Killed between any two steps, the next start finishes the work: whatever is there, following the decisions ends
    /// with the secret's identity, its marker, nothing else of ours, and everything foreign as it was.
    #[test]
    fn every_state_comes_to_rest() {
        let words = [
            "alice", "@alice", "_alice", "bob", "@bob", "carol", "charm!", "_eve", "eve",
        ];
        for bits in 0_u32..1 << words.len() {
            let mut there: BTreeMap<_, _> = words
                .iter()
                .enumerate()
                .filter(|(bit, _)| bits & (1 << bit) != 0)
                .flat_map(|(_, word)| identities(word))
                .collect();
            let before = there.clone();
            let wanted = present("alice", Ownership::Secret, true);
            let mut proof = None;
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < 6, "{before:?}");
                match decide_identity(&wanted, &there, proof) {
                    Step::Done => break,
                    Step::Prove => proof = Some(Proof::Fails),
                    Step::Refuse(foreign) => panic!("{foreign:?} with {before:?}"),
                    Step::Change(change, _) => {
                        for name in &change.remove {
                            there.remove(name);
                        }
                        for marker in &change.mark {
                            there.insert(marker.name(), IdentityInfo::new("untrusted", &["basic"]));
                        }
                        if let Some(username) = &change.write {
                            there.insert(username.to_string(), IdentityInfo::new("metrics", &["basic"]));
                            proof = Some(Proof::Works);
                        }
                    }
                }
            }
            assert!(there.contains_key("alice"));
            assert_eq!(proof, Some(Proof::Works));
            let ours: Vec<_> = there.keys().filter_map(|name| Marker::parse(name)).collect();
            assert!(ours.contains(&Marker::new(Username::parse("alice").unwrap(), Ownership::Secret)));
            assert!(!there.contains_key("metrics-proxy-owner--bob"));
            for foreign in ["carol", "charm", "eve"] {
                assert_eq!(there.get(foreign), before.get(foreign), "{before:?}");
            }
            let bob_was_ours = before.contains_key("metrics-proxy-owner--bob");
            assert_eq!(
                there.contains_key("bob"),
                before.contains_key("bob") && !bob_was_ours
            );
        }
    }

    #[test]
    fn a_fight_ends_after_three_rounds_and_is_forgotten_after_calm() {
        let mut fight = Fight::default();
        for _ in 0..3 {
            assert!(!fight.is_over());
            assert!(fight.enter());
            fight.calm();
        }
        assert!(fight.is_over());
        assert!(!fight.enter());
        for _ in 0..10 {
            fight.calm();
        }
        assert!(!fight.is_over());
        assert!(fight.enter());
    }

    #[test]
    fn checks_are_posted_when_missing_and_once_when_shadowed() {
        let layer = Layer::checks(Inputs {
            port: 15090,
            level: None,
            secret: None,
        });
        let wanted = layer.check_meanings();
        let held = Plan::parse(&layer.to_yaml()).unwrap();
        let empty = Plan::default();
        assert_eq!(decide_layer(&wanted, &held, None), LayerStep::Done);
        assert_eq!(decide_layer(&wanted, &empty, None), LayerStep::Post);
        let other = Plan::parse(&layer.to_yaml().replace("period: 10s", "period: 11s")).unwrap();
        assert_eq!(decide_layer(&wanted, &other, None), LayerStep::Post);
        let overruled = other.under_names_of(&wanted);
        assert_eq!(
            decide_layer(&wanted, &other, Some(&overruled)),
            LayerStep::Shadowed(wanted.keys().cloned().collect())
        );
        assert_eq!(
            decide_layer(&wanted, &empty, Some(&overruled)),
            LayerStep::Post,
            "gone since: Pebble was restarted"
        );
        assert_eq!(decide_layer(&wanted, &held, Some(&overruled)), LayerStep::Done);
    }
}
