//! `--shard auto`: which unit we are, how many there are, and which of them are ready.
//!
//! Our number is the ordinal in our pod's name. How many there are is the `StatefulSet`'s to say; where it may not be
//! read (a Juju application without `--trust`), its pods say it, which may be listed.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use tokio::time::timeout;

use super::store::Store;
use crate::backoff::jittered;
use crate::targets::ShardAssignment;
use crate::telemetry::Telemetry;

const LIMIT: Duration = Duration::from_secs(10);
const PAGE: u32 = 500;
/// Other units learn of a change within this many of our own looks.
const LOOKS_TO_LEARN: u32 = 3;

/// The `StatefulSet` that our pod belongs to, and our place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Units {
    set: String,
    ordinal: u32,
}

/// A pod of the set, as far as it is of use here.
#[derive(Debug, Clone, Deserialize)]
struct UnitObject {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<UnitStatus>,
}

#[derive(Debug, Clone, Deserialize)]
struct UnitStatus {
    conditions: Option<Vec<UnitCondition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct UnitCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

super::manifest::impl_resource!(UnitObject, "Pod", "", "v1", "pods");

#[derive(Debug, Clone, Deserialize)]
struct SetObject {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<SetSpec>,
}

#[derive(Debug, Clone, Deserialize)]
struct SetSpec {
    replicas: Option<u32>,
}

super::manifest::impl_resource!(SetObject, "StatefulSet", "apps", "v1", "statefulsets");

impl Units {
    /// Reads a pod's name as that of a `StatefulSet`'s pod: `metrics-proxy-3`.
    pub(super) fn of_pod(name: &str) -> Option<Self> {
        let (set, ordinal) = name.rsplit_once('-')?;
        let is_plain = ordinal == "0" || !ordinal.starts_with(['0', '+']);
        let ordinal = ordinal.parse().ok().filter(|_| is_plain && !set.is_empty())?;
        Some(Self {
            set: set.to_owned(),
            ordinal,
        })
    }

