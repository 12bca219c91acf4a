//! What happens to pods, and how soon the target set shows it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod};

fn pod(name: &str, ip: &str) -> NewPod {
    NewPod::scraped(name, format!("{ip}:8080").parse().expect("an address")).label("app", "x")
}

/// A namespace of the shared cluster, and discovery that looks at it only.
async fn watched() -> (&'static Cluster, String, Running) {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    let running = Running::on_cluster(&kubeconfig, &[("namespace", &namespace)]).await;
    running.until_targets(&[]).await;
    (cluster, namespace, running)
}

#[tokio::test]
async fn pods_come_change_and_go() {
    let (cluster, ns, running) = watched().await;
    cluster.create_pod(&ns, &pod("a", "127.0.1.1")).await;
    running.until_targets(&["a 127.0.1.1:8080/metrics"]).await;
    cluster
        .create_pod(&ns, &NewPod::scraped("other", "127.0.1.9:1".parse().unwrap()))
        .await;
    cluster
        .create_pod(
            &ns,
            &NewPod::pending("b")
                .label("app", "x")
                .annotation("prometheus.io/scrape", "true"),
        )
        .await;
    running.until_skipped("b", "pending").await;
    cluster
        .patch_status(
            &ns,
            "b",
            &json!({"phase": "Running", "podIP": "127.0.1.2", "podIPs": [{"ip": "127.0.1.2"}]}),
        )
        .await;
    running
        .until_targets(&["a 127.0.1.1:8080/metrics", "b 127.0.1.2:80/metrics"])
        .await;
    // 35 and 27: another port, path, address.
    cluster
        .patch_pod(
            &ns,
            "a",
            &json!({"metadata": {"annotations": {"prometheus.io/port": "9", "prometheus.io/path": "x"}}}),
        )
        .await;
    running
        .until_targets(&["a 127.0.1.1:9/x", "b 127.0.1.2:80/metrics"])
        .await;
    cluster
        .patch_status(
            &ns,
            "a",
            &json!({"podIP": "127.0.1.3", "podIPs": [{"ip": "127.0.1.3"}]}),
        )
        .await;
    running
        .until_targets(&["a 127.0.1.3:9/x", "b 127.0.1.2:80/metrics"])
        .await;
    // 26: the annotation is set to false, then removed.
    let annotate = async |value: serde_json::Value| {
        let patch = json!({"metadata": {"annotations": {"prometheus.io/scrape": value}}});
        cluster.patch_pod(&ns, "a", &patch).await
    };
    annotate(json!("false")).await;
    running.until_skipped("a", "annotated_off").await;
    annotate(json!("true")).await;
    running
        .until_targets(&["a 127.0.1.3:9/x", "b 127.0.1.2:80/metrics"])
        .await;
    annotate(json!(null)).await;
    running.until_skipped("a", "not_annotated").await;
    annotate(json!("true")).await;
    // 31: the address is cleared.
    cluster
        .patch_status(&ns, "a", &json!({"podIP": null, "podIPs": null}))
        .await;
    running.until_skipped("a", "no_ip").await;
    // 30: it ends.
    cluster
        .patch_status(&ns, "b", &json!({"phase": "Succeeded"}))
        .await;
    running.until_skipped("b", "finished").await;
    running.until_targets(&[]).await;
    // The label leaves the selector: to a watcher, that is a deletion.
    cluster
        .patch_pod(&ns, "a", &json!({"metadata": {"labels": {"app": "y"}}}))
        .await;
    cluster.delete_pod(&ns, "b").await;
    running
        .until("no pods", |snapshot| snapshot.targets.n_pods == 0)
        .await;
}

/// 25: two pods on one node's address are two targets.
#[tokio::test]
async fn host_network_pods_share_an_address() {
    let (cluster, ns, running) = watched().await;
    for (name, port) in [("a", "1001"), ("b", "1002")] {
        let pod = pod(name, "127.0.2.1")
            .annotation("prometheus.io/port", port)
            .host_network();
        cluster.create_pod(&ns, &pod).await;
    }
    running
        .until_targets(&["a 127.0.2.1:1001/metrics", "b 127.0.2.1:1002/metrics"])
        .await;
    cluster.delete_pod(&ns, "a").await;
    running.until_targets(&["b 127.0.2.1:1002/metrics"]).await;
}

/// 27 and 28: an address that moves on is the later pod's, whatever becomes of the earlier one.
#[tokio::test]
async fn an_address_moves_on() {
    let (cluster, ns, running) = watched().await;
    let early = pod("early", "127.0.3.1").start_time("2026-01-01T00:00:00Z");
    let late = pod("late", "127.0.3.1").start_time("2026-01-01T00:00:01Z");
    cluster.create_pod(&ns, &early).await;
    running.until_targets(&["early 127.0.3.1:8080/metrics"]).await;
    let target = running.handle.latest().targets.targets[0].clone();
    assert!(running.handle.latest().targets.confirms(&target));
    cluster.create_pod(&ns, &late).await;
    running.until_targets(&["late 127.0.3.1:8080/metrics"]).await;
    running.until_skipped("early", "ip_taken").await;
    assert!(
        !running.handle.latest().targets.confirms(&target),
        "a body that was asked of the earlier pod may be the later one's"
    );
    cluster.delete_pod(&ns, "early").await;
    running
        .until("one pod", |snapshot| snapshot.targets.n_pods == 1)
        .await;
    running.until_targets(&["late 127.0.3.1:8080/metrics"]).await;
}

#[tokio::test]
async fn a_pod_on_its_way_out_stays_and_a_lost_one_does_not() {
    let (cluster, ns, running) = watched().await;
    cluster.create_pod(&ns, &pod("leaving", "127.0.4.1")).await;
    running.until_targets(&["leaving 127.0.4.1:8080/metrics"]).await;
    cluster.terminate_pod(&ns, "leaving", 30).await;
    running
        .until("when the set changes next", |snapshot| {
            snapshot.targets.next_change.is_some()
        })
        .await;
    running.until_targets(&["leaving 127.0.4.1:8080/metrics"]).await;
    cluster.delete_pod(&ns, "leaving").await;
    running.until_targets(&[]).await;
}

/// From the API server's answer to a change until the set shows it.
#[tokio::test]
async fn a_change_is_in_the_set_at_once() {
    let (cluster, ns, running) = watched().await;
    let mut latencies = Vec::new();
    for n in 1..=60u8 {
        let name = format!("p{n}");
        cluster
            .create_pod(&ns, &pod(&name, &format!("127.0.5.{n}")))
            .await;
        let answered = Instant::now();
        running
            .until(name.clone(), |snapshot| {
                snapshot.targets.targets.len() == usize::from(n)
            })
            .await;
        latencies.push(answered.elapsed());
    }
    latencies.sort();
    let (median, p99) = (
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    println!(
        "event to set: median {median:?}, p99 {p99:?}, of {}",
        latencies.len()
    );
    assert!(
        median < Duration::from_secs(1),
        "about a second at most: {median:?}"
    );
}
