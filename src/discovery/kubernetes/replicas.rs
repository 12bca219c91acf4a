//! `--shard auto`: which replica of a StatefulSet this process is, how many there are, and which of them are ready.
//!
//! The shard index is the ordinal in this pod's name, the number of shards the StatefulSet's `spec.replicas`. Where the
//! StatefulSet may not be read (a Juju application without `--trust`), its pods are counted instead. Anybody who may
//! create pods here can choose a pod's name, so only pods that the StatefulSet owns count, and a number above
//! [`MAX_SHARDS`] is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use tokio::time::timeout;

use super::cluster::Connection;
use super::error::ApiError;
use crate::backoff::jittered;
use crate::discovery::store::Store;
use crate::targets::{MAX_SHARDS, ShardAssignment};
use crate::telemetry::Telemetry;

/// A response must be complete by then.
const LIMIT: Duration = Duration::from_secs(10);
/// Pods on one page of a list.
const PAGE: u32 = 500;
/// Other replicas learn of a change within this many intervals.
const INTERVALS_TO_LEARN: u32 = 3;

/// This process's place in a StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnReplica {
    set: String,
    ordinal: u32,
}

/// A pod, as far as it is needed here.
#[derive(Debug, Clone, Deserialize, kube::Resource)]
#[resource(inherit = Pod)]
struct ReplicaObject {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<ReplicaStatus>,
}

#[derive(Debug, Clone, Deserialize)]
struct ReplicaStatus {
    conditions: Option<Vec<ReplicaCondition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct ReplicaCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A StatefulSet, as far as it is needed here.
#[derive(Debug, Clone, Deserialize, kube::Resource)]
#[resource(inherit = StatefulSet)]
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

/// One pod of the StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replica {
    ordinal: u32,
    /// The UID of the StatefulSet that owns it.
    set_uid: String,
    is_terminating: bool,
    is_ready: bool,
}

/// Why the number of shards is not known.
#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error("cannot read StatefulSet {set} or list its pods; grant get on statefulsets, or list on pods")]
    Unreadable { set: String },
    #[error(
        "StatefulSet {set} has {n} replicas, more than the {MAX_SHARDS} that can share pods; scale it down"
    )]
    TooMany { set: String, n: u64 },
}

impl OwnReplica {
    /// Reads a pod's name as that of a StatefulSet's pod: `metrics-proxy-3`.
    pub(super) fn of_pod(name: &str) -> Option<Self> {
        let (set, ordinal) = name.rsplit_once('-')?;
        let is_canonical = ordinal == "0" || !ordinal.starts_with(['0', '+']);
        let ordinal = ordinal.parse().ok().filter(|_| is_canonical && !set.is_empty())?;
        Some(Self {
            set: set.to_owned(),
            ordinal,
        })
    }

    /// Finds out every `interval` how many replicas there are and which are ready, for ever.
    pub(super) async fn run(
        self,
        connection: Connection,
        interval: Duration,
        store: Arc<Store>,
        telemetry: Arc<Telemetry>,
    ) {
        store.set_share_pending(format!("waiting for the number of replicas of {}", self.set));
        let learning = SignedDuration::try_from(interval * INTERVALS_TO_LEARN).unwrap_or(SignedDuration::MAX);
        let mut is_known = false;
        let mut last_problem = None;
        loop {
            let replicas = self.fetch_replicas(&connection, &telemetry).await;
            let total = match &replicas {
                Ok(replicas) => self.fetch_total(&connection, &telemetry, replicas).await,
                Err(error) => {
                    tracing::debug!(error = error.detail(), "Cannot list the replicas");
                    Err(CountError::Unreadable {
                        set: self.set.clone(),
                    })
                }
            };
            match (total, replicas) {
                (Ok(total), Ok(replicas)) => {
                    if !is_known {
                        tracing::info!(shard = self.ordinal, total, "Serving a share of the pods");
                        store.set_share(ShardAssignment::new(self.ordinal, total, learning));
                        is_known = true;
                    }
                    store.update_share(total, ready_ordinals(&replicas));
                    last_problem = None;
                }
                (Err(error), _) => {
                    telemetry.discovery.failure("replicas");
                    let problem = error.to_string();
                    if last_problem.as_ref() != Some(&problem) {
                        tracing::warn!(
                            error = problem,
                            "The number of shards is unknown, the last one stays in force"
                        );
                    }
                    store.set_share_pending(problem.clone());
                    last_problem = Some(problem);
                }
                (Ok(_), Err(_)) => {}
            }
            tokio::time::sleep(jittered(interval)).await;
        }
    }

