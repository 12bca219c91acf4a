//! The reference charm: its unit tests, and its handler against a real Pebble that runs the real program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::app::PROGRAM;
use crate::support::kube::NewPod;
use crate::support::pebble::{self, Options, Pebble};
use crate::support::pod::Pod;
use crate::support::process;
use crate::support::tools::{self, tool_or_skip};

fn charm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/charm")
}

fn python(args: &[&str]) -> Command {
    let mut command = Command::new(tools::path("python"));
    command
        .current_dir(charm())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(args);
    command
}

/// Runs it to its end and gives what it said.
#[track_caller]
fn passes(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

#[test]
fn the_charms_unit_tests_pass() {
    let _python = tool_or_skip!("python");
    let said = passes(python(&[
        "-m",
        "unittest",
        "discover",
        "-s",
        "tests",
        "-p",
        "test_charm.py",
    ]));
    let run = said.split("Ran ").nth(1).and_then(|rest| rest.split(' ').next());
    let n: u32 = run
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no count in: {said}"));
    assert!(n >= 25, "only {n} ran: {said}");
}

#[test]
fn the_rules_that_the_charm_sends_are_rules_of_its_application_alone() {
    const RENDER: &str = "import json, pathlib, sys\n\
         sys.path.insert(0, 'src')\n\
         import observability as o\n\
         from unittest.mock import Mock\n\
         model = Mock(uuid='5bb4a8a1-5cb4-4d4b-8b5e-2b0c3c1d3c0a'); model.name = 'mesh'\n\
         charm = Mock(model=model); charm.app.name = 'proxy'; charm.meta.name = 'metrics-proxy-example'\n\
         here = o.Observability.__new__(o.Observability); here._charm = charm\n\
         print(json.dumps({'groups': here.alert_groups()}))\n";
    let rules = passes(python(&["-c", RENDER]));
    let dir = process::fresh_dir();
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, &rules).expect("a fresh folder can be written");
    let mut check = Command::new(tools::path("promtool"));
    check.args(["check", "rules"]).arg(&file);
    passes(check);
    let parsed: serde_json::Value = serde_json::from_str(&rules).expect("it is JSON");
    for rule in parsed["groups"][0]["rules"].as_array().expect("a list") {
        let expression = rule["expr"].as_str().expect("a rule has an expression");
        let selectors = expression.matches("metrics_proxy_").count() + expression.matches("up{").count();
        let ours = expression.matches("juju_application=\"proxy\"").count();
        assert_eq!(ours, selectors, "{expression}");
    }
}

#[tokio::test]
async fn the_charms_handler_drives_the_real_program_under_a_real_pebble() {
    let _python = tool_or_skip!("python");
    for version in pebble::VERSIONS {
        let pod = Pod::serving("web_requests_total 7\n").await;
        let dir = process::fresh_dir();
        let pods = dir.path().join("pods.json");
        let manifest = NewPod::scraped("web-0", pod.address)
            .label("app", "web")
            .printed("ns");
        std::fs::write(&pods, manifest.to_string()).expect("a fresh folder can be written");
        // What the image has on PATH.
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).expect("a fresh folder can be written");
        std::os::unix::fs::symlink(PROGRAM, bin.join("metrics-proxy")).expect("a fresh folder");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        // Pebble gives its environment to the service: the intervals are shortened, and pods come from a file.
        let options = Options::default()
            .hold()
            .env("PATH", &path)
            .env("METRICS_PROXY_PODS_FILE", &pods.display().to_string())
            .env("METRICS_PROXY_SECRET_SETTLE", "200ms")
            .env("METRICS_PROXY_SECRET_POLL", "200ms")
            .env("METRICS_PROXY_SECRET_ABSENCE", "1s");
        let pebble = Pebble::start(version, &[], options).await;
        let port = process::free_port();
        let mut command = python(&["tests/against_pebble.py"]);
        command
            .arg(pebble.socket())
            .arg(dir.path().join("secret"))
            .arg(port.to_string())
            .arg(pebble.port().to_string());
        // A blocking wait on a thread of its own: the pod answers from this runtime.
        let ran = tokio::task::spawn_blocking(move || passes(command));
        let said = tokio::time::timeout(Duration::from_mins(2), ran)
            .await
            .unwrap_or_else(|_| panic!("{version}: no end\n{}", process::tail("pebble", &pebble.log())));
        let said =
            said.unwrap_or_else(|e| panic!("{version}: {e}\n{}", process::tail("pebble", &pebble.log())));
        assert!(said.contains("all steps passed"), "{said}");
    }
}
