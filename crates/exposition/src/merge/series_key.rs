//! Series as keys: equal for samples that a scraper stores in one series.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use super::family;
use crate::index::Run;
use crate::negotiate::{Format, OutputFormat};
use crate::relabel::{self, BoundChanges, Value};
use crate::syntax::number;
use crate::syntax::sample_line::SampleLine;
use crate::types::{MetricType, TypeContext};
use crate::{Exposition, Input};

/// A label of a series in the response: name and value.
type Label<'a> = (Cow<'a, [u8]>, Value<'a>);

/// A 128-bit key from two hashes with independent seeds. A collision among `n` series has a probability of about
/// n² / 2^129, so equality of keys is treated as equality of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey(u64, u64);

/// A map by series.
pub(super) type SeriesMap<T> = std::collections::HashMap<SeriesKey, T, foldhash::fast::RandomState>;

/// Makes keys. Keys of two makers cannot be compared.
#[derive(Debug, Default)]
pub(super) struct KeyMaker {
    first: foldhash::quality::RandomState,
    second: foldhash::quality::RandomState,
}

impl KeyMaker {
    /// The series as the scraper will store it: labels added, names escaped, bounds normalized (rule `duplicates`).
    pub(super) fn stored_series(
        &self,
        input: &Input,
        exposition: &Exposition,
        line: &SampleLine,
        run: &Run,
        format: &OutputFormat,
    ) -> SeriesKey {
        let bounds = BoundChanges {
            normalize: if format.quirks.normalizes_bounds {
                run.context
            } else {
                TypeContext::Other
            },
            sign_infinity: false,
        };
        let labels = relabel::relabel(&exposition.body, line, &input.labels, format, bounds);
        let name = family::output_name(input, &line.name.decode(&exposition.body), format);
        self.series(&name, labels)
    }

    /// The series that a target's `up` has in the response.
    pub(super) fn up_of(&self, input: &Input) -> SeriesKey {
        let labels = input.labels.iter().map(|(name, value)| {
            (
                Cow::Borrowed(name.as_bytes()),
                Value::Decoded(value.as_bytes().to_vec()),
            )
        });
        self.series(b"up", labels.collect())
    }

    fn series(&self, name: &[u8], mut labels: Vec<Label<'_>>) -> SeriesKey {
        // A label with an empty value is an absent label.
        labels.retain(|(_, value)| !value.decode().is_empty());
        self.of(name, labels)
    }

    /// The metric that a sample of an OpenMetrics family belongs to: its labels without the one that tells the samples
    /// of one metric apart. An empty label counts here, since the Python parser tells it from an absent one.
    pub(super) fn metric(&self, labels: Vec<Label<'_>>) -> SeriesKey {
        self.of(b"", labels)
    }

    fn of(&self, name: &[u8], mut labels: Vec<Label<'_>>) -> SeriesKey {
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        let decoded: Vec<(&[u8], Cow<'_, [u8]>)> = labels
            .iter()
            .map(|(name, value)| (&**name, value.decode()))
            .collect();
        let pieces =
            || std::iter::once(name).chain(decoded.iter().flat_map(|(name, value)| [*name, &**value]));
        let hash = |state: &foldhash::quality::RandomState| {
            let mut hasher = state.build_hasher();
            for piece in pieces() {
                hasher.write_usize(piece.len());
                hasher.write(piece);
            }
            hasher.finish()
        };
        SeriesKey(hash(&self.first), hash(&self.second))
    }
}

/// The label that tells the samples of one metric apart: `le` of a bucket, `quantile` of a summary's unsuffixed sample, the
/// state of a stateset. Empty for other samples, whatever their labels.
pub(super) fn distinguishing_label<'a>(kind: MetricType, family: &'a [u8], sample: &[u8]) -> &'a [u8] {
    match kind {
        MetricType::Histogram | MetricType::GaugeHistogram
            if sample.strip_prefix(family) == Some(b"_bucket") =>
        {
            b"le"
        }
        MetricType::Summary if sample == family => b"quantile",
        MetricType::StateSet if sample == family => family,
        _ => b"",
    }
}

/// The response format cannot hold a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOutOfRange;

/// A sample's timestamp in milliseconds, as the scraper will read it.
pub(super) fn sample_time(
    exposition: &Exposition,
    line: &SampleLine,
    format: &OutputFormat,
) -> Result<Option<i64>, TimeOutOfRange> {
    let Some(span) = line.timestamp else {
        return Ok(None);
    };
    let token = span.of(&exposition.body);
    match (exposition.open_metrics, format.format) {
        (false, _) => Ok(number::parse_millis(token)),
        (true, Format::Text) => number::seconds_to_millis(token).map(Some).ok_or(TimeOutOfRange),
        (true, Format::OpenMetrics) => Ok(Some(number::seconds_to_millis_saturating(token))),
    }
}