    /// Looks for the number of units every `interval`, for ever.
    pub(super) async fn run(
        self,
        client: kube::Client,
        namespace: String,
        interval: Duration,
        store: Arc<Store>,
        telemetry: Arc<Telemetry>,
    ) {
        let sets: Api<SetObject> = Api::namespaced(client.clone(), &namespace);
        let pods: Api<UnitObject> = Api::namespaced(client, &namespace);
        let learning = SignedDuration::try_from(interval * LOOKS_TO_LEARN).unwrap_or(SignedDuration::MAX);
        store.share_pending(format!("waiting for the number of units of {}", self.set));
        let mut is_known = false;
        let mut failed = false;
        loop {
            telemetry.discovery.request("get");
            let replicas = match timeout(LIMIT, sets.get(&self.set)).await {
                // No number means one.
                Ok(Ok(set)) => Some(set.spec.and_then(|spec| spec.replicas).unwrap_or(1)),
                // Forbidden without --trust; other failures show in the list of its pods.
                Ok(Err(_)) | Err(_) => None,
            };
            match self.list(&pods, &telemetry).await {
                Ok(units) => {
                    let total = self.total(replicas, &units);
                    let ready = units
                        .iter()
                        .filter(|unit| unit.is_ready)
                        .map(|unit| unit.ordinal)
                        .collect();
                    if is_known {
                        store.update_share(total, ready);
                    } else {
                        tracing::info!(unit = self.ordinal, total, "Serving a share of the pods");
                        store.share(ShardAssignment::new(self.ordinal, total, learning));
                        store.update_share(total, ready);
                        is_known = true;
                    }
                    failed = false;
                }
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "Cannot tell how many units share the pods");
                    }
                    failed = true;
                    telemetry.discovery.failure("units");
                    store.share_pending(format!(
                        "cannot tell how many units of {} there are; grant get on statefulsets or list on pods",
                        self.set
                    ));
                }
            }
            tokio::time::sleep(jittered(interval)).await;
        }
    }

    async fn list(&self, pods: &Api<UnitObject>, telemetry: &Telemetry) -> Result<Vec<Unit>, String> {
        let mut units = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            telemetry.discovery.request("list");
            let page = match timeout(LIMIT, pods.list(&params)).await {
                Ok(page) => page.map_err(|e| e.to_string())?,
                Err(_) => return Err("no answer from the API server".to_owned()),
            };
            units.extend(page.items.iter().filter_map(|object| self.unit(object)));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(units);
            }
        }
    }

    /// The pod as a unit of our set, if it is one.
    fn unit(&self, object: &UnitObject) -> Option<Unit> {
        let of_pod = Self::of_pod(object.metadata.name.as_deref()?)?;
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        let is_owned = owners.is_empty()
            || owners
                .iter()
                .any(|owner| owner.kind == "StatefulSet" && owner.name == self.set);
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        (of_pod.set == self.set && is_owned).then(|| Unit {
            ordinal: of_pod.ordinal,
            is_ending: object.metadata.deletion_timestamp.is_some(),
            is_ready: conditions
                .unwrap_or_default()
                .iter()
                .any(|condition| condition.kind == "Ready" && condition.status == "True"),
        })
    }

    /// How many units there are: as the set says, else as its pods show. Our own pod is one of them, but for one that is
    /// being scaled away.
    fn total(&self, replicas: Option<u32>, units: &[Unit]) -> u32 {
        replicas.unwrap_or_else(|| {
            let staying = units.iter().filter(|unit| !unit.is_ending);
            staying
                .map(|unit| unit.ordinal + 1)
                .max()
                .unwrap_or(self.ordinal + 1)
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    ordinal: u32,
    is_ending: bool,
    is_ready: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_is_in_the_pods_name() {
        let units = |name| Units::of_pod(name).map(|units| (units.set, units.ordinal));
        assert_eq!(units("metrics-proxy-3"), Some(("metrics-proxy".to_owned(), 3)));
        assert_eq!(units("a-0"), Some(("a".to_owned(), 0)));
        for name in ["laptop", "web-7d9c5b7f4-x2x4z", "a-01", "a-+1", "-1", "a-"] {
            assert_eq!(units(name), None, "{name}");
        }
    }

    #[test]
    fn the_number_of_units_is_the_sets_else_its_pods() {
        let us = Units::of_pod("app-1").unwrap();
        let unit = |ordinal, is_ending| Unit {
            ordinal,
            is_ending,
            is_ready: true,
        };
        let pods = [unit(0, false), unit(1, false), unit(4, true)];
        assert_eq!(us.total(Some(5), &pods), 5);
        assert_eq!(us.total(None, &pods), 2);
        assert_eq!(us.total(None, &[]), 2);
        // Number 1 is down for a moment; number 2 is still number 2.
        assert_eq!(us.total(None, &[unit(0, false), unit(2, false)]), 3);
    }

    #[test]
    fn pods_of_other_sets_are_none_of_ours() {
        let us = Units::of_pod("app-1").unwrap();
        let object = |json: serde_json::Value| serde_json::from_value::<UnitObject>(json).unwrap();
        let found = us.unit(&object(serde_json::json!({
            "metadata": {"name": "app-0", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "app", "uid": "u"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })));
        assert_eq!(
            found,
            Some(Unit {
                ordinal: 0,
                is_ending: false,
                is_ready: true
            })
        );
        let other = serde_json::json!({
            "metadata": {"name": "app-0", "ownerReferences": [
                {"apiVersion": "v1", "kind": "ReplicaSet", "name": "app", "uid": "u"}]},
        });
        assert_eq!(us.unit(&object(other)), None);
        assert_eq!(
            us.unit(&object(serde_json::json!({"metadata": {"name": "web-0"}}))),
            None
        );
    }
}
