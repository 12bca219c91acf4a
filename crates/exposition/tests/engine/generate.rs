//! Bodies that conflict with each other: few names, with many types and suffixes.
//!
//! They are values of proptest, so that a failure shrinks to the lines that matter.

#![allow(
    dead_code,
    reason = "the laws and the tests with real parsers use a part of it each"
)]

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What a generated body may contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taste {
    /// Quoted names, over which Prometheus 2 loses the whole scrape.
    pub(super) quoted: bool,
    /// Values that only a strict reader refuses: negative counters, NaN, decreasing buckets.
    pub(super) wild: bool,
    /// Timestamps at or shortly after this one, in milliseconds since the epoch.
    pub(super) time: Option<i64>,
    /// Non-canonical spelling, which only the text format allows, and which only Prometheus accepts.
    pub(super) odd: bool,
}

/// One line or block of a body.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Type(&'static str, &'static str),
    Help(&'static str, &'static str),
    Sample(Sample),
    /// A whole family as client libraries write it.
    Family(&'static str, &'static str, Vec<&'static str>, u8),
}

#[derive(Debug, Clone)]
pub(super) struct Sample {
    name: String,
    labels: Vec<(&'static str, &'static str)>,
    value: &'static str,
    time: Option<i64>,
    exemplar: bool,
    odd: u8,
}

#[derive(Debug, Clone)]
pub(super) struct Body {
    open_metrics: bool,
    items: Vec<Item>,
}

const NAMES: &[&str] = &["x", "y", "x_total", "x_count", "x_created", "x_info", "x_bucket"];
const SUFFIXES: &[&str] = &[
    "", "", "_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount",
];
const TEXT_TYPES: &[&str] = &["counter", "gauge", "histogram", "summary", "untyped"];
const OPEN_TYPES: &[&str] = &[
    "counter",
    "gauge",
    "histogram",
    "summary",
    "unknown",
    "info",
    "stateset",
    "gaugehistogram",
];
const LABELS: &[&str] = &["a", "b", "pod", "exported_pod", "le", "quantile", "x"];
const QUOTED_LABELS: &[&str] = &["l.x", "l_x", "é"];
const LABEL_VALUES: &[&str] = &[
    "",
    "v",
    "w",
    "1",
    "1.0",
    "0.50",
    "2.5",
    "10",
    "1e6",
    "+Inf",
    "Inf",
    "q\\\"\\\\\\n{}",
    "é",
];
const SANE_VALUES: &[&str] = &["0", "1", "2", "17"];
const WILD_VALUES: &[&str] = &[
    "1",
    "-1",
    "NaN",
    "+Inf",
    "1e300",
    "0.1",
    "-0",
    "9007199254740993",
    "5e-324",
    ".5",
];
const BOUNDS: &[&[&str]] = &[
    &["1", "2.5", "+Inf"],
    &["1.0", "2.5", "+Inf"],
    &["0.5", "10", "1e6", "+Inf"],
];

pub(super) fn bodies(taste: Taste) -> impl Strategy<Value = Vec<Body>> {
    prop::collection::vec(body(taste), 1..4)
}

fn body(taste: Taste) -> impl Strategy<Value = Body> {
    any::<bool>().prop_flat_map(move |open_metrics| {
        prop::collection::vec(item(taste, open_metrics), 0..8)
            .prop_map(move |items| Body { open_metrics, items })
    })
}

fn item(taste: Taste, open_metrics: bool) -> BoxedStrategy<Item> {
    let types = if open_metrics { OPEN_TYPES } else { TEXT_TYPES };
    let name = || prop::sample::select(NAMES);
    let help = prop::sample::select(&["one", "two \\\\ \\n", ""][..]);
    let label_sets = prop::collection::vec(prop::sample::select(&["v", "w", ""][..]), 1..3);
    let family = (name(), prop::sample::select(types), label_sets, 0..3_u8)
        .prop_map(|(name, kind, sets, bounds)| Item::Family(name, kind, sets, bounds));
    let metadata = prop_oneof![
        (name(), prop::sample::select(types)).prop_map(|(name, kind)| Item::Type(name, kind)),
        (name(), help).prop_map(|(name, help)| Item::Help(name, help)),
    ];
    if taste.wild {
        prop_oneof![3 => metadata, 5 => sample(taste).prop_map(Item::Sample), 2 => family].boxed()
    } else {
        prop_oneof![1 => metadata, 3 => sample(taste).prop_map(Item::Sample), 4 => family].boxed()
    }
}

