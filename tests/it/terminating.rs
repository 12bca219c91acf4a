//! Pods that end, and signals that must not end the program.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;

use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::Pod;
use crate::support::process;

/// Source: prometheus/prometheus#11507, rabbitmq/cluster-operator#17.
#[tokio::test]
async fn a_deleted_pod_is_scraped_while_it_responds_and_then_leaves_without_up() {
    let (ending, failing) = (Pod::serving("a 1\n").await, Pod::serving("b 1\n").await);
    let deletion = Timestamp::now() + SignedDuration::from_secs(600);
    let mut ending_pod = NewPod::scraped("ending", ending.address).printed("ns");
    ending_pod["metadata"]["deletionTimestamp"] = deletion.to_string().into();
    let failing_pod = NewPod::scraped("failing", failing.address).printed("ns");
    let dir = process::fresh_dir();
    let file = dir.path().join("pods.json");
    let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "items": [ending_pod, failing_pod]});
    std::fs::write(&file, list.to_string()).expect("a fresh folder can be written");
    let mut app = App::with_pods_file(&file, &[]).await;
    app.ready(Duration::from_secs(10)).await;
    let metrics = app.metrics().await;
    assert!(
        metrics.contains("up{k8s_pod_name=\"ending\",k8s_namespace=\"ns\"} 1\n"),
        "{metrics}"
    );
    drop((ending, failing));
    for _ in 0..2 {
        let metrics = app.metrics().await;
        assert!(!metrics.contains("k8s_pod_name=\"ending\""), "{metrics}");
        assert!(
            metrics.contains("up{k8s_pod_name=\"failing\",k8s_namespace=\"ns\"} 0\n"),
            "{metrics}"
        );
    }
    let report = app.get("/api/v1/targets", &[]).await.text();
    assert!(report.contains("\"terminating\""), "{report}");
    let metrics = app.metrics().await;
    assert!(
        metrics.contains("metrics_proxy_discovery_skipped{reason=\"terminating\"} 1\n"),
        "{metrics}"
    );
}

/// Source: canonical/pebble#14; people who know Prometheus send SIGHUP to reload.
#[tokio::test]
async fn signals_for_reloading_do_not_end_the_program() {
    let pod = Pod::serving("a 1\n").await;
    let mut app = App::with_pods(&[NewPod::scraped("web", pod.address)], &[]).await;
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        app.process().signal(signal);
    }
    let is_logged = |log: &str| {
        ["SIGHUP", "SIGUSR1", "SIGUSR2"]
            .iter()
            .all(|name| log.contains(name))
    };
    let limit = Duration::from_secs(10);
    process::wait_for("all signals are logged", limit, String::new, async || {
        is_logged(&app.process().log()).then_some(())
    })
    .await;
    assert!(app.metrics().await.contains("a{"));
    assert!(app.stop().success(), "{}", app.process().log_tail());
}
