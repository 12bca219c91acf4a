//! What can be said about one pod without knowing the other pods or the time.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::annotations::{self, Endpoint, Endpoints};
use super::skip::Skip;
use super::{AddressPolicy, DefaultPort, MonitorIndex, Phase, Pod, PodRef, SkipReason, Target};

/// The longest path, with its query, that is scraped. Each of a target's own metrics carries the path in a label.
const LONGEST_PATH_BYTES: usize = 1024;

/// How long after its deletion a pod still counts as running. After that, the kubelet that would report its end is lost.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What evaluation needs to know besides the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// The port of a pod without a port annotation.
    pub default_port: DefaultPort,
    /// How to recognize this proxy's own pod.
    pub self_pod: SelfPod,
    /// The most targets of one pod. All of them are scraped at the same time, each over its own connection.
    pub max_targets_per_pod: usize,
    /// The longest label value in bytes, also of labels that the proxy adds; 0 means no limit.
    pub max_label_value_length: u64,
    /// The addresses that are scraped.
    pub addresses: AddressPolicy,
}

/// How to recognize this proxy's own pod, which is never scraped.
///
/// The first of these that is known and finds a pod decides: the UID, the host name, the addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfPod {
    /// The UID, if the deployment states it.
    pub uid: Option<String>,
    /// Namespace and host name, if both are known. The host name is the pod's name, except on the host network.
    pub name: Option<(String, String)>,
    /// The addresses of the own network interfaces, without loopback addresses.
    pub addresses: Vec<IpAddr>,
}

/// The kubelet cuts a host name after 63 characters, and then drops dashes and dots at its end.
///
/// Source: Kubernetes, pkg/kubelet/util/util.go, GetNodenameForKernel and truncatePodHostnameIfNeeded.
const CUT_HOST_NAME_BYTES: usize = 60;

impl SelfPod {
    /// Returns whether UID or name are those of the pod.
    fn is_named(&self, pod: &PodRef) -> bool {
        let is_name = |(namespace, host_name): &(String, String)| {
            let may_be_cut = self.uid.is_none() && host_name.len() >= CUT_HOST_NAME_BYTES;
            *namespace == pod.namespace
                && (*host_name == pod.name || may_be_cut && pod.name.starts_with(host_name.as_str()))
        };
        self.uid.as_ref() == Some(&pod.uid) || self.name.as_ref().is_some_and(is_name)
    }

    /// Returns the addresses that identify our own pod among these pods: none if UID or host name identify it.
    ///
    /// On the host network several pods have the address of one node, so an address says nothing if a pod is there.
    pub(super) fn decisive_addresses(&self, pods: &[&EvaluatedPod]) -> &[IpAddr] {
        let is_known = self.uid.is_some() || pods.iter().any(|pod| pod.is_self || pod.host_network);
        if is_known { &[] } else { &self.addresses }
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
    /// Whether UID or host name say that it is our own pod.
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
    /// The ports that no longer accept connections, of a pod that is being deleted.
    pub(super) ended_ports: BTreeSet<u16>,
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
        let (request, endpoints) = match request {
            Ok(endpoints) => (Ok(()), endpoints.limited_to(settings.max_targets_per_pod)),
            Err(skip) => (Err(skip), Endpoints::default()),
        };
        let is_self = settings.self_pod.is_named(&pod.id);
        let lifecycle = Lifecycle::from(pod.phase);
        let address = scraped_address(pod, &settings.addresses);
        let is_scraped = opt_in.is_ok() && !is_self && lifecycle == Lifecycle::Running;
        let mut skipped = endpoints.skipped;
        let mut targets = Vec::new();
        if let (Ok(address), true) = (&address, is_scraped) {
            for endpoint in endpoints.endpoints {
                match target(&pod.id, *address, endpoint, settings.max_label_value_length) {
                    Ok(target) => targets.push(Arc::new(target)),
                    Err(skip) => skipped.push(skip),
                }
            }
        }
        Self {
            id,
            host_network: pod.host_network,
            ips: pod.ips.iter().map(IpAddr::to_canonical).collect(),
            started: pod.started,
            created: pod.created,
            deletion: pod.deletion,
            opt_in,
            is_self,
            lifecycle,
            request,
            address,
            targets: targets.into(),
            skipped_endpoints: skipped.into(),
            ended_ports: BTreeSet::new(),
        }
    }

