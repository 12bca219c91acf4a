//! Where sources report their pods, and where the target set is made.
//!
//! One lock, held while a set is made and never across an await. A set is published whole; a scrape holds the old one
//! or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::{Snapshot, Snapshots, SyncState};
use crate::config;
use crate::health::{Condition, Health, State};
use crate::targets::{
    ClusterObjects, EvaluatedPod, MonitorIndex, MonitorSettings, Object, ObjectKey, ObjectKind, Pod, PodRef,
    Serving, ShardAssignment, TargetSet, TargetSettings, assemble,
};
use crate::telemetry::Telemetry;

/// What happened to one pod.
#[derive(Debug)]
pub(super) enum Change {
    /// It is new, or not as it was.
    Put(Box<Entry>),
    /// It is gone. The UID is part of it: a late deletion must not take away a new pod of the same name.
    Remove(PodRef),
}

/// A pod as the store keeps it.
#[derive(Debug)]
pub(super) struct Entry {
    prepared: EvaluatedPod,
    /// Kept where other objects have a say in what becomes of the pod, and change.
    pod: Option<Box<Pod>>,
    /// The rules that it was prepared by.
    rules: Arc<MonitorIndex>,
}

impl Entry {
    pub(super) fn id(&self) -> &Arc<PodRef> {
        self.prepared.id()
    }

    /// Looks at the pod again where the rules are others by now.
    fn renew(&mut self, settings: &TargetSettings, rules: &Arc<MonitorIndex>) {
        if let Some(pod) = &self.pod
            && !Arc::ptr_eq(&self.rules, rules)
        {
            self.prepared = EvaluatedPod::new(pod, settings, rules);
            self.rules = Arc::clone(rules);
        }
    }
}

/// All pods of a source.
pub(super) type Pods = BTreeMap<Arc<PodRef>, Entry>;

/// How one kind of object is known in one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ObjectStanding {
    /// Not read yet; the text says why where that is known.
    Pending(Option<String>),
    /// Read, and kept up.
    Synced,
    /// Not to be had; the text says why, and the remedy. Targets of the other kinds are served all the same.
    Missing(String),
}

#[derive(Debug)]
struct ObjectSource {
    name: String,
    objects: BTreeMap<ObjectKey, Object>,
    standing: ObjectStanding,
    /// What is less than asked for.
    reduced: Option<String>,
}

/// The way a source reads its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    ClusterWatch,
    ClusterList,
    NamespaceWatch,
    NamespaceList,
    Files,
}

impl Mode {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ClusterWatch => "cluster_watch",
            Self::ClusterList => "cluster_list",
            Self::NamespaceWatch => "namespace_watch",
            Self::NamespaceList => "namespace_list",
            Self::Files => "files",
        }
    }

    /// Whether pods are known as of the last list only.
    fn is_listing(self) -> bool {
        matches!(self, Self::ClusterList | Self::NamespaceList)
    }
}

#[derive(Debug)]
enum Standing {
    /// Nothing read yet, and why where that is known.
    Pending(Option<String>),
    /// Pods are known.
    Synced,
    /// Not allowed; the text says what and names the remedy.
    Refused(String),
}

#[derive(Debug)]
struct Source {
    name: String,
    pods: Pods,
    standing: Standing,
    mode: Option<Mode>,
    confirmed_at: Option<Instant>,
    /// What keeps it from being confirmed now.
    trouble: Option<String>,
    /// What is less than was asked for, and the remedy.
    reduced: Option<String>,
    /// Finished attempts to list, good or bad.
    list_attempts: u64,
    list_wanted: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    sources: Vec<Source>,
    given_up: Option<SyncState>,
    /// This unit's share of the pods; none where it serves all.
    share: Option<ShardAssignment>,
    /// Why the share is not known yet.
    share_pending: Option<String>,
    /// What was held in the last set.
    held: Vec<Arc<PodRef>>,
    object_sources: Vec<(ObjectKind, ObjectSource)>,
}

