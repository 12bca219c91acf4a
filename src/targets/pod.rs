//! What is used of a pod, and no more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::PodRef;

/// A pod, as far as discovery uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its names.
    pub id: PodRef,
    /// Its labels, where something of ours matches on them; else empty, since the API server has selected already.
    pub labels: BTreeMap<String, String>,
    /// Its annotations that begin with `prometheus.`, sorted by name.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// Whether it shares its node's addresses.
    pub host_network: bool,
    /// The declared ports of its containers, sidecars included.
    pub ports: Box<[ContainerPort]>,
    /// How far it is.
    pub phase: Phase,
    /// Its addresses, the primary one first, as the API server writes them.
    pub ips: Box<[IpAddr]>,
    /// When the kubelet took it on.
    pub started: Option<Timestamp>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// By when it should be gone, where it is being deleted.
    pub deletion: Option<Timestamp>,
}

/// A declared port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, where it has one.
    pub name: Option<Box<str>>,
    /// Its number.
    pub number: u16,
    /// What is spoken there below HTTP.
    pub protocol: Protocol,
}

/// The transport of a declared port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, also where nothing is said.
    Tcp,
    /// UDP, SCTP or whatever comes later: not scraped.
    Other,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one of them badly; evicted pods too.
    Failed,
    /// Not known to the API server, not stated, or a word that we do not know.
    Unknown,
}

impl Phase {
    /// The word in `status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    /// Whether no container runs any more, for good.
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
