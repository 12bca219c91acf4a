//! The loop: wait for a change or the interval, observe Pebble, hand over to the layer and the identity.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::WriteLimiter;
use super::parent::Parent;
use super::report::Reporter;
use super::status::{IdentityStatus, LayerStatus, PebbleStatus, PrivilegeStatus, SecretStatus};
use crate::backoff::Backoff;
use crate::config;
use crate::error::chain;
use crate::pebble::{
    Client, EffectiveCheck, Layer, LayerInputs, PebbleError, Peer, SystemInfo, Verification,
};
use crate::secret::{Fingerprint, StableSecret, Watcher};

/// First wait before an unreachable Pebble is tried again; one attempt is one connection to a unix socket.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before the next attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How long a Pebble that was connected may be unreachable before a condition says so: one slow or broken request does
/// not make the proxy unready.
const UNREACHABLE_GRACE: Duration = Duration::from_secs(5);

/// Reconciles one Pebble.
pub(super) struct Reconciler<'a> {
    pub(super) settings: config::Pebble,
    pub(super) client: Client,
    pub(super) reporter: Reporter,
    pub(super) layer: Layer,
    pub(super) checks: BTreeMap<String, EffectiveCheck>,
    /// The port of this proxy, which stands in its owner markers.
    pub(super) port: u16,
    pub(super) secret: Watcher,
    parent: &'a Parent,

    /// The secret at the last pass.
    pub(super) stable: StableSecret,
    /// Whether this process has seen a secret, so that its absence is a disappearance.
    has_seen_secret: bool,
    boot_id: Option<String>,
    pub(super) connection: Connection,
    pub(super) privilege: Privilege,
    /// The checks that the plan had under our names after a post that changed nothing.
    pub(super) overruled: Option<BTreeMap<String, EffectiveCheck>>,
    /// Whether the plan has contained the checks since Pebble was connected.
    pub(super) was_layer_present: bool,
    /// The secret that Pebble accepted: if it does not work any more, another writer has changed it.
    pub(super) established: Option<Fingerprint>,
    /// The secret that was written and that Pebble rejected: writing it again and again would change nothing.
    pub(super) rejected: Option<Fingerprint>,
    /// The last verification over the socket, which is not to be repeated often.
    pub(super) socket_verification: Option<SocketVerification>,
    pub(super) limiter: WriteLimiter,
    retry: Backoff,
    pub(super) pass_started: Instant,
    next_pass: Instant,
}

/// The connection to Pebble and who serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    /// Who serves the socket, where the kernel tells.
    pub(super) peer: Option<Peer>,
    /// Whether the last request failed, so that another Pebble may serve the socket by now.
    is_lost: bool,
    /// Since when Pebble has not responded, where it did before.
    unreachable_since: Option<Instant>,
}

/// A verification over the socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketVerification {
    pub(super) fingerprint: Fingerprint,
    pub(super) result: Verification,
    pub(super) at: Instant,
}

/// Whether Pebble lets this process write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// Not tried since Pebble was connected.
    Unknown,
    /// It does.
    Admin,
    /// It does not; tried again at that time.
    Denied(Instant),
}

impl<'a> Reconciler<'a> {
    pub(super) fn new(
        settings: config::Pebble,
        (address, port): (IpAddr, u16),
        reporter: Reporter,
        parent: &'a Parent,
    ) -> Self {
        let layer = Layer::checks(LayerInputs {
            address,
            port,
            level: settings.check_level,
            secret: None,
        });
        Self {
            client: Client::new(&settings.socket),
            checks: layer.effective_checks(),
            layer,
            port,
            secret: Watcher::new(
                settings.secret.clone(),
                settings.secret_poll,
                settings.secret_debounce,
            ),
            settings,
            reporter,
            parent,
            stable: StableSecret::Unknown,
            has_seen_secret: false,
            boot_id: None,
            connection: Connection {
                peer: None,
                is_lost: true,
                unreachable_since: None,
            },
            privilege: Privilege::Unknown,
            overruled: None,
            was_layer_present: false,
            established: None,
            rejected: None,
            socket_verification: None,
            limiter: WriteLimiter::default(),
            retry: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            pass_started: Instant::now(),
            next_pass: Instant::now(),
        }
    }

