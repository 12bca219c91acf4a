//! Logging set-up and our own metrics (leaf).
//!
//! Each part of the shell owns one struct of metrics here; [`Telemetry::encode`] writes them all as OpenMetrics text,
//! which the merge takes as one more exposition.

mod discovery;
mod pebble;
mod scrape;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use discovery::DiscoveryMetrics;
pub use pebble::{IdentityState, LayerState, PebbleMetrics};
pub use scrape::{Reason, Request, ScrapeMetrics};

use crate::config::Log;

/// All of our own metrics, under the prefix `metrics_proxy_`.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    /// Fan-out and merge.
    pub scrape: ScrapeMetrics,
    /// Pods and rights.
    pub discovery: DiscoveryMetrics,
    /// Layer, secret, identity.
    pub pebble: PebbleMetrics,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("metrics_proxy");
        registry.register(
            "build",
            "The running build",
            Info::new(vec![("version", crate::VERSION)]),
        );
        Self {
            scrape: ScrapeMetrics::register(&mut registry),
            discovery: DiscoveryMetrics::register(&mut registry),
            pebble: PebbleMetrics::register(&mut registry),
            registry,
        }
    }
}

impl Telemetry {
    /// Writes all of our metrics as OpenMetrics 1.0 text, `# EOF` included.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

/// The Kubernetes client logs `ERROR failed with error client error (Connect)` for every failed request, without the
/// server's address, the cause or a remedy. Discovery logs one sentence with all three when the state changes, so these
/// lines are left out whatever filter is asked for.
const UNNAMED_CLIENT_ERRORS: &str = "kube_client::client::builder=off";

/// Sends log lines to standard error. Meant to be called once.
///
/// # Errors
/// The filter's own words where it is none, or where logging was set up before.
pub fn start_logging(log: &Log) -> Result<(), String> {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::builder()
        .parse(&log.filter)
        .map_err(|e| e.to_string())?
        .add_directive(
            UNNAMED_CLIENT_ERRORS
                .parse()
                .map_err(|_| "a bug in the program's own filter")?,
        );
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would say on standard error that standard error is closed, and panic over it: a Pebble that was killed
        // leaves us so.
        .log_internal_errors(false);
    if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(false).try_init()
    }
    .map_err(|e| e.to_string())
}
