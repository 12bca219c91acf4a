//! Logging and the proxy's own metrics (leaf).
//!
//! Each part of the shell owns one struct of metrics here; [`Telemetry::encode`] writes them all as OpenMetrics text, which
//! the merge takes as one more exposition. A metric is declared in one row, see [`macros`].

mod discovery;
mod macros;
mod pebble;
mod process;
mod scrape;
mod target;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use discovery::DiscoveryMetrics;
pub use pebble::{IdentityState, LayerState, PebbleMetrics};
pub use scrape::{Reason, Request, ScrapeMetrics};
pub use target::TargetSample;
use target::TargetSamples;

use crate::config::Log;

macros::labels! {
    /// A state, as a stable word.
    pub(crate) struct State {
        /// The word.
        state: &'static str,
    }
}

/// The prefix of every metric of the proxy's own.
const PREFIX: &str = "metrics_proxy";

/// All metrics of the proxy's own.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    /// Scrapes, merges and responses.
    pub scrape: ScrapeMetrics,
    /// Pods, targets and shards.
    pub discovery: DiscoveryMetrics,
    /// Pebble, the secret and the identity.
    pub pebble: PebbleMetrics,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "build",
            "The running build",
            Info::new(vec![("version", crate::VERSION)]),
        );
        registry.register_collector(Box::new(process::Process::default()));
        let pebble = PebbleMetrics::register(&mut registry);
        pebble.initialize();
        Self {
            scrape: ScrapeMetrics::register(&mut registry),
            discovery: DiscoveryMetrics::register(&mut registry),
            pebble,
            registry,
        }
    }
}

impl Telemetry {
    /// Writes all metrics as OpenMetrics 1.0 text, `# EOF` included.
    pub fn encode(&self) -> String {
        self.encode_with_targets(Vec::new())
    }

    /// The same, with the gauges of each target of a response.
    pub fn encode_with_targets(&self, targets: Vec<TargetSample>) -> String {
        let mut text = String::new();
        // The registry of the targets lives for this response only, so that a removed target leaves no series behind.
        let mut of_targets = Registry::with_prefix(PREFIX);
        if !targets.is_empty() {
            of_targets.register_collector(Box::new(TargetSamples(targets)));
        }
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &of_targets))
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to a String does not fail");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(pod: &str, down: Option<&'static str>) -> TargetSample {
        TargetSample {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            url: "http://10.0.0.1:80/metrics".to_owned(),
            duration_seconds: 0.25,
            n_samples: 3,
            body_bytes: 120,
            down,
        }
    }

    #[test]
    fn each_target_has_its_gauges_and_a_failing_one_its_reason() {
        let text = Telemetry::default()
            .encode_with_targets(vec![target("a\"\\\n", None), target("b", Some("status"))]);
        let labels = "namespace=\"shop\",pod=\"a\\\"\\\\\\n\",url=\"http://10.0.0.1:80/metrics\"";
        for line in [
            &format!("metrics_proxy_target_duration_seconds{{{labels}}} 0.25\n"),
            &format!("metrics_proxy_target_body_bytes{{{labels}}} 120.0\n"),
            "metrics_proxy_target_down{namespace=\"shop\",pod=\"b\",url=\"http://10.0.0.1:80/metrics\",reason=\"status\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(text.matches("metrics_proxy_target_down{").count(), 1, "{text}");
        assert!(text.ends_with("# EOF\n"));
        assert!(
            !Telemetry::default()
                .encode()
                .contains("metrics_proxy_target_duration")
        );
    }

    #[test]
    fn every_metric_is_in_the_reference_page_with_its_help() {
        let page = include_str!("../docs/reference/metrics.md");
        let declared = [
            ScrapeMetrics::DECLARED,
            discovery::PodMetrics::DECLARED,
            discovery::ShardMetrics::DECLARED,
            PebbleMetrics::DECLARED,
        ];
        for (name, help) in declared.into_iter().flatten() {
            let row = page
                .lines()
                .find(|line| {
                    line.strip_prefix("| `metrics_proxy_")
                        .and_then(|rest| rest.strip_prefix(name))
                        .is_some_and(|rest| {
                            [
                                "`",
                                "{",
                                "_total`",
                                "_total{",
                                "_seconds`",
                                "_seconds_total`",
                                "_bytes`",
                            ]
                            .iter()
                            .any(|end| rest.starts_with(end))
                        })
                })
                .unwrap_or_else(|| panic!("metrics_proxy_{name} is not in docs/reference/metrics.md"));
            assert!(
                row.contains(help),
                "the page does not repeat the help of {name}: {help}"
            );
        }
    }
}
