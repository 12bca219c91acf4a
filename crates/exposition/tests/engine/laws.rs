//! What holds whatever targets send.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::common::*;
use super::generate::{Body, Taste, bodies};

const TIME: i64 = 1_700_000_000_123;

fn any_taste() -> Taste {
    Taste {
        quoted: true,
        wild: true,
        time: Some(TIME),
        odd: true,
    }
}

fn rendered(bodies: &[Body]) -> Vec<String> {
    bodies.iter().map(Body::render).collect()
}

/// A series: its name and labels, decoded, sorted, without empty ones.
type Series = Vec<(String, String)>;

/// The samples of an answer in Prometheus' terms: series and milliseconds, to values. Panics on what the engine itself
/// would not accept, or where a series occurs twice at one time.
fn samples(text: &str) -> BTreeMap<(Series, Option<i64>), String> {
    let mut found = BTreeMap::new();
    let open_metrics = text.ends_with("# EOF\n");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, rest) = split_series(line);
        let rest = rest.split(" # {").next().unwrap_or_default();
        let mut tokens = rest.split(' ');
        let value = tokens.next().unwrap_or_default().to_owned();
        let time = tokens.next().map(|token| {
            if open_metrics {
                let seconds: f64 = token.parse().expect("timestamps are numbers");
                #[allow(clippy::cast_possible_truncation, reason = "as Prometheus cuts them")]
                let milliseconds = (seconds * 1000.0) as i64;
                milliseconds
            } else {
                token.parse().expect("timestamps are milliseconds")
            }
        });
        let twice = found.insert((series.clone(), time), value);
        assert!(twice.is_none(), "{series:?} twice in\n{text}");
    }
    found
}

/// A reader of its own for lines that the engine writes: strict, slow, and not the engine's.
fn split_series(line: &str) -> (Series, &str) {
    let mut series = Series::new();
    let name_len = line.find(['{', ' ']).expect("a line has a value");
    if name_len > 0 {
        series.push(("__name__".to_owned(), line[..name_len].to_owned()));
    }
    let mut rest = &line[name_len..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, quoted) = if rest.starts_with('"') {
                let (text, after) = unquote(rest);
                rest = after;
                (text, true)
            } else {
                let len = rest.find('=').expect("a label has a value");
                let text = rest[..len].to_owned();
                rest = &rest[len..];
                (text, false)
            };
            if let Some(after) = rest.strip_prefix('=') {
                let (value, after) = unquote(after);
                rest = after;
                if !value.is_empty() {
                    series.push((key, value));
                }
            } else {
                assert!(quoted, "only a quoted string stands alone: {line}");
                series.push(("__name__".to_owned(), key));
            }
            if let Some(after) = rest.strip_prefix(',') {
                rest = after;
            } else {
                rest = rest.strip_prefix('}').expect("labels end with a brace");
                break;
            }
        }
    }
    series.sort();
    (
        series,
        rest.strip_prefix(' ').expect("one blank before the value"),
    )
}

fn unquote(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, c @ ('\\' | '"'))) => out.push(c),
                other => panic!("an escape that is none: {other:?} in {text}"),
            },
            c => out.push(c),
        }
    }
    panic!("a quoted string does not end: {text}")
}

