//! Whether a family's samples can be written to OpenMetrics in the order in which they came (core).
//!
//! Metric by metric, buckets ascending: that is how nearly every exporter writes them, and seeing that it is so takes a
//! comparison of bytes. Only what this cannot vouch for is taken apart and sorted, in `dedup`, which costs some twenty
//! times as much.

use std::collections::HashSet;
use std::hash::BuildHasher as _;

use crate::index::{Group, Sample, Suffix, Type};
use crate::merge::plan::{Entry, Family};
use crate::syntax::{name, number};
use crate::{Exposition, Part};

/// Whether the samples of `entry` come metric by metric, each metric once, its buckets ascending. `false` says nothing.
pub(crate) fn comes_in_order(part: &Part, family: &Family, entry: &Entry) -> bool {
    let Some(exposition) = &part.exposition else {
        return true;
    };
    let index = &exposition.index;
    let group = &index.groups[entry.group as usize];
    let bound: &[u8] = match family.kind {
        Type::Histogram | Type::GaugeHistogram => b"le",
        Type::Summary => b"quantile",
        _ => return false,
    };
    if index.uncertain
        || index.has_timestamps
        || group.kind != Some(family.kind)
        || group.name.quoted
        || entry.suffixes != entry.all_suffixes
        || part.labels.iter().any(|(label, _)| label.as_bytes() == bound)
    {
        return false;
    }
    let mut look = Look {
        exposition,
        group,
        bound,
        sorted: family.kind != Type::Summary,
        with: None,
        without: None,
        endings: Vec::new(),
        metric: None,
        n_bounds: 0,
        rank: f64::NEG_INFINITY,
        metrics: HashSet::default(),
    };
    index.group_runs(group).all(|run| {
        index.samples[run.first as usize..][..run.len as usize]
            .iter()
            .filter(|sample| !sample.has(Sample::DROPPED))
            .all(|sample| look.takes(*sample))
    })
}

/// In place of a shape: no labels at all.
const NO_LABELS: usize = usize::MAX;

/// What is known of the samples so far.
struct Look<'a> {
    exposition: &'a Exposition,
    group: &'a Group,
    bound: &'a [u8],
    /// Bounds must ascend.
    sorted: bool,
    /// The shape of samples that carry a bound, which is their last label, and that of those that do not. One each, and
    /// otherwise alike: then labels are equal where their bytes are.
    with: Option<usize>,
    without: Option<usize>,
    /// The bounds of a metric as they are written, with their label, and their numbers.
    endings: Vec<(&'a [u8], f64)>,
    /// The labels of the current metric.
    metric: Option<&'a [u8]>,
    n_bounds: usize,
    rank: f64,
    /// Hashes of the metrics so far. Two that fall together are taken for one that comes again, and looked at closely.
    metrics: HashSet<u64, foldhash::fast::RandomState>,
}

impl<'a> Look<'a> {
    /// Takes the next sample in; `false` where it does not fit.
    fn takes(&mut self, sample: Sample) -> bool {
        if sample.has(Sample::ODD) {
            return false;
        }
        let body: &'a [u8] = &self.exposition.body;
        let text = &body[sample.start as usize..sample.series_end as usize];
        let name_len = name::metric_name_len(text);
        let labels = &text[name_len..];
        let suffix_len = name_len - self.group.name.span.len().min(name_len);
        let carries = if self.sorted {
            text[..name_len].ends_with(Suffix::Bucket.as_str().as_bytes())
                && suffix_len == Suffix::Bucket.as_str().len()
        } else {
            suffix_len == 0
        };
        let shape = if sample.has(Sample::LABELS) {
            sample.shape()
        } else {
            NO_LABELS
        };
        if !self.fits(shape, carries) {
            return false;
        }
        let Some((metric, rank)) = (if carries {
            self.split(labels)
        } else {
            Some((labels, f64::NEG_INFINITY))
        }) else {
            return false;
        };
        if self.metric != Some(metric) {
            if !self.metrics.insert(self.metrics.hasher().hash_one(metric)) {
                return false;
            }
            self.metric = Some(metric);
            self.n_bounds = 0;
            self.rank = f64::NEG_INFINITY;
        }
        if carries {
            self.n_bounds += 1;
            if self.sorted && rank < self.rank {
                return false;
            }
            self.rank = rank;
        }
        true
    }

    /// Whether all samples have one shape, or two of which one has the bound behind the other's labels.
    fn fits(&mut self, shape: usize, carries: bool) -> bool {
        let known = if carries {
            &mut self.with
        } else {
            &mut self.without
        };
        match known.replace(shape) {
            Some(before) => return before == shape,
            None if carries && shape == NO_LABELS => return false,
            None => {}
        }
        let body = &self.exposition.body;
        let names = |shape: usize| {
            self.exposition
                .index
                .shape_names(shape)
                .iter()
                .map(|span| span.of(body))
        };
        let Some(with) = self.with else {
            return true;
        };
        let mut others = names(with);
        others.next_back() == Some(self.bound)
            && match self.without {
                None => true,
                Some(NO_LABELS) => others.next().is_none(),
                Some(without) => others.eq(names(without)),
            }
    }

    /// The labels of a metric, and its bound's number; `None` for a bound that needs a closer look.
    fn split(&mut self, labels: &'a [u8]) -> Option<(&'a [u8], f64)> {
        // The bounds of one metric are those of the next.
        for place in [self.n_bounds, 0] {
            if let Some(&(ending, rank)) = self.endings.get(place)
                && let Some(metric) = labels.strip_suffix(ending)
            {
                return Some((metric, rank));
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
        let rank = number::parse_float(value).unwrap_or(f64::INFINITY);
        if self.endings.len() == self.n_bounds && self.n_bounds < MAX_ENDINGS {
            self.endings.push((&labels[metric.len()..], rank));
        }
        Some((metric, rank))
    }
}

/// Bounds that are remembered: more than most histograms have.
const MAX_ENDINGS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merge;
    use crate::merge::plan;
    use crate::tests::{open_metrics, targets, written};

    /// Whether each family that could need sorting comes in order at first sight. Merging compares that with the slow way.
    fn in_order(body: &str) -> Vec<bool> {
        let parts = targets(&[body]);
        let (families, _) = plan::plan(&parts, &open_metrics());
        let found = families
            .iter()
            .filter(|family| matches!(family.kind, Type::Histogram | Type::Summary))
            .map(|family| comes_in_order(&parts[0], family, &family.entries[0]))
            .collect();
        assert!(!written(&merge(parts, &open_metrics())).is_empty());
        found
    }

    #[track_caller]
    fn check(lines: &[&str], expect: bool) {
        let body = format!("# TYPE h histogram\n# TYPE s summary\n{}\n", lines.join("\n"));
        assert_eq!(in_order(&body), [expect], "{body}");
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
    fn what_needs_a_closer_look_gets_one() {
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

        /// Merging asserts that nothing in order at first sight would be sorted.
        #[test]
        fn the_first_sight_is_never_wrong(
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
                let all: Vec<&str> = all.into_iter().filter(|part| !part.is_empty()).collect();
                body += &match all.join(",") {
                    none if none.is_empty() => format!("{name} 1\n"),
                    all => format!("{name}{{{all}}} 1\n"),
                };
            }
            in_order(&body);
        }
    }
}
