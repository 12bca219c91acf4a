//! Fan-out and merge.

use prometheus_client::registry::Registry;

/// Fan-out and merge.
#[derive(Debug)]
pub struct ScrapeMetrics {}

impl ScrapeMetrics {
    pub(super) fn register(_registry: &mut Registry) -> Self {
        Self {}
    }
}
