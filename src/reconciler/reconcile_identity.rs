//! One pass over Pebble's identities: is the secret's credential in force?

use tokio::time::Instant;

use super::decide::{
    Action, ChangeReason, Desired, Observed, Outcome, Repetition, attempt, conclude, desired, plan_identity,
};
use super::reconcile::{Privilege, Reconciler, SocketVerification};
use super::status::{Foreign, IdentityStatus};
use crate::credential::Credential;
use crate::pebble::{Change, Notice, Owner, PebbleError, SystemInfo, Verification, responds_on_loopback};
use crate::secret::{Fingerprint, StableSecret};

/// Most actions in one pass. Every state needs fewer; see the test `every_state_comes_to_rest`.
const MAX_ACTIONS: usize = 6;

/// The secret of one pass.
struct Secret {
    credential: Option<Credential>,
    /// That of the credential; `None` where there is none.
    fingerprint: Option<Fingerprint>,
}

/// When a credential is verified.
#[derive(Debug, Clone, Copy)]
enum Occasion {
    /// In an ordinary pass: over the socket only where the last result is old.
    Pass,
    /// After a write.
    Write,
}

/// The result of a change that was due.
enum Written {
    /// Pebble applied it.
    Applied,
    /// It was not written, and the pass ends.
    Ended(Outcome),
}

