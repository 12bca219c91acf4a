//! Owner markers: how the proxy's own identities are told from other writers'.
//!
//! Pebble lists the names of identities but not who wrote them. Beside each identity of the proxy stands an owner
//! marker: an identity that cannot log in and whose name contains the username. Both are written in one atomic call and
//! Pebble keeps both equally long, so that ownership survives a restart of either program.
//!
//! | name of the marker | owner of `alice` |
//! | --- | --- |
//! | `metrics-proxy-owner--15090-alice` | the secret of the proxy on port 15090 |
//! | `metrics-proxy-owner--alice` | the secret of a proxy that did not name itself yet |
//! | `metrics-proxy-owner--_alice` | a person or a charm, by `metrics-proxy identity set` |

use serde::{Serialize, Serializer};

use crate::credential::{OWNER_MARKER_PREFIX, Username};

/// Stands before a username that was set by a command. No username begins with it.
const BY_COMMAND: &str = "_";

/// Who wrote an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The service, from the mounted secret: the identity is removed with the secret. Two proxies under one Pebble have
    /// different ports; `None` is a marker of a version that did not write the port.
    Secret(Option<u16>),
    /// The command `metrics-proxy identity set`: the identity stays until it is removed by command.
    Command,
}

impl Owner {
    /// Whether the mounted secret of some proxy keeps the identity.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret(_))
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_secret() { "secret" } else { "by-hand" })
    }
}

/// The owner marker of one identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marker {
    /// The identity that is owned.
    pub username: Username,
    /// Who owns it.
    pub owner: Owner,
}

impl Marker {
    /// The marker of this identity and owner.
    pub fn new(username: Username, owner: Owner) -> Self {
        Self { username, owner }
    }

    /// The marker's own name as an identity.
    pub fn name(&self) -> String {
        let username = &self.username;
        match self.owner {
            Owner::Secret(Some(port)) => format!("{OWNER_MARKER_PREFIX}{port}-{username}"),
            Owner::Secret(None) => format!("{OWNER_MARKER_PREFIX}{username}"),
            Owner::Command => format!("{OWNER_MARKER_PREFIX}{BY_COMMAND}{username}"),
        }
    }

    /// Parses the name of an identity; `None` where it is not an owner marker's.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(OWNER_MARKER_PREFIX)?;
        let (owner, username) = if let Some(username) = rest.strip_prefix(BY_COMMAND) {
            (Owner::Command, username)
        } else if rest.starts_with(|first: char| first.is_ascii_digit()) {
            let (port, username) = rest.split_once('-')?;
            // Only the one form that is written: two names must not be the same marker.
            let number: u16 = port
                .parse()
                .ok()
                .filter(|number: &u16| number.to_string() == port)?;
            (Owner::Secret(Some(number)), username)
        } else {
            (Owner::Secret(None), rest)
        };
        let username = Username::parse(username).ok()?;
        Some(Self { username, owner })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::UsernameError;

    #[test]
    fn markers_of_every_version_are_parsed() {
        let alice = |owner| Some(Marker::new(Username::parse("alice").unwrap(), owner));
        for (name, expect) in [
            ("metrics-proxy-owner--alice", alice(Owner::Secret(None))),
            (
                "metrics-proxy-owner--15090-alice",
                alice(Owner::Secret(Some(15090))),
            ),
            ("metrics-proxy-owner--_alice", alice(Owner::Command)),
            ("metrics-proxy-owner--", None),
            ("metrics-proxy-owner--15090", None),
            ("metrics-proxy-owner--15090-", None),
            ("metrics-proxy-owner--015090-alice", None),
            ("metrics-proxy-owner--99999-alice", None),
            ("metrics-proxy-owner---15090-alice", None),
            ("metrics-proxy-owner-alice", None),
            ("alice", None),
        ] {
            assert_eq!(Marker::parse(name), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_marker_tells_its_username_and_its_owner(
            name in "[a-zA-Z][a-zA-Z0-9_-]{0,20}",
            owner in prop_oneof![
                Just(Owner::Command),
                Just(Owner::Secret(None)),
                (1_u16..).prop_map(|port| Owner::Secret(Some(port))),
            ],
        ) {
            prop_assume!(Username::parse(&name).is_ok());
            let marker = Marker::new(Username::parse(&name).unwrap(), owner);
            prop_assert_eq!(Marker::parse(&marker.name()), Some(marker.clone()));
            prop_assert_eq!(Username::parse(&marker.name()), Err(UsernameError::Marker));
        }

        /// Neither a username, nor a prefix that differs, nor the prefix before anything but an owned username.
        #[test]
        fn no_other_name_is_a_marker(
            prefix in proptest::sample::select(vec![
                "", "metrics-proxy-owner-", "Metrics-proxy-owner--", "xmetrics-proxy-owner--", "metrics_proxy-owner--",
            ]),
            name in "[a-zA-Z][a-zA-Z0-9_]{0,20}",
            bad in "(_{0,2}|_?charm|_?[0-9]{1,3}[a-z]{1,3}|_?[a-z]{1,3}[.@ ].{0,5}|_?metrics-proxy-owner--[a-z]{0,3})",
        ) {
            prop_assert_eq!(Marker::parse(&format!("{prefix}{name}")), None);
            prop_assert_eq!(Marker::parse(&format!("{OWNER_MARKER_PREFIX}{bad}")), None);
        }
    }
}
