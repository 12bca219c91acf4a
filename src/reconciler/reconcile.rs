//! One look at a time: observe, decide, do, report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Fight, Foreign, LayerStep, Step, Wanted, Why, decide_identity, decide_layer};
use super::parent::Parent;
use crate::config::{self, PebbleMode};
use crate::credential::Credential;
use crate::health::{Condition, Health, State};
use crate::pebble::{
    Client, Inputs, LABEL, Layer, Meaning, Notice, Ownership, PebbleError, Peer, Proof, SystemInfo, chain,
};
use crate::secret::{Believed, Fingerprint, Watcher};
use crate::telemetry::{IdentityState, LayerState, Telemetry};

/// First wait after Pebble was not there; doubled up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A try is one connection to a unix socket.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Most decisions in one look. Each state comes to rest in fewer.
const MAX_STEPS: usize = 6;

/// Keeps one Pebble as it should be.
pub(super) struct Reconciler<'a> {
    settings: config::Pebble,
    client: Client,
    layer: Layer,
    checks: BTreeMap<String, Meaning>,
    secret: Watcher,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    parent: &'a Parent,

    /// What was believed of the secret at the last look.
    believed: Believed,
    boot_id: Option<String>,
    /// Who serves the socket, and whether that may be another by now.
    peer: Option<Peer>,
    is_lost: bool,
    privilege: Privilege,
    /// What the plan held under our names after a post of ours that did not take.
    overruled: Option<BTreeMap<String, Meaning>>,
    /// The secret that was in force through us: finding it gone is somebody else's doing.
    established: Option<Fingerprint>,
    /// The secret that we wrote and that Pebble did not accept: writing it for ever would change nothing.
    rejected: Option<Fingerprint>,
    /// The last proof over the socket, which is not to be repeated often.
    socket_proof: Option<(Fingerprint, Proof, Instant)>,
    fight: Fight,
    notices: Vec<Notice>,
    /// The text of the missing Kubernetes right that the charm was told of.
    told_rights: Option<String>,
    retry: Duration,
    looked_at: Instant,
    next_look: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// Not tried since Pebble was met.
    Unknown,
    Admin,
    /// Refused; tried again then.
    Refused(Instant),
}

/// Where to try a credential.
#[derive(Debug, Clone, Copy)]
enum Occasion {
    /// Over HTTP always; over the socket unless it was proved lately.
    Look,
    /// A write came before.
    Write,
}

/// Names the duties before anything was looked at.
pub(super) fn announce(settings: &config::Pebble, health: &Health, telemetry: &Telemetry) {
    match settings.mode {
        PebbleMode::Required => {
            health.set(Condition::Pebble, State::unready("not asked yet"));
        }
        PebbleMode::Auto => {
            health.set(Condition::Pebble, State::note("not asked yet"));
        }
        PebbleMode::Off => {}
    }
    match (settings.secret.is_some(), settings.mode) {
        (false, _) => telemetry.pebble.set_identity(IdentityState::None),
        (true, PebbleMode::Off) => {
            telemetry.pebble.set_identity(IdentityState::Unavailable);
            health.set(Condition::Identity, State::unready("needs Pebble, which is off"));
        }
        (true, _) => {
            health.set(Condition::Identity, State::unready("not in force yet"));
        }
    }
}

