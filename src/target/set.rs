//! All targets of a moment, and who owns an address when two claim it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::annotations::{self, Plan};
use super::{DefaultPort, Phase, Pod, PodRef, Skipped, Target};

/// How long a pod that should be gone is still believed to run. The kubelet that would say so is lost.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What [`build`] must know besides the pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What a pod without a port annotation means.
    pub default_port: DefaultPort,
    /// Who we are.
    pub own: Own,
}

/// How our own pod is known, so that it is never scraped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Its UID, where the deployment tells it.
    pub uid: Option<String>,
    /// Its name and namespace, where both are known. The host name is the pod's name, but on the host network.
    pub name: Option<(String, String)>,
}

impl Own {
    fn is(&self, pod: &PodRef) -> bool {
        self.uid.as_ref() == Some(&pod.uid)
            || self
                .name
                .as_ref()
                .is_some_and(|(namespace, name)| *namespace == pod.namespace && *name == pod.name)
    }
}

/// All targets of a moment, sorted by (namespace, pod, port, path), and all selected pods that are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSet {
    /// What is scraped.
    pub targets: Vec<Arc<Target>>,
    /// What is not, sorted by (namespace, pod).
    pub skipped: Vec<Skipped>,
    /// Selected pods in all.
    pub n_pods: usize,
    /// When time alone changes the set next, if at all.
    pub next_change: Option<Timestamp>,
}

impl TargetSet {
    /// Whether this set still has the target under the same pod and address.
    ///
    /// Asked of the newest set when a body is complete: where the pod has gone, has finished, or has lost its IP to
    /// another meanwhile, nobody knows whose body that is.
    pub fn confirms(&self, target: &Target) -> bool {
        let start = self.targets.partition_point(|other| key(other) < key(target));
        self.targets[start..]
            .iter()
            .take_while(|other| key(other) == key(target))
            .any(|other| other.pod == target.pod && other.address == target.address)
    }
}

fn key(target: &Target) -> (&str, &str, u16, &str) {
    (
        &target.pod.namespace,
        &target.pod.name,
        target.address.port(),
        &target.path_and_query,
    )
}

/// Makes the target set of a moment.
///
/// Takes every selected pod once, in any order; equal input gives an equal set. A pod yields targets, or reasons, or
/// both where one entry of a list is bad. Deadlines in pods are compared with `now`; [`TargetSet::next_change`] tells
/// when to ask again without any pod having changed.
pub fn build<'a>(pods: impl IntoIterator<Item = &'a Pod>, settings: &Settings, now: Timestamp) -> TargetSet {
    let mut pods: Vec<&Pod> = pods.into_iter().collect();
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    let mut set = TargetSet {
        n_pods: pods.len(),
        ..TargetSet::default()
    };
    set.next_change = pods
        .iter()
        .filter_map(|pod| pod.deletion?.checked_add(DELETION_GRACE).ok())
        .filter(|end| *end > now)
        .min();
    let owners = owners(&pods, now);
    let mut claims = Vec::with_capacity(pods.len());
    for pod in pods {
        match examine(pod, &owners, settings, now) {
            Ok((address, plan)) => {
                for (kind, reason) in plan.refused {
                    set.skipped.push(skipped(pod, kind, reason));
                }
                for wanted in plan.wanted {
                    let mut labels = vec![
                        ("k8s_pod_name".to_owned(), pod.id.name.clone()),
                        ("k8s_namespace".to_owned(), pod.id.namespace.clone()),
                    ];
                    if wanted.port_label {
                        labels.push(("k8s_pod_port".to_owned(), wanted.port.to_string()));
                    }
                    if let Some(path) = wanted.path_label {
                        labels.push(("k8s_pod_path".to_owned(), path));
                    }
                    let target = Target {
                        pod: pod.id.clone(),
                        scheme: plan.scheme,
                        address: SocketAddr::new(address, wanted.port),
                        path_and_query: wanted.path_and_query,
                        labels,
                    };
                    claims.push((pod, target));
                }
            }
            Err((kind, reason)) => set.skipped.push(skipped(pod, kind, reason)),
        }
    }
    settle(claims, &mut set);
    set
}

