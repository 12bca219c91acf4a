//! `/v1/identities`, and password hashes that Pebble verifies.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sha_crypt::{PasswordHasher as _, ShaCrypt};
use zeroize::Zeroizing;

use super::{Client, Marker, PebbleError, Version};
use crate::credential::{Password, Username};

/// An identity as Pebble lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IdentityInfo {
    /// `metrics`, `read`, `admin`, `untrusted`.
    pub access: String,
    /// Everything else, by type: `basic`, `local`, `cert`.
    #[serde(flatten)]
    types: BTreeMap<String, Value>,
}

impl IdentityInfo {
    /// An identity of these types, for tests.
    pub fn new(access: &str, types: &[&str]) -> Self {
        Self {
            access: access.to_owned(),
            types: types
                .iter()
                .map(|name| ((*name).to_owned(), Value::Null))
                .collect(),
        }
    }

    /// Whether it is of the kind that the proxy writes: metrics access, a password, nothing else.
    pub fn is_metrics_only(&self) -> bool {
        self.access == "metrics" && self.types.len() == 1 && self.types.contains_key("basic")
    }
}

/// One atomic change of identities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The identity to write.
    pub write: Option<Username>,
    /// Markers to set.
    pub mark: Vec<Marker>,
    /// Names to remove; Pebble ignores one that it does not have.
    pub remove: Vec<String>,
}

impl Change {
    fn to_json(&self, version: &Version, hash: Option<&str>) -> Value {
        // No password hashes to `!`, so that a marker cannot log in, and `untrusted` could do nothing. Before 1.26 Pebble
        // accepts a password with access metrics only.
        let access = if version.has_untrusted_passwords() {
            "untrusted"
        } else {
            "metrics"
        };
        let mut identities = serde_json::Map::new();
        for name in &self.remove {
            identities.insert(name.clone(), Value::Null);
        }
        for marker in &self.mark {
            identities.insert(
                marker.name(),
                json!({"access": access, "basic": {"password": "!"}}),
            );
        }
        if let (Some(username), Some(hash)) = (&self.write, hash) {
            identities.insert(
                username.to_string(),
                json!({"access": "metrics", "basic": {"password": hash}}),
            );
        }
        json!({"action": "replace", "identities": identities})
    }
}

/// Hashes a password in the one form that Pebble verifies: sha512-crypt, 16 characters of fresh salt, no `rounds=`.
///
/// With `rounds=` Pebble's library accepts salts of one length only. The default of 5,000 rounds stands for itself; more
/// rounds would cost each scrape of Pebble more time under its global lock.
pub fn hash_password(password: &Password) -> Zeroizing<String> {
    // 12 bytes are 16 characters of the salt's alphabet.
    hash_with_salt(password.expose(), &rand::random::<[u8; 12]>())
}

fn hash_with_salt(password: &[u8], salt: &[u8; 12]) -> Zeroizing<String> {
    let hash = ShaCrypt::SHA512
        .hash_password_with_salt(password, salt)
        .expect("a salt of 12 bytes and the default rounds are valid");
    Zeroizing::new(hash.as_str().replacen("rounds=5000$", "", 1))
}

impl Client {
    /// All identities, by name.
    pub async fn identities(&self) -> Result<BTreeMap<String, IdentityInfo>, PebbleError> {
        Ok(self.get::<Option<_>>("/v1/identities").await?.unwrap_or_default())
    }

    /// Applies a change, all of it or nothing, to a Pebble of this version. `password` is that of [`Change::write`].
    pub async fn change_identities(
        &self,
        version: &Version,
        change: &Change,
        password: Option<&Password>,
    ) -> Result<(), PebbleError> {
        let hash = password.map(hash_password);
        let body = change.to_json(version, hash.as_deref().map(String::as_str));
        self.post("/v1/identities", &body).await.map(|_| ())
    }

    /// Finds out whether this process may write, by a change that changes nothing. A refusal makes Pebble log a CRITICAL
    /// line.
    pub async fn is_admin(&self) -> Result<bool, PebbleError> {
        match self
            .change_identities(&Version::default(), &Change::default(), None)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is_denied() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Owner;
    use super::*;

    /// Checked with `openssl passwd -6 -salt ................ hunter2`.
    #[test]
    fn hashes_have_the_one_form_that_pebble_verifies() {
        assert_eq!(
            *hash_with_salt(b"hunter2", &[0; 12]),
            "$6$................$JMPbrUgMfC4x3rpDPHokEwO35ryG27a42dVvEcLED3VBjg25mxxgQjw85m2kLknnBfmIInhZqCvBSJdiNNYNe1"
        );
        let password = Password::try_new(Zeroizing::new(b"hunter2".to_vec())).unwrap();
        let (a, b) = (hash_password(&password), hash_password(&password));
        assert_ne!(a, b, "fresh salt");
        let parts: Vec<_> = a.split('$').collect();
        assert_eq!(
            (parts.len(), parts[1], parts[2].len(), parts[3].len()),
            (4, "6", 16, 86)
        );
    }

    #[test]
    fn a_change_is_one_call() {
        let user = |name| Username::parse(name).unwrap();
        let change = Change {
            write: Some(user("new")),
            mark: vec![Marker::new(user("new"), Owner::Secret(Some(15090)))],
            remove: vec!["old".to_owned(), "metrics-proxy-owner--old".to_owned()],
        };
        for (version, access) in [
            ("v1.26.0", "untrusted"),
            ("v1.19.0", "metrics"),
            ("unknown", "untrusted"),
        ] {
            assert_eq!(
                change.to_json(&Version::from(version.to_owned()), Some("$6$x$y")),
                json!({"action": "replace", "identities": {
                    "old": null,
                    "metrics-proxy-owner--old": null,
                    "new": {"access": "metrics", "basic": {"password": "$6$x$y"}},
                    "metrics-proxy-owner--15090-new": {"access": access, "basic": {"password": "!"}},
                }})
            );
        }
    }

    #[test]
    fn only_metrics_with_a_password_counts_as_our_kind() {
        let check = |json: Value| {
            serde_json::from_value::<IdentityInfo>(json)
                .unwrap()
                .is_metrics_only()
        };
        assert!(check(
            json!({"access": "metrics", "basic": {"password": "*****"}})
        ));
        assert!(!check(json!({"access": "admin", "basic": {"password": "*****"}})));
        assert!(!check(json!({"access": "metrics", "local": {"user-id": 1}})));
        assert!(!check(
            json!({"access": "metrics", "basic": {"password": "*****"}, "local": {"user-id": 1}})
        ));
    }
}
