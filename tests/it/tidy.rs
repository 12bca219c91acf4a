//! Rules about the source itself.

use std::path::{Path, PathBuf};

/// The modules that turn values into values.
const CORE: &[&str] = &[
    "targets",
    "config",
    "credential",
    "pebble/layer",
    "pebble/plan",
    "pebble/owner_marker",
    "reconciler/decide",
    "reconciler/status",
    "secret/layouts",
    "secret/yaml_text",
];

/// What they must not use: the runtime, the network, the clock.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "hyper",
    "hyper_util",
    "kube::Client",
    "kube::Api",
    "kube::runtime",
    "std::fs",
    "std::env",
    "std::process",
    "std::os::unix::net",
    "std::net::Tcp",
    "std::net::Udp",
    "std::time::Instant",
    "std::time::SystemTime",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
];

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("the checkout can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file: without comments, and without its tests.
pub(crate) fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("the checkout can be read");
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .to_owned();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_core_does_no_io() {
    let mut found = Vec::new();
    let mut n_files = 0;
    let engine = rust_files(&root().join("crates/exposition/src"));
    assert!(
        !engine.is_empty(),
        "the engine's sources are in crates/exposition/src"
    );
    let modules = CORE.iter().map(|module| {
        let mut files = rust_files(&root().join("src").join(module));
        files.push(root().join("src").join(format!("{module}.rs")));
        files
    });
    for mut files in modules.chain([engine]) {
        files.retain(|file| file.is_file());
        for file in files {
            n_files += 1;
            let code = code(&file);
            for word in FORBIDDEN {
                let uses = |line: &&str| {
                    line.match_indices(word).any(|(at, _)| {
                        let before = line[..at].chars().next_back();
                        let after = line[at + word.len()..].chars().next();
                        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                        let goes_on = part(after) && !word.ends_with("Tcp") && !word.ends_with("Udp");
                        !part(before) && !goes_on
                    })
                };
                if let Some(line) = code.lines().find(uses) {
                    found.push(format!("{}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    assert!(n_files >= CORE.len());
    assert!(
        found.is_empty(),
        "core modules must not do I/O:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_source_file_says_what_belongs_in_it() {
    let mut silent = Vec::new();
    for folder in ["crates", "src", "tests", "examples"] {
        for file in rust_files(&root().join(folder)) {
            let text = std::fs::read_to_string(&file).expect("the checkout can be read");
            let below = file.strip_prefix(root()).expect("the file is in the checkout");
            let is_fuzz_build = below.starts_with("crates/exposition/fuzz/target");
            if !is_fuzz_build && !text.starts_with("//!") && !text.starts_with("#![no_main]") {
                silent.push(file);
            }
        }
    }
    assert!(silent.is_empty(), "files without a //! line: {silent:?}");
}

/// A test that is skipped in another way would not count where skips are failures.
#[test]
fn skips_go_through_one_function() {
    let mut others = Vec::new();
    for file in rust_files(&root().join("tests/it")) {
        let text = std::fs::read_to_string(&file).expect("the checkout can be read");
        let prints = |line: &str| line.contains("say(") && line.contains("SKIPPED");
        if !file.ends_with("support/tools.rs") && !file.ends_with("it/tidy.rs") && text.lines().any(prints) {
            others.push(file);
        }
    }
    assert!(others.is_empty(), "call `skipped()` instead: {others:?}");
}