impl<'a> Reconciler<'a> {
    pub(super) fn new(
        settings: config::Pebble,
        port: u16,
        health: Arc<Health>,
        telemetry: Arc<Telemetry>,
        parent: &'a Parent,
    ) -> Self {
        let layer = Layer::checks(Inputs {
            port,
            level: settings.check_level,
            secret: None,
        });
        Self {
            client: Client::new(&settings.socket),
            checks: layer.check_meanings(),
            layer,
            secret: Watcher::new(
                settings.secret.clone(),
                settings.secret_poll,
                settings.secret_settle,
            ),
            settings,
            health,
            telemetry,
            parent,
            believed: Believed::Unknown,
            boot_id: None,
            peer: None,
            is_lost: true,
            privilege: Privilege::Unknown,
            overruled: None,
            established: None,
            rejected: None,
            socket_proof: None,
            fight: Fight::default(),
            notices: Vec::new(),
            told_rights: None,
            retry: FIRST_RETRY,
            looked_at: Instant::now(),
            next_look: Instant::now(),
        }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        loop {
            let (believed, secret_next) = self.secret.look().await;
            let absence_ends = match believed {
                Believed::Absent(since) => Some(since + self.settings.secret_absence),
                _ => None,
            };
            if believed != self.believed {
                self.take(believed);
            }
            if Instant::now() >= self.next_look {
                self.look().await;
            }
            let mut wake = secret_next.min(self.next_look);
            if let Some(at) = absence_ends
                && at > self.looked_at
            {
                // The identity goes with the end of the absence, not with the next look after it.
                self.next_look = self.next_look.min(at);
                wake = wake.min(at);
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                () = self.secret.changed() => {}
            }
        }
    }

    /// Another secret is believed: reports it, and has Pebble looked at now.
    fn take(&mut self, believed: Believed) {
        if self.believed != Believed::Unknown || matches!(believed, Believed::Usable(_)) {
            self.telemetry.pebble.set_secret_changed_now();
        }
        self.believed = believed;
        self.fight = Fight::default();
        self.next_look = Instant::now();
        match &self.believed {
            Believed::Unknown => {}
            Believed::Usable(fingerprint) => {
                // Before the secret counts as good: nobody shall read `ready` in between. The look that follows at
                // once says more, so this is not worth a line in the log.
                if self.established != Some(*fingerprint) {
                    self.health
                        .set(Condition::Identity, State::unready("not in force yet"));
                }
                self.say(Condition::Secret, State::OK);
            }
            Believed::Absent(_) if !self.secret.is_configured() => {}
            Believed::Absent(_) => {
                self.telemetry.pebble.set_identity(IdentityState::Absent);
                self.say(
                    Condition::Secret,
                    State::unready("gone; mount it or unset --secret"),
                );
                self.say(Condition::Identity, State::note("goes with the secret"));
            }
            Believed::Refused(refusal) => {
                let (reason, text) = (refusal.reason(), refusal.to_string());
                self.telemetry.pebble.set_identity(IdentityState::Refused);
                self.telemetry.pebble.count_secret_refusal(reason);
                self.tell(Notice::secret_refused(reason, &text));
                self.say(Condition::Secret, State::unready(text));
                self.say(
                    Condition::Identity,
                    State::note("left as it was: the secret is refused"),
                );
            }
        }
    }

    /// Looks at Pebble, and plans the next look.
    async fn look(&mut self) {
        self.looked_at = Instant::now();
        match self.observe_and_act().await {
            Ok(()) => {
                self.telemetry.pebble.set_reachable(true);
                self.retry = FIRST_RETRY;
                self.next_look = Instant::now() + self.settings.look_interval;
            }
            Err(error) => {
                self.telemetry.pebble.count_error(error.reason());
                if error.is_unreachable() {
                    self.lose(&error);
                    self.next_look = Instant::now() + self.retry.min(self.settings.look_interval);
                    self.retry = (self.retry * 2).min(LONGEST_RETRY);
                } else {
                    let text = chain(&error);
                    let state = match self.settings.mode {
                        PebbleMode::Required => State::unready(text),
                        _ => State::note(text),
                    };
                    self.say(Condition::Pebble, state);
                    self.next_look = Instant::now() + self.settings.look_interval;
                }
            }
        }
    }

