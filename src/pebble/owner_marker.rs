//! Names of Pebble identities, and how ours are marked.
//!
//! Pebble lists names but not who wrote them, so beside each identity of ours stands a marker: an identity that cannot
//! log in, whose name tells which name is ours. Both are written in one atomic call, and both live as long as each
//! other, so ownership survives our restart and Pebble's.

use serde::Serialize;

use crate::credential::{OWNER_MARKER_PREFIX as PREFIX, Username};

/// After the prefix, before the name of an identity that was set by hand. No username begins with it.
const BY_HAND: &str = "_";

/// Who wrote an identity of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// The service, from the mounted secret: goes with the secret.
    Secret,
    /// A person or charm, with `metrics-proxy identity set`: stays until it is removed by hand.
    ByHand,
}

/// The marker of one identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marker {
    /// The identity that is ours.
    pub username: Username,
    /// How it came.
    pub ownership: Ownership,
}

impl Marker {
    /// The marker of this identity.
    pub fn new(username: Username, ownership: Ownership) -> Self {
        Self { username, ownership }
    }

    /// The marker's own name as an identity.
    pub fn name(&self) -> String {
        match self.ownership {
            Ownership::Secret => format!("{PREFIX}{}", self.username),
            Ownership::ByHand => format!("{PREFIX}{BY_HAND}{}", self.username),
        }
    }

    /// Reads the name of an identity, if it is that of a marker.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        let (rest, ownership) = match rest.strip_prefix(BY_HAND) {
            Some(rest) => (rest, Ownership::ByHand),
            None => (rest, Ownership::Secret),
        };
        Username::parse(rest)
            .ok()
            .map(|username| Self { username, ownership })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::UsernameError;

    proptest! {
        #[test]
        fn a_marker_tells_its_username(name in "[a-zA-Z][a-zA-Z0-9_-]{0,20}", by_hand: bool) {
            prop_assume!(Username::parse(&name).is_ok());
            let ownership = if by_hand { Ownership::ByHand } else { Ownership::Secret };
            let marker = Marker::new(Username::parse(&name).unwrap(), ownership);
            prop_assert_eq!(Marker::parse(&marker.name()), Some(marker.clone()));
            prop_assert_eq!(Username::parse(&marker.name()), Err(UsernameError::Marker));
        }

        /// The prefix alone, cut short, in another case, or before what is no username marks nothing.
        #[test]
        fn no_other_name_is_a_marker(
            prefix in proptest::sample::select(vec![
                "", "metrics-proxy-owner-", "Metrics-proxy-owner--", "xmetrics-proxy-owner--", "metrics_proxy-owner--",
            ]),
            name in "[a-zA-Z][a-zA-Z0-9_]{0,20}",
            bad in "(_{0,2}|_?charm|_?[0-9].{0,5}|_?[a-z]{1,3}[.@ ].{0,5}|_?metrics-proxy-owner--[a-z]{0,3})",
        ) {
            prop_assert_eq!(Marker::parse(&format!("{prefix}{name}")), None);
            prop_assert_eq!(Marker::parse(&format!("{PREFIX}{bad}")), None);
        }
    }
}
