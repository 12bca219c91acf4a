//! Pods and rights.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

/// Pods and rights.
#[derive(Debug)]
pub struct DiscoveryMetrics {
    /// Sources of pods by the way they are read now.
    modes: Family<Mode, Gauge>,
    /// Whether the set was ever complete, and discovery is not refused.
    synced: Gauge,
    /// Selected pods.
    pods: Gauge,
    /// Targets.
    targets: Gauge,
    /// Selected pods, or entries of their lists, that are not scraped.
    skipped: Family<Kind, Gauge>,
    /// Changes of pods that the API server told.
    events: Family<EventType, Counter>,
    /// Whole sets read, by how.
    syncs: Family<How, Counter>,
    /// Failures of requests for pods.
    failures: Family<Reason, Counter>,
    /// Requests to the API server.
    requests: Family<Verb, Counter>,
    /// Times that the way of reading pods changed.
    mode_changes: Counter,
    /// Times that the target set was made anew.
    builds: Counter,
    /// Seconds spent on that.
    build_seconds: Counter<f64, AtomicU64>,
    ages: std::sync::Arc<Ages>,
    /// Our share of the pods.
    pub shard: ShardMetrics,
}

/// Our share of the pods.
#[derive(Debug)]
pub struct ShardMetrics {
    index: Gauge,
    units: Gauge,
    pods: Family<ShardState, Gauge>,
    given_up: Family<Why, Counter>,
}

/// How a pod is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardState {
    /// `own` or `held`.
    state: &'static str,
}

/// Why a pod was given up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    /// `ready` or `timeout`.
    why: &'static str,
}

impl ShardMetrics {
    fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("shard");
        let metrics = Self {
            index: Gauge::default(),
            units: Gauge::default(),
            pods: Family::default(),
            given_up: Family::default(),
        };
        registry.register("index", "The number of this unit, from 0", metrics.index.clone());
        registry.register(
            "units",
            "Units that share the pods; 0 where this one serves all",
            metrics.units.clone(),
        );
        registry.register(
            "pods",
            "Selected pods of our own share, and those held for a unit that may not be ready",
            metrics.pods.clone(),
        );
        registry.register(
            "given_up",
            "Held pods given up because their new unit is ready, or after the longest wait",
            metrics.given_up.clone(),
        );
        // There from the start: what appears with its first event has no increase to show.
        for state in ["own", "held"] {
            let _ = metrics.pods.get_or_create(&ShardState { state });
        }
        for why in ["ready", "timeout"] {
            let _ = metrics.given_up.get_or_create(&Why { why });
        }
        metrics
    }

    /// Tells the share, and how many pods are ours and held.
    pub fn set(&self, share: &crate::targets::ShardAssignment, own: usize, held: usize) {
        self.index.set(i64::from(share.index()));
        self.units.set(i64::from(share.total()));
        for (state, count) in [("own", own), ("held", held)] {
            self.pods.get_or_create(&ShardState { state }).set(gauge(count));
        }
    }

    /// Counts a pod that was held and is not any more.
    pub fn given_up(&self, owner_is_ready: bool) {
        let why = if owner_is_ready { "ready" } else { "timeout" };
        self.given_up.get_or_create(&Why { why }).inc();
    }
}

/// The way pods are read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mode {
    /// `cluster_watch`, `cluster_list`, `namespace_watch`, `namespace_list`, `files`, `refused` or `none`.
    mode: &'static str,
}

/// The stable word of a reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    /// As in `docs/reference/annotations.md`.
    kind: &'static str,
}

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventType {
    /// `apply` or `delete`.
    event: &'static str,
}

/// How a whole set was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    /// `stream`, `list` or `files`.
    how: &'static str,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    /// `forbidden`, `unauthorized`, `gone`, `unreachable`, `timeout`, `refused` or `files`.
    reason: &'static str,
}

/// A kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    /// `list`, `watch` or `review`.
    verb: &'static str,
}

