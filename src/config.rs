//! Settings: from strings to one checked [`Config`].
//!
//! This is part of the functional core: it reads no environment, file or clock. The command line passes what it has found as
//! [`Raw`], and [`Config::try_new`] returns the configuration or every problem at once. Each setting is declared once, in
//! `settings`; the flags, the environment variables, the help text and `docs/reference/flags.md` all come from there.

mod environment;
mod parse;
mod quantity;
mod raw;
mod reader;
mod setting;
mod settings;

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

pub use environment::{Environment, UnknownVariable};
pub use parse::parse_boolean;
pub use quantity::{parse_bytes, parse_go_duration};
pub use raw::{Origin, Raw};
use reader::Reader;
pub use setting::{Group, Setting};
pub use settings::{Discovery, Listen, Log, Pebble, SETTINGS, Scrape};

/// A problem of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}={value:?}: {problem}")]
pub struct Problem {
    /// The flag or variable.
    pub origin: String,
    /// The given text.
    pub value: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// The whole configuration of a serving proxy. Every field is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where and how to listen.
    pub listen: Listen,
    /// Which pods are found, and how.
    pub discovery: Discovery,
    /// How targets are scraped.
    pub scrape: Scrape,
    /// How to use Pebble, and the identity to keep there.
    pub pebble: Pebble,
    /// How to log.
    pub log: Log,
}

/// Which pods this process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// All pods.
    Off,
    /// The share of shard `index`, counted from 0, of `total`.
    Fixed {
        /// Below `total`.
        index: u32,
        /// At least 1.
        total: u32,
    },
    /// The share that follows from the StatefulSet that the proxy's own pod belongs to.
    Auto,
}

/// Where pods come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSource {
    /// A Kubernetes API server, as the kubeconfig, the pod's ServiceAccount or the user's own kubeconfig says.
    Cluster {
        /// The kubeconfig file, if one is named.
        kubeconfig: Option<PathBuf>,
    },
    /// A file or directory of pod manifests.
    Files(PathBuf),
}

/// Whether Pebble is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PebbleMode {
    /// Used if its socket exists.
    Auto,
    /// Used, and the proxy is not ready without it.
    Required,
    /// Not used.
    Off,
}

/// The level of a Pebble check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckLevel {
    /// Restarts the container when the check is down.
    Alive,
    /// Takes the pod out of its Service when the check is down.
    Ready,
}

impl CheckLevel {
    /// Returns the word in a layer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Ready => "ready",
        }
    }
}

impl Config {
    /// Reads all settings.
    ///
    /// # Errors
    /// Every problem, in the order of [`SETTINGS`].
    pub fn try_new(raw: &Raw) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(raw);
        let config = Self {
            listen: Listen::read(&mut reader),
            discovery: Discovery::read(&mut reader),
            scrape: Scrape::read(&mut reader),
            pebble: Pebble::read(&mut reader),
            log: Log::read(&mut reader),
        };
        let problems = reader.into_problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }
}

/// Returns the socket as Pebble's own client finds it: the named one, or the one in Pebble's directory.
///
/// Source: Pebble `internals/cli/cli.go`, withDefaultRunOptions.
pub fn resolve_socket(socket: Option<PathBuf>, directory: Option<PathBuf>) -> PathBuf {
    socket.unwrap_or_else(|| {
        directory
            .unwrap_or_else(|| PathBuf::from("/var/lib/pebble/default"))
            .join(".pebble.socket")
    })
}

impl Default for Config {
    /// Returns the configuration of a start without any setting.
    fn default() -> Self {
        Self::try_new(&Raw::default()).expect("the defaults in SETTINGS are valid; a test reads all of them")
    }
}

impl Listen {
    /// Returns whether the address stands for every interface of both families.
    pub fn is_dual_stack(&self) -> bool {
        self.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }
}

#[cfg(test)]
mod tests;
