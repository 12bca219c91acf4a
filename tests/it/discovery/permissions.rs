//! What we may do, how it changes while we run, and what is said about it.

use std::time::Duration;

use super::Running;
use crate::support::kube::{Cluster, NewPod, Scope, UNTRUSTED};
use metrics_proxy::discovery::SyncState;

const WATCH: &[(&str, &[&str])] = &[("pods", &["get", "list", "watch"])];

fn pod(name: &str, ip: &str) -> NewPod {
    NewPod::scraped(name, format!("{ip}:8080").parse().expect("an address")).label("app", "x")
}

fn mode(running: &Running) -> Vec<&'static str> {
    [
        "cluster_watch",
        "cluster_list",
        "namespace_watch",
        "namespace_list",
        "refused",
        "none",
    ]
    .into_iter()
    .filter(|mode| running.metric(&format!("metrics_proxy_discovery_mode{{mode=\"{mode}\"}}")) > 0.0)
    .collect()
}

/// All four levels, up and down, in one process.
#[tokio::test]
async fn the_ladder_is_climbed_both_ways() {
    let cluster = Cluster::start().await;
    let own = cluster.namespace().await;
    let token = cluster.service_account(&own, "app").await;
    cluster.create_pod(&own, &pod("own", "127.0.11.1")).await;
    cluster.create_pod("default", &pod("other", "127.0.11.2")).await;
    let (mine, all) = (
        ["own 127.0.11.1:8080/metrics"],
        ["other 127.0.11.2:8080/metrics", "own 127.0.11.1:8080/metrics"],
    );
    let kubeconfig = cluster.kubeconfig(&token, Some(&own));
    let running = Running::on_cluster(&kubeconfig, &[("list-interval", "1h"), ("list-max-age", "1ms")]).await;

    // Nothing: not ready, and the first line says what to do.
    running
        .until("refused", |snapshot| {
            matches!(snapshot.sync, SyncState::Refused(_))
        })
        .await;
    assert_eq!(mode(&running), ["refused"]);
    assert!(!running.health.readiness(None, false).ready);
    assert!(
        running
            .readyz()
            .starts_with("permissions: may not list or watch pods"),
        "{}",
        running.readyz()
    );
    assert!(running.readyz().contains("juju trust APP --scope=cluster"));

    // What Juju gives without --trust.
    let untrusted = cluster.grant(&own, "app", Scope::Namespace, UNTRUSTED).await;
    running.until_targets(&mine).await;
    running.until_readyz("may not watch pods in namespace").await;
    assert_eq!(mode(&running), ["namespace_list"]);
    assert!(running.health.readiness(None, false).ready);
    assert!(
        running.readyz().contains("[note] permissions: may not watch"),
        "{}",
        running.readyz()
    );
    assert!(running.readyz().contains("juju trust APP --scope=cluster"));

    // A scrape lists again, long before the interval has passed.
    let limit = Duration::from_secs(20);
    cluster.create_pod(&own, &pod("young", "127.0.11.3")).await;
    let snapshot = running.handle.refresh(limit).await;
    assert_eq!(super::targets(&snapshot).len(), 2, "{}", running.shows());
    cluster.delete_pod(&own, "young").await;
    let snapshot = running.handle.refresh(limit).await;
    assert_eq!(super::targets(&snapshot), mine, "{}", running.shows());

    // The own namespace may be watched.
    let watch = cluster.grant(&own, "app", Scope::Namespace, WATCH).await;
    running
        .until("watching", |_| mode(&running) == ["namespace_watch"])
        .await;
    running.until_targets(&mine).await;

    // All of it.
    let trusted = cluster.grant(&own, "app", Scope::Cluster, WATCH).await;
    running.until_targets(&all).await;
    running.until_readyz("[ok] permissions\n").await;
    assert_eq!(mode(&running), ["cluster_watch"]);

    // And down again. An open watch outlives its right, so what is taken away shows when it is opened anew.
    cluster.revoke(trusted).await;
    cluster.revoke(watch).await;
    cluster.create_pod(&own, &pod("late", "127.0.11.4")).await;
    running
        .until("the open watch goes on", |snapshot| {
            snapshot.targets.targets.len() == 3
        })
        .await;
    cluster.revoke(untrusted).await;
}

