//! The order of a family's samples in OpenMetrics (rule `metric-order`).
//!
//! OpenMetrics wants the samples of a metric together and its buckets ascending. Nearly every exporter writes them so, and
//! [`is_in_order`] sees that by comparing bytes. What it cannot prove goes to [`sort_samples`], which parses each line and
//! costs about twenty times as much.

use std::cmp::Ordering;

use super::duplicates::Domains;
use super::family::{self, Contribution, OutputFamily};
use super::in_order::is_in_order;
use super::plan::Plan;
use super::series_key::{KeyMaker, SeriesKey, SeriesMap, distinguishing_label, sample_time};
use super::source;
use crate::Input;
use crate::cancel::{Cancel, Cancelled};
use crate::negotiate::OutputFormat;
use crate::relabel::{self, BoundChanges};
use crate::syntax::number;
use crate::syntax::sample_line::SampleLine;
use crate::types::{MetricType, Suffix};

/// The order in which the samples of some contributions to a family are written, where it is not that of the bodies.
#[derive(Debug)]
pub(crate) struct ExplicitOrder {
    /// The family, by its position in the plan.
    pub(crate) family: usize,
    /// The first of the contributions, by its position in the plan.
    pub(crate) first: usize,
    pub(crate) n_contributions: usize,
    pub(crate) samples: Vec<SamplePosition>,
}

/// Where a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SamplePosition {
    /// The contribution, counted from the first one of the order.
    pub(crate) contribution: u32,
    /// The run, by its position in the run order of the index.
    pub(crate) run: u32,
    pub(crate) sample: u32,
}

