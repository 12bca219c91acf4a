//! What discovery knows, as values: the sources' pods and objects in; sync state, conditions and target set out (core).
//!
//! Nothing here waits, logs or reads a clock, so each rule has a unit test below. [`super::store`] puts a lock around
//! it and publishes what it says.

mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub(super) use summary::Status;

use super::SyncProblem;
use crate::targets::{
    ClusterObjects, EvaluatedPod, MonitorIndex, MonitorSettings, Object, ObjectKey, ObjectKind, Pod, PodRef,
    ShardAssignment, TargetSet, TargetSettings, assemble,
};

/// A pod with everything that can be said about it alone, evaluated with one version of the monitors.
#[derive(Debug, Clone)]
pub(super) struct PodEntry {
    evaluated: EvaluatedPod,
    /// The pod itself; kept only where objects that change have a say in what becomes of it.
    pod: Option<Arc<Pod>>,
    monitors: Arc<MonitorIndex>,
}

impl PodEntry {
    /// Evaluates a pod.
    pub(super) fn new(pod: Pod, settings: &TargetSettings, monitors: &Arc<MonitorIndex>) -> Self {
        Self {
            evaluated: EvaluatedPod::new(&pod, settings, monitors),
            pod: monitors.reads_objects().then(|| Arc::new(pod)),
            monitors: Arc::clone(monitors),
        }
    }

    /// The names of the pod.
    pub(super) fn id(&self) -> &Arc<PodRef> {
        self.evaluated.id()
    }

    /// The pod evaluated with these monitors, where it was evaluated with others before.
    fn renewed(&self, settings: &TargetSettings, monitors: &Arc<MonitorIndex>) -> Option<Self> {
        let pod = self
            .pod
            .as_ref()
            .filter(|_| !Arc::ptr_eq(&self.monitors, monitors))?;
        let renewed = Self {
            evaluated: EvaluatedPod::new(pod, settings, monitors),
            pod: Some(Arc::clone(pod)),
            monitors: Arc::clone(monitors),
        };
        Some(renewed.following(self))
    }

    /// This entry in place of an earlier one of the same pod, whose ended ports stay ended.
    fn following(mut self, earlier: &Self) -> Self {
        self.evaluated.keep_ended_ports(&earlier.evaluated);
        self
    }
}

/// All pods of a source. The UID is part of the key, so that a late deletion does not remove a new pod of the same name.
pub(super) type Pods = BTreeMap<Arc<PodRef>, Arc<PodEntry>>;

/// All objects of a source.
pub(super) type KeyedObjects = BTreeMap<ObjectKey, Object>;

/// How a source reads its pods.
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

    /// Whether the pods are known only as of the last list.
    fn is_listing(self) -> bool {
        matches!(self, Self::ClusterList | Self::NamespaceList)
    }
}

/// How far a source of pods or objects is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    /// Nothing has been read yet; the text says why where that is known.
    Pending(Option<String>),
    /// The whole set was read and is kept up to date.
    Synced,
    /// Reading is forbidden, or the kind does not exist; the text names the remedy.
    Unavailable(String),
}

#[derive(Debug)]
struct PodSource {
    name: String,
    pods: Pods,
    progress: Progress,
    mode: Option<Mode>,
    confirmed_at: Option<Instant>,
    /// Why the pods cannot be confirmed at the moment.
    outage: Option<String>,
    /// Which permission is missing, and the remedy.
    reduction: Option<String>,
    /// Finished attempts to list, successful or not.
    n_list_attempts: u64,
}

impl PodSource {
    /// Records that the pods are correct as of `now`; returns whether that ends an outage.
    fn confirm(&mut self, now: Instant) -> bool {
        self.confirmed_at = Some(now);
        self.outage.take().is_some()
    }
}

#[derive(Debug)]
struct ObjectSource {
    kind: ObjectKind,
    name: String,
    /// Shared with a build in progress; copied on the first write during one.
    objects: Arc<KeyedObjects>,
    progress: Progress,
    reduction: Option<String>,
}

/// Which pods this process serves.
#[derive(Debug)]
enum Sharding {
    /// All of them.
    Off,
    /// A share that is not known yet, for this reason.
    Pending(String),
    /// This share.
    Assigned(ShardAssignment),
}

/// What was asked for, in the words of the texts.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// The label selector; none where all pods of a file are taken.
    pub(super) selector: Option<String>,
    /// The oldest list that a scrape may use.
    pub(super) list_max_age: Duration,
}