    /// Pebble is not there, or does not answer.
    fn lose(&mut self, error: &PebbleError) {
        tracing::debug!(error = chain(error), "Cannot ask Pebble");
        self.telemetry.pebble.set_reachable(false);
        self.telemetry.pebble.set_layer(LayerState::Unknown);
        let text = if error.is_absent() {
            "not there, running without"
        } else {
            "does not answer"
        };
        let state = match self.settings.mode {
            PebbleMode::Required => State::unready(if error.is_absent() {
                "not at its socket; start Pebble"
            } else {
                text
            }),
            _ => State::note(text),
        };
        self.say(Condition::Pebble, state);
        if self.health.get(Condition::Layer).is_some() {
            self.say(Condition::Layer, State::note("not known: no Pebble"));
        }
        if matches!(self.believed, Believed::Usable(_)) {
            self.telemetry.pebble.set_identity(IdentityState::Unavailable);
            self.say(Condition::Identity, State::unready("no Pebble to set it in"));
        }
        // Whoever answers next may be another Pebble, under another user.
        self.is_lost = true;
    }

    async fn observe_and_act(&mut self) -> Result<(), PebbleError> {
        let info = self.client.system_info().await?;
        self.meet(&info).await;
        if info.version.is_too_old() {
            self.meet_old(&info);
            return self.post_notices().await;
        }
        self.say(Condition::Pebble, State::ok(format!("version {}", info.version)));
        self.ask_privilege().await?;
        match self.keep_layer().await {
            // What is wrong with the plan is no reason to leave the identity alone.
            Err(error) if !error.is_unreachable() => {
                self.telemetry.pebble.count_error(error.reason());
                self.telemetry.pebble.set_layer(LayerState::Unknown);
                self.say(Condition::Layer, State::unready(chain(&error)));
            }
            kept => kept?,
        }
        self.keep_identity(&info).await?;
        self.report_privilege();
        self.post_notices().await
    }

    /// Takes note of a Pebble that is another than the last, or was restarted.
    async fn meet(&mut self, info: &SystemInfo) {
        if self.is_lost {
            let peer = self.client.peer().await.ok();
            if let Some(peer) = peer {
                self.parent.recognise(peer);
            }
            // One that was only slow would log one more CRITICAL line.
            if peer != self.peer {
                self.peer = peer;
                self.privilege = Privilege::Unknown;
            }
            self.is_lost = false;
        }
        if self.boot_id.as_deref() != Some(&info.boot_id) {
            tracing::info!(version = %info.version, "Met Pebble");
            self.boot_id = Some(info.boot_id.clone());
            self.privilege = Privilege::Unknown;
            self.overruled = None;
        }
    }

    fn meet_old(&self, info: &SystemInfo) {
        let text = format!("{} is older than 1.19", info.version);
        let state = match self.settings.mode {
            PebbleMode::Required => State::unready(text),
            _ => State::note(text),
        };
        self.say(Condition::Pebble, state);
        if matches!(self.believed, Believed::Usable(_)) {
            self.telemetry.pebble.set_identity(IdentityState::Unavailable);
            self.say(Condition::Identity, State::unready("needs Pebble 1.19 or later"));
        }
    }

    /// Finds out whether we may write, where that is in doubt: a refusal makes Pebble log a CRITICAL line.
    async fn ask_privilege(&mut self) -> Result<(), PebbleError> {
        let own_uid = rustix::process::geteuid().as_raw();
        self.privilege = match self.privilege {
            // Root and Pebble's own user may, unless an identity of their own lowers them; a refusal tells then.
            Privilege::Unknown if own_uid == 0 || self.peer.is_some_and(|peer| peer.uid == own_uid) => {
                Privilege::Admin
            }
            Privilege::Unknown => self.try_privilege().await?,
            Privilege::Refused(until) if Instant::now() >= until => self.try_privilege().await?,
            known => known,
        };
        Ok(())
    }

    async fn try_privilege(&mut self) -> Result<Privilege, PebbleError> {
        if self.client.is_admin().await? {
            return Ok(Privilege::Admin);
        }
        Ok(self.refused())
    }

    fn refused(&mut self) -> Privilege {
        if !matches!(self.privilege, Privilege::Refused(_)) {
            let remedies = self.remedies();
            self.tell(Notice::rights_missing("pebble", &remedies));
        }
        Privilege::Refused(Instant::now() + self.settings.refused_interval)
    }

