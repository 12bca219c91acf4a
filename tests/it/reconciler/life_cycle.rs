//! The life of an identity, from no secret to no secret, on one Pebble: after each step which credentials work, what
//! `/readyz` says, which identities exist, and how many writes that took.

use std::time::{Duration, Instant};

use serde_json::json;

use super::rig::{Rig, Setup, pair, push};
use crate::support::pebble::VERSIONS;

/// Something that happens.
enum Act {
    Nothing,
    /// The secret is pushed as one file.
    Push(String),
    /// The secret is two files, the second pushed 300 ms after the first.
    TwoWrites(&'static str, &'static str),
    /// The secret is removed.
    Remove,
    /// Another writer changes identities.
    ByAnother(serde_json::Value),
    /// SIGKILL to the service's process; Pebble starts it again.
    KillProxy,
    /// Pebble is stopped and started.
    RestartPebble,
    /// Pebble alone is killed with SIGKILL, and started: the proxy is an orphan and has to exit.
    KillPebble,
}

/// The state after it.
struct After {
    works: Option<(&'static str, &'static str)>,
    fails: &'static [(&'static str, &'static str)],
    readyz: &'static str,
    /// The first bytes of what `pebble checks` shows for the identity check; `-` where it is up.
    check: &'static str,
    names: &'static [&'static str],
    /// Writes of identities by the proxy.
    writes: usize,
}

