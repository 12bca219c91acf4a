//! The exposition engine as a library: its laws, and what the real parsers say of its output.

mod generate;
mod goldens;
mod judges;
mod laws;
mod scale;
mod servers;

use metrics_proxy::exposition::{
    Answer, Escaping, Exposition, Format, Limits, Merged, Part, merge, negotiate, parse,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The clients whose answers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Anybody,
    Prometheus2,
    Prometheus3,
}

const CLIENTS: [Client; 3] = [Client::Anybody, Client::Prometheus2, Client::Prometheus3];
const FORMATS: [Format; 2] = [Format::Text, Format::OpenMetrics];

fn answer(client: Client, format: Format) -> Answer {
    let (agent, escaping) = match client {
        Client::Anybody => return Answer::plain(format, Escaping::Underscores),
        Client::Prometheus2 => ("Prometheus/2.42.0", ""),
        Client::Prometheus3 => ("Prometheus/3.7.3", ";escaping=allow-utf-8"),
    };
    let accept = match format {
        Format::Text => format!("text/plain;version=0.0.4{escaping}"),
        Format::OpenMetrics => format!("application/openmetrics-text;version=1.0.0{escaping}"),
    };
    negotiate(Some(&accept), None, Some(agent))
}

/// Reads a body under the label that its last line asks for.
fn parse_any(body: &str) -> Result<Exposition, metrics_proxy::exposition::Refusal> {
    let content_type = body.ends_with("# EOF\n").then_some(OPEN_METRICS);
    parse(body.as_bytes().to_vec(), content_type, &Limits::default())
}

/// A target of this name, down if its body is refused.
fn target(pod: &str, body: &str) -> Part {
    let exposition = parse_any(body).ok();
    Part {
        labels: vec![("pod".to_owned(), pod.to_owned())],
        up: Some(exposition.is_some()),
        exposition,
        own: false,
    }
}

fn targets<S: AsRef<str>>(bodies: &[S]) -> Vec<Part> {
    bodies
        .iter()
        .enumerate()
        .map(|(index, body)| target(&format!("p{index}"), body.as_ref()))
        .collect()
}

fn written(merged: &Merged) -> String {
    let mut out = Vec::new();
    merged.write(4096, &mut |chunk| {
        out.extend_from_slice(&chunk);
        true
    });
    String::from_utf8(out).expect("an answer is UTF-8")
}

fn merged<S: AsRef<str>>(bodies: &[S], answer: &Answer) -> String {
    written(&merge(targets(bodies), answer))
}
