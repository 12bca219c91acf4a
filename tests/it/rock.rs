//! `rock/rockcraft.yaml` against `pebble-layers/`, and against what rockcraft takes.

use std::path::PathBuf;

use serde_json::{Map, Value};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> Value {
    let text =
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn rock() -> Value {
    yaml("rock/rockcraft.yaml")
}

#[test]
fn the_rocks_service_is_the_one_of_the_layers() {
    let layer = yaml("pebble-layers/001-metrics-proxy.yaml");
    assert_eq!(rock()["services"], layer["services"]);
}

#[test]
fn the_rocks_checks_are_those_of_the_layers_but_for_what_rockcraft_does_not_know() {
    let mut checks = yaml("pebble-layers/002-metrics-proxy-self.yaml")["checks"].take();
    for check in checks.as_object_mut().expect("a map").values_mut() {
        let startup = check.as_object_mut().expect("a check").remove("startup");
        assert_eq!(
            startup.as_ref().and_then(Value::as_str),
            Some("enabled"),
            "left out only since it is the default"
        );
    }
    assert_eq!(rock()["checks"], checks);
}

/// That a map has these keys and no others, as rockcraft demands of services and checks.
#[track_caller]
fn keys_within(map: &Value, allowed: &[&str]) {
    let map: &Map<String, Value> = map.as_object().expect("a map");
    for key in map.keys() {
        assert!(allowed.contains(&key.as_str()), "rockcraft knows no {key}");
    }
}

#[test]
fn rockcraft_knows_every_field() {
    let rock = rock();
    let top = [
        "name",
        "title",
        "summary",
        "description",
        "license",
        "version",
        "base",
        "build-base",
        "platforms",
        "services",
        "checks",
        "parts",
    ];
    keys_within(&rock, &top);
    for service in rock["services"].as_object().expect("a map").values() {
        keys_within(
            service,
            &[
                "override",
                "summary",
                "description",
                "startup",
                "command",
                "environment",
                "on-success",
                "on-failure",
                "backoff-delay",
                "backoff-factor",
                "backoff-limit",
                "kill-delay",
            ],
        );
        for value in service["environment"].as_object().expect("a map").values() {
            assert!(!value.to_string().contains('$'), "rockcraft refuses $ in {value}");
        }
    }
    for check in rock["checks"].as_object().expect("a map").values() {
        keys_within(check, &["override", "period", "timeout", "threshold", "http"]);
        assert!(
            check.get("level").is_none(),
            "no level: it would touch the whole pod"
        );
    }
    assert_eq!(rock["base"], "bare");
    assert!(rock["build-base"].is_string(), "bare needs a build-base");
    let platforms: Vec<&String> = rock["platforms"].as_object().expect("a map").keys().collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    let plugin = &rock["parts"]["metrics-proxy"]["plugin"];
    assert_eq!(plugin, "rust");
}

#[test]
fn the_version_is_the_crates_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(rock()["version"], version);
    for file in ["deploy/deployment.yaml", "deploy/statefulset.yaml"] {
        let image = &yaml(file)["spec"]["template"]["spec"]["containers"][0]["image"];
        assert_eq!(image, &format!("metrics-proxy:{version}"), "{file}");
    }
    let resource = &yaml("examples/charm/charmcraft.yaml")["resources"]["metrics-proxy-image"];
    assert_eq!(
        resource["upstream-source"],
        format!("metrics-proxy:{version}").as_str()
    );
}
