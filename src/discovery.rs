//! Finds pods: watches, lists or reads them, and publishes them as [`Snapshot`]s (shell).
//!
//! [`start`] gives a [`Handle`] and one future to run. Behind it, sources (`kubernetes` or `files`) report what they
//! read to the `store`; `state`, which is pure, makes sync state, conditions and target set of it.
//!
//! ```text
//!   API server ── kubernetes ─┐
//!                             ├─> store ── state ─> Snapshot ─> server
//!   manifests ─── files ──────┘   (lock)   (pure)
//! ```
//!
//! A source that fails keeps its last pods. How pods of a cluster are read depends on the permissions that the proxy
//! has at the moment; it always uses the widest:
//!
//! ```text
//!            all namespaces                         the proxy's own namespace
//!   ┌───────┐ watch denied ┌──────┐ list denied ┌───────┐ watch denied ┌──────┐ list denied ┌────────┐
//!   │ watch │─────────────>│ list │────────────>│ watch │─────────────>│ list │────────────>│ denied │
//!   └───────┘<─────────────└──────┘             └───────┘<─────────────└──────┘             └────────┘
//!       ^      watch granted                        │ ^   watch granted    │                   │ │
//!       │                                           │ └── list or watch granted there ─────────┘ │
//!       └────────── list or watch granted in all namespaces ───────────────┴─────────────────────┘
//! ```
//!
//! A namespace that was asked for by name has no other one to fall back to.

mod files;
mod kubernetes;
mod manifest;
mod state;
mod store;
mod yaml;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::SignedDuration;

use crate::config::{self, PodSource, Sharding};
use crate::health::{Condition, Health, State};
use crate::shutdown::Shutdown;
use crate::targets::{AddressPolicy, SelfPod, ShardAssignment, Target, TargetSet, TargetSettings};
use crate::telemetry::Telemetry;

use store::Store;

/// How far discovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// No complete target set is known yet, for this reason.
    Pending(SyncProblem),
    /// The target set was complete at some moment and is kept up to date since.
    Synced,
    /// There is nothing to discover, or no permission to do it; the text names the remedy.
    Refused(SyncProblem),
}

/// Why there is no target set. Displayed as `/readyz` has it: the condition's word, a colon, and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncProblem {
    /// The condition that is not met.
    pub condition: Condition,
    /// The cause, and where there is one the remedy.
    pub text: String,
}

impl fmt::Display for SyncProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition.as_str(), self.text)
    }
}

/// What discovery knows at a moment. Replaced as a whole, never changed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How far discovery is.
    pub sync: SyncState,
    /// The targets.
    pub targets: Arc<TargetSet>,
    /// When the set was last known to be correct.
    pub confirmed_at: Option<Instant>,
    /// Why the set is the last known one and cannot be confirmed at the moment.
    pub outage: Option<String>,
    /// Where no pod matches at all: what was looked for, and what to compare.
    pub no_match: Option<String>,
    /// The number of the change that this snapshot shows.
    revision: u64,
}

/// Latest snapshot, shared with the server.
pub type Snapshots = tokio::sync::watch::Receiver<Arc<Snapshot>>;

/// Why discovery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The kubeconfig that was named cannot be used.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// Its path, or what the environment names.
        path: String,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Neither a service account nor a kubeconfig is there.
    #[error(
        "cannot find a cluster: no ServiceAccount token is mounted and there is no kubeconfig; \
         name one with --kubeconfig, or use --pods-file"
    )]
    NoCluster(#[source] kube::config::KubeconfigError),
    /// `--shard auto` outside of a `StatefulSet`.
    #[error(
        "cannot tell our number from the pod name {pod_name}: it does not end in -NUMBER, as those of a StatefulSet do; \
         use --shard I --total-shards N"
    )]
    Ordinal {
        /// The host name, or what was given.
        pod_name: String,
    },
    /// `--shard auto` without a cluster.
    #[error("cannot find out which share of a pods file to serve; use --shard I --total-shards N")]
    NoReplicas,
    /// Services and monitors without a cluster.
    #[error("cannot look for services or monitors in a pods file; leave --discover at pods")]
    NoObjects,
    /// The certificate authorities of the API server cannot be used.
    #[error("cannot verify the API server's certificate")]
    Tls(#[source] crate::tls::TlsError),
    /// `tls-server-name` of the kubeconfig.
    #[error("tls-server-name {name:?} in the kubeconfig is not a host name")]
    ServerName {
        /// The value.
        name: String,
        /// Why.
        #[source]
        source: rustls::pki_types::InvalidDnsNameError,
    },
    /// The client cannot be made.
    #[error("cannot make a client for the Kubernetes API")]
    Client(#[source] kube::Error),
}

/// The server's access to discovery. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    snapshots: Snapshots,
    store: Arc<Store>,
}

impl Handle {
    /// The latest snapshot.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Records that nothing listens at a target any more. Returns whether its pod is being deleted, so that the target has
    /// left the set instead of being down.
    pub fn end_target(&self, target: &Target) -> bool {
        self.store.end_port(&target.pod, target.address.port())
    }

