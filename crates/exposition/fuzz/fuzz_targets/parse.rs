//! Any bytes are an exposition or are refused, in both formats, without a panic; what is accepted is written in a form
//! that is accepted again and says the same.

#![no_main]

use exposition::{Escaping, Exposition, Format, Input, Limits, OutputFormat, merge, parse};
use libfuzzer_sys::fuzz_target;

const OPEN_METRICS: &str = "application/openmetrics-text";

fuzz_target!(|body: &[u8]| {
    let limits = Limits {
        max_label_value_length: 1000,
        ..Limits::default()
    };
    for content_type in [None, Some(OPEN_METRICS)] {
        match parse(body.to_vec(), content_type, &limits) {
            Ok(exposition) => round_trip(exposition),
            Err(refusal) => {
                assert!(refusal.excerpt.chars().count() <= 80 && !refusal.to_string().contains('\n'))
            }
        }
    }
});

fn round_trip(exposition: Exposition) {
    let format = exposition.format();
    let once = write(exposition, format);
    let content_type = (format == Format::OpenMetrics).then_some(OPEN_METRICS);
    let again = parse(once.clone(), content_type, &Limits::default()).expect("what we write is accepted");
    assert_eq!(
        again.n_samples(),
        once.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty() && l[0] != b'#')
            .count()
    );
    assert_eq!(write(again, format), once);
}

fn write(exposition: Exposition, format: Format) -> Vec<u8> {
    let part = Input {
        exposition: Some(exposition),
        own: true,
        ..Input::default()
    };
    let mut out = Vec::new();
    merge(vec![part], &OutputFormat::new(format, Escaping::AllowUtf8)).write(1 << 16, &mut |chunk| {
        out.extend_from_slice(&chunk);
        true
    });
    out
}