fn sample(taste: Taste) -> impl Strategy<Value = Sample> {
    let label = if taste.quoted {
        prop_oneof![4 => prop::sample::select(LABELS), 1 => prop::sample::select(QUOTED_LABELS)].boxed()
    } else {
        prop::sample::select(LABELS).boxed()
    };
    let values = if taste.wild { WILD_VALUES } else { SANE_VALUES };
    let time = match taste.time {
        Some(now) => {
            prop_oneof![3 => Just(None), 1 => (0..4_i64).prop_map(move |step| Some(now + step * 777))].boxed()
        }
        None => Just(None).boxed(),
    };
    let odd = if taste.odd {
        prop_oneof![3 => Just(0_u8), 1 => 1..6_u8].boxed()
    } else {
        Just(0).boxed()
    };
    let quoted = if taste.quoted {
        prop_oneof![4 => Just(false), 1 => Just(true)].boxed()
    } else {
        Just(false).boxed()
    };
    let wild = taste.wild;
    (
        (
            prop::sample::select(NAMES),
            prop::sample::select(SUFFIXES),
            quoted,
        ),
        prop::collection::vec((label, prop::sample::select(LABEL_VALUES)), 0..4),
        prop::sample::select(values),
        time,
        any::<bool>(),
        odd,
    )
        .prop_map(
            move |((name, suffix, quoted), mut labels, value, time, exemplar, odd)| {
                labels.sort_unstable();
                labels.dedup_by_key(|(name, _)| *name);
                if odd == 5 {
                    labels.reverse();
                }
                // A quantile out of range is an invalid value, which only a strict reader refuses.
                if !wild {
                    labels.retain(|(name, value)| {
                        !matches!(*name, "le" | "quantile") || matches!(*value, "0.50" | "1" | "1.0")
                    });
                }
                let name = if quoted {
                    format!("{name}.q{suffix}")
                } else {
                    format!("{name}{suffix}")
                };
                Sample {
                    name,
                    labels,
                    value,
                    time,
                    exemplar,
                    odd,
                }
            },
        )
}

impl Body {
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        for item in &self.items {
            match item {
                Item::Type(name, kind) => out += &format!("# TYPE {name} {kind}\n"),
                Item::Help(name, help) => out += &format!("# HELP {name} {help}\n"),
                Item::Sample(sample) => out += &sample.render(self.open_metrics),
                Item::Family(name, kind, sets, bounds) => {
                    out += &family(name, kind, sets, BOUNDS[usize::from(*bounds)], self.open_metrics);
                }
            }
        }
        if self.open_metrics {
            out += "# EOF\n";
        }
        out
    }
}

impl Sample {
    fn render(&self, open_metrics: bool) -> String {
        let odd = if open_metrics { 0 } else { self.odd };
        let bare = self
            .name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let mut inside: Vec<String> = Vec::new();
        if !bare {
            inside.push(format!("\"{}\"", self.name));
        }
        for (name, value) in &self.labels {
            let name = if name.is_ascii() && !name.contains('.') {
                (*name).to_owned()
            } else {
                format!("\"{name}\"")
            };
            inside.push(format!("{name}=\"{value}\""));
        }
        let mut out = if bare { self.name.clone() } else { String::new() };
        if !inside.is_empty() {
            let (open, comma, close) = match odd {
                1 => ("{ ", " ,\t", " }"),
                2 => ("{", ",", ",}"),
                3 => (" {", ",", "}\t"),
                _ => ("{", ",", "}"),
            };
            out += open;
            out += &inside.join(comma);
            out += close;
        } else if odd == 4 {
            out += "{}";
        }
        out += if odd == 1 { "  " } else { " " };
        out += self.value;
        if let Some(time) = self.time {
            if open_metrics {
                out += &format!(" {}.{:03}", time / 1000, time % 1000);
            } else {
                out += &format!(" {time}");
            }
        }
        // Over an exemplar elsewhere, Prometheus 2.42 loses the whole scrape.
        if open_metrics
            && self.exemplar
            && bare
            && (self.name.ends_with("_total") || self.name.ends_with("_bucket"))
        {
            out += " # {t=\"\\\"}\"} 0.5";
        }
        if odd == 2 {
            out += " ";
        }
        out + "\n"
    }
}

/// A complete family with valid values.
fn family(name: &str, kind: &str, sets: &[&str], bounds: &[&str], open_metrics: bool) -> String {
    let mut out = format!("# TYPE {name} {kind}\n");
    for set in sets {
        let own = format!("a=\"{set}\"");
        let mut line = |suffix: &str, extra: &str, value: &str| {
            let extra = if extra.is_empty() {
                String::new()
            } else {
                format!(",{extra}")
            };
            out += &format!("{name}{suffix}{{{own}{extra}}} {value}\n");
        };
        match kind {
            "counter" if open_metrics => line("_total", "", "3"),
            "histogram" => {
                for (index, bound) in bounds.iter().enumerate() {
                    line("_bucket", &format!("le=\"{bound}\""), &index.to_string());
                }
                line("_sum", "", "4");
                line("_count", "", &(bounds.len() - 1).to_string());
            }
            "gaugehistogram" => {
                for (index, bound) in bounds.iter().enumerate() {
                    line("_bucket", &format!("le=\"{bound}\""), &index.to_string());
                }
                line("_gsum", "", "4");
                line("_gcount", "", &(bounds.len() - 1).to_string());
            }
            "summary" => {
                line("", "quantile=\"0.50\"", "1");
                line("", "quantile=\"1\"", "2");
                line("_sum", "", "3");
                line("_count", "", "2");
            }
            "info" => line("_info", "", "1"),
            "stateset" => line("", &format!("{name}=\"on\""), "1"),
            _ => line("", "", "5"),
        }
    }
    out
}

/// Sets of bodies that are the same in every run.
pub(super) fn fixed(taste: Taste, n: usize, seed: u8) -> Vec<Vec<String>> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = bodies(taste);
    (0..n)
        .map(|_| {
            let tree = strategy
                .new_tree(&mut runner)
                .expect("these strategies reject nothing");
            tree.current().iter().map(Body::render).collect()
        })
        .collect()
}
