//! The fast path and the slow path give the same index, whatever the body is.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::*;
use crate::limits::Unmetered;

/// How a body is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Fast,
    /// Every line takes the slow path.
    Slow,
}

fn parse_by(
    path: Path,
    body: &[u8],
    open_metrics: bool,
    limits: &Limits,
    memory: &mut (Index, Scratch),
) -> String {
    let mut meter = Unmetered;
    let (index, scratch) = memory;
    let mut parser = Parser::new(body, open_metrics, limits, &mut meter, index, scratch);
    let parsed = match path {
        Path::Fast => parser.parse(Parser::parse_sample),
        Path::Slow => parser.parse(Parser::parse_any),
    };
    match parsed {
        Ok(()) => {
            parser.finish();
            format!("{index:#?}")
        }
        Err(rejection) => format!("{:?} {:?}", rejection.kind, rejection.error),
    }
}

fn indexed(body: &[u8], open_metrics: bool, limits: &Limits, path: Path) -> String {
    // Another body before, so that something left over from one body for the next would show.
    let mut memory = Default::default();
    parse_by(path, b"x{a=\"b\"} 1\ny 2\n", false, limits, &mut memory);
    parse_by(path, body, open_metrics, limits, &mut memory)
}

#[track_caller]
fn check(body: &[u8]) {
    for limits in [
        Limits::default(),
        Limits {
            max_samples: 9,
            max_labels: 3,
            max_label_name_length: 6,
            max_label_value_length: 12,
            ..Limits::default()
        },
    ] {
        for open_metrics in [false, true] {
            let fast = indexed(body, open_metrics, &limits, Path::Fast);
            let slow = indexed(body, open_metrics, &limits, Path::Slow);
            assert!(
                fast == slow,
                "fast: {fast}\nslow: {slow}\n{}",
                String::from_utf8_lossy(body)
            );
        }
    }
}

fn weighted(good: &[&'static str], bad: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    prop_oneof![
        60 => prop::sample::select(good.to_vec()),
        1 => prop::sample::select(bad.to_vec()),
    ]
    .prop_map(str::to_owned)
}

/// Pieces that lines are put together from: those that real bodies have, and those that trip shortcuts up.
fn line() -> impl Strategy<Value = String> {
    let name = weighted(
        &["a", "a_sum", "a_count", "a_bucket", "b", "ab"],
        &["{\"a\"}", "a.b"],
    );
    let labels = prop::sample::subsequence(
        vec!["x", "le", "quantile", "yy", "code", "\"q\"", "longest_label"],
        0..4,
    )
    .prop_shuffle();
    let value = prop_oneof![
        60 => prop::sample::select(vec![
            "", "0", "0.5", "0.50", "1", "1.0", "+Inf", "é", r"\\", r#"\""#, r"\n", "sixteen bytes ab", "fifteen bytes a",
            "thirty-two bytes, none of them odd", "}", "12345678901", "\u{80}",
        ])
        .prop_map(str::to_owned),
        1 => prop::sample::select(vec![r"\x", "\n", "\""]).prop_map(str::to_owned),
        9 => "[a-c0é]{0,20}",
    ];
    let number = prop_oneof![
        60 => prop::sample::select(vec![
            "1", "0.5", "-1", "+1", "NaN", "+Inf", "1e5", "1.5e+09", ".5", "5.", "123456789012345", "1234567890123456",
            "1.23456789012345678", "1 1700000000000", "1e-99", "12 1700000000",
        ])
        .prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "1e400", ".", "-", "1.2.3", "0x1", "1 ", "1 1.5", "1 # {t=\"x\"} 1", "1\r", "", "1e", "1_0", "1{", "1\t",
        ])
        .prop_map(str::to_owned),
        9 => "[0-9]{1,9}\\.[0-9]{1,9}",
    ];
    let brace = weighted(&["{"], &["{ ", " {"]);
    let close = weighted(&["} "], &[",} ", "}", "}  "]);
    let values = prop::collection::vec(value, 4);
    (name, labels, values, brace, close, number).prop_map(|(name, labels, values, brace, close, number)| {
        if labels.is_empty() {
            return format!("{name} {number}\n");
        }
        let labels: Vec<String> = labels
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        format!("{name}{brace}{}{close}{number}\n", labels.join(","))
    })
}

fn comment() -> impl Strategy<Value = String> {
    weighted(
        &[
            "# TYPE a histogram\n",
            "# TYPE a summary\n",
            "# TYPE a_sum gauge\n",
            "# TYPE b counter\n",
            "# HELP a Some é text.\n",
            "# HELP ab Another.\n",
        ],
        &["# a comment\n", "\n", "# EOF\n", "# HELP ab\n", "# TYPE b what\n"],
    )
}

/// A line, how often it comes, and what changes each time: a place in it and what to put there.
type Lines = Vec<(String, usize, Vec<(usize, u8)>)>;

fn lines() -> impl Strategy<Value = Lines> {
    let changes = prop::collection::vec((0_usize..60, any::<u8>()), 0..3);
    let line = prop_oneof![6 => line(), 1 => comment()];
    prop::collection::vec((line, 1_usize..5, changes), 1..12)
}

