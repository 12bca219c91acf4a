//! A fast check whether a family's samples can be written to OpenMetrics in the order in which they came.
//!
//! It compares bytes and parses nothing but bounds. It has false negatives: `true` proves the order, `false` means that the
//! lines have to be parsed to find out. A property test holds it against [`super::order`].

use std::collections::HashSet;
use std::hash::BuildHasher as _;

use super::family::Contribution;
use crate::index::{Sample, SourceFamily};
use crate::syntax::{name, number};
use crate::types::{MetricType, SchemaId, Suffix};
use crate::{Exposition, Input};

/// Whether the samples of a contribution provably come metric by metric, each metric once, its buckets ascending.
pub(super) fn is_in_order(input: &Input, kind: MetricType, contribution: &Contribution) -> bool {
    let Some(exposition) = &input.exposition else {
        return true;
    };
    let index = &exposition.index;
    let source_family = &index.families[contribution.source_family];
    let bound: &[u8] = match kind {
        MetricType::Histogram | MetricType::GaugeHistogram => b"le",
        MetricType::Summary => b"quantile",
        _ => return false,
    };
    if index.uncertain
        || index.has_timestamps
        || source_family.kind != Some(kind)
        || source_family.name.quoted
        || contribution.is_partial()
        || input.labels.iter().any(|(label, _)| label.as_bytes() == bound)
    {
        return false;
    }
    let mut check = OrderCheck {
        exposition,
        source_family,
        bound,
        must_ascend: kind != MetricType::Summary,
        with_bound: None,
        without_bound: None,
        endings: Vec::new(),
        metric: None,
        n_bounds: 0,
        last_bound: f64::NEG_INFINITY,
        metrics: HashSet::default(),
    };
    index.family_runs(source_family).all(|run| {
        index.samples[run.positions()]
            .iter()
            .filter(|sample| !sample.has(Sample::DROPPED))
            .all(|sample| check.add(*sample))
    })
}

/// The label names of a sample: those of a label schema of the index, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Labels {
    None,
    Schema(SchemaId),
}

/// The end of a series that carries a bound, as it is written: `,le="2.5"}` without the brace. The series of one metric
/// have the same endings as those of the next.
struct Ending<'a> {
    text: &'a [u8],
    bound: f64,
}

/// Endings that are remembered: more than most histograms have.
const MAX_ENDINGS: usize = 64;

/// What is known of the samples so far.
struct OrderCheck<'a> {
    exposition: &'a Exposition,
    source_family: &'a SourceFamily,
    /// `le` or `quantile`.
    bound: &'a [u8],
    must_ascend: bool,
    /// The label names of the samples that carry a bound, as their last label, and of those that do not. All samples
    /// of a kind have the same label names, and both kinds have them in the same order, so that two label sets are equal
    /// if their bytes are.
    with_bound: Option<Labels>,
    without_bound: Option<Labels>,
    endings: Vec<Ending<'a>>,
    /// The labels of the current metric.
    metric: Option<&'a [u8]>,
    /// How many bounds of the current metric have come, and the last of them.
    n_bounds: usize,
    last_bound: f64,
    /// Hashes of the metrics so far. If two metrics have one hash, the second looks like one that comes again, and the
    /// check says `false`, which is safe.
    metrics: HashSet<u64, foldhash::fast::RandomState>,
}

impl<'a> OrderCheck<'a> {
    /// Takes the next sample into account; `false` if it is not provably in order.
    fn add(&mut self, sample: Sample) -> bool {
        if sample.has(Sample::NON_CANONICAL) {
            return false;
        }
        let body: &'a [u8] = &self.exposition.body;
        let series = &body[sample.start as usize..sample.series_end as usize];
        let name_len = name::metric_name_len(series);
        let labels = &series[name_len..];
        let suffix_len = name_len - self.source_family.name.span.len().min(name_len);
        let bucket = Suffix::Bucket.as_str();
        let has_bound = if self.must_ascend {
            series[..name_len].ends_with(bucket.as_bytes()) && suffix_len == bucket.len()
        } else {
            suffix_len == 0
        };
        let label_names = sample.schema().map_or(Labels::None, Labels::Schema);
        if !self.has_same_label_names(label_names, has_bound) {
            return false;
        }
        let split = if has_bound {
            self.split(labels)
        } else {
            Some((labels, f64::NEG_INFINITY))
        };
        let Some((metric, bound)) = split else {
            return false;
        };
        if self.metric != Some(metric) {
            if !self.metrics.insert(self.metrics.hasher().hash_one(metric)) {
                return false;
            }
            self.metric = Some(metric);
            self.n_bounds = 0;
            self.last_bound = f64::NEG_INFINITY;
        }
        if has_bound {
            self.n_bounds += 1;
            if self.must_ascend && bound < self.last_bound {
                return false;
            }
            self.last_bound = bound;
        }
        true
    }