    /// Returns the names of the pod.
    pub fn id(&self) -> &Arc<PodRef> {
        &self.id
    }

    /// Records that a port refuses connections. Returns `false`, and records nothing, for a pod that is not being deleted.
    ///
    /// A pod is scraped until its end, because its last samples count. From then on a refused connection is no failure.
    pub fn end_port(&mut self, port: u16) -> bool {
        let is_terminating = self.deletion.is_some();
        if is_terminating {
            self.ended_ports.insert(port);
        }
        is_terminating
    }

    /// Takes over the ended ports of an earlier evaluation of the same pod.
    pub fn keep_ended_ports(&mut self, earlier: &Self) {
        if self.deletion.is_some() {
            self.ended_ports.clone_from(&earlier.ended_ports);
        }
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

    pub(super) fn has_one_of(&self, addresses: &[IpAddr]) -> bool {
        self.ips.iter().any(|ip| addresses.contains(ip))
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
    /// Keeps the first of several requests for the same endpoint.
    fn without_duplicates(mut self) -> Self {
        let mut seen = HashSet::new();
        self.endpoints
            .retain(|endpoint| seen.insert((endpoint.port, endpoint.path_and_query.clone())));
        self
    }

    /// Keeps the first `most` endpoints and the first `most` reasons, and sorts the endpoints by port and path.
    ///
    /// Annotations of 256 KiB hold tens of thousands of endpoints; one pod must not take the connections, the series and
    /// the reasons of all others.
    fn limited_to(mut self, most: usize) -> Self {
        let n_requested = self.endpoints.len() + self.skipped.len();
        let n_dropped = self.endpoints.len().saturating_sub(most) + self.skipped.len().saturating_sub(most);
        self.endpoints.truncate(most);
        self.skipped.truncate(most);
        if n_dropped > 0 {
            self.skipped.push(Skip::new(
                SkipReason::TooMany,
                format!(
                    "it names {n_requested} endpoints, of which the first {most} are scraped; \
                     name fewer or raise --max-targets-per-pod"
                ),
            ));
        }
        self.endpoints.sort();
        self
    }
}

/// Returns the address that is scraped: the pod's first one, of either family.
fn scraped_address(pod: &Pod, policy: &AddressPolicy) -> Result<IpAddr, Skip> {
    let Some(address) = pod.ips.first().copied() else {
        return Err(Skip::new(
            SkipReason::NoIp,
            "it has no IP address yet, or no longer",
        ));
    };
    policy.check(address)
}

/// Makes the target of an endpoint, unless its path is too long for a request or for a label.
fn target(
    pod: &PodRef,
    address: IpAddr,
    endpoint: Endpoint,
    max_label_value_length: u64,
) -> Result<Target, Skip> {
    let mut labels = Vec::with_capacity(2 + 2 * usize::from(endpoint.port_label));
    labels.push(("k8s_pod_name".to_owned(), pod.name.clone()));
    labels.push(("k8s_namespace".to_owned(), pod.namespace.clone()));
    if endpoint.port_label {
        labels.push(("k8s_pod_port".to_owned(), endpoint.port.to_string()));
    }
    if let Some(path) = endpoint.path_label {
        labels.push(("k8s_pod_path".to_owned(), path));
    }
    let target = Target {
        pod: pod.clone(),
        scheme: endpoint.scheme,
        address: SocketAddr::new(address, endpoint.port),
        path_and_query: endpoint.path_and_query,
        labels,
    };
    let n_bytes = target.path_and_query.len();
    if n_bytes > LONGEST_PATH_BYTES {
        return Err(Skip::new(
            SkipReason::BadPath,
            format!(
                "a path at port {} has {n_bytes} bytes; use at most {LONGEST_PATH_BYTES}",
                endpoint.port
            ),
        ));
    }
    // The URL is the longest label value that depends on the path.
    let n_bytes = target.public_url().len();
    if max_label_value_length > 0 && n_bytes as u64 > max_label_value_length {
        return Err(Skip::new(
            SkipReason::BadPath,
            format!(
                "the URL of a path at port {} has {n_bytes} bytes as a label; \
                 --max-label-value-length allows {max_label_value_length}",
                endpoint.port
            ),
        ));
    }
    Ok(target)
}
