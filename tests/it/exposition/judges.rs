//! Our responses, read by other parsers: Python's reference parsers, and promtool in an old and a recent version.
//!
//! Prometheus decides what is accepted from targets. The Python parser also has rules about values (decreasing buckets,
//! negative counters, no `+Inf` bucket), which we do not enforce (rule `values`), so the bodies have valid values here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::common::*;
use super::generate::{Taste, fixed};
use super::golden_cases::goldens;
use crate::support::prometheus::promtool_check_metrics;
use crate::support::tools::{self, tool_or_skip};

const SANE: Taste = Taste {
    quoted: false,
    wild: false,
    time: Some(1_700_000_000_123),
    odd: true,
};

fn goldens_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/exposition/tests/goldens")
}

/// Runs the reference parsers. Returns the error for each case, if there is one.
fn ask_python(cases: &[(Format, String)]) -> Vec<Option<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/reference_parsers.py");
    let mut child = Command::new(tools::path("python"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("it was asked for with Stdio::piped");
    let input: String = cases
        .iter()
        .map(|(format, body)| {
            let format = if *format == Format::OpenMetrics {
                "openmetrics"
            } else {
                "text"
            };
            json!({"format": format, "body": body}).to_string()
        })
        .collect::<Vec<_>>()
        .join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "{}", output.status);
    writer
        .join()
        .expect("writing does not panic")
        .expect("python reads all");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| match serde_json::from_str(line).expect("a line of JSON") {
            Value::String(error) => Some(error),
            _ => None,
        })
        .collect()
}

/// Errors about the values of a target, which we do not enforce: an incomplete histogram is passed on.
const ABOUT_VALUES: &[&str] = &[
    "+Inf bucket missing",
    "Count does not match +Inf value",
    "_count must be present if _sum is present",
    "_sum/_gsum must be present if _count is present",
    "Bucket values out of order",
    "Info samples can only have value one",
    "Stateset samples can only have values zero and one",
];

/// Whether buckets are refused only because a target spells one bound in two ways (`1` and `1.0`). They are two series for
/// Prometheus 2, so both are kept.
fn a_bound_is_spelled_twice(refused: &str) -> bool {
    let bucket = |line: &str| {
        let (before, rest) = line.split_once("le=\"")?;
        let (bound, after) = rest.split_once('"')?;
        let labels = after.split_once('}')?.0;
        Some((format!("{before}{labels}"), bound.parse::<f64>().ok()?))
    };
    let lines: Vec<_> = refused.lines().map(bucket).collect();
    refused.contains("Buckets out of order")
        && lines.windows(2).all(|pair| match pair {
            [Some((a, low)), Some((b, high))] if a == b => low <= high,
            _ => true,
        })
}

#[track_caller]
fn python_accepts(cases: &[(Format, String)]) {
    let errors = ask_python(cases);
    assert_eq!(errors.len(), cases.len());
    let refused: Vec<String> = errors
        .into_iter()
        .zip(cases)
        .filter_map(|(error, (_, body))| Some(format!("{}\n{body}", error?)))
        .filter(|refused| {
            !ABOUT_VALUES.iter().any(|rule| refused.contains(rule)) && !a_bound_is_spelled_twice(refused)
        })
        .collect();
    let n = cases.len();
    assert!(
        refused.is_empty(),
        "{} of {n} refused, first: {}",
        refused.len(),
        refused[0]
    );
}

#[test]
fn the_reference_parsers_refuse_invalid_bodies() {
    let _python = tool_or_skip!("python");
    let errors = ask_python(&[
        (Format::Text, "a 1\n".to_owned()),
        (Format::Text, "a{ 1\n".to_owned()),
        (
            Format::OpenMetrics,
            "# TYPE a counter\na_total 1\n# EOF\n".to_owned(),
        ),
        (
            Format::OpenMetrics,
            "# TYPE a counter\na 1\n# TYPE a gauge\na 2\n# EOF\n".to_owned(),
        ),
    ]);
    let refused: Vec<bool> = errors.iter().map(Option::is_some).collect();
    assert_eq!(refused, [false, true, false, true]);
}

#[test]
fn the_reference_parsers_accept_responses_for_conflicting_targets() {
    let _python = tool_or_skip!("python");
    let mut cases = Vec::new();
    for taste in [SANE, Taste { quoted: true, ..SANE }] {
        for bodies in fixed(taste, 300, 7) {
            for format in FORMATS {
                cases.push((format, merged(&bodies, &response_format(Client::Anybody, format))));
            }
            cases.push((
                Format::Text,
                merged(&bodies, &response_format(Client::Prometheus3, Format::Text)),
            ));
        }
    }
    python_accepts(&cases);
}

#[test]
fn the_reference_parsers_accept_the_goldens() {
    let _python = tool_or_skip!("python");
    let cases: Vec<(Format, String)> = goldens(&goldens_folder())
        .into_iter()
        // A counter without `_total` is a matter between it and Prometheus (rule `counter-names`).
        .filter(|golden| golden.client == Client::Anybody || golden.format == Format::Text)
        .map(|golden| (golden.format, golden.text))
        .collect();
    python_accepts(&cases);
}

#[test]
fn promtool_accepts_the_goldens() {
    let today = tools::path("promtool");
    let old = tool_or_skip!("promtool-2.42");
    for golden in goldens(&goldens_folder()) {
        // `promtool check metrics` cannot read quoted names, which only clients that request them get.
        if golden.format == Format::Text && !golden.text.contains("{\"") {
            let programs = if golden.client == Client::Prometheus3 {
                vec![&today]
            } else {
                vec![&today, &old]
            };
            for program in programs {
                let told = promtool_check_metrics(program, &golden.text);
                told.unwrap_or_else(|error| panic!("{error}\n{}", golden.text));
            }
        }
    }
}

#[test]
fn promtool_3_16_accepts_responses_for_conflicting_targets() {
    let program = tools::path("promtool");
    for bodies in fixed(SANE, 60, 2) {
        for client in [Client::Anybody, Client::Prometheus3] {
            let text = merged(&bodies, &response_format(client, Format::Text));
            promtool_check_metrics(&program, &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
}

#[test]
fn promtool_2_42_accepts_responses_for_conflicting_targets() {
    let program = tool_or_skip!("promtool-2.42");
    for bodies in fixed(Taste { quoted: true, ..SANE }, 60, 3) {
        let text = merged(&bodies, &response_format(Client::Prometheus2, Format::Text));
        promtool_check_metrics(&program, &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}
