//! `/v1/identities`, hashes that Pebble verifies, and the proof that a credential works.
//!
//! Pebble never shows a hash again, so "is it right already?" is answered by trying the credential.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use sha_crypt::{PasswordHasher as _, ShaCrypt};
use zeroize::Zeroizing;

use super::{Client, PebbleError};
use crate::layer::{Marker, Username};
use crate::secret::{Credential, Password};

/// How long a proof may take: a hash or two under Pebble's global lock.
const PROOF_LIMIT: Duration = Duration::from_secs(5);

/// An identity as Pebble shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IdentityInfo {
    /// `metrics`, `read`, `admin`, `untrusted`.
    pub access: String,
    /// Everything else, by type: `basic`, `local`, `cert`.
    #[serde(flatten)]
    types: BTreeMap<String, Value>,
}

impl IdentityInfo {
    /// An identity of these types. For tests of what decides.
    pub fn new(access: &str, types: &[&str]) -> Self {
        Self {
            access: access.to_owned(),
            types: types
                .iter()
                .map(|name| ((*name).to_owned(), Value::Null))
                .collect(),
        }
    }

    /// Whether it is what we would write: metrics access, a password, nothing else.
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
    /// Names to remove; one that is not there does no harm.
    pub remove: Vec<String>,
}

impl Change {
    fn to_json(&self, hash: Option<&str>) -> Value {
        let mut identities = serde_json::Map::new();
        for name in &self.remove {
            identities.insert(name.clone(), Value::Null);
        }
        for marker in &self.mark {
            // Nothing hashes to `!`: a marker cannot log in, and could do nothing if it did.
            identities.insert(
                marker.name(),
                json!({"access": "untrusted", "basic": {"password": "!"}}),
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

/// What trying a credential showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It is in force, with metrics access.
    Works,
    /// It is not.
    Fails,
    /// Could not be told.
    Unknown,
}

impl Proof {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Fails => "fails",
            Self::Unknown => "unknown",
        }
    }
}

/// Hashes a password as Pebble verifies it: sha512-crypt, 16 characters of fresh salt, no `rounds=`.
///
/// The rounds are the default 5,000, left out of the text: with `rounds=` Pebble's library accepts salts of one length
/// only, and more of them would cost every scrape more time under Pebble's global lock.
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

/// The value of an Authorization header; marked so that nothing prints it.
fn basic(credential: &Credential) -> HeaderValue {
    let mut pair = Zeroizing::new(Vec::with_capacity(
        credential.username.as_str().len() + 1 + credential.password.expose().len(),
    ));
    pair.extend_from_slice(credential.username.as_str().as_bytes());
    pair.push(b':');
    pair.extend_from_slice(credential.password.expose());
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*pair));
    let text = Zeroizing::new(format!("Basic {}", *encoded));
    let mut value = HeaderValue::from_str(&text).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

impl Client {
    /// All identities, by name.
    pub async fn identities(&self) -> Result<BTreeMap<String, IdentityInfo>, PebbleError> {
        Ok(self.get::<Option<_>>("/v1/identities").await?.unwrap_or_default())
    }

    /// Applies a change, all or nothing. `password` is that of [`Change::write`].
    pub async fn change_identities(
        &self,
        change: &Change,
        password: Option<&Password>,
    ) -> Result<(), PebbleError> {
        let hash = password.map(hash_password);
        let body = change.to_json(hash.as_deref().map(String::as_str));
        self.post("/v1/identities", &body).await.map(|_| ())
    }

    /// Tells whether we may write, by a change that changes nothing. A refusal makes Pebble log a CRITICAL line.
    pub async fn is_admin(&self) -> Result<bool, PebbleError> {
        match self.change_identities(&Change::default(), None).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_denied() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tries a credential on Pebble's TCP address. Costs Pebble one hash, and no security line.
    pub async fn prove_over_http(&self, address: SocketAddr, credential: &Credential) -> Proof {
        let exchange = async {
            let stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .ok()?;
            let request = Request::get("/v1/metrics")
                .header(HOST, address.to_string())
                .header(AUTHORIZATION, basic(credential))
                .body(Empty::<Bytes>::new())
                .expect("a constant path and valid headers");
            tokio::select! {
                response = sender.send_request(request) => response.ok().map(|response| response.status()),
                _ = connection => None,
            }
        };
        match tokio::time::timeout(PROOF_LIMIT, exchange).await {
            Ok(Some(StatusCode::OK)) => Proof::Works,
            Ok(Some(StatusCode::UNAUTHORIZED)) => Proof::Fails,
            _ => Proof::Unknown,
        }
    }

    /// Tries a credential on the socket, where Pebble does not listen on TCP: what matches is let in with metrics access
    /// only, which is refused the services; what does not match is let in as our own user, who may read them. Makes
    /// Pebble log a security line when the credential works.
    pub async fn prove_over_socket(&self, credential: &Credential) -> Proof {
        const SERVICES: &str = "/v1/services";
        // Without this, a user of ours that may not even read would count as proof.
        match self.get_raw(SERVICES, None, PROOF_LIMIT).await {
            Ok((StatusCode::OK, _)) => {}
            _ => return Proof::Unknown,
        }
        match self.get_raw(SERVICES, Some(basic(credential)), PROOF_LIMIT).await {
            Ok((StatusCode::UNAUTHORIZED, _)) => Proof::Works,
            Ok((StatusCode::OK, _)) => Proof::Fails,
            _ => Proof::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Ownership;

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
            mark: vec![Marker::new(user("new"), Ownership::Secret)],
            remove: vec!["old".to_owned(), "metrics-proxy-owner--old".to_owned()],
        };
        assert_eq!(
            change.to_json(Some("$6$x$y")),
            json!({"action": "replace", "identities": {
                "old": null,
                "metrics-proxy-owner--old": null,
                "new": {"access": "metrics", "basic": {"password": "$6$x$y"}},
                "metrics-proxy-owner--new": {"access": "untrusted", "basic": {"password": "!"}},
            }})
        );
    }

    #[test]
    fn only_metrics_with_a_password_is_what_we_write() {
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

    #[test]
    fn a_credential_is_sent_as_basic_and_never_shown() {
        let credential = Credential {
            username: Username::parse("alice").unwrap(),
            password: Password::try_new(Zeroizing::new(b"p:w".to_vec())).unwrap(),
        };
        let value = basic(&credential);
        assert_eq!(value.to_str().unwrap(), "Basic YWxpY2U6cDp3");
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
}
