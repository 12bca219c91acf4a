//! What the reconciler found, one enum per subject (pure).
//!
//! A status is decided once. The metric, the condition of `/readyz` and the notice for the charm are made from it here,
//! so that they cannot disagree, and no decision reads a text that was made for people.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::config::PebbleMode;
use crate::health::State;
use crate::pebble::Notice;
use crate::secret::Refusal;
use crate::telemetry::{IdentityState, LayerState};

/// The state of the identity that the secret asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityStatus {
    /// No secret is configured.
    NotConfigured,
    /// A secret is configured and `--pebble off` forbids to write it.
    PebbleOff,
    /// The secret has not been verified in Pebble yet.
    Pending,
    /// Pebble accepts the credential.
    Verified,
    /// The credential is written; whether Pebble accepts it cannot be found out.
    Unverified,
    /// The credential is written, and Pebble does not accept it.
    Rejected,
    /// Pebble refused to write the identity, in its own words.
    WriteRefused(String),
    /// The secret cannot be used; an identity written before stays.
    SecretRefused,
    /// There is no secret; its identity is removed after the grace period.
    SecretAbsent,
    /// An identity of the secret's username belongs to another writer.
    Foreign(Foreign),
    /// Another writer keeps changing the identity, and the proxy stopped restoring it.
    Contested,
    /// The proxy may not write identities, and the credential does not work.
    Unprivileged,
    /// The proxy may not write identities, and the credential works: another writer has set it.
    SetByAnother,
    /// Pebble cannot be reached.
    PebbleUnreachable,
    /// Pebble has no identities with passwords.
    PebbleTooOld,
}

impl IdentityStatus {
    /// The value of the metric's label `state`.
    pub fn metric(&self) -> IdentityState {
        match self {
            Self::NotConfigured => IdentityState::None,
            Self::Pending => IdentityState::Pending,
            Self::Verified | Self::SetByAnother => IdentityState::Verified,
            Self::Unverified => IdentityState::Unverified,
            Self::Rejected | Self::WriteRefused(_) => IdentityState::Rejected,
            Self::SecretRefused => IdentityState::Refused,
            Self::SecretAbsent => IdentityState::Absent,
            Self::Foreign(_) => IdentityState::Foreign,
            Self::Contested => IdentityState::Contested,
            Self::Unprivileged => IdentityState::Unprivileged,
            Self::PebbleOff | Self::PebbleUnreachable | Self::PebbleTooOld => IdentityState::Unavailable,
        }
    }

    /// The state of the condition `identity`; `None` where the process has no such condition.
    pub fn condition(&self) -> Option<State> {
        Some(match self {
            Self::NotConfigured => return None,
            Self::PebbleOff => State::unready("needs Pebble, which is off"),
            Self::Pending => State::unready("not verified yet"),
            Self::Verified => State::OK,
            Self::Unverified => State::note("written; whether Pebble accepts it cannot be verified"),
            Self::Rejected => State::unready("written, but Pebble rejects it"),
            Self::WriteRefused(message) => State::unready(format!("Pebble refused to write it: {message}")),
            Self::SecretRefused => State::note("kept as it was, because the secret cannot be used"),
            Self::SecretAbsent => State::note("removed, because there is no secret"),
            Self::Foreign(foreign) => State::unready(foreign.to_string()),
            Self::Contested => State::unready("contested; stop the other writer"),
            // What is missing is the permission, and that condition has the remedy.
            Self::Unprivileged => State::note("not set, because the proxy may not write in Pebble"),
            Self::SetByAnother => State::note("works, set by another writer"),
            Self::PebbleUnreachable => State::unready("Pebble cannot be reached"),
            Self::PebbleTooOld => State::unready("needs Pebble 1.19 or later"),
        })
    }

    /// The notice for the charm, where it has to act.
    pub fn notice(&self) -> Option<Notice> {
        match self {
            Self::Foreign(foreign) => Some(Notice::secret_refused(foreign.reason(), &foreign.to_string())),
            _ => None,
        }
    }

    /// Whether the credential works in Pebble, so that scrapes with it succeed.
    pub fn is_in_force(&self) -> bool {
        matches!(self, Self::Verified | Self::SetByAnother)
    }
}

/// Why an identity of the secret's username is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// It has another access than metrics, or another type than basic.
    OtherAccess,
    /// It has no owner marker.
    Unmarked,
    /// The secret of another proxy under the same Pebble, on this port, keeps it.
    OtherProxy(u16),
}