/// One change of a pod.
#[derive(Debug)]
pub(super) enum PodChange {
    /// The pod is new or has changed.
    Put(Arc<PodEntry>),
    /// The pod was deleted, or its labels match the selector no longer.
    Remove(Arc<PodRef>),
}

/// What a whole new set of pods means to a reader of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replaced {
    /// The source is read in another way than before, or for the first time.
    pub(super) is_new_mode: bool,
    /// The source was read in another way before.
    pub(super) had_other_mode: bool,
    /// An outage ended.
    pub(super) recovered: bool,
}

/// Everything that discovery knows.
#[derive(Debug)]
pub(super) struct DiscoveryState {
    subject: Subject,
    pod_sources: Vec<PodSource>,
    object_sources: Vec<ObjectSource>,
    /// Why there will never be pods.
    disabled: Option<SyncProblem>,
    sharding: Sharding,
    /// Grows with each change, so that a reader can wait until a change is published.
    revision: u64,
    is_set_outdated: bool,
    is_index_outdated: bool,
}

/// The input of a new target set; cheap to take, so that the lock is held for a moment only.
#[derive(Debug)]
pub(super) struct BuildInput {
    pods: Vec<Pods>,
    share: Option<ShardAssignment>,
    /// Where the objects have changed: all of them.
    objects: Option<Vec<(ObjectKind, Arc<KeyedObjects>)>>,
}

/// A new target set, and what else came out of making it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) set: TargetSet,
    pub(super) share: Option<ShardAssignment>,
    /// The monitors in force; the same value as before where no object has changed.
    pub(super) monitors: Arc<MonitorIndex>,
    /// Pods that were evaluated again, by the number of their source.
    renewed: Vec<(usize, Arc<PodEntry>)>,
}

impl BuildInput {
    /// Makes the target set of the moment `now`. Takes time in proportion to the pods.
    pub(super) fn build(
        mut self,
        monitors: &Arc<MonitorIndex>,
        monitor_settings: &MonitorSettings,
        settings: &TargetSettings,
        now: Timestamp,
    ) -> Built {
        let monitors = match self.objects.take() {
            None => Arc::clone(monitors),
            Some(sources) => {
                let mut objects = ClusterObjects::default();
                for (kind, source) in sources {
                    for (name, object) in source.iter() {
                        objects.insert(kind, name.clone(), object.clone());
                    }
                }
                Arc::new(MonitorIndex::new(monitor_settings.clone(), &objects))
            }
        };
        let mut renewed = Vec::new();
        for (index, pods) in self.pods.iter_mut().enumerate() {
            for entry in pods.values_mut() {
                if let Some(new) = entry.renewed(settings, &monitors) {
                    *entry = Arc::new(new);
                    renewed.push((index, Arc::clone(entry)));
                }
            }
        }
        let pods = self.pods.iter().flat_map(BTreeMap::values);
        let mut set = assemble(
            pods.map(|entry| &entry.evaluated),
            &settings.self_pod,
            self.share.as_ref(),
            now,
        );
        set.unsupported = monitors.unsupported().to_vec();
        Built {
            set,
            share: self.share,
            monitors,
            renewed,
        }
    }
}

impl DiscoveryState {
    pub(super) fn new(subject: Subject) -> Self {
        Self {
            subject,
            pod_sources: Vec::new(),
            object_sources: Vec::new(),
            disabled: None,
            sharding: Sharding::Off,
            revision: 0,
            is_set_outdated: false,
            is_index_outdated: false,
        }
    }

    /// Adds a source of pods and gives its number. All sources together make the set.
    pub(super) fn add_pod_source(&mut self, name: String) -> usize {
        self.pod_sources.push(PodSource {
            name,
            pods: Pods::new(),
            progress: Progress::Pending(None),
            mode: None,
            confirmed_at: None,
            outage: None,
            reduction: None,
            n_list_attempts: 0,
        });
        self.pod_sources.len() - 1
    }

    /// Adds a source of objects of one kind and gives its number.
    pub(super) fn add_object_source(&mut self, kind: ObjectKind, name: String) -> usize {
        self.object_sources.push(ObjectSource {
            kind,
            name,
            objects: Arc::default(),
            progress: Progress::Pending(None),
            reduction: None,
        });
        self.object_sources.len() - 1
    }

    pub(super) fn pod_source_name(&self, source: usize) -> String {
        self.pod_sources[source].name.clone()
    }

    pub(super) fn object_source_name(&self, source: usize) -> String {
        self.object_sources[source].name.clone()
    }

    /// Records that there will never be pods.
    pub(super) fn disable(&mut self, reason: SyncProblem) {
        self.disabled = Some(reason);
    }

