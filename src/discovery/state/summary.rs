//! What is published beside the target set: sync state, conditions, notes (core).

use std::time::Instant;

use super::{DiscoveryState, Mode, PodSource, Progress, Sharding};
use crate::discovery::{SyncProblem, SyncState};
use crate::health::{Condition, State};

const FIRST_LIST: &str = "waiting for the first list of pods";

/// What the conditions and the snapshot say besides the targets.
#[derive(Debug, Clone)]
pub(in crate::discovery) struct Status {
    pub(in crate::discovery) revision: u64,
    pub(in crate::discovery) sync: SyncState,
    pub(in crate::discovery) confirmed_at: Option<Instant>,
    /// Why the set is the last known one and cannot be confirmed.
    pub(in crate::discovery) outage: Option<String>,
    /// What the operator should compare, where no pod matches.
    pub(in crate::discovery) no_match: Option<String>,
    pub(in crate::discovery) conditions: Vec<(Condition, State)>,
    pub(in crate::discovery) modes: Vec<&'static str>,
}

impl DiscoveryState {
    /// What is published beside the target set.
    pub(in crate::discovery) fn status(&self) -> Status {
        let sync = self.sync();
        let outages = self.texts(|source| source.outage.as_deref());
        let no_match = (sync == SyncState::Synced).then(|| self.no_match()).flatten();
        Status {
            revision: self.revision,
            conditions: self.conditions(&sync, &outages, no_match.as_deref()),
            confirmed_at: self
                .pod_sources
                .iter()
                .filter_map(|source| source.confirmed_at)
                .min(),
            outage: (!outages.is_empty()).then(|| outages.join("; ")),
            no_match,
            modes: self.pod_sources.iter().map(PodSource::mode_name).collect(),
            sync,
        }
    }

    /// How far discovery is. The first reason in this order counts: switched off, share, objects, pods.
    fn sync(&self) -> SyncState {
        let pending = |text: String| {
            SyncState::Pending(SyncProblem {
                condition: Condition::Discovery,
                text,
            })
        };
        if let Some(reason) = &self.disabled {
            return SyncState::Refused(reason.clone());
        }
        if let Sharding::Pending(reason) = &self.sharding {
            return pending(reason.clone());
        }
        if self.pod_sources.is_empty() {
            return pending(FIRST_LIST.to_owned());
        }
        for source in &self.object_sources {
            if let Progress::Pending(reason) = &source.progress {
                let waiting = || format!("waiting for the first list of {}", source.name);
                return pending(reason.clone().unwrap_or_else(waiting));
            }
        }
        for source in &self.pod_sources {
            if let Progress::Pending(reason) = &source.progress {
                return pending(reason.clone().unwrap_or_else(|| FIRST_LIST.to_owned()));
            }
        }
        let forbidden = self.texts(PodSource::forbidden);
        if forbidden.len() == self.pod_sources.len() {
            return SyncState::Refused(SyncProblem {
                condition: Condition::Permissions,
                text: forbidden.join("; "),
            });
        }
        SyncState::Synced
    }

    fn conditions(
        &self,
        sync: &SyncState,
        outages: &[&str],
        no_match: Option<&str>,
    ) -> Vec<(Condition, State)> {
        if self.disabled.is_some() {
            return Vec::new();
        }
        let mut conditions = Vec::new();
        if let Some(selector) = &self.subject.selector {
            let state = no_match.map_or_else(|| State::ok(selector), State::note);
            conditions.push((Condition::Selector, state));
        }
        let discovery = match sync {
            SyncState::Pending(problem) => State::unready(&problem.text),
            _ if !outages.is_empty() => {
                State::note(format!("the last known set is in use: {}", outages.join("; ")))
            }
            _ => State::OK,
        };
        conditions.push((Condition::Discovery, discovery));
        let reductions = self.reductions();
        let is_files = self
            .pod_sources
            .iter()
            .all(|source| source.mode == Some(Mode::Files));
        let permissions = match sync {
            SyncState::Refused(problem) => Some(State::unready(&problem.text)),
            _ if !reductions.is_empty() => Some(State::note(reductions.join("; "))),
            // Files need no permission in a cluster.
            _ if is_files => None,
            _ => Some(State::OK),
        };
        conditions.extend(permissions.map(|state| (Condition::Permissions, state)));
        conditions
    }

    /// Which permissions are missing, pods first.
    fn reductions(&self) -> Vec<&str> {
        let pods = self
            .pod_sources
            .iter()
            .filter_map(|source| source.forbidden().or(source.reduction.as_deref()));
        let objects = self
            .object_sources
            .iter()
            .filter_map(|source| match &source.progress {
                Progress::Unavailable(reason) => Some(reason.as_str()),
                _ => source.reduction.as_deref(),
            });
        pods.chain(objects).collect()
    }

    /// What to compare where the selector matches no pod at all.
    fn no_match(&self) -> Option<String> {
        let selector = self.subject.selector.as_deref()?;
        if self.pod_sources.iter().any(|source| !source.pods.is_empty()) {
            return None;
        }
        if self
            .pod_sources
            .iter()
            .all(|source| source.mode == Some(Mode::Files))
        {
            return Some(format!("no pod in --pods-file matches {selector}"));
        }
        let is_everywhere = self
            .pod_sources
            .iter()
            .any(|source| matches!(source.mode, Some(Mode::ClusterWatch | Mode::ClusterList)));
        let place = if is_everywhere {
            "any namespace".to_owned()
        } else {
            self.texts(|source| Some(source.name.as_str())).join(", ")
        };
        Some(format!(
            "no pod matches {selector} in {place}; compare: kubectl get pods -A -l '{selector}'"
        ))
    }

    fn texts<'a>(&'a self, text: impl Fn(&'a PodSource) -> Option<&'a str>) -> Vec<&'a str> {
        self.pod_sources.iter().filter_map(text).collect()
    }
}

impl PodSource {
    fn forbidden(&self) -> Option<&str> {
        match &self.progress {
            Progress::Unavailable(reason) => Some(reason),
            Progress::Pending(_) | Progress::Synced => None,
        }
    }

    fn mode_name(&self) -> &'static str {
        match (&self.progress, self.mode) {
            (Progress::Unavailable(_), _) => "refused",
            (_, Some(mode)) => mode.as_str(),
            (_, None) => "none",
        }
    }
}
