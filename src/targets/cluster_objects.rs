//! Services, EndpointSlices, PodMonitors and ServiceMonitors, reduced to the fields that discovery uses.
//!
//! Objects arrive as JSON and are read leniently. Every field of a monitor that is not supported is listed, since a
//! monitor that works only in part must not go unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::annotations::{self, Annotations};
use super::{Requirement, Scheme, Selector};

/// Where targets are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent switches of one setting"
)]
pub struct Discover {
    /// In the pods' own annotations.
    pub pods: bool,
    /// In the annotations of Services.
    pub services: bool,
    /// In PodMonitors.
    pub pod_monitors: bool,
    /// In ServiceMonitors.
    pub service_monitors: bool,
}

impl Discover {
    /// The pods' own annotations only.
    pub const PODS: Self = Self {
        pods: true,
        services: false,
        pod_monitors: false,
        service_monitors: false,
    };

    /// Returns whether objects other than pods are read.
    pub fn needs_objects(self) -> bool {
        self.services || self.pod_monitors || self.service_monitors
    }
}

/// Namespace and name of an object.
pub type ObjectKey = (String, String);

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `monitoring.coreos.com/v1` PodMonitor.
    PodMonitor,
    /// `monitoring.coreos.com/v1` ServiceMonitor.
    ServiceMonitor,
}

/// An object that can name endpoints of pods.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// A part of a Service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A PodMonitor or a ServiceMonitor.
    Monitor(Monitor),
}

/// The used fields of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: Annotations,
}

/// The used fields of an EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    /// The name of the Service.
    pub(super) service: String,
    /// Names and numbers of the TCP ports.
    pub(super) ports: Vec<(String, u16)>,
    /// The UIDs of the pods behind the Service. They are references, which whoever writes the slice can set to any pod.
    pub(super) pods: Vec<String>,
}

/// The used fields of a PodMonitor or a ServiceMonitor.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    pub(super) namespaces: Namespaces,
    /// `None` matches everything, as an empty `selector` does.
    pub(super) selector: Option<Selector>,
    pub(super) endpoints: Vec<MonitorEndpoint>,
    /// The fields that are set and not supported.
    pub(super) unsupported: Vec<String>,
    /// Why the monitor cannot be used at all.
    pub(super) broken: Option<String>,
}

/// The namespaces that a monitor looks into.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Namespaces {
    Own,
    Any,
    Names(Vec<String>),
}

/// One endpoint of a monitor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MonitorEndpoint {
    pub(super) port: MonitorPort,
    pub(super) path: String,
    pub(super) scheme: Scheme,
    pub(super) query: String,
}

/// How a monitor names a port.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MonitorPort {
    /// By name: a port of the pod (PodMonitor) or of the Service (ServiceMonitor).
    Named(String),
    /// By number: a port of the pod.
    Number(u16),
    /// By name: a port of the pod.
    OfPod(String),
}

/// All objects, by kind and key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterObjects {
    /// Services.
    pub services: BTreeMap<ObjectKey, Service>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// PodMonitors.
    pub pod_monitors: BTreeMap<ObjectKey, Monitor>,
    /// ServiceMonitors.
    pub service_monitors: BTreeMap<ObjectKey, Monitor>,
}

impl ClusterObjects {
    /// Adds an object. It replaces an object of the same kind and key.
    pub fn insert(&mut self, kind: ObjectKind, key: ObjectKey, object: Object) {
        match (kind, object) {
            (_, Object::Service(service)) => drop(self.services.insert(key, service)),
            (_, Object::EndpointSlice(slice)) => drop(self.endpoint_slices.insert(key, slice)),
            (ObjectKind::ServiceMonitor, Object::Monitor(monitor)) => {
                drop(self.service_monitors.insert(key, monitor));
            }
            (_, Object::Monitor(monitor)) => drop(self.pod_monitors.insert(key, monitor)),
        }
    }
}

