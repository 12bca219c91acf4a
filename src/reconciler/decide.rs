//! What to do next: desired state against observed state (pure). Each case is one row of a table test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::status::{Foreign, IdentityStatus};
use crate::credential::Username;
use crate::pebble::{Change, EffectiveCheck, IdentityInfo, Marker, Owner, Plan, Verification};

/// What the secret asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// Nothing is known about the secret at the moment, or it cannot be used: every identity stays as it is.
    Unchanged,
    /// There has been no secret for longer than the grace period: the identities of this owner are removed.
    Removed(Owner),
    /// This identity, with the password of the secret.
    Present {
        /// The name of the identity.
        username: Username,
        /// Who asks for it. This decides which marker is written, and which other identities are removed.
        owner: Owner,
        /// Take over an identity of this name that has no owner marker.
        adopt: bool,
    },
}

/// What the secret asks for: `username` is that of a usable secret, `absent_for` how long there has been none.
pub(super) fn desired(
    username: Option<&Username>,
    absent_for: Option<Duration>,
    removal_grace: Duration,
    owner: Owner,
    adopt: bool,
) -> Desired {
    match (username, absent_for) {
        (Some(username), _) => Desired::Present {
            username: username.clone(),
            owner,
            adopt,
        },
        (None, Some(absent_for)) if absent_for >= removal_grace => Desired::Removed(owner),
        (None, _) => Desired::Unchanged,
    }
}

/// What is known about the identities in Pebble.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// All of them, by name.
    pub identities: &'a BTreeMap<String, IdentityInfo>,
    /// The result of trying the credential after the last change; `None` where it was not tried yet.
    pub verification: Option<Verification>,
    /// The port of another proxy that owns the identity and is known not to run any more.
    pub stopped_proxy: Option<u16>,
}

/// What to do about identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The observed state is the desired one.
    Done,
    /// Try the credential, and plan again.
    Verify,
    /// Apply this change, verify, and plan again.
    Change(Change, ChangeReason),
    /// The name belongs to another writer.
    Refuse(Foreign),
}

/// Why identities change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeReason {
    /// There was no identity of this owner.
    Created,
    /// The password has changed.
    Rotated,
    /// The username has changed; the old identity is removed in the same call.
    Renamed,
    /// There is no secret any more.
    Revoked,
    /// The identity belonged to another writer and `--adopt-identity` takes it over.
    Adopted,
    /// Only markers change.
    Tidied,
}

impl ChangeReason {
    /// The word in metrics, logs and notices.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Rotated => "rotated",
            Self::Renamed => "renamed",
            Self::Revoked => "revoked",
            Self::Adopted => "adopted",
            Self::Tidied => "tidied",
        }
    }
}

/// Decides what to do about identities.
pub fn plan_identity(desired: &Desired, observed: Observed<'_>) -> Action {
    let identities = observed.identities;
    let markers: BTreeSet<Marker> = identities.keys().filter_map(|name| Marker::parse(name)).collect();
    let (username, owner, adopt) = match desired {
        Desired::Unchanged => return Action::Done,
        Desired::Removed(owner) => return revoke(removals(&markers, identities, *owner, None)),
        Desired::Present {
            username,
            owner,
            adopt,
        } => (username, *owner, *adopt),
    };
    let marker = Marker::new(username.clone(), owner);
    let is_marked = markers.iter().any(|marker| marker.username == *username);
    if let Some(port) = rival(&markers, &marker, observed.stopped_proxy) {
        return Action::Refuse(Foreign::OtherProxy(port));
    }
    let existing = identities.get(username.as_str());
    if let Some(existing) = existing {
        if !existing.is_metrics_only() {
            return Action::Refuse(Foreign::OtherAccess);
        }
        if !is_marked && !adopt {
            return Action::Refuse(Foreign::Unmarked);
        }
    }
    let write = match (existing, observed.verification) {
        (Some(_), None) => return Action::Verify,
        (None, _) | (Some(_), Some(Verification::Fails)) => true,
        // An identity that cannot be verified is not overwritten: it may well work, and each write is logged by Pebble
        // as a security event.
        (Some(_), Some(Verification::Works | Verification::Unknown)) => false,
    };
    let remove = removals(&markers, identities, owner, Some(&marker));
    let renames = remove.iter().any(|name| Marker::parse(name).is_none());
    let mark: Vec<Marker> = (!markers.contains(&marker))
        .then_some(marker)
        .into_iter()
        .collect();
    if !write && mark.is_empty() && remove.is_empty() {
        return Action::Done;
    }
    let reason = match (write, existing) {
        _ if renames => ChangeReason::Renamed,
        (true, None) => ChangeReason::Created,
        (_, Some(_)) if !is_marked => ChangeReason::Adopted,
        (true, Some(_)) => ChangeReason::Rotated,
        (false, _) => ChangeReason::Tidied,
    };
    let change = Change {
        write: write.then(|| username.clone()),
        mark,
        remove,
    };
    Action::Change(change, reason)
}