/// Whether a pod can be scraped for itself, and at which address.
fn examine<'a>(
    pod: &'a Pod,
    owners: &HashMap<IpAddr, &'a Pod>,
    settings: &Settings,
    now: Timestamp,
) -> Result<(IpAddr, Plan), annotations::Refusal> {
    annotations::asks_for_scrape(pod)?;
    if settings.own.is(&pod.id) {
        return Err(("self", "it is this proxy's own pod".to_owned()));
    }
    match pod.phase {
        Phase::Running | Phase::Unknown => {}
        Phase::Pending => {
            return Err((
                "pending",
                "its phase is Pending: not all containers run yet".to_owned(),
            ));
        }
        Phase::Succeeded | Phase::Failed => {
            return Err((
                "finished",
                format!("its phase is {}: it has ended", pod.phase.as_str()),
            ));
        }
    }
    if is_lost(pod, now) {
        return Err((
            "lost",
            "it should have been gone for more than a minute: its node seems lost".to_owned(),
        ));
    }
    let plan = annotations::plan(pod, settings.default_port)?;
    let Some(address) = pod.ips.first().copied() else {
        return Err(("no_ip", "it has no IP address yet, or any more".to_owned()));
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err((
            "bad_ip",
            format!("its IP address {address} is not that of one machine"),
        ));
    }
    if !pod.host_network
        && let Some(owner) = owners.get(&address)
        && owner.id.uid != pod.id.uid
    {
        return Err((
            "ip_taken",
            format!("its IP address {address} has gone to the later pod {}", owner.id),
        ));
    }
    Ok((address, plan))
}

/// Whether a pod is past its deletion for so long that nothing of it can be believed.
fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    pod.deletion
        .and_then(|deletion| deletion.checked_add(DELETION_GRACE).ok())
        .is_some_and(|end| end <= now)
}

/// Which pod has which address. The latest one: an IP moves on to pods that start later, and never back.
///
/// Pods that are not scraped claim their address all the same (another pod may still show it), but for those that have
/// ended or are lost: these keep the address in their status and have it no more.
fn owners<'a>(pods: &[&'a Pod], now: Timestamp) -> HashMap<IpAddr, &'a Pod> {
    let mut owners: HashMap<IpAddr, &'a Pod> = HashMap::with_capacity(pods.len());
    for &pod in pods {
        if pod.host_network || pod.phase.is_finished() || is_lost(pod, now) {
            continue;
        }
        for ip in &pod.ips {
            owners
                .entry(*ip)
                .and_modify(|owner| {
                    if age_key(pod) > age_key(owner) {
                        *owner = pod;
                    }
                })
                .or_insert(pod);
        }
    }
    owners
}

/// Greater is later.
fn age_key(pod: &Pod) -> (Option<Timestamp>, Option<Timestamp>, &str) {
    (pod.started, pod.created, &pod.id.uid)
}

/// Settles two pods of the same address, port and path: the latest is scraped, the other has a reason. Pods on the host
/// network share addresses, so this happens without anything being wrong.
fn settle(claims: Vec<(&Pod, Target)>, set: &mut TargetSet) {
    let mut winners: HashMap<(SocketAddr, &str), &Pod> = HashMap::with_capacity(claims.len());
    for (pod, target) in &claims {
        winners
            .entry((target.address, &target.path_and_query))
            .and_modify(|winner| {
                if age_key(pod) > age_key(winner) {
                    *winner = pod;
                }
            })
            .or_insert(pod);
    }
    let lost: Vec<Option<PodRef>> = claims
        .iter()
        .map(|(pod, target)| {
            let winner = winners[&(target.address, target.path_and_query.as_str())];
            (winner.id.uid != pod.id.uid).then(|| winner.id.clone())
        })
        .collect();
    let mut has_reasons = false;
    for ((pod, target), winner) in claims.into_iter().zip(lost) {
        match winner {
            None => set.targets.push(Arc::new(target)),
            Some(winner) => {
                has_reasons = true;
                let reason = format!(
                    "port {} and path {} at {} belong to the later pod {winner} on the same address",
                    target.address.port(),
                    target.path_and_query,
                    target.address.ip(),
                );
                set.skipped.push(skipped(pod, "endpoint_taken", reason));
            }
        }
    }
    set.targets
        .sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.pod.uid.cmp(&b.pod.uid)));
    if has_reasons {
        set.skipped.sort_by(|a, b| a.pod.cmp(&b.pod));
    }
}

fn skipped(pod: &Pod, kind: &'static str, reason: String) -> Skipped {
    Skipped {
        pod: pod.id.clone(),
        kind,
        reason,
    }
}
