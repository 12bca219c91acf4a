//! The connection to a cluster, and everything that is read there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::client::{self, WatchedFiles};
use super::error::ServerAddress;
use super::fallback::{watch_namespace, watch_with_fallback};
use super::monitors;
use super::pods::PodWatcher;
use super::replicas::OwnReplica;
use super::watch::Timing;
use crate::config::{self, Sharding};
use crate::discovery::DiscoveryError;
use crate::discovery::store::Store;
use crate::targets::Discover;
use crate::telemetry::Telemetry;

/// A client of the API server, and where it leads.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: kube::Client,
    pub(super) server: ServerAddress,
    /// The namespace that this process runs in, or the one of the kubeconfig's context.
    pub(super) own_namespace: String,
}

/// A cluster whose pods are discovered.
pub(in crate::discovery) struct Cluster {
    connection: Connection,
    selector: String,
    /// The namespaces to read; none means all.
    namespaces: Vec<String>,
    pod_name: String,
    discover: Discover,
    /// With `--shard auto`: this replica, and how often to count the others.
    replica: Option<(OwnReplica, Duration)>,
    timing: Timing,
}

impl Cluster {
    /// Makes a client: of the kubeconfig that was named, else of the pod's ServiceAccount, else of the user's own
    /// kubeconfig. Sends no request yet.
    pub(in crate::discovery) async fn connect(
        kubeconfig: Option<&Path>,
        settings: &config::Discovery,
    ) -> Result<Self, DiscoveryError> {
        let (config, files) = client_config(kubeconfig).await?;
        let connection = Connection::new(config, &files)?;
        let pod_name = settings
            .pod_name
            .clone()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let replica = match settings.sharding {
            Sharding::Off | Sharding::Fixed { .. } => None,
            Sharding::Auto => {
                let replica = OwnReplica::of_pod(&pod_name).ok_or_else(|| DiscoveryError::Ordinal {
                    pod_name: pod_name.clone(),
                })?;
                Some((replica, settings.shard_interval))
            }
        };
        let mut namespaces = settings.namespaces.clone();
        namespaces.sort();
        namespaces.dedup();
        Ok(Self {
            connection,
            selector: settings
                .selector
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            namespaces,
            pod_name,
            discover: settings.discover,
            replica,
            timing: Timing {
                list_interval: settings.list_interval,
                permission_interval: settings.permission_interval,
                forbidden_grace: settings.forbidden_grace,
            },
        })
    }

    /// Namespace and name of this process's pod. A pod's host name is its name, except on the host network.
    pub(in crate::discovery) fn own_name(&self) -> (String, String) {
        (self.connection.own_namespace.clone(), self.pod_name.clone())
    }

    /// Reads everything that was asked for into the store, for ever.
    pub(in crate::discovery) fn run(
        mut self,
        store: &Arc<Store>,
        telemetry: Arc<Telemetry>,
    ) -> BoxFuture<'static, ()> {
        let replicas = match self.replica.take() {
            None => std::future::pending().boxed(),
            Some((replica, interval)) => replica
                .run(self.connection.clone(), interval, Arc::clone(store), telemetry)
                .boxed(),
        };
        let objects = monitors::run(
            self.discover,
            &self.connection,
            &self.namespaces,
            self.timing,
            store,
        );
        let pods = self.run_pods(store);
        async move {
            futures::future::join3(replicas, objects, pods).await;
        }
        .boxed()
    }

    fn run_pods(self, store: &Arc<Store>) -> BoxFuture<'static, ()> {
        let watcher = |name: String| {
            PodWatcher::new(
                self.connection.client.clone(),
                self.connection.server.clone(),
                self.selector.clone(),
                self.timing,
                store.add_source(name),
            )
        };
        if self.namespaces.is_empty() {
            let mut watcher = watcher("cluster".to_owned());
            let own_namespace = self.connection.own_namespace.clone();
            return async move { watch_with_fallback(&mut watcher, &own_namespace).await }.boxed();
        }
        let runs: Vec<_> = self
            .namespaces
            .iter()
            .map(|namespace| {
                let mut watcher = watcher(format!("namespace {namespace}"));
                let namespace = namespace.clone();
                async move { watch_namespace(&mut watcher, &namespace).await }
            })
            .collect();
        futures::future::join_all(runs).map(|_| ()).boxed()
    }
}

impl Connection {
    fn new(mut config: kube::Config, files: &WatchedFiles) -> Result<Self, DiscoveryError> {
        // Two providers may be compiled in by dependencies; name ours. An earlier choice of the same process stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Retries inside the client would hide an outage for minutes and keep all proxies in step.
        config.default_retry = false;
        // A watch may be silent for long; each request has a limit of its own.
        config.read_timeout = None;
        let server = ServerAddress::of(&config.cluster_url);
        let own_namespace = config.default_namespace.clone();
        Ok(Self {
            client: client::build(config, files)?,
            server,
            own_namespace,
        })
    }
}

async fn client_config(kubeconfig: Option<&Path>) -> Result<(kube::Config, WatchedFiles), DiscoveryError> {
    if let Some(path) = kubeconfig {
        let error = |source| DiscoveryError::Kubeconfig {
            path: path.display().to_string(),
            source,
        };
        // As kubectl reads $KUBECONFIG: a list of files, merged.
        let mut merged: Option<Kubeconfig> = None;
        for file in std::env::split_paths(path.as_os_str()).filter(|file| !file.as_os_str().is_empty()) {
            let read = Kubeconfig::read_from(file).map_err(error)?;
            merged = Some(match merged {
                None => read,
                Some(earlier) => earlier.merge(read).map_err(error)?,
            });
        }
        return from_kubeconfig(merged.unwrap_or_default()).await.map_err(error);
    }
    if let Ok(config) = kube::Config::incluster() {
        return Ok((config, WatchedFiles::default()));
    }
    let user = Kubeconfig::read().map_err(DiscoveryError::NoCluster)?;
    from_kubeconfig(user).await.map_err(DiscoveryError::NoCluster)
}

/// A proxy is used where the kubeconfig names one. One from the environment is meant for the outside world.
async fn from_kubeconfig(
    kubeconfig: Kubeconfig,
) -> Result<(kube::Config, WatchedFiles), kube::config::KubeconfigError> {
    let names_proxy = kubeconfig.clusters.iter().any(|cluster| {
        cluster
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    let files = WatchedFiles {
        authorities: authority_file(&kubeconfig),
    };
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    if !names_proxy {
        config.proxy_url = None;
    }
    Ok((config, files))
}

/// The `certificate-authority` of the current context's cluster. Data in the kubeconfig itself wins, as with kubectl.
fn authority_file(kubeconfig: &Kubeconfig) -> Option<PathBuf> {
    let current = kubeconfig.current_context.as_deref()?;
    let named = kubeconfig
        .contexts
        .iter()
        .find(|context| context.name == current)?;
    let name = &named.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == *name)?;
    let cluster = cluster.cluster.as_ref()?;
    if cluster.certificate_authority_data.is_some() {
        return None;
    }
    cluster.certificate_authority.as_ref().map(PathBuf::from)
}
