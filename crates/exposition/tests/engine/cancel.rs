//! A merge stops at the first moment at which it is told to, in each of its steps.

use std::cell::Cell;

use exposition::{Cancelled, merge_unless};

use super::common::*;

const N_LINES: usize = 5_000;

/// Bodies that are expensive in different steps of a merge.
fn expensive_bodies() -> [(&'static str, String, Client, Format); 5] {
    let lines = |line: &dyn Fn(usize) -> String| (0..N_LINES).map(line).collect::<Vec<_>>().concat();
    [
        (
            "a name each",
            lines(&|i| format!("name_{i} 1\n")),
            Client::Anybody,
            Format::Text,
        ),
        (
            "a label to rename in each line",
            lines(&|i| format!("a{{pod=\"{i}\",exported_pod=\"\"}} 1\n")),
            Client::Anybody,
            Format::Text,
        ),
        (
            "buckets in the wrong order",
            "# TYPE h histogram\n".to_owned()
                + &lines(&|i| format!("h_bucket{{le=\"{}\"}} 1\n", N_LINES - i)),
            Client::Anybody,
            Format::OpenMetrics,
        ),
        (
            "timestamps",
            "# TYPE h histogram\n".to_owned() + &lines(&|i| format!("h_count{{i=\"{i}\"}} 1 5\n")),
            Client::Anybody,
            Format::OpenMetrics,
        ),
        (
            "a type after its samples",
            lines(&|i| format!("h_bucket{{i=\"{i}\",le=\"1.0\"}} 1\n")) + "# TYPE h histogram\n",
            Client::Prometheus3,
            Format::Text,
        ),
    ]
}

/// Merges one target, with a question that is answered with yes from the `n_before`th time on. Returns how often it was
/// asked, and whether the merge was complete.
fn merge_until(
    n_before: usize,
    body: &str,
    client: Client,
    format: Format,
) -> (usize, Result<(), Cancelled>) {
    let n_asked = Cell::new(0);
    let is_cancelled = || {
        n_asked.set(n_asked.get() + 1);
        n_asked.get() > n_before
    };
    let merged = merge_unless(&is_cancelled, targets(&[body]), &response_format(client, format));
    (n_asked.get(), merged.map(drop))
}

#[test]
fn a_merge_stops_at_the_first_moment_at_which_it_is_told_to() {
    for (what, body, client, format) in expensive_bodies() {
        let (n_asked, whole) = merge_until(usize::MAX, &body, client, format);
        assert_eq!(whole, Ok(()), "{what}");
        assert!(n_asked >= N_LINES / 1024, "{what}: asked only {n_asked} times");
        for n_before in 0..n_asked.min(100) {
            let found = merge_until(n_before, &body, client, format);
            assert_eq!(found, (n_before + 1, Err(Cancelled)), "{what}");
        }
    }
}
