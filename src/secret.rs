//! The mounted secret: read (`mount`), parsed (`layouts`, pure), debounced and watched (shell).
//!
//! It is a directory with one file per key (a Kubernetes Secret volume, or files that the charm pushed), or one file: a
//! map in YAML or JSON, or what `juju show-secret --reveal` prints. Passwords live in [`crate::credential::Password`], which is wiped when it is
//! dropped and never shown.

mod debounce;
mod layouts;
mod mount;
mod watcher;
mod yaml_text;

use std::hash::{BuildHasher, RandomState};

pub use debounce::StableSecret;
pub use layouts::{parse_entries, parse_file};
pub use mount::read;
pub use watcher::Watcher;

use crate::credential::{Credential, PasswordError, UsernameError};

/// Why a secret cannot be used. An identity that was written before stays.
///
/// The texts are short, because `pebble checks` shows them after `secret: `.
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
    /// Not a password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A NUL byte.
    #[error("NUL byte in {0}")]
    Nul(&'static str),
    /// A character before or after the value that an editor or a tool has added, and that a scraper would have to send.
    #[error("{0}; write it without")]
    Stray(#[from] Stray),
    /// A number, list or map where a text belongs.
    #[error("{0} is no string; quote it")]
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
    #[error("over {} bytes", mount::MAX_FILE_BYTES)]
    Large,
    /// A directory, pipe or device where a file belongs.
    #[error("{0} is not a file")]
    NotFile(&'static str),
    /// The user of this process may not read it.
    #[error("permission denied for uid {0}; let it read the files")]
    Forbidden(u32),
    /// Another error of the operating system.
    #[error("cannot read: {0}")]
    Io(std::io::ErrorKind),
}

impl Refusal {
    /// The word for metrics and notices.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::NoKeys | Self::NotRevealed => "missing",
            Self::Username(_) => "username",
            Self::Password(PasswordError::Empty) => "empty",
            Self::Password(PasswordError::Long) => "long",
            Self::Nul(_) | Self::Password(PasswordError::Nul) => "nul",
            Self::Several | Self::Twice(_) => "several",
            Self::NotText(_) | Self::Syntax | Self::Large | Self::NotFile(_) => "syntax",
            Self::Stray(_) => "stray",
            Self::Io(_) | Self::Forbidden(_) => "unreadable",
        }
    }
}

/// A character that does not belong to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stray {
    /// From a file with CRLF line ends.
    #[error("{0} ends in a carriage return")]
    CarriageReturn(&'static str),
    /// White space after the one final newline.
    #[error("{0} ends in white space")]
    WhiteSpace(&'static str),
    /// As editors of Windows write it.
    #[error("{0} has a byte order mark")]
    ByteOrderMark(&'static str),
}

/// The secret as it was read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// No path, or no entry in it at all.
    Absent,
    /// Something is there that cannot be used.
    Refused(Refusal),
    /// A credential.
    Usable(Credential),
}

/// Tells two readings apart without keeping them: a hash with a key that only this process knows.
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
    fn reasons_fit_what_pebble_checks_shows() {
        for refusal in [
            Refusal::Missing("username"),
            Refusal::NoKeys,
            Refusal::Username(UsernameError::Empty),
            Refusal::Username(UsernameError::Syntax("a.b".to_owned())),
            Refusal::Username(UsernameError::Charm),
            Refusal::Username(UsernameError::Marker),
            Refusal::Password(PasswordError::Empty),
            Refusal::Password(PasswordError::Long),
            Refusal::Password(PasswordError::Nul),
            Refusal::Nul("username"),
            Refusal::Stray(Stray::CarriageReturn("password")),
            Refusal::Stray(Stray::WhiteSpace("password")),
            Refusal::Stray(Stray::ByteOrderMark("password")),
            Refusal::NotText("password"),
            Refusal::Twice("password"),
            Refusal::Several,
            Refusal::NotRevealed,
            Refusal::Syntax,
            Refusal::Large,
            Refusal::NotFile("password"),
            Refusal::Forbidden(584_792),
        ] {
            let text = refusal.to_string();
            let clause = text.split([';', ',']).next().unwrap_or_default();
            let body = format!("secret: {clause}\n");
            assert!(body.len() <= 45, "{body}");
        }
    }
}