/// Takes what sources report and publishes snapshots.
#[derive(Debug)]
pub(super) struct Store {
    settings: TargetSettings,
    list_max_age: Duration,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    inner: Mutex<Inner>,
    monitor_settings: MonitorSettings,
    /// Apart from `inner`, since pods are looked at while that is free for others.
    rules: Mutex<Arc<MonitorIndex>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

const FIRST_LIST: &str = "waiting for the first list of pods";

impl Store {
    pub(super) fn new(
        settings: TargetSettings,
        config: &config::Discovery,
        health: Arc<Health>,
        telemetry: Arc<Telemetry>,
    ) -> (Arc<Self>, Snapshots) {
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot {
            sync: SyncState::Pending(format!("discovery: {FIRST_LIST}")),
            targets: Arc::default(),
            confirmed_at: None,
        }));
        let monitor_settings = MonitorSettings {
            discover: config.discover,
            cross_namespace: config.monitor_namespaces.iter().cloned().collect(),
        };
        let store = Self {
            settings,
            list_max_age: config.list_max_age,
            health,
            telemetry,
            inner: Mutex::new(Inner {
                sources: Vec::new(),
                given_up: None,
                share: None,
                share_pending: None,
                held: Vec::new(),
                object_sources: Vec::new(),
            }),
            monitor_settings: monitor_settings.clone(),
            rules: Mutex::new(Arc::new(MonitorIndex::new(
                monitor_settings,
                &ClusterObjects::default(),
            ))),
            snapshots,
        };
        (Arc::new(store), receiver)
    }

    /// A new source of pods. All of them together make the set.
    pub(super) fn add_source(self: &Arc<Self>, name: impl Into<String>) -> SourceHandle {
        let list_wanted = Arc::new(Notify::new());
        let mut inner = self.lock();
        inner.sources.push(Source {
            name: name.into(),
            pods: Pods::new(),
            standing: Standing::Pending(None),
            mode: None,
            confirmed_at: None,
            trouble: None,
            reduced: None,
            list_attempts: 0,
            list_wanted: Arc::clone(&list_wanted),
        });
        let index = inner.sources.len() - 1;
        self.report(&inner);
        SourceHandle {
            store: Arc::clone(self),
            index,
            list_wanted,
        }
    }

    /// There will never be pods, for this reason.
    pub(super) fn give_up(&self, reason: SyncState) {
        let mut inner = self.lock();
        inner.given_up = Some(reason);
        self.publish(&inner, None);
    }

    fn rules(&self) -> Arc<MonitorIndex> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new source of objects of one kind.
    pub(super) fn add_object_source(self: &Arc<Self>, kind: ObjectKind, name: String) -> ObjectHandle {
        let mut inner = self.lock();
        let source = ObjectSource {
            name,
            objects: BTreeMap::new(),
            standing: ObjectStanding::Pending(None),
            reduced: None,
        };
        inner.object_sources.push((kind, source));
        let index = inner.object_sources.len() - 1;
        self.publish(&inner, None);
        ObjectHandle {
            store: Arc::clone(self),
            index,
        }
    }

    /// Works out the rules anew, and every pod by them. Returns how long that took.
    fn reconsider(&self, inner: &mut Inner) -> Duration {
        let started = Instant::now();
        let mut objects = ClusterObjects::default();
        for (kind, source) in &inner.object_sources {
            for (name, object) in &source.objects {
                objects.insert(*kind, name.clone(), object.clone());
            }
        }
        let rules = Arc::new(MonitorIndex::new(self.monitor_settings.clone(), &objects));
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&rules);
        for entry in inner
            .sources
            .iter_mut()
            .flat_map(|source| source.pods.values_mut())
        {
            entry.renew(&self.settings, &rules);
        }
        let worked_out = started.elapsed();
        worked_out + self.rebuild(inner)
    }

    /// This unit serves a share of the pods.
    pub(super) fn share(&self, share: ShardAssignment) {
        let mut inner = self.lock();
        inner.share = Some(share);
        inner.share_pending = None;
        self.rebuild(&mut inner);
    }

    /// The share is to be found out; until then nothing is served, for this reason.
    pub(super) fn share_pending(&self, reason: String) {
        let mut inner = self.lock();
        if inner.share.is_none() {
            inner.share_pending = Some(reason);
            self.publish(&inner, None);
        }
    }

    /// There are so many units now, and these are ready.
    pub(super) fn update_share(&self, total: u32, ready: BTreeSet<u32>) {
        let mut inner = self.lock();
        let Some(share) = &mut inner.share else {
            return;
        };
        let before = share.total();
        if !share.update(total, ready, Timestamp::now()) {
            return;
        }
        if before != total {
            tracing::info!(unit = share.index(), before, total, "The number of units changed");
        }
        self.rebuild(&mut inner);
    }

    /// Records that a port of a pod refuses connections. Returns whether the pod is being deleted.
    pub(super) fn end_port(&self, pod: &PodRef, port: u16) -> bool {
        let mut inner = self.lock();
        let mut entries = inner
            .sources
            .iter_mut()
            .filter_map(|source| source.pods.get_mut(pod));
        let is_terminating = entries.any(|entry| entry.prepared.end_port(port));
        if is_terminating {
            self.rebuild(&mut inner);
        }
        is_terminating
    }

    /// How many lists each source has finished.
    pub(super) fn list_attempts(&self) -> Vec<u64> {
        self.lock()
            .sources
            .iter()
            .map(|source| source.list_attempts)
            .collect()
    }

    /// Asks every source that only lists, is too old and has not tried since `asked_after` to list now. Returns whether
    /// there is one to wait for.
    pub(super) fn ask_for_lists(&self, asked_after: &[u64]) -> bool {
        let inner = self.lock();
        let mut waiting = false;
        for (source, attempts) in inner.sources.iter().zip(asked_after) {
            let is_old = source.mode.is_some_and(Mode::is_listing)
                && matches!(source.standing, Standing::Synced)
                && source
                    .confirmed_at
                    .is_none_or(|at| at.elapsed() > self.list_max_age);
            if is_old && source.list_attempts == *attempts {
                source.list_wanted.notify_one();
                waiting = true;
            }
        }
        waiting
    }

    /// Whether a source's list is younger than the most that a scrape may use.
    fn is_young(&self, index: usize) -> bool {
        self.lock().sources[index]
            .confirmed_at
            .is_some_and(|at| at.elapsed() <= self.list_max_age)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the set anew from all sources; returns how long that took.
    fn rebuild(&self, inner: &mut Inner) -> Duration {
        let (started, now) = (Instant::now(), Timestamp::now());
        let entries = inner.sources.iter().flat_map(|source| source.pods.values());
        let pods = entries.map(|entry| &entry.prepared);
        let mut set = assemble(pods, &self.settings.self_pod, inner.share.as_ref(), now);
        set.unsupported = self.rules().unsupported().to_vec();
        let took = started.elapsed();
        self.telemetry.discovery.built(&set, took.as_secs_f64());
        if let Some(share) = &inner.share {
            let metrics = &self.telemetry.discovery.shard;
            metrics.set(share, set.n_assigned, set.handing_over.len());
            for pod in inner.held.iter().filter(|pod| !set.handing_over.contains(pod)) {
                // One that came back, or went away altogether, was given up to nobody.
                if matches!(share.serving(&pod.uid, now), Serving::Other { .. }) {
                    metrics.given_up(share.is_owner_ready(&pod.uid));
                }
            }
            inner.held.clone_from(&set.handing_over);
        }
        self.publish(inner, Some(Arc::new(set)));
        took
    }

    /// Publishes what is known; `None` keeps the set and tells the rest.
    fn publish(&self, inner: &Inner, set: Option<Arc<TargetSet>>) {
        // First, so that who is woken by the snapshot finds health and metrics as new as it.
        self.report(inner);
        let sync = inner.sync();
        let confirmed_at = inner.confirmed_at();
        self.telemetry.discovery.set_synced(sync == SyncState::Synced);
        self.snapshots.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot {
                sync,
                targets: set.unwrap_or_else(|| Arc::clone(&snapshot.targets)),
                confirmed_at,
            });
        });
    }

    /// Tells health and metrics how things stand.
    fn report(&self, inner: &Inner) {
        if inner.given_up.is_some() {
            return;
        }
        let (discovery, rights) = inner.conditions();
        self.health.set(Condition::Discovery, discovery);
        if let Some(rights) = rights {
            self.health.set(Condition::Permissions, rights);
        }
        self.telemetry
            .discovery
            .set_modes(
                inner
                    .sources
                    .iter()
                    .map(|source| match (&source.standing, source.mode) {
                        (Standing::Refused(_), _) => "refused",
                        (_, Some(mode)) => mode.as_str(),
                        (_, None) => "none",
                    }),
            );
    }
}

