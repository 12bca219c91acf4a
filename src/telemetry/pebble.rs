//! Layer, secret, identity.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How the identity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityState {
    /// No secret is configured.
    None,
    /// Not looked at yet, or the secret has not settled.
    Pending,
    /// In force, and proved so.
    Verified,
    /// Written, but whether it works cannot be told.
    Unverified,
    /// Written, and Pebble does not accept it.
    Rejected,
    /// The secret cannot be used; what was in force stays.
    Refused,
    /// The secret is gone.
    Absent,
    /// The secret's name is somebody else's identity.
    Foreign,
    /// Somebody keeps changing it; we stopped.
    Contested,
    /// We may not write identities.
    Unprivileged,
    /// Pebble is not there, or too old.
    Unavailable,
}

/// How our checks stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// In the plan.
    Present,
    /// Another layer overrides them.
    Shadowed,
    /// Refused by Pebble.
    Missing,
    /// Not known: no Pebble, or we may not look.
    Unknown,
}

impl IdentityState {
    const ALL: [Self; 11] = [
        Self::None,
        Self::Pending,
        Self::Verified,
        Self::Unverified,
        Self::Rejected,
        Self::Refused,
        Self::Absent,
        Self::Foreign,
        Self::Contested,
        Self::Unprivileged,
        Self::Unavailable,
    ];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Unverified => "unverified",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Absent => "absent",
            Self::Foreign => "foreign",
            Self::Contested => "contested",
            Self::Unprivileged => "unprivileged",
            Self::Unavailable => "unavailable",
        }
    }
}

impl LayerState {
    const ALL: [Self; 4] = [Self::Present, Self::Shadowed, Self::Missing, Self::Unknown];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Shadowed => "shadowed",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProofLabels {
    transport: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoticeLabels {
    key: &'static str,
    result: &'static str,
}

/// Layer, secret, identity.
#[derive(Debug)]
pub struct PebbleMetrics {
    reachable: Gauge,
    privileged: Gauge,
    errors: Family<Reason, Counter>,
    layer: Family<State, Gauge>,
    layer_posts: Counter,
    identity: Family<State, Gauge>,
    identity_writes: Family<Reason, Counter>,
    identity_drifts: Counter,
    proofs: Family<ProofLabels, Counter>,
    notices: Family<NoticeLabels, Counter>,
    secret_refusals: Family<Reason, Counter>,
    secret_changed: Gauge<f64, AtomicU64>,
}

impl PebbleMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reachable: Gauge::default(),
            privileged: Gauge::default(),
            errors: Family::default(),
            layer: Family::default(),
            layer_posts: Counter::default(),
            identity: Family::default(),
            identity_writes: Family::default(),
            identity_drifts: Counter::default(),
            proofs: Family::default(),
            notices: Family::default(),
            secret_refusals: Family::default(),
            secret_changed: Gauge::default(),
        };
        registry.register(
            "pebble_reachable",
            "Whether Pebble answered the last time that it was asked",
            metrics.reachable.clone(),
        );
        registry.register(
            "pebble_privileged",
            "Whether Pebble lets us write layers and identities",
            metrics.privileged.clone(),
        );
        registry.register(
            "pebble_errors",
            "Requests to Pebble that failed",
            metrics.errors.clone(),
        );
        registry.register(
            "pebble_layer_state",
            "1 for the state that our checks are in",
            metrics.layer.clone(),
        );
        registry.register(
            "pebble_layer_posts",
            "Layers posted to Pebble",
            metrics.layer_posts.clone(),
        );
        registry.register(
            "pebble_identity_state",
            "1 for the state that the identity is in",
            metrics.identity.clone(),
        );
        registry.register(
            "pebble_identity_writes",
            "Changes of identities that Pebble took",
            metrics.identity_writes.clone(),
        );
        registry.register(
            "pebble_identity_drifts",
            "Times that somebody else had removed or changed the identity",
            metrics.identity_drifts.clone(),
        );
        registry.register("pebble_proofs", "Tries of the credential", metrics.proofs.clone());
        registry.register(
            "pebble_notices",
            "Notices posted for the charm",
            metrics.notices.clone(),
        );
        registry.register(
            "secret_refusals",
            "Secrets that could not be used",
            metrics.secret_refusals.clone(),
        );
        registry.register(
            "secret_changed_timestamp_seconds",
            "When the secret was last seen to be another, since the start of this process; 0 before the first",
            metrics.secret_changed.clone(),
        );
        metrics.set_identity(IdentityState::Pending);
        metrics.set_layer(LayerState::Unknown);
        metrics
    }

    /// Pebble answered, or did not.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.set(reachable.into());
    }

    /// Pebble lets us write, or does not.
    pub fn set_privileged(&self, privileged: bool) {
        self.privileged.set(privileged.into());
    }

    /// A request failed; `reason` is a word.
    pub fn count_error(&self, reason: &'static str) {
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    /// How our checks stand.
    pub fn set_layer(&self, current: LayerState) {
        for state in LayerState::ALL {
            let labels = State {
                state: state.as_str(),
            };
            self.layer.get_or_create(&labels).set((state == current).into());
        }
    }

    /// A layer was posted.
    pub fn count_layer_post(&self) {
        self.layer_posts.inc();
    }

    /// How the identity stands.
    pub fn set_identity(&self, current: IdentityState) {
        for state in IdentityState::ALL {
            let labels = State {
                state: state.as_str(),
            };
            self.identity
                .get_or_create(&labels)
                .set((state == current).into());
        }
    }

    /// Identities were changed; `reason` is a word.
    pub fn count_identity_write(&self, reason: &'static str) {
        self.identity_writes.get_or_create(&Reason { reason }).inc();
    }

    /// Somebody else had changed the identity.
    pub fn count_identity_drift(&self) {
        self.identity_drifts.inc();
    }

    /// The credential was tried; `transport` is `http` or `socket`.
    pub fn count_proof(&self, transport: &'static str, result: &'static str) {
        self.proofs
            .get_or_create(&ProofLabels { transport, result })
            .inc();
    }

    /// A notice was posted, or could not be.
    pub fn count_notice(&self, key: &'static str, posted: bool) {
        let result = if posted { "posted" } else { "failed" };
        self.notices.get_or_create(&NoticeLabels { key, result }).inc();
    }

    /// A secret could not be used; `reason` is a word.
    pub fn count_secret_refusal(&self, reason: &'static str) {
        self.secret_refusals.get_or_create(&Reason { reason }).inc();
    }

    /// The secret is another since now.
    pub fn set_secret_changed_now(&self) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        self.secret_changed.set(now.as_secs_f64());
    }
}
