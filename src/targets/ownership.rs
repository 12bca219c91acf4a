//! Which pod owns an IP address, and which pod owns an endpoint of an address that several pods share.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use super::{EvaluatedPod, Target};

/// The owners of all addresses at one moment.
///
/// The pod that started last owns an address: an IP address moves on to pods that start later, and never back. A pod that
/// is not scraped owns its address all the same, since an earlier pod may still show it. Pods that have finished or are
/// lost own nothing: they keep the address in their status, but no longer have it.
pub(super) struct AddressOwners<'a> {
    /// Owners of addresses that are not on the host network.
    ips: HashMap<IpAddr, &'a EvaluatedPod>,
    /// Addresses of nodes, which several pods on the host network may use at the same time.
    shared: HashSet<IpAddr>,
    /// Owners of (address, path) at the addresses in `shared`.
    endpoints: HashMap<(SocketAddr, &'a str), &'a EvaluatedPod>,
}

impl<'a> AddressOwners<'a> {
    pub(super) fn new(pods: &[&'a EvaluatedPod], now: Timestamp) -> Self {
        let mut owners = Self {
            ips: HashMap::with_capacity(pods.len()),
            endpoints: HashMap::new(),
            shared: pods
                .iter()
                .filter(|pod| pod.host_network)
                .flat_map(|pod| pod.ips.iter().copied())
                .collect(),
        };
        let holders = || pods.iter().copied().filter(|pod| pod.holds_addresses(now));
        for pod in holders().filter(|pod| !pod.host_network) {
            for ip in &pod.ips {
                let owner = owners.ips.entry(*ip).or_insert(pod);
                *owner = later(owner, pod);
            }
        }
        for pod in holders() {
            if owners.other_owner(pod).is_some() {
                continue;
            }
            for target in &pod.targets {
                if !owners.shared.contains(&target.address.ip()) {
                    break;
                }
                let endpoint = (target.address, target.path_and_query.as_str());
                let owner = owners.endpoints.entry(endpoint).or_insert(pod);
                *owner = later(owner, pod);
            }
        }
        owners
    }

    /// Returns the pod that owns this pod's address, if it is another one.
    pub(super) fn other_owner(&self, pod: &EvaluatedPod) -> Option<&'a EvaluatedPod> {
        if pod.host_network {
            return None;
        }
        let owner = self.ips.get(pod.address.as_ref().ok()?).copied()?;
        (owner.id.uid != pod.id.uid).then_some(owner)
    }

    /// Returns the pod that owns this target's endpoint, if it is another one.
    pub(super) fn other_endpoint_owner(
        &self,
        pod: &EvaluatedPod,
        target: &Target,
    ) -> Option<&'a EvaluatedPod> {
        if !self.shared.contains(&target.address.ip()) {
            return None;
        }
        let endpoint = (target.address, target.path_and_query.as_str());
        let owner = self.endpoints.get(&endpoint).copied()?;
        (owner.id.uid != pod.id.uid).then_some(owner)
    }
}

fn later<'a>(a: &'a EvaluatedPod, b: &'a EvaluatedPod) -> &'a EvaluatedPod {
    if b.age_key() > a.age_key() { b } else { a }
}