    /// The stream of snapshots.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// The latest snapshot. Where pods may only be listed and the last list is older than `list_max_age`, they are listed
    /// again first.
    ///
    /// Waits no longer than `limit`, and for one attempt only: where that fails, the last set is better than none.
    /// Returns at once where pods are watched. Safe to drop at any moment; overlapping calls share one list.
    pub async fn refresh(&self, limit: Duration) -> Arc<Snapshot> {
        // After the limit the caller continues with the set that there is.
        let _ = tokio::time::timeout(limit, self.list_if_old()).await;
        self.latest()
    }

    async fn list_if_old(&self) {
        let mut snapshots = self.snapshots.clone();
        let before = self.store.list_attempts();
        let mut has_waited = false;
        while self.store.request_lists(&before) {
            has_waited = true;
            if snapshots.changed().await.is_err() {
                return;
            }
        }
        if has_waited {
            // The list has arrived; the set that is made of it follows.
            let revision = self.store.revision();
            let _ = snapshots.wait_for(|snapshot| snapshot.revision >= revision).await;
        }
    }
}

/// Starts discovery as configured.
///
/// Returns the handle, and the one task of discovery, which ends only after `shutdown`. No request is sent before the
/// task is first polled. Sets the conditions Selector, Discovery and Permissions.
///
/// # Errors
/// [`DiscoveryError`] where there is no way to reach a cluster. An API server that is down, slow or denies access is no
/// error here: discovery tries again.
pub async fn start(
    settings: &config::Discovery,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> Result<(Handle, BoxFuture<'static, ()>), DiscoveryError> {
    let is_cluster = matches!(settings.source, PodSource::Cluster { .. });
    let selected = match &settings.selector {
        None if is_cluster => State::unready(NO_SELECTOR),
        None => State::ok("all pods of --pods-file"),
        Some(selector) => State::ok(selector.to_string()),
    };
    health.set(Condition::Selector, selected);
    let source = Source::new(settings).await?;
    let target_settings = TargetSettings {
        default_port: settings.default_port,
        self_pod: source.self_pod(settings.pod_uid.clone()),
        max_targets_per_pod: settings.max_targets_per_pod,
        max_label_value_length: settings.max_label_value_length,
        addresses: if is_cluster {
            AddressPolicy::Pods(settings.target_cidrs.clone())
        } else {
            AddressPolicy::Any
        },
    };
    let (store, snapshots) = Store::new(target_settings, settings, health, Arc::clone(&telemetry));
    if let Sharding::Fixed { index, total } = settings.sharding {
        // The number never changes, so no other shard has to learn of a change.
        store.set_share(ShardAssignment::new(index, total, SignedDuration::ZERO));
    }
    let work = source.run(&store, telemetry);
    let publishing = store::publish_changes(Arc::clone(&store));
    let task = async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
            () = publishing => {}
        }
    };
    Ok((Handle { snapshots, store }, task.boxed()))
}

/// Returns the addresses of our own network interfaces, without loopback addresses.
fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            let addresses = interfaces.iter().map(|interface| interface.ip().to_canonical());
            addresses.filter(|address| !address.is_loopback()).collect()
        }
        Err(error) => {
            tracing::debug!(%error, "Cannot read the addresses of the network interfaces");
            Vec::new()
        }
    }
}

const NO_SELECTOR: &str = "set POD_LABEL_SELECTOR or --labels";

/// Where pods come from.
enum Source {
    /// Nowhere, since nothing was selected.
    Nothing,
    Files(files::Files),
    Cluster(Box<kubernetes::Cluster>),
}

impl Source {
    async fn new(settings: &config::Discovery) -> Result<Self, DiscoveryError> {
        Ok(match &settings.source {
            PodSource::Files(_) if settings.sharding == Sharding::Auto => {
                return Err(DiscoveryError::NoReplicas);
            }
            PodSource::Files(_) if settings.discover.needs_objects() => {
                return Err(DiscoveryError::NoObjects);
            }
            PodSource::Files(path) => Self::Files(files::Files::new(
                path,
                settings.selector.clone(),
                settings.files_poll,
            )),
            PodSource::Cluster { .. } if settings.selector.is_none() => Self::Nothing,
            PodSource::Cluster { kubeconfig } => {
                let cluster = kubernetes::Cluster::connect(kubeconfig.as_deref(), settings).await?;
                Self::Cluster(Box::new(cluster))
            }
        })
    }

    /// Returns how to recognize this proxy's own pod.
    fn self_pod(&self, uid: Option<String>) -> SelfPod {
        match self {
            Self::Cluster(cluster) => SelfPod {
                uid,
                name: Some(cluster.own_name()),
                addresses: own_addresses(),
            },
            Self::Nothing | Self::Files(_) => SelfPod {
                uid,
                ..SelfPod::default()
            },
        }
    }

    fn run(self, store: &Arc<Store>, telemetry: Arc<Telemetry>) -> BoxFuture<'static, ()> {
        match self {
            Self::Nothing => {
                tracing::warn!("No label selector, nothing is scraped: {NO_SELECTOR}");
                store.disable(SyncProblem {
                    condition: Condition::Selector,
                    text: NO_SELECTOR.to_owned(),
                });
                std::future::pending().boxed()
            }
            Self::Files(files) => files.run(store.add_source("--pods-file")).boxed(),
            Self::Cluster(cluster) => cluster.run(store, telemetry),
        }
    }
}
