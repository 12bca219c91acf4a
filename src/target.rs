//! From pods to targets, and from pods to the reasons why they are not scraped.
//!
//! Core: values in, values out.

mod selector;

use std::net::SocketAddr;

pub use selector::{Selector, SelectorError};

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

/// How a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// One HTTP endpoint of one pod. The key is (`pod.uid`, `address.port()`, `path_and_query`), never the address alone.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A stable word for metrics, such as `no_ip`.
    pub kind: &'static str,
    /// A sentence for people: what, where, what to do.
    pub reason: String,
}

/// All targets of a moment, sorted by (namespace, pod, port, path), and all selected pods that are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSet {
    /// What is scraped.
    pub targets: Vec<std::sync::Arc<Target>>,
    /// What is not.
    pub skipped: Vec<Skipped>,
    /// Selected pods in all.
    pub n_pods: usize,
}