fn revoke(remove: Vec<String>) -> Action {
    if remove.is_empty() {
        return Action::Done;
    }
    let change = Change {
        remove,
        ..Change::default()
    };
    Action::Change(change, ChangeReason::Revoked)
}

/// The port of another proxy that has the identity of `marker`. Where two proxies have marked it at the same moment, the
/// one with the lower port keeps it.
fn rival(markers: &BTreeSet<Marker>, marker: &Marker, stopped_proxy: Option<u16>) -> Option<u16> {
    let Owner::Secret(Some(own_port)) = marker.owner else {
        return None;
    };
    let is_ours = markers.contains(marker);
    markers
        .iter()
        .filter(|other| other.username == marker.username)
        .find_map(|other| match other.owner {
            Owner::Secret(Some(port)) if port != own_port && (!is_ours || port < own_port) => Some(port),
            _ => None,
        })
        .filter(|port| Some(*port) != stopped_proxy)
}

/// The names to remove: markers of `owner` other than `keep`, and the identities that they mark. An identity that
/// another writer has given other access belongs to that writer now and loses only its marker. A username that changes
/// its owner, for example from a command to the secret, loses the marker of the earlier owner.
fn removals(
    markers: &BTreeSet<Marker>,
    identities: &BTreeMap<String, IdentityInfo>,
    owner: Owner,
    keep: Option<&Marker>,
) -> Vec<String> {
    let is_same_name = |marker: &Marker| keep.is_some_and(|keep| keep.username == marker.username);
    let is_due = |marker: &Marker| match owner {
        // One secret, one identity: what the secret named before is removed. A marker without a port was written by a
        // version that ran alone under its Pebble.
        Owner::Secret(_) => {
            marker.owner == owner || marker.owner == Owner::Secret(None) || is_same_name(marker)
        }
        // A person may set several identities.
        Owner::Command => is_same_name(marker),
    };
    let mut remove = Vec::new();
    for marker in markers
        .iter()
        .filter(|marker| Some(*marker) != keep && is_due(marker))
    {
        let has_other_owner = markers
            .iter()
            .any(|other| other.username == marker.username && !is_due(other));
        let is_unchanged = identities
            .get(marker.username.as_str())
            .is_some_and(IdentityInfo::is_metrics_only);
        let name = marker.username.to_string();
        if is_unchanged && !is_same_name(marker) && !has_other_owner && !remove.contains(&name) {
            remove.push(name);
        }
        remove.push(marker.name());
    }
    remove
}

/// Why the same secret has to be written once more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Repetition {
    /// It was in force, and another writer has removed or changed it.
    pub is_drift: bool,
    /// It was written, and Pebble rejected it.
    pub is_retry: bool,
}

/// Decides whether a change may be written, or with which status the proxy leaves the identity alone. A first write is
/// never limited; the limiter counts repetitions only.
pub(super) fn attempt(repetition: Repetition, limiter: &mut WriteLimiter) -> Result<(), IdentityStatus> {
    let Repetition { is_drift, is_retry } = repetition;
    if !is_drift && !is_retry || limiter.try_acquire() {
        return Ok(());
    }
    Err(if is_retry {
        IdentityStatus::Rejected
    } else {
        IdentityStatus::Contested
    })
}

