//! The endpoints that Services, PodMonitors and ServiceMonitors name.
//!
//! They add to a pod's own annotations. The label selector of the proxy decides which pods are selected; these objects
//! only name endpoints of selected pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::annotations::{self, Endpoint, Endpoints, ServiceAnnotations};
use super::cluster_objects::{EndpointSlice, Monitor, MonitorEndpoint, MonitorPort, Namespaces, Service};
use super::skip::Skip;
use super::{ClusterObjects, Discover, ObjectKey, Pod, SkipReason};

/// Which objects are read, and which of them count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorSettings {
    /// Where targets are looked for.
    pub discover: Discover,
    /// The namespaces whose monitors may name endpoints of pods in other namespaces.
    ///
    /// A monitor makes the proxy send requests to pods. Whoever may create a monitor in one namespace must not choose the
    /// requests to the pods of all others.
    pub cross_namespace: BTreeSet<String>,
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            discover: Discover::PODS,
            cross_namespace: BTreeSet::new(),
        }
    }
}

/// For each pod the endpoints that Services and monitors name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitorIndex {
    settings: MonitorSettings,
    /// Services before ServiceMonitors. All pods of one EndpointSlice share an entry.
    by_pod: HashMap<PodKey, Vec<Arc<[ServiceEndpoint]>>>,
    pod_monitors: Vec<(ObjectKey, Monitor)>,
    unsupported: Vec<String>,
}

/// The namespace of an EndpointSlice and the UID of a pod that it names.
///
/// The namespace is part of the key, since an EndpointSlice can name a pod of any namespace. Only pods of its own namespace
/// count.
type PodKey = (String, String);

/// An endpoint that a Service or a ServiceMonitor names.
#[derive(Debug, Clone, PartialEq)]
enum ServiceEndpoint {
    Known(Endpoint),
    /// An endpoint whose port number depends on the pod.
    PortOfPod {
        port_name: String,
        endpoint: MonitorEndpoint,
        place: String,
    },
    Skipped(Skip),
}

/// The namespaces that a monitor looks into.
enum Reach<'a> {
    All,
    Names(BTreeSet<&'a str>),
}

impl Reach<'_> {
    fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains(namespace),
        }
    }
}

/// EndpointSlices by the namespace and the name of their Service.
type SlicesByService<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

impl MonitorIndex {
    /// Evaluates all objects.
    pub fn new(settings: MonitorSettings, objects: &ClusterObjects) -> Self {
        let reads_services = settings.discover.services;
        let mut index = Self {
            settings,
            ..Self::default()
        };
        let slices = slices_by_service(objects);
        if reads_services {
            index.add_services(objects, &slices);
        }
        for (key, monitor) in &objects.pod_monitors {
            index.add_unsupported(&format!("PodMonitor {}/{}", key.0, key.1), &key.0, monitor);
            if monitor.broken.is_none() {
                index.pod_monitors.push((key.clone(), monitor.clone()));
            }
        }
        for (key, monitor) in &objects.service_monitors {
            let place = format!("ServiceMonitor {}/{}", key.0, key.1);
            index.add_unsupported(&place, &key.0, monitor);
            if monitor.broken.is_none() {
                index.add_service_monitor(&place, &key.0, monitor, objects, &slices);
            }
        }
        index
    }

    /// Returns whether the pods' own annotations are read.
    pub fn reads_pod_annotations(&self) -> bool {
        self.settings.discover.pods
    }

    /// Returns whether anything besides the pods' own annotations is read.
    pub fn reads_objects(&self) -> bool {
        self.settings.discover.needs_objects()
    }

    /// Returns the fields of monitors that are not supported, a sentence for each field or monitor.
    pub fn unsupported(&self) -> &[String] {
        &self.unsupported
    }

