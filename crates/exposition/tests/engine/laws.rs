//! Laws that hold whatever targets send.

use std::collections::{BTreeMap, BTreeSet};

use exposition::Pool;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

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

/// The samples of a response as Prometheus reads them: series and milliseconds, with their values. Panics if the engine
/// itself would not accept a line, or if a series occurs twice at one time.
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

/// Reads a line of a response. This reader is strict and slow, and shares no code with the engine.
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
                other => panic!("not an escape: {other:?} in {text}"),
            },
            c => out.push(c),
        }
    }
    panic!("a quoted string does not end: {text}")
}

fn all_formats() -> impl Iterator<Item = OutputFormat> {
    CLIENTS
        .into_iter()
        .flat_map(|client| FORMATS.map(|format| response_format(client, format)))
}

/// Runs a law on random bodies.
fn for_bodies(taste: Taste, law: impl Fn(&[String]) -> Result<(), TestCaseError>) {
    for_inputs(bodies(taste), |bodies| law(&rendered(&bodies)));
}

#[track_caller]
fn for_inputs<S: Strategy>(inputs: S, law: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(&inputs, law) {
        panic!("{error}");
    }
}

/// An input without added labels and without `up`.
fn own(exposition: Exposition) -> Input {
    Input {
        exposition: Some(exposition),
        own: true,
        ..Input::default()
    }
}

#[test]
fn a_response_has_every_sample_and_no_series_twice() {
    for_bodies(any_taste(), |bodies| {
        for format in all_formats() {
            let inputs = targets(bodies);
            let n_in: usize = inputs
                .iter()
                .filter_map(|input| input.exposition.as_ref())
                .map(Exposition::n_samples)
                .sum();
            let merged = merge(inputs, &format);
            let out = samples(&written(&merged));
            prop_assert_eq!(out.len(), merged.n_samples());
            prop_assert_eq!(out.len() + merged.n_dropped(), n_in + bodies.len());
        }
        Ok(())
    });
}

#[test]
fn merging_a_response_again_changes_nothing() {
    for_bodies(any_taste(), |bodies| {
        for format in all_formats() {
            let once = merged(bodies, &format);
            let exposition = parse_any(&once).expect("the engine accepts its own response");
            let again = merge(vec![own(exposition)], &format);
            prop_assert_eq!(written(&again), once);
        }
        Ok(())
    });
}

#[test]
fn a_refused_body_does_not_change_the_bytes_of_others() {
    for_inputs((bodies(any_taste()), 0..4_usize), |(bodies, at)| {
        let bodies = rendered(&bodies);
        let at = at.min(bodies.len());
        for format in all_formats() {
            let alone = merged(&bodies, &format);
            let mut inputs = targets(&bodies);
            inputs.insert(at, target("broken", "x{ 1\n"));
            let with = written(&merge(inputs, &format));
            let line = "up{pod=\"broken\"} 0\n";
            prop_assert!(with.contains(line));
            prop_assert_eq!(with.replacen(line, "", 1), alone);
        }
        Ok(())
    });
}

/// Samples with the changes to bounds undone that a format or a scraper asks for: `Inf` is not legal in OpenMetrics, and
/// bounds are normalized for a Prometheus 3 where it would do so itself.
fn with_equal_bounds(
    samples: BTreeMap<(Series, Option<i64>), String>,
    client: Client,
) -> Vec<((Series, Option<i64>), String)> {
    let mut samples: Vec<_> = samples.into_iter().collect();
    for ((series, _), _) in &mut samples {
        for (name, value) in series.iter_mut() {
            if name == "le" && value == "Inf" {
                "+Inf".clone_into(value);
            }
            if client == Client::Prometheus3
                && matches!(name.as_str(), "le" | "quantile")
                && let Ok(number) = value.parse::<f64>()
            {
                *value = number.to_string();
            }
        }
    }
    samples.sort();
    samples
}