/// Brings the contributions that may hold the same metric together in each family, and finds out which of them must be
/// written in another order.
pub(super) fn order_metrics(
    inputs: &[Input],
    domains: &Domains,
    plan: &mut Plan,
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Vec<ExplicitOrder>, Cancelled> {
    let mut orders = Vec::new();
    for family in 0..plan.families.len() {
        cancel.check_at(family)?;
        let range = plan.families[family].contributions.clone();
        // Domains are numbered by their first input, so that only inputs which share one are moved.
        plan.contributions[range.clone()].sort_by_key(|contribution| domains.of(contribution.input));
        let mut first = range.start;
        let same_domain = |a: &Contribution, b: &Contribution| domains.of(a.input) == domains.of(b.input);
        for contributions in plan.contributions[range].chunk_by(same_domain) {
            if let Some(samples) = metric_order(
                inputs,
                plan,
                &plan.families[family],
                contributions,
                format,
                cancel,
            )? {
                orders.push(ExplicitOrder {
                    family,
                    first,
                    n_contributions: contributions.len(),
                    samples,
                });
            }
            first += contributions.len();
        }
    }
    Ok(orders)
}

/// The order of the samples of these contributions; `None` if they can be written as they are.
fn metric_order(
    inputs: &[Input],
    plan: &Plan,
    family: &OutputFamily,
    contributions: &[Contribution],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Option<Vec<SamplePosition>>, Cancelled> {
    if let [contribution] = contributions
        && is_in_order(&inputs[contribution.input as usize], family.kind, contribution)
    {
        return Ok(None);
    }
    sort_samples(inputs, plan, family, contributions, format, cancel)
}

/// Where a sample stands among the samples of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey {
    /// Metrics are numbered in the order of their first samples.
    metric: u32,
    /// Milliseconds. A sample without a timestamp stays behind the one before it in its metric.
    time: i64,
    rank: Rank,
}

impl SortKey {
    /// The point of a metric that the sample belongs to.
    fn point(&self) -> (u32, i64) {
        (self.metric, self.time)
    }
}

/// Where a sample stands within its metric. Samples of one rank keep their order.
#[derive(Debug, Clone, Copy)]
enum Rank {
    /// A bucket, by its bound, which is not NaN. In other families all samples have one bound.
    Bucket(f64),
    /// The sum and the count of a histogram.
    AfterBuckets,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bucket(a), Self::Bucket(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Self::Bucket(_), Self::AfterBuckets) => Ordering::Less,
            (Self::AfterBuckets, Self::Bucket(_)) => Ordering::Greater,
            (Self::AfterBuckets, Self::AfterBuckets) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

/// Whether the samples of a family can come in a wrong order at all.
fn needs_order(inputs: &[Input], kind: MetricType, contributions: &[Contribution]) -> bool {
    let has_bounds = matches!(
        kind,
        MetricType::Histogram | MetricType::GaugeHistogram | MetricType::Summary | MetricType::StateSet
    );
    let may_be_split = |contribution: &Contribution| {
        let exposition = inputs[contribution.input as usize].exposition.as_ref();
        exposition.is_some_and(|exposition| {
            exposition.index.uncertain || contribution.all_suffixes.has(Suffix::Created)
        })
    };
    has_bounds || contributions.len() > 1 || contributions.iter().any(may_be_split)
}

/// Finds the order by parsing each line; `None` if the samples can be written as they are.
pub(super) fn sort_samples(
    inputs: &[Input],
    plan: &Plan,
    family: &OutputFamily,
    contributions: &[Contribution],
    format: &OutputFormat,
    cancel: Cancel<'_>,
) -> Result<Option<Vec<SamplePosition>>, Cancelled> {
    if !needs_order(inputs, family.kind, contributions) {
        return Ok(None);
    }
    let family_name = plan.names.get(family.name);
    let keys = KeyMaker::default();
    let mut line = SampleLine::default();
    let mut metrics = Metrics::default();
    let mut samples: Vec<(SortKey, SamplePosition)> = Vec::new();
    for (contribution_id, contribution) in (0_u32..).zip(contributions) {
        let input = &inputs[contribution.input as usize];
        source::visit_samples(input, contribution, &mut line, cancel, |visited, line| {
            let body = &visited.exposition.body;
            let mut labels = relabel::relabel(body, line, &input.labels, format, BoundChanges::default());
            let name = family::output_name(input, &line.name.decode(body), format);
            let own = distinguishing_label(family.kind, family_name, &name);
            let mut bound = None;
            labels.retain(|(name, value)| {
                let is_bound = **name == *own;
                if is_bound {
                    bound = Some(number::parse_float(&value.decode()).unwrap_or(f64::INFINITY));
                }
                !is_bound
            });
            let time = sample_time(visited.exposition, line, format).ok().flatten();
            let (metric, time) = metrics.add(keys.metric(labels), time);
            let rank = rank(family.kind, bound);
            let position = SamplePosition {
                contribution: contribution_id,
                run: visited.run_position,
                sample: visited.id,
            };
            samples.push((SortKey { metric, time, rank }, position));
            true
        })?;
    }
    if let [_] = contributions
        && is_sorted(&samples)
    {
        return Ok(None);
    }
    // The sort of all finds the sorted pieces and merges them, which takes a fraction of the time.
    for piece in samples.chunks_mut(SORTED_PIECE) {
        cancel.check()?;
        piece.sort_by_key(|(key, _)| *key);
    }
    samples.sort_by_key(|(key, _)| *key);
    Ok(Some(samples.into_iter().map(|(_, position)| position).collect()))
}

/// Samples that are sorted between two looks at the cancellation.
const SORTED_PIECE: usize = 1 << 16;

/// The metrics of a family: their numbers, and the time of their last samples.
#[derive(Default)]
struct Metrics(SeriesMap<(u32, i64)>);

impl Metrics {
    /// The number of a metric, and the time by which its next sample is sorted.
    fn add(&mut self, metric: SeriesKey, time: Option<i64>) -> (u32, i64) {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let (number, last) = self.0.entry(metric).or_insert((next, i64::MIN));
        *last = time.unwrap_or(*last);
        (*number, *last)
    }
}

fn rank(kind: MetricType, bound: Option<f64>) -> Rank {
    match (kind, bound) {
        (MetricType::Histogram | MetricType::GaugeHistogram, Some(bound)) if !bound.is_nan() => {
            Rank::Bucket(bound)
        }
        (MetricType::Histogram | MetricType::GaugeHistogram, _) => Rank::AfterBuckets,
        // Quantiles and states keep the order in which the target writes them.
        _ => Rank::Bucket(0.0),
    }
}

/// Whether the samples can be written as they are: metric by metric, and the buckets of each ascending. The sum and the
/// count may also stand before the buckets or between them.
fn is_sorted(samples: &[(SortKey, SamplePosition)]) -> bool {
    let buckets = samples
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.rank != Rank::AfterBuckets);
    samples.is_sorted_by_key(|(key, _)| key.point()) && buckets.is_sorted()
}
