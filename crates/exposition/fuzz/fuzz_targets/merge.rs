//! Any bodies, each after a NUL byte, merge into a response that is accepted as a whole, for every kind of client, and that
//! has as many samples as were counted.

#![no_main]

use exposition::{Format, Input, Limits, OutputFormat, merge, negotiate, parse};
use libfuzzer_sys::fuzz_target;

const OPEN_METRICS: &str = "application/openmetrics-text";

const CLIENTS: [(&str, &str); 6] = [
    ("text/plain;version=0.0.4", ""),
    ("text/plain;version=0.0.4", "Prometheus/2.42.0"),
    (
        "text/plain;version=0.0.4;escaping=allow-utf-8",
        "Prometheus/3.16.0",
    ),
    ("application/openmetrics-text", ""),
    ("application/openmetrics-text", "Prometheus/2.42.0"),
    (
        "application/openmetrics-text;escaping=allow-utf-8",
        "Prometheus/3.16.0",
    ),
];

fuzz_target!(|data: &[u8]| {
    let bodies: Vec<&[u8]> = data.split(|byte| *byte == 0).take(4).collect();
    for (accept, agent) in CLIENTS {
        let format = negotiate(Some(accept), None, Some(agent));
        let (text, n_samples) = response(&bodies, &format);
        let content_type = (format.format() == Format::OpenMetrics).then_some(OPEN_METRICS);
        let again = parse(text, content_type, &Limits::default()).expect("our own response is accepted");
        assert_eq!(again.n_samples(), n_samples);
    }
});

fn response(bodies: &[&[u8]], format: &OutputFormat) -> (Vec<u8>, usize) {
    let parts = bodies
        .iter()
        .enumerate()
        .map(|(index, body)| {
            let exposition = parse(body.to_vec(), None, &Limits::default()).ok();
            Input {
                labels: vec![
                    ("pod".to_owned(), index.to_string()),
                    ("le".to_owned(), "\\\"\n".to_owned()),
                ],
                up: Some(exposition.is_some()),
                exposition,
                own: index == 3,
            }
        })
        .collect();
    let merged = merge(parts, format);
    let mut out = Vec::new();
    merged.write(1 << 16, &mut |chunk| {
        out.extend_from_slice(&chunk);
        true
    });
    (out, merged.n_samples())
}