impl Foreign {
    /// The word in metrics and notices.
    pub fn reason(self) -> &'static str {
        match self {
            Self::OtherAccess => "other-access",
            Self::Unmarked => "unmarked",
            Self::OtherProxy(_) => "other-proxy",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherAccess => f.write_str("other access; pick another name"),
            Self::Unmarked => {
                f.write_str("name taken; use --adopt-identity (or set METRICS_PROXY_ADOPT_IDENTITY=true)")
            }
            Self::OtherProxy(port) => write!(
                f,
                "used by proxy :{port}; pick another (each proxy under one Pebble needs a username of its own)"
            ),
        }
    }
}

/// The state of the mounted secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretStatus {
    /// It holds a credential.
    Usable,
    /// This process has never seen one at this path.
    NotThere(PathBuf),
    /// There was one, and it disappeared.
    Disappeared,
    /// It cannot be used.
    Refused(Refusal),
}

impl SecretStatus {
    /// The state of the condition `secret`.
    pub fn condition(&self) -> State {
        match self {
            Self::Usable => State::OK,
            Self::NotThere(path) => {
                State::unready(format!("not there; mount or unset --secret: {}", path.display()))
            }
            Self::Disappeared => State::unready("disappeared; mount it again, or unset --secret"),
            Self::Refused(refusal) => State::unready(refusal.to_string()),
        }
    }

    /// The notice for the charm, where it has to act.
    pub fn notice(&self) -> Option<Notice> {
        match self {
            Self::Refused(refusal) => Some(Notice::secret_refused(refusal.reason(), &refusal.to_string())),
            _ => None,
        }
    }
}

/// The state of the proxy's checks in Pebble's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStatus {
    /// The plan contains them.
    Present,
    /// A later layer defines checks of these names.
    Shadowed(BTreeSet<String>),
    /// Another proxy under this Pebble, on this port, has the checks.
    OfAnotherProxy(u16),
    /// Pebble refused the layer, in its own words.
    Refused(String),
    /// The plan cannot be read, and why.
    Unreadable(String),
    /// The proxy may not read or write the plan.
    Unprivileged,
    /// Pebble cannot be reached.
    PebbleUnreachable,
}

impl LayerStatus {
    /// The value of the metric's label `state`.
    pub fn metric(&self) -> LayerState {
        match self {
            Self::Present => LayerState::Present,
            Self::Shadowed(_) | Self::OfAnotherProxy(_) => LayerState::Shadowed,
            Self::Refused(_) => LayerState::Missing,
            Self::Unreadable(_) | Self::Unprivileged | Self::PebbleUnreachable => LayerState::Unknown,
        }
    }

    /// The state of the condition `layer`.
    pub fn condition(&self) -> State {
        match self {
            Self::Present => State::OK,
            Self::Shadowed(names) => {
                let first = names.first().map_or("", String::as_str);
                let subject = match names.len() {
                    1 => format!("{first} shadowed"),
                    n => format!("{n} checks shadowed by a later layer"),
                };
                State::unready(format!(
                    "{subject}; another layer defines {}: rename its checks",
                    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ))
            }
            Self::OfAnotherProxy(port) => State::note(format!(
                "the checks of this plan ask the proxy on port {port}; add checks for this one in a layer of your own"
            )),
            Self::Refused(message) => State::unready(format!("Pebble refused it: {message}")),
            Self::Unreadable(error) => State::unready(error.clone()),
            Self::Unprivileged => State::note("unknown, because the proxy may not write in Pebble"),
            Self::PebbleUnreachable => State::note("unknown, because Pebble cannot be reached"),
        }
    }
}

/// The state of the connection to Pebble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PebbleStatus {
    /// No request has got a response yet.
    NotAskedYet,
    /// It responds; its version.
    Connected(String),
    /// It responds, and its version is older than 1.19.
    TooOld(String),
    /// Nothing listens on its socket.
    Absent(PathBuf),
    /// The socket exists, and this user may not connect to it.
    Forbidden {
        /// Where the socket is.
        socket: PathBuf,
        /// The user of this process.
        own_uid: u32,
    },
    /// Another user than root or the own one serves the socket, so that no credential is sent to it.
    Untrusted {
        /// The user who serves the socket.
        uid: u32,
        /// The user of this process.
        own_uid: u32,
    },
    /// It accepts connections and does not respond in time, or not completely.
    Unresponsive(PathBuf),
    /// It responds with something unexpected.
    Failed(String),
}

