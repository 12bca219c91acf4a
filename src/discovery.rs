//! Pods as they are: watched, listed or read from files, and published as one [`Snapshot`] (shell).
//!
//! [`start`] gives a [`Handle`] and one future to run. Behind it, sources ([`cluster`] or [`files`]) report to one
//! [`store`], which makes the target set and publishes it whole. A source that fails keeps its last pods; what may be
//! done is the [`cluster`]'s business, what it means for readiness the store's.

mod cluster;
mod files;
mod manifest;
mod objects;
mod replicas;
mod scope;
mod store;

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
///
/// The texts begin with the thing at fault (`selector: `, `discovery: `, `permissions: `), as the first line of `/readyz`
/// does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// Nothing is known yet, and why; the text is the answer's reason.
    Pending(String),
    /// The set was complete at some moment and is kept up since.
    Synced,
    /// Not allowed at all; the text names the remedy.
    Refused(String),
}

/// What discovery knows at a moment. Replaced whole, never changed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How far discovery is.
    pub sync: SyncState,
    /// The targets.
    pub targets: Arc<TargetSet>,
    /// When the set was last known to be right.
    pub confirmed_at: Option<Instant>,
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
    #[error("cannot find out our share of a pods file; use --shard I --total-shards N")]
    NoUnits,
    /// Services and monitors without a cluster.
    #[error("cannot look for services or monitors in a pods file; leave --discover at pods")]
    NoObjects,
    /// The client cannot be made.
    #[error("cannot make a client for the Kubernetes API")]
    Client(#[source] kube::Error),
}

/// What the server holds of discovery. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    snapshots: Snapshots,
    store: Arc<Store>,
}

impl Handle {
    /// What is known now.
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

    /// What is known now, listed again first where only listing is allowed and the last list is older than
    /// `list_max_age`.
    ///
    /// Waits no longer than `limit`, and for one attempt only: where that fails, the last set is better than none.
    /// Returns at once where pods are watched. Safe to drop at any moment; overlapping calls share one list.
    pub async fn freshen(&self, limit: Duration) -> Arc<Snapshot> {
        let mut snapshots = self.snapshots.clone();
        let wait = async {
            let asked_after = self.store.list_attempts();
            while self.store.ask_for_lists(&asked_after) {
                if snapshots.changed().await.is_err() {
                    break;
                }
            }
        };
        // Late is late: the caller goes on with what there is.
        let _ = tokio::time::timeout(limit, wait).await;
        self.latest()
    }
}

/// Starts discovery as configured.
///
/// Returns the handle, and the one task of discovery: it ends after `shutdown` only. Nothing is asked before the task
/// is first polled. Sets the conditions Selector, Discovery and Rights.
///
/// # Errors
/// [`DiscoveryError`] where there is no way to reach a cluster. An API server that is down, slow or refuses us is no
/// error here: discovery goes on asking.
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
        // Nobody tells of a change, so there is nothing to learn and nothing held.
        store.share(ShardAssignment::new(index, total, SignedDuration::ZERO));
    }
    let work = source.run(&store, telemetry);
    let clock = store::keep_time(Arc::clone(&store));
    let task = async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
            () = clock => {}
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

/// Where pods come from, ready to be asked.
enum Source {
    /// Nothing was selected, so nothing is asked.
    Nothing,
    Files(files::Files),
    Cluster(Box<cluster::Cluster>),
}

impl Source {
    async fn new(settings: &config::Discovery) -> Result<Self, DiscoveryError> {
        Ok(match &settings.source {
            PodSource::Files(_) if settings.sharding == Sharding::Auto => {
                return Err(DiscoveryError::NoUnits);
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
                let cluster = cluster::Cluster::connect(kubeconfig.as_deref(), settings).await?;
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
                store.give_up(SyncState::Refused(format!("selector: {NO_SELECTOR}")));
                std::future::pending().boxed()
            }
            Self::Files(files) => files.run(store.add_source("--pods-file")).boxed(),
            Self::Cluster(cluster) => cluster.run(store, telemetry),
        }
    }
}
