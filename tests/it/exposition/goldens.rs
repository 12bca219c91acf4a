//! Whole answers in `tests/data/exposition`: a folder a case, a file a target (`*.om` is OpenMetrics), and what each
//! kind of client gets in `*.expected`.
//!
//! `UPDATE_GOLDENS=1 cargo test --test it goldens` writes them anew; read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The answers of a case, by the name of their file.
const ANSWERS: [(&str, Client, Format); 6] = [
    ("anybody.text.expected", Client::Anybody, Format::Text),
    (
        "anybody.openmetrics.expected",
        Client::Anybody,
        Format::OpenMetrics,
    ),
    ("prometheus-2.text.expected", Client::Prometheus2, Format::Text),
    (
        "prometheus-2.openmetrics.expected",
        Client::Prometheus2,
        Format::OpenMetrics,
    ),
    ("prometheus-3.text.expected", Client::Prometheus3, Format::Text),
    (
        "prometheus-3.openmetrics.expected",
        Client::Prometheus3,
        Format::OpenMetrics,
    ),
];

/// One golden answer.
pub(super) struct Golden {
    pub(super) client: Client,
    pub(super) format: Format,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Every golden, made now from its inputs.
pub(super) fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/exposition");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)
        .expect("tests/data/exposition is in the tree")
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    cases.sort();
    let mut goldens = Vec::new();
    for case in cases {
        let mut files: Vec<PathBuf> = fs::read_dir(&case)
            .expect("a case is a folder")
            .map(|entry| entry.expect("the folder can be listed").path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "prom" || extension == "om")
            })
            .collect();
        files.sort();
        for (name, client, format) in ANSWERS {
            let parts = files
                .iter()
                .map(|file| {
                    let body = fs::read_to_string(file).expect("inputs are UTF-8");
                    target(&file.file_stem().unwrap_or_default().to_string_lossy(), &body)
                })
                .collect();
            goldens.push(Golden {
                client,
                format,
                path: case.join(name),
                text: written(&merge(parts, &answer(client, format))),
            });
        }
    }
    goldens
}

#[test]
fn answers_are_as_they_were() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let goldens = goldens();
    assert!(goldens.len() >= 30, "only {} goldens were found", goldens.len());
    for golden in goldens {
        if update {
            fs::write(&golden.path, &golden.text).expect("the tree can be written");
            continue;
        }
        let expected = fs::read_to_string(&golden.path).unwrap_or_default();
        assert_eq!(golden.text, expected, "{}", golden.path.display());
    }
}
