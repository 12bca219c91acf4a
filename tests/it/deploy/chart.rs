//! The Helm chart of `deploy/chart`, linted and rendered by helm.

use std::process::Command;

use serde_json::Value;

use super::{apply, containers, deploy, documents, install_crds};
use crate::support::kube::Cluster;
use crate::support::tools;

/// Runs helm on the chart: whether it succeeded, and what it printed.
fn helm(command: &[&str], options: &[&str]) -> (bool, String) {
    let helm = tools::path("helm");
    let output = Command::new(&helm)
        .args(command)
        .arg(deploy().join("chart"))
        .args(options)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", helm.display()));
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), printed)
}

/// The objects of a release named `shop` with these values.
#[track_caller]
fn rendered(namespace: &str, values: &[&str]) -> Vec<Value> {
    let options: Vec<&str> = ["--namespace", namespace, "--kube-version", "1.35.0"]
        .into_iter()
        .chain(values.iter().flat_map(|value| ["--set", value]))
        .collect();
    let (succeeded, printed) = helm(&["template", "shop"], &options);
    assert!(succeeded, "{values:?}: {printed}");
    documents(&printed)
}

/// Everything that the chart can create.
const ALL: &[&str] = &[
    "podMonitor.enabled=true",
    "podMonitor.labels.release=stack",
    "prometheusRule.enabled=true",
    "dashboard.enabled=true",
    "ingress.enabled=true",
    "httpRoute.enabled=true",
    "networkPolicy.enabled=true",
    "discover={pods,services,servicemonitors}",
    "imagePullSecrets={registry}",
    "env[0].name=METRICS_PROXY_LOG_LEVEL,env[0].value=debug",
];

#[test]
fn helm_finds_nothing_to_criticize() {
    for values in [&[][..], &["replicas=3"], ALL] {
        let options: Vec<&str> = std::iter::once("--strict")
            .chain(values.iter().flat_map(|value| ["--set", value]))
            .collect();
        let (succeeded, printed) = helm(&["lint"], &options);
        assert!(
            succeeded && !printed.contains("[WARNING]"),
            "{values:?}: {printed}"
        );
    }
}

#[test]
fn the_schema_refuses_what_the_templates_do_not_know() {
    for (value, named) in [
        ("podLabelSelector=", "podLabelSelector"),
        ("replicas=0", "replicas"),
        ("permissions=all", "permissions"),
        ("discover={nodes}", "discover"),
        ("scrapeTimeout=soon", "scrapeTimeout"),
        ("podMonitors.enabled=true", "podMonitors"),
        ("ingress.path=metrics", "path"),
    ] {
        let (succeeded, printed) = helm(&["template", "shop"], &["--set", value]);
        assert!(!succeeded && printed.contains(named), "{value}: {printed}");
    }
}

#[test]
fn the_chart_runs_the_container_of_the_manifests() {
    for ((file, container), values) in containers().into_iter().zip([&[][..], &["replicas=2"]]) {
        let objects = rendered("metrics", values);
        let kind = if values.is_empty() {
            "Deployment"
        } else {
            "StatefulSet"
        };
        let workload = objects
            .iter()
            .find(|object| object["kind"] == kind)
            .unwrap_or_else(|| panic!("no {kind}"));
        let spec = &workload["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0], container, "{file}");
        let plain = super::manifests(file).remove(0)["spec"]["template"]["spec"].take();
        for field in ["securityContext", "volumes", "enableServiceLinks"] {
            assert_eq!(spec[field], plain[field], "{file}: {field}");
        }
    }
}

#[tokio::test]
async fn an_api_server_accepts_what_the_chart_renders() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    install_crds(cluster).await;
    let sharded = [ALL, &["replicas=3", "permissions=namespace"]].concat();
    let listing = ["permissions=list-only", "discover={podmonitors}"];
    for values in [&[][..], ALL, &sharded, &listing] {
        let objects = rendered(&namespace, values);
        assert!(objects.len() >= 5, "{values:?}: {}", objects.len());
        for object in objects {
            apply(cluster, &namespace, &object, true)
                .await
                .unwrap_or_else(|e| panic!("{values:?}: {} {e}", object["kind"]));
        }
    }
}

#[test]
fn a_shard_has_its_role_by_the_name_of_its_stateful_set() {
    let objects = rendered("metrics", &["replicas=2"]);
    let named = |kind: &str, suffix: &str| {
        let mut found = objects.iter().filter(|object| object["kind"] == kind);
        found
            .find(|object| {
                object["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| name.ends_with(suffix))
            })
            .unwrap_or_else(|| panic!("no {kind} {suffix}"))
    };
    let set = named("StatefulSet", "metrics-proxy");
    let role = named("Role", "-shards");
    assert_eq!(role["rules"][0]["resourceNames"][0], set["metadata"]["name"]);
    assert_eq!(
        set["spec"]["serviceName"],
        named("Service", "-shards")["metadata"]["name"]
    );
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme() {
    let read = |file: &str| {
        std::fs::read_to_string(deploy().join("chart").join(file)).expect("the checkout can be read")
    };
    let values: Value = serde_yaml::from_str(&read("values.yaml")).expect("the values are YAML");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("the schema is JSON");
    let readme = read("README.md");
    for (name, value) in values.as_object().expect("a map") {
        let known = &schema["properties"][name];
        assert!(known.is_object(), "values.schema.json has no {name}");
        assert!(readme.contains(&format!("`{name}")), "README.md has no {name}");
        let Some(fields) = known["properties"].as_object() else {
            continue;
        };
        for field in value.as_object().expect("a map").keys() {
            assert!(
                fields.contains_key(field),
                "values.schema.json has no {name}.{field}"
            );
            let named =
                readme.contains(&format!("`{name}.{field}`")) || readme.contains(&format!("`.{field}`"));
            assert!(named, "README.md has no {name}.{field}");
        }
    }
}
