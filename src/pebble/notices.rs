//! `/v1/notices`: what the charm should know. Every local user may read them, so they contain no secret.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Client, PebbleError};

/// A custom notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its key, after `canonical.com/metrics-proxy/`.
    pub key: &'static str,
    /// Its data.
    pub data: BTreeMap<&'static str, String>,
    /// For so long the same notice does not wake the charm again.
    pub repeat_after: Option<&'static str>,
}

impl Notice {
    /// The domain and path before every key.
    pub const PREFIX: &'static str = "canonical.com/metrics-proxy/";

    /// The credential of the secret was written as an identity.
    pub fn identity_rotated(reason: &str) -> Self {
        Self {
            key: "identity-rotated",
            data: BTreeMap::from([("reason", reason.to_owned())]),
            repeat_after: None,
        }
    }

    /// The secret cannot be used; an identity written before stays.
    pub fn secret_refused(reason: &str, message: &str) -> Self {
        Self {
            key: "secret-refused",
            data: BTreeMap::from([("reason", reason.to_owned()), ("message", message.to_owned())]),
            repeat_after: None,
        }
    }

    /// A permission is missing: `what` is `pebble` or `kubernetes`.
    pub fn permission_missing(what: &str, message: &str) -> Self {
        Self {
            key: "permission-missing",
            data: BTreeMap::from([("what", what.to_owned()), ("message", message.to_owned())]),
            repeat_after: Some("1h"),
        }
    }
}

impl Client {
    /// Posts a notice.
    pub async fn notify(&self, notice: &Notice) -> Result<(), PebbleError> {
        let mut body = json!({
            "action": "add", "type": "custom", "key": format!("{}{}", Notice::PREFIX, notice.key), "data": notice.data,
        });
        if let Some(repeat_after) = notice.repeat_after {
            body["repeat-after"] = repeat_after.into();
        }
        self.post("/v1/notices", &body).await.map(|_| ())
    }
}
