//! Which family of the response a sample belongs to, by the type of its source family and the suffix of its name.
//!
//! This is a table for each response format, after the rules `openmetrics-to-text`, `text-to-openmetrics`,
//! `counter-names` and `unsuffixed-samples` of docs/explanation/merge-rules.md. A sample keeps its name in every case; what
//! is decided is under which TYPE line it stands.

use crate::types::{MetricType, Suffix};

/// What a family of the response is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyName {
    /// The source family: histogram `h` holds `h_bucket`.
    Source,
    /// The sample: text has a family `c_created` of its own.
    Sample,
    /// The source family without `_total`: OpenMetrics names the counter of `c_total` `c`.
    WithoutTotal,
}

/// What the tables need to know of a source family, besides its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// Its name is more than `_total` and ends in it.
    pub(super) ends_in_total: bool,
    /// A bucket lacks `le`, a sample of a summary `quantile`, or a state its label.
    pub(super) lacks_label: bool,
    /// The scraper accepts a counter whose sample has no `_total`.
    pub(super) unsuffixed_counters: bool,
}

/// The family of a sample in a text response.
pub(super) fn in_text(kind: MetricType, suffix: Suffix) -> (FamilyName, MetricType) {
    use FamilyName::{Sample, Source};
    match (kind, suffix) {
        (MetricType::Counter, Suffix::Unsuffixed) => (Source, MetricType::Counter),
        (MetricType::Counter, Suffix::Total) => (Sample, MetricType::Counter),
        (MetricType::Histogram, Suffix::Bucket | Suffix::Sum | Suffix::Count) => {
            (Source, MetricType::Histogram)
        }
        (MetricType::Summary, Suffix::Unsuffixed | Suffix::Sum | Suffix::Count) => {
            (Source, MetricType::Summary)
        }
        // Text has no type for a gauge histogram. Its buckets may decrease, which those of a histogram may not.
        (MetricType::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount)
        | (MetricType::Counter | MetricType::Histogram | MetricType::Summary, Suffix::Created)
        | (MetricType::Info, Suffix::Info)
        | (MetricType::StateSet | MetricType::Gauge, Suffix::Unsuffixed) => (Sample, MetricType::Gauge),
        _ => (Sample, MetricType::Unknown),
    }
}

/// The family of a sample in an OpenMetrics response.
pub(super) fn in_openmetrics(kind: MetricType, suffix: Suffix, traits: Traits) -> (FamilyName, MetricType) {
    use FamilyName::{Sample, Source, WithoutTotal};
    let complete = !traits.lacks_label;
    match (kind, suffix) {
        (MetricType::Counter, Suffix::Total) => (Source, MetricType::Counter),
        (MetricType::Counter, Suffix::Unsuffixed) if traits.ends_in_total => {
            (WithoutTotal, MetricType::Counter)
        }
        (MetricType::Counter, Suffix::Unsuffixed) if traits.unsuffixed_counters => {
            (Source, MetricType::Counter)
        }
        (MetricType::Counter, Suffix::Created) if !traits.ends_in_total => (Source, MetricType::Counter),
        (MetricType::Histogram, Suffix::Bucket | Suffix::Sum | Suffix::Count | Suffix::Created)
        | (MetricType::Summary, Suffix::Unsuffixed | Suffix::Sum | Suffix::Count | Suffix::Created)
        | (MetricType::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount)
        | (MetricType::StateSet, Suffix::Unsuffixed)
            if complete =>
        {
            (Source, kind)
        }
        (MetricType::Info, Suffix::Info) => (Source, MetricType::Info),
        (MetricType::StateSet | MetricType::Gauge, Suffix::Unsuffixed) => (Sample, MetricType::Gauge),
        _ => (Sample, MetricType::Unknown),
    }
}

