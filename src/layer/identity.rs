//! Names of Pebble identities, and how ours are marked.
//!
//! Pebble lists names but not who wrote them, so beside each identity of ours stands a marker: an identity that cannot
//! log in, whose name tells which name is ours. Both are written in one atomic call, and both live as long as each
//! other, so ownership survives our restart and Pebble's.

use std::fmt;

use serde::Serialize;

/// A username that Pebble takes and that is neither Juju's nor a marker's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Username(String);

/// Why a username cannot be an identity of ours. Short: Pebble shows 45 bytes of a check's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsernameError {
    /// Nothing there.
    #[error("username empty; set one")]
    Empty,
    /// Outside of what Pebble takes.
    #[error("use username [a-zA-Z][a-zA-Z0-9_-]*")]
    Syntax,
    /// Juju's own identity in every workload container.
    #[error("username charm is Juju's own")]
    Charm,
    /// Begins like a marker.
    #[error("username begins like our marker")]
    Marker,
}

const PREFIX: &str = "metrics-proxy-owner--";
/// After the prefix, before the name of an identity set by hand. No username begins with it.
const BY_HAND: &str = "_";

impl Username {
    /// Source of the syntax: Pebble `internals/overlord/identities/identities.go`.
    pub fn parse(text: &str) -> Result<Self, UsernameError> {
        let mut bytes = text.bytes();
        match bytes.next() {
            None => return Err(UsernameError::Empty),
            Some(first) if !first.is_ascii_alphabetic() => return Err(UsernameError::Syntax),
            Some(_) => {}
        }
        if !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(UsernameError::Syntax);
        }
        if text == "charm" {
            return Err(UsernameError::Charm);
        }
        if text.starts_with(PREFIX) {
            return Err(UsernameError::Marker);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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

    #[track_caller]
    fn check(text: &str, expect: Result<(), UsernameError>) {
        assert_eq!(Username::parse(text).map(|_| ()), expect, "{text:?}");
    }

    #[test]
    fn pebbles_names_and_no_reserved_ones() {
        for good in [
            "a",
            "alice",
            "A-b_9",
            "charmed",
            "Charm",
            "metrics-proxy-owner-",
            "metrics-proxy",
        ] {
            check(good, Ok(()));
        }
        check("", Err(UsernameError::Empty));
        for bad in ["1a", "-a", "_a", "a.b", "a@b", "a b", "ä", "aä", "a\n", "a:b"] {
            check(bad, Err(UsernameError::Syntax));
        }
        check("charm", Err(UsernameError::Charm));
        check("metrics-proxy-owner--x", Err(UsernameError::Marker));
        check("metrics-proxy-owner--", Err(UsernameError::Marker));
    }

    #[test]
    fn reasons_fit_what_pebble_checks_shows() {
        for error in [
            UsernameError::Empty,
            UsernameError::Syntax,
            UsernameError::Charm,
            UsernameError::Marker,
        ] {
            assert!(format!("secret: {error}\n").len() <= 45, "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_marker_tells_its_username(name in "[a-zA-Z][a-zA-Z0-9_-]{0,20}", by_hand: bool) {
            prop_assume!(Username::parse(&name).is_ok());
            let ownership = if by_hand { Ownership::ByHand } else { Ownership::Secret };
            let marker = Marker::new(Username::parse(&name).unwrap(), ownership);
            prop_assert_eq!(Marker::parse(&marker.name()), Some(marker.clone()));
            prop_assert_eq!(Username::parse(&marker.name()), Err(UsernameError::Marker));
        }

        #[test]
        fn no_other_name_is_a_marker(name in "[a-zA-Z][a-zA-Z0-9_-]{0,20}") {
            prop_assert_eq!(Marker::parse(&name), None);
        }
    }
}
