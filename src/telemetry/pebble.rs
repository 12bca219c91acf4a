//! Metrics of Pebble, the secret and the identity.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::macros::{labels, metrics};
use super::{Reason, State};

/// The state of the Pebble identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityState {
    /// No secret is configured.
    None,
    /// Not checked yet, or the secret is not stable yet.
    Pending,
    /// Written and verified.
    Verified,
    /// Written; it cannot be verified.
    Unverified,
    /// Written, and Pebble does not accept the credential.
    Rejected,
    /// The secret cannot be used; the previous identity stays.
    Refused,
    /// The secret has disappeared.
    Absent,
    /// Another program owns an identity of the secret's username.
    Foreign,
    /// Another program keeps changing it; the proxy has stopped writing.
    Contested,
    /// The proxy may not write identities.
    Unprivileged,
    /// Pebble is absent or too old.
    Unavailable,
}

/// The state of the proxy's checks in Pebble's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// In the plan.
    Present,
    /// Another layer overrides them.
    Shadowed,
    /// Rejected by Pebble.
    Missing,
    /// Unknown: Pebble is absent, or the plan may not be read.
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

labels! {
    /// A verification of the credential.
    pub(crate) struct Verification {
        /// `http` or `socket`.
        transport: &'static str,
        /// `works`, `fails` or `unknown`.
        result: &'static str,
    }
    /// A notice for the charm.
    pub(crate) struct NoticeLabels {
        /// The notice's key.
        key: &'static str,
        /// `posted` or `failed`.
        result: &'static str,
    }
}

metrics! {
    /// Pebble, the secret and the identity.
    pub struct PebbleMetrics {
        reachable: Gauge = "pebble_reachable", "1 when Pebble's API responded to the latest request";
        privileged: Gauge = "pebble_privileged", "1 when the proxy may write layers and identities in Pebble";
        errors: Family<Reason, Counter> = "pebble_errors", "Failed requests to Pebble's API";
        layer: Family<State, Gauge> = "pebble_layer_state", "1 for the current state of the proxy's checks in Pebble's plan";
        layer_posts: Counter = "pebble_layer_posts", "Layers posted to Pebble";
        identity: Family<State, Gauge> = "pebble_identity_state", "1 for the current state of the Pebble identity";
        identity_writes: Family<Reason, Counter> = "pebble_identity_writes", "Changes of identities that Pebble accepted";
        identity_drifts: Counter = "pebble_identity_drifts", "Changes of the identity by another program";
        verifications: Family<Verification, Counter> = "pebble_verifications", "Credential verifications";
        notices: Family<NoticeLabels, Counter> = "pebble_notices", "Notices for the charm";
        secret_rejections: Family<Reason, Counter> = "secret_rejections", "Secrets that could not be used";
        secret_changed: Gauge<f64, AtomicU64> = "secret_changed_timestamp_seconds", "Unix time of the last secret change that this process saw; 0 before the first";
    }
}

impl PebbleMetrics {
    /// Sets the states at the start of the process.
    pub(super) fn initialize(&self) {
        self.set_identity(IdentityState::Pending);
        self.set_layer(LayerState::Unknown);
    }

    /// Sets whether Pebble responded.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.set(reachable.into());
    }

    /// Sets whether Pebble accepts writes.
    pub fn set_privileged(&self, privileged: bool) {
        self.privileged.set(privileged.into());
    }

    /// Counts a failed request.
    pub fn count_error(&self, reason: &'static str) {
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    /// Sets the state of the checks.
    pub fn set_layer(&self, current: LayerState) {
        for state in LayerState::ALL {
            let labels = State {
                state: state.as_str(),
            };
            self.layer.get_or_create(&labels).set((state == current).into());
        }
    }

    /// Counts a layer.
    pub fn count_layer_post(&self) {
        self.layer_posts.inc();
    }

    /// Sets the state of the identity.
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

    /// Counts a change of identities.
    pub fn count_identity_write(&self, reason: &'static str) {
        self.identity_writes.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a change of the identity by another program.
    pub fn count_identity_drift(&self) {
        self.identity_drifts.inc();
    }

    /// Counts a verification of the credential; `transport` is `http` or `socket`.
    pub fn count_verification(&self, transport: &'static str, result: &'static str) {
        self.verifications
            .get_or_create(&Verification { transport, result })
            .inc();
    }

    /// Counts a notice.
    pub fn count_notice(&self, key: &'static str, posted: bool) {
        let result = if posted { "posted" } else { "failed" };
        self.notices.get_or_create(&NoticeLabels { key, result }).inc();
    }

    /// Counts a secret that could not be used.
    pub fn count_secret_refusal(&self, reason: &'static str) {
        self.secret_rejections.get_or_create(&Reason { reason }).inc();
    }

    /// Records that the secret changed now.
    pub fn set_secret_changed_now(&self) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        self.secret_changed.set(now.as_secs_f64());
    }
}
