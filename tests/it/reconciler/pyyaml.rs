//! Secrets as PyYAML's `safe_dump` writes them, which is how charms write YAML: the text that a charm meant is the password.

use std::process::Command;

use metrics_proxy::secret::{Reading, parse_file};
use serde::Deserialize;

use super::rig::{Rig, Setup};
use crate::support::pebble::VERSIONS;
use crate::support::tools::tool_or_skip;

/// A password and the document that PyYAML writes for it.
#[derive(Debug, Deserialize)]
struct Written(String, String);

fn written(python: std::path::PathBuf) -> Vec<Written> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/reconciler/pyyaml.py");
    let output = Command::new(python).arg(script).output().expect("python runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[test]
fn every_string_that_pyyaml_writes_is_read_as_it_was() {
    let written = written(tool_or_skip!("python"));
    assert!(written.len() > 400, "{}", written.len());
    let mut n_plain = 0;
    for Written(password, document) in &written {
        match parse_file(document.as_bytes()) {
            Reading::Usable(credential) => {
                assert_eq!(
                    credential.password.expose(),
                    password.as_bytes(),
                    "{password:?} was written as {document:?}"
                );
            }
            other => panic!("{password:?} was written as {document:?}: {other:?}"),
        }
        let is_number_in_yaml_1_2 = serde_yaml::from_str::<serde_yaml::Value>(document)
            .is_ok_and(|value| value["password"].is_number());
        n_plain += usize::from(is_number_in_yaml_1_2);
    }
    assert!(n_plain > 100, "only {n_plain} of them are numbers in YAML 1.2");
}

#[tokio::test]
async fn pebble_accepts_the_password_that_a_charm_wrote() {
    let written = written(tool_or_skip!("python"));
    let rig = Rig::start(VERSIONS[0], Setup::default()).await;
    for wanted in [
        "12e5", "0o17", "1.5e5", "-.5", "~", "089", "a: b", "äöü", "1_0E05",
    ] {
        let Written(password, document) = written
            .iter()
            .find(|Written(password, _)| password == wanted)
            .unwrap_or_else(|| panic!("{wanted} is one of the passwords"));
        rig.push(document);
        rig.wait_works("scraper", password).await;
    }
    // What the charm's own tools print or append is not silently part of the password.
    for (document, words) in [
        (
            "username: scraper\npassword: \"pw\\r\\n\"\n",
            "secret: password ends in a carriage return\n",
        ),
        (
            "username: scraper\npassword: 'pw '\n",
            "secret: password ends in white space\n",
        ),
        (
            "username: scraper\npassword: \"\\uFEFFpw\"\n",
            "secret: password has a byte order mark\n",
        ),
        (
            "username: prom@example.com\npassword: pw\n",
            "secret: use username [a-zA-Z][a-zA-Z0-9_-]*\n",
        ),
    ] {
        rig.push(document);
        rig.wait(words, async || (rig.readyz("").await == words).then_some(()))
            .await;
    }
    let verbose = rig.readyz("?verbose").await;
    assert!(verbose.contains("not \"prom@example.com\""), "{verbose}");
}
