//! `/v1/checks`.

use serde::{Deserialize, Serialize};

use super::{Client, PebbleError};

/// A check as Pebble sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInfo {
    /// Its name.
    pub name: String,
    /// `up`, `down` or `inactive`.
    pub status: String,
    /// Failures in a row.
    #[serde(default)]
    pub failures: u64,
}

impl Client {
    /// All checks.
    pub async fn checks(&self) -> Result<Vec<CheckInfo>, PebbleError> {
        Ok(self.get::<Option<_>>("/v1/checks").await?.unwrap_or_default())
    }
}