/// Suffixes whose names a family of this type claims besides its own name, whether or not it has such samples.
pub(super) fn claimed_suffixes(kind: MetricType, open_metrics: bool) -> &'static [Suffix] {
    match (kind, open_metrics) {
        (MetricType::Histogram, false) => &[Suffix::Bucket, Suffix::Sum, Suffix::Count],
        (MetricType::Summary, false) => &[Suffix::Sum, Suffix::Count],
        (_, false) => &[],
        (_, true) => kind.suffixes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every suffix of a type in both formats, as `name type` pairs for a source family `x`.
    fn rows(kind: MetricType, traits: Traits) -> Vec<String> {
        let mut suffixes = vec![Suffix::Unsuffixed];
        suffixes.extend(kind.suffixes());
        let row = |suffix: Suffix, (name, family): (FamilyName, MetricType)| {
            let source = if traits.ends_in_total { "x_total" } else { "x" };
            let sample = format!("{source}{}", suffix.as_str());
            let name = match name {
                FamilyName::Source => source,
                FamilyName::Sample => &sample,
                FamilyName::WithoutTotal => "x",
            };
            format!("{sample}: {} {name}", family.as_str(true))
        };
        let text = suffixes.iter().map(|&suffix| row(suffix, in_text(kind, suffix)));
        let open_metrics = suffixes
            .iter()
            .map(|&suffix| row(suffix, in_openmetrics(kind, suffix, traits)));
        text.chain(open_metrics).collect()
    }

    const PLAIN: Traits = Traits {
        ends_in_total: false,
        lacks_label: false,
        unsuffixed_counters: false,
    };

    #[track_caller]
    fn check(kind: MetricType, traits: Traits, text: &[&str], open_metrics: &[&str]) {
        assert_eq!(rows(kind, traits), [text, open_metrics].concat());
    }

    #[test]
    fn counters() {
        check(
            MetricType::Counter,
            PLAIN,
            &[
                "x: counter x",
                "x_total: counter x_total",
                "x_created: gauge x_created",
            ],
            &["x: unknown x", "x_total: counter x", "x_created: counter x"],
        );
        let prometheus = Traits {
            unsuffixed_counters: true,
            ..PLAIN
        };
        assert_eq!(
            in_openmetrics(MetricType::Counter, Suffix::Unsuffixed, prometheus),
            (FamilyName::Source, MetricType::Counter)
        );
        let total = Traits {
            ends_in_total: true,
            ..PLAIN
        };
        assert_eq!(
            in_openmetrics(MetricType::Counter, Suffix::Unsuffixed, total),
            (FamilyName::WithoutTotal, MetricType::Counter)
        );
        assert_eq!(
            in_openmetrics(MetricType::Counter, Suffix::Created, total),
            (FamilyName::Sample, MetricType::Unknown)
        );
    }

    #[test]
    fn histograms_and_summaries() {
        check(
            MetricType::Histogram,
            PLAIN,
            &[
                "x: unknown x",
                "x_bucket: histogram x",
                "x_sum: histogram x",
                "x_count: histogram x",
                "x_created: gauge x_created",
            ],
            &[
                "x: unknown x",
                "x_bucket: histogram x",
                "x_sum: histogram x",
                "x_count: histogram x",
                "x_created: histogram x",
            ],
        );
        check(
            MetricType::Summary,
            PLAIN,
            &[
                "x: summary x",
                "x_sum: summary x",
                "x_count: summary x",
                "x_created: gauge x_created",
            ],
            &[
                "x: summary x",
                "x_sum: summary x",
                "x_count: summary x",
                "x_created: summary x",
            ],
        );
        check(
            MetricType::GaugeHistogram,
            PLAIN,
            &[
                "x: unknown x",
                "x_bucket: gauge x_bucket",
                "x_gsum: gauge x_gsum",
                "x_gcount: gauge x_gcount",
            ],
            &[
                "x: unknown x",
                "x_bucket: gaugehistogram x",
                "x_gsum: gaugehistogram x",
                "x_gcount: gaugehistogram x",
            ],
        );
    }

    #[test]
    fn a_group_that_lacks_a_label_has_no_openmetrics_type() {
        let lacks = Traits {
            lacks_label: true,
            ..PLAIN
        };
        for kind in [
            MetricType::Histogram,
            MetricType::Summary,
            MetricType::GaugeHistogram,
        ] {
            for &suffix in kind.suffixes() {
                assert_eq!(
                    in_openmetrics(kind, suffix, lacks),
                    (FamilyName::Sample, MetricType::Unknown)
                );
            }
        }
        assert_eq!(
            in_openmetrics(MetricType::StateSet, Suffix::Unsuffixed, lacks),
            (FamilyName::Sample, MetricType::Gauge)
        );
    }

    #[test]
    fn simple_types() {
        check(MetricType::Gauge, PLAIN, &["x: gauge x"], &["x: gauge x"]);
        check(MetricType::Unknown, PLAIN, &["x: unknown x"], &["x: unknown x"]);
        check(MetricType::StateSet, PLAIN, &["x: gauge x"], &["x: stateset x"]);
        check(
            MetricType::Info,
            PLAIN,
            &["x: unknown x", "x_info: gauge x_info"],
            &["x: unknown x", "x_info: info x"],
        );
    }
}
