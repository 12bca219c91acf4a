//! Which part of a cluster may be read: all of it, else the own namespace, else nothing, and back up again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::DiscoveryError;
use super::objects;
use super::replicas::Units;
use super::scope::{Scope, Timing};
use super::store::Store;
use crate::config::{self, Sharding};
use crate::targets::Discover;
use crate::telemetry::Telemetry;

/// A cluster that can be asked.
pub(super) struct Cluster {
    client: kube::Client,
    /// The namespace that we run in, or the kubeconfig's.
    own_namespace: String,
    selector: String,
    /// The namespaces to look into; none means all.
    namespaces: Vec<String>,
    pod_name: String,
    discover: Discover,
    /// With `--shard auto`, and how often to look.
    units: Option<(Units, Duration)>,
    timing: Timing,
}

impl Cluster {
    /// Makes a client: of the kubeconfig that was named, else of the pod's service account, else of the user's own
    /// kubeconfig. Asks nothing yet.
    pub(super) async fn connect(
        kubeconfig: Option<&Path>,
        settings: &config::Discovery,
    ) -> Result<Self, DiscoveryError> {
        // Two providers may be compiled in by dependencies; name ours. An earlier choice of the same process stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = client_config(kubeconfig).await?;
        // Retries inside the client would hide an outage for minutes and keep all proxies in step; see backoff.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        // A watch may be silent for long; scope has a limit of its own on each request.
        config.read_timeout = None;
        let own_namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config).map_err(DiscoveryError::Client)?;
        let pod_name = settings
            .pod_name
            .clone()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let units = match settings.sharding {
            Sharding::Off | Sharding::Fixed { .. } => None,
            Sharding::Auto => {
                let units = Units::of_pod(&pod_name).ok_or_else(|| DiscoveryError::Ordinal {
                    pod_name: pod_name.clone(),
                })?;
                Some((units, settings.shard_interval))
            }
        };
        let mut namespaces = settings.namespaces.clone();
        namespaces.sort();
        namespaces.dedup();
        Ok(Self {
            client,
            own_namespace,
            selector: settings
                .selector
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            namespaces,
            pod_name,
            discover: settings.discover,
            units,
            timing: Timing {
                list_interval: settings.list_interval,
                permission_interval: settings.permission_interval,
                forbidden_grace: settings.forbidden_grace,
            },
        })
    }

    /// Our own pod's namespace and name. A pod's host name is its name, but on the host network.
    pub(super) fn own_name(&self) -> (String, String) {
        (self.own_namespace.clone(), self.pod_name.clone())
    }

    /// Keeps the store's sets right for ever.
    pub(super) fn run(mut self, store: &Arc<Store>, telemetry: Arc<Telemetry>) -> BoxFuture<'static, ()> {
        let units = match self.units.take() {
            None => std::future::pending().boxed(),
            Some((units, interval)) => {
                let client = self.client.clone();
                let namespace = self.own_namespace.clone();
                units
                    .run(client, namespace, interval, Arc::clone(store), telemetry)
                    .boxed()
            }
        };
        let objects = objects::run(
            self.discover,
            &self.client,
            &self.namespaces,
            &self.own_namespace,
            self.timing,
            store,
        );
        let pods = self.run_pods(store);
        async move {
            futures::future::join3(units, objects, pods).await;
        }
        .boxed()
    }

    fn run_pods(self, store: &Arc<Store>) -> BoxFuture<'static, ()> {
        if self.namespaces.is_empty() {
            let feed = store.add_source("cluster");
            return async move { self.climb(&mut Scope::all(&self, feed)).await }.boxed();
        }
        let mut scopes: Vec<Scope> = self
            .namespaces
            .iter()
            .map(|namespace| {
                Scope::namespace(
                    &self,
                    namespace,
                    store.add_source(format!("namespace {namespace}")),
                )
            })
            .collect();
        async move {
            futures::future::join_all(scopes.iter_mut().map(|scope| self.stay(scope))).await;
        }
        .boxed()
    }

    pub(super) fn client(&self) -> &kube::Client {
        &self.client
    }

    pub(super) fn selector(&self) -> &str {
        &self.selector
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    /// One namespace, asked for by name: there is nothing to fall back to.
    async fn stay(&self, scope: &mut Scope) {
        loop {
            let why = scope.run().await;
            scope.refused(format!(
                "may not list or watch pods in namespace {}; grant get, list and watch on pods there ({why})",
                scope.namespace_name().unwrap_or_default(),
            ));
            scope.until_granted().await;
        }
    }

    /// All namespaces, the own one where that is refused, and up again when it is granted.
    async fn climb(&self, scope: &mut Scope) {
        loop {
            scope.widen();
            let cluster_why = scope.run().await;
            scope.narrow(&self.own_namespace);
            scope.note_reduction(format!(
                "may not list or watch pods in all namespaces, only those of namespace {} are scraped; \
                 deploy with --trust, or bind a ClusterRole with get, list and watch on pods",
                self.own_namespace
            ));
            tracing::debug!(reason = %cluster_why, "The whole cluster is refused");
            let wider = scope.probe(None);
            let own_why = tokio::select! {
                why = scope.run() => why,
                () = wider => continue,
            };
            scope.refused(format!(
                "may not list or watch pods, neither in all namespaces nor in {}; deploy with --trust, or bind a Role \
                 with get and list on pods ({own_why})",
                self.own_namespace
            ));
            let wider = scope.probe(None);
            tokio::select! {
                () = scope.until_granted() => {}
                () = wider => {}
            }
        }
    }
}

async fn client_config(kubeconfig: Option<&Path>) -> Result<kube::Config, DiscoveryError> {
    let options = KubeConfigOptions::default();
    if let Some(path) = kubeconfig {
        let error = |source| DiscoveryError::Kubeconfig {
            path: path.display().to_string(),
            source,
        };
        // As kubectl takes $KUBECONFIG: a list of files, merged.
        let mut merged: Option<Kubeconfig> = None;
        for file in std::env::split_paths(path.as_os_str()).filter(|file| !file.as_os_str().is_empty()) {
            let read = Kubeconfig::read_from(file).map_err(error)?;
            merged = Some(match merged {
                None => read,
                Some(earlier) => earlier.merge(read).map_err(error)?,
            });
        }
        return from_kubeconfig(merged.unwrap_or_default(), &options)
            .await
            .map_err(error);
    }
    if let Ok(config) = kube::Config::incluster() {
        return Ok(config);
    }
    let user = Kubeconfig::read().map_err(DiscoveryError::NoCluster)?;
    from_kubeconfig(user, &options)
        .await
        .map_err(DiscoveryError::NoCluster)
}

/// A proxy is used where the kubeconfig names one; one from the environment is meant for the outside world.
async fn from_kubeconfig(
    kubeconfig: Kubeconfig,
    options: &KubeConfigOptions,
) -> Result<kube::Config, kube::config::KubeconfigError> {
    let names_proxy = kubeconfig.clusters.iter().any(|cluster| {
        cluster
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, options).await?;
    if !names_proxy {
        config.proxy_url = None;
    }
    Ok(config)
}