impl PebbleStatus {
    /// The state of the condition `pebble`: whether a problem makes the proxy unready is the mode's decision.
    pub fn condition(&self, mode: PebbleMode) -> State {
        match self {
            Self::Connected(version) => return State::ok(format!("version {version}")),
            Self::Absent(socket) if mode == PebbleMode::Auto => {
                return State::note(format!(
                    "not at its socket, running without: {}",
                    socket.display()
                ));
            }
            _ => {}
        }
        let text = self.problem();
        match mode {
            PebbleMode::Required => State::unready(text),
            PebbleMode::Auto | PebbleMode::Off => State::note(text),
        }
    }

    fn problem(&self) -> String {
        match self {
            Self::NotAskedYet => "not asked yet".to_owned(),
            Self::Connected(version) => format!("version {version}"),
            Self::TooOld(version) => too_old(version),
            Self::Absent(socket) => format!(
                "not at its socket; start Pebble, or set --pebble-socket: {}",
                socket.display()
            ),
            Self::Forbidden { socket, own_uid } => format!(
                "permission denied; let uid {own_uid} reach the socket, or run the service as Pebble's user: {}",
                socket.display()
            ),
            Self::Untrusted { uid, own_uid } => format!(
                "socket served by uid {uid}; no credential is sent to it, since it is neither root nor uid {own_uid}"
            ),
            Self::Unresponsive(socket) => format!(
                "does not respond; see `pebble checks` and its log: {}",
                socket.display()
            ),
            Self::Failed(error) => error.clone(),
        }
    }
}

/// What a Pebble that is too old is told to be, in `/readyz` and in `identity status`.
pub(super) fn too_old(version: &str) -> String {
    format!("{version} is older than 1.19; upgrade Pebble (Juju 3.6.4 or later brings it)")
}

/// Whether Pebble lets this process write layers and identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivilegeStatus {
    /// It does.
    Granted,
    /// It does not.
    Denied {
        /// The user of this process.
        own_uid: u32,
        /// The user who runs Pebble, where the kernel tells.
        pebble_uid: Option<u32>,
    },
}

impl PrivilegeStatus {
    /// The state of the condition `unprivileged`. It makes the proxy unready where an identity has to be written that is
    /// not in force.
    pub fn condition(self, is_identity_missing: bool) -> State {
        let Self::Denied { .. } = self else {
            return State::OK;
        };
        if is_identity_missing {
            State::unready(self.to_string())
        } else {
            State::note(self.to_string())
        }
    }

    /// The notice for the charm, where it has to act.
    pub fn notice(self) -> Option<Notice> {
        matches!(self, Self::Denied { .. }).then(|| Notice::permission_missing("pebble", &self.to_string()))
    }
}