    /// Returns the endpoints of a pod that Services and monitors name, in order of precedence.
    pub(super) fn endpoints_of(&self, pod: &Pod) -> Endpoints {
        let mut found = Endpoints::default();
        let key = (pod.id.namespace.clone(), pod.id.uid.clone());
        for endpoint in self
            .by_pod
            .get(&key)
            .into_iter()
            .flatten()
            .flat_map(|shared| shared.iter())
        {
            found.push(match endpoint {
                ServiceEndpoint::Known(endpoint) => Ok(endpoint.clone()),
                ServiceEndpoint::PortOfPod {
                    port_name,
                    endpoint,
                    place,
                } => annotations::resolve_port(pod, port_name, place).map(|port| endpoint.at_port(port)),
                ServiceEndpoint::Skipped(skip) => Err(skip.clone()),
            });
        }
        for ((namespace, name), monitor) in &self.pod_monitors {
            let reach = self.reach_of(monitor, namespace);
            if !reach.contains(&pod.id.namespace) || !monitor.matches_labels(&pod.labels) {
                continue;
            }
            let place = format!("PodMonitor {namespace}/{name}");
            for endpoint in &monitor.endpoints {
                let port = match &endpoint.port {
                    MonitorPort::Number(number) => Ok(*number),
                    MonitorPort::Named(port) | MonitorPort::OfPod(port) => {
                        annotations::resolve_port(pod, port, &place)
                    }
                };
                found.push(port.map(|port| endpoint.at_port(port)));
            }
        }
        found
    }

    /// Returns the namespaces that a monitor in the namespace `own` may look into.
    fn reach_of<'a>(&self, monitor: &'a Monitor, own: &'a str) -> Reach<'a> {
        let may_cross = self.settings.cross_namespace.contains(own);
        match &monitor.namespaces {
            Namespaces::Any if may_cross => Reach::All,
            Namespaces::Names(names) => {
                let names = names.iter().map(String::as_str);
                Reach::Names(names.filter(|name| may_cross || *name == own).collect())
            }
            Namespaces::Any | Namespaces::Own => Reach::Names(BTreeSet::from([own])),
        }
    }

    fn add_unsupported(&mut self, place: &str, own: &str, monitor: &Monitor) {
        let asks_for_others = match &monitor.namespaces {
            Namespaces::Own => false,
            Namespaces::Any => true,
            Namespaces::Names(names) => names.iter().any(|name| name != own),
        };
        if asks_for_others && !self.settings.cross_namespace.contains(own) {
            self.unsupported.push(format!(
                "{place}: spec.namespaceSelector is limited to its own namespace; \
                 name {own} in --monitor-namespaces to let it select others"
            ));
        }
        let broken = monitor
            .broken
            .iter()
            .map(|why| format!("{place} is not used: {why}"));
        let fields = monitor
            .unsupported
            .iter()
            .map(|field| format!("{place}: {field} is not supported"));
        self.unsupported.extend(broken.chain(fields));
    }

    fn add_services(&mut self, objects: &ClusterObjects, slices: &SlicesByService<'_>) {
        for ((namespace, name), service) in &objects.services {
            if annotations::opts_in(&service.annotations).is_err() {
                continue;
            }
            let place = format!("of Service {namespace}/{name}");
            let annotations = ServiceAnnotations::read(&service.annotations);
            for slice in slices_of(slices, namespace, name) {
                let endpoints = match &annotations {
                    Ok(annotations) => service_endpoints(annotations, slice, &place),
                    Err(skip) => {
                        let detail = format!("{} ({place})", skip.detail);
                        vec![ServiceEndpoint::Skipped(Skip::new(skip.reason, detail))]
                    }
                };
                self.add(namespace, slice, endpoints);
            }
        }
    }

    fn add_service_monitor(
        &mut self,
        place: &str,
        monitor_namespace: &str,
        monitor: &Monitor,
        objects: &ClusterObjects,
        slices: &SlicesByService<'_>,
    ) {
        let services: Vec<_> = match self.reach_of(monitor, monitor_namespace) {
            Reach::All => objects.services.iter().collect(),
            Reach::Names(names) => {
                let services = names.iter().map(|namespace| services_in(objects, namespace));
                services.flatten().collect()
            }
        };
        for ((namespace, name), service) in services {
            if monitor.matches_labels(&service.labels) {
                for slice in slices_of(slices, namespace, name) {
                    self.add(namespace, slice, monitor_endpoints(monitor, slice, place));
                }
            }
        }
    }