    /// Reconciles for ever.
    pub(super) async fn run(mut self) {
        loop {
            let (stable, next_poll) = self.secret.poll().await;
            let removal_due = match stable {
                StableSecret::Absent(since) => Some(since + self.settings.secret_removal_grace),
                _ => None,
            };
            if stable != self.stable {
                self.on_secret_changed(stable);
            }
            if Instant::now() >= self.next_pass {
                self.reconcile_once().await;
            }
            let mut wake = next_poll.min(self.next_pass);
            if let Some(at) = removal_due
                && at > self.pass_started
            {
                // The identity is removed at the end of the grace period, not with the first pass after it.
                self.next_pass = self.next_pass.min(at);
                wake = wake.min(at);
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                () = self.secret.changed() => {}
            }
        }
    }

    /// The secret is another one: reports it and makes the next pass start now.
    fn on_secret_changed(&mut self, stable: StableSecret) {
        if self.stable != StableSecret::Unknown || matches!(stable, StableSecret::Usable(_)) {
            self.reporter.metrics().set_secret_changed_now();
        }
        self.stable = stable;
        self.limiter = WriteLimiter::default();
        self.next_pass = Instant::now();
        match &self.stable {
            StableSecret::Unknown => {}
            StableSecret::Usable(fingerprint) => {
                self.has_seen_secret = true;
                // Before the secret counts as good, so that `/readyz` does not say `ready` in between.
                if self.established != Some(*fingerprint) {
                    self.reporter.announce_identity(IdentityStatus::Pending);
                }
                self.reporter.set_secret(&SecretStatus::Usable);
            }
            StableSecret::Absent(_) => {
                let Some(path) = &self.settings.secret else {
                    return;
                };
                let status = if self.has_seen_secret {
                    SecretStatus::Disappeared
                } else {
                    SecretStatus::NotThere(path.clone())
                };
                self.reporter.set_secret(&status);
                self.reporter.set_identity(IdentityStatus::SecretAbsent);
            }
            StableSecret::Refused(refusal) => {
                self.has_seen_secret = true;
                let status = SecretStatus::Refused(refusal.clone());
                self.reporter.set_secret(&status);
                self.reporter.set_identity(IdentityStatus::SecretRefused);
            }
        }
    }

    /// One pass over Pebble; plans the next.
    async fn reconcile_once(&mut self) {
        self.pass_started = Instant::now();
        let interval = self.settings.resync_interval;
        match self.observe_and_act().await {
            Ok(()) => {
                self.reporter.metrics().set_reachable(true);
                self.connection.unreachable_since = None;
                self.retry.reset();
                self.next_pass = Instant::now() + interval;
            }
            Err(error) => {
                self.reporter.metrics().count_error(error.reason());
                if error.is_unreachable() {
                    self.on_unreachable(&error);
                    self.next_pass = Instant::now() + self.retry.next_delay().min(interval);
                } else {
                    self.reporter.set_pebble(&PebbleStatus::Failed(chain(&error)));
                    self.next_pass = Instant::now() + interval;
                }
            }
        }
    }

    /// Pebble cannot be reached, or does not respond.
    fn on_unreachable(&mut self, error: &PebbleError) {
        tracing::debug!(error = chain(error), "Cannot reach Pebble");
        self.reporter.metrics().set_reachable(false);
        // Another Pebble may serve the socket next, under another user.
        self.connection.is_lost = true;
        let now = Instant::now();
        if self.boot_id.is_some() {
            let since = *self.connection.unreachable_since.get_or_insert(now);
            if now < since + UNREACHABLE_GRACE {
                return;
            }
        }
        let socket = self.settings.socket.clone();
        let status = if error.is_absent() {
            PebbleStatus::Absent(socket)
        } else if error.is_forbidden() {
            PebbleStatus::Forbidden {
                socket,
                own_uid: own_uid(),
            }
        } else {
            PebbleStatus::Unresponsive(socket)
        };
        self.reporter.set_pebble(&status);
        self.reporter.forget_layer();
        if matches!(self.stable, StableSecret::Usable(_)) {
            self.reporter.set_identity(IdentityStatus::PebbleUnreachable);
        }
    }

