//! A merge stops soon after its flag is set, in each of its steps.

use std::time::{Duration, Instant};

use exposition::{Cancel, Cancelled, merge_unless};

use super::common::*;

/// From setting the flag to the end of the work. It takes less than 100 ms in a release build on a machine of its own.
const LIMIT: Duration = Duration::from_secs(1);

/// Bodies that keep a merge busy for seconds, each in another step.
fn expensive_bodies() -> [(&'static str, String, Format); 4] {
    let lines = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<Vec<_>>().concat();
    [
        (
            "a name each",
            lines(400_000, &|i| format!("name_{i} 1\n")),
            Format::Text,
        ),
        (
            "a label to rename in each line",
            lines(200_000, &|i| format!("a{{pod=\"{i}\",exported_pod=\"\"}} 1\n")),
            Format::Text,
        ),
        (
            "buckets in the wrong order",
            "# TYPE h histogram\n".to_owned()
                + &lines(200_000, &|i| format!("h_bucket{{le=\"{}\"}} 1\n", 200_000 - i)),
            Format::OpenMetrics,
        ),
        (
            "timestamps",
            "# TYPE h histogram\n".to_owned() + &lines(200_000, &|i| format!("h_count{{i=\"{i}\"}} 1 5\n")),
            Format::OpenMetrics,
        ),
    ]
}

/// Merges and writes one target, and returns the time from the start.
fn run(body: &str, format: Format, cancel: &Cancel) -> Result<Duration, Cancelled> {
    let inputs = targets(&[body]);
    let format = response_format(Client::Anybody, format);
    let start = Instant::now();
    let merged = merge_unless(cancel, inputs, &format)?;
    merged.write(1 << 16, &mut |_| true);
    Ok(start.elapsed())
}

#[test]
fn a_cancelled_merge_stops_in_each_step() {
    for (what, body, format) in expensive_bodies() {
        let whole = run(&body, format, &Cancel::default()).expect("nobody cancels it");
        // At several moments of the work.
        for percent in [5, 30, 60] {
            let inputs = targets(&[&body]);
            let format = response_format(Client::Anybody, format);
            let cancel = Cancel::default();
            let set = cancel.clone();
            let start = Instant::now();
            let setter = std::thread::spawn(move || {
                std::thread::sleep(whole * percent / 100);
                let at = Instant::now();
                set.cancel();
                at
            });
            let merged = merge_unless(&cancel, inputs, &format);
            if let Ok(merged) = merged {
                merged.write(1 << 16, &mut |_| true);
            }
            let end = Instant::now();
            let set_at = setter.join().expect("setting a flag does not panic");
            let late = end.saturating_duration_since(set_at);
            println!(
                "{what}: {whole:?} as a whole, {late:?} after {:?}",
                set_at - start
            );
            assert!(
                late < LIMIT,
                "{what}: {late:?} after the flag was set at {percent} %"
            );
        }
    }
}

#[test]
fn a_cancelled_response_is_written_no_further() {
    let cancel = Cancel::default();
    let body: String = expensive_bodies()[0].1.clone();
    let format = response_format(Client::Anybody, Format::Text);
    let merged = merge_unless(&cancel, targets(&[body]), &format).expect("nobody cancels it yet");
    let mut n_chunks = 0;
    merged.write(1 << 10, &mut |_| {
        n_chunks += 1;
        if n_chunks == 3 {
            cancel.cancel();
        }
        true
    });
    assert_eq!(n_chunks, 3);
    assert_eq!(
        merge_unless(&cancel, targets(&["a 1\n"]), &format).err(),
        Some(Cancelled)
    );
}
