//! The reference charm: its own tests and linters, charmcraft's model, and its handlers against a real Pebble that runs the
//! real program.

use std::os::unix::fs::PermissionsExt as _;
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

/// A command of the test environment's Python, in the folder of a charm.
fn python(charm: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(tools::path("python"));
    command
        .current_dir(charm)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(args);
    command
}

/// A program that the test environment's Python packages install.
fn python_tool(charm: &Path, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(tools::path("python").with_file_name(name));
    command.current_dir(charm).args(args);
    command
}

/// Runs a command to its end, fails where it failed, and returns its output.
#[track_caller]
fn passes(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}: {printed}", output.status);
    printed
}

/// A copy of the charm's folder outside of the repository.
fn copied() -> (tempfile::TempDir, PathBuf) {
    let dir = process::fresh_dir();
    let copy = dir.path().join("charm");
    let mut command = Command::new("cp");
    command.arg("-r").arg(charm()).arg(&copy);
    passes(command);
    (dir, copy)
}

/// The number before a word in the summary of pytest.
fn count(summary: &str, word: &str) -> usize {
    let before = summary.split(&format!(" {word}")).next().unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no count of {word} in: {summary}"))
}

#[test]
fn the_charms_unit_tests_pass_in_a_copy_of_its_folder() {
    let _python = tool_or_skip!("python");
    let (_dir, copy) = copied();
    let printed = passes(python(
        &copy,
        &["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"],
    ));
    let n_passed = count(&printed, "passed");
    assert!(n_passed >= 60, "only {n_passed} ran: {printed}");
}

#[test]
fn the_charms_integration_tests_run_or_name_what_they_lack() {
    let _python = tool_or_skip!("python");
    let (_dir, copy) = copied();
    let mut command = python(
        &copy,
        &[
            "-m",
            "pytest",
            "-v",
            "-rs",
            "-p",
            "no:cacheprovider",
            "tests/integration",
        ],
    );
    // Whatever this machine has, this test deploys nothing.
    command.env_remove("ROCK_IMAGE");
    let printed = passes(command);
    assert!(count(&printed, "skipped") >= 6, "{printed}");
    for remedy in [
        "test_deploy SKIPPED",
        "test_prometheus_stores_the_series_of_the_pod SKIPPED",
    ] {
        assert!(printed.contains(remedy), "{remedy} is not in: {printed}");
    }
}

#[test]
fn the_charms_linters_and_its_lock_file_agree_with_its_sources() {
    let _python = tool_or_skip!("python");
    let charm = charm();
    passes(python_tool(
        &charm,
        "ruff",
        &["check", "--no-cache", "src", "tests"],
    ));
    passes(python_tool(
        &charm,
        "ruff",
        &["format", "--no-cache", "--check", "src", "tests"],
    ));
    passes(python_tool(&charm, "codespell", &["."]));
    let cache = process::fresh_dir();
    let mut lock = python_tool(
        &charm,
        "uv",
        &["lock", "--check", "--offline", "--no-python-downloads"],
    );
    lock.env("UV_CACHE_DIR", cache.path());
    passes(lock);
}

#[test]
fn charmcrafts_own_model_accepts_charmcraft_yaml() {
    const LOAD: &str = "import pathlib, sys\n\
         from charmcraft.models.project import CharmcraftProject\n\
         project = CharmcraftProject.from_yaml_file(pathlib.Path(sys.argv[1]))\n\
         print(project.name, sorted(project.requires), sorted(project.provides))\n";
    let crafts = tool_or_skip!("crafts");
    let load = |file: &Path| {
        let mut command = Command::new(&crafts);
        command.args(["-c", LOAD]).arg(file);
        command
    };
    let file = charm().join("charmcraft.yaml");
    let printed = passes(load(&file));
    assert!(printed.starts_with("metrics-proxy-example "), "{printed}");
    for relation in [
        "logging",
        "charm-tracing",
        "receive-ca-cert",
        "ingress",
        "metrics-endpoint",
    ] {
        assert!(printed.contains(relation), "{relation} is not in {printed}");
    }
    // A field that charmcraft does not know is refused, so that the above means something.
    let dir = process::fresh_dir();
    let wrong = dir.path().join("charmcraft.yaml");
    let text = std::fs::read_to_string(&file).expect("the checkout can be read");
    std::fs::write(&wrong, format!("{text}unknown-field: 1\n")).expect("a fresh folder can be written");
    let output = load(&wrong).output().expect("it ran a moment ago");
    assert!(!output.status.success(), "an unknown field is accepted");
}

