//! The target set of a moment, made from all evaluated pods.

use std::sync::Arc;

use jiff::Timestamp;

use super::evaluate::Lifecycle;
use super::ownership::AddressOwners;
use super::skip::Skip;
use super::{
    EvaluatedPod, MonitorIndex, Pod, PodRef, SelfPod, Serving, ShardAssignment, SkipReason, Skipped, Target,
    TargetSettings,
};

/// All targets of a moment, and all selected pods that are not scraped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSet {
    /// The targets, sorted by namespace, pod, UID, port and path, without duplicates.
    pub targets: Vec<Arc<Target>>,
    /// The pods and endpoints that are not scraped, sorted by namespace and pod.
    pub skipped: Vec<Skipped>,
    /// The number of selected pods.
    pub n_pods: usize,
    /// When the set changes next without any pod having changed, if it does.
    pub next_change: Option<Timestamp>,
    /// The number of pods that are assigned to this shard; without sharding, the number of all pods.
    pub n_assigned: usize,
    /// Pods that are assigned to another shard by now and are served here until that shard is ready.
    pub handing_over: Vec<Arc<PodRef>>,
    /// The fields of monitors that are not supported, a sentence each.
    pub unsupported: Vec<String>,
}

impl TargetSet {
    /// Returns whether this set still has the target, under the same pod and address.
    ///
    /// Ask the newest set when a body is complete. If the pod has been deleted, has finished, or has lost its address to
    /// another pod in the meantime, nobody knows whose body that is.
    pub fn confirms(&self, target: &Target) -> bool {
        fn key(target: &Target) -> (&PodRef, u16, &str) {
            (&target.pod, target.address.port(), &target.path_and_query)
        }
        let found = self
            .targets
            .binary_search_by(|other| key(other).cmp(&key(target)));
        found.is_ok_and(|at| self.targets[at].address == target.address)
    }

    fn skip(&mut self, pod: &EvaluatedPod, skip: Skip) {
        self.skipped.push(Skipped {
            pod: PodRef::clone(&pod.id),
            reason: skip.reason,
            detail: skip.detail,
        });
    }

    /// Records that a pod is being handed over to another shard and is served here until `end`.
    fn hand_over(&mut self, pod: &EvaluatedPod, end: Timestamp) {
        self.handing_over.push(Arc::clone(&pod.id));
        self.next_change = Some(self.next_change.map_or(end, |next| next.min(end)));
    }
}

/// Makes the target set of a moment from pods and their own annotations only.
pub fn build<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    settings: &TargetSettings,
    now: Timestamp,
) -> TargetSet {
    let monitors = MonitorIndex::default();
    let evaluated: Vec<EvaluatedPod> = pods
        .into_iter()
        .map(|pod| EvaluatedPod::new(pod, settings, &monitors))
        .collect();
    assemble(&evaluated, &settings.self_pod, None, now)
}

/// Makes the target set of a moment.
///
/// Takes every selected pod once, in any order, including those that other shards serve: all pods together decide who
/// owns an address. Equal input gives an equal set. A pod yields targets, or skip reasons, or both if a part of what it
/// asks for cannot be scraped. [`TargetSet::next_change`] tells when to call this again although no pod has changed.
pub fn assemble<'a>(
    pods: impl IntoIterator<Item = &'a EvaluatedPod>,
    self_pod: &SelfPod,
    shard: Option<&ShardAssignment>,
    now: Timestamp,
) -> TargetSet {
    let mut pods: Vec<&EvaluatedPod> = pods.into_iter().collect();
    // Pods of one source are sorted already, and then this is one pass.
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    // Two sources may report the same pod.
    pods.dedup_by(|a, b| a.id == b.id);
    let owners = AddressOwners::new(&pods, now);
    let self_addresses = self_pod.decisive_addresses(&pods);
    let lost_times = pods.iter().filter_map(|pod| pod.lost_at());
    let mut set = TargetSet {
        targets: Vec::with_capacity(pods.len()),
        n_pods: pods.len(),
        next_change: lost_times.filter(|at| *at > now).min(),
        ..TargetSet::default()
    };
    for pod in pods {
        let serving = shard.map_or(Serving::Own, |shard| shard.serving(&pod.id.uid, now));
        match serving {
            Serving::Own => set.n_assigned += 1,
            Serving::HandingOver(end) => set.hand_over(pod, end),
            Serving::Other { .. } => {}
        }
        let circumstances = Circumstances {
            serving,
            is_self: pod.is_self || pod.has_one_of(self_addresses),
            other_owner: owners.other_owner(pod),
            is_lost: pod.is_lost(now),
        };
        match skip_reason(pod, &circumstances) {
            Some(skip) => set.skip(pod, skip),
            None => add_endpoints(&mut set, pod, &owners),
        }
    }
    set
}