impl Inner {
    fn sync(&self) -> SyncState {
        if let Some(reason) = &self.given_up {
            return reason.clone();
        }
        if let Some(reason) = &self.share_pending {
            return SyncState::Pending(format!("discovery: {reason}"));
        }
        if self.sources.is_empty() {
            return SyncState::Pending(format!("discovery: {FIRST_LIST}"));
        }
        for (_, source) in &self.object_sources {
            if let ObjectStanding::Pending(reason) = &source.standing {
                let reason = reason
                    .clone()
                    .unwrap_or_else(|| format!("waiting for the first list of {}", source.name));
                return SyncState::Pending(format!("discovery: {reason}"));
            }
        }
        let mut refusals = Vec::new();
        for source in &self.sources {
            match &source.standing {
                Standing::Pending(reason) => {
                    return SyncState::Pending(format!(
                        "discovery: {}",
                        reason.as_deref().unwrap_or(FIRST_LIST)
                    ));
                }
                Standing::Refused(reason) => refusals.push(reason.as_str()),
                Standing::Synced => {}
            }
        }
        if !refusals.is_empty() && refusals.len() == self.sources.len() {
            return SyncState::Refused(format!("permissions: {}", refusals.join("; ")));
        }
        SyncState::Synced
    }

    /// The oldest confirmation of all sources that have one.
    fn confirmed_at(&self) -> Option<Instant> {
        self.sources.iter().filter_map(|source| source.confirmed_at).min()
    }

