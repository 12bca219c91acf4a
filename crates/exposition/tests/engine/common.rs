//! What the tests of the engine share; the program's integration tests, which ask real parsers and servers, include it.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) use exposition::{
    Escaping, Exposition, Format, Input, Limits, Merged, OutputFormat, merge, negotiate, parse,
};

pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The scrapers whose responses differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Anybody,
    Prometheus2,
    Prometheus3,
}

pub(crate) const CLIENTS: [Client; 3] = [Client::Anybody, Client::Prometheus2, Client::Prometheus3];
pub(crate) const FORMATS: [Format; 2] = [Format::Text, Format::OpenMetrics];

pub(crate) fn response_format(client: Client, format: Format) -> OutputFormat {
    let (agent, escaping) = match client {
        Client::Anybody => return OutputFormat::new(format, Escaping::Underscores),
        Client::Prometheus2 => ("Prometheus/2.42.0", ""),
        Client::Prometheus3 => ("Prometheus/3.16.0", ";escaping=allow-utf-8"),
    };
    let accept = match format {
        Format::Text => format!("text/plain;version=0.0.4{escaping}"),
        Format::OpenMetrics => format!("application/openmetrics-text;version=1.0.0{escaping}"),
    };
    negotiate(Some(&accept), None, Some(agent))
}

/// Parses a body with the Content-Type that its last line suggests.
pub(crate) fn parse_any(body: &str) -> Result<Exposition, exposition::Rejection> {
    let content_type = body.ends_with("# EOF\n").then_some(OPEN_METRICS);
    parse(body.as_bytes().to_vec(), content_type, &Limits::default())
}

/// A target with the label `pod`. Its `up` is 0 if its body is refused.
pub(crate) fn target(pod: &str, body: &str) -> Input {
    let exposition = parse_any(body).ok();
    Input {
        labels: vec![("pod".to_owned(), pod.to_owned())],
        up: Some(exposition.is_some()),
        exposition,
        own: false,
    }
}

pub(crate) fn targets<S: AsRef<str>>(bodies: &[S]) -> Vec<Input> {
    bodies
        .iter()
        .enumerate()
        .map(|(index, body)| target(&format!("p{index}"), body.as_ref()))
        .collect()
}

pub(crate) fn written(merged: &Merged) -> String {
    let mut out = Vec::new();
    merged.write(4096, &mut |chunk| {
        out.extend_from_slice(&chunk);
        true
    });
    String::from_utf8(out).expect("a response is UTF-8")
}

pub(crate) fn merged<S: AsRef<str>>(bodies: &[S], format: &OutputFormat) -> String {
    written(&merge(targets(bodies), format))
}