type Chapter = Vec<(&'static str, Act, After)>;

fn yaml(username: &str, password: &str) -> Act {
    Act::Push(pair(username, password))
}

const GOOD: After = After {
    works: None,
    fails: &[],
    readyz: "ready",
    check: "-",
    names: &[],
    writes: 0,
};

const DORA: After = After {
    works: Some(("dora", "five")),
    names: &["@dora", "dora"],
    ..GOOD
};

/// What works still works, and the reason is shown.
fn refused(reason: &'static str) -> After {
    After {
        readyz: reason,
        check: reason,
        ..DORA
    }
}

fn secrets_come_and_change() -> Chapter {
    vec![
        (
            "start without secret",
            Act::Nothing,
            After {
                fails: &[("alice", "one")],
                readyz: "secret: not there; mount or unset --secret",
                check: "secret: not there; mount or unset --secret",
                ..GOOD
            },
        ),
        (
            "secret appears",
            yaml("alice", "one"),
            After {
                works: Some(("alice", "one")),
                names: &["@alice", "alice"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "nothing changed",
            yaml("alice", "one"),
            After {
                works: Some(("alice", "one")),
                names: &["@alice", "alice"],
                ..GOOD
            },
        ),
        (
            "password changed",
            yaml("alice", "two"),
            After {
                works: Some(("alice", "two")),
                fails: &[("alice", "one")],
                names: &["@alice", "alice"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "username changed",
            yaml("bob", "two"),
            After {
                works: Some(("bob", "two")),
                fails: &[("alice", "two"), ("alice", "one")],
                names: &["@bob", "bob"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "the secret becomes two files, and both are other ones in two writes",
            Act::TwoWrites("carol", "four"),
            After {
                works: Some(("carol", "four")),
                fails: &[("bob", "two"), ("carol", "two"), ("bob", "four")],
                names: &["@carol", "carol"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "what juju show-secret --reveal prints",
            Act::Push(
                json!({"d0erdl7mp25c762fsv4g": {"revision": 3, "owner": "<model>", "content": {"Data": {"username": "dora", "password": "five"}}}})
                    .to_string(),
            ),
            After {
                works: Some(("dora", "five")),
                fails: &[("carol", "four")],
                names: &["@dora", "dora"],
                writes: 1,
                ..GOOD
            },
        ),
    ]
}

fn secrets_are_refused() -> Chapter {
    vec![
        (
            "username invalid",
            yaml("d.ora@x", "six"),
            refused("secret: use username [a-zA-Z][a-zA-Z0-9_-]*"),
        ),
        (
            "username charm",
            yaml("charm", "six"),
            refused("secret: username charm is Juju's own"),
        ),
        (
            "username like our marker",
            yaml("metrics-proxy-owner--dora", "six"),
            refused("secret: username begins like our marker"),
        ),
        (
            "username empty",
            yaml("", "six"),
            refused("secret: username empty; set one"),
        ),
        (
            "password empty",
            yaml("dora", ""),
            refused("secret: password empty; set one"),
        ),
        (
            "password of 129 bytes",
            yaml("dora", &"x".repeat(129)),
            refused("secret: password over 128 bytes"),
        ),
        (
            "password with NUL",
            Act::Push("username: dora\npassword: \"a\\0b\"\n".to_owned()),
            refused("secret: NUL byte in password"),
        ),
        (
            "password missing",
            Act::Push("username: dora\n".to_owned()),
            refused("secret: password missing; add that key"),
        ),
        (
            "two secrets in one file",
            Act::Push(
                "a: {content: {username: u, password: p}}\nb: {content: {username: v, password: q}}\n"
                    .to_owned(),
            ),
            refused("secret: two secrets in one file; keep one"),
        ),
        ("the secret is as it was", yaml("dora", "five"), DORA),
    ]
}

fn others_meddle_and_processes_die() -> Chapter {
    vec![
        (
            "another writer deletes the identity",
            Act::ByAnother(json!({"dora": null})),
            After {
                works: Some(("dora", "five")),
                names: &["@dora", "dora"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "another writer changes the password",
            Act::ByAnother(
                json!({"dora": {"access": "metrics", "basic": {"password": "$6$0123456789abcdef$x"}}}),
            ),
            After {
                works: Some(("dora", "five")),
                names: &["@dora", "dora"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "another writer gives it admin access",
            Act::ByAnother(
                json!({"dora": {"access": "admin", "basic": {"password": "$6$0123456789abcdef$x"}}}),
            ),
            After {
                fails: &[("dora", "five")],
                readyz: "identity: other access; pick another name",
                check: "identity: other access; pick another name",
                names: &["@dora", "dora"],
                ..GOOD
            },
        ),
        (
            "which is kept when the secret gets another name",
            yaml("emil", "six"),
            After {
                works: Some(("emil", "six")),
                names: &["@emil", "dora", "emil"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "the proxy is killed",
            Act::KillProxy,
            After {
                works: Some(("emil", "six")),
                names: &["@emil", "dora", "emil"],
                ..GOOD
            },
        ),
        (
            "Pebble is stopped and started",
            Act::RestartPebble,
            After {
                works: Some(("emil", "six")),
                names: &["@emil", "dora", "emil"],
                ..GOOD
            },
        ),
        (
            "Pebble is killed and started",
            Act::KillPebble,
            After {
                works: Some(("emil", "six")),
                names: &["@emil", "dora", "emil"],
                ..GOOD
            },
        ),
        (
            "an identity of another writer exists",
            Act::ByAnother(
                json!({"frida": {"access": "metrics", "basic": {"password": "$6$0123456789abcdef$x"}}}),
            ),
            After {
                works: Some(("emil", "six")),
                names: &["@emil", "dora", "emil", "frida"],
                ..GOOD
            },
        ),
        (
            "the secret names it and is refused, the earlier identity stays",
            yaml("frida", "seven"),
            After {
                works: Some(("emil", "six")),
                fails: &[("frida", "seven")],
                readyz: "identity: name taken; use --adopt-identity",
                check: "identity: name taken; use --adopt-identity",
                names: &["@emil", "dora", "emil", "frida"],
                ..GOOD
            },
        ),
        (
            "the secret is removed",
            Act::Remove,
            After {
                fails: &[("emil", "six")],
                readyz: "secret: disappeared; mount it again",
                check: "secret: disappeared; mount it again",
                names: &["dora", "frida"],
                writes: 1,
                ..GOOD
            },
        ),
        (
            "and comes back",
            yaml("alice", "one"),
            After {
                works: Some(("alice", "one")),
                fails: &[("emil", "six")],
                names: &["@alice", "alice", "dora", "frida"],
                writes: 1,
                ..GOOD
            },
        ),
    ]
}

#[tokio::test]
async fn an_identity_lives_as_its_secret_does_on_pebble_1_26() {
    live(VERSIONS[0]).await;
}

#[tokio::test]
async fn an_identity_lives_as_its_secret_does_on_pebble_1_32() {
    live(VERSIONS[1]).await;
}

async fn live(version: &str) {
    // Longer than the 300 ms between two writes, with room for a loaded machine.
    let setup = Setup::default().env("METRICS_PROXY_SECRET_DEBOUNCE", "700ms");
    let mut rig = Rig::start(version, setup).await;
    let mut writes = 0;
    let story = [
        secrets_come_and_change(),
        secrets_are_refused(),
        others_meddle_and_processes_die(),
    ];
    for (step, act, after) in story.into_iter().flatten() {
        let is_by_another = matches!(act, Act::ByAnother(_));
        perform(&mut rig, act).await;
        rig.wait(&format!("{step}: /readyz says {:?}", after.readyz), async || {
            (rig.readyz("").await == format!("{}\n", after.readyz)).then_some(())
        })
        .await;
        rig.wait(&format!("{step}: identities {:?}", after.names), async || {
            (rig.names().await == after.names).then_some(())
        })
        .await;
        if let Some((username, password)) = after.works {
            rig.wait_works(username, password).await;
        }
        // Enough passes to show that nothing more changes.
        rig.passes(3).await;
        assert_eq!(rig.readyz("").await, format!("{}\n", after.readyz), "{step}");
        assert_eq!(rig.names().await, after.names, "{step}");
        for (username, password) in after.fails {
            assert!(
                !rig.works(username, password).await,
                "{step}: {username}/{password} still works"
            );
        }
        writes += after.writes + usize::from(is_by_another);
        assert_eq!(rig.identity_writes(), writes, "{step}: identity writes");
        check_shows(&rig, step, after.check).await;
    }
    let log = rig.pebble.log();
    assert!(
        !log.contains("authz_fail"),
        "no request of the proxy is ever refused"
    );
}

async fn check_shows(rig: &Rig, step: &str, expect: &str) {
    // Pebble forgets checks that were added over its API when it ends, and the proxy posts them again; a refresh after a
    // fault may race with that.
    let line = rig.check("metrics-proxy-identity").await;
    if expect == "-" {
        assert!(line.contains(" up "), "{step}: {line}");
    } else {
        assert!(line.contains(" down "), "{step}: {line}");
        assert!(line.contains(expect), "{step}: {line}");
    }
}

async fn perform(rig: &mut Rig, act: Act) {
    match act {
        Act::Nothing => {}
        Act::Push(content) => {
            if rig.secret().is_dir() {
                std::fs::remove_dir_all(rig.secret()).expect("a folder of this test");
            }
            rig.push(&content);
        }
        Act::TwoWrites(username, password) => {
            let before = std::fs::read_to_string(rig.secret()).expect("a secret is there");
            let old: serde_yaml::Value = serde_yaml::from_str(&before).expect("written by this test");
            std::fs::remove_file(rig.secret()).expect("a folder of this test");
            std::fs::create_dir(rig.secret()).expect("a folder of this test");
            for key in ["username", "password"] {
                push(&rig.secret().join(key), old[key].as_str().expect("a text"));
            }
            push(&rig.secret().join("username"), username);
            std::thread::sleep(Duration::from_millis(300));
            push(&rig.secret().join("password"), password);
        }
        Act::Remove => {
            std::fs::remove_file(rig.secret()).expect("a folder of this test");
        }
        Act::ByAnother(identities) => rig.change_identities(identities).await,
        Act::KillProxy => {
            let pid = rig.pid().await;
            kill(pid);
            rig.wait("another process of the proxy", async || {
                rig.pebble
                    .service_pid(crate::support::app::PROGRAM)
                    .filter(|now| *now != pid)
            })
            .await;
        }
        Act::RestartPebble => rig.pebble.restart().await,
        Act::KillPebble => {
            let us = rig.pid().await;
            let orphans = rig.pebble.kill_alone();
            assert!(orphans.contains(&us));
            let since = Instant::now();
            // At once, so that the next proxy is started beside the orphan.
            rig.pebble.restart().await;
            rig.wait("the orphan ends", async || {
                crate::support::process::command_line(us).is_empty().then_some(())
            })
            .await;
            let took = since.elapsed();
            assert!(took < Duration::from_secs(2), "the orphan took {took:?} to end");
        }
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a process of this test");
}
