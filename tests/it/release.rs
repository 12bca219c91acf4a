//! What a release is made of: its bill of materials, the workflows that make it, and (by `make soak`) the binaries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::support::http as client;
use crate::support::process::{self, Process};
use crate::support::tools::{self, tool_or_skip};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it in the checkout and gives what it printed.
#[track_caller]
fn text(command: &mut Command) -> String {
    let output = command
        .current_dir(root())
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_bill_of_materials_has_what_is_in_the_binary_and_nothing_else() {
    // Through the tests' own Python: the machine's may be too old to read TOML.
    let bill = || {
        text(
            Command::new(tools::path("python"))
                .arg(root().join("tools/sbom"))
                .arg("aarch64-unknown-linux-musl"),
        )
    };
    let first = bill();
    assert_eq!(first, bill(), "a function of the checkout");
    let bill: Value = serde_json::from_str(&first).expect("it is JSON");
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(
        bill["metadata"]["component"]["version"],
        env!("CARGO_PKG_VERSION")
    );
    let components = bill["components"].as_array().expect("a list");
    let names: BTreeSet<&str> = components
        .iter()
        .map(|c| c["name"].as_str().expect("a name"))
        .collect();
    for used in ["tokio", "hyper", "kube", "rustls", "ring", "memchr"] {
        assert!(names.contains(used), "{used} is in the binary");
    }
    for unused in ["proptest", "rcgen", "tempfile", "cc", "windows-sys"] {
        assert!(
            !names.contains(unused),
            "{unused} is not in the binary, or not on this target"
        );
    }
    let references: BTreeSet<&str> = components
        .iter()
        .map(|c| c["bom-ref"].as_str().expect("a reference"))
        .collect();
    for component in components {
        let name = &component["name"];
        // A member of the workspace comes from the checkout itself and has no checksum in Cargo.lock.
        let checksum = (name != "exposition").then_some(64);
        assert_eq!(
            component["hashes"][0]["content"].as_str().map(str::len),
            checksum,
            "{name} has the checksum of Cargo.lock"
        );
        assert!(
            component["licenses"][0]["expression"].is_string(),
            "{name} has a licence"
        );
    }
    for dependency in bill["dependencies"].as_array().expect("a list") {
        for on in dependency["dependsOn"].as_array().expect("a list") {
            assert!(references.contains(on.as_str().expect("a reference")), "{on}");
        }
    }
}

#[test]
fn the_workflows_are_valid_and_call_targets_that_exist() {
    let folder = root().join(".github/workflows");
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the checkout can be read")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert_eq!(files.len(), 3);
    text(
        Command::new(tools::path("python").with_file_name("check-jsonschema"))
            .args(["--builtin-schema", "vendor.github-workflows"])
            .args(&files),
    );
    let makefiles = ["Makefile", "make/packaging.mk"]
        .map(|name| std::fs::read_to_string(root().join(name)).expect("the checkout can be read"))
        .concat();
    let mut n_targets = 0;
    for file in &files {
        let workflow = std::fs::read_to_string(file).expect("the checkout can be read");
        for line in workflow.lines() {
            let Some((_, after)) = line.split_once("run: make ") else {
                continue;
            };
            let target = after.split_whitespace().next().unwrap_or_default();
            assert!(
                makefiles.contains(&format!("\n{target}: ")),
                "{}: {target}",
                file.display()
            );
            n_targets += 1;
        }
    }
    assert!(n_targets >= 4);
}

/// Starts a binary (through `runner` where one is given) and waits until it responds.
async fn serves(runner: Option<&Path>, binary: &Path) {
    let dir = process::fresh_dir();
    let address = process::free_address();
    let mut command = match runner {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(binary);
            command
        }
        None => Command::new(binary),
    };
    command
        .env_clear()
        .args(["--labels", "a=b", "--pebble", "off", "--kubeconfig", "/nowhere"]);
    command.args(["--pods-file", "/dev/null", "--port", &address.port().to_string()]);
    let mut process = Process::spawn("the release", command, &dir.path().join("log"));
    let answered = async || {
        let answer = client::get(address, "/healthz").send().await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    };
    process
        .wait_for("/healthz responds", Duration::from_secs(30), answered)
        .await;
    assert!(process.stop(Duration::from_secs(10)).success());
}

#[tokio::test]
#[ignore = "builds the release, some 10 minutes; make soak runs it"]
async fn both_binaries_are_static_and_serve() {
    let qemu = tool_or_skip!("qemu-aarch64");
    let dir = process::fresh_dir();
    let printed = text(
        Command::new(root().join("tools/release"))
            .arg("--into")
            .arg(dir.path()),
    );
    let binaries: Vec<&Path> = printed.lines().map(Path::new).collect();
    assert_eq!(binaries.len(), 2);
    for binary in binaries {
        let bytes = std::fs::read(binary).expect("tools/release printed it");
        // A dynamic one names its loader.
        assert!(
            !bytes
                .windows(10)
                .any(|ten| ten == b"/ld-linux-" || ten == b"/ld-musl-x"),
            "{} is static",
            binary.display()
        );
        let place = env!("CARGO_MANIFEST_DIR").as_bytes();
        let found = bytes.windows(place.len()).any(|part| part == place);
        assert!(!found, "{} names the place of its checkout", binary.display());
        let foreign = !binary.to_string_lossy().ends_with(std::env::consts::ARCH);
        let runner = (foreign && binary.to_string_lossy().ends_with("aarch64")).then_some(qemu.as_path());
        serves(runner, binary).await;
    }
}

#[test]
#[ignore = "builds the release twice, some 15 minutes; make soak runs it"]
fn the_release_is_reproducible() {
    let said = text(&mut Command::new(root().join("tools/reproduce")));
    assert!(said.contains("reproduced"), "{said}");
}