    /// The number of replicas: the StatefulSet's own, else as its pods show.
    async fn fetch_total(
        &self,
        connection: &Connection,
        telemetry: &Telemetry,
        replicas: &[Replica],
    ) -> Result<u32, CountError> {
        let sets: Api<SetObject> = Api::namespaced(connection.client.clone(), &connection.own_namespace);
        telemetry.discovery.request("get");
        let declared = match timeout(LIMIT, sets.get(&self.set)).await {
            // No number means one.
            Ok(Ok(set)) => Some(set.spec.and_then(|spec| spec.replicas).unwrap_or(1)),
            // Forbidden without --trust.
            Ok(Err(_)) | Err(_) => None,
        };
        self.total(declared, replicas)
    }

    /// The pods of this StatefulSet.
    async fn fetch_replicas(
        &self,
        connection: &Connection,
        telemetry: &Telemetry,
    ) -> Result<Vec<Replica>, ApiError> {
        let pods: Api<ReplicaObject> = Api::namespaced(connection.client.clone(), &connection.own_namespace);
        let mut replicas = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            telemetry.discovery.request("list");
            let page = timeout(LIMIT, pods.list(&params))
                .await
                .map_err(|_| ApiError::Timeout(LIMIT))?;
            let page = page.map_err(|error| ApiError::from(&error))?;
            replicas.extend(page.items.iter().filter_map(|pod| self.replica(pod)));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(self.of_own_set(replicas));
            }
        }
    }

    /// The pod as a replica, where a StatefulSet of this name controls it.
    fn replica(&self, object: &ReplicaObject) -> Option<Replica> {
        let pod = Self::of_pod(object.metadata.name.as_deref()?).filter(|pod| pod.set == self.set)?;
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| {
            owner.kind == "StatefulSet" && owner.name == self.set && owner.controller == Some(true)
        })?;
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        Some(Replica {
            ordinal: pod.ordinal,
            set_uid: owner.uid.clone(),
            is_terminating: object.metadata.deletion_timestamp.is_some(),
            is_ready: conditions
                .unwrap_or_default()
                .iter()
                .any(|condition| condition.kind == "Ready" && condition.status == "True"),
        })
    }

    /// Without those of an earlier StatefulSet of the same name: this pod's owner is the one that counts.
    fn of_own_set(&self, mut replicas: Vec<Replica>) -> Vec<Replica> {
        let own = replicas.iter().find(|replica| replica.ordinal == self.ordinal);
        if let Some(uid) = own.map(|own| own.set_uid.clone()) {
            replicas.retain(|replica| replica.set_uid == uid);
        }
        replicas
    }

    /// The number of shards: as declared, else one more than the largest ordinal of a pod that stays. This pod counts as
    /// one, unless it is being scaled away.
    fn total(&self, declared: Option<u32>, replicas: &[Replica]) -> Result<u32, CountError> {
        let total = if let Some(declared) = declared {
            u64::from(declared)
        } else {
            let staying = replicas.iter().filter(|replica| !replica.is_terminating);
            let largest = staying.map(|replica| replica.ordinal).max();
            u64::from(largest.unwrap_or(self.ordinal)) + 1
        };
        match u32::try_from(total) {
            Ok(total) if total <= MAX_SHARDS => Ok(total),
            _ => Err(CountError::TooMany {
                set: self.set.clone(),
                n: total,
            }),
        }
    }
}

