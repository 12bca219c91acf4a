//! `make demo`, as its program: the tour on sample pods, and on a real cluster.

use std::path::PathBuf;
use std::process::Command;

use crate::support::kube::{ADMIN, Cluster, NewPod};
use crate::support::pod::Pod;
use crate::support::{process, tools};

/// Runs the demo to the end of its tour and gives what it printed.
async fn tour(env: &[(&str, &str)]) -> String {
    let tests = std::env::current_exe().expect("the tests have a path");
    let built = tests
        .parent()
        .and_then(|deps| deps.parent())
        .expect("they lie in the target folder");
    let demo: PathBuf = built.join("examples/demo");
    let mut command = Command::new(&demo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("METRICS_PROXY_DEMO_PEBBLE", tools::path("pebble-1.26"))
        .env("DEMO_ONCE", "1")
        .env("DEMO_PORT", process::free_port().to_string())
        .env("DEMO_PEBBLE_PORT", process::free_port().to_string())
        .envs(env.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic");
    let output = output.unwrap_or_else(|e| panic!("cannot run {}: {e}", demo.display()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[tokio::test]
async fn the_demo_shows_the_main_job_without_a_cluster() {
    let said = tour(&[]).await;
    for line in [
        "up{k8s_pod_name=\"web-0\",k8s_namespace=\"demo\"} 1",
        "up{k8s_pod_name=\"web-1\",k8s_namespace=\"demo\"} 0",
        "up{k8s_pod_name=\"web-2\",k8s_namespace=\"demo\"} 0",
        "pebble_service_active{service=\"metrics-proxy\"} 1",
        "401 Unauthorized",
    ] {
        assert!(said.lines().any(|said| said == line), "no {line} in\n{said}");
    }
}

#[tokio::test]
async fn the_demo_takes_a_cluster_that_is_named() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let pod = Pod::serving("from_the_cluster 1\n").await;
    let labels = format!("demo={namespace}");
    let shown = NewPod::scraped("shown", pod.address).label("demo", &namespace);
    cluster.create_pod(&namespace, &shown).await;
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    let said = tour(&[
        ("KUBECONFIG", kubeconfig.to_str().expect("UTF-8")),
        ("LABELS", &labels),
        ("METRICS_PROXY_TARGET_CIDR", "127.0.0.0/8"),
    ])
    .await;
    assert!(said.contains("from_the_cluster{k8s_pod_name=\"shown\""), "{said}");
}
