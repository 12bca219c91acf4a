//! What is read and how it is written (`formats`), and the merge rules (`rules`), as text in and text out.

mod formats;
mod rules;

use super::*;

pub(super) const OM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(super) const P2: &str = "Prometheus/2.42.0";
pub(super) const P3: &str = "Prometheus/3.16.0";

/// A response in text for a client of which nothing is known.
pub(super) fn text() -> OutputFormat {
    OutputFormat::new(Format::Text, Escaping::Underscores)
}

pub(super) fn open_metrics() -> OutputFormat {
    OutputFormat::new(Format::OpenMetrics, Escaping::Underscores)
}

/// The response for a Prometheus with this User-Agent. Version 3 sends `escaping=allow-utf-8`.
pub(super) fn prometheus(agent: &str, format: Format) -> OutputFormat {
    let escaping = if agent == P3 { ";escaping=allow-utf-8" } else { "" };
    let accept = match format {
        Format::Text => format!("text/plain;version=0.0.4{escaping}"),
        Format::OpenMetrics => {
            format!("application/openmetrics-text;version=1.0.0{escaping},text/plain;q=0.5")
        }
    };
    negotiate(Some(&accept), None, Some(agent))
}

#[track_caller]
pub(super) fn parsed(body: &str) -> Exposition {
    let content_type = body.ends_with("# EOF\n").then_some(OM);
    match parse(body.as_bytes().to_vec(), content_type, &Limits::default()) {
        Ok(exposition) => exposition,
        Err(refusal) => panic!("refused: {refusal}\n{body}"),
    }
}

/// One target for each body: `pod="a"`, `pod="b"`, … with its `up`, which is 0 if the body is refused.
pub(super) fn targets(bodies: &[&str]) -> Vec<Input> {
    bodies
        .iter()
        .zip('a'..)
        .map(|(body, pod)| {
            let content_type = body.ends_with("# EOF\n").then_some(OM);
            let exposition = parse(body.as_bytes().to_vec(), content_type, &Limits::default()).ok();
            Input {
                labels: vec![("pod".to_owned(), pod.to_string())],
                up: Some(exposition.is_some()),
                exposition,
                own: false,
            }
        })
        .collect()
}

pub(super) fn written(merged: &Merged) -> String {
    let mut out = Vec::new();
    merged.write(64, &mut |chunk| {
        out.extend_from_slice(&chunk);
        true
    });
    String::from_utf8(out).expect("the bodies of these tests are UTF-8")
}

/// The response for bodies without added labels and without `up`.
pub(super) fn passed(bodies: &[&str], format: &OutputFormat) -> String {
    let inputs = bodies
        .iter()
        .map(|body| Input {
            exposition: Some(parsed(body)),
            own: true,
            ..Input::default()
        })
        .collect();
    written(&merge(inputs, format))
}

/// Merges targets and compares what is written after the `up` family.
#[track_caller]
pub(super) fn check(bodies: &[&str], format: &OutputFormat, expect: &str) -> Merged {
    let merged = merge(targets(bodies), format);
    let got = written(&merged);
    let rest: String = got
        .split_inclusive('\n')
        .skip_while(|line| line.starts_with("up{") || line.contains(" up "))
        .collect();
    assert_eq!(rest, expect, "the whole response:\n{got}");
    let lines = got.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(lines, merged.n_samples(), "samples are counted:\n{got}");
    merged
}