fn ready_ordinals(replicas: &[Replica]) -> BTreeSet<u32> {
    let ready = replicas.iter().filter(|replica| replica.is_ready);
    ready.map(|replica| replica.ordinal).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_a_stateful_set_ends_in_its_ordinal() {
        let replica = |name| OwnReplica::of_pod(name).map(|replica| (replica.set, replica.ordinal));
        assert_eq!(replica("metrics-proxy-3"), Some(("metrics-proxy".to_owned(), 3)));
        assert_eq!(replica("a-0"), Some(("a".to_owned(), 0)));
        for name in [
            "laptop",
            "web-7d9c5b7f4-x2x4z",
            "a-01",
            "a-+1",
            "-1",
            "a-",
            "a-4294967296",
        ] {
            assert_eq!(replica(name), None, "{name}");
        }
    }

    fn own() -> OwnReplica {
        OwnReplica::of_pod("app-1").unwrap()
    }

    fn staying(ordinal: u32) -> Replica {
        Replica {
            ordinal,
            set_uid: "s".to_owned(),
            is_terminating: false,
            is_ready: true,
        }
    }

    #[track_caller]
    fn check_total(declared: Option<u32>, replicas: &[Replica], expect: Option<u32>) {
        assert_eq!(own().total(declared, replicas).ok(), expect);
    }

    #[test]
    fn the_number_of_shards_is_the_sets_else_its_pods() {
        let terminating = Replica {
            is_terminating: true,
            ..staying(4)
        };
        let pods = [staying(0), staying(1), terminating];
        check_total(Some(5), &pods, Some(5));
        check_total(None, &pods, Some(2));
        check_total(None, &[], Some(2));
        // Number 1 is down for a moment; number 2 is still number 2.
        check_total(None, &[staying(0), staying(2)], Some(3));
    }

    #[test]
    fn no_number_is_too_large_to_be_refused() {
        check_total(Some(1000), &[], Some(1000));
        check_total(Some(1001), &[], None);
        check_total(Some(u32::MAX), &[], None);
        check_total(None, &[staying(999)], Some(1000));
        check_total(None, &[staying(999_999_999)], None);
        check_total(None, &[staying(u32::MAX)], None);
        let error = own().total(None, &[staying(u32::MAX)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "StatefulSet app has 4294967296 replicas, more than the 1000 that can share pods; scale it down"
        );
    }

    fn object(name: &str, owner: impl Into<Option<serde_json::Value>>) -> ReplicaObject {
        let owner = owner.into();
        serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": owner.map(|owner| vec![owner])},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    fn owner(kind: &str, name: &str, uid: &str) -> serde_json::Value {
        json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true})
    }

    #[test]
    fn only_pods_that_the_stateful_set_owns_are_replicas() {
        let replica = |object| own().replica(&object);
        assert_eq!(
            replica(object("app-0", owner("StatefulSet", "app", "s"))),
            Some(staying(0))
        );
        assert_eq!(replica(object("app-0", None)), None, "anybody can choose a name");
        assert_eq!(replica(object("app-0", owner("ReplicaSet", "app", "s"))), None);
        assert_eq!(replica(object("app-0", owner("StatefulSet", "web", "s"))), None);
        assert_eq!(replica(object("web-0", owner("StatefulSet", "web", "s"))), None);
        let uncontrolled = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "app", "uid": "s"});
        assert_eq!(replica(object("app-0", uncontrolled)), None);
    }

    #[test]
    fn pods_of_an_earlier_stateful_set_of_that_name_are_no_replicas() {
        let earlier = Replica {
            set_uid: "earlier".to_owned(),
            ..staying(7)
        };
        let replicas = own().of_own_set(vec![staying(0), staying(1), earlier.clone()]);
        assert_eq!(replicas, [staying(0), staying(1)]);
        // Where this pod is not listed, nothing says which set is the right one.
        assert_eq!(own().of_own_set(vec![earlier.clone()]), [earlier]);
    }
}
