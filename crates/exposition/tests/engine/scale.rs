//! Time and memory stay in proportion to the bytes, whatever shape they have.

use std::fmt::Write as _;
use std::time::Duration;

use super::common::*;

/// One family of many series, 125 bytes each.
fn one_family(n: usize, pod: usize) -> String {
    let mut body = String::from("# TYPE big_family_with_a_name gauge\n");
    for index in 0..n {
        let _ = writeln!(
            body,
            "big_family_with_a_name{{namespace=\"model-{pod}\",pod=\"app-{index:08}\",uid=\"{index:032x}\",phase=\"Running\"}} 1"
        );
    }
    body
}

/// The processor time of this thread: what else the machine does is not counted.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().expect("processor time is not negative")
}

/// Parses, merges and writes. Returns the processor time and the number of samples.
fn run(bodies: &[String], format: Format) -> (Duration, usize) {
    let start = processor_time();
    let parts = targets(bodies);
    let n_held: usize = parts
        .iter()
        .filter_map(|part| part.exposition.as_ref())
        .map(Exposition::n_held_bytes)
        .sum();
    let n_body: usize = bodies.iter().map(String::len).sum();
    let merged = merge(parts, &response_format(Client::Anybody, format));
    let mut n_written = 0;
    merged.write(1 << 18, &mut |chunk| {
        n_written += chunk.len();
        true
    });
    assert!(n_written > 0, "something was written");
    // A family of its own for each line of a dozen bytes is the worst that a target can do.
    assert!(
        n_held < n_body * 12 + 4096 * bodies.len(),
        "{n_held} bytes held for {n_body}"
    );
    let elapsed = processor_time().saturating_sub(start);
    (elapsed, merged.n_samples())
}

/// Four times as much may take up to ten times as long, since caches have sizes; what is quadratic takes sixteen times.
/// The best of three counts.
#[track_caller]
fn stays_in_proportion(mut bodies: impl FnMut(usize) -> Vec<String>, n: usize, format: Format) {
    let best = |bodies: &[String]| (0..3).map(|_| run(bodies, format).0).min().unwrap_or_default();
    let (small, large) = (best(&bodies(n)), best(&bodies(4 * n)));
    assert!(
        large < small * 10,
        "{n}: {small:?}, four times as much: {large:?}"
    );
}

#[test]
fn two_targets_of_10_mb_with_one_family_of_80_000_series() {
    let bodies = [one_family(80_000, 0), one_family(80_000, 1)];
    assert!(bodies[0].len() > 9_000_000, "{}", bodies[0].len());
    for format in FORMATS {
        assert_eq!(run(&bodies, format).1, 160_002);
        let exposition = parse_any(&bodies[0]).expect("well-formed");
        assert!(
            exposition.n_held_bytes() < bodies[0].len() * 5 / 4,
            "{}",
            exposition.n_held_bytes()
        );
    }
    stays_in_proportion(|n| vec![one_family(n, 0), one_family(n, 1)], 5_000, Format::Text);
    stays_in_proportion(
        |n| vec![one_family(n, 0), one_family(n, 1)],
        5_000,
        Format::OpenMetrics,
    );
}

#[test]
fn five_thousand_targets_of_6_kb() {
    let bodies: Vec<String> = (0..5_000).map(|pod| one_family(46, pod)).collect();
    assert_eq!(run(&bodies, Format::Text).1, 5_000 * 47);
    stays_in_proportion(|n| bodies[..n].to_vec(), 600, Format::Text);
}

#[test]
fn hostile_shapes_cost_no_more_than_their_length() {
    let lines = |n: usize, line: &dyn Fn(usize) -> String| vec![(0..n).map(line).collect::<String>()];
    let shapes: [(&str, &dyn Fn(usize) -> String); 7] = [
        ("a name each", &|i| format!("name_{i} 1\n")),
        ("a family each, typed after its sample", &|i| {
            format!("h_{i}_bucket{{le=\"1\"}} 1\n# TYPE h_{i} histogram\n")
        }),
        ("label names in another order each", &|i| {
            format!("a{{l{i}=\"1\",m{}=\"2\",n{i}=\"\"}} 1\n", i % 7)
        }),
        ("one series again and again", &|_| "a{b=\"c\"} 1\n".to_owned()),
        ("one series at many times", &|i| format!("a{{b=\"c\"}} 1 {i}\n")),
        ("families by turns", &|i| format!("f{}{{i=\"{i}\"}} 1\n", i % 100)),
        ("quoted names", &|i| format!("{{\"a.{i}\",\"l.{i}\"=\"v\"}} 1\n")),
    ];
    for (what, line) in shapes {
        for format in FORMATS {
            println!("{what}, {format:?}");
            stays_in_proportion(|n| lines(n, line), 2_000, format);
        }
    }
    let many_labels = |n: usize| {
        let labels: Vec<String> = (0..n).map(|i| format!("l{i}=\"\"")).collect();
        vec![format!("a{{{}}} 1\n", labels.join(","))]
    };
    stays_in_proportion(many_labels, 5_000, Format::Text);
    let many_odd_labels = |n: usize| {
        let labels: Vec<String> = (0..n).map(|i| format!("\"l.{i}\"=\"v\"")).collect();
        vec![format!("a{{{}}} 1\n", labels.join(","))]
    };
    stays_in_proportion(many_odd_labels, 1_000, Format::Text);
}