/// What is said about a pod by the other pods and by the time.
struct Circumstances<'a> {
    serving: Serving,
    is_self: bool,
    /// The pod that owns its address, if it is another one.
    other_owner: Option<&'a EvaluatedPod>,
    is_lost: bool,
}

/// Returns why nothing of this pod is scraped, or `None`.
///
/// Often several reasons hold. The order of the arms is their precedence: what the pod's owner can change in a manifest
/// comes first, what depends on time and on other pods comes last.
fn skip_reason(pod: &EvaluatedPod, circumstances: &Circumstances<'_>) -> Option<Skip> {
    let skip = match pod {
        _ if let Serving::Other { shard, total } = circumstances.serving => Skip::new(
            SkipReason::OtherShard,
            format!("shard {shard} of {total} serves it (counted from 0)"),
        ),
        EvaluatedPod {
            opt_in: Err(skip), ..
        } => skip.clone(),
        _ if circumstances.is_self => Skip::new(SkipReason::SelfPod, "it is this proxy's own pod"),
        EvaluatedPod {
            lifecycle: Lifecycle::Pending,
            ..
        } => Skip::new(
            SkipReason::Pending,
            "its phase is Pending: not all containers run yet",
        ),
        EvaluatedPod {
            lifecycle: Lifecycle::Finished(phase),
            ..
        } => Skip::new(
            SkipReason::Finished,
            format!("its phase is {}: it has ended", phase.as_str()),
        ),
        EvaluatedPod {
            request: Err(skip), ..
        }
        | EvaluatedPod {
            address: Err(skip), ..
        } => skip.clone(),
        _ if circumstances.is_lost => Skip::new(
            SkipReason::Lost,
            "it should have been gone for more than a minute: its node seems lost",
        ),
        EvaluatedPod {
            address: Ok(address), ..
        } if let Some(owner) = circumstances.other_owner => Skip::new(
            SkipReason::IpTaken,
            format!(
                "its IP address {address} now belongs to the later pod {}",
                owner.id
            ),
        ),
        _ => return None,
    };
    Some(skip)
}

/// Adds the targets of a pod that is scraped, and the reasons why some of its endpoints are not.
fn add_endpoints(set: &mut TargetSet, pod: &EvaluatedPod, owners: &AddressOwners<'_>) {
    for skip in &pod.skipped_endpoints {
        set.skip(pod, skip.clone());
    }
    for target in &pod.targets {
        let port = target.address.port();
        if pod.ended_ports.contains(&port) {
            let detail = format!("it is being deleted, and port {port} no longer accepts connections");
            set.skip(pod, Skip::new(SkipReason::Terminating, detail));
            continue;
        }
        match owners.other_endpoint_owner(pod, target) {
            None => set.targets.push(Arc::clone(target)),
            Some(owner) => set.skip(
                pod,
                Skip::new(
                    SkipReason::EndpointTaken,
                    format!(
                        "port {} and path {} at {} belong to the later pod {} on the same address",
                        port,
                        target.path(),
                        target.address.ip(),
                        owner.id,
                    ),
                ),
            ),
        }
    }
}
