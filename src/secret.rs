//! The mounted secret: read, understood, watched (shell; what understands it, `parse`, is pure).
//!
//! A directory with one file a key (a Kubernetes Secret volume, or files that the charm pushed), or one file: a map in
//! YAML or JSON, or what `juju show-secret --reveal` prints. Passwords live in [`Password`], which is wiped when it is
//! dropped and never shown.

mod parse;
mod read;
mod watch;

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use zeroize::Zeroizing;

pub use parse::{parse_entries, parse_file};
pub use read::read;
pub use watch::{Believed, Watcher};

use crate::layer::{Username, UsernameError};

/// Longest password, in bytes. Pebble's work on a guess grows with the square of its length, under a global lock.
pub const MAX_PASSWORD_BYTES: usize = 128;

/// A password, wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Checks and keeps a password.
    pub fn try_new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            Err(Refusal::EmptyPassword)
        } else if bytes.contains(&0) {
            Err(Refusal::Nul("password"))
        } else if bytes.len() > MAX_PASSWORD_BYTES {
            Err(Refusal::LongPassword)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The bytes, to hash or to send, nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Becomes the name of an identity.
    pub username: Username,
    /// Its password.
    pub password: Password,
}

/// Why a secret cannot be used; the identity that was in force stays then.
///
/// Short, since these are what `pebble checks` shows after `secret: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A key is not there; both are named where both are missing.
    #[error("{0} missing; add that key")]
    Missing(&'static str),
    /// Neither key is there, but something else is.
    #[error("needs keys username and password")]
    NoKeys,
    /// Not a name for an identity.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// Nothing in it.
    #[error("password empty; set one")]
    EmptyPassword,
    /// Too long.
    #[error("password over {MAX_PASSWORD_BYTES} bytes")]
    LongPassword,
    /// A NUL byte.
    #[error("NUL byte in {0}")]
    Nul(&'static str),
    /// A number, list or map where a text belongs.
    #[error("{0} is no text; quote it")]
    NotText(&'static str),
    /// The same key twice.
    #[error("{0} is there twice")]
    Twice(&'static str),
    /// More than one secret.
    #[error("two secrets in one file; keep one")]
    Several,
    /// `juju show-secret` without `--reveal`.
    #[error("no content; use --reveal")]
    NotRevealed,
    /// Neither YAML nor JSON.
    #[error("not a YAML or JSON map")]
    Syntax,
    /// Larger than any secret.
    #[error("over {} bytes", read::MAX_FILE_BYTES)]
    Large,
    /// A directory, pipe or device where a file belongs.
    #[error("{0} is not a file")]
    NotFile(&'static str),
    /// The operating system refused.
    #[error("cannot read: {0}")]
    Io(std::io::ErrorKind),
}

impl Refusal {
    /// The word for metrics and notices.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::NoKeys | Self::NotRevealed => "missing",
            Self::Username(_) => "username",
            Self::EmptyPassword => "empty",
            Self::LongPassword => "long",
            Self::Nul(_) => "nul",
            Self::Several | Self::Twice(_) => "several",
            Self::NotText(_) | Self::Syntax | Self::Large | Self::NotFile(_) => "syntax",
            Self::Io(_) => "unreadable",
        }
    }
}

/// One look at the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// No path, or no entry in it at all.
    Absent,
    /// Something is there that cannot be used.
    Refused(Refusal),
    /// A credential.
    Usable(Credential),
}

/// Tells two readings apart without keeping them: a hash under a key that only this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// Makes fingerprints.
#[derive(Debug, Clone, Default)]
pub struct Fingerprints(RandomState);

impl Fingerprints {
    /// The fingerprint of a reading.
    pub fn of(&self, reading: &Reading) -> Fingerprint {
        Fingerprint(match reading {
            Reading::Absent => self.0.hash_one(0_u8),
            Reading::Refused(refusal) => self.0.hash_one((1_u8, refusal.to_string())),
            Reading::Usable(credential) => {
                self.0
                    .hash_one((2_u8, credential.username.as_str(), credential.password.expose()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let credential = Credential {
            username: Username::parse("alice").unwrap(),
            password: Password::try_new(Zeroizing::new(b"hunter2".to_vec())).unwrap(),
        };
        let reading = Reading::Usable(credential);
        assert!(!format!("{reading:?}").contains("hunter2"));
        assert!(format!("{reading:?}").contains("***"));
    }

    #[test]
    fn reasons_fit_what_pebble_checks_shows() {
        for refusal in [
            Refusal::Missing("username"),
            Refusal::NoKeys,
            Refusal::EmptyPassword,
            Refusal::LongPassword,
            Refusal::Nul("password"),
            Refusal::NotText("password"),
            Refusal::Twice("password"),
            Refusal::Several,
            Refusal::NotRevealed,
            Refusal::Syntax,
            Refusal::Large,
            Refusal::NotFile("password"),
            Refusal::Io(std::io::ErrorKind::PermissionDenied),
        ] {
            let body = format!("secret: {refusal}\n");
            assert!(body.len() <= 45, "{body}");
        }
    }
}