    /// Both ways out, for `/readyz`, the log and the charm.
    fn remedies(&self) -> String {
        let own_uid = rustix::process::geteuid().as_raw();
        let pebbles = self.peer.map_or_else(
            || "Pebble's own uid".to_owned(),
            |peer| format!("Pebble's uid {}", peer.uid),
        );
        format!(
            "uid {own_uid} may not write in Pebble; run the service as {pebbles}, or add an identity with access admin and local user-id {own_uid}"
        )
    }

    /// Turns a refusal into what it means; other errors pass.
    fn note_denied<T>(&mut self, result: Result<T, PebbleError>) -> Result<Option<T>, PebbleError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_denied() => {
                self.telemetry.pebble.count_error(error.reason());
                self.privilege = self.refused();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn keep_layer(&mut self) -> Result<(), PebbleError> {
        if self.privilege != Privilege::Admin {
            self.telemetry.pebble.set_layer(LayerState::Unknown);
            self.say(Condition::Layer, State::note("not known: unprivileged"));
            return Ok(());
        }
        let plan = self.client.plan().await;
        let Some(mut plan) = self.note_denied(plan)? else {
            return Ok(());
        };
        let mut step = decide_layer(&self.checks, &plan, self.overruled.as_ref());
        if step == LayerStep::Post {
            let posted = self.client.add_layer(LABEL, &self.layer).await;
            match posted {
                Err(error @ PebbleError::Refused { .. }) if !error.is_denied() => {
                    self.telemetry.pebble.count_error(error.reason());
                    self.telemetry.pebble.set_layer(LayerState::Missing);
                    self.say(Condition::Layer, State::unready(format!("refused: {error}")));
                    return Ok(());
                }
                posted => {
                    if self.note_denied(posted)?.is_none() {
                        return Ok(());
                    }
                }
            }
            self.telemetry.pebble.count_layer_post();
            tracing::info!(label = LABEL, "Added our checks to Pebble's plan");
            plan = self.client.plan().await?;
            self.overruled = (!plan.holds(&self.checks)).then(|| plan.under_names_of(&self.checks));
            step = decide_layer(&self.checks, &plan, self.overruled.as_ref());
        }
        match step {
            LayerStep::Shadowed(names) => {
                self.telemetry.pebble.set_layer(LayerState::Shadowed);
                let first = names.first().map_or("", String::as_str);
                let text = match names.len() {
                    1 => format!("{first} shadowed"),
                    n => format!("{n} checks shadowed by a later layer"),
                };
                if self.say(Condition::Layer, State::unready(text)) {
                    tracing::warn!(
                        checks = ?names,
                        "A later layer of the plan defines checks of our names, give those others"
                    );
                }
            }
            LayerStep::Done | LayerStep::Post => {
                self.telemetry.pebble.set_layer(LayerState::Present);
                self.say(Condition::Layer, State::OK);
            }
        }
        Ok(())
    }

    async fn keep_identity(&mut self, info: &SystemInfo) -> Result<(), PebbleError> {
        let credential = match self.believed {
            Believed::Usable(_) => self.secret.credential().await,
            _ => None,
        };
        let fingerprint = match (&self.believed, &credential) {
            (Believed::Usable(fingerprint), Some(_)) => Some(*fingerprint),
            // It is changing just now; what follows is believed first.
            (Believed::Usable(_), None) => return Ok(()),
            _ => None,
        };
        let wanted = match (&credential, &self.believed) {
            (Some(credential), _) => Wanted::Present {
                username: credential.username.clone(),
                ownership: Ownership::Secret,
                adopt: self.settings.adopt_identity,
            },
            (None, Believed::Absent(since)) if self.looked_at >= *since + self.settings.secret_absence => {
                Wanted::Gone
            }
            _ => Wanted::Unchanged,
        };
        if self.privilege != Privilege::Admin {
            return self.watch_unprivileged(info, credential, fingerprint).await;
        }
        if wanted == Wanted::Unchanged {
            return Ok(());
        }
        let mut proof = None;
        let mut wrote = None;
        for _ in 0..MAX_STEPS {
            let identities = self.client.identities().await;
            let Some(identities) = self.note_denied(identities)? else {
                return Ok(());
            };
            match decide_identity(&wanted, &identities, proof) {
                Step::Done => break,
                Step::Refuse(foreign) => {
                    self.report_foreign(foreign);
                    return Ok(());
                }
                Step::Prove => {
                    proof = self
                        .prove(info, credential.as_ref(), fingerprint, Occasion::Look)
                        .await;
                }
                Step::Change(change, why) => {
                    if wrote.is_some() && proof == Some(Proof::Fails) {
                        break;
                    }
                    let is_drift = fingerprint.is_some() && self.established == fingerprint;
                    let is_retry = fingerprint.is_some() && self.rejected == fingerprint;
                    if is_drift {
                        self.telemetry.pebble.count_identity_drift();
                    }
                    if (is_drift || is_retry) && !self.fight.enter() {
                        if is_retry {
                            self.report_proof(Proof::Fails, fingerprint);
                        } else {
                            self.report_contested();
                        }
                        return Ok(());
                    }
                    let password = credential
                        .as_ref()
                        .filter(|_| change.write.is_some())
                        .map(|credential| &credential.password);
                    let changed = self
                        .client
                        .change_identities(&info.version, &change, password)
                        .await;
                    if let Err(error @ PebbleError::Refused { .. }) = &changed
                        && !error.is_denied()
                    {
                        self.telemetry.pebble.count_error(error.reason());
                        self.telemetry.pebble.set_identity(IdentityState::Rejected);
                        self.say(Condition::Identity, State::unready(format!("refused: {error}")));
                        return Ok(());
                    }
                    if self.note_denied(changed)?.is_none() {
                        return Ok(());
                    }
                    let word = if is_drift { "restored" } else { why.as_str() };
                    self.telemetry.pebble.count_identity_write(word);
                    tracing::info!(why = word, "Changed identities in Pebble");
                    wrote = Some(why);
                    if change.write.is_some() {
                        proof = self
                            .prove(info, credential.as_ref(), fingerprint, Occasion::Write)
                            .await;
                    }
                    if proof == Some(Proof::Fails) {
                        self.rejected = fingerprint;
                        continue;
                    }
                    self.established = fingerprint;
                    self.rejected = None;
                    if fingerprint.is_some() && !is_drift && why != Why::Tidied {
                        self.tell(Notice::identity_rotated(word));
                    }
                }
            }
        }
        if wrote.is_none() {
            self.fight.calm();
        }
        if wanted != Wanted::Gone {
            self.report_proof(proof.unwrap_or(Proof::Unknown), fingerprint);
        }
        Ok(())
    }

    /// We may not write, but somebody else may have set the same credential.
    async fn watch_unprivileged(
        &mut self,
        info: &SystemInfo,
        credential: Option<Credential>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<(), PebbleError> {
        if credential.is_none() {
            return Ok(());
        }
        let proof = self
            .prove(info, credential.as_ref(), fingerprint, Occasion::Look)
            .await;
        if proof == Some(Proof::Works) {
            self.telemetry.pebble.set_identity(IdentityState::Verified);
            self.say(Condition::Identity, State::note("in force, set by somebody else"));
        } else {
            self.telemetry.pebble.set_identity(IdentityState::Unprivileged);
            self.say(Condition::Identity, State::note("not in force: unprivileged"));
        }
        Ok(())
    }

    /// Tries the credential. Over the socket Pebble logs a line each time, so a proof that is young enough stands.
    async fn prove(
        &mut self,
        info: &SystemInfo,
        credential: Option<&Credential>,
        fingerprint: Option<Fingerprint>,
        occasion: Occasion,
    ) -> Option<Proof> {
        let (credential, fingerprint) = (credential?, fingerprint?);
        if let Some(address) = info.http_address() {
            let proof = self.client.prove_over_http(address, credential).await;
            self.telemetry.pebble.count_proof("http", proof.as_str());
            if proof != Proof::Unknown {
                return Some(proof);
            }
        }
        if let (Occasion::Look, Some((of, proof, at))) = (occasion, self.socket_proof)
            && of == fingerprint
            && Instant::now() < at + self.settings.proof_interval
        {
            return Some(proof);
        }
        let proof = self.client.prove_over_socket(credential).await;
        self.telemetry.pebble.count_proof("socket", proof.as_str());
        self.socket_proof = Some((fingerprint, proof, Instant::now()));
        Some(proof)
    }

    fn report_proof(&mut self, proof: Proof, fingerprint: Option<Fingerprint>) {
        let (metric, state) = match proof {
            Proof::Works => {
                self.established = fingerprint;
                (IdentityState::Verified, State::OK)
            }
            Proof::Unknown => (
                IdentityState::Unverified,
                State::note("written; whether it works cannot be told"),
            ),
            Proof::Fails => (
                IdentityState::Rejected,
                State::unready("written, but Pebble refuses it"),
            ),
        };
        self.telemetry.pebble.set_identity(metric);
        self.say(Condition::Identity, state);
    }

    fn report_foreign(&mut self, foreign: Foreign) {
        let (reason, text) = match foreign {
            Foreign::Unmarked => ("unmarked", "name taken; use --adopt-identity"),
            Foreign::OtherAccess => ("other-access", "other access; pick another name"),
        };
        self.telemetry.pebble.set_identity(IdentityState::Foreign);
        if self.say(Condition::Identity, State::unready(text)) {
            self.telemetry.pebble.count_secret_refusal(reason);
            self.tell(Notice::secret_refused(reason, text));
        }
    }

    fn report_contested(&mut self) {
        self.telemetry.pebble.set_identity(IdentityState::Contested);
        if self.say(
            Condition::Identity,
            State::unready("contested; stop the other writer"),
        ) {
            tracing::warn!(
                "Somebody else keeps changing the identity of the secret: leaving it until the secret changes"
            );
        }
    }

    fn report_privilege(&mut self) {
        let privileged = !matches!(self.privilege, Privilege::Refused(_));
        self.telemetry.pebble.set_privileged(privileged);
        if privileged {
            // Worth a word only to take back another.
            if self.health.get(Condition::Privilege).is_some() {
                self.say(Condition::Privilege, State::OK);
            }
            return;
        }
        let text = self.remedies();
        let in_force = matches!(self.health.get(Condition::Identity), Some(State::Note(note)) if note.starts_with("in force"));
        let state = if self.secret.is_configured() && !in_force {
            State::unready(text)
        } else {
            State::note(text)
        };
        self.say(Condition::Privilege, state);
    }

    /// Has the charm told at the end of the look. While Pebble is away, the latest of a kind is kept.
    fn tell(&mut self, notice: Notice) {
        self.notices.retain(|waiting| {
            (waiting.key, waiting.data.get("what")) != (notice.key, notice.data.get("what"))
        });
        self.notices.push(notice);
    }

    /// Tells the charm. What Pebble does not take is not kept: it says the same on `/readyz`.
    async fn post_notices(&mut self) -> Result<(), PebbleError> {
        let rights = match self.health.get(Condition::Permissions) {
            Some(State::Bad(text) | State::Note(text)) => Some(text),
            _ => None,
        };
        if rights != self.told_rights {
            if let Some(text) = &rights {
                self.tell(Notice::rights_missing("kubernetes", text));
            }
            self.told_rights = rights;
        }
        while let Some(notice) = self.notices.first() {
            let posted = self.client.notify(notice).await;
            self.telemetry.pebble.count_notice(notice.key, posted.is_ok());
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

    /// Sets a condition and logs it when that changed something.
    fn say(&self, condition: Condition, state: State) -> bool {
        let changed = self.health.set(condition, state.clone());
        if changed {
            let condition = condition.as_str();
            match state {
                State::Bad(reason) => tracing::warn!(condition, %reason, "Not ready"),
                State::Note(note) | State::Ok(Some(note)) => tracing::info!(condition, %note, "Condition"),
                State::Ok(None) => tracing::info!(condition, "Condition holds"),
            }
        }
        changed
    }
}
