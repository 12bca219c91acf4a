//! The endpoints that Services, PodMonitors and ServiceMonitors name.
//!
//! They add to a pod's own annotations. The label selector of the proxy decides which pods are selected; these objects
//! only name endpoints of selected pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::annotations::{self, Endpoint, Endpoints, ServiceAnnotations};
use super::cluster_objects::{EndpointSlice, Monitor, MonitorEndpoint, MonitorPort, Namespaces, Service};
use super::skip::Skip;
use super::{ClusterObjects, Discover, ObjectKey, Pod, SkipReason};

/// For each pod the endpoints that Services and monitors name.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorIndex {
    discover: Discover,
    /// By pod UID; Services before ServiceMonitors. All pods of one EndpointSlice share an entry.
    by_pod: HashMap<String, Vec<Arc<[ServiceEndpoint]>>>,
    pod_monitors: Vec<(ObjectKey, Monitor)>,
    unsupported: Vec<String>,
}

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

/// EndpointSlices by the namespace and the name of their Service.
type SlicesByService<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

impl Default for MonitorIndex {
    fn default() -> Self {
        Self {
            discover: Discover::PODS,
            by_pod: HashMap::new(),
            pod_monitors: Vec::new(),
            unsupported: Vec::new(),
        }
    }
}

impl MonitorIndex {
    /// Evaluates all objects.
    pub fn new(discover: Discover, objects: &ClusterObjects) -> Self {
        let mut index = Self {
            discover,
            ..Self::default()
        };
        let slices = slices_by_service(objects);
        if discover.services {
            index.add_services(objects, &slices);
        }
        for (key, monitor) in &objects.pod_monitors {
            index.add_unsupported(&format!("PodMonitor {}/{}", key.0, key.1), monitor);
            if monitor.broken.is_none() {
                index.pod_monitors.push((key.clone(), monitor.clone()));
            }
        }
        for (key, monitor) in &objects.service_monitors {
            let place = format!("ServiceMonitor {}/{}", key.0, key.1);
            index.add_unsupported(&place, monitor);
            if monitor.broken.is_none() {
                index.add_service_monitor(&place, &key.0, monitor, objects, &slices);
            }
        }
        index
    }

    /// Returns whether the pods' own annotations are read.
    pub fn reads_pod_annotations(&self) -> bool {
        self.discover.pods
    }

    /// Returns whether anything besides the pods' own annotations is read.
    pub fn reads_objects(&self) -> bool {
        self.discover.needs_objects()
    }

    /// Returns the fields of monitors that are not supported, a sentence for each field or monitor.
    pub fn unsupported(&self) -> &[String] {
        &self.unsupported
    }

    /// Returns the endpoints of a pod that Services and monitors name, in order of precedence.
    pub(super) fn endpoints_of(&self, pod: &Pod) -> Endpoints {
        let mut found = Endpoints::default();
        for endpoint in self
            .by_pod
            .get(&pod.id.uid)
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
            if !monitor.matches(namespace, &pod.id.namespace, &pod.labels) {
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

    fn add_unsupported(&mut self, place: &str, monitor: &Monitor) {
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
                self.add(slice, endpoints);
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
        let namespaces: Vec<Option<&str>> = match &monitor.namespaces {
            Namespaces::Own => vec![Some(monitor_namespace)],
            Namespaces::Any => vec![None],
            Namespaces::Names(names) => {
                let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                names.into_iter().map(Some).collect()
            }
        };
        for namespace in namespaces {
            for ((namespace, name), service) in services_in(objects, namespace) {
                if monitor.matches_labels(&service.labels) {
                    for slice in slices_of(slices, namespace, name) {
                        self.add(slice, monitor_endpoints(monitor, slice, place));
                    }
                }
            }
        }
    }

    fn add(&mut self, slice: &EndpointSlice, endpoints: Vec<ServiceEndpoint>) {
        let endpoints: Arc<[ServiceEndpoint]> = endpoints.into();
        for pod in &slice.pods {
            self.by_pod
                .entry(pod.clone())
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

/// Returns the Services of one namespace, or of all.
fn services_in<'a>(
    objects: &'a ClusterObjects,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Service)> {
    let start = namespace.map_or(Bound::Unbounded, |namespace| {
        Bound::Included((namespace.to_owned(), String::new()))
    });
    objects
        .services
        .range((start, Bound::Unbounded))
        .take_while(move |((of, _), _)| namespace.is_none_or(|namespace| of == namespace))
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
    /// Returns whether a monitor in `own_namespace` selects an object of this namespace with these labels.
    fn matches(&self, own_namespace: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = match &self.namespaces {
            Namespaces::Own => own_namespace == namespace,
            Namespaces::Any => true,
            Namespaces::Names(names) => names.iter().any(|name| name == namespace),
        };
        in_namespace && self.matches_labels(labels)
    }

    fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.matches(labels))
    }
}

#[cfg(test)]
mod tests;
