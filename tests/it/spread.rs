//! The tasks of `spread/`, run by the stand-in for spread, and what plain spread needs of its files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::app::PROGRAM;
use crate::support::process::{self, Process};
use crate::support::tools::{self, tool_or_skip};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The folders of tasks below a suite.
fn tasks(suite: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(suite)).expect("the checkout can be read");
    let mut tasks: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    tasks.retain(|path| path.join("task.yaml").exists());
    tasks.sort();
    tasks
}

#[test]
fn every_task_passes_in_the_stand_in_for_spread() {
    for (program, package) in [("curl", "curl"), ("pgrep", "procps"), ("openssl", "openssl")] {
        if Command::new(program).arg("--version").output().is_err() {
            fn here() {}
            let missing = tools::Missing::because(&format!(
                "{program}: not on PATH; get it with: apt-get install {package}"
            ));
            tools::skipped(std::any::type_name_of_val(&here), &missing);
            return;
        }
    }
    let _python = tool_or_skip!("python");
    let dir = process::fresh_dir();
    let link = |from: PathBuf, name: &str| {
        std::os::unix::fs::symlink(from, dir.path().join(name)).expect("a fresh folder can be written");
    };
    link(PROGRAM.into(), "metrics-proxy");
    link(tools::path("pebble-1.19"), "pebble-1.19");
    link(tools::path("pebble-1.26"), "pebble-1.26");
    link(tools::path("pebble-1.32"), "pebble-1.32");
    let mut command = Command::new(tools::path("python"));
    command
        .arg(root().join("tests/spread-runner"))
        .args(["--jobs", "3"])
        .env("METRICS_PROXY_SPREAD_BIN", dir.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("PEBBLE")
        .env_remove("PEBBLE_SOCKET")
        .env_remove("KUBECONFIG");
    let mut runner = Process::spawn("spread-runner", command, &dir.path().join("log"));
    let status = runner.wait(Duration::from_mins(5));
    assert!(status.success(), "{}", runner.log());
    let n = tasks("spread/tasks").len() * 3;
    assert!(n >= 21);
    assert!(
        runner.log().contains(&format!("{n} of {n} passed")),
        "{}",
        runner.log()
    );
}

/// What spread takes in a task; anything else it refuses.
const TASK_KEYS: &[&str] = &[
    "summary",
    "details",
    "backends",
    "systems",
    "variants",
    "environment",
    "samples",
    "prepare",
    "execute",
    "restore",
    "debug",
    "artifacts",
    "warn-timeout",
    "kill-timeout",
    "priority",
    "manual",
];

#[test]
fn plain_spread_knows_every_field() {
    let project = yaml(&root().join("spread.yaml"));
    let known = [
        "project",
        "environment",
        "backends",
        "path",
        "exclude",
        "include",
        "rename",
        "repack",
        "reroot",
        "kill-timeout",
        "warn-timeout",
        "prepare",
        "restore",
        "debug",
        "prepare-each",
        "restore-each",
        "debug-each",
        "suites",
    ];
    for key in project.as_object().expect("a map").keys() {
        assert!(known.contains(&key.as_str()), "spread.yaml: {key}");
    }
    let backends = project["backends"].as_object().expect("a map");
    assert_eq!(
        backends.keys().map(String::as_str).collect::<Vec<_>>(),
        ["adhoc", "juju", "lxd"]
    );
    // `-reuse -resend` removes the remote path: on this machine it must never be the checkout.
    assert!(
        project["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/tmp/"))
    );
    for suite in project["suites"].as_object().expect("a map").keys() {
        assert!(suite.ends_with('/'), "{suite}: suites end with a slash");
        for task in tasks(suite) {
            let value = yaml(&task.join("task.yaml"));
            for key in value.as_object().expect("a map").keys() {
                assert!(TASK_KEYS.contains(&key.as_str()), "{}: {key}", task.display());
            }
            assert!(value["summary"].is_string() && value["execute"].is_string());
        }
    }
}

#[test]
fn rockcrafts_own_spread_file_tests_the_artifact() {
    let project = yaml(&root().join("rockcraft-test.yaml"));
    assert_eq!(project["backends"]["craft"]["type"], "craft");
    for suite in project["suites"].as_object().expect("a map").keys() {
        for task in tasks(suite) {
            let value = yaml(&task.join("task.yaml"));
            let scripts = format!("{}{}", value["prepare"], value["execute"]);
            assert!(scripts.contains("CRAFT_ARTIFACT"), "{}", task.display());
        }
    }
}

#[test]
fn the_model_of_rockcraft_test_accepts_its_file() {
    const LOAD: &str = "import pathlib, sys\n\
         from craft_application.models import CraftTestYaml\n\
         test = CraftTestYaml.from_yaml_file(pathlib.Path(sys.argv[1]))\n\
         print(*test.suites)\n";
    let crafts = tool_or_skip!("crafts");
    let load = |file: &Path| {
        let output = Command::new(&crafts)
            .args(["-c", LOAD])
            .arg(file)
            .output()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", crafts.display()));
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), printed)
    };
    let file = root().join("rockcraft-test.yaml");
    let (accepted, printed) = load(&file);
    assert!(accepted, "{printed}");
    assert_eq!(printed.trim(), "spread/rock/");
    // The field that an earlier version of the file had.
    let dir = process::fresh_dir();
    let wrong = dir.path().join("rockcraft-test.yaml");
    let text = std::fs::read_to_string(&file).expect("the checkout can be read");
    std::fs::write(&wrong, format!("{text}environment: {{A: b}}\n")).expect("a fresh folder can be written");
    let (accepted, printed) = load(&wrong);
    assert!(!accepted && printed.contains("environment"), "{printed}");
    // rockcraft calls this script with four verbs, and fails where it is missing.
    for verb in [
        "backend-prepare",
        "backend-restore",
        "backend-prepare-each",
        "backend-restore-each",
    ] {
        let status = Command::new(root().join("spread/.extension"))
            .args([verb, "lxd-vm"])
            .status()
            .unwrap_or_else(|e| panic!("cannot run spread/.extension: {e}"));
        assert!(status.success(), "{verb}: {status}");
    }
}