    /// Whether the samples of each kind have the label names of the first one of that kind, and those with a bound have
    /// the names of the others, followed by the bound.
    fn has_same_label_names(&mut self, found: Labels, has_bound: bool) -> bool {
        let known = if has_bound {
            &mut self.with_bound
        } else {
            &mut self.without_bound
        };
        match known.replace(found) {
            Some(before) => return before == found,
            None if has_bound && found == Labels::None => return false,
            None => {}
        }
        let names = |schema: SchemaId| {
            let spans = self.exposition.index.schema_names(schema).iter();
            spans.map(|span| span.of(&self.exposition.body))
        };
        let Some(Labels::Schema(with_bound)) = self.with_bound else {
            return true;
        };
        let mut others = names(with_bound);
        others.next_back() == Some(self.bound)
            && match self.without_bound {
                None => true,
                Some(Labels::None) => others.next().is_none(),
                Some(Labels::Schema(without)) => others.eq(names(without)),
            }
    }

    /// Splits `{a="1",le="2.5"` into the labels of the metric and its bound. `None` if the bound has escapes, or is not
    /// the last label.
    fn split(&mut self, labels: &'a [u8]) -> Option<(&'a [u8], f64)> {
        for position in [self.n_bounds, 0] {
            if let Some(ending) = self.endings.get(position)
                && let Some(metric) = labels.strip_suffix(ending.text)
            {
                return Some((metric, ending.bound));
            }
        }
        let inside = labels.strip_suffix(b"\"")?;
        let quote = memchr::memrchr(b'"', inside)?;
        let value = &inside[quote + 1..];
        let (_, metric) = inside[..quote]
            .strip_suffix(b"=")?
            .strip_suffix(self.bound)?
            .split_last()?;
        if value.contains(&b'\\') {
            return None;
        }
        let bound = number::parse_float(value).unwrap_or(f64::INFINITY);
        if self.endings.len() == self.n_bounds && self.n_bounds < MAX_ENDINGS {
            let text = &labels[metric.len()..];
            self.endings.push(Ending { text, bound });
        }
        Some((metric, bound))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{order, plan};
    use super::*;
    use crate::tests::{open_metrics, targets};

    /// For each histogram and summary: whether the fast check says that it is in order, and whether parsing each line
    /// gives no other order.
    fn in_order(body: &str) -> Vec<(bool, bool)> {
        let inputs = targets(&[body]);
        let (format, cancel) = (open_metrics(), crate::cancel::Cancel::new(&|| false));
        let plan = plan::plan(&inputs, &format, cancel).expect("nobody cancels");
        plan.families
            .iter()
            .filter(|family| matches!(family.kind, MetricType::Histogram | MetricType::Summary))
            .map(|family| {
                let contributions = &plan.contributions[family.contributions.clone()];
                let sorted = order::sort_samples(&inputs, &plan, family, contributions, &format, cancel)
                    .expect("nobody cancels");
                let is_fast = is_in_order(&inputs[0], family.kind, &contributions[0]);
                (is_fast, sorted.is_none())
            })
            .collect()
    }

    #[track_caller]
    fn check(lines: &[&str], expect: bool) {
        let body = format!("# TYPE h histogram\n# TYPE s summary\n{}\n", lines.join("\n"));
        let found = in_order(&body);
        assert_eq!(found.len(), 1, "{body}");
        assert_eq!(found[0].0, expect, "{body}");
        assert!(found[0].1 || !expect, "the fast check is wrong about\n{body}");
    }

    #[test]
    fn what_exporters_write_is_in_order() {
        check(
            &[
                r#"h_bucket{le="1"} 1"#,
                r#"h_bucket{le="+Inf"} 1"#,
                "h_sum 1",
                "h_count 1",
            ],
            true,
        );
        check(
            &[
                r#"h_bucket{a="1",le="1"} 1"#,
                r#"h_bucket{a="1",le="2.5"} 1"#,
                r#"h_bucket{a="1",le="10"} 1"#,
                r#"h_sum{a="1"} 1"#,
                r#"h_count{a="1"} 1"#,
                r#"h_bucket{a="2",le="1"} 1"#,
                r#"h_bucket{a="2",le="3"} 1"#,
                r#"h_bucket{a="2",le="+Inf"} 1"#,
                r#"h_sum{a="2"} 1"#,
                r#"h_bucket{a="3",le="0.5"} 1"#,
            ],
            true,
        );
        check(
            &[
                r#"h_sum{a="1"} 1"#,
                r#"h_count{a="1"} 1"#,
                r#"h_bucket{a="1",le="1"} 1"#,
            ],
            true,
        );
        check(
            &[
                r#"s{a="1",quantile="0.9"} 1"#,
                r#"s{a="1",quantile="0.5"} 1"#,
                r#"s_sum{a="1"} 1"#,
            ],
            true,
        );
    }

    #[test]
    fn what_the_fast_check_cannot_prove_is_left_to_the_sort() {
        for lines in [
            &[r#"h_bucket{le="2"} 1"#, r#"h_bucket{le="1"} 1"#][..],
            &[
                r#"h_bucket{a="1",le="1"} 1"#,
                r#"h_bucket{a="2",le="1"} 1"#,
                r#"h_bucket{a="1",le="2"} 1"#,
            ],
            &[
                r#"h_bucket{a="1",le="1"} 1"#,
                r#"h_bucket{a="2",le="1"} 1"#,
                r#"h_sum{a="1"} 1"#,
            ],
            &[r#"h_bucket{a="1",b="2",le="1"} 1"#, r#"h_sum{b="2",a="1"} 1"#],
            &[r#"h_bucket{le="1",a="1"} 1"#, r#"h_sum{a="1"} 1"#],
            &[r#"h_bucket{a="1",le="1"} 1"#, "h_sum 1"],
            &[r#"h_bucket{le="1"} 1"#, r#"h_sum{a="1"} 1"#],
            &[r#"h_bucket{a="1",le="1"} 1"#, r#"h_bucket{b="1",le="1"} 1"#],
            &[r#"h_bucket{le="1"} 1 5"#],
            &[r#"h_bucket{le="\\"} 1"#],
            &[r#"h_bucket{ le="1"} 1"#],
            &[r#"h_bucket{a="",le="1"} 1"#, r#"h_bucket{le="1",a="2"} 1"#],
        ] {
            check(lines, false);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// What the fast check calls in order is not changed by the sort, which parses each line.
        #[test]
        fn the_fast_check_is_never_wrong(
            lines in prop::collection::vec((0_usize..4, 0_usize..6, 0_usize..6, any::<bool>()), 1..14),
        ) {
            let mut body = String::from("# TYPE h histogram\n# TYPE s summary\n");
            for (name, labels, bound, back) in lines {
                let labels = ["", r#"a="1""#, r#"a="2""#, r#"a="1",b="""#, r#"b="1",a="1""#, r#"a="le=""#][labels];
                let bound = ["1", "2.5", "10", "+Inf", "1.0", "x"][bound];
                let (name, bound) = [
                    ("h_bucket", format!("le=\"{bound}\"")),
                    ("h_sum", String::new()),
                    ("h_count", String::new()),
                    ("s", format!("quantile=\"{bound}\"")),
                ][name].clone();
                let mut all = [labels, &bound];
                if back {
                    all.reverse();
                }
                let all: Vec<&str> = all.into_iter().filter(|labels| !labels.is_empty()).collect();
                body += &match all.join(",") {
                    none if none.is_empty() => format!("{name} 1\n"),
                    all => format!("{name}{{{all}}} 1\n"),
                };
            }
            for (is_fast, is_sorted) in in_order(&body) {
                prop_assert!(is_sorted || !is_fast, "{}", body);
            }
        }
    }
}
