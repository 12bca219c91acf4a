//! `/v1/services` and the changes that it starts. Only the command `bootstrap` acts on services, never the service.

use serde::Deserialize;
use serde_json::json;

use super::{Client, PebbleError};

/// A service as Pebble lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// `active`, `inactive`, `backoff` or `error`.
    pub current: String,
}

#[derive(Debug, Deserialize)]
struct ChangeInfo {
    #[serde(default)]
    status: String,
    #[serde(default)]
    err: String,
}

impl Client {
    /// Fetches the services of the plan.
    pub async fn services(&self) -> Result<Vec<ServiceInfo>, PebbleError> {
        Ok(self.get::<Option<_>>("/v1/services").await?.unwrap_or_default())
    }

    /// Starts a service and waits for the end of the change, which takes a second more than the start.
    pub async fn start_service(&self, name: &str) -> Result<(), PebbleError> {
        let body = json!({"action": "start", "services": [name]});
        let (_, id) = self.post("/v1/services", &body).await?;
        loop {
            match self
                .get::<ChangeInfo>(&format!("/v1/changes/{id}/wait?timeout=4s"))
                .await
            {
                Ok(change) if change.status == "Done" => return Ok(()),
                Ok(change) => {
                    return Err(PebbleError::Change {
                        id,
                        status: change.status,
                        message: change.err,
                    });
                }
                // Not ready yet: a change may wait for another one.
                Err(PebbleError::Refused { status: 504, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
