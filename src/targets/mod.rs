//! From pods to targets, and to the reasons why other pods are not scraped.
//!
//! This is part of the functional core: values in, values out. A pod goes through these steps:
//!
//! 1. [`EvaluatedPod::new`] works out everything that can be said about one pod without looking at the others: does it
//!    opt in (`annotations`, `monitors`), does it run, which endpoints does it name, at which address.
//! 2. [`assemble`] takes all evaluated pods and the current time and returns the whole [`TargetSet`]. Only here it is
//!    known which pod owns an address (`ownership`) and which shard scrapes a pod (`shard`).
//!
//! Evaluation is done again only for pods that change, so that one changed pod among ten thousand costs one evaluation.

mod address;
mod annotations;
mod cluster_objects;
mod evaluate;
mod monitors;
mod ownership;
mod pod;
mod selector;
mod set;
mod shard;
mod skip;

use std::net::SocketAddr;

pub use address::{AddressPolicy, Cidr, CidrError};
pub use cluster_objects::{ClusterObjects, Discover, Object, ObjectKey, ObjectKind};
pub use evaluate::{EvaluatedPod, SelfPod, TargetSettings};
pub use monitors::{MonitorIndex, MonitorSettings};
pub use pod::{ContainerPort, Phase, Pod, Protocol};
pub use selector::{Requirement, RequirementError, Selector, SelectorError};
pub use set::{TargetSet, assemble, build};
pub use shard::{MAX_SHARDS, Serving, ShardAssignment, owner};
pub use skip::SkipReason;

/// The port of a pod that has no port annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPort {
    /// This port, as in Istio and in the predecessor of this program.
    Number(u16),
    /// Every declared container port, as in Prometheus' own pod discovery.
    Declared,
}

/// The names of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID. A new pod of the same name has a different one.
    pub uid: String,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The URL scheme of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// Returns the word before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// One HTTP endpoint of one pod.
///
/// (`pod.uid`, `address.port()`, `path_and_query`) identifies it. The address alone never does, since addresses move
/// from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodRef,
    /// http or https.
    pub scheme: Scheme,
    /// The pod's IP address and the port.
    pub address: SocketAddr,
    /// The path with its query. It starts with a slash.
    pub path_and_query: String,
    /// The labels that are added to each of its samples and to its `up`, in this order.
    pub labels: Vec<(String, String)>,
}

impl Target {
    /// Returns the URL without its query, for labels, pages and log lines.
    ///
    /// The query may hold a credential (`prometheus.io/param_token`), which must appear nowhere.
    pub fn public_url(&self) -> String {
        format!("{}://{}{}", self.scheme.as_str(), self.address, self.path())
    }

    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }
}

/// A selected pod that is not scraped, or one endpoint of a pod, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The pod.
    pub pod: PodRef,
    /// The reason.
    pub reason: SkipReason,
    /// A sentence for people: what is wrong, where, and what to do.
    pub detail: String,
}

#[cfg(test)]
mod tests;