impl fmt::Display for PrivilegeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Denied { own_uid, pebble_uid } = self else {
            return f.write_str("may write in Pebble");
        };
        let pebbles = pebble_uid.map_or_else(
            || "Pebble's own uid".to_owned(),
            |uid| format!("Pebble's uid {uid}"),
        );
        write!(
            f,
            "uid {own_uid} may not write in Pebble; run the service as {pebbles} (in Juju: no uid in charmcraft.yaml, \
             no user in the layer), or add an identity with access admin and local user-id {own_uid}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Severity;

    /// Metric, severity and text of each identity status: one row for each case.
    #[test]
    fn every_identity_status_has_one_metric_and_one_condition() {
        use IdentityState as M;
        use Severity::{Bad, Note, Ok};
        let rows = [
            (IdentityStatus::NotConfigured, M::None, None, false),
            (IdentityStatus::PebbleOff, M::Unavailable, Some(Bad), false),
            (IdentityStatus::Pending, M::Pending, Some(Bad), false),
            (IdentityStatus::Verified, M::Verified, Some(Ok), true),
            (IdentityStatus::Unverified, M::Unverified, Some(Note), false),
            (IdentityStatus::Rejected, M::Rejected, Some(Bad), false),
            (
                IdentityStatus::WriteRefused("x".to_owned()),
                M::Rejected,
                Some(Bad),
                false,
            ),
            (IdentityStatus::SecretRefused, M::Refused, Some(Note), false),
            (IdentityStatus::SecretAbsent, M::Absent, Some(Note), false),
            (
                IdentityStatus::Foreign(Foreign::Unmarked),
                M::Foreign,
                Some(Bad),
                false,
            ),
            (IdentityStatus::Contested, M::Contested, Some(Bad), false),
            (IdentityStatus::Unprivileged, M::Unprivileged, Some(Note), false),
            (IdentityStatus::SetByAnother, M::Verified, Some(Note), true),
            (
                IdentityStatus::PebbleUnreachable,
                M::Unavailable,
                Some(Bad),
                false,
            ),
            (IdentityStatus::PebbleTooOld, M::Unavailable, Some(Bad), false),
        ];
        for (status, metric, severity, is_in_force) in rows {
            assert_eq!(status.metric(), metric, "{status:?}");
            assert_eq!(
                status.condition().map(|state| state.severity()),
                severity,
                "{status:?}"
            );
            assert_eq!(status.is_in_force(), is_in_force, "{status:?}");
            assert_eq!(
                status.notice().is_some(),
                matches!(status, IdentityStatus::Foreign(_)),
                "{status:?}"
            );
        }
    }

    /// What only the mode decides: the same absence is a note where Pebble is optional.
    #[test]
    fn a_missing_pebble_is_bad_only_where_it_is_required() {
        let socket = PathBuf::from("/run/p");
        for status in [
            PebbleStatus::NotAskedYet,
            PebbleStatus::TooOld("v1.10.2".to_owned()),
            PebbleStatus::Absent(socket.clone()),
            PebbleStatus::Forbidden {
                socket: socket.clone(),
                own_uid: 1,
            },
            PebbleStatus::Untrusted { uid: 2, own_uid: 1 },
            PebbleStatus::Unresponsive(socket),
            PebbleStatus::Failed("x".to_owned()),
        ] {
            assert_eq!(
                status.condition(PebbleMode::Required).severity(),
                Severity::Bad,
                "{status:?}"
            );
            assert_eq!(
                status.condition(PebbleMode::Auto).severity(),
                Severity::Note,
                "{status:?}"
            );
        }
        let connected = PebbleStatus::Connected("v1.26.0".to_owned());
        assert_eq!(
            connected.condition(PebbleMode::Required),
            State::ok("version v1.26.0")
        );
    }

    #[test]
    fn a_problem_with_the_layer_names_the_remedy() {
        let one = LayerStatus::Shadowed(BTreeSet::from(["metrics-proxy-ready".to_owned()]));
        assert_eq!(
            one.condition(),
            State::unready(
                "metrics-proxy-ready shadowed; another layer defines metrics-proxy-ready: rename its checks"
            )
        );
        assert_eq!(
            LayerStatus::OfAnotherProxy(1).condition().severity(),
            Severity::Note
        );
        assert_eq!(LayerStatus::OfAnotherProxy(1).metric(), LayerState::Shadowed);
        assert_eq!(LayerStatus::Unprivileged.metric(), LayerState::Unknown);
    }

    #[test]
    fn a_missing_permission_is_bad_only_where_an_identity_waits_for_it() {
        let denied = PrivilegeStatus::Denied {
            own_uid: 65534,
            pebble_uid: Some(0),
        };
        assert_eq!(denied.condition(true).severity(), Severity::Bad);
        assert_eq!(denied.condition(false).severity(), Severity::Note);
        assert_eq!(PrivilegeStatus::Granted.condition(true), State::OK);
        assert!(
            denied
                .to_string()
                .starts_with("uid 65534 may not write in Pebble; run the service as Pebble's uid 0")
        );
        assert!(denied.notice().is_some());
        assert_eq!(PrivilegeStatus::Granted.notice(), None);
    }

    /// The body of a failing `/readyz` has 45 bytes: the first clause says what is wrong.
    #[test]
    fn the_first_clause_fits_the_body_that_pebble_shows() {
        let texts = [
            SecretStatus::NotThere(PathBuf::from("/secret")).condition(),
            SecretStatus::Disappeared.condition(),
            IdentityStatus::Rejected.condition().unwrap(),
            IdentityStatus::Foreign(Foreign::Unmarked).condition().unwrap(),
            IdentityStatus::Foreign(Foreign::OtherAccess).condition().unwrap(),
            IdentityStatus::Foreign(Foreign::OtherProxy(65535))
                .condition()
                .unwrap(),
            LayerStatus::Shadowed(BTreeSet::from(["metrics-proxy-identity".to_owned()])).condition(),
            PebbleStatus::Absent(PathBuf::from("/x")).condition(PebbleMode::Required),
        ];
        for state in texts {
            let text = state.text().unwrap_or_default();
            let clause = text.split([';', ',', ':']).next().unwrap_or_default();
            assert!(clause.len() <= 33, "{text}");
        }
    }
}
