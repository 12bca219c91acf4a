//! The pods that the label selector matches.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::Api;

use super::error::{ApiError, ServerAddress};
use super::permission::Access;
use super::watch::{Reading, Sink, Timing, Watcher};
use crate::discovery::manifest::PodObject;
use crate::discovery::state::{Mode, PodEntry, Pods};
use crate::discovery::store::SourceHandle;
use crate::targets::PodRef;
use crate::telemetry::Telemetry;

const PODS: Access = Access {
    group: "",
    plural: "pods",
    alternative: None,
};

/// Watches pods.
pub(super) type PodWatcher = Watcher<PodSink>;

/// Gives what is read to a source of pods.
pub(super) struct PodSink {
    handle: SourceHandle,
}

impl PodWatcher {
    /// A watcher of the pods that `selector` matches, in all namespaces until told otherwise.
    pub(super) fn new(
        client: kube::Client,
        server: ServerAddress,
        selector: String,
        timing: Timing,
        handle: SourceHandle,
    ) -> Self {
        Self::with_sink(client, server, selector, timing, PodSink { handle })
    }
}

impl Sink for PodSink {
    type Object = PodObject;
    type Key = Arc<PodRef>;
    type Entry = Arc<PodEntry>;

    fn api(&self, client: &kube::Client, namespace: Option<&str>) -> Api<PodObject> {
        match namespace {
            None => Api::all(client.clone()),
            Some(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }

    fn access(&self) -> Access {
        PODS
    }

    fn key(&self, object: &PodObject) -> Arc<PodRef> {
        Arc::new(object.id())
    }

    fn entry(&self, object: PodObject) -> (Arc<PodRef>, Arc<PodEntry>) {
        let entry = self.handle.prepare(object.into_pod(self.handle.needs_labels()));
        (Arc::clone(entry.id()), entry)
    }

    fn replace(&self, entries: BTreeMap<Arc<PodRef>, Arc<PodEntry>>, reading: Reading) {
        let pods: Pods = entries;
        let mode = match (reading.is_namespaced, reading.is_watched) {
            (false, true) => Mode::ClusterWatch,
            (false, false) => Mode::ClusterList,
            (true, true) => Mode::NamespaceWatch,
            (true, false) => Mode::NamespaceList,
        };
        self.handle.replace(pods, mode, reading.how);
    }

    fn put(&self, _: Arc<PodRef>, entry: Arc<PodEntry>) {
        self.handle.put(entry);
    }

    fn remove(&self, key: Arc<PodRef>) {
        self.handle.remove(key);
    }

    fn confirm(&self) {
        self.handle.confirm();
    }

    fn fail(&self, error: &ApiError, server: &ServerAddress) {
        self.handle
            .fail(error.metric_reason(), &error.cause(server), error.detail());
    }

    fn forbid(&self, reason: String) {
        self.handle.forbid(reason);
    }

    fn set_reduction(&self, note: Option<String>) {
        self.handle.set_reduction(note);
    }

    fn list_requested(&self) -> impl Future<Output = ()> + Send {
        self.handle.list_requested()
    }

    fn telemetry(&self) -> &Arc<Telemetry> {
        self.handle.telemetry()
    }
}
