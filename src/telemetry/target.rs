//! Gauges of each target, written for one response only.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What one response says about one target.
#[derive(Debug, Clone)]
pub struct TargetSample {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The URL without its query, which may hold secrets.
    pub url: String,
    /// How long the scrape took.
    pub duration_seconds: f64,
    /// Samples of the body, before duplicates were dropped.
    pub n_samples: usize,
    /// Size of the body after decompression.
    pub body_bytes: usize,
    /// Why the scrape failed, as a stable word.
    pub down: Option<&'static str>,
}

/// One row of the table below.
struct Declaration {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    value: fn(&TargetSample) -> f64,
}

const GAUGES: [Declaration; 3] = [
    Declaration {
        name: "target_duration",
        unit: Some(Unit::Seconds),
        help: "Duration of the scrape of a target in this response",
        value: |target| target.duration_seconds,
    },
    Declaration {
        name: "target_samples",
        unit: None,
        help: "Samples of a target in this response, before duplicates are dropped",
        value: |target| target.n_samples as f64,
    },
    Declaration {
        name: "target_body",
        unit: Some(Unit::Bytes),
        help: "Size of a target's body in this response, after decompression",
        value: |target| target.body_bytes as f64,
    },
];

/// The targets of one response.
#[derive(Debug)]
pub(super) struct TargetSamples(pub(super) Vec<TargetSample>);

impl Collector for TargetSamples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for gauge in GAUGES {
            let mut family =
                encoder.encode_descriptor(gauge.name, gauge.help, gauge.unit.as_ref(), MetricType::Gauge)?;
            for target in &self.0 {
                ConstGauge::new((gauge.value)(target)).encode(family.encode_family(&labels(target))?)?;
            }
        }
        self.encode_down(&mut encoder)
    }
}

impl TargetSamples {
    /// One series for each failing target, and none for the others: the number of series stays small.
    fn encode_down(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut failing = self
            .0
            .iter()
            .filter_map(|target| Some((target, target.down?)))
            .peekable();
        if failing.peek().is_none() {
            return Ok(());
        }
        let help = "1 for each target whose scrape failed in this response, with the reason";
        let mut family = encoder.encode_descriptor("target_down", help, None, MetricType::Gauge)?;
        for (target, reason) in failing {
            let [namespace, pod, url] = labels(target);
            let labels = [namespace, pod, url, ("reason", reason)];
            ConstGauge::new(1).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn labels(target: &TargetSample) -> [(&'static str, &str); 3] {
    [
        ("namespace", &target.namespace),
        ("pod", &target.pod),
        ("url", &target.url),
    ]
}
