//! What Services, PodMonitors and ServiceMonitors say about pods.
//!
//! They add to a pod's own annotations: the label selector says which pods are ours, these say where in them to look.
//! Objects come as JSON, are read leniently, and every field of a monitor that we do not honour is listed, since a monitor
//! that half works unnoticed is worse than one that does not.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::annotations::{self, Refusal, Wanted};
use super::{Pod, Scheme, Selector};

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

    /// Whether anything but pods is to be read.
    pub fn needs_objects(self) -> bool {
        self.services || self.pod_monitors || self.service_monitors
    }
}

/// A namespace and a name.
pub type Name = (String, String);

/// An object that says something about pods.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// A part of a Service's endpoints.
    Slice(Slice),
    /// A PodMonitor or a ServiceMonitor.
    Monitor(Monitor),
}

/// A Service, as far as it is of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<Box<str>, Box<str>>,
}

/// An `EndpointSlice`, as far as it is of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    service: String,
    /// Names and numbers of TCP ports.
    ports: Vec<(String, u16)>,
    /// UIDs of the pods behind it.
    pods: Vec<String>,
}

/// A PodMonitor or a ServiceMonitor, as far as it is of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    namespaces: Namespaces,
    /// Takes everything where there is none.
    selector: Option<Selector>,
    endpoints: Vec<Endpoint>,
    /// What is written in it and not honoured.
    unsupported: Vec<String>,
    /// Why it cannot be used at all.
    broken: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Namespaces {
    Own,
    Any,
    Names(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
struct Endpoint {
    port: Port,
    path: String,
    scheme: Scheme,
    query: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Port {
    /// A port of the pod (PodMonitor) or of the Service (ServiceMonitor), by name.
    Named(String),
    Number(u16),
    /// A port of the pod, by name.
    OfPod(String),
}

/// All objects, by kind, namespace and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// Services.
    pub services: BTreeMap<Name, Service>,
    /// Their endpoints.
    pub slices: BTreeMap<Name, Slice>,
    /// PodMonitors.
    pub pod_monitors: BTreeMap<Name, Monitor>,
    /// ServiceMonitors.
    pub service_monitors: BTreeMap<Name, Monitor>,
}

impl Objects {
    /// Adds an object under its name.
    pub fn insert(&mut self, kind: ObjectKind, name: Name, object: Object) {
        match (kind, object) {
            (_, Object::Service(service)) => drop(self.services.insert(name, service)),
            (_, Object::Slice(slice)) => drop(self.slices.insert(name, slice)),
            (ObjectKind::ServiceMonitor, Object::Monitor(monitor)) => {
                drop(self.service_monitors.insert(name, monitor));
            }
            (_, Object::Monitor(monitor)) => drop(self.pod_monitors.insert(name, monitor)),
        }
    }
}

/// What all objects come to: for each pod in question, where to look besides its own annotations.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    discover: Discover,
    /// By pod UID, Services before ServiceMonitors.
    by_pod: HashMap<String, Vec<Found>>,
    pod_monitors: Vec<(Name, Monitor)>,
    unsupported: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Found {
    Wanted(Wanted),
    /// A port that only the pod can tell the number of.
    PortOfPod {
        name: String,
        wanted: Wanted,
        place: String,
    },
    Refused(Refusal),
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            discover: Discover::PODS,
            by_pod: HashMap::new(),
            pod_monitors: Vec::new(),
            unsupported: Vec::new(),
        }
    }
}

impl Rules {
    /// Works out what the objects say.
    pub fn new(discover: Discover, objects: &Objects) -> Self {
        let mut rules = Self {
            discover,
            ..Self::default()
        };
        for ((namespace, name), service) in &objects.services {
            let place = format!("of Service {namespace}/{name}");
            let slices = || slices_of(objects, namespace, name);
            if discover.services && annotations::asks(&service.annotations).is_ok() {
                rules.take_service(&place, service, slices());
            }
        }
        for (id, monitor) in &objects.pod_monitors {
            rules.note(&format!("PodMonitor {}/{}", id.0, id.1), monitor);
            if monitor.broken.is_none() {
                rules.pod_monitors.push((id.clone(), monitor.clone()));
            }
        }
        for (id, monitor) in &objects.service_monitors {
            let place = format!("ServiceMonitor {}/{}", id.0, id.1);
            rules.note(&place, monitor);
            if monitor.broken.is_some() {
                continue;
            }
            for ((namespace, name), service) in &objects.services {
                if monitor.takes(&id.0, namespace, &service.labels) {
                    for slice in slices_of(objects, namespace, name) {
                        rules.take_monitored(&place, monitor, slice);
                    }
                }
            }
        }
        rules
    }

    /// Whether the pods' own annotations count.
    pub fn takes_annotations(&self) -> bool {
        self.discover.pods
    }

