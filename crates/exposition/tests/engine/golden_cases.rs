//! Complete responses in `tests/goldens`: a folder for each case, with a file for each target (`*.om` is OpenMetrics) and
//! the response for each kind of client (`*.expected`).
//!
//! `UPDATE_GOLDENS=1 cargo test --package exposition goldens` writes them again. Read the difference before you commit it.

#![allow(
    dead_code,
    reason = "the goldens and the tests with real parsers use a part of it each"
)]

use std::fs;
use std::path::{Path, PathBuf};

use super::common::*;

/// The responses of a case, by the name of their file.
const RESPONSES: [(&str, Client, Format); 6] = [
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

/// One expected response.
pub(crate) struct Golden {
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// All responses of the cases in a folder, made now from their inputs.
pub(crate) fn goldens(root: &Path) -> Vec<Golden> {
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .expect("the goldens are in the tree")
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
        for (name, client, format) in RESPONSES {
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
                text: written(&merge(parts, &response_format(client, format))),
            });
        }
    }
    goldens
}
