//! `--pods-file`: no cluster at all.

use std::time::Duration;

use super::Running;
use metrics_proxy::discovery::{SyncProblem, SyncState};
use metrics_proxy::health::Condition;

fn pod(name: &str, ip: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {app}}}\n  annotations:\n    \
         prometheus.io/scrape: \"true\"\nstatus:\n  phase: Running\n  podIP: {ip}\n---\n"
    )
}

#[tokio::test]
async fn a_file_is_watched_and_a_broken_one_keeps_the_last_set() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("pods.yaml");
    let write = |text: &str| {
        // As editors do it: a new file in the place of the old one.
        let draft = directory.path().join("draft");
        std::fs::write(&draft, text).expect("written");
        std::fs::rename(&draft, &path).expect("renamed");
    };
    let running = Running::start(&[
        ("pods-file", path.to_str().expect("text")),
        ("pods-file-poll", "1h"),
        ("labels", "app=x"),
    ])
    .await;
    running.until_readyz("discovery: cannot read pods.yaml").await;
    assert!(matches!(running.handle.latest().sync, SyncState::Pending(_)));
    write(&(pod("a", "10.0.0.1", "x") + &pod("b", "10.0.0.2", "y")));
    running.until_targets(&["a 10.0.0.1:80/metrics"]).await;
    write(&(pod("a", "10.0.0.1", "x") + &pod("b", "10.0.0.2", "x")));
    running
        .until_targets(&["a 10.0.0.1:80/metrics", "b 10.0.0.2:80/metrics"])
        .await;
    write("kind: Pod\nmetadata: [");
    running
        .until_readyz("[note] discovery: the last known set is in use: cannot use document 1 of pods.yaml")
        .await;
    running
        .until_targets(&["a 10.0.0.1:80/metrics", "b 10.0.0.2:80/metrics"])
        .await;
    write("");
    running.until_targets(&[]).await;
    running.until_readyz("[ok] discovery\n").await;
}

#[tokio::test]
async fn a_directory_is_watched_and_needs_no_selector() {
    let directory = tempfile::tempdir().expect("a folder");
    let running = Running::start(&[
        ("pods-file", directory.path().to_str().expect("text")),
        ("pods-file-poll", "1h"),
    ])
    .await;
    running.until_targets(&[]).await;
    std::fs::write(directory.path().join("a.yaml"), pod("a", "10.0.0.1", "x")).expect("written");
    running.until_targets(&["a 10.0.0.1:80/metrics"]).await;
    std::fs::remove_file(directory.path().join("a.yaml")).expect("removed");
    running.until_targets(&[]).await;
}

#[tokio::test]
async fn files_are_read_now_and_then_where_nobody_tells_of_changes() {
    let directory = tempfile::tempdir().expect("a folder");
    let real = tempfile::tempdir().expect("a folder");
    // A link to elsewhere: the change there is no event here.
    std::fs::write(real.path().join("pods"), "").expect("written");
    let link = directory.path().join("pods.yaml");
    std::os::unix::fs::symlink(real.path().join("pods"), &link).expect("linked");
    let running = Running::start(&[
        ("pods-file", link.to_str().expect("text")),
        ("pods-file-poll", "50ms"),
    ])
    .await;
    running.until_targets(&[]).await;
    std::fs::write(real.path().join("pods"), pod("a", "10.0.0.1", "x")).expect("written");
    running.until_targets(&["a 10.0.0.1:80/metrics"]).await;
}

#[tokio::test]
async fn no_selector_is_said_and_nothing_is_asked() {
    let running = Running::start(&[]).await;
    assert_eq!(
        running.handle.latest().sync,
        SyncState::Refused(SyncProblem {
            condition: Condition::Selector,
            text: "set POD_LABEL_SELECTOR or --labels".to_owned(),
        })
    );
    assert!(
        running
            .readyz()
            .starts_with("selector: set POD_LABEL_SELECTOR or --labels\n")
    );
    let snapshot = running.handle.refresh(Duration::from_secs(5)).await;
    assert_eq!(snapshot.targets.n_pods, 0);
}
