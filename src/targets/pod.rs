//! The fields of a pod that discovery uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::PodRef;

/// A pod, reduced to the fields that discovery uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace, name and UID.
    pub id: PodRef,
    /// The labels, where a monitor may match on them. Otherwise empty, since the API server has selected by label.
    pub labels: BTreeMap<String, String>,
    /// The annotations that begin with `prometheus.`, sorted by name.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// Whether the pod shares its node's addresses.
    pub host_network: bool,
    /// The declared ports of all containers, including sidecars.
    pub ports: Box<[ContainerPort]>,
    /// `status.phase`.
    pub phase: Phase,
    /// `status.podIPs`, the primary address first.
    pub ips: Box<[IpAddr]>,
    /// `status.startTime`: when the kubelet accepted the pod.
    pub started: Option<Timestamp>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`: by when a pod that is being deleted should be gone.
    pub deletion: Option<Timestamp>,
}

/// A declared port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// The name, if it has one.
    pub name: Option<Box<str>>,
    /// The number.
    pub number: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// The transport protocol of a declared port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, which is also the default.
    Tcp,
    /// UDP, SCTP or a later addition. Such a port is never scraped.
    Other,
}

/// The phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended with success.
    Succeeded,
    /// All containers ended, at least one with an error. Evicted pods are in this phase.
    Failed,
    /// The API server does not know the phase, does not state it, or states one that this program does not know.
    Unknown,
}

impl Phase {
    /// Returns the word in `status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    /// Returns whether all containers have ended for good.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl From<&str> for Phase {
    fn from(word: &str) -> Self {
        match word {
            "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}
