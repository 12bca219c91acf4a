//! The lock around [`DiscoveryState`], and the one task that publishes what it says.
//!
//! Sources change the state under a lock that is held for moments only. [`publish_changes`] takes the input of a new
//! target set under that lock, makes the set on a blocking thread, and publishes set, conditions and metrics together:
//! a scrape sees the old snapshot or the new one. Changes that come during a build are part of the next one, so that a
//! rollout of a thousand pods costs a few builds and not a thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::state::{Built, DiscoveryState, Mode, PodChange, PodEntry, Pods, Status, Subject};
use super::{Snapshot, Snapshots, SyncProblem, SyncState};
use crate::config;
use crate::health::{Condition, Health, State};
use crate::targets::{
    ClusterObjects, MonitorIndex, MonitorSettings, Object, ObjectKey, ObjectKind, Pod, PodRef, Serving,
    ShardAssignment, TargetSet, TargetSettings,
};
use crate::telemetry::{DiscoveryMetrics, Telemetry};

/// The rest after a build, as a multiple of the time that the build took.
const REST_FACTOR: u32 = 3;
/// The longest rest after a build that was shorter than this.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// How long after a deadline of the set the next one is made, so that the deadline has passed by any clock.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

/// What discovery knows, shared by its sources and the server.
#[derive(Debug)]
pub(super) struct Store {
    settings: TargetSettings,
    monitor_settings: MonitorSettings,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    state: Mutex<DiscoveryState>,
    /// What monitors and Services say about pods. A lock of its own, since pods are evaluated before the state is locked.
    monitors: Mutex<Arc<MonitorIndex>>,
    /// Wakes the publishing task.
    changed: Notify,
    /// Wakes a source of pods that only lists, by its number.
    list_requests: Mutex<Vec<Arc<Notify>>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Store {
    pub(super) fn new(
        settings: TargetSettings,
        config: &config::Discovery,
        health: Arc<Health>,
        telemetry: Arc<Telemetry>,
    ) -> (Arc<Self>, Snapshots) {
        let state = DiscoveryState::new(Subject {
            selector: config.selector.as_ref().map(ToString::to_string),
            list_max_age: config.list_max_age,
        });
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(state.status(), Arc::default())));
        let monitor_settings = MonitorSettings {
            discover: config.discover,
            cross_namespace: config.monitor_namespaces.iter().cloned().collect(),
        };
        let store = Self {
            settings,
            monitor_settings: monitor_settings.clone(),
            health,
            telemetry,
            state: Mutex::new(state),
            monitors: Mutex::new(Arc::new(MonitorIndex::new(
                monitor_settings,
                &ClusterObjects::default(),
            ))),
            changed: Notify::new(),
            list_requests: Mutex::default(),
            snapshots,
        };
        (Arc::new(store), receiver)
    }

    /// Adds a source of pods. All of them together make the target set.
    pub(super) fn add_source(self: &Arc<Self>, name: impl Into<String>) -> SourceHandle {
        let list_requested = Arc::new(Notify::new());
        lock(&self.list_requests).push(Arc::clone(&list_requested));
        let index = self.update(|state| state.add_pod_source(name.into()));
        // Before the publishing task runs for the first time, `/readyz` must not say ready.
        self.report(&lock(&self.state).status());
        SourceHandle {
            store: Arc::clone(self),
            index,
            list_requested,
        }
    }

    /// Adds a source of objects of one kind.
    pub(super) fn add_object_source(self: &Arc<Self>, kind: ObjectKind, name: String) -> ObjectHandle {
        ObjectHandle {
            store: Arc::clone(self),
            index: self.update(|state| state.add_object_source(kind, name)),
        }
    }

    /// There will never be pods, for this reason.
    pub(super) fn disable(&self, reason: SyncProblem) {
        self.update(|state| state.disable(reason));
        // At once, since there is no set to wait for.
        let status = lock(&self.state).status();
        self.publish(status, None);
    }

    /// This process serves a share of the pods.
    pub(super) fn set_share(&self, share: ShardAssignment) {
        self.update(|state| state.set_share(share));
    }

    /// The share is not known yet; nothing is served until it is.
    pub(super) fn set_share_pending(&self, reason: String) {
        self.update(|state| state.set_share_pending(reason));
    }

    /// There are so many shards now, and these are ready.
    pub(super) fn update_share(&self, total: u32, ready: BTreeSet<u32>) {
        let before = self.update(|state| state.update_share(total, ready, Timestamp::now()));
        if let Some(before) = before {
            tracing::info!(before, total, "The number of shards changed");
        }
    }

    /// Records that a port of a pod refuses connections. Returns whether the pod is being deleted.
    pub(super) fn end_port(&self, pod: &PodRef, port: u16) -> bool {
        self.update(|state| state.end_port(pod, port))
    }

    /// Finished attempts to list, by source.
    pub(super) fn list_attempts(&self) -> Vec<u64> {
        lock(&self.state).list_attempts()
    }

    /// Asks every source that only lists, whose list is too old and that has not tried since `before`, to list now.
    /// Returns whether there is one to wait for.
    pub(super) fn request_lists(&self, before: &[u64]) -> bool {
        let sources = lock(&self.state).sources_to_list(before, Instant::now());
        let requests = lock(&self.list_requests);
        for source in &sources {
            requests[*source].notify_one();
        }
        !sources.is_empty()
    }

    /// The number of the latest change, see [`Snapshot`].
    pub(super) fn revision(&self) -> u64 {
        lock(&self.state).revision()
    }

    fn monitors(&self) -> Arc<MonitorIndex> {
        Arc::clone(&lock(&self.monitors))
    }

    fn metrics(&self) -> &DiscoveryMetrics {
        &self.telemetry.discovery
    }

    /// Changes the state and wakes the publishing task.
    fn update<R>(&self, change: impl FnOnce(&mut DiscoveryState) -> R) -> R {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        state.touch();
        drop(state);
        self.changed.notify_one();
        result
    }

    /// Sets conditions and metrics.
    fn report(&self, status: &Status) {
        for (condition, state) in &status.conditions {
            let changed = self.health.set(*condition, state.clone());
            if let (Condition::Selector, State::Note(text), true) = (condition, state, changed) {
                tracing::warn!("Nothing is scraped: {text}");
            }
        }
        self.metrics().set_modes(status.modes.iter().copied());
        self.metrics().set_synced(status.sync == SyncState::Synced);
    }

    /// Publishes a status with the set that belongs to it; `None` keeps the set.
    fn publish(&self, status: Status, set: Option<Arc<TargetSet>>) {
        // First, so that whoever is woken by the snapshot finds health and metrics as new as it.
        self.report(&status);
        self.snapshots.send_modify(|latest| {
            let set = set.unwrap_or_else(|| Arc::clone(&latest.targets));
            *latest = Arc::new(snapshot(status, set));
        });
    }
}