/// Lines come again with a byte changed, which is what the fast path lives on.
fn body(lines: Lines, open_metrics: bool) -> Vec<u8> {
    let mut body = Vec::new();
    for (line, n_times, changes) in lines {
        let mut line = line.into_bytes();
        for time in 0..n_times {
            body.extend_from_slice(&line);
            for (at, byte) in &changes {
                let at = at % line.len();
                if byte % 64 == 0 {
                    line[at] = *byte;
                } else if line[at].is_ascii_digit() {
                    line[at] = b'0' + (byte.wrapping_add(u8::try_from(time).unwrap_or(0)) % 10);
                }
            }
        }
    }
    if open_metrics {
        body.extend_from_slice(b"# EOF\n");
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_path_finds_what_the_slow_path_finds(lines in lines(), open_metrics in any::<bool>()) {
        let mut body = body(lines, open_metrics);
        check(&body);
        // Without the last line feed.
        body.pop();
        check(&body);
    }
}

#[test]
fn most_of_these_bodies_are_read() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let n_read = (0..400)
        .filter(|_| {
            let lines = lines()
                .new_tree(&mut runner)
                .expect("nothing is filtered")
                .current();
            let found = indexed(&body(lines, false), false, &Limits::default(), Path::Fast);
            found.starts_with("Index")
        })
        .count();
    assert!(n_read > 150, "{n_read}");
}

#[test]
fn half_a_character_is_no_value_however_it_is_found() {
    // Prometheus takes anything in a comment, so that alone refuses nothing.
    let start = b"# \xff\na{x=\"\xc3\xa9\"} 1\na{x=\"\xc3\xa9\"} 2\n";
    check(start);
    assert!(indexed(start, false, &Limits::default(), Path::Fast).starts_with("Index"));
    let body = [&start[..], b"a{x=\"\xc3\"} 1\na{x=\"longer than a block\"} 1\n"].concat();
    check(&body);
    assert!(indexed(&body, false, &Limits::default(), Path::Fast).contains("not UTF-8"));
}

#[test]
fn the_odd_one_among_lines_alike_is_found() {
    for odd in [
        "a{x=\"\"} 1",
        "a{x=\"fourteen bytes\"} 1",
        "a{x=\"thirteen byte\"} 1",
        "a{x=.3\"} 1",
        "a{y=\"3\"} 1",
        "a{x=\"3\",} 1",
        "a{x=\"3\"}  1",
    ] {
        check(
            format!("a{{x=\"1\"}} 1\na{{x=\"2\"}} 1\n{odd}\na 1\na{{x=\"4\"}} 12345678901234\n").as_bytes(),
        );
    }
}

/// Lines that a shortcut would accept if it compared a byte less, after lines that it remembers.
#[test]
fn no_shortcut_accepts_a_malformed_line() {
    let group = |path: &str| {
        format!(
            "h_bucket{{p=\"{path}\",le=\"1\"}} 1\nh_bucket{{p=\"{path}\",le=\"2\"}} 1\nh_sum{{p=\"{path}\"}} 1\n"
        )
    };
    let head = group("a") + &group("b") + &group("c");
    for line in [
        // The bytes after the remembered value, in a loop of alike lines.
        "h_bucket{p=\"d\",le=\"1\"} 1\nh_bucket{p=\"d\",le=\"2abc5\n",
        // The brace after labels that are those of the line before.
        "h_bucket{p=\"d\",le=\"1\"} 1\nh_bucket{p=\"d\",le=\"2\"} 1\nh_sum{p=\"d\", 1\n",
        "h_bucket{p=\"d\",le=\"1\"} 1\nh_bucket{p=\"d\",le=\"2\"} 1\nh_sum{p=\"d\"; 1\n",
    ] {
        // More lines, so that the line does not stand at the very end, where shortcuts do not look.
        let body = format!("{head}{line}{}", group("e"));
        check(body.as_bytes());
        let found = indexed(body.as_bytes(), false, &Limits::default(), Path::Fast);
        assert!(found.starts_with("Parse"), "{line}: {found}");
    }
}

#[test]
fn a_suffix_belongs_to_a_family_only_if_its_type_allows_it() {
    let n_families = |body: &str| {
        let exposition = crate::parse(body.into(), None, &Limits::default()).expect("well-formed");
        exposition.index.families.len()
    };
    assert_eq!(n_families("# TYPE a histogram\na_sum 1\n"), 1);
    assert_eq!(n_families("# TYPE a gauge\na 1\na_sum 1\n"), 2);
    assert_eq!(n_families("# TYPE a summary\na_bucket 1\na_sum 1\n"), 2);
}

#[test]
fn labels_in_another_order_make_duplicates_possible() {
    let is_uncertain = |body: &str| {
        let exposition = crate::parse(body.into(), None, &Limits::default()).expect("well-formed");
        exposition.index.uncertain
    };
    assert!(is_uncertain("a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n"));
    assert!(is_uncertain("a{x=\"1\",y=\"\"} 1\na{x=\"1\"} 1\n"));
    assert!(!is_uncertain("a{x=\"1\",y=\"2\"} 1\na{x=\"1\"} 1\n"));
}