    fn conditions(&self) -> (State, Option<State>) {
        let sync = self.sync();
        let troubles: Vec<&str> = self
            .sources
            .iter()
            .filter_map(|source| source.trouble.as_deref())
            .collect();
        let discovery = match &sync {
            SyncState::Pending(reason) => {
                State::unready(reason.strip_prefix("discovery: ").unwrap_or(reason))
            }
            _ if !troubles.is_empty() => {
                State::note(format!("the last known set is in use: {}", troubles.join("; ")))
            }
            _ => State::OK,
        };
        let reductions: Vec<&str> = self
            .sources
            .iter()
            .filter_map(|source| match &source.standing {
                Standing::Refused(reason) => Some(reason.as_str()),
                _ => source.reduced.as_deref(),
            })
            .collect();
        let missing: Vec<&str> = self
            .object_sources
            .iter()
            .filter_map(|(_, source)| match &source.standing {
                ObjectStanding::Missing(reason) => Some(reason.as_str()),
                _ => source.reduced.as_deref(),
            })
            .collect();
        let reductions = [reductions, missing].concat();
        let is_files = self.sources.iter().all(|source| source.mode == Some(Mode::Files));
        let rights = match sync {
            SyncState::Refused(reason) => Some(State::unready(
                reason.strip_prefix("permissions: ").unwrap_or(&reason),
            )),
            _ if !reductions.is_empty() => Some(State::note(reductions.join("; "))),
            _ if is_files => None,
            _ => Some(State::OK),
        };
        (discovery, rights)
    }
}

/// One source's way to the store.
#[derive(Debug)]
pub(super) struct SourceHandle {
    store: Arc<Store>,
    index: usize,
    list_wanted: Arc<Notify>,
}

impl SourceHandle {
    /// Looks at a pod as this store's sets need it.
    pub(super) fn prepare(&self, pod: Pod) -> Entry {
        let rules = self.store.rules();
        Entry {
            prepared: EvaluatedPod::new(&pod, &self.store.settings, &rules),
            pod: rules.reads_objects().then(|| Box::new(pod)),
            rules,
        }
    }

    /// Whether something of ours matches on the pods' labels.
    pub(super) fn needs_labels(&self) -> bool {
        self.store.monitor_settings.discover.needs_objects()
    }