impl Reconciler<'_> {
    pub(super) async fn reconcile_identity(&mut self, info: &SystemInfo) -> Result<(), PebbleError> {
        let Some(secret) = self.read_secret().await else {
            return Ok(());
        };
        if self.privilege != Privilege::Admin {
            self.observe_unprivileged(info, &secret).await;
            return Ok(());
        }
        let absent_for = match self.stable {
            StableSecret::Absent(since) => Some(self.pass_started.saturating_duration_since(since)),
            _ => None,
        };
        let desired = desired(
            secret.credential.as_ref().map(|credential| &credential.username),
            absent_for,
            self.settings.secret_removal_grace,
            Owner::Secret(Some(self.port)),
            self.settings.adopt_identity,
        );
        if desired == Desired::Unchanged {
            return Ok(());
        }
        let outcome = self.apply(info, &desired, &secret).await?;
        if outcome == Outcome::Applied(Some(Verification::Works)) {
            self.established = secret.fingerprint;
        }
        if let Some(status) = conclude(outcome) {
            if status == IdentityStatus::Contested && *self.reporter.identity() != status {
                tracing::warn!(
                    "Another writer keeps changing the identity, leaving it alone until the secret changes"
                );
            }
            self.reporter.set_identity(status);
        }
        Ok(())
    }

    /// The secret while it is needed; `None` where it is changing at the moment, since the debounced one counts.
    async fn read_secret(&mut self) -> Option<Secret> {
        let StableSecret::Usable(fingerprint) = self.stable else {
            return Some(Secret {
                credential: None,
                fingerprint: None,
            });
        };
        let credential = self.secret.credential().await?;
        Some(Secret {
            credential: Some(credential),
            fingerprint: Some(fingerprint),
        })
    }

    /// Plans and acts until the identities are as desired, or another writer or Pebble stops it.
    async fn apply(
        &mut self,
        info: &SystemInfo,
        desired: &Desired,
        secret: &Secret,
    ) -> Result<Outcome, PebbleError> {
        let (mut verification, mut stopped_proxy, mut has_written) = (None, None, false);
        for _ in 0..MAX_ACTIONS {
            let identities = self.client.identities().await;
            let Some(identities) = self.permitted(identities)? else {
                return Ok(Outcome::Denied);
            };
            let observed = Observed {
                identities: &identities,
                verification,
                stopped_proxy,
            };
            match plan_identity(desired, observed) {
                Action::Done => break,
                Action::Refuse(Foreign::OtherProxy(port))
                    if stopped_proxy.is_none() && !responds_on_loopback(port, "/healthz").await =>
                {
                    stopped_proxy = Some(port);
                }
                Action::Refuse(foreign) => return Ok(Outcome::Foreign(foreign)),
                Action::Verify => verification = self.verify(info, secret, Occasion::Pass).await,
                // Pebble rejects what was written in this pass.
                Action::Change(..) if has_written && verification == Some(Verification::Fails) => break,
                Action::Change(change, reason) => {
                    let repetition = self.repetition(secret);
                    if let Written::Ended(outcome) =
                        self.write(info, &change, reason, secret, repetition).await?
                    {
                        return Ok(outcome);
                    }
                    has_written = true;
                    if change.write.is_some() {
                        verification = self.verify(info, secret, Occasion::Write).await;
                    }
                    self.on_written(secret, reason, repetition, verification);
                }
            }
        }
        if !has_written {
            self.limiter.count_quiet_pass();
        }
        Ok(match desired {
            Desired::Present { .. } => Outcome::Applied(verification),
            Desired::Removed(_) | Desired::Unchanged => Outcome::Removed,
        })
    }

    fn repetition(&self, secret: &Secret) -> Repetition {
        let is_known = secret.fingerprint.is_some();
        Repetition {
            is_drift: is_known && self.established == secret.fingerprint,
            is_retry: is_known && self.rejected == secret.fingerprint,
        }
    }

    /// Writes a change, unless the same secret was written too often.
    async fn write(
        &mut self,
        info: &SystemInfo,
        change: &Change,
        reason: ChangeReason,
        secret: &Secret,
        repetition: Repetition,
    ) -> Result<Written, PebbleError> {
        if repetition.is_drift {
            self.reporter.metrics().count_identity_drift();
        }
        if let Err(status) = attempt(repetition, &mut self.limiter) {
            return Ok(Written::Ended(Outcome::Stopped(status)));
        }
        let password = secret
            .credential
            .as_ref()
            .filter(|_| change.write.is_some())
            .map(|credential| &credential.password);
        let changed = self
            .client
            .change_identities(&info.version, change, password)
            .await;
        if let Err(error @ PebbleError::Refused { .. }) = &changed
            && !error.is_denied()
        {
            self.reporter.metrics().count_error(error.reason());
            return Ok(Written::Ended(Outcome::WriteRefused(error.to_string())));
        }
        if self.permitted(changed)?.is_none() {
            return Ok(Written::Ended(Outcome::Denied));
        }
        let word = word(reason, repetition);
        self.reporter.metrics().count_identity_write(word);
        tracing::info!(reason = word, "Changed identities in Pebble");
        Ok(Written::Applied)
    }

    /// Remembers what Pebble made of a change, and notifies the charm of a new credential.
    fn on_written(
        &mut self,
        secret: &Secret,
        reason: ChangeReason,
        repetition: Repetition,
        verification: Option<Verification>,
    ) {
        if verification == Some(Verification::Fails) {
            self.rejected = secret.fingerprint;
            return;
        }
        self.established = secret.fingerprint;
        self.rejected = None;
        if secret.fingerprint.is_some() && !repetition.is_drift && reason != ChangeReason::Tidied {
            let notice = Notice::identity_rotated(word(reason, repetition));
            self.reporter.notify_charm(notice);
        }
    }

    /// This process may not write, but another writer may have set the same credential.
    async fn observe_unprivileged(&mut self, info: &SystemInfo, secret: &Secret) {
        if secret.credential.is_none() {
            return;
        }
        let status = match self.verify(info, secret, Occasion::Pass).await {
            Some(Verification::Works) => IdentityStatus::SetByAnother,
            _ => IdentityStatus::Unprivileged,
        };
        self.reporter.set_identity(status);
    }

    /// Tries the credential. Over the socket Pebble logs a line for each attempt, so that a result is used for a while.
    async fn verify(
        &mut self,
        info: &SystemInfo,
        secret: &Secret,
        occasion: Occasion,
    ) -> Option<Verification> {
        let (credential, fingerprint) = (secret.credential.as_ref()?, secret.fingerprint?);
        if let Some(address) = info.http_address() {
            let result = self.client.verify_over_http(address, credential).await;
            self.reporter
                .metrics()
                .count_verification("http", result.as_str());
            if result != Verification::Unknown {
                return Some(result);
            }
        }
        if let (Occasion::Pass, Some(last)) = (occasion, self.socket_verification)
            && last.fingerprint == fingerprint
            && Instant::now() < last.at + self.settings.verify_interval
        {
            return Some(last.result);
        }
        let result = self.client.verify_over_socket(credential).await;
        self.reporter
            .metrics()
            .count_verification("socket", result.as_str());
        self.socket_verification = Some(SocketVerification {
            fingerprint,
            result,
            at: Instant::now(),
        });
        Some(result)
    }
}

/// The word for metrics, log lines and notices.
fn word(reason: ChangeReason, repetition: Repetition) -> &'static str {
    if repetition.is_drift {
        "restored"
    } else {
        reason.as_str()
    }
}