#[test]
fn long_bodies_of_one_kind_are_found_alike() {
    let mut body = String::new();
    for name in ["h", "i"] {
        body += &format!("# TYPE {name} histogram\n");
        for metric in 0..40 {
            let labels = format!("path=\"/p{metric}\",code=\"{}\"", metric * 7);
            for bound in [
                "0.005",
                "0.25",
                "1",
                "10",
                "123456789012",
                "1234567890123456",
                "+Inf",
            ] {
                body += &format!(
                    "{name}_bucket{{{labels},le=\"{bound}\"}} {}\n",
                    metric + bound.len()
                );
            }
            body += &format!("{name}_sum{{{labels}}} 1.5\n{name}_count{{{labels}}} 7\n");
        }
    }
    check(body.as_bytes());
    // Some series come twice.
    let again: Vec<&str> = body.split_inclusive('\n').skip(20).step_by(13).collect();
    let again = again.concat();
    body += &again;
    check(body.as_bytes());
    let n_again = again.lines().filter(|line| !line.starts_with('#')).count();
    let found = indexed(body.as_bytes(), false, &Limits::default(), Path::Fast);
    assert!(n_again > 50 && found.contains(&format!("n_dropped: {n_again},")));
}

/// Counts what it is told, and stops parsing at a question of its choice.
#[derive(Debug, Default)]
struct CountingMeter {
    n_charged_bytes: usize,
    n_questions: std::cell::Cell<usize>,
    refuse_above: Option<usize>,
    cancel_at: Option<usize>,
}

impl Meter for CountingMeter {
    fn charge(&mut self, n_bytes: usize) -> bool {
        self.n_charged_bytes += n_bytes;
        self.refuse_above
            .is_none_or(|limit| self.n_charged_bytes <= limit)
    }

    fn is_cancelled(&self) -> bool {
        self.n_questions.set(self.n_questions.get() + 1);
        self.cancel_at.is_some_and(|at| self.n_questions.get() >= at)
    }
}

/// Bodies of a megabyte each: one family per line, buckets only, and comments only.
fn megabytes() -> [String; 3] {
    let lines = |line: &dyn Fn(usize) -> String| -> String {
        let mut body = String::new();
        for i in 0.. {
            if body.len() >= 1 << 20 {
                break;
            }
            body += &line(i);
        }
        body
    };
    [
        lines(&|i| format!("a{i} 1\n")),
        lines(&|i| format!("a_bucket{{le=\"{i}\"}} 1\n")),
        lines(&|i| format!("# comment {i}\n")),
    ]
}

#[test]
fn the_meter_is_asked_at_least_every_64_kib() {
    for body in megabytes() {
        let mut meter = CountingMeter::default();
        let parsed = crate::parse_metered(body.clone().into_bytes(), None, &Limits::default(), &mut meter);
        let exposition = parsed.expect("well-formed");
        let n_questions = meter.n_questions.get();
        assert!(
            n_questions >= body.len() / METER_STEP_BYTES,
            "{n_questions}: {}",
            &body[..20]
        );
        // The index is a part of what was charged.
        assert!(meter.n_charged_bytes >= exposition.n_budget_bytes() - body.len());
    }
}

#[test]
fn a_body_is_rejected_while_its_tables_grow() {
    let [families, ..] = megabytes();
    let mut whole = CountingMeter::default();
    let parsed = crate::parse_metered(
        families.clone().into_bytes(),
        None,
        &Limits::default(),
        &mut whole,
    );
    parsed.expect("well-formed");
    let limit = whole.n_charged_bytes / 4;
    let mut meter = CountingMeter {
        refuse_above: Some(limit),
        ..CountingMeter::default()
    };
    let parsed = crate::parse_metered(families.into_bytes(), None, &Limits::default(), &mut meter);
    assert_eq!(parsed.expect_err("too large").kind, RejectionKind::MemoryBudget);
    assert!(
        meter.n_charged_bytes < 2 * limit,
        "{} of {limit}",
        meter.n_charged_bytes
    );
}

#[test]
fn parsing_stops_when_it_is_cancelled() {
    for body in megabytes() {
        let mut meter = CountingMeter {
            cancel_at: Some(3),
            ..CountingMeter::default()
        };
        let parsed = crate::parse_metered(body.into_bytes(), None, &Limits::default(), &mut meter);
        assert_eq!(parsed.expect_err("cancelled").kind, RejectionKind::Cancelled);
        assert_eq!(meter.n_questions.get(), 3);
    }
}

#[test]
fn families_are_limited() {
    let limits = |max_families| Limits {
        max_families,
        ..Limits::default()
    };
    let body = "# TYPE a histogram\na_sum 1\na_count 1\nb 1\n# HELP c Without samples.\n";
    assert!(crate::parse(body.into(), None, &limits(3)).is_ok());
    let rejection = crate::parse(body.into(), None, &limits(2)).expect_err("a, b and c");
    assert_eq!(rejection.kind, RejectionKind::Families);
    assert_eq!(rejection.reason, "more than 2 metric families");
}