    /// The whole of this source's pods. Replaces what it reported before.
    pub(super) fn swap(&self, mut pods: Pods, mode: Mode, how: &'static str) {
        let mut inner = self.store.lock();
        let rules = self.store.rules();
        let source = &mut inner.sources[self.index];
        for (id, entry) in &mut pods {
            entry.renew(&self.store.settings, &rules);
            if let Some(known) = source.pods.get(id) {
                entry.prepared.keep_ended_ports(&known.prepared);
            }
        }
        let n_pods = pods.len();
        source.pods = pods;
        source.standing = Standing::Synced;
        source.confirmed_at = Some(Instant::now());
        source.list_attempts += 1;
        let recovered = source.trouble.take().is_some();
        if source.mode != Some(mode) {
            if source.mode.is_some() {
                self.metrics().mode_changed();
            }
            source.mode = Some(mode);
            tracing::info!(source = %source.name, mode = mode.as_str(), n_pods, "Pods are known");
        } else if recovered {
            tracing::info!(source = %source.name, n_pods, "Pods are known again");
        }
        self.metrics().sync(how);
        self.metrics().confirmed(self.index, Instant::now());
        self.store.rebuild(&mut inner);
    }

    /// Changes of single pods, in order. Also confirms the rest. Returns how long making the set took, if it was made.
    pub(super) fn apply(&self, changes: Vec<Change>) -> Duration {
        if changes.is_empty() {
            self.confirm();
            return Duration::ZERO;
        }
        let mut inner = self.store.lock();
        let rules = self.store.rules();
        let source = &mut inner.sources[self.index];
        let (mut applied, mut deleted) = (0, 0);
        let mut differs = false;
        for change in changes {
            match change {
                Change::Put(mut entry) => {
                    applied += 1;
                    entry.renew(&self.store.settings, &rules);
                    // Most updates of a pod touch what is not ours: its conditions, its labels, its container states.
                    let known = source.pods.get(entry.id());
                    if let Some(known) = known {
                        entry.prepared.keep_ended_ports(&known.prepared);
                    }
                    differs |= known.is_none_or(|known| known.prepared != entry.prepared);
                    source.pods.insert(Arc::clone(entry.id()), *entry);
                }
                Change::Remove(id) => {
                    deleted += 1;
                    differs |= source.pods.remove(&id).is_some();
                }
            }
        }
        self.metrics().events("apply", applied);
        self.metrics().events("delete", deleted);
        Self::settle(source);
        self.metrics().confirmed(self.index, Instant::now());
        if differs {
            self.store.rebuild(&mut inner)
        } else {
            self.store.publish(&inner, None);
            Duration::ZERO
        }
    }

    /// The pods reported are right as of now.
    pub(super) fn confirm(&self) {
        let mut inner = self.store.lock();
        Self::settle(&mut inner.sources[self.index]);
        self.metrics().confirmed(self.index, Instant::now());
        self.store.publish(&inner, None);
    }

    fn settle(source: &mut Source) {
        source.confirmed_at = Some(Instant::now());
        if source.trouble.take().is_some() {
            tracing::info!(source = %source.name, "Pods are watched again");
        }
    }

    /// The source cannot be read now; what it reported stays in use. Logged when the text changes.
    pub(super) fn trouble(&self, reason: &'static str, text: String, detail: &str) {
        self.metrics().failure(reason);
        let mut inner = self.store.lock();
        let source = &mut inner.sources[self.index];
        source.list_attempts += 1;
        if let Standing::Pending(pending) = &mut source.standing {
            *pending = Some(text.clone());
        }
        if source.trouble.as_ref() != Some(&text) {
            tracing::warn!(source = %source.name, error = detail, "Cannot read pods: {text}");
        }
        source.trouble = Some(text);
        self.store.publish(&inner, None);
    }

    /// Something less than was asked for is in force, for good until told otherwise; `None` takes that back.
    pub(super) fn reduced(&self, note: Option<String>) {
        let mut inner = self.store.lock();
        let source = &mut inner.sources[self.index];
        if source.reduced != note {
            if let Some(note) = &note {
                tracing::warn!(source = %source.name, "Reduced rights: {note}");
            } else {
                tracing::info!(source = %source.name, "Rights are complete");
            }
            source.reduced = note;
            self.store.publish(&inner, None);
        }
    }

    /// Nothing at all may be read. The pods reported are not to be used.
    pub(super) fn refused(&self, reason: String) {
        let mut inner = self.store.lock();
        let source = &mut inner.sources[self.index];
        if !matches!(&source.standing, Standing::Refused(other) if *other == reason) {
            tracing::error!(source = %source.name, "Cannot read pods: {reason}");
            self.metrics().mode_changed();
        }
        source.standing = Standing::Refused(reason);
        source.mode = None;
        source.trouble = None;
        source.reduced = None;
        source.pods = Pods::new();
        self.store.rebuild(&mut inner);
    }

