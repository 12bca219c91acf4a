//! What can be said about one pod without knowing the other pods or the time.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::annotations::{self, Endpoint, Endpoints};
use super::skip::Skip;
use super::{DefaultPort, MonitorIndex, Phase, Pod, PodRef, SkipReason, Target};

/// How long after its deletion a pod still counts as running. After that, the kubelet that would report its end is lost.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What evaluation needs to know besides the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// The port of a pod without a port annotation.
    pub default_port: DefaultPort,
    /// How to recognize this proxy's own pod.
    pub self_pod: SelfPod,
}

/// How to recognize this proxy's own pod, which is never scraped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfPod {
    /// The UID, if the deployment states it.
    pub uid: Option<String>,
    /// Namespace and name, if both are known. The name is the host name, except on the host network.
    pub name: Option<(String, String)>,
}

impl SelfPod {
    fn is(&self, pod: &PodRef) -> bool {
        self.uid.as_ref() == Some(&pod.uid)
            || self
                .name
                .as_ref()
                .is_some_and(|(namespace, name)| *namespace == pod.namespace && *name == pod.name)
    }
}

/// A pod with everything that can be said about it without knowing the other pods or the time.
///
/// Two values are equal if nothing that the target set depends on has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatedPod {
    pub(super) id: Arc<PodRef>,
    pub(super) host_network: bool,
    pub(super) ips: Box<[IpAddr]>,
    started: Option<Timestamp>,
    created: Option<Timestamp>,
    deletion: Option<Timestamp>,
    /// Whether an annotation, a Service or a monitor asks for a scrape.
    pub(super) opt_in: Result<(), Skip>,
    pub(super) is_self: bool,
    pub(super) lifecycle: Lifecycle,
    /// Whether at least a part of what was asked for can be scraped.
    pub(super) request: Result<(), Skip>,
    /// The address that is scraped.
    pub(super) address: Result<IpAddr, Skip>,
    /// The targets at `address`; empty if one of the results above says that the pod is not scraped.
    pub(super) targets: Box<[Arc<Target>]>,
    /// The parts of the request that cannot be scraped.
    pub(super) skipped_endpoints: Box<[Skip]>,
}

/// The part of a pod's phase that decides about a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Pending,
    Running,
    /// All containers have ended. The pod still shows its addresses, but no longer has them.
    Finished(Phase),
}

impl From<Phase> for Lifecycle {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Running | Phase::Unknown => Self::Running,
            Phase::Succeeded | Phase::Failed => Self::Finished(phase),
        }
    }
}

impl EvaluatedPod {
    /// Evaluates one pod.
    pub fn new(pod: &Pod, settings: &TargetSettings, monitors: &MonitorIndex) -> Self {
        let id = Arc::new(pod.id.clone());
        let (opt_in, request) = requested_endpoints(pod, settings.default_port, monitors);
        let (request, Endpoints { endpoints, skipped }) = match request {
            Ok(endpoints) => (Ok(()), endpoints),
            Err(skip) => (Err(skip), Endpoints::default()),
        };
        let is_self = settings.self_pod.is(&pod.id);
        let lifecycle = Lifecycle::from(pod.phase);
        let address = scraped_address(pod);
        let is_scraped = opt_in.is_ok() && !is_self && lifecycle == Lifecycle::Running;
        let targets = match &address {
            Ok(address) if is_scraped => endpoints
                .into_iter()
                .map(|endpoint| Arc::new(target(&pod.id, *address, endpoint)))
                .collect(),
            _ => Box::default(),
        };
        Self {
            id,
            host_network: pod.host_network,
            ips: pod.ips.clone(),
            started: pod.started,
            created: pod.created,
            deletion: pod.deletion,
            opt_in,
            is_self,
            lifecycle,
            request,
            address,
            targets,
            skipped_endpoints: skipped.into(),
        }
    }

    /// Returns the names of the pod.
    pub fn id(&self) -> &Arc<PodRef> {
        &self.id
    }

    /// Returns a key that is greater for pods that started later.
    pub(super) fn age_key(&self) -> (Option<Timestamp>, Option<Timestamp>, &str) {
        (self.started, self.created, &self.id.uid)
    }

    /// Returns when the pod counts as lost: it should have been deleted for too long.
    pub(super) fn lost_at(&self) -> Option<Timestamp> {
        self.deletion?.checked_add(DELETION_GRACE).ok()
    }

    pub(super) fn is_lost(&self, now: Timestamp) -> bool {
        self.lost_at().is_some_and(|at| at <= now)
    }

    /// Returns whether the pod really has the addresses that it shows.
    pub(super) fn holds_addresses(&self, now: Timestamp) -> bool {
        !matches!(self.lifecycle, Lifecycle::Finished(_)) && !self.is_lost(now)
    }
}

/// Returns whether anything asks to scrape the pod, and which endpoints.
///
/// The pod's own annotations come first: of two requests for one endpoint the first one decides about its labels.
fn requested_endpoints(
    pod: &Pod,
    default_port: DefaultPort,
    monitors: &MonitorIndex,
) -> (Result<(), Skip>, Result<Endpoints, Skip>) {
    let annotated = if monitors.reads_pod_annotations() {
        annotations::opts_in(&pod.annotations)
    } else {
        Err(Skip::new(
            SkipReason::NoMonitor,
            "no Service or monitor that is read names it",
        ))
    };
    let monitored = monitors.endpoints_of(pod);
    let own = match &annotated {
        Ok(()) => annotations::endpoints_of_pod(pod, default_port),
        Err(_) => Ok(Endpoints::default()),
    };
    if monitored.is_empty() {
        return (annotated, own.map(Endpoints::without_duplicates));
    }
    // An annotation that cannot be used does not hide what a monitor asks for.
    let mut all = own.unwrap_or_else(|skip| Endpoints {
        endpoints: Vec::new(),
        skipped: vec![skip],
    });
    all.extend(monitored);
    (Ok(()), Ok(all.without_duplicates()))
}

impl Endpoints {
    /// Keeps the first of several requests for the same endpoint, and sorts by port and path.
    fn without_duplicates(mut self) -> Self {
        let mut seen = HashSet::new();
        self.endpoints
            .retain(|endpoint| seen.insert((endpoint.port, endpoint.path_and_query.clone())));
        self.endpoints.sort();
        self
    }
}

/// Returns the address that is scraped: the pod's first one, of either family.
fn scraped_address(pod: &Pod) -> Result<IpAddr, Skip> {
    let Some(address) = pod.ips.first().copied() else {
        return Err(Skip::new(
            SkipReason::NoIp,
            "it has no IP address yet, or no longer",
        ));
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err(Skip::new(
            SkipReason::BadIp,
            format!("its IP address {address} is not that of one machine"),
        ));
    }
    Ok(address)
}

fn target(pod: &PodRef, address: IpAddr, endpoint: Endpoint) -> Target {
    let mut labels = Vec::with_capacity(2 + 2 * usize::from(endpoint.port_label));
    labels.push(("k8s_pod_name".to_owned(), pod.name.clone()));
    labels.push(("k8s_namespace".to_owned(), pod.namespace.clone()));
    if endpoint.port_label {
        labels.push(("k8s_pod_port".to_owned(), endpoint.port.to_string()));
    }
    if let Some(path) = endpoint.path_label {
        labels.push(("k8s_pod_path".to_owned(), path));
    }
    Target {
        pod: pod.clone(),
        scheme: endpoint.scheme,
        address: SocketAddr::new(address, endpoint.port),
        path_and_query: endpoint.path_and_query,
        labels,
    }
}