/// How one pass over the identities ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The identity is as desired; the result of the last verification.
    Applied(Option<Verification>),
    /// What had to be removed is removed.
    Removed,
    /// The name belongs to another writer.
    Foreign(Foreign),
    /// The limiter stopped it.
    Stopped(IdentityStatus),
    /// Pebble refused the write, in its own words.
    WriteRefused(String),
    /// Pebble does not let this process write; the condition `unprivileged` says so.
    Denied,
}

/// The status after a pass; `None` where the pass does not change it.
pub(super) fn conclude(outcome: Outcome) -> Option<IdentityStatus> {
    match outcome {
        Outcome::Applied(verification) => Some(match verification {
            Some(Verification::Works) => IdentityStatus::Verified,
            Some(Verification::Fails) => IdentityStatus::Rejected,
            Some(Verification::Unknown) | None => IdentityStatus::Unverified,
        }),
        Outcome::Foreign(foreign) => Some(IdentityStatus::Foreign(foreign)),
        Outcome::Stopped(status) => Some(status),
        Outcome::WriteRefused(message) => Some(IdentityStatus::WriteRefused(message)),
        Outcome::Removed | Outcome::Denied => None,
    }
}

/// Limits how often the same secret is written again while another writer keeps changing it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteLimiter {
    n_writes: u32,
    quiet_passes: u32,
}

/// How often the same secret is written again before the proxy stops.
const MAX_REPEATED_WRITES: u32 = 3;
/// After so many passes without a write, earlier writes are forgotten.
const QUIET_PASSES: u32 = 10;

impl WriteLimiter {
    /// Whether one more write is allowed; counts it.
    pub fn try_acquire(&mut self) -> bool {
        self.quiet_passes = 0;
        if self.is_exhausted() {
            return false;
        }
        self.n_writes += 1;
        true
    }

    /// Counts a pass in which nothing had to be written.
    pub fn count_quiet_pass(&mut self) {
        self.quiet_passes += 1;
        if self.quiet_passes >= QUIET_PASSES {
            *self = Self::default();
        }
    }

    /// Whether no further write is allowed.
    pub fn is_exhausted(&self) -> bool {
        self.n_writes >= MAX_REPEATED_WRITES
    }
}

/// What to do about the layer with the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerAction {
    /// The plan contains the checks.
    Done,
    /// Post the layer.
    Post,
    /// The plan contains the same checks for another proxy, on this port.
    OtherProxy(u16),
    /// The layer was posted, and the plan contains other checks under these names.
    Shadowed(BTreeSet<String>),
}

/// Decides what to do about the layer. `overruled` holds the checks that the plan had under these names after the last
/// post, where they were not the wanted ones: posting again changes nothing until the plan changes. A proxy whose checks
/// were in the plan before (`may_yield`) leaves them to another proxy that replaced them, so that two proxies under one
/// Pebble do not replace each other's checks for ever.
pub fn plan_layer(
    wanted: &BTreeMap<String, EffectiveCheck>,
    plan: &Plan,
    overruled: Option<&BTreeMap<String, EffectiveCheck>>,
    may_yield: bool,
) -> LayerAction {
    if plan.contains(wanted) {
        return LayerAction::Done;
    }
    let present = plan.checks_named_as(wanted);
    if may_yield && let Some(port) = other_proxy(wanted, &present) {
        return LayerAction::OtherProxy(port);
    }
    if overruled != Some(&present) {
        return LayerAction::Post;
    }
    LayerAction::Shadowed(
        wanted
            .iter()
            .filter(|(name, check)| present.get(*name) != Some(check))
            .map(|(name, _)| name.clone())
            .collect(),
    )
}

/// The port that all of these checks ask, where each differs from the wanted one by its URL's host and port only.
fn other_proxy(
    wanted: &BTreeMap<String, EffectiveCheck>,
    present: &BTreeMap<String, EffectiveCheck>,
) -> Option<u16> {
    let mut ports = BTreeSet::new();
    for (name, check) in wanted {
        let (ours, theirs) = (check.target()?, present.get(name)?.target()?);
        if ours.path != theirs.path || ours.port == theirs.port {
            return None;
        }
        ports.insert(theirs.port);
    }
    ports.first().copied().filter(|_| ports.len() == 1)
}

#[cfg(test)]
mod tests;