fn all_answers() -> impl Iterator<Item = OutputFormat> {
    CLIENTS
        .into_iter()
        .flat_map(|client| FORMATS.map(|format| answer(client, format)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_has_every_sample_and_no_series_twice(bodies in bodies(any_taste())) {
        let bodies = rendered(&bodies);
        for answer in all_answers() {
            let parts = targets(&bodies);
            let n_in: usize = parts.iter().filter_map(|part| part.exposition.as_ref()).map(Exposition::n_samples).sum();
            let merged = merge(parts, &answer);
            let out = samples(&written(&merged));
            prop_assert_eq!(out.len(), merged.n_samples());
            prop_assert_eq!(out.len() + merged.n_dropped(), n_in + bodies.len());
        }
    }

    #[test]
    fn merging_what_was_merged_changes_nothing(bodies in bodies(any_taste())) {
        let bodies = rendered(&bodies);
        for answer in all_answers() {
            let once = merged(&bodies, &answer);
            let again = merge(
                vec![Input { exposition: Some(parse_any(&once).expect("our own answer")), own: true, ..Input::default() }],
                &answer,
            );
            prop_assert_eq!(written(&again), once);
        }
    }

    #[test]
    fn a_refused_body_changes_nobody_elses_bytes(bodies in bodies(any_taste()), at in 0..4_usize) {
        let bodies = rendered(&bodies);
        let at = at.min(bodies.len());
        for answer in all_answers() {
            let alone = merged(&bodies, &answer);
            let mut parts = targets(&bodies);
            parts.insert(at, target("broken", "x{ 1\n"));
            let mut with = written(&merge(parts, &answer));
            let line = "up{pod=\"broken\"} 0\n";
            prop_assert!(with.contains(line));
            with = with.replacen(line, "", 1);
            prop_assert_eq!(with, alone);
        }
    }

    #[test]
    fn text_to_openmetrics_to_text_keeps_everything(bodies in bodies(any_taste())) {
        let bodies = rendered(&bodies);
        for client in CLIENTS {
            let text = merged(&bodies, &answer(client, Format::Text));
            let open_metrics = passed(&text, &answer(client, Format::OpenMetrics));
            let back = passed(&open_metrics, &answer(client, Format::Text));
            let (before, after) = (samples(&text), samples(&back));
            // One spelling is not legal there, and a Prometheus 3 is told its own where it would have respelled.
            let respelled = |samples: BTreeMap<(Series, Option<i64>), String>| -> Vec<((Series, Option<i64>), String)> {
                let mut samples: Vec<_> = samples.into_iter().collect();
                for ((series, _), _) in &mut samples {
                    for (name, value) in series.iter_mut() {
                        if name == "le" && value == "Inf" {
                            *value = "+Inf".to_owned();
                        }
                        if client == Client::Prometheus3 && matches!(name.as_str(), "le" | "quantile")
                            && let Ok(number) = value.parse::<f64>()
                        {
                            *value = number.to_string();
                        }
                    }
                }
                samples.sort();
                samples
            };
            let before = respelled(before);
            // A series with and without timestamps loses the later ones.
            let timeless: std::collections::BTreeSet<Series> =
                before.iter().filter(|((_, time), _)| time.is_none()).map(|((series, _), _)| series.clone()).collect();
            let before: Vec<_> = before
                .into_iter()
                .filter(|((series, time), _)| time.is_none() || !timeless.contains(series))
                .collect();
            prop_assert_eq!(before, respelled(after));
        }
    }

    #[test]
    fn adding_labels_keeps_the_count(bodies in bodies(any_taste())) {
        for body in rendered(&bodies) {
            let Ok(exposition) = parse_any(&body) else { continue };
            let n = exposition.n_samples();
            let part = Input { labels: vec![("a".into(), "b".into()), ("le".into(), "c".into())], exposition: Some(exposition), ..Input::default() };
            let merged = merge(vec![part], &answer(Client::Anybody, Format::Text));
            prop_assert_eq!(merged.n_samples() + merged.n_dropped(), n);
        }
    }

    #[test]
    fn merging_a_split_body_equals_merging_it_whole(bodies in bodies(Taste { time: None, ..any_taste() }), at in 0..20_usize) {
        // Each half is a target's of the same labels: the same series, in another order of families.
        for body in rendered(&bodies).iter().filter(|body| !body.ends_with("# EOF\n")) {
            let lines: Vec<&str> = body.split_inclusive('\n').collect();
            let at = at.min(lines.len());
            let types: String = lines.iter().filter(|line| line.starts_with("# TYPE")).copied().collect();
            let whole = format!("{types}{body}");
            let halves = [format!("{types}{}", lines[..at].concat()), format!("{types}{}", lines[at..].concat())];
            let whole = passed(&whole, &answer(Client::Anybody, Format::Text));
            let parts = halves
                .iter()
                .map(|half| Input { exposition: Some(parse_any(half).expect("half of what is accepted")), own: true, ..Input::default() })
                .collect();
            let split = written(&merge(parts, &answer(Client::Anybody, Format::Text)));
            prop_assert_eq!(samples(&split), samples(&whole));
        }
    }
}

fn passed(body: &str, answer: &OutputFormat) -> String {
    let part = Input {
        exposition: Some(parse_any(body).unwrap_or_else(|refusal| panic!("{refusal}\n{body}"))),
        own: true,
        ..Input::default()
    };
    written(&merge(vec![part], answer))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A blank at its end sends a line down the parser's slow path, which decides what is right.
    #[test]
    fn the_fast_path_reads_what_the_slow_path_reads(bodies in bodies(any_taste())) {
        let fast: Vec<String> = rendered(&bodies).into_iter().filter(|body| !body.ends_with("# EOF\n")).collect();
        let slow: Vec<String> = fast
            .iter()
            .map(|body| body.split_inclusive('\n').map(|line| if line.starts_with('#') { line.to_owned() } else { line.replace('\n', " \n") }).collect())
            .collect();
        for answer in all_answers() {
            prop_assert_eq!(merged(&fast, &answer), merged(&slow, &answer));
        }
    }
}

/// The order in which targets answer is not the order in which they are merged: what parsed first does not matter.
#[test]
fn the_order_of_arrival_does_not_change_the_bytes() {
    let bodies = [
        "# TYPE x gauge\nx{pod=\"y\"} 1\n",
        "x 2\n# TYPE y histogram\ny_bucket{le=\"1\"} 1\n",
        "y 1\n",
    ];
    for answer in all_answers() {
        let first = merged(&bodies, &answer);
        for _ in 0..5 {
            let mut parts: Vec<(usize, Input)> = targets(&bodies).into_iter().enumerate().rev().collect();
            parts.sort_by_key(|(index, _)| *index);
            let again = written(&merge(parts.into_iter().map(|(_, part)| part).collect(), &answer));
            assert_eq!(again, first);
        }
    }
}
