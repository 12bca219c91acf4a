//! Exemplars in OpenMetrics responses (rule `exemplars`).

use crate::negotiate::{ExemplarSupport, OutputFormat};
use crate::syntax::name::{self, Escaping};
use crate::syntax::sample_line::{self, SampleLine};
use crate::types::{MetricType, Suffix};

/// The most characters that the labels of an exemplar may have together.
const MAX_LABEL_CHARACTERS: usize = 128;

/// Whether the exemplar of a line is written: if there is one, and if the scraper accepts it there.
///
/// Prometheus does not look at the type, so that a family which lost its type keeps its exemplars for Prometheus. Every
/// other reader of OpenMetrics may be strict, and gets exemplars on counters and buckets only.
pub(super) fn is_allowed(
    kind: MetricType,
    suffix: Suffix,
    line: &SampleLine,
    body: &[u8],
    format: &OutputFormat,
) -> bool {
    if line.exemplar.is_none() {
        return false;
    }
    let name = line.name.decode(body);
    let is_total = name.ends_with(Suffix::Total.as_str().as_bytes());
    let is_bucket =
        matches!(kind, MetricType::Histogram | MetricType::GaugeHistogram) && suffix == Suffix::Bucket;
    let is_accepted = match format.quirks.exemplars {
        ExemplarSupport::Anywhere => true,
        ExemplarSupport::ByName => is_total || name.ends_with(Suffix::Bucket.as_str().as_bytes()),
        ExemplarSupport::ByType => kind == MetricType::Counter && is_total || is_bucket,
    };
    if !is_accepted {
        return false;
    }
    let labels = &line.exemplar_labels;
    let values = || labels.iter().map(|label| name::unescape(label.value.of(body)));
    let names = labels.iter().map(|label| label.name.decode(body));
    let n_characters: usize = names
        .chain(values())
        .map(|text| String::from_utf8_lossy(&text).chars().count())
        .sum();
    // A quoted name fails the scrape of Prometheus 2.
    let has_quoted_name = labels.iter().any(|label| label.name.quoted);
    // The Python parser fails on an escaped quote; Prometheus does not.
    let has_quote = values().any(|value| value.contains(&b'"'));
    n_characters <= MAX_LABEL_CHARACTERS
        && sample_line::find_twice(body, labels).is_none()
        && (format.quirks.is_prometheus || !has_quote)
        && (format.escaping == Escaping::AllowUtf8 || !has_quoted_name)
}

/// Writes a blank and the exemplar, byte for byte, apart from a trailing comma in its labels, on which Prometheus before
/// 2.51 fails.
pub(super) fn write(line: &SampleLine, body: &[u8], out: &mut Vec<u8>) {
    let Some(exemplar) = line.exemplar else {
        return;
    };
    out.push(b' ');
    let behind_last = line
        .exemplar_labels
        .last()
        .map(|label| label.value.end as usize + 1);
    match behind_last {
        Some(comma) if body.get(comma) == Some(&b',') => {
            out.extend_from_slice(&body[exemplar.start as usize..comma]);
            out.extend_from_slice(&body[comma + 1..exemplar.end as usize]);
        }
        _ => out.extend_from_slice(exemplar.of(body)),
    }
}