/// Rights that go while we run are believed to be gone only when that lasts, and then step by step.
#[tokio::test]
async fn a_right_that_is_lost_shows_when_the_watch_ends() {
    let mut cluster = Cluster::start().await;
    let own = cluster.namespace().await;
    let token = cluster.service_account(&own, "app").await;
    cluster.create_pod(&own, &pod("own", "127.0.12.1")).await;
    cluster.create_pod("default", &pod("other", "127.0.12.2")).await;
    cluster.grant(&own, "app", Scope::Namespace, UNTRUSTED).await;
    let trusted = cluster.grant(&own, "app", Scope::Cluster, WATCH).await;
    let running = Running::on_cluster(
        &cluster.kubeconfig(&token, Some(&own)),
        &[("list-interval", "1s")],
    )
    .await;
    let all = ["other 127.0.12.2:8080/metrics", "own 127.0.12.1:8080/metrics"];
    running.until_targets(&all).await;
    cluster.revoke(trusted).await;
    cluster.kill_api_server();
    cluster.start_api_server().await;
    running.until_targets(&["own 127.0.12.1:8080/metrics"]).await;
    running
        .until_readyz("[note] permissions: may not watch pods in namespace")
        .await;
    assert_eq!(mode(&running), ["namespace_list"]);
}

/// An API server that has just started answers 403 to everybody for a moment. Nothing must come of it.
#[tokio::test]
async fn a_restart_is_no_loss_of_rights() {
    let mut cluster = Cluster::start().await;
    let own = cluster.namespace().await;
    let token = cluster.service_account(&own, "app").await;
    cluster.create_pod(&own, &pod("own", "127.0.13.1")).await;
    cluster.create_pod("default", &pod("other", "127.0.13.2")).await;
    cluster.grant(&own, "app", Scope::Cluster, WATCH).await;
    let running = Running::on_cluster(
        &cluster.kubeconfig(&token, Some(&own)),
        &[("forbidden-grace", "10s")],
    )
    .await;
    let all = ["other 127.0.13.2:8080/metrics", "own 127.0.13.1:8080/metrics"];
    running.until_targets(&all).await;
    let mut snapshots = running.handle.snapshots();
    let watcher = tokio::spawn(async move {
        let mut least = usize::MAX;
        while snapshots.changed().await.is_ok() {
            least = least.min(snapshots.borrow().targets.targets.len());
        }
        least
    });
    for _ in 0..2 {
        cluster.kill_api_server();
        cluster.start_api_server().await;
    }
    cluster.create_pod(&own, &pod("new", "127.0.13.3")).await;
    running
        .until("the new pod", |snapshot| snapshot.targets.targets.len() == 3)
        .await;
    assert_eq!(mode(&running), ["cluster_watch"]);
    drop(running);
    let least = watcher.await.expect("no panic");
    assert!(least >= 2, "never fewer than there were: {least}");
}

/// `--namespace` asks for exactly these, and says which one is refused.
#[tokio::test]
async fn named_namespaces_stand_for_themselves() {
    let cluster = Cluster::shared().await;
    let (first, second) = (cluster.namespace().await, cluster.namespace().await);
    let token = cluster.service_account(&first, "app").await;
    cluster.create_pod(&first, &pod("one", "127.0.14.1")).await;
    cluster.create_pod(&second, &pod("two", "127.0.14.2")).await;
    let grant = cluster.grant(&first, "app", Scope::Namespace, WATCH).await;
    let running = Running::on_cluster(
        &cluster.kubeconfig(&token, Some(&first)),
        &[("namespace", &first), ("namespace", &second)],
    )
    .await;
    running.until_targets(&["one 127.0.14.1:8080/metrics"]).await;
    running
        .until_readyz(&format!(
            "[note] permissions: may not list or watch pods in namespace {second}"
        ))
        .await;
    cluster.revoke(grant).await;
    cluster.grant(&first, "app", Scope::Cluster, WATCH).await;
    running
        .until_targets(&["one 127.0.14.1:8080/metrics", "two 127.0.14.2:8080/metrics"])
        .await;
}

/// A bad token is no missing right.
#[tokio::test]
async fn a_token_that_is_not_accepted_has_a_reason_of_its_own() {
    let cluster = Cluster::shared().await;
    let running = Running::on_cluster(&cluster.kubeconfig("no-such-token", None), &[]).await;
    running
        .until_readyz("[bad] discovery: the API server does not accept the token (401)")
        .await;
    assert!(matches!(running.handle.latest().sync, SyncState::Pending(_)));
}