fn snapshot(status: Status, targets: Arc<TargetSet>) -> Snapshot {
    Snapshot {
        sync: status.sync,
        targets,
        confirmed_at: status.confirmed_at,
        outage: status.outage,
        no_match: status.no_match,
        revision: status.revision,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes every change of the state, and a new set when time alone changes it. Runs for ever.
pub(super) async fn publish_changes(store: Arc<Store>) {
    let mut handed_over: Vec<Arc<PodRef>> = Vec::new();
    let mut next_change: Option<Timestamp> = None;
    let mut is_due = false;
    loop {
        let (status, input) = {
            let mut state = lock(&store.state);
            (state.status(), state.take_build(is_due))
        };
        match input {
            None => store.publish(status, None),
            Some(input) => {
                let started = Instant::now();
                let Some(built) = build(&store, input).await else {
                    return;
                };
                let took = started.elapsed();
                next_change = built.set.next_change;
                lock(&store.state).keep_renewed(&built);
                *lock(&store.monitors) = Arc::clone(&built.monitors);
                record(store.metrics(), &built, took, &mut handed_over);
                store.publish(status, Some(Arc::new(built.set)));
                tokio::time::sleep((took * REST_FACTOR).min(LONGEST_REST.max(took))).await;
            }
        }
        is_due = tokio::select! {
            () = store.changed.notified() => false,
            () = until(next_change) => true,
        };
    }
}

/// Makes the set on a thread where that delays no request. `None` at shutdown.
async fn build(store: &Arc<Store>, input: super::state::BuildInput) -> Option<Built> {
    let store = Arc::clone(store);
    let task = tokio::task::spawn_blocking(move || {
        input.build(
            &store.monitors(),
            &store.monitor_settings,
            &store.settings,
            Timestamp::now(),
        )
    });
    match task.await {
        Ok(built) => Some(built),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// Counts a new set, and the pods that it has handed over to other shards.
fn record(metrics: &DiscoveryMetrics, built: &Built, took: Duration, handed_over: &mut Vec<Arc<PodRef>>) {
    let set = &built.set;
    metrics.built(set, took.as_secs_f64());
    let Some(share) = &built.share else { return };
    metrics.shard.set(share, set.n_assigned, set.handing_over.len());
    let now = Timestamp::now();
    for pod in handed_over.iter().filter(|pod| !set.handing_over.contains(pod)) {
        // A pod that came back to this shard, or was deleted, was not handed over.
        if matches!(share.serving(&pod.uid, now), Serving::Other { .. }) {
            metrics.shard.given_up(share.is_owner_ready(&pod.uid));
        }
    }
    handed_over.clone_from(&set.handing_over);
}

/// Waits until a moment has passed; for ever where there is none.
async fn until(moment: Option<Timestamp>) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    // A clock that was set back gives a negative duration: then the wait is the margin.
    let left = Duration::try_from(Timestamp::now().duration_until(moment)).unwrap_or_default();
    tokio::time::sleep(left + DEADLINE_MARGIN).await;
}

/// A source's access to the store.
#[derive(Debug)]
pub(super) struct SourceHandle {
    store: Arc<Store>,
    index: usize,
    list_requested: Arc<Notify>,
}

impl SourceHandle {
    /// Evaluates a pod as the target sets need it.
    pub(super) fn prepare(&self, pod: Pod) -> Arc<PodEntry> {
        Arc::new(PodEntry::new(pod, &self.store.settings, &self.store.monitors()))
    }

    /// Whether something matches on the labels of pods here, and not only at the API server.
    pub(super) fn needs_labels(&self) -> bool {
        self.store.monitor_settings.discover.needs_objects()
    }

    /// Replaces all pods of this source. `how` is the word of the metric.
    pub(super) fn replace(&self, pods: Pods, mode: Mode, how: &'static str) {
        let (n_pods, now) = (pods.len(), Instant::now());
        let replaced = self
            .store
            .update(|state| state.replace_pods(self.index, pods, mode, now));
        if replaced.had_other_mode {
            self.metrics().mode_changed();
        }
        if replaced.is_new_mode {
            tracing::info!(source = %self.name(), mode = mode.as_str(), n_pods, "Pod list synced");
        } else if replaced.recovered {
            tracing::info!(source = %self.name(), n_pods, "Pod list synced again");
        }
        self.metrics().sync(how);
        self.metrics().confirmed(self.index, now);
    }

    /// Adds or changes a pod, which also confirms the others.
    pub(super) fn put(&self, pod: Arc<PodEntry>) {
        self.change("apply", PodChange::Put(pod));
    }

    /// Removes a pod, which also confirms the others.
    pub(super) fn remove(&self, pod: Arc<PodRef>) {
        self.change("delete", PodChange::Remove(pod));
    }

    fn change(&self, event: &'static str, change: PodChange) {
        self.metrics().events(event, 1);
        self.confirmed(|state, now| state.change_pod(self.index, change, now));
    }

    /// The pods are correct as of now.
    pub(super) fn confirm(&self) {
        self.confirmed(|state, now| state.confirm_pods(self.index, now));
    }

    fn confirmed(&self, change: impl FnOnce(&mut DiscoveryState, Instant) -> bool) {
        let now = Instant::now();
        if self.store.update(|state| change(state, now)) {
            tracing::info!(source = %self.name(), "Pods are watched again");
        }
        self.metrics().confirmed(self.index, now);
    }

    /// The source cannot be read at the moment; its pods stay in use. `reason` is the word of the metric. Logged when
    /// the text changes.
    pub(super) fn fail(&self, reason: &'static str, text: &str, detail: &str) {
        self.metrics().failure(reason);
        if self.store.update(|state| state.fail_pods(self.index, text)) {
            tracing::warn!(source = %self.name(), error = detail, "Cannot read pods: {text}");
        }
    }

    /// Records that the source runs with reduced permissions (`Some(reason)`) or with full ones (`None`).
    pub(super) fn set_reduction(&self, note: Option<String>) {
        log_reduction(&self.name(), note.as_deref(), || {
            self.store
                .update(|state| state.set_pod_reduction(self.index, note.clone()))
        });
    }

    /// The source may read nothing. Its pods are removed.
    pub(super) fn forbid(&self, reason: String) {
        let is_new = self
            .store
            .update(|state| state.forbid_pods(self.index, reason.clone()));
        if is_new {
            tracing::error!(source = %self.name(), "Cannot read pods: {reason}");
            self.metrics().mode_changed();
        }
    }

    /// Waits until a scrape wants a more recent list.
    pub(super) async fn list_requested(&self) {
        loop {
            self.list_requested.notified().await;
            // The request may be older than a list that has arrived since.
            if !lock(&self.store.state).is_list_fresh(self.index, Instant::now()) {
                return;
            }
        }
    }

    pub(super) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.store.telemetry
    }

    fn metrics(&self) -> &DiscoveryMetrics {
        self.store.metrics()
    }

    fn name(&self) -> String {
        lock(&self.store.state).pod_source_name(self.index)
    }
}

/// Logs a change of permissions, where `set` says that it is one.
fn log_reduction(source: &str, note: Option<&str>, set: impl FnOnce() -> bool) {
    if !set() {
        return;
    }
    if let Some(note) = note {
        tracing::warn!(source, "Reduced permissions: {note}");
    } else {
        tracing::info!(source, "Permissions restored");
    }
}

/// Access to the store for a source of objects of one kind.
#[derive(Debug)]
pub(super) struct ObjectHandle {
    store: Arc<Store>,
    index: usize,
}

impl ObjectHandle {
    /// Replaces all objects of this source.
    pub(super) fn replace(&self, objects: BTreeMap<ObjectKey, Object>) {
        let n_objects = objects.len();
        if self
            .store
            .update(|state| state.replace_objects(self.index, objects))
        {
            tracing::info!(source = %self.name(), n_objects, "Object list synced");
        }
    }

    /// Changes one object; `None` removes it.
    pub(super) fn change(&self, name: ObjectKey, object: Option<Object>) {
        self.store
            .update(|state| state.change_object(self.index, name, object));
    }

    /// The objects are forbidden or do not exist; those that were read are dropped.
    pub(super) fn forbid(&self, reason: String) {
        let is_new = self
            .store
            .update(|state| state.forbid_objects(self.index, reason.clone()));
        if is_new {
            tracing::warn!(source = %self.name(), "Not read: {reason}");
        }
    }

    /// Records that the source runs with reduced permissions (`Some(reason)`) or with full ones (`None`).
    pub(super) fn set_reduction(&self, note: Option<String>) {
        log_reduction(&self.name(), note.as_deref(), || {
            self.store
                .update(|state| state.set_object_reduction(self.index, note.clone()))
        });
    }

    /// The objects cannot be read at the moment; those that were read stay in use.
    pub(super) fn fail(&self, text: &str) {
        self.store.metrics().failure("objects");
        self.store.update(|state| state.fail_objects(self.index, text));
    }

    pub(super) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.store.telemetry
    }

    fn name(&self) -> String {
        lock(&self.store.state).object_source_name(self.index)
    }
}
