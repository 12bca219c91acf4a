//! What `identity remove` removes.

use super::*;

#[test]
fn only_identities_with_metrics_access_are_removed() {
    let identity = |access, kind| IdentityInfo::new(access, &[kind]);
    let identities = BTreeMap::from([
        ("charm".to_owned(), identity("admin", "local")),
        ("carol".to_owned(), identity("metrics", "basic")),
        ("alice".to_owned(), identity("metrics", "basic")),
        (
            "metrics-proxy-owner--_alice".to_owned(),
            identity("untrusted", "basic"),
        ),
        ("bob".to_owned(), identity("admin", "basic")),
        (
            "metrics-proxy-owner--15090-bob".to_owned(),
            identity("untrusted", "basic"),
        ),
    ]);
    let names = |name, adopt| match removal_of(&identities, name, adopt) {
        Ok(removal) => format!("{} {}", removal.usernames.join(","), removal.markers.join(",")),
        Err(error) => error.to_string().split(';').next().unwrap_or_default().to_owned(),
    };
    assert_eq!(names("alice", false), "alice metrics-proxy-owner--_alice");
    assert_eq!(
        names("bob", false),
        " metrics-proxy-owner--15090-bob",
        "it is another writer's now"
    );
    assert_eq!(names("carol", true), "carol ");
    assert_eq!(
        names("carol", false),
        "cannot remove carol: it has no owner marker of metrics-proxy"
    );
    assert_eq!(
        names("charm", true),
        "cannot remove charm: it has other access than metrics, so that another program needs it"
    );
    assert_eq!(
        names("metrics-proxy-owner--_alice", true),
        "cannot remove metrics-proxy-owner--_alice: there is no such identity"
    );
    assert_eq!(removal_of_owned(&identities, |_| true).usernames, ["alice"]);
}
