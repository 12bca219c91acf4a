//! Metrics of discovery and sharding.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::macros::{labels, metrics};
use super::{Reason, State};

labels! {
    /// How pods are read.
    pub(crate) struct Mode {
        /// `cluster_watch`, `cluster_list`, `namespace_watch`, `namespace_list`, `files`, `refused` or `none`.
        mode: &'static str,
    }
    /// What happened to a pod.
    pub(crate) struct EventType {
        /// `apply` or `delete`.
        event: &'static str,
    }
    /// How a complete list of pods was read.
    pub(crate) struct Method {
        /// `stream`, `list` or `files`.
        method: &'static str,
    }
    /// A kind of request.
    pub(crate) struct Verb {
        /// `list`, `watch`, `get` or `review`.
        verb: &'static str,
    }
}

metrics! {
    /// Pods and targets.
    pub(crate) struct PodMetrics {
        modes: Family<Mode, Gauge> = "discovery_mode", "Sources of pods by the way in which they are read";
        mode_changes: Counter = "discovery_mode_changes", "Changes of the way in which pods are read";
        synced: Gauge = "discovery_synced", "1 when the pod list has synced and may be read";
        pods: Gauge = "discovery_pods", "Selected pods";
        targets: Gauge = "discovery_targets", "Targets of the selected pods";
        skipped: Family<Reason, Gauge> = "discovery_skipped", "Selected pods, or entries of their annotations, that are not scraped";
        events: Family<EventType, Counter> = "discovery_events", "Changes of pods reported by the API server";
        syncs: Family<Method, Counter> = "discovery_syncs", "Complete lists of pods read";
        requests: Family<Verb, Counter> = "discovery_requests", "Requests to the API server";
        failures: Family<Reason, Counter> = "discovery_failures", "Failed requests to the API server, and unreadable files";
        builds: Counter = "discovery_builds", "Target sets built";
        build_seconds: Counter<f64, AtomicU64> = "discovery_build" in Seconds, "Time spent on building target sets";
    }
}

metrics! {
    /// This shard's part of the pods.
    pub struct ShardMetrics {
        index: Gauge = "shard_index", "Index of this shard, from 0";
        shards: Gauge = "shards", "Shards that divide the pods among themselves; 0 without sharding";
        pods: Family<State, Gauge> = "shard_pods", "Selected pods of this shard, and pods kept until the next shard is ready";
        handovers: Family<Reason, Counter> = "shard_handovers", "Pods handed over to another shard, because it was ready or because the longest wait was over";
    }
}

impl ShardMetrics {
    /// Creates the series with the value 0: a series that appears with its first event shows no increase.
    fn initialize(&self) {
        for state in ["own", "handover"] {
            let _ = self.pods.get_or_create(&State { state });
        }
        for reason in ["ready", "timeout"] {
            let _ = self.handovers.get_or_create(&Reason { reason });
        }
    }

    /// Sets the shard's index and total, and the number of its pods and of those that it still keeps for others.
    pub fn set(&self, share: &crate::targets::ShardAssignment, own: usize, held: usize) {
        self.index.set(i64::from(share.index()));
        self.shards.set(i64::from(share.total()));
        for (state, count) in [("own", own), ("handover", held)] {
            self.pods.get_or_create(&State { state }).set(gauge(count));
        }
    }

    /// Counts a pod that was kept for another shard and is no longer.
    pub fn given_up(&self, owner_is_ready: bool) {
        let reason = if owner_is_ready { "ready" } else { "timeout" };
        self.handovers.get_or_create(&Reason { reason }).inc();
    }
}

/// When each source was last confirmed. A collector, so that the age is right at the moment of the scrape.
#[derive(Debug, Default)]
struct Ages {
    confirmed: Mutex<BTreeMap<usize, Instant>>,
}

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let oldest = self
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .min()
            .copied();
        let Some(oldest) = oldest else {
            return Ok(());
        };
        let gauge = ConstGauge::new(oldest.elapsed().as_secs_f64());
        let encoder = encoder.encode_descriptor(
            "discovery_age",
            "Time since the target set was last confirmed; up to a minute when nothing changes",
            Some(&Unit::Seconds),
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

/// Pods, targets and this shard's part of them.
#[derive(Debug)]
pub struct DiscoveryMetrics {
    pods: PodMetrics,
    ages: Arc<Ages>,
    /// This shard's part of the pods.
    pub shard: ShardMetrics,
}

impl DiscoveryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let ages = Arc::new(Ages::default());
        registry.register_collector(Box::new(Arc::clone(&ages)));
        let shard = ShardMetrics::register(registry);
        shard.initialize();
        Self {
            pods: PodMetrics::register(registry),
            ages,
            shard,
        }
    }

    /// Records when a source was last confirmed.
    pub fn confirmed(&self, source: usize, at: Instant) {
        self.ages
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(source, at);
    }

    /// Records a new target set: its size, what it skipped by reason, and the time that building it took.
    pub fn built(&self, set: &crate::targets::TargetSet, seconds: f64) {
        self.pods.builds.inc();
        self.pods.build_seconds.inc_by(seconds);
        self.pods.pods.set(gauge(set.n_pods));
        self.pods.targets.set(gauge(set.targets.len()));
        let mut reasons: BTreeMap<&'static str, usize> = BTreeMap::new();
        for skipped in &set.skipped {
            *reasons.entry(skipped.reason.as_str()).or_default() += 1;
        }
        self.pods.skipped.clear();
        for (reason, count) in reasons {
            self.pods
                .skipped
                .get_or_create(&Reason { reason })
                .set(gauge(count));
        }
    }

    /// Sets how each source of pods is read now.
    pub fn set_modes(&self, modes: impl IntoIterator<Item = &'static str>) {
        self.pods.modes.clear();
        for mode in modes {
            self.pods.modes.get_or_create(&Mode { mode }).inc();
        }
    }

    /// Counts a change of the way in which pods are read.
    pub fn mode_changed(&self) {
        self.pods.mode_changes.inc();
    }

    /// Sets whether a complete set is in use.
    pub fn set_synced(&self, synced: bool) {
        self.pods.synced.set(i64::from(synced));
    }

    /// Counts changes of pods, `apply` or `delete`.
    pub fn events(&self, event: &'static str, count: u64) {
        self.pods.events.get_or_create(&EventType { event }).inc_by(count);
    }

    /// Counts a request to the API server.
    pub fn request(&self, verb: &'static str) {
        self.pods.requests.get_or_create(&Verb { verb }).inc();
    }

    /// Counts a failure.
    pub fn failure(&self, reason: &'static str) {
        self.pods.failures.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a complete list of pods.
    pub fn sync(&self, method: &'static str) {
        self.pods.syncs.get_or_create(&Method { method }).inc();
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