    fn add(&mut self, namespace: &str, slice: &EndpointSlice, endpoints: Vec<ServiceEndpoint>) {
        let endpoints: Arc<[ServiceEndpoint]> = endpoints.into();
        for pod in &slice.pods {
            self.by_pod
                .entry((namespace.to_owned(), pod.clone()))
                .or_default()
                .push(Arc::clone(&endpoints));
        }
    }
}

fn slices_by_service(objects: &ClusterObjects) -> SlicesByService<'_> {
    let mut by_service = SlicesByService::new();
    for ((namespace, _), slice) in &objects.endpoint_slices {
        by_service
            .entry((namespace, &slice.service))
            .or_default()
            .push(slice);
    }
    by_service
}

fn slices_of<'a>(
    slices: &'a SlicesByService<'_>,
    namespace: &'a str,
    service: &'a str,
) -> &'a [&'a EndpointSlice] {
    slices.get(&(namespace, service)).map_or(&[], Vec::as_slice)
}

/// Returns the Services of one namespace.
fn services_in<'a>(
    objects: &'a ClusterObjects,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Service)> {
    let start = (namespace.to_owned(), String::new());
    let services = objects.services.range(start..);
    services.take_while(move |((of, _), _)| of == namespace)
}

/// Returns the endpoints of an annotated Service: the ports that it names, or all of its own.
fn service_endpoints(
    annotations: &ServiceAnnotations,
    slice: &EndpointSlice,
    place: &str,
) -> Vec<ServiceEndpoint> {
    let Some(ports) = &annotations.ports else {
        let ports = slice.ports.iter().map(|(_, number)| *number);
        return ports
            .map(|port| ServiceEndpoint::Known(annotations.at_port(port)))
            .collect();
    };
    let endpoint = |port: &String| match slice.resolve(port) {
        Some(number) => ServiceEndpoint::Known(annotations.at_port(number)),
        None => ServiceEndpoint::Skipped(Skip::new(
            SkipReason::UnknownPort,
            format!("the annotation prometheus.io/port {place} names port {port:?}, which it does not have"),
        )),
    };
    ports.iter().map(endpoint).collect()
}

/// Returns the endpoints that a ServiceMonitor names for the pods of one slice.
fn monitor_endpoints(monitor: &Monitor, slice: &EndpointSlice, place: &str) -> Vec<ServiceEndpoint> {
    let endpoint = |endpoint: &MonitorEndpoint| match &endpoint.port {
        // The ports of a Service may be spread over several slices; a slice without this port contributes nothing.
        MonitorPort::Named(name) => slice
            .port_named(name)
            .map(|number| ServiceEndpoint::Known(endpoint.at_port(number))),
        MonitorPort::Number(number) => Some(ServiceEndpoint::Known(endpoint.at_port(*number))),
        MonitorPort::OfPod(name) => Some(ServiceEndpoint::PortOfPod {
            port_name: name.clone(),
            endpoint: endpoint.clone(),
            place: place.to_owned(),
        }),
    };
    monitor.endpoints.iter().filter_map(endpoint).collect()
}

impl EndpointSlice {
    /// Returns the number of a port that is given by name, or by number: a number is the pod's.
    fn resolve(&self, port: &str) -> Option<u16> {
        match port.parse() {
            Ok(0) => None,
            Ok(number) => Some(number),
            Err(_) => self.port_named(port),
        }
    }

    fn port_named(&self, name: &str) -> Option<u16> {
        let port = self.ports.iter().find(|(port, _)| port == name)?;
        Some(port.1)
    }
}

impl MonitorEndpoint {
    fn at_port(&self, port: u16) -> Endpoint {
        Endpoint {
            port,
            path_and_query: annotations::with_query(&self.path, &self.query),
            path_label: Some(self.path.clone()),
            port_label: true,
            scheme: self.scheme,
        }
    }
}

impl Monitor {
    fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.matches(labels))
    }
}

#[cfg(test)]
mod tests;
