//! Pods as the API server and manifests write them, decoded into the fields that are used.
//!
//! A decoded `Pod` of k8s-openapi takes about 2.5 kB before its strings, and most of it is never used. Fields that are
//! missing, null or of a later API version never make a pod undecodable: one such pod would hide all others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::targets::{ContainerPort, Phase, Pod, PodRef, Protocol};

/// A pod as the API server and manifests write it.
#[derive(Debug, Clone, Deserialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Pod)]
pub(super) struct PodObject {
    #[serde(default, deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<Port>>,
    restart_policy: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Port {
    name: Option<Box<str>>,
    #[serde(rename = "containerPort")]
    number: Option<i64>,
    protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    start_time: Option<Timestamp>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodIp {
    ip: Option<String>,
}

/// `metadata` without what takes most of the memory: managed fields, owners, and unrelated annotations.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Timestamp>,
        deletion_timestamp: Option<Timestamp>,
        labels: Option<Texts<false>>,
        annotations: Option<Texts<true>>,
    }
    let slim = Option::<Slim>::deserialize(deserializer)?.unwrap_or_default();
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        creation_timestamp: slim.creation_timestamp.map(Time),
        deletion_timestamp: slim.deletion_timestamp.map(Time),
        labels: slim.labels.map(|texts| texts.0),
        annotations: slim.annotations.map(|texts| texts.0),
        ..ObjectMeta::default()
    })
}

/// A map of texts; `PROMETHEUS` keeps only the keys that begin with `prometheus.`.
///
/// Manifests written by hand have `prometheus.io/port: 8080` without quotes. An API server would reject that; a file is
/// read all the same.
struct Texts<const PROMETHEUS: bool>(BTreeMap<String, String>);

impl<'de, const PROMETHEUS: bool> Deserialize<'de> for Texts<PROMETHEUS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<const PROMETHEUS: bool>;
        impl<'de, const PROMETHEUS: bool> Visitor<'de> for Map<PROMETHEUS> {
            type Value = Texts<PROMETHEUS>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if PROMETHEUS && !key.starts_with("prometheus.") {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let value = map.next_value::<Scalar>()?;
                        texts.insert(key.into_owned(), value.into());
                    }
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Map::<PROMETHEUS>)
    }
}

/// A text, or a number or Boolean that was written without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Null,
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Text(text) => text,
            Scalar::Bool(value) => value.to_string(),
            Scalar::Unsigned(value) => value.to_string(),
            Scalar::Signed(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Null => Self::new(),
        }
    }
}

impl PodObject {
    /// The pod's names.
    ///
    /// A manifest that no API server has seen has no namespace and no UID: it gets `default` and a UID from its names.
    pub(super) fn id(&self) -> PodRef {
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let namespace = text(&self.metadata.namespace).unwrap_or_else(|| "default".to_owned());
        let name = self.metadata.name.clone().unwrap_or_default();
        let uid = text(&self.metadata.uid).unwrap_or_else(|| format!("{namespace}/{name}"));
        PodRef { namespace, name, uid }
    }

    /// What discovery keeps of the pod. Labels are kept only where something in this process matches on them.
    pub(super) fn into_pod(self, keep_labels: bool) -> Pod {
        let id = self.id();
        let meta = self.metadata;
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        // A sidecar is an init container that goes on running.
        let sidecars = spec
            .init_containers
            .unwrap_or_default()
            .into_iter()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let ports = spec
            .containers
            .unwrap_or_default()
            .into_iter()
            .chain(sidecars)
            .flat_map(|container| container.ports.unwrap_or_default())
            .filter_map(|port| {
                Some(ContainerPort {
                    name: port.name,
                    number: u16::try_from(port.number?).ok()?,
                    protocol: match port.protocol.as_deref() {
                        None | Some("" | "TCP") => Protocol::Tcp,
                        Some(_) => Protocol::Other,
                    },
                })
            })
            .collect();
        let mut ips: Vec<IpAddr> = Vec::new();
        let others = status
            .pod_ips
            .unwrap_or_default()
            .into_iter()
            .filter_map(|ip| ip.ip);
        for text in status.pod_ip.into_iter().chain(others) {
            if let Ok(ip) = text.parse()
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        Pod {
            id,
            labels: if keep_labels {
                meta.labels.unwrap_or_default()
            } else {
                BTreeMap::new()
            },
            annotations: meta
                .annotations
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()))
                .collect(),
            host_network: spec.host_network.unwrap_or(false),
            ports,
            phase: status.phase.as_deref().map_or(Phase::Unknown, Phase::from),
            ips: ips.into(),
            started: status.start_time,
            created: meta.creation_timestamp.map(|time| time.0),
            deletion: meta.deletion_timestamp.map(|time| time.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: serde_json::Value) -> Pod {
        serde_json::from_value::<PodObject>(json).unwrap().into_pod(true)
    }

    #[test]
    fn what_is_used_is_kept_and_nothing_else() {
        let pod = decode(serde_json::json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
                "labels": {"app": "x"},
                "annotations": {"prometheus.io/scrape": "true", "prometheus.istio.io/scrape-targets": "1:/", "other": "y"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": {}}}],
            },
            "spec": {
                "hostNetwork": true,
                "containers": [{"name": "c", "ports": [{"name": "m", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"name": "o", "containerPort": 1}]},
                    {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "s", "containerPort": 2}]},
                ],
            },
            "status": {
                "phase": "Running", "podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}],
                "startTime": "2026-01-01T00:00:01Z",
            },
        }));
        assert_eq!(pod.id.uid, "u");
        assert_eq!(pod.annotations.len(), 2);
        assert_eq!(pod.labels["app"], "x");
        let ports: Vec<_> = pod
            .ports
            .iter()
            .map(|port| (port.number, port.protocol))
            .collect();
        assert_eq!(
            ports,
            [(80, Protocol::Tcp), (53, Protocol::Other), (2, Protocol::Tcp)]
        );
        assert_eq!(
            *pod.ips,
            ["fd00::1".parse::<IpAddr>().unwrap(), "10.0.0.1".parse().unwrap()]
        );
        assert!(pod.host_network);
        assert_eq!(pod.phase, Phase::Running);
        assert!(pod.started > pod.created && pod.deletion > pod.started);
    }

    #[test]
    fn missing_and_null_parts_are_no_obstacle() {
        let pod = decode(serde_json::json!({"metadata": {"name": "a", "creationTimestamp": null}}));
        assert_eq!(pod.id.to_string(), "default/a");
        assert_eq!(pod.id.uid, "default/a");
        assert_eq!(pod.phase, Phase::Unknown);
        decode(serde_json::json!({"metadata": null, "spec": {"containers": null}, "status": null}));
        decode(serde_json::json!({
            "metadata": {"name": "a", "annotations": null, "labels": null},
            "spec": {"containers": [{"ports": null}], "initContainers": null},
            "status": {"podIP": "", "podIPs": null, "startTime": null},
        }));
    }

    #[test]
    fn texts_without_quotes_are_taken() {
        let pod = decode(serde_json::json!({
            "metadata": {"name": "a", "annotations": {"prometheus.io/scrape": true, "prometheus.io/port": 8080}},
        }));
        let values: Vec<_> = pod.annotations.values().map(AsRef::as_ref).collect();
        assert_eq!(values, ["8080", "true"]);
    }
}
