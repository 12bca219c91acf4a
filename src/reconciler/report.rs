//! Publishes statuses: metrics, conditions with one log line for each change, and notices for the charm.

use std::sync::Arc;

use super::status::{IdentityStatus, LayerStatus, PebbleStatus, PrivilegeStatus, SecretStatus};
use crate::config::PebbleMode;
use crate::error::chain;
use crate::health::{Condition, Health, Severity, State};
use crate::pebble::{Client, Notice, PebbleError};
use crate::telemetry::{PebbleMetrics, Telemetry};

/// The one place that the reconciler reports to.
#[derive(Debug)]
pub(super) struct Reporter {
    mode: PebbleMode,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    identity: IdentityStatus,
    /// For the charm, posted at the end of a pass. While Pebble is away, the latest of a kind is kept.
    notices: Vec<Notice>,
    /// The state of the Kubernetes permissions that the charm was notified of.
    notified_permissions: Option<State>,
}

impl Reporter {
    pub(super) fn new(mode: PebbleMode, health: Arc<Health>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            mode,
            health,
            telemetry,
            identity: IdentityStatus::NotConfigured,
            notices: Vec::new(),
            notified_permissions: None,
        }
    }

    /// The metrics of the reconciler.
    pub(super) fn metrics(&self) -> &PebbleMetrics {
        &self.telemetry.pebble
    }

    /// Sets the condition before the first request; that is not worth a log line.
    pub(super) fn announce_pebble(&self) {
        let state = PebbleStatus::NotAskedYet.condition(self.mode);
        self.health.set(Condition::Pebble, state);
    }

    /// As [`Reporter::set_identity`], without a log line: a pass follows at once and says more.
    pub(super) fn announce_identity(&mut self, status: IdentityStatus) {
        self.metrics().set_identity(status.metric());
        if let Some(state) = status.condition() {
            self.health.set(Condition::Identity, state);
        }
        self.identity = status;
    }

    /// The last reported status of the identity.
    pub(super) fn identity(&self) -> &IdentityStatus {
        &self.identity
    }

    pub(super) fn set_identity(&mut self, status: IdentityStatus) {
        self.metrics().set_identity(status.metric());
        let changed = status
            .condition()
            .is_some_and(|state| self.set_condition(Condition::Identity, state));
        if changed && let IdentityStatus::Foreign(foreign) = &status {
            self.metrics().count_secret_refusal(foreign.reason());
        }
        if changed && let Some(notice) = status.notice() {
            self.notify_charm(notice);
        }
        self.identity = status;
    }

    pub(super) fn set_secret(&mut self, status: &SecretStatus) {
        if let SecretStatus::Refused(refusal) = status {
            self.metrics().count_secret_refusal(refusal.reason());
        }
        if let Some(notice) = status.notice() {
            self.notify_charm(notice);
        }
        self.set_condition(Condition::Secret, status.condition());
    }

    pub(super) fn set_layer(&self, status: &LayerStatus) {
        self.metrics().set_layer(status.metric());
        self.set_condition(Condition::Layer, status.condition());
    }

    /// While Pebble is away, nothing is known about the layer. Says so only where something was known before.
    pub(super) fn forget_layer(&self) {
        if self.health.get(Condition::Layer).is_some() {
            self.set_layer(&LayerStatus::PebbleUnreachable);
        }
    }

    pub(super) fn set_pebble(&self, status: &PebbleStatus) {
        self.set_condition(Condition::Pebble, status.condition(self.mode));
    }

    pub(super) fn set_privilege(&self, status: PrivilegeStatus, has_secret: bool) {
        let is_granted = status == PrivilegeStatus::Granted;
        self.metrics().set_privileged(is_granted);
        // A granted permission is worth a line only where it was missing before.
        if !is_granted || self.health.get(Condition::Privilege).is_some() {
            let is_identity_missing = has_secret && !self.identity.is_in_force();
            self.set_condition(Condition::Privilege, status.condition(is_identity_missing));
        }
    }

    /// Posts a notice at the end of the pass, in place of an earlier one of the same kind.
    pub(super) fn notify_charm(&mut self, notice: Notice) {
        self.notices.retain(|waiting| {
            (waiting.key, waiting.data.get("what")) != (notice.key, notice.data.get("what"))
        });
        self.notices.push(notice);
    }

    /// Posts the waiting notices. One that Pebble refuses is dropped: `/readyz` says the same.
    pub(super) async fn post_notices(&mut self, client: &Client) -> Result<(), PebbleError> {
        self.notify_of_permissions();
        while let Some(notice) = self.notices.first() {
            let posted = client.notify(notice).await;
            self.metrics().count_notice(notice.key, posted.is_ok());
            match posted {
                Err(error) if error.is_unreachable() => return Err(error),
                Err(error) => {
                    tracing::debug!(key = notice.key, error = chain(&error), "Cannot post a notice");
                }
                Ok(()) => {}
            }
            self.notices.remove(0);
        }
        Ok(())
    }

    /// Discovery has no Pebble: a problem with the permissions in Kubernetes reaches the charm from here.
    fn notify_of_permissions(&mut self) {
        let state = self
            .health
            .get(Condition::Permissions)
            .filter(|state| state.severity() != Severity::Ok);
        if state == self.notified_permissions {
            return;
        }
        if let Some(text) = state.as_ref().and_then(State::text) {
            let notice = Notice::permission_missing("kubernetes", text);
            self.notify_charm(notice);
        }
        self.notified_permissions = state;
    }

    /// Sets a condition and logs it where that changed it. Returns whether it changed.
    fn set_condition(&self, condition: Condition, state: State) -> bool {
        let changed = self.health.set(condition, state.clone());
        if changed {
            let (condition, reason) = (condition.as_str(), state.text());
            match state.severity() {
                Severity::Bad => tracing::warn!(condition, reason, "Not ready"),
                Severity::Note => tracing::info!(condition, note = reason, "Condition changed"),
                Severity::Ok => tracing::info!(condition, note = reason, "Condition OK"),
            }
        }
        changed
    }
}
