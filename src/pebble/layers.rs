//! `/v1/layers` and `/v1/plan`.

use serde_json::json;

use super::{Client, Layer, PebbleError, Plan};

impl Client {
    /// Fetches the combined plan. From Pebble 1.28 on this needs admin access.
    pub async fn plan(&self) -> Result<Plan, PebbleError> {
        let yaml: String = self.get("/v1/plan?format=yaml").await?;
        Ok(Plan::parse(&yaml)?)
    }

    /// Adds a layer under `label`, or replaces the one of that label. Pebble starts and stops no service for it.
    pub async fn add_layer(&self, label: &str, layer: &Layer) -> Result<(), PebbleError> {
        let body = json!({
            "action": "add", "combine": true, "label": label, "format": "yaml", "layer": layer.to_yaml(),
        });
        self.post("/v1/layers", &body).await.map(|_| ())
    }
}
