//! A username and a password as Pebble accepts them (core).
//!
//! The mounted secret is parsed into a [`Credential`], and Pebble's API takes one. A [`Password`] is wiped when it is
//! dropped, and its `Debug` prints `***`.

use std::fmt;

use serde::Serialize;
use zeroize::Zeroizing;

/// Longest password, in bytes. Pebble's work for one attempt grows with the square of the length, and it holds a global
/// lock meanwhile.
pub const MAX_PASSWORD_BYTES: usize = 128;

/// The name of every owner marker begins with this, so that no username may.
pub const OWNER_MARKER_PREFIX: &str = "metrics-proxy-owner--";

/// A username that Pebble accepts and that belongs neither to Juju nor to an owner marker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Username(String);

/// Why a username cannot become an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsernameError {
    /// The text is empty.
    #[error("username empty; set one")]
    Empty,
    /// Pebble refuses a name with these characters; the name, which is no secret.
    #[error("use username [a-zA-Z][a-zA-Z0-9_-]*, not {0:?}")]
    Syntax(String),
    /// Juju has an identity of this name in every workload container.
    #[error("username charm is Juju's own")]
    Charm,
    /// The name begins with [`OWNER_MARKER_PREFIX`].
    #[error("username begins like our marker")]
    Marker,
}

impl Username {
    /// Checks a name. Source of the syntax: Pebble `internals/overlord/identities/identities.go`.
    ///
    /// # Errors
    /// Where Pebble refuses the name, or where it is reserved.
    pub fn parse(text: &str) -> Result<Self, UsernameError> {
        let mut bytes = text.bytes();
        match bytes.next() {
            None => return Err(UsernameError::Empty),
            Some(first) if !first.is_ascii_alphabetic() => return Err(syntax_error(text)),
            Some(_) => {}
        }
        if !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(syntax_error(text));
        }
        if text == "charm" {
            return Err(UsernameError::Charm);
        }
        if text.starts_with(OWNER_MARKER_PREFIX) {
            return Err(UsernameError::Marker);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name of any length may come from a file; so much of it is printed.
const PRINTED_CHARS: usize = 64;

fn syntax_error(text: &str) -> UsernameError {
    let mut printed: String = text.chars().take(PRINTED_CHARS).collect();
    if printed.len() < text.len() {
        printed.push_str("...");
    }
    UsernameError::Syntax(printed)
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A password, wiped when it is dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

/// Why bytes cannot be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// There are no bytes.
    #[error("password empty; set one")]
    Empty,
    /// There are more than [`MAX_PASSWORD_BYTES`].
    #[error("password over {MAX_PASSWORD_BYTES} bytes")]
    Long,
    /// One of them is a NUL byte.
    #[error("NUL byte in password")]
    Nul,
}

impl Password {
    /// Checks the bytes of a password and keeps them.
    ///
    /// # Errors
    /// Where they are empty, too long, or contain a NUL byte.
    pub fn try_new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, PasswordError> {
        if bytes.is_empty() {
            Err(PasswordError::Empty)
        } else if bytes.contains(&0) {
            Err(PasswordError::Nul)
        } else if bytes.len() > MAX_PASSWORD_BYTES {
            Err(PasswordError::Long)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The bytes, for hashing and for the Authorization header only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A username and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name of the identity.
    pub username: Username,
    /// Its password.
    pub password: Password,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<(), UsernameError>) {
        assert_eq!(Username::parse(text).map(|_| ()), expect, "{text:?}");
    }

    #[test]
    fn pebbles_names_are_accepted_and_reserved_ones_are_not() {
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
            check(bad, Err(UsernameError::Syntax(bad.to_owned())));
        }
        let long = "@".repeat(65);
        check(&long, Err(UsernameError::Syntax(format!("{}...", &long[..64]))));
        check("charm", Err(UsernameError::Charm));
        check("metrics-proxy-owner--x", Err(UsernameError::Marker));
        check("metrics-proxy-owner--", Err(UsernameError::Marker));
    }

    #[test]
    fn a_password_is_never_printed() {
        let credential = Credential {
            username: Username::parse("alice").unwrap(),
            password: Password::try_new(Zeroizing::new(b"hunter2".to_vec())).unwrap(),
        };
        let printed = format!("{credential:?}");
        assert!(!printed.contains("hunter2"));
        assert!(printed.contains("***"));
    }
}
