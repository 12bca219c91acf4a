//! Decisions as tables: what is there, what was verified, what follows.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use super::*;
use crate::pebble::{Layer, LayerInputs};

/// The owner of this proxy, of another one, and of a version that did not write the port.
const OWN: Owner = Owner::Secret(Some(15090));
const OTHER: Owner = Owner::Secret(Some(15091));
const EARLIER: Owner = Owner::Secret(None);

/// `alice` has access metrics and a password; `@alice` is the marker of this proxy, `%alice` that of another one,
/// `~alice` that of an earlier version, `_alice` that of the command; `alice!` is an admin and `alice#` a local one.
fn identities(text: &str) -> BTreeMap<String, IdentityInfo> {
    text.split_whitespace()
        .map(|word| {
            let user = |name: &str| Username::parse(name).unwrap();
            let marker = |name: &str, owner| {
                let name = Marker::new(user(name), owner).name();
                (name, IdentityInfo::new("untrusted", &["basic"]))
            };
            if let Some(name) = word.strip_prefix('@') {
                marker(name, OWN)
            } else if let Some(name) = word.strip_prefix('%') {
                marker(name, OTHER)
            } else if let Some(name) = word.strip_prefix('~') {
                marker(name, EARLIER)
            } else if let Some(name) = word.strip_prefix('_') {
                marker(name, Owner::Command)
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
        Some(Marker { username, owner: OWN }) => format!("@{username}"),
        Some(Marker {
            username,
            owner: OTHER,
        }) => format!("%{username}"),
        Some(Marker {
            username,
            owner: Owner::Command,
        }) => format!("_{username}"),
        Some(Marker { username, .. }) => format!("~{username}"),
        None => name.to_owned(),
    }
}

fn show(step: &Action) -> String {
    match step {
        Action::Done => "done".to_owned(),
        Action::Verify => "verify".to_owned(),
        Action::Refuse(foreign) => format!("refuse {foreign:?}"),
        Action::Change(change, reason) => {
            let mut text = reason.as_str().to_owned();
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

fn present(name: &str, owner: Owner, adopt: bool) -> Desired {
    Desired::Present {
        username: Username::parse(name).unwrap(),
        owner,
        adopt,
    }
}

#[track_caller]
fn check(desired: &Desired, there: &str, verification: Option<Verification>, expect: &str) {
    let observed = Observed {
        identities: &identities(there),
        verification,
        stopped_proxy: None,
    };
    let action = plan_identity(desired, observed);
    assert_eq!(show(&action), expect, "{there:?} {verification:?}");
}

#[track_caller]
fn check_alice(there: &str, verification: Option<Verification>, expect: &str) {
    check(&present("alice", OWN, false), there, verification, expect);
}

const WORKS: Option<Verification> = Some(Verification::Works);
const FAILS: Option<Verification> = Some(Verification::Fails);
const UNKNOWN: Option<Verification> = Some(Verification::Unknown);

#[test]
fn a_new_secret_is_created_with_its_marker() {
    check_alice("", None, "created +alice +@alice");
    check_alice("", FAILS, "created +alice +@alice");
    check_alice("charm! bob carol#", None, "created +alice +@alice");
}

#[test]
fn what_works_is_not_written() {
    check_alice("alice @alice", None, "verify");
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
    check(&Desired::Removed(OWN), "bob! @bob", None, "revoked -@bob");
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
    let alice = present("alice", OWN, true);
    check(&alice, "alice", None, "verify");
    check(&alice, "alice", WORKS, "adopted +@alice");
    check(&alice, "alice", FAILS, "adopted +alice +@alice");
    check(&alice, "alice!", None, "refuse OtherAccess");
    check(&alice, "alice @alice", WORKS, "done");
}

#[test]
fn gone_removes_what_is_ours_and_nothing_else() {
    check(
        &Desired::Removed(OWN),
        "alice @alice",
        None,
        "revoked -alice -@alice",
    );
    check(&Desired::Removed(OWN), "@alice", None, "revoked -@alice");
    check(&Desired::Removed(OWN), "alice bob! charm!", None, "done");
    check(&Desired::Removed(OWN), "alice _alice", None, "done");
}

#[test]
fn a_refused_secret_changes_nothing() {
    check(&Desired::Unchanged, "alice @alice", None, "done");
    check(&Desired::Unchanged, "", None, "done");
}

#[test]
fn identities_of_the_secret_and_of_the_command_keep_apart() {
    check_alice("bob _bob", None, "created +alice +@alice");
    check_alice("alice _alice", WORKS, "tidied +@alice -_alice");
    check_alice("alice @alice _alice", WORKS, "tidied -_alice");
    let by_command = present("bob", Owner::Command, false);
    check(&by_command, "alice @alice", None, "created +bob +_bob");
    check(&by_command, "bob @bob", FAILS, "rotated +bob +_bob -@bob");
    check(&by_command, "eve _eve", None, "created +bob +_bob");
    check(
        &Desired::Removed(OWN),
        "alice @alice _alice",
        None,
        "revoked -@alice",
    );
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
        let wanted = present("alice", OWN, true);
        let mut verification = None;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 6, "{before:?}");
            let observed = Observed {
                identities: &there,
                verification,
                stopped_proxy: None,
            };
            match plan_identity(&wanted, observed) {
                Action::Done => break,
                Action::Verify => verification = Some(Verification::Fails),
                Action::Refuse(foreign) => panic!("{foreign:?} with {before:?}"),
                Action::Change(change, _) => {
                    for name in &change.remove {
                        there.remove(name);
                    }
                    for marker in &change.mark {
                        there.insert(marker.name(), IdentityInfo::new("untrusted", &["basic"]));
                    }
                    if let Some(username) = &change.write {
                        there.insert(username.to_string(), IdentityInfo::new("metrics", &["basic"]));
                        verification = Some(Verification::Works);
                    }
                }
            }
        }
        assert!(there.contains_key("alice"));
        assert_eq!(verification, Some(Verification::Works));
        let ours: Vec<_> = there.keys().filter_map(|name| Marker::parse(name)).collect();
        assert!(ours.contains(&Marker::new(Username::parse("alice").unwrap(), OWN)));
        assert!(!there.contains_key("metrics-proxy-owner--15090-bob"));
        for foreign in ["carol", "charm", "eve"] {
            assert_eq!(there.get(foreign), before.get(foreign), "{before:?}");
        }
        let bob_was_ours = before.contains_key("metrics-proxy-owner--15090-bob");
        assert_eq!(
            there.contains_key("bob"),
            before.contains_key("bob") && !bob_was_ours
        );
    }
}

#[test]
fn an_identity_of_another_proxy_is_left_alone() {
    check_alice("bob %bob", None, "created +alice +@alice");
    check_alice("alice @alice bob %bob", WORKS, "done");
    check_alice("alice %alice", None, "refuse OtherProxy(15091)");
    check_alice("%alice", None, "refuse OtherProxy(15091)");
    check(&Desired::Removed(OWN), "alice %alice", None, "done");
    check(
        &Desired::Removed(OWN),
        "bob %bob alice @alice",
        None,
        "revoked -alice -@alice",
    );
    // Both marked it at the same moment: the lower port keeps it, and the other one gives way.
    check_alice("alice @alice %alice", WORKS, "tidied -%alice");
    check(
        &present("alice", OTHER, false),
        "alice @alice %alice",
        WORKS,
        "refuse OtherProxy(15090)",
    );
    // Taking over is for identities without a marker.
    check(
        &present("alice", OWN, true),
        "alice %alice",
        None,
        "refuse OtherProxy(15091)",
    );
}

#[test]
fn an_identity_of_a_proxy_that_has_stopped_is_taken_over() {
    let alice = present("alice", OWN, false);
    let there = identities("alice %alice bob %bob");
    let plan = |verification| {
        let observed = Observed {
            identities: &there,
            verification,
            stopped_proxy: Some(15091),
        };
        show(&plan_identity(&alice, observed))
    };
    assert_eq!(plan(None), "verify");
    assert_eq!(plan(WORKS), "tidied +@alice -%alice");
    assert_eq!(plan(FAILS), "rotated +alice +@alice -%alice");
}

#[test]
fn markers_without_a_port_count_as_our_own() {
    check_alice("alice ~alice", None, "verify");
    check_alice("alice ~alice", WORKS, "tidied +@alice -~alice");
    check_alice("bob ~bob", None, "renamed +alice +@alice -bob -~bob");
    check_alice("alice @alice bob @bob ~bob", WORKS, "renamed -bob -~bob -@bob");
    check(&Desired::Removed(OWN), "bob ~bob", None, "revoked -bob -~bob");
}

#[test]
fn a_secret_decides_only_when_it_is_known() {
    let alice = Username::parse("alice").unwrap();
    let grace = Duration::from_secs(30);
    let of = |username, absent_for| desired(username, absent_for, grace, OWN, false);
    assert_eq!(of(Some(&alice), None), present("alice", OWN, false));
    assert_eq!(of(None, None), Desired::Unchanged, "refused, or not stable yet");
    assert_eq!(of(None, Some(Duration::from_secs(29))), Desired::Unchanged);
    assert_eq!(of(None, Some(grace)), Desired::Removed(OWN));
}

#[test]
fn only_repeated_writes_are_limited() {
    let mut limiter = WriteLimiter::default();
    let (first, drift, retry) = (
        Repetition::default(),
        Repetition {
            is_drift: true,
            is_retry: false,
        },
        Repetition {
            is_drift: true,
            is_retry: true,
        },
    );
    for _ in 0..3 {
        assert_eq!(attempt(drift, &mut limiter), Ok(()));
    }
    assert_eq!(attempt(drift, &mut limiter), Err(IdentityStatus::Contested));
    assert_eq!(attempt(retry, &mut limiter), Err(IdentityStatus::Rejected));
    assert_eq!(attempt(first, &mut limiter), Ok(()), "another secret");
}

#[test]
fn each_outcome_has_its_status() {
    let rows = [
        (Outcome::Applied(WORKS), Some(IdentityStatus::Verified)),
        (Outcome::Applied(FAILS), Some(IdentityStatus::Rejected)),
        (Outcome::Applied(UNKNOWN), Some(IdentityStatus::Unverified)),
        (Outcome::Applied(None), Some(IdentityStatus::Unverified)),
        (Outcome::Removed, None),
        (Outcome::Denied, None),
        (
            Outcome::Foreign(Foreign::Unmarked),
            Some(IdentityStatus::Foreign(Foreign::Unmarked)),
        ),
        (
            Outcome::Stopped(IdentityStatus::Contested),
            Some(IdentityStatus::Contested),
        ),
        (
            Outcome::WriteRefused("x".to_owned()),
            Some(IdentityStatus::WriteRefused("x".to_owned())),
        ),
    ];
    for (outcome, status) in rows {
        assert_eq!(conclude(outcome.clone()), status, "{outcome:?}");
    }
}

#[test]
fn repeated_writes_end_after_three_and_are_forgotten_after_quiet_passes() {
    let mut limiter = WriteLimiter::default();
    for _ in 0..3 {
        assert!(!limiter.is_exhausted());
        assert!(limiter.try_acquire());
        limiter.count_quiet_pass();
    }
    assert!(limiter.is_exhausted());
    assert!(!limiter.try_acquire());
    for _ in 0..10 {
        limiter.count_quiet_pass();
    }
    assert!(!limiter.is_exhausted());
    assert!(limiter.try_acquire());
}

#[test]
fn the_checks_of_another_proxy_are_recognized_by_their_port() {
    let layer = |port| {
        Layer::checks(LayerInputs {
            address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port,
            level: None,
            secret: None,
        })
    };
    let wanted = layer(15090).effective_checks();
    let theirs = layer(15091).to_yaml();
    let plan = |yaml: &str| Plan::parse(yaml).unwrap();
    assert_eq!(
        plan_layer(&wanted, &plan(&theirs), None, true),
        LayerAction::OtherProxy(15091)
    );
    assert_eq!(
        plan_layer(&wanted, &plan(&theirs), None, false),
        LayerAction::Post,
        "it has stopped, or was never replaced"
    );
    let mixed = theirs.replacen(":15091/", ":15092/", 1);
    assert_eq!(
        plan_layer(&wanted, &plan(&mixed), None, true),
        LayerAction::Post,
        "not one proxy"
    );
    let exec = "checks:\n  metrics-proxy-ready: {override: replace, exec: {command: 'true'}}\n";
    assert_eq!(plan_layer(&wanted, &plan(exec), None, true), LayerAction::Post);
    let moved = layer(15090).to_yaml().replace("localhost", "127.0.0.7");
    assert_eq!(
        plan_layer(&wanted, &plan(&moved), None, true),
        LayerAction::Post,
        "our own port"
    );
}

#[test]
fn checks_are_posted_when_missing_and_once_when_shadowed() {
    let layer = Layer::checks(LayerInputs {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        port: 15090,
        level: None,
        secret: None,
    });
    let wanted = layer.effective_checks();
    let complete = Plan::parse(&layer.to_yaml()).unwrap();
    let empty = Plan::default();
    assert_eq!(plan_layer(&wanted, &complete, None, true), LayerAction::Done);
    assert_eq!(plan_layer(&wanted, &empty, None, true), LayerAction::Post);
    let other = Plan::parse(&layer.to_yaml().replace("period: 10s", "period: 11s")).unwrap();
    assert_eq!(plan_layer(&wanted, &other, None, true), LayerAction::Post);
    let overruled = other.checks_named_as(&wanted);
    assert_eq!(
        plan_layer(&wanted, &other, Some(&overruled), true),
        LayerAction::Shadowed(wanted.keys().cloned().collect())
    );
    assert_eq!(
        plan_layer(&wanted, &empty, Some(&overruled), true),
        LayerAction::Post,
        "gone since: Pebble was restarted"
    );
    assert_eq!(
        plan_layer(&wanted, &complete, Some(&overruled), true),
        LayerAction::Done
    );
}