    /// Waits until a scrape wants a younger list.
    pub(super) async fn list_wanted(&self) {
        loop {
            self.list_wanted.notified().await;
            // The wish may be older than the list that has arrived since.
            if !self.store.is_young(self.index) {
                return;
            }
        }
    }

    pub(super) fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.store.telemetry)
    }

    pub(super) fn metrics(&self) -> &crate::telemetry::DiscoveryMetrics {
        &self.store.telemetry.discovery
    }
}

/// One source of objects' way to the store.
#[derive(Debug)]
pub(super) struct ObjectHandle {
    store: Arc<Store>,
    index: usize,
}

impl ObjectHandle {
    /// The whole of this source's objects.
    pub(super) fn swap(&self, objects: BTreeMap<ObjectKey, Object>) -> Duration {
        let mut inner = self.store.lock();
        let (_, source) = &mut inner.object_sources[self.index];
        if source.standing != ObjectStanding::Synced {
            tracing::info!(source = %source.name, n_objects = objects.len(), "Objects are known");
        }
        let differs = source.objects != objects || source.standing != ObjectStanding::Synced;
        source.objects = objects;
        source.standing = ObjectStanding::Synced;
        if differs {
            self.store.reconsider(&mut inner)
        } else {
            Duration::ZERO
        }
    }

    /// Changes of single objects, in order; `None` is a deletion. Returns how long it took to work them in.
    pub(super) fn apply(&self, changes: Vec<(ObjectKey, Option<Object>)>) -> Duration {
        let mut inner = self.store.lock();
        let (_, source) = &mut inner.object_sources[self.index];
        let mut differs = false;
        for (name, object) in changes {
            differs |= match object {
                Some(object) if source.objects.get(&name) == Some(&object) => false,
                Some(object) => source.objects.insert(name, object).is_none_or(|_| true),
                None => source.objects.remove(&name).is_some(),
            };
        }
        if differs {
            self.store.reconsider(&mut inner)
        } else {
            Duration::ZERO
        }
    }

    /// They cannot be had; what was read of them is not to be used.
    pub(super) fn missing(&self, reason: String) {
        let mut inner = self.store.lock();
        let (_, source) = &mut inner.object_sources[self.index];
        let standing = ObjectStanding::Missing(reason);
        if source.standing != standing {
            if let ObjectStanding::Missing(reason) = &standing {
                tracing::warn!(source = %source.name, "Not read: {reason}");
            }
            source.standing = standing;
            source.objects.clear();
            self.store.reconsider(&mut inner);
        }
    }

    /// Less than asked for is read, or all of it again.
    pub(super) fn reduced(&self, note: Option<String>) {
        let mut inner = self.store.lock();
        let (_, source) = &mut inner.object_sources[self.index];
        if source.reduced != note {
            if let Some(note) = &note {
                tracing::warn!(source = %source.name, "Reduced rights: {note}");
            }
            source.reduced = note;
            self.store.publish(&inner, None);
        }
    }

    /// They cannot be read now; what was read stays in use.
    pub(super) fn trouble(&self, text: &str) {
        self.telemetry().discovery.failure("objects");
        let mut inner = self.store.lock();
        let (_, source) = &mut inner.object_sources[self.index];
        if let ObjectStanding::Pending(reason) = &mut source.standing
            && reason.as_deref() != Some(text)
        {
            *reason = Some(text.to_owned());
            self.store.publish(&inner, None);
        }
    }

    pub(super) fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.store.telemetry)
    }
}

/// Makes the set anew when time alone changes it.
pub(super) async fn keep_time(store: Arc<Store>) {
    let mut snapshots = store.snapshots.subscribe();
    loop {
        let next_change = snapshots.borrow_and_update().targets.next_change;
        let until = next_change.map(|at| {
            // A clock that was set back must not make this spin.
            let left = Timestamp::now().duration_until(at);
            Duration::try_from(left).unwrap_or_default() + Duration::from_millis(50)
        });
        let sleep = async {
            match until {
                Some(until) => tokio::time::sleep(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep => {
                let mut inner = store.lock();
                store.rebuild(&mut inner);
            }
        }
    }
}
