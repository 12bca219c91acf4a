//! Which family of the response a sample belongs to, by the type of its source family and the suffix of its name.
//!
//! This is a table for each response format, after the rules `openmetrics-to-text`, `text-to-openmetrics`,
//! `counter-names` and `unsuffixed-samples` of docs/explanation/merge-rules.md. A sample keeps its name in every case; what
//! is decided is under which TYPE line it stands.

use crate::index::{Suffix, Type};

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
pub(super) fn in_text(kind: Type, suffix: Suffix) -> (FamilyName, Type) {
    use FamilyName::{Sample, Source};
    match (kind, suffix) {
        (Type::Counter, Suffix::Bare) => (Source, Type::Counter),
        (Type::Counter, Suffix::Total) => (Sample, Type::Counter),
        (Type::Histogram, Suffix::Bucket | Suffix::Sum | Suffix::Count) => (Source, Type::Histogram),
        (Type::Summary, Suffix::Bare | Suffix::Sum | Suffix::Count) => (Source, Type::Summary),
        // Text has no type for a gauge histogram. Its buckets may decrease, which those of a histogram may not.
        (Type::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount)
        | (Type::Counter | Type::Histogram | Type::Summary, Suffix::Created)
        | (Type::Info, Suffix::Info)
        | (Type::StateSet | Type::Gauge, Suffix::Bare) => (Sample, Type::Gauge),
        _ => (Sample, Type::Unknown),
    }
}

/// The family of a sample in an OpenMetrics response.
pub(super) fn in_openmetrics(kind: Type, suffix: Suffix, traits: Traits) -> (FamilyName, Type) {
    use FamilyName::{Sample, Source, WithoutTotal};
    let complete = !traits.lacks_label;
    match (kind, suffix) {
        (Type::Counter, Suffix::Total) => (Source, Type::Counter),
        (Type::Counter, Suffix::Bare) if traits.ends_in_total => (WithoutTotal, Type::Counter),
        (Type::Counter, Suffix::Bare) if traits.unsuffixed_counters => (Source, Type::Counter),
        (Type::Counter, Suffix::Created) if !traits.ends_in_total => (Source, Type::Counter),
        (Type::Histogram, Suffix::Bucket | Suffix::Sum | Suffix::Count | Suffix::Created)
        | (Type::Summary, Suffix::Bare | Suffix::Sum | Suffix::Count | Suffix::Created)
        | (Type::GaugeHistogram, Suffix::Bucket | Suffix::GSum | Suffix::GCount)
        | (Type::StateSet, Suffix::Bare)
            if complete =>
        {
            (Source, kind)
        }
        (Type::Info, Suffix::Info) => (Source, Type::Info),
        (Type::StateSet | Type::Gauge, Suffix::Bare) => (Sample, Type::Gauge),
        _ => (Sample, Type::Unknown),
    }
}

/// Suffixes whose names a family of this type claims besides its own name, whether or not it has such samples.
pub(super) fn claimed_suffixes(kind: Type, open_metrics: bool) -> &'static [Suffix] {
    match (kind, open_metrics) {
        (Type::Histogram, false) => &[Suffix::Bucket, Suffix::Sum, Suffix::Count],
        (Type::Summary, false) => &[Suffix::Sum, Suffix::Count],
        (_, false) => &[],
        (_, true) => kind.suffixes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every suffix of a type in both formats, as `name type` pairs for a source family `x`.
    fn rows(kind: Type, traits: Traits) -> Vec<String> {
        let mut suffixes = vec![Suffix::Bare];
        suffixes.extend(kind.suffixes());
        let row = |suffix: Suffix, (name, family): (FamilyName, Type)| {
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
    fn check(kind: Type, traits: Traits, text: &[&str], open_metrics: &[&str]) {
        assert_eq!(rows(kind, traits), [text, open_metrics].concat());
    }

    #[test]
    fn counters() {
        check(
            Type::Counter,
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
            in_openmetrics(Type::Counter, Suffix::Bare, prometheus),
            (FamilyName::Source, Type::Counter)
        );
        let total = Traits {
            ends_in_total: true,
            ..PLAIN
        };
        assert_eq!(
            in_openmetrics(Type::Counter, Suffix::Bare, total),
            (FamilyName::WithoutTotal, Type::Counter)
        );
        assert_eq!(
            in_openmetrics(Type::Counter, Suffix::Created, total),
            (FamilyName::Sample, Type::Unknown)
        );
    }

    #[test]
    fn histograms_and_summaries() {
        check(
            Type::Histogram,
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
            Type::Summary,
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
            Type::GaugeHistogram,
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
        for kind in [Type::Histogram, Type::Summary, Type::GaugeHistogram] {
            for &suffix in kind.suffixes() {
                assert_eq!(
                    in_openmetrics(kind, suffix, lacks),
                    (FamilyName::Sample, Type::Unknown)
                );
            }
        }
        assert_eq!(
            in_openmetrics(Type::StateSet, Suffix::Bare, lacks),
            (FamilyName::Sample, Type::Gauge)
        );
    }

    #[test]
    fn simple_types() {
        check(Type::Gauge, PLAIN, &["x: gauge x"], &["x: gauge x"]);
        check(Type::Unknown, PLAIN, &["x: unknown x"], &["x: unknown x"]);
        check(Type::StateSet, PLAIN, &["x: gauge x"], &["x: stateset x"]);
        check(
            Type::Info,
            PLAIN,
            &["x: unknown x", "x_info: gauge x_info"],
            &["x: unknown x", "x_info: info x"],
        );
    }
}
