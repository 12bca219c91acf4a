//! Many rotations in a row: one credential at a time, nothing left over, memory flat, no password anywhere.
//!
//! `METRICS_PROXY_ROTATIONS` says how many; `make soak` has 1,000.

use std::fmt::Write as _;

use base64::Engine as _;

use super::rig::{Rig, Setup, push};
use crate::support::pebble::VERSIONS;
use crate::support::tools::{self, Missing};

fn n_rotations() -> usize {
    match std::env::var("METRICS_PROXY_ROTATIONS") {
        Ok(text) => text.parse().expect("METRICS_PROXY_ROTATIONS is a number"),
        Err(_) => 20,
    }
}

#[tokio::test]
async fn rotations_leave_nothing_behind_on_pebble_1_26() {
    rotate(VERSIONS[0]).await;
}

#[tokio::test]
async fn rotations_leave_nothing_behind_on_pebble_1_32() {
    rotate(VERSIONS[1]).await;
}

async fn rotate(version: &str) {
    let n_rotations = n_rotations();
    let setup = Setup::default()
        .env("METRICS_PROXY_SECRET_DEBOUNCE", "20ms")
        .env("METRICS_PROXY_LOG_LEVEL", "trace");
    let rig = Rig::start(version, setup).await;
    let mut passwords: Vec<(String, String)> = Vec::new();
    let pid = rig.pid().await;
    let mut early_kib = 0;
    for n in 0..n_rotations {
        // Every third keeps the name, so that both kinds of change are many.
        let username = format!("user{}", n / 3);
        let password = format!("{:032x}", rand::random::<u128>());
        rig.push_pair(&username, &password);
        rig.wait_works(&username, &password).await;
        for (username, password) in passwords.iter().rev().take(3) {
            assert!(
                !rig.works(username, password).await,
                "rotation {n}: an older credential still works"
            );
        }
        passwords.push((username, password));
        if n == n_rotations / 5 {
            early_kib = resident_kib(pid);
        }
    }
    rig.wait_readyz("ready").await;
    let late_kib = resident_kib(pid);
    tools::say(&format!(
        "{version}: {n_rotations} rotations, resident {early_kib} KiB after a fifth, {late_kib} KiB at the end"
    ));
    assert!(
        late_kib < early_kib + early_kib / 4,
        "memory grew from {early_kib} to {late_kib} KiB"
    );
    assert_eq!(rig.pid().await, pid, "one process all the way");
    assert_eq!(rig.identity_writes(), n_rotations, "a write each");
    let (last, _) = passwords.last().expect("one at least");
    assert_eq!(
        rig.names().await,
        [format!("@{last}"), last.clone()],
        "no identity left over"
    );
    assert!(
        !rig.pebble.log().contains("restored"),
        "no other writer changed it"
    );
    no_password_in_sight(&rig, pid, &passwords).await;
}

async fn no_password_in_sight(rig: &Rig, pid: u32, passwords: &[(String, String)]) {
    let mut seen = rig.pebble.log();
    assert!(
        seen.contains("Changed identities"),
        "the proxy's log is in Pebble's"
    );
    for path in [
        "/readyz?verbose",
        "/readyz",
        "/metrics",
        "/targets",
        "/api/v1/targets",
    ] {
        let answer = rig.get(path).await.expect("a response");
        let _ = writeln!(seen, "{}", answer.text());
    }
    let notices = rig.pebble.notices().await;
    assert!(
        format!("{notices:?}").contains("canonical.com/metrics-proxy/identity-rotated"),
        "{notices:?}"
    );
    let _ = writeln!(seen, "{notices:?}{}", rig.pebble.plan_text().await);
    let _ = writeln!(seen, "{:?}", rig.pebble.identities().await);
    for file in [
        format!("/proc/{pid}/cmdline"),
        format!("/proc/{pid}/environ"),
        rig.pebble.dir().join(".pebble.state").display().to_string(),
    ] {
        let _ = writeln!(
            seen,
            "{}",
            String::from_utf8_lossy(&std::fs::read(&file).expect("it can be read"))
        );
    }
    for (username, password) in passwords {
        assert!(!seen.contains(password.as_str()), "a password is in sight");
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{username}:{password}"));
        assert!(!seen.contains(&encoded), "an Authorization header is in sight");
    }
}

/// The bytes that a password was read into are wiped. (The YAML library keeps copies that cannot be wiped; one file per
/// key, as Kubernetes mounts them, and JSON do not go through it.)
#[tokio::test]
async fn no_password_stays_in_memory() {
    let setup = Setup::default()
        .env("METRICS_PROXY_SECRET_DEBOUNCE", "20ms")
        .env("METRICS_PROXY_SECRET_POLL", "1h");
    let rig = Rig::start(VERSIONS[0], setup).await;
    let pid = rig.pid().await;
    if std::fs::File::open(format!("/proc/{pid}/mem")).is_err() {
        let missing = Missing::because("this system lets no process read another one's memory");
        tools::skipped(
            "metrics_proxy::reconciler::rotations::no_password_stays_in_memory",
            &missing,
        );
        return;
    }
    let mut passwords = Vec::new();
    let password = || format!("{:032x}", rand::random::<u128>());
    for _ in 0..3 {
        let new = password();
        rig.push(&format!("{{\"username\": \"alice\", \"password\": \"{new}\"}}"));
        rig.wait_works("alice", &new).await;
        passwords.push(new);
    }
    std::fs::remove_file(rig.secret()).expect("a folder of this test");
    std::fs::create_dir(rig.secret()).expect("a folder of this test");
    push(&rig.secret().join("username"), "alice");
    for _ in 0..3 {
        let new = password();
        push(&rig.secret().join("password"), &new);
        rig.wait_works("alice", &new).await;
        passwords.push(new);
    }
    rig.wait_readyz("ready").await;
    // A pass reads the secret and verifies it; between two passes nothing of it is in memory.
    let found = rig
        .wait("a moment between two passes", async || {
            let memory = writable_memory(pid);
            let found: Vec<usize> = (0..passwords.len())
                .filter(|n| {
                    let pair = format!("alice:{}", passwords[*n]);
                    let encoded = base64::prelude::BASE64_STANDARD.encode(pair);
                    // The ends of the encoded pair depend on what stands beside it.
                    contains(&memory, passwords[*n].as_bytes())
                        || contains(&memory, &encoded.as_bytes()[8..encoded.len() - 4])
                })
                .collect();
            // Only the last may be in use just now.
            (!found.contains(&(passwords.len() - 1))).then_some(found)
        })
        .await;
    assert!(
        found.is_empty(),
        "passwords {found:?} of {} are still there",
        passwords.len()
    );
}

fn contains(memory: &[Vec<u8>], needle: &[u8]) -> bool {
    memory
        .iter()
        .any(|part| memchr::memmem::find(part, needle).is_some())
}

/// Everything that a process could write to: heap, stacks, data.
fn writable_memory(pid: u32) -> Vec<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("it could be opened before");
    let parts = maps
        .lines()
        .filter(|line| line.contains(" rw"))
        .filter_map(|line| {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let length = usize::try_from(u64::from_str_radix(end, 16).ok()? - start).ok()?;
            let mut part = vec![0; length];
            memory.read_exact_at(&mut part, start).ok()?;
            Some(part)
        });
    let parts: Vec<_> = parts.collect();
    assert!(parts.len() > 3, "there is a heap and there are stacks");
    parts
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("Linux tells the resident size")
}