/// A stand-in for cos-tool, which no package registry has: the same call, carried out by promtool's parser.
const COS_TOOL: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1 $2 $3" = "--format promql transform" ]
shift 3
names=() values=()
while [ "$1" != -- ]; do
  pair=${1#--label-matcher=}
  names+=("${pair%%=*}") values+=("${pair#*=}")
  shift
done
expression=$2
for i in "${!names[@]}"; do
  expression=$("$PROMTOOL" --experimental promql label-matchers set "$expression" "${names[$i]}" "${values[$i]}")
done
printf %s "$expression"
"#;

#[test]
fn the_rules_that_the_charm_sends_are_rules_of_its_application_alone() {
    const RENDER: &str = "import json, os, sys\n\
         from unittest.mock import Mock\n\
         sys.path.insert(0, os.environ['CHARM'] + '/src')\n\
         import cos, cosl, cosl.cos_tool\n\
         cosl.cos_tool.configure_cache('cache')\n\
         here = cos.Cos.__new__(cos.Cos)\n\
         here._topology = cosl.JujuTopology(model='mesh', model_uuid='5bb4a8a1-5cb4-4d4b-8b5e-2b0c3c1d3c0a',\n\
             application='proxy', unit='proxy/0', charm_name='metrics-proxy-example')\n\
         print(json.dumps(here.alert_rules()))\n";
    let _python = tool_or_skip!("python");
    let dir = process::fresh_dir();
    // cosl looks for it in the working folder, by the name of the architecture.
    let machine = if std::env::consts::ARCH == "x86_64" {
        "amd64"
    } else {
        std::env::consts::ARCH
    };
    let shim = dir.path().join(format!("cos-tool-{machine}"));
    std::fs::write(&shim, COS_TOOL).expect("a fresh folder can be written");
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    let mut render = python(dir.path(), &["-c", RENDER]);
    render
        .env("CHARM", charm())
        .env("PROMTOOL", tools::path("promtool"));
    let rules = passes(render);
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, &rules).expect("a fresh folder can be written");
    let mut check = Command::new(tools::path("promtool"));
    check.args(["check", "rules"]).arg(&file);
    passes(check);
    let parsed: serde_json::Value = serde_json::from_str(&rules).expect("it is JSON");
    let mut n_rules = 0;
    for group in parsed["groups"].as_array().expect("a list") {
        for rule in group["rules"].as_array().expect("a list") {
            let expression = rule["expr"].as_str().expect("a rule has an expression");
            let selectors = expression.matches("metrics_proxy_").count() + expression.matches("up{").count();
            let ours = expression.matches("juju_application=\"proxy\"").count();
            assert!(ours >= 1, "{expression}");
            assert_eq!(ours, selectors, "{expression}");
            n_rules += 1;
        }
    }
    // Ours, and the two generic ones of COS.
    assert!(n_rules >= 10, "{rules}");
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
            .env("METRICS_PROXY_SECRET_DEBOUNCE", "200ms")
            .env("METRICS_PROXY_SECRET_POLL", "200ms")
            .env("METRICS_PROXY_SECRET_REMOVAL_GRACE", "1s");
        let pebble = Pebble::start(version, &[], options).await;
        let port = process::free_port();
        let mut command = python(&charm(), &["tests/functional/against_pebble.py"]);
        command
            .arg(pebble.socket())
            .arg(dir.path().join("secret"))
            .arg(port.to_string())
            .arg(pebble.port().to_string());
        // The wait blocks, so it has a thread of its own: the pod responds from this runtime.
        let ran = tokio::task::spawn_blocking(move || passes(command));
        let said = tokio::time::timeout(Duration::from_mins(2), ran)
            .await
            .unwrap_or_else(|_| panic!("{version}: no end\n{}", process::tail("pebble", &pebble.log())));
        let said =
            said.unwrap_or_else(|e| panic!("{version}: {e}\n{}", process::tail("pebble", &pebble.log())));
        assert!(said.contains("all steps passed"), "{said}");
    }
}
