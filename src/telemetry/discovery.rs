//! Pods and rights.

use prometheus_client::registry::Registry;

/// Pods and rights.
#[derive(Debug)]
pub struct DiscoveryMetrics {}

impl DiscoveryMetrics {
    pub(super) fn register(_registry: &mut Registry) -> Self {
        Self {}
    }
}