#[test]
fn text_to_openmetrics_to_text_keeps_everything() {
    for_bodies(any_taste(), |bodies| {
        for client in CLIENTS {
            let text = merged(bodies, &response_format(client, Format::Text));
            let open_metrics = passed(&text, &response_format(client, Format::OpenMetrics));
            let back = passed(&open_metrics, &response_format(client, Format::Text));
            let before = with_equal_bounds(samples(&text), client);
            // A series with and without timestamps loses the later samples.
            let untimed: BTreeSet<Series> = before
                .iter()
                .filter(|((_, time), _)| time.is_none())
                .map(|((series, _), _)| series.clone())
                .collect();
            let before: Vec<_> = before
                .into_iter()
                .filter(|((series, time), _)| time.is_none() || !untimed.contains(series))
                .collect();
            prop_assert_eq!(before, with_equal_bounds(samples(&back), client));
        }
        Ok(())
    });
}

#[test]
fn adding_labels_keeps_the_count() {
    for_bodies(any_taste(), |bodies| {
        for body in bodies {
            let Ok(exposition) = parse_any(body) else { continue };
            let n_samples = exposition.n_samples();
            let input = Input {
                labels: vec![("a".into(), "b".into()), ("le".into(), "c".into())],
                exposition: Some(exposition),
                ..Input::default()
            };
            let merged = merge(vec![input], &response_format(Client::Anybody, Format::Text));
            prop_assert_eq!(merged.n_samples() + merged.n_dropped(), n_samples);
        }
        Ok(())
    });
}

/// Each half is the body of a target with the same labels: the same series, in another order of families.
#[test]
fn merging_a_split_body_equals_merging_it_whole() {
    let taste = Taste {
        time: None,
        ..any_taste()
    };
    for_inputs((bodies(taste), 0..20_usize), |(bodies, at)| {
        let format = response_format(Client::Anybody, Format::Text);
        for body in rendered(&bodies).iter().filter(|body| !is_open_metrics(body)) {
            let lines: Vec<&str> = body.split_inclusive('\n').collect();
            let (first, second) = lines.split_at(at.min(lines.len()));
            let types: String = lines
                .iter()
                .filter(|line| line.starts_with("# TYPE"))
                .copied()
                .collect();
            let with_types = |lines: &[&str]| format!("{types}{}", lines.concat());
            let whole = passed(&with_types(&lines), &format);
            let halves = [first, second]
                .map(|half| own(parse_any(&with_types(half)).expect("a half of what is accepted")));
            let split = written(&merge(halves.into(), &format));
            prop_assert_eq!(samples(&split), samples(&whole));
        }
        Ok(())
    });
}

fn is_open_metrics(body: &str) -> bool {
    body.ends_with("# EOF\n")
}

/// Targets respond in any order, and their bodies are parsed in that order, with memory from a pool that earlier bodies
/// have used. The response depends on the order of the inputs only.
#[test]
fn the_order_of_arrival_does_not_change_the_bytes() {
    let arrivals = bodies(any_taste()).prop_flat_map(|bodies| {
        let order: Vec<usize> = (0..bodies.len()).collect();
        (Just(bodies), Just(order).prop_shuffle())
    });
    let pool = Pool::default();
    for_inputs(arrivals, |(bodies, order)| {
        let bodies = rendered(&bodies);
        for format in all_formats() {
            let expected = merged(&bodies, &format);
            let mut arrived: Vec<(usize, Input)> = order
                .iter()
                .map(|&index| {
                    let body = bodies[index].as_bytes().to_vec();
                    let content_type = is_open_metrics(&bodies[index]).then_some(OPEN_METRICS);
                    let exposition = pool.parse(body, content_type, &Limits::default()).ok();
                    let input = Input {
                        exposition,
                        ..target(&format!("p{index}"), &bodies[index])
                    };
                    (index, input)
                })
                .collect();
            arrived.sort_by_key(|(index, _)| *index);
            let inputs = arrived.into_iter().map(|(_, input)| input).collect();
            prop_assert_eq!(written(&pool.merge(inputs, &format)), expected);
        }
        Ok(())
    });
}

/// The response for one body, without added labels.
fn passed(body: &str, format: &OutputFormat) -> String {
    let exposition = parse_any(body).unwrap_or_else(|refusal| panic!("{refusal}\n{body}"));
    written(&merge(vec![own(exposition)], format))
}