    /// Records that a port of a pod refuses connections. Returns whether the pod is being deleted.
    pub(super) fn end_port(&mut self, pod: &PodRef, port: u16) -> bool {
        let mut sources = self.pod_sources.iter_mut();
        let Some(entry) = sources.find_map(|source| source.pods.get_mut(pod)) else {
            return false;
        };
        // A build may still use the entry as it was.
        let is_terminating = Arc::make_mut(entry).evaluated.end_port(port);
        self.is_set_outdated |= is_terminating;
        is_terminating
    }

    /// Counts a change.
    pub(super) fn touch(&mut self) {
        self.revision += 1;
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Replaces all pods of a source.
    pub(super) fn replace_pods(
        &mut self,
        source: usize,
        mut pods: Pods,
        mode: Mode,
        now: Instant,
    ) -> Replaced {
        let source = &mut self.pod_sources[source];
        for (id, entry) in &mut pods {
            if let Some(known) = source.pods.get(id) {
                Arc::make_mut(entry).evaluated.keep_ended_ports(&known.evaluated);
            }
        }
        source.pods = pods;
        source.progress = Progress::Synced;
        source.n_list_attempts += 1;
        let before = source.mode.replace(mode);
        self.is_set_outdated = true;
        Replaced {
            is_new_mode: before != Some(mode),
            had_other_mode: before.is_some_and(|before| before != mode),
            recovered: source.confirm(now),
        }
    }

    /// Changes one pod, which also confirms the others. Returns whether that ends an outage.
    pub(super) fn change_pod(&mut self, source: usize, change: PodChange, now: Instant) -> bool {
        let source = &mut self.pod_sources[source];
        self.is_set_outdated |= match change {
            PodChange::Put(mut entry) => {
                if let Some(known) = source.pods.get(entry.id()) {
                    Arc::make_mut(&mut entry)
                        .evaluated
                        .keep_ended_ports(&known.evaluated);
                }
                // Most updates of a pod concern its conditions and container states, which no target depends on.
                let known = source.pods.insert(Arc::clone(entry.id()), Arc::clone(&entry));
                known.is_none_or(|known| known.evaluated != entry.evaluated)
            }
            PodChange::Remove(id) => source.pods.remove(&id).is_some(),
        };
        source.confirm(now)
    }

    /// Records that the pods of a source are correct as of `now`; returns whether that ends an outage.
    pub(super) fn confirm_pods(&mut self, source: usize, now: Instant) -> bool {
        self.pod_sources[source].confirm(now)
    }

    /// Records that a source cannot be read at the moment; its pods stay in use. Returns whether the text is new.
    pub(super) fn fail_pods(&mut self, source: usize, text: &str) -> bool {
        let source = &mut self.pod_sources[source];
        source.n_list_attempts += 1;
        if let Progress::Pending(reason) = &mut source.progress {
            *reason = Some(text.to_owned());
        }
        source.outage.replace(text.to_owned()).as_deref() != Some(text)
    }

    /// Records which permission a source lacks, or with `None` that it has all; returns whether that is new.
    pub(super) fn set_pod_reduction(&mut self, source: usize, note: Option<String>) -> bool {
        let reduction = &mut self.pod_sources[source].reduction;
        let is_new = *reduction != note;
        *reduction = note;
        is_new
    }

    /// Records that a source may read nothing; its pods are removed. Returns whether the reason is new.
    pub(super) fn forbid_pods(&mut self, source: usize, reason: String) -> bool {
        let source = &mut self.pod_sources[source];
        let progress = Progress::Unavailable(reason);
        let is_new = source.progress != progress;
        source.progress = progress;
        source.mode = None;
        source.outage = None;
        source.reduction = None;
        source.pods = Pods::new();
        self.is_set_outdated = true;
        is_new
    }

    /// Replaces all objects of a source; returns whether this is its first set.
    pub(super) fn replace_objects(&mut self, source: usize, objects: KeyedObjects) -> bool {
        let source = &mut self.object_sources[source];
        let is_first = source.progress != Progress::Synced;
        if is_first || *source.objects != objects {
            self.is_index_outdated = true;
        }
        source.objects = Arc::new(objects);
        source.progress = Progress::Synced;
        is_first
    }

    /// Changes one object; `None` removes it.
    pub(super) fn change_object(&mut self, source: usize, name: ObjectKey, object: Option<Object>) {
        let source = &mut self.object_sources[source];
        if source.objects.get(&name) == object.as_ref() {
            return;
        }
        let objects = Arc::make_mut(&mut source.objects);
        match object {
            Some(object) => drop(objects.insert(name, object)),
            None => drop(objects.remove(&name)),
        }
        self.is_index_outdated = true;
    }

    /// Records that objects cannot be read at the moment; those that were read stay in use.
    pub(super) fn fail_objects(&mut self, source: usize, text: &str) {
        if let Progress::Pending(reason) = &mut self.object_sources[source].progress {
            *reason = Some(text.to_owned());
        }
    }

    /// Records which permission a source of objects lacks; returns whether that is new.
    pub(super) fn set_object_reduction(&mut self, source: usize, note: Option<String>) -> bool {
        let reduction = &mut self.object_sources[source].reduction;
        let is_new = *reduction != note;
        *reduction = note;
        is_new
    }

    /// Records that objects are forbidden or do not exist; those that were read are dropped. Returns whether the reason
    /// is new. Targets of other kinds are served all the same.
    pub(super) fn forbid_objects(&mut self, source: usize, reason: String) -> bool {
        let source = &mut self.object_sources[source];
        let progress = Progress::Unavailable(reason);
        if source.progress == progress {
            return false;
        }
        source.progress = progress;
        source.objects = Arc::default();
        self.is_index_outdated = true;
        true
    }

    /// This process serves a share of the pods.
    pub(super) fn set_share(&mut self, share: ShardAssignment) {
        self.sharding = Sharding::Assigned(share);
        self.is_set_outdated = true;
    }

    /// The share is not known yet; nothing is served until it is. A known share stays in force.
    pub(super) fn set_share_pending(&mut self, reason: String) {
        if !matches!(self.sharding, Sharding::Assigned(_)) {
            self.sharding = Sharding::Pending(reason);
        }
    }

    /// Records the number of shards and those that are ready; returns the number before where it has changed.
    pub(super) fn update_share(&mut self, total: u32, ready: BTreeSet<u32>, now: Timestamp) -> Option<u32> {
        let Sharding::Assigned(share) = &mut self.sharding else {
            return None;
        };
        let before = share.total();
        self.is_set_outdated |= share.update(total, ready, now);
        (before != total).then_some(before)
    }

    /// Finished attempts to list, by source.
    pub(super) fn list_attempts(&self) -> Vec<u64> {
        let sources = self.pod_sources.iter();
        sources.map(|source| source.n_list_attempts).collect()
    }

    /// The sources that only list, whose list is too old for a scrape, and that have not tried since `before`.
    pub(super) fn sources_to_list(&self, before: &[u64], now: Instant) -> Vec<usize> {
        let sources = self.pod_sources.iter().zip(before).enumerate();
        sources
            .filter(|(index, (source, attempts))| {
                source.mode.is_some_and(Mode::is_listing)
                    && source.progress == Progress::Synced
                    && !self.is_list_fresh(*index, now)
                    && source.n_list_attempts == **attempts
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether a source's list is recent enough for a scrape.
    pub(super) fn is_list_fresh(&self, source: usize, now: Instant) -> bool {
        let confirmed_at = self.pod_sources[source].confirmed_at;
        confirmed_at.is_some_and(|at| now.saturating_duration_since(at) <= self.subject.list_max_age)
    }

    /// Takes the input of a new target set where one is due: a source has changed, or `is_due` because of the time.
    pub(super) fn take_build(&mut self, is_due: bool) -> Option<BuildInput> {
        if !is_due && !self.is_set_outdated && !self.is_index_outdated {
            return None;
        }
        self.is_set_outdated = false;
        let objects = std::mem::take(&mut self.is_index_outdated).then(|| {
            let sources = self.object_sources.iter();
            sources
                .map(|source| (source.kind, Arc::clone(&source.objects)))
                .collect()
        });
        Some(BuildInput {
            pods: self
                .pod_sources
                .iter()
                .map(|source| source.pods.clone())
                .collect(),
            share: match &self.sharding {
                Sharding::Assigned(share) => Some(share.clone()),
                Sharding::Off | Sharding::Pending(_) => None,
            },
            objects,
        })
    }

    /// Keeps the pods that a build has evaluated again, unless they have changed since.
    pub(super) fn keep_renewed(&mut self, built: &Built) {
        for (source, entry) in &built.renewed {
            let known = self.pod_sources[*source].pods.get_mut(entry.id());
            let is_same_pod = |known: &PodEntry| match (&known.pod, &entry.pod) {
                (Some(known), Some(renewed)) => Arc::ptr_eq(known, renewed),
                _ => false,
            };
            if let Some(known) = known.filter(|known| is_same_pod(known)) {
                *known = Arc::new(PodEntry::clone(entry).following(known));
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