/// When each source was last known to be right, so that its age is right at the moment of the scrape.
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
            "Time since the target set was last confirmed; up to a minute where nothing changes",
            Some(&Unit::Seconds),
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

impl DiscoveryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry_of_all = registry;
        let ages = std::sync::Arc::new(Ages::default());
        registry_of_all.register_collector(Box::new(std::sync::Arc::clone(&ages)));
        let shard = ShardMetrics::register(registry_of_all);
        let registry = registry_of_all.sub_registry_with_prefix("discovery");
        let metrics = Self {
            modes: Family::default(),
            synced: Gauge::default(),
            pods: Gauge::default(),
            targets: Gauge::default(),
            skipped: Family::default(),
            events: Family::default(),
            syncs: Family::default(),
            failures: Family::default(),
            requests: Family::default(),
            mode_changes: Counter::default(),
            builds: Counter::default(),
            build_seconds: Counter::default(),
            ages,
            shard,
        };
        registry.register(
            "mode",
            "Sources of pods by the way they are read now",
            metrics.modes.clone(),
        );
        registry.register(
            "synced",
            "1 where the target set has been complete and discovery is not refused",
            metrics.synced.clone(),
        );
        registry.register("pods", "Selected pods", metrics.pods.clone());
        registry.register("targets", "Targets of the selected pods", metrics.targets.clone());
        registry.register(
            "skipped",
            "Selected pods, or entries of their lists, that are not scraped, by reason",
            metrics.skipped.clone(),
        );
        registry.register(
            "events",
            "Changes of pods told by the API server",
            metrics.events.clone(),
        );
        registry.register("syncs", "Whole sets of pods read", metrics.syncs.clone());
        registry.register(
            "failures",
            "Failed requests for pods, and unreadable files",
            metrics.failures.clone(),
        );
        registry.register("requests", "Requests to the API server", metrics.requests.clone());
        registry.register(
            "mode_changes",
            "Changes of the way pods are read",
            metrics.mode_changes.clone(),
        );
        registry.register(
            "builds",
            "Times that the target set was made",
            metrics.builds.clone(),
        );
        registry.register_with_unit(
            "build",
            "Time spent making target sets",
            Unit::Seconds,
            metrics.build_seconds.clone(),
        );
        metrics
    }

    /// Notes when a source was last known to be right.
    pub fn confirmed(&self, source: usize, at: Instant) {
        self.ages
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(source, at);
    }

    /// Tells the size of a new set, what it left out by reason, and what making it took.
    pub fn built(&self, set: &crate::targets::TargetSet, seconds: f64) {
        self.builds.inc();
        self.build_seconds.inc_by(seconds);
        self.pods.set(gauge(set.n_pods));
        self.targets.set(gauge(set.targets.len()));
        let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
        for skipped in &set.skipped {
            *kinds.entry(skipped.reason.as_str()).or_default() += 1;
        }
        self.skipped.clear();
        for (kind, count) in kinds {
            self.skipped.get_or_create(&Kind { kind }).set(gauge(count));
        }
    }

    /// Tells how each source of pods is read now.
    pub fn set_modes(&self, modes: impl IntoIterator<Item = &'static str>) {
        self.modes.clear();
        for mode in modes {
            self.modes.get_or_create(&Mode { mode }).inc();
        }
    }

    /// Counts a change of the way pods are read.
    pub fn mode_changed(&self) {
        self.mode_changes.inc();
    }

    /// Tells whether a complete set is in use.
    pub fn set_synced(&self, synced: bool) {
        self.synced.set(i64::from(synced));
    }

    /// Counts changes of pods, `apply` or `delete`.
    pub fn events(&self, event: &'static str, count: u64) {
        self.events.get_or_create(&EventType { event }).inc_by(count);
    }

    /// Counts a request to the API server.
    pub fn request(&self, verb: &'static str) {
        self.requests.get_or_create(&Verb { verb }).inc();
    }

    /// Counts a failure.
    pub fn failure(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a whole set read.
    pub fn sync(&self, how: &'static str) {
        self.syncs.get_or_create(&How { how }).inc();
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
