//! A charm beside the proxy: the layer of the istio-k8s charm, replans during a rotation, and the client that charms use.

use std::os::unix::fs::symlink;
use std::process::Command;

use http::StatusCode;
use serde_json::{Value, json};

use super::rig::{LIMIT, Rig, SHORT, Setup};
use crate::support::app::PROGRAM;
use crate::support::http as client;
use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::{self, wait_for};
use crate::support::tools::{self, tool_or_skip};

/// The charm's layer, word for word: label and service `metrics-proxy`, replaced at every hook.
fn istio_layer(selector: &str) -> String {
    format!(
        "summary: Metrics Broker Layer\ndescription: Pebble layer for the metrics broker\nservices:\n  \
         metrics-proxy:\n    override: replace\n    summary: Metrics Broker Service\n    command: metrics-proxy\n    \
         startup: enabled\n    environment:\n      POD_LABEL_SELECTOR: {selector}\n"
    )
}

#[tokio::test]
async fn the_istio_charm_drives_the_proxy_on_pebble_1_26() {
    drive(VERSIONS[0]).await;
}

#[tokio::test]
async fn the_istio_charm_drives_the_proxy_on_pebble_1_32() {
    drive(VERSIONS[1]).await;
}

async fn drive(version: &str) {
    let dir = process::fresh_dir();
    symlink(PROGRAM, dir.path().join("metrics-proxy")).expect("a fresh folder can be written");
    std::fs::create_dir(dir.path().join("pods")).expect("a fresh folder can be written");
    let port = process::free_port();
    // What the charm does not set comes from Pebble's own environment, as it would from the rock's.
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut options = Options::default()
        .hold()
        .env("PATH", &path)
        .env("PORT", &port.to_string())
        .env(
            "METRICS_PROXY_PODS_FILE",
            &dir.path().join("pods").display().to_string(),
        );
    for (name, value) in SHORT {
        options = options.env(name, value);
    }
    let pebble = Pebble::start(version, &[], options).await;
    let hook = async |selector: &str| {
        pebble
            .add_layer("metrics-proxy", true, &istio_layer(selector))
            .await;
        let change = pebble.replan().await;
        assert_eq!(change["status"], "Done", "{change}");
    };
    hook("app=one").await;
    let log = || process::tail("pebble", &pebble.log());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("/readyz answers 200", LIMIT, log, async || {
        let answer = client::get(address, "/readyz").send().await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    let pid = pebble.service_pid("metrics-proxy").expect("the service runs");
    for _ in 0..20 {
        hook("app=one").await;
    }
    assert_eq!(pebble.service_pid("metrics-proxy"), Some(pid), "never restarted");
    let plan = pebble.plan().await;
    let charms: Value = serde_yaml::from_str(&istio_layer("app=one")).expect("YAML");
    assert_eq!(
        plan["services"], charms["services"],
        "the charm's service is as it wrote it"
    );
    assert_eq!(
        plan["checks"].as_object().map(serde_json::Map::len),
        Some(3),
        "{plan}"
    );
    assert_eq!(pebble.log().matches("Adding layer metrics-proxy-self").count(), 1);
    for name in [
        "metrics-proxy-alive",
        "metrics-proxy-identity",
        "metrics-proxy-ready",
    ] {
        let refreshed = pebble
            .api_post("/v1/checks/refresh", &json!({"name": name}))
            .await;
        assert_eq!(refreshed["result"]["error"], Value::Null, "{refreshed}");
        pebble.wait_check(name, "up", LIMIT).await;
    }
    hook("app=two").await;
    let now = wait_for("another process", LIMIT, log, async || {
        pebble.service_pid("metrics-proxy").filter(|now| *now != pid)
    })
    .await;
    let environment = std::fs::read(format!("/proc/{now}/environ")).expect("the process is there");
    assert!(String::from_utf8_lossy(&environment).contains("POD_LABEL_SELECTOR=app=two"));
    wait_for("/readyz answers 200 again", LIMIT, log, async || {
        let answer = client::get(address, "/readyz").send().await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(
        pebble.log().matches("Adding layer metrics-proxy-self").count(),
        1,
        "the plan still has our checks"
    );
}

#[tokio::test]
async fn twenty_replans_during_a_rotation_disturb_nothing() {
    for version in VERSIONS {
        let rig = Rig::start(version, Setup::default()).await;
        rig.push_pair("alice", "one");
        rig.wait_works("alice", "one").await;
        rig.wait_readyz("ready").await;
        let pid = rig.pid().await;
        rig.push_pair("bob", "two");
        for n in 0..20 {
            let layer = format!(
                "services:\n  other:\n    override: replace\n    command: sleep {}\n",
                1000 + n
            );
            rig.pebble.add_layer("charm", true, &layer).await;
            let change = rig.pebble.replan().await;
            assert_eq!(change["status"], "Done", "{change}");
        }
        rig.wait_works("bob", "two").await;
        assert!(!rig.works("alice", "one").await);
        assert_eq!(rig.pid().await, pid, "never restarted");
        assert_eq!(rig.identity_writes(), 2);
        // A replan with another environment restarts the proxy: it stops in time, and the port is free.
        let layer =
            "services:\n  metrics-proxy:\n    override: merge\n    environment:\n      ASKED: 'yes'\n";
        for _ in 0..3 {
            rig.pebble
                .add_layer(
                    "charm-env",
                    true,
                    &layer.replace("yes", &format!("{}", rand::random::<u32>())),
                )
                .await;
            let change = rig.pebble.replan().await;
            assert_eq!(change["status"], "Done", "{change}");
        }
        assert_ne!(rig.pid().await, pid);
        rig.wait_readyz("ready").await;
        assert_eq!(rig.identity_writes(), 2, "a restart writes nothing");
    }
}

/// A charm's hook in Python, with the package that charms use.
#[tokio::test]
async fn the_charms_own_client_agrees() {
    let _python = tool_or_skip!("python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/reconciler/charm.py");
    for version in VERSIONS {
        let rig = Rig::start(version, Setup::default()).await;
        rig.push_pair("alice", "one");
        rig.wait_works("alice", "one").await;
        rig.wait_readyz("ready").await;
        rig.push_pair("", "one");
        rig.wait_readyz("secret: username empty; set one").await;
        rig.passes(1).await;
        let socket = rig.pebble.socket();
        let python = tools::path("python");
        let output = tokio::task::spawn_blocking(move || {
            Command::new(python)
                .arg("-W")
                .arg("error")
                .arg(script)
                .arg(socket)
                .output()
        })
        .await
        .expect("it does not panic")
        .expect("python runs");
        assert!(
            output.status.success(),
            "{version}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        rig.push_pair("alice", "two");
        rig.wait_works("alice", "two").await;
    }
}