impl Object {
    /// Reads an object from its labels, its annotations and the rest of its JSON.
    pub fn read(
        kind: ObjectKind,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        rest: &Value,
    ) -> Self {
        match kind {
            ObjectKind::Service => Self::Service(Service {
                labels: labels.clone(),
                annotations: annotations
                    .iter()
                    .filter(|(key, _)| key.starts_with("prometheus."))
                    .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                    .collect(),
            }),
            ObjectKind::EndpointSlice => Self::EndpointSlice(read_endpoint_slice(labels, rest)),
            ObjectKind::PodMonitor => Self::Monitor(read_monitor(&rest["spec"], "podMetricsEndpoints")),
            ObjectKind::ServiceMonitor => Self::Monitor(read_monitor(&rest["spec"], "endpoints")),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn read_endpoint_slice(labels: &BTreeMap<String, String>, rest: &Value) -> EndpointSlice {
    EndpointSlice {
        service: labels
            .get("kubernetes.io/service-name")
            .cloned()
            .unwrap_or_default(),
        ports: list(&rest["ports"])
            .iter()
            .filter(|port| matches!(port["protocol"].as_str(), None | Some("TCP")))
            .filter_map(|port| {
                let number = u16::try_from(port["port"].as_u64()?).ok()?;
                Some((port["name"].as_str().unwrap_or_default().to_owned(), number))
            })
            .collect(),
        pods: list(&rest["endpoints"])
            .iter()
            .filter(|endpoint| endpoint["targetRef"]["kind"] == "Pod")
            .filter_map(|endpoint| Some(endpoint["targetRef"]["uid"].as_str()?.to_owned()))
            .collect(),
    }
}

/// Reads the spec of a monitor whose endpoints are in the field `endpoints_field`.
///
/// Source: prometheus-operator, Documentation/api-reference, PodMonitorSpec and ServiceMonitorSpec.
fn read_monitor(spec: &Value, endpoints_field: &str) -> Monitor {
    let mut monitor = Monitor {
        namespaces: read_namespaces(&spec["namespaceSelector"]),
        selector: None,
        endpoints: Vec::new(),
        unsupported: unsupported_fields(spec, endpoints_field),
        broken: None,
    };
    match read_selector(&spec["selector"]) {
        Ok(selector) => monitor.selector = selector,
        Err(problem) => monitor.broken = Some(format!("its selector cannot be read: {problem}")),
    }
    for (index, endpoint) in list(&spec[endpoints_field]).iter().enumerate() {
        match read_endpoint(endpoint) {
            Ok(endpoint) => monitor.endpoints.push(endpoint),
            Err(problem) => monitor
                .unsupported
                .push(format!("spec.{endpoints_field}[{index}] ({problem})")),
        }
    }
    monitor
}

/// Returns the paths of all fields that are set and not supported.
fn unsupported_fields(spec: &Value, endpoints_field: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut check = |value: &Value, place: &str, known: &[&str]| {
        let fields = value.as_object().into_iter().flatten();
        for (field, value) in fields.filter(|(field, _)| !known.contains(&field.as_str())) {
            // A field that is set to its default asks for nothing.
            if !(value.is_null() || value == &Value::Bool(false)) {
                paths.push(format!("{place}{field}"));
            }
        }
    };
    check(spec, "spec.", &["selector", "namespaceSelector", endpoints_field]);
    for (index, endpoint) in list(&spec[endpoints_field]).iter().enumerate() {
        let mut known = vec!["port", "portNumber", "targetPort", "path", "scheme", "params"];
        // Pods that have finished are never scraped, so `true` is supported.
        if endpoint["filterRunning"] == true {
            known.push("filterRunning");
        }
        check(endpoint, &format!("spec.{endpoints_field}[{index}]."), &known);
    }
    paths
}

fn read_namespaces(selector: &Value) -> Namespaces {
    if selector["any"] == true {
        return Namespaces::Any;
    }
    match list(&selector["matchNames"]) {
        [] => Namespaces::Own,
        names => Namespaces::Names(
            names
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        ),
    }
}

/// Reads a `LabelSelector`. Returns `None` for one without requirements, which matches everything.
///
/// Source: apimachinery, pkg/apis/meta/v1/helpers.go, LabelSelectorAsSelector.
fn read_selector(selector: &Value) -> Result<Option<Selector>, String> {
    let text = |value: &Value, what: &str| match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{what} is not text")),
    };
    let mut requirements = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        let value = text(value, &format!("the value of the label {key:?}"))?;
        requirements.push(Requirement::equals(key, &value).map_err(|e| e.to_string())?);
    }
    for expression in list(&selector["matchExpressions"]) {
        let key = text(&expression["key"], "the key of an expression")?;
        let values: BTreeSet<String> = list(&expression["values"])
            .iter()
            .map(|value| text(value, &format!("a value for the label {key:?}")))
            .collect::<Result<_, _>>()?;
        let requirement = match expression["operator"].as_str().unwrap_or_default() {
            "In" => Requirement::is_in(&key, values),
            "NotIn" => Requirement::not_in(&key, values),
            "Exists" => Requirement::exists(&key),
            "DoesNotExist" => Requirement::absent(&key),
            other => return Err(format!("no such operator: {other:?}")),
        };
        requirements.push(requirement.map_err(|e| e.to_string())?);
    }
    Ok(Selector::from_requirements(requirements))
}

fn read_endpoint(endpoint: &Value) -> Result<MonitorEndpoint, String> {
    let number = |value: &Value| {
        value
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n != 0)
    };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let port = if let Some(name) = text(&endpoint["port"]) {
        MonitorPort::Named(name)
    } else if let Some(number) = number(&endpoint["portNumber"]).or_else(|| number(&endpoint["targetPort"])) {
        MonitorPort::Number(number)
    } else if let Some(name) = text(&endpoint["targetPort"]) {
        MonitorPort::OfPod(name)
    } else {
        return Err("it names no port".to_owned());
    };
    let scheme = match text(&endpoint["scheme"])
        .map(|scheme| scheme.to_ascii_lowercase())
        .as_deref()
    {
        None | Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) => return Err("its scheme is neither http nor https".to_owned()),
    };
    let mut parameters = Vec::new();
    for (name, values) in endpoint["params"].as_object().into_iter().flatten() {
        for value in list(values).iter().filter_map(Value::as_str) {
            parameters.push((name.as_str(), value));
        }
    }
    Ok(MonitorEndpoint {
        port,
        path: annotations::normal_path(text(&endpoint["path"]).as_deref().unwrap_or("/metrics")),
        scheme,
        query: annotations::encode_query(parameters),
    })
}
