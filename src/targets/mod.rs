//! From pods to targets, and from pods to the reasons why they are not scraped.
//!
//! Core: values in, values out. [`build`] takes every known pod and a moment and returns the whole [`TargetSet`] of
//! that moment: which endpoints are scraped under which labels, and in words why every other selected pod is not. The
//! annotations are read in `annotations`, who owns an address is settled in `set`.

mod annotations;
mod objects;
mod pod;
mod selector;
mod set;
mod shard;

use std::net::SocketAddr;

pub use objects::{Discover, Name, Object, ObjectKind, Objects, Rules};
pub use pod::{ContainerPort, Phase, Pod, Protocol};
pub use selector::{Selector, SelectorError};
pub use set::{Own, Prepared, Settings, TargetSet, assemble, build};
pub use shard::{Serving, Share, owner};

/// What a pod without a port annotation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPort {
    /// This port, as Istio and the predecessor have it.
    Number(u16),
    /// Every declared container port, as Prometheus' own pod discovery has it.
    Declared,
}

/// A pod's name, for labels and texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; a new pod of the same name has another.
    pub uid: String,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The word before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// One HTTP endpoint of one pod. The key is (`pod.uid`, `address.port()`, `path_and_query`), never the address alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodRef,
    /// http or https.
    pub scheme: Scheme,
    /// The pod's IP and the port.
    pub address: SocketAddr,
    /// Path with query, starting with a slash.
    pub path_and_query: String,
    /// The labels added to each of its samples and to its `up`, in this order.
    pub labels: Vec<(String, String)>,
}

/// A selected pod that is not scraped (or one of its ports), and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The pod.
    pub pod: PodRef,
    /// A stable word for metrics, such as `no_ip`. All of them stand in `docs/reference/annotations.md`.
    pub kind: &'static str,
    /// A sentence for people: what, where, what to do.
    pub reason: String,
}

#[cfg(test)]
mod tests;
