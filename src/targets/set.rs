//! The target set of a moment, made from all evaluated pods.

use std::sync::Arc;

use jiff::Timestamp;

use super::evaluate::Lifecycle;
use super::ownership::AddressOwners;
use super::skip::Skip;
use super::{
    EvaluatedPod, MonitorIndex, Pod, PodRef, Serving, ShardAssignment, SkipReason, Skipped, Target,
    TargetSettings,
};

/// All targets of a moment, and all selected pods that are not scraped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSet {
    /// The targets, sorted by namespace, pod, port and path.
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
        fn names(target: &Target) -> (&str, &str) {
            (&target.pod.namespace, &target.pod.name)
        }
        let start = self.targets.partition_point(|other| names(other) < names(target));
        self.targets[start..]
            .iter()
            .take_while(|other| names(other) == names(target))
            .any(|other| {
                other.pod.uid == target.pod.uid
                    && other.address == target.address
                    && other.path_and_query == target.path_and_query
            })
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
    assemble(&evaluated, None, now)
}

/// Makes the target set of a moment.
///
/// Takes every selected pod once, in any order, including those that other shards serve: all pods together decide who
/// owns an address. Equal input gives an equal set. A pod yields targets, or skip reasons, or both if a part of what it
/// asks for cannot be scraped. [`TargetSet::next_change`] tells when to call this again although no pod has changed.
pub fn assemble<'a>(
    pods: impl IntoIterator<Item = &'a EvaluatedPod>,
    shard: Option<&ShardAssignment>,
    now: Timestamp,
) -> TargetSet {
    let mut pods: Vec<&EvaluatedPod> = pods.into_iter().collect();
    // Pods of one source are sorted already, and then this is one pass.
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    let owners = AddressOwners::new(&pods, now);
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
        match skip_reason(pod, serving, owners.other_owner(pod), now) {
            Some(skip) => set.skip(pod, skip),
            None => add_endpoints(&mut set, pod, &owners),
        }
    }
    set
}

/// Returns why nothing of this pod is scraped, or `None`.
///
/// Often several reasons hold. The order of the arms is their precedence: what the pod's owner can change in a manifest
/// comes first, what depends on time and on other pods comes last.
fn skip_reason(
    pod: &EvaluatedPod,
    serving: Serving,
    other_owner: Option<&EvaluatedPod>,
    now: Timestamp,
) -> Option<Skip> {
    let skip = match pod {
        _ if let Serving::Other { shard, total } = serving => Skip::new(
            SkipReason::OtherShard,
            format!("shard {shard} of {total} serves it (counted from 0)"),
        ),
        EvaluatedPod {
            opt_in: Err(skip), ..
        } => skip.clone(),
        EvaluatedPod { is_self: true, .. } => Skip::new(SkipReason::SelfPod, "it is this proxy's own pod"),
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
        _ if pod.is_lost(now) => Skip::new(
            SkipReason::Lost,
            "it should have been gone for more than a minute: its node seems lost",
        ),
        EvaluatedPod {
            address: Ok(address), ..
        } if let Some(owner) = other_owner => Skip::new(
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
        match owners.other_endpoint_owner(pod, target) {
            None => set.targets.push(Arc::clone(target)),
            Some(owner) => set.skip(
                pod,
                Skip::new(
                    SkipReason::EndpointTaken,
                    format!(
                        "port {} and path {} at {} belong to the later pod {} on the same address",
                        target.address.port(),
                        target.path_and_query,
                        target.address.ip(),
                        owner.id,
                    ),
                ),
            ),
        }
    }
}
