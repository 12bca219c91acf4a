//! All targets of a moment, and who owns an address when two claim it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::annotations::{self, Plan, Refusal};
use super::{DefaultPort, Phase, Pod, PodRef, Rules, Serving, Share, Skipped, Target};

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
    /// Pods that this unit serves itself; all of them where the work is not shared.
    pub n_own: usize,
    /// Pods that are another unit's now and are served until it is ready.
    pub held: Vec<Arc<PodRef>>,
    /// What is written in monitors and not honoured, one line each.
    pub unsupported: Vec<String>,
}

impl TargetSet {
    /// Whether this set still has the target under the same pod and address.
    ///
    /// Asked of the newest set when a body is complete: where the pod has gone, has finished, or has lost its IP to
    /// another meanwhile, nobody knows whose body that is.
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
}

/// A pod with everything that can be said of it without knowing the other pods or the time.
///
/// Worked out once a pod changes, so that a set of ten thousand pods, of which one has changed, is made of the rest as
/// it was. Equal where nothing that we use has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    id: Arc<PodRef>,
    host_network: bool,
    /// Whether it keeps its addresses: a finished pod shows them and has them no more.
    keeps_ips: bool,
    ips: Box<[IpAddr]>,
    started: Option<Timestamp>,
    created: Option<Timestamp>,
    deletion: Option<Timestamp>,
    outcome: Result<Found, Refusal>,
}

/// What a pod's annotations come to, at its address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    address: IpAddr,
    targets: Box<[Arc<Target>]>,
    refused: Box<[Refusal]>,
}

impl Prepared {
    /// Looks at one pod.
    pub fn new(pod: &Pod, settings: &Settings, rules: &Rules) -> Self {
        Self {
            outcome: examine(pod, settings, rules),
            id: Arc::new(pod.id.clone()),
            host_network: pod.host_network,
            keeps_ips: !pod.phase.is_finished(),
            ips: pod.ips.clone(),
            started: pod.started,
            created: pod.created,
            deletion: pod.deletion,
        }
    }

    /// The pod's names.
    pub fn id(&self) -> &Arc<PodRef> {
        &self.id
    }

    /// Greater is later.
    fn age_key(&self) -> (Option<Timestamp>, Option<Timestamp>, &str) {
        (self.started, self.created, &self.id.uid)
    }

    /// When it is past its deletion for so long that nothing of it can be believed.
    fn lost_at(&self) -> Option<Timestamp> {
        self.deletion?.checked_add(DELETION_GRACE).ok()
    }

    fn is_lost(&self, now: Timestamp) -> bool {
        self.lost_at().is_some_and(|at| at <= now)
    }
}

/// Whether a pod can be scraped for itself, and at which address.
fn examine(pod: &Pod, settings: &Settings, rules: &Rules) -> Result<Found, Refusal> {
    // What its own annotations ask for, before anything else: a pod that asks for nothing needs no other reason.
    let asked = if rules.takes_annotations() {
        annotations::asks(&pod.annotations)
    } else {
        Err((
            "no_monitor",
            "no Service or monitor that is read names it".to_owned(),
        ))
    };
    let (more, more_refused) = if rules.takes_objects() {
        rules.find(pod)
    } else {
        Default::default()
    };
    if more.is_empty()
        && more_refused.is_empty()
        && let Err(refusal) = asked
    {
        return Err(refusal);
    }
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
    let own = match asked {
        Ok(()) => annotations::plan(pod, settings.default_port),
        Err(_) => Ok(Plan::default()),
    };
    let Plan {
        mut wanted,
        mut refused,
    } = match own {
        Ok(plan) => plan,
        Err(refusal) if more.is_empty() && more_refused.is_empty() => return Err(refusal),
        Err(refusal) => Plan {
            wanted: Vec::new(),
            refused: vec![refusal],
        },
    };
    wanted.extend(more);
    refused.extend(more_refused);
    // The same endpoint asked for twice is scraped once, as who asked first would have it.
    let mut seen = HashSet::new();
    wanted.retain(|wanted| seen.insert((wanted.port, wanted.path_and_query.clone())));
    wanted.sort();
    let Some(address) = pod.ips.first().copied() else {
        return Err(("no_ip", "it has no IP address yet, or any more".to_owned()));
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err((
            "bad_ip",
            format!("its IP address {address} is not that of one machine"),
        ));
    }
    let targets = wanted.into_iter().map(|wanted| {
        let mut labels = Vec::with_capacity(2 + 2 * usize::from(wanted.port_label));
        labels.push(("k8s_pod_name".to_owned(), pod.id.name.clone()));
        labels.push(("k8s_namespace".to_owned(), pod.id.namespace.clone()));
        if wanted.port_label {
            labels.push(("k8s_pod_port".to_owned(), wanted.port.to_string()));
        }
        if let Some(path) = wanted.path_label {
            labels.push(("k8s_pod_path".to_owned(), path));
        }
        Arc::new(Target {
            pod: pod.id.clone(),
            scheme: wanted.scheme,
            address: SocketAddr::new(address, wanted.port),
            path_and_query: wanted.path_and_query,
            labels,
        })
    });
    Ok(Found {
        address,
        targets: targets.collect(),
        refused: refused.into(),
    })
}

/// Makes the target set of a moment from pods and their own annotations: [`Prepared::new`] for each, then [`assemble`].
pub fn build<'a>(pods: impl IntoIterator<Item = &'a Pod>, settings: &Settings, now: Timestamp) -> TargetSet {
    let rules = Rules::default();
    let prepared: Vec<Prepared> = pods
        .into_iter()
        .map(|pod| Prepared::new(pod, settings, &rules))
        .collect();
    assemble(&prepared, None, now)
}

