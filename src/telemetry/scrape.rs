//! Metrics of scrapes, merges and responses.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::macros::{labels, metrics};

labels! {
    /// A reason, as a stable word.
    pub struct Reason {
        /// The word.
        reason: &'static str,
    }
    /// A response's route and status.
    pub struct Request {
        /// The route, never the raw path.
        handler: &'static str,
        /// The status code.
        code: u16,
    }
}

/// Upper bounds of the buckets for the parts of a scrape, in seconds.
const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

metrics! {
    /// Scrapes, merges and responses.
    pub struct ScrapeMetrics {
        pub requests: Family<Request, Counter> = "http_requests", "HTTP responses";
        pub cancelled: Counter = "cancelled_requests", "Requests for /metrics whose client disconnected before the response was complete";
        pub fan_out_seconds: Histogram = "fan_out_duration" in Seconds, "Time from a request for /metrics to the start of its response" = Histogram::new(SECONDS);
        pub write_seconds: Histogram = "write_duration" in Seconds, "Time to merge and send a response" = Histogram::new(SECONDS);
        pub failures: Family<Reason, Counter> = "target_scrape_failures", "Failed scrapes of targets";
        pub successes: Counter = "target_scrape_successes", "Successful scrapes of targets";
        pub connections: Gauge = "connections", "Open connections when the latest one was accepted";
        pub connections_closed: Family<Reason, Counter> = "connection_limit_reached", "New connections for which another one was closed, or that were refused";
        pub in_flight: Gauge = "requests_in_flight", "Requests for /metrics in progress";
        pub body_bytes: Gauge = "response_body" in Bytes, "Size of the target bodies in the latest response";
        pub samples: Gauge = "response_samples", "Samples of targets in the latest response";
        pub duplicates: Counter = "duplicate_samples", "Samples dropped because an equal series came before them in the response";
        pub conflicts: Family<Reason, Gauge> = "merge_conflicts", "Metric families on which targets disagreed in the latest response";
    }
}