    async fn observe_and_act(&mut self) -> Result<(), PebbleError> {
        let info = self.client.system_info().await?;
        self.on_connected(&info).await;
        if let Some(peer) = self.connection.peer.filter(|peer| !peer.is_trusted(own_uid())) {
            self.on_untrusted(peer);
            return Ok(());
        }
        if info.version.is_too_old() {
            self.on_too_old(&info);
            return self.reporter.post_notices(&self.client).await;
        }
        self.reporter
            .set_pebble(&PebbleStatus::Connected(info.version.to_string()));
        self.find_privilege().await?;
        match self.reconcile_layer().await {
            // A problem with the plan is no reason to leave the identity alone.
            Err(error) if !error.is_unreachable() => {
                self.reporter.metrics().count_error(error.reason());
                self.reporter.set_layer(&LayerStatus::Unreadable(chain(&error)));
            }
            result => result?,
        }
        self.reconcile_identity(&info).await?;
        self.reporter
            .set_privilege(self.privilege_status(), self.settings.secret.is_some());
        self.reporter.post_notices(&self.client).await
    }

    /// Notices that another Pebble responds than before, or that it was restarted.
    async fn on_connected(&mut self, info: &SystemInfo) {
        if self.connection.is_lost {
            let peer = self.client.peer().await.ok();
            if let Some(peer) = peer {
                self.parent.recognize(peer);
            }
            // The same Pebble that was only slow would log one more CRITICAL line if it were asked again.
            if peer != self.connection.peer {
                self.connection.peer = peer;
                self.privilege = Privilege::Unknown;
            }
            self.connection.is_lost = false;
        }
        if self.boot_id.as_deref() != Some(&info.boot_id) {
            tracing::info!(version = %info.version, "Connected to Pebble");
            self.boot_id = Some(info.boot_id.clone());
            self.privilege = Privilege::Unknown;
            self.overruled = None;
            self.was_layer_present = false;
        }
    }

    /// No request that carries a credential is sent to a socket that an unexpected user serves.
    fn on_untrusted(&mut self, peer: Peer) {
        self.reporter.set_pebble(&PebbleStatus::Untrusted {
            uid: peer.uid,
            own_uid: own_uid(),
        });
        self.reporter.forget_layer();
        // It may be replaced by the real one.
        self.connection.is_lost = true;
        if matches!(self.stable, StableSecret::Usable(_)) {
            self.reporter.set_identity(IdentityStatus::PebbleUnreachable);
        }
    }

    fn on_too_old(&mut self, info: &SystemInfo) {
        self.reporter
            .set_pebble(&PebbleStatus::TooOld(info.version.to_string()));
        if matches!(self.stable, StableSecret::Usable(_)) {
            self.reporter.set_identity(IdentityStatus::PebbleTooOld);
        }
    }

    /// Finds out whether Pebble lets this process write, where that is not known: each refusal makes Pebble log a
    /// CRITICAL line.
    async fn find_privilege(&mut self) -> Result<(), PebbleError> {
        let own_uid = own_uid();
        self.privilege = match self.privilege {
            // Root and Pebble's own user may, unless an identity of their own lowers them; then the first write shows it.
            Privilege::Unknown
                if own_uid == 0 || self.connection.peer.is_some_and(|peer| peer.uid == own_uid) =>
            {
                Privilege::Admin
            }
            Privilege::Unknown => self.try_privilege().await?,
            Privilege::Denied(until) if Instant::now() >= until => self.try_privilege().await?,
            known => known,
        };
        Ok(())
    }

    async fn try_privilege(&mut self) -> Result<Privilege, PebbleError> {
        if self.client.is_admin().await? {
            return Ok(Privilege::Admin);
        }
        self.on_denied();
        Ok(self.privilege)
    }

    /// Pebble has refused a write: notifies the charm the first time.
    fn on_denied(&mut self) {
        let was_denied = matches!(self.privilege, Privilege::Denied(_));
        self.privilege = Privilege::Denied(Instant::now() + self.settings.denied_retry_interval);
        if !was_denied && let Some(notice) = self.privilege_status().notice() {
            self.reporter.notify_charm(notice);
        }
    }

    fn privilege_status(&self) -> PrivilegeStatus {
        match self.privilege {
            Privilege::Denied(_) => PrivilegeStatus::Denied {
                own_uid: own_uid(),
                pebble_uid: self.connection.peer.map(|peer| peer.uid),
            },
            Privilege::Unknown | Privilege::Admin => PrivilegeStatus::Granted,
        }
    }

    /// The value of a response; `None` where Pebble denied the request to this user. Other errors pass.
    pub(super) fn permitted<T>(&mut self, result: Result<T, PebbleError>) -> Result<Option<T>, PebbleError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_denied() => {
                self.reporter.metrics().count_error(error.reason());
                self.on_denied();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The user ID that this process acts with.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
