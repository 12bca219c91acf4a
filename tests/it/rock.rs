//! `rockcraft.yaml` against `pebble-layers/`, against what rockcraft accepts, and with a real Pebble; and the address of the
//! image in everything that names it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::support::app::PROGRAM;
use crate::support::http;
use crate::support::kube::NewPod;
use crate::support::process::{self, Process};
use crate::support::tools;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> Value {
    let text =
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn rock() -> Value {
    yaml("rockcraft.yaml")
}

#[test]
fn the_rocks_service_is_the_one_of_the_layers() {
    let layer = yaml("pebble-layers/001-metrics-proxy.yaml");
    let mut services = rock()["services"].take();
    // The brackets hold the arguments of a container, which a layer has no use for.
    let command = &mut services["metrics-proxy"]["command"];
    assert_eq!(*command, "metrics-proxy [ ]");
    *command = "metrics-proxy".into();
    assert_eq!(services, layer["services"]);
    assert_eq!(rock()["entrypoint-service"], "metrics-proxy");
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
        "run-user",
        "entrypoint-service",
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
    let addresses =
        std::fs::read_to_string(root().join("deploy/addresses.env")).expect("the checkout can be read");
    let image = addresses
        .lines()
        .find_map(|line| line.strip_prefix("IMAGE="))
        .expect("the address of the image");
    assert!(image.ends_with(&format!(":{version}")), "{image}");
}

#[test]
fn everything_names_the_image_and_the_repository_by_the_one_file() {
    let output = Command::new(root().join("tools/set-addresses"))
        .arg("--check")
        .output()
        .unwrap_or_else(|e| panic!("cannot run tools/set-addresses: {e}"));
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{printed}");
}

/// The layer file that rockcraft writes for the rock, in a fresh folder of Pebble's.
fn pebble_folder() -> tempfile::TempDir {
    let dir = process::fresh_dir();
    let rock = rock();
    let layer = json!({"summary": "rock", "services": rock["services"], "checks": rock["checks"]});
    std::fs::create_dir(dir.path().join("layers")).expect("a fresh folder can be written");
    let file = dir.path().join("layers/001-rockcraft-metrics-proxy.yaml");
    std::fs::write(file, layer.to_string()).expect("a fresh folder can be written");
    std::fs::create_dir(dir.path().join("bin")).expect("a fresh folder can be written");
    std::os::unix::fs::symlink(PROGRAM, dir.path().join("bin/metrics-proxy")).expect("a fresh folder");
    dir
}

/// Starts a real Pebble with the layer of the rock and these arguments.
fn pebble(version: &str, dir: &Path, port: u16, arguments: &[&str]) -> Process {
    let mut command = Command::new(tools::path(version));
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(arguments)
        .env("PEBBLE", dir)
        .env("PATH", format!("{}:{path}", dir.join("bin").display()))
        .env("PORT", port.to_string())
        .env("METRICS_PROXY_PODS_FILE", dir.join("pods.json"));
    Process::spawn("pebble", command, &dir.join("log")).with_grace(Duration::from_secs(8))
}

#[tokio::test]
async fn the_rocks_layer_starts_the_program_in_every_form() {
    for version in ["pebble-1.26", "pebble-1.32"] {
        // Arguments of a container; a container without any; Pebble's own flags, as in deploy/.
        for (arguments, served) in [
            (
                &["enter", "--args", "metrics-proxy", "--labels=app=web"][..],
                true,
            ),
            (&["enter", "--args", "metrics-proxy", "--labels=app=other"], false),
            (&["enter", "--args", "metrics-proxy"], true),
            (&["enter", "--verbose"], true),
        ] {
            let dir = pebble_folder();
            let pod = NewPod::scraped("web-0", ([127, 0, 0, 1], 9).into()).label("app", "web");
            std::fs::write(dir.path().join("pods.json"), pod.printed("shop").to_string())
                .expect("a fresh folder");
            let port = process::free_port();
            let running = pebble(version, dir.path(), port, arguments);
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            let what = format!("{version} {arguments:?}");
            let metrics = process::wait_for(
                &what,
                Duration::from_secs(30),
                || running.log_tail(),
                async || {
                    let response = http::get(address, "/metrics").send().await.ok()?;
                    (response.status == 200).then(|| response.text())
                },
            )
            .await;
            assert_eq!(
                metrics.contains("up{k8s_pod_name=\"web-0\""),
                served,
                "{what}: {metrics}"
            );
        }
    }
}

#[tokio::test]
async fn the_rocks_layer_waits_for_the_charm_where_juju_starts_pebble() {
    for version in ["pebble-1.26", "pebble-1.32"] {
        let dir = pebble_folder();
        std::fs::write(dir.path().join("pods.json"), "{}").expect("a fresh folder can be written");
        let http = format!("127.0.0.1:{}", process::free_port());
        // The command line of Juju 3.6.
        let arguments = [
            "run",
            "--create-dirs",
            "--hold",
            "--http",
            http.as_str(),
            "--verbose",
        ];
        let running = pebble(version, dir.path(), process::free_port(), &arguments);
        let services = || {
            let mut command = Command::new(tools::path(version));
            command.arg("services").env("PEBBLE", dir.path());
            command
        };
        let listed = process::wait_for(
            "Pebble responds",
            Duration::from_secs(30),
            || running.log_tail(),
            async || {
                let output = services().output().ok()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.contains("metrics-proxy").then_some(text)
            },
        )
        .await;
        assert!(listed.contains("inactive"), "{version}: {listed}");
    }
}