/// Makes the target set of a moment.
///
/// Takes every selected pod once, in any order, those of other units too: who owns an address is a question to all. Equal
/// input gives an equal set. A pod yields targets, or reasons, or both where one entry of a list is bad. Deadlines are
/// compared with `now`; [`TargetSet::next_change`] tells when to ask again without any pod having changed.
pub fn assemble<'a>(
    pods: impl IntoIterator<Item = &'a Prepared>,
    share: Option<&Share>,
    now: Timestamp,
) -> TargetSet {
    let mut pods: Vec<&Prepared> = pods.into_iter().collect();
    // Sorted already where they come from one source; that costs one look.
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    let owners = Owners::of(&pods, now);
    let mut set = TargetSet {
        targets: Vec::with_capacity(pods.len()),
        skipped: Vec::new(),
        n_pods: pods.len(),
        next_change: pods
            .iter()
            .filter_map(|pod| pod.lost_at())
            .filter(|at| *at > now)
            .min(),
        n_own: 0,
        held: Vec::new(),
        unsupported: Vec::new(),
    };
    for pod in pods {
        match share.map_or(Serving::Own, |share| share.serving(&pod.id.uid, now)) {
            Serving::Own => set.n_own += 1,
            Serving::Held(until) => {
                set.held.push(Arc::clone(&pod.id));
                set.next_change = Some(set.next_change.map_or(until, |next| next.min(until)));
            }
            Serving::Other(unit) => {
                let total = share.map_or(1, Share::total);
                set.skipped.push(Skipped {
                    pod: PodRef::clone(&pod.id),
                    kind: "other_shard",
                    reason: format!("shard {unit} of {total} serves it (counted from 0)"),
                });
                continue;
            }
        }
        let mut skip = |kind, reason| {
            set.skipped.push(Skipped {
                pod: PodRef::clone(&pod.id),
                kind,
                reason,
            });
        };
        let found = match &pod.outcome {
            Ok(found) => found,
            Err((kind, reason)) => {
                skip(kind, reason.clone());
                continue;
            }
        };
        if pod.is_lost(now) {
            skip(
                "lost",
                "it should have been gone for more than a minute: its node seems lost".to_owned(),
            );
            continue;
        }
        if let Some(owner) = owners.other_owner(pod, found.address) {
            skip(
                "ip_taken",
                format!(
                    "its IP address {} has gone to the later pod {}",
                    found.address, owner.id
                ),
            );
            continue;
        }
        for (kind, reason) in &found.refused {
            skip(kind, reason.clone());
        }
        for target in &found.targets {
            if let Some(owner) = owners.other_claimant(pod, target) {
                skip(
                    "endpoint_taken",
                    format!(
                        "port {} and path {} at {} belong to the later pod {} on the same address",
                        target.address.port(),
                        target.path_and_query,
                        target.address.ip(),
                        owner.id,
                    ),
                );
            } else {
                set.targets.push(Arc::clone(target));
            }
        }
    }
    set
}

/// Which pod has which address, and which endpoint of an address that is shared.
///
/// The latest one: an IP moves on to pods that start later, and never back. Pods that are not scraped claim their
/// address all the same (another pod may still show it), but for those that have ended or are lost: these keep the
/// address in their status and have it no more.
struct Owners<'a> {
    ips: HashMap<IpAddr, &'a Prepared>,
    /// Of addresses that pods on the host network have: sharing is right there, but for the same port and path.
    endpoints: HashMap<(SocketAddr, &'a str), &'a Prepared>,
    shared: HashSet<IpAddr>,
}

impl<'a> Owners<'a> {
    fn of(pods: &[&'a Prepared], now: Timestamp) -> Self {
        let mut owners = Self {
            ips: HashMap::with_capacity(pods.len()),
            endpoints: HashMap::new(),
            shared: pods
                .iter()
                .filter(|pod| pod.host_network)
                .flat_map(|pod| pod.ips.iter().copied())
                .collect(),
        };
        let claims = |pod: &&&Prepared| pod.keeps_ips && !pod.is_lost(now);
        for &pod in pods.iter().filter(claims).filter(|pod| !pod.host_network) {
            for ip in &pod.ips {
                let owner = owners.ips.entry(*ip).or_insert(pod);
                *owner = later(owner, pod);
            }
        }
        for &pod in pods.iter().filter(claims) {
            let Ok(found) = &pod.outcome else { continue };
            if !owners.shared.contains(&found.address) || owners.other_owner(pod, found.address).is_some() {
                continue;
            }
            for target in &found.targets {
                let endpoint = (target.address, target.path_and_query.as_str());
                let owner = owners.endpoints.entry(endpoint).or_insert(pod);
                *owner = later(owner, pod);
            }
        }
        owners
    }

    /// Who has this pod's address, if not itself.
    fn other_owner(&self, pod: &Prepared, address: IpAddr) -> Option<&'a Prepared> {
        if pod.host_network {
            return None;
        }
        let owner = self.ips.get(&address).copied()?;
        (owner.id.uid != pod.id.uid).then_some(owner)
    }

    /// Who has this target's endpoint, if not its own pod.
    fn other_claimant(&self, pod: &Prepared, target: &Target) -> Option<&'a Prepared> {
        if !self.shared.contains(&target.address.ip()) {
            return None;
        }
        let endpoint = (target.address, target.path_and_query.as_str());
        let owner = self.endpoints.get(&endpoint).copied()?;
        (owner.id.uid != pod.id.uid).then_some(owner)
    }
}

fn later<'a>(a: &'a Prepared, b: &'a Prepared) -> &'a Prepared {
    if b.age_key() > a.age_key() { b } else { a }
}
