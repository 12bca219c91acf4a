//! Fan-out, merge and the answers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A reason, as a stable word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

/// An answer's path and status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route, never the raw path.
    pub handler: &'static str,
    /// The status code.
    pub code: u16,
}

/// Fan-out, merge and the answers.
#[derive(Debug)]
pub struct ScrapeMetrics {
    /// Answers by route and status.
    pub requests: Family<Request, Counter>,
    /// Requests for /metrics whose client went away before the answer was whole.
    pub cancelled: Counter,
    /// Time from the request for /metrics to the start of its answer, in seconds.
    pub fan_out_seconds: Histogram,
    /// Time to merge and hand over an answer, in seconds.
    pub write_seconds: Histogram,
    /// Failed scrapes of targets by reason.
    pub failures: Family<Reason, Counter>,
    /// Good scrapes of targets.
    pub successes: Counter,
    /// Requests for /metrics under way.
    pub in_flight: Gauge,
    /// Bytes of target bodies in the latest answer.
    pub body_bytes: Gauge,
    /// Samples of targets in the latest answer, before duplicates were dropped.
    pub samples: Gauge,
    /// Samples dropped because an equal series came first.
    pub duplicates: Counter,
    /// Disagreements between targets in the latest answer, by kind.
    pub conflicts: Family<Reason, Gauge>,
}

impl ScrapeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let seconds = [
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let metrics = Self {
            requests: Family::default(),
            cancelled: Counter::default(),
            fan_out_seconds: Histogram::new(seconds),
            write_seconds: Histogram::new(seconds),
            failures: Family::default(),
            successes: Counter::default(),
            in_flight: Gauge::default(),
            body_bytes: Gauge::default(),
            samples: Gauge::default(),
            duplicates: Counter::default(),
            conflicts: Family::default(),
        };
        registry.register(
            "http_requests",
            "Answers by handler and status code",
            metrics.requests.clone(),
        );
        registry.register(
            "cancelled_requests",
            "Requests for /metrics whose client went away before the answer was whole",
            metrics.cancelled.clone(),
        );
        registry.register_with_unit(
            "fan_out_duration",
            "Time from a request for /metrics to the start of its answer",
            Unit::Seconds,
            metrics.fan_out_seconds.clone(),
        );
        registry.register_with_unit(
            "write_duration",
            "Time to merge and hand over an answer",
            Unit::Seconds,
            metrics.write_seconds.clone(),
        );
        registry.register(
            "target_scrape_failures",
            "Failed scrapes of targets by reason",
            metrics.failures.clone(),
        );
        registry.register(
            "target_scrape_successes",
            "Good scrapes of targets",
            metrics.successes.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests for /metrics under way",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "answer_body",
            "Bytes of target bodies in the latest answer",
            Unit::Bytes,
            metrics.body_bytes.clone(),
        );
        registry.register(
            "answer_samples",
            "Samples of targets in the latest answer",
            metrics.samples.clone(),
        );
        registry.register(
            "duplicate_samples",
            "Samples dropped because an equal series came first",
            metrics.duplicates.clone(),
        );
        registry.register(
            "merge_conflicts",
            "Disagreements between targets in the latest answer by kind",
            metrics.conflicts.clone(),
        );
        metrics
    }
}
