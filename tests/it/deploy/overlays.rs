//! The overlays of `deploy/overlays`, rendered by kustomize.

use std::process::Command;

use serde_json::Value;

use super::{NAMESPACE, apply, deploy, documents, manifests};
use crate::support::kube::Cluster;
use crate::support::tools;

/// The objects that `kubectl apply -k` would apply.
fn rendered(overlay: &str) -> Vec<Value> {
    let kustomize = tools::path("kustomize");
    let output = Command::new(&kustomize)
        .arg("build")
        .arg(deploy().join("overlays").join(overlay))
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", kustomize.display()));
    assert!(
        output.status.success(),
        "{overlay}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    documents(&String::from_utf8_lossy(&output.stdout))
}

/// The kind and name of each object, sorted.
fn listed(objects: &[Value]) -> Vec<String> {
    let mut list: Vec<String> = objects
        .iter()
        .map(|object| {
            let kind = object["kind"].as_str().expect("an object has a kind");
            let name = object["metadata"]["name"].as_str().expect("an object has a name");
            format!("{kind} {name}")
        })
        .collect();
    list.sort();
    list
}

#[test]
fn each_overlay_has_the_objects_that_its_name_says() {
    let one = [
        "Deployment metrics-proxy",
        "Service metrics-proxy",
        "ServiceAccount metrics-proxy",
    ];
    let shards = [
        "Role metrics-proxy-shards",
        "RoleBinding metrics-proxy-shards",
        "Service metrics-proxy",
        "Service metrics-proxy-shards",
        "ServiceAccount metrics-proxy",
        "StatefulSet metrics-proxy",
    ];
    let cluster = ["ClusterRole metrics-proxy", "ClusterRoleBinding metrics-proxy"];
    let namespace = ["Role metrics-proxy", "RoleBinding metrics-proxy"];
    for (overlay, expected) in [
        ("cluster", [&one[..], &cluster[..]].concat()),
        ("namespace-only", [&one[..], &namespace[..]].concat()),
        ("shards", [&shards[..], &cluster[..]].concat()),
    ] {
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        let objects = rendered(overlay);
        assert_eq!(listed(&objects), expected, "{overlay}");
        for object in &objects {
            let kind = object["kind"].as_str().unwrap_or_default();
            let is_of_the_cluster = kind.starts_with("Cluster");
            assert_eq!(
                object["metadata"]["namespace"].as_str(),
                (!is_of_the_cluster).then_some(NAMESPACE),
                "{overlay}: {kind}"
            );
            for subject in object["subjects"].as_array().into_iter().flatten() {
                assert_eq!(subject["namespace"], NAMESPACE, "{overlay}: {kind}");
            }
        }
    }
}

#[test]
fn an_overlay_changes_nothing_in_the_workload() {
    for (overlay, file) in [("cluster", "deployment.yaml"), ("shards", "statefulset.yaml")] {
        let plain = manifests(file).remove(0);
        let objects = rendered(overlay);
        let workload = objects.iter().find(|object| object["kind"] == plain["kind"]);
        assert_eq!(workload.map(|w| &w["spec"]), Some(&plain["spec"]), "{overlay}");
    }
}

#[tokio::test]
async fn an_api_server_accepts_every_overlay() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    for overlay in ["cluster", "namespace-only", "shards"] {
        for mut object in rendered(overlay) {
            if object["metadata"]["namespace"].is_string() {
                object["metadata"]["namespace"] = namespace.clone().into();
            }
            apply(cluster, &namespace, &object, true)
                .await
                .unwrap_or_else(|e| panic!("{overlay}: {e}"));
        }
    }
}