    /// Whether anything but these counts.
    pub fn takes_objects(&self) -> bool {
        self.discover.needs_objects()
    }

    /// What is written in monitors and not honoured, one line a field or monitor.
    pub fn unsupported(&self) -> &[String] {
        &self.unsupported
    }

    /// Where to look in this pod besides its own annotations, in the order in which they count.
    pub(super) fn find(&self, pod: &Pod) -> (Vec<Wanted>, Vec<Refusal>) {
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        let mut take = |port: Result<u16, Refusal>, found: Wanted| match port {
            Ok(port) => wanted.push(Wanted { port, ..found }),
            Err(refusal) => refused.push(refusal),
        };
        let by_service = self
            .by_pod
            .get(&pod.id.uid)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for found in by_service {
            match found {
                Found::Wanted(wanted) => take(Ok(wanted.port), wanted.clone()),
                Found::PortOfPod { name, wanted, place } => {
                    take(annotations::resolve_port(pod, name, place), wanted.clone());
                }
                Found::Refused(refusal) => take(Err(refusal.clone()), Wanted::unknown()),
            }
        }
        for ((namespace, name), monitor) in &self.pod_monitors {
            if monitor.takes(namespace, &pod.id.namespace, &pod.labels) {
                let place = format!("PodMonitor {namespace}/{name}");
                for endpoint in &monitor.endpoints {
                    let port = match &endpoint.port {
                        Port::Number(number) => Ok(*number),
                        Port::Named(port) | Port::OfPod(port) => annotations::resolve_port(pod, port, &place),
                    };
                    take(port, endpoint.wanted(0));
                }
            }
        }
        (wanted, refused)
    }

    fn note(&mut self, place: &str, monitor: &Monitor) {
        let broken = monitor
            .broken
            .iter()
            .map(|why| format!("{place} is not used: {why}"));
        let fields = monitor
            .unsupported
            .iter()
            .map(|field| format!("{place}: {field} is not honoured"));
        self.unsupported.extend(broken.chain(fields));
    }

    /// An annotated Service: the ports that it names, or all of its own.
    fn take_service<'a>(&mut self, place: &str, service: &Service, slices: impl Iterator<Item = &'a Slice>) {
        let plan = annotations::of_service(&service.annotations);
        for slice in slices {
            let found: Vec<Found> = match &plan {
                Err((kind, reason)) => vec![Found::Refused((kind, format!("{reason} ({place})")))],
                Ok(plan) => match &plan.ports {
                    None => slice.ports.iter().map(|(_, port)| Found::Wanted(plan.want(*port, true))).collect(),
                    Some(ports) => ports
                        .iter()
                        .map(|port| match slice.resolve(port) {
                            Some(number) => Found::Wanted(plan.want(number, ports.len() > 1 || plan.is_list)),
                            None => Found::Refused((
                                "unknown_port",
                                format!("the annotation prometheus.io/port {place} names port {port:?}, which it does not have"),
                            )),
                        })
                        .collect(),
                },
            };
            for pod in &slice.pods {
                self.by_pod
                    .entry(pod.clone())
                    .or_default()
                    .extend(found.iter().cloned());
            }
        }
    }

    fn take_monitored(&mut self, place: &str, monitor: &Monitor, slice: &Slice) {
        for endpoint in &monitor.endpoints {
            let found = match &endpoint.port {
                // A Service may have its ports in several slices; the one that has this port brings it.
                Port::Named(name) => match slice.ports.iter().find(|(port, _)| port == name) {
                    Some((_, number)) => Found::Wanted(endpoint.wanted(*number)),
                    None => continue,
                },
                Port::Number(number) => Found::Wanted(endpoint.wanted(*number)),
                Port::OfPod(name) => Found::PortOfPod {
                    name: name.clone(),
                    wanted: endpoint.wanted(0),
                    place: place.to_owned(),
                },
            };
            for pod in &slice.pods {
                self.by_pod.entry(pod.clone()).or_default().push(found.clone());
            }
        }
    }
}

fn slices_of<'a>(
    objects: &'a Objects,
    namespace: &'a str,
    service: &'a str,
) -> impl Iterator<Item = &'a Slice> {
    objects
        .slices
        .iter()
        .filter(move |((of, _), slice)| of == namespace && slice.service == service)
        .map(|(_, slice)| slice)
}

impl Slice {
    /// The number of a port that is named, or written as a number: an annotation's number is the pod's.
    fn resolve(&self, port: &str) -> Option<u16> {
        match port.parse() {
            Ok(0) => None,
            Ok(number) => Some(number),
            Err(_) => self
                .ports
                .iter()
                .find(|(name, _)| name == port)
                .map(|(_, number)| *number),
        }
    }
}

