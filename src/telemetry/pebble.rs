//! Layer, secret, identity.

use prometheus_client::registry::Registry;

/// Layer, secret, identity.
#[derive(Debug)]
pub struct PebbleMetrics {}

impl PebbleMetrics {
    pub(super) fn register(_registry: &mut Registry) -> Self {
        Self {}
    }
}
