//! What is left of the set while the API server is away, and how soon it is right again.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod};
use crate::support::process::Signal;

fn pod(name: &str, ip: &str) -> NewPod {
    NewPod::scraped(name, format!("{ip}:8080").parse().expect("an address")).label("app", "x")
}

/// Changes made while nobody could tell us, among them one that only a fresh list shows (29: a missed deletion).
async fn change_everything(cluster: &Cluster) {
    cluster.delete_pod("default", "a").await;
    cluster.create_pod("default", &pod("c", "127.0.7.1")).await;
    cluster
        .patch_status("default", "b", &json!({"phase": "Failed"}))
        .await;
}

/// The server is killed and comes back with changes made before we could ask: right about 6 s after it is ready.
#[tokio::test]
async fn a_killed_api_server_costs_nothing_and_is_met_again_soon() {
    let mut cluster = Cluster::start().await;
    for (name, ip) in [("a", "127.0.7.1"), ("b", "127.0.7.2")] {
        cluster.create_pod("default", &pod(name, ip)).await;
    }
    let running = Running::on_cluster(&cluster.kubeconfig(ADMIN, None), &[]).await;
    let before = ["a 127.0.7.1:8080/metrics", "b 127.0.7.2:8080/metrics"];
    running.until_targets(&before).await;
    cluster.kill_api_server();
    running
        .until_readyz("[note] discovery: the last known set is in use: the API server cannot be reached")
        .await;
    // Long enough for the waits between attempts to have grown to their most.
    let attempts = || running.metric("metrics_proxy_discovery_failures_total{reason=\"unreachable\"}");
    let started = Instant::now();
    while attempts() < 9.0 {
        assert!(started.elapsed() < super::LIMIT, "goes on asking");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("nine attempts in {:?}", started.elapsed());
    assert!(
        running.health.readiness(None, false).ready,
        "a dead cluster is no fault of ours"
    );
    running.until_targets(&before).await;

    cluster.start_api_server().await;
    let ready = Instant::now();
    change_everything(&cluster).await;
    running.until_targets(&["c 127.0.7.1:8080/metrics"]).await;
    let healed = ready.elapsed();
    println!("right {healed:?} after the API server was ready");
    assert!(healed < Duration::from_secs(15), "about 6 s: {healed:?}");
    running.until_readyz("[ok] discovery\n").await;
}

/// A real 410: we are held still while pods change and the server starts anew.
///
/// The watch is held by SIGSTOP in the wild; here the whole runtime that it lives in is.
#[test]
fn a_watch_that_is_too_old_starts_over_at_once() {
    let side = tokio::runtime::Runtime::new().expect("a runtime");
    // One thread, so that blocking it stops discovery whole, as SIGSTOP would.
    let held = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut cluster = side.block_on(Cluster::start());
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    side.block_on(async {
        cluster.create_pod("default", &pod("a", "127.0.8.1")).await;
        cluster.create_pod("default", &pod("b", "127.0.8.2")).await;
    });
    let running = held.block_on(async {
        let running = Running::on_cluster(&kubeconfig, &[]).await;
        running
            .until_targets(&["a 127.0.8.1:8080/metrics", "b 127.0.8.2:8080/metrics"])
            .await;
        running
    });
    // Nothing runs in `held` from here on.
    side.block_on(async {
        cluster.create_pod("default", &pod("x", "127.0.8.9")).await;
        cluster.delete_pod("default", "x").await;
        cluster.delete_pod("default", "a").await;
        // Writes that no watcher of pods is told of: the new server's history begins after all that we know.
        for _ in 0..3 {
            cluster.namespace().await;
        }
        cluster.kill_api_server();
        cluster.start_api_server().await;
        cluster.create_pod("default", &pod("c", "127.0.8.1")).await;
    });
    held.block_on(async {
        let took = running
            .until_targets(&["b 127.0.8.2:8080/metrics", "c 127.0.8.1:8080/metrics"])
            .await;
        println!("right {took:?} after going on");
        assert!(
            running.metric("metrics_proxy_discovery_failures_total{reason=\"gone\"}") >= 1.0,
            "it was a 410: {}",
            running.telemetry.encode()
        );
        assert!(took < Duration::from_secs(8), "no long wait for a 410: {took:?}");
    });
}

/// A server that takes connections and says nothing must not hold us for ever.
#[tokio::test]
async fn a_server_that_hangs_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.create_pod("default", &pod("a", "127.0.9.1")).await;
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    cluster.signal_api_server(Signal::STOP);
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    running.until_readyz("[bad] discovery: the API server ").await;
    cluster.signal_api_server(Signal::CONT);
    running.until_targets(&["a 127.0.9.1:8080/metrics"]).await;
}

/// A server that is not there at the start is asked until it is.
#[tokio::test]
async fn a_server_that_is_not_there_yet_is_no_failed_start() {
    let mut cluster = Cluster::start().await;
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    cluster.create_pod("default", &pod("a", "127.0.10.1")).await;
    cluster.kill_api_server();
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    running
        .until_readyz("[bad] discovery: the API server cannot be reached")
        .await;
    assert!(
        running
            .readyz()
            .starts_with("discovery: the API server cannot be reached\n")
    );
    cluster.start_api_server().await;
    running.until_targets(&["a 127.0.10.1:8080/metrics"]).await;
}