impl Endpoint {
    fn wanted(&self, port: u16) -> Wanted {
        Wanted {
            port,
            path_and_query: annotations::with_query(&self.path, &self.query),
            path_label: Some(self.path.clone()),
            port_label: true,
            scheme: self.scheme,
        }
    }
}

impl Monitor {
    fn takes(&self, own: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = match &self.namespaces {
            Namespaces::Own => own == namespace,
            Namespaces::Any => true,
            Namespaces::Names(names) => names.iter().any(|name| name == namespace),
        };
        in_namespace
            && self
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches(labels))
    }
}

/// What kind of object a JSON text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    Slice,
    /// `monitoring.coreos.com/v1` PodMonitor.
    PodMonitor,
    /// `monitoring.coreos.com/v1` ServiceMonitor.
    ServiceMonitor,
}

impl Object {
    /// Reads an object from its labels, annotations and the rest of its JSON.
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
            ObjectKind::Slice => Self::Slice(read_slice(labels, rest)),
            ObjectKind::PodMonitor => Self::Monitor(read_monitor(&rest["spec"], "podMetricsEndpoints")),
            ObjectKind::ServiceMonitor => Self::Monitor(read_monitor(&rest["spec"], "endpoints")),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn read_slice(labels: &BTreeMap<String, String>, rest: &Value) -> Slice {
    Slice {
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

/// Source: prometheus-operator, Documentation/api-reference, PodMonitorSpec and ServiceMonitorSpec.
fn read_monitor(spec: &Value, endpoints: &str) -> Monitor {
    let mut unsupported = Vec::new();
    let mut unknown = |value: &Value, place: &str, known: &[&str]| {
        let fields = value.as_object().into_iter().flatten();
        for (field, value) in fields.filter(|(field, _)| !known.contains(&field.as_str())) {
            // What is written as its default asks for nothing.
            if !(value.is_null() || value == &Value::Bool(false)) {
                unsupported.push(format!("{place}{field}"));
            }
        }
    };
    unknown(spec, "spec.", &["selector", "namespaceSelector", endpoints]);
    for (index, endpoint) in list(&spec[endpoints]).iter().enumerate() {
        let mut known = vec!["port", "portNumber", "targetPort", "path", "scheme", "params"];
        // Finished pods are never scraped.
        if endpoint["filterRunning"] == true {
            known.push("filterRunning");
        }
        unknown(endpoint, &format!("spec.{endpoints}[{index}]."), &known);
    }
    let selector = &spec["namespaceSelector"];
    let namespaces = if selector["any"] == true {
        Namespaces::Any
    } else if list(&selector["matchNames"]).is_empty() {
        Namespaces::Own
    } else {
        let names = list(&selector["matchNames"]).iter().filter_map(Value::as_str);
        Namespaces::Names(names.map(str::to_owned).collect())
    };
    let mut monitor = Monitor {
        namespaces,
        selector: None,
        endpoints: Vec::new(),
        unsupported,
        broken: None,
    };
    match read_selector(&spec["selector"]) {
        Ok(selector) => monitor.selector = selector,
        Err(problem) => monitor.broken = Some(format!("its selector cannot be read: {problem}")),
    }
    for (index, endpoint) in list(&spec[endpoints]).iter().enumerate() {
        match read_endpoint(endpoint) {
            Ok(endpoint) => monitor.endpoints.push(endpoint),
            Err(problem) => monitor
                .unsupported
                .push(format!("spec.{endpoints}[{index}] ({problem})")),
        }
    }
    monitor
}

fn read_selector(selector: &Value) -> Result<Option<Selector>, String> {
    let mut parts = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in list(&selector["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = list(&expression["values"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(format!("no such operator: {other:?}")),
        });
    }
    if parts.is_empty() {
        return Ok(None);
    }
    Selector::parse(&parts.join(","))
        .map(Some)
        .map_err(|e| e.to_string())
}

fn read_endpoint(endpoint: &Value) -> Result<Endpoint, String> {
    let number = |value: &Value| {
        value
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n != 0)
    };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let port = if let Some(name) = text(&endpoint["port"]) {
        Port::Named(name)
    } else if let Some(number) = number(&endpoint["portNumber"]).or_else(|| number(&endpoint["targetPort"])) {
        Port::Number(number)
    } else if let Some(name) = text(&endpoint["targetPort"]) {
        Port::OfPod(name)
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
    let mut pairs = Vec::new();
    for (name, values) in endpoint["params"].as_object().into_iter().flatten() {
        for value in list(values).iter().filter_map(Value::as_str) {
            pairs.push((name.as_str(), value));
        }
    }
    Ok(Endpoint {
        port,
        path: annotations::normal_path(
            endpoint["path"]
                .as_str()
                .filter(|path| !path.is_empty())
                .unwrap_or("/metrics"),
        ),
        scheme,
        query: annotations::encode_query(pairs),
    })
}

#[cfg(test)]
mod tests;
