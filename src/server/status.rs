//! The latest scrape of each target, for `/targets`, `/api/v1/targets` and the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::target_log::{Change, TargetLog};
use crate::discovery::{Snapshot, SyncState};
use crate::error::chain;
use crate::scrape::ScrapeOutcome;
use crate::targets::Target;

/// The latest scrape of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastScrape {
    /// When it began, as an RFC 3339 time.
    pub at: String,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
    /// Samples in its body.
    pub samples: usize,
    /// Bytes of its body after decompression.
    pub body_bytes: usize,
    /// Why it gave none, with every cause; empty where it went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The error's stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
}

/// One target in the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The URL without its query, since parameters may be secrets.
    pub url: String,
    /// The labels added to its samples.
    pub labels: Vec<(String, String)>,
    /// `up`, `down` or `unknown` before the first scrape.
    pub health: String,
    /// The latest scrape, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrape: Option<LastScrape>,
}

/// One selected pod, or port of one, that is not scraped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedReport {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// A stable word.
    pub kind: String,
    /// A sentence.
    pub reason: String,
}

/// Everything that is selected, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `pending`, `synced` or `refused`.
    pub discovery: String,
    /// Why discovery is pending or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Age of the set, in seconds, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// What is scraped, by namespace, pod, port.
    pub targets: Vec<TargetReport>,
    /// What is not.
    pub skipped: Vec<SkippedReport>,
    /// What PodMonitors and ServiceMonitors say that is not supported, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<String>,
}

/// A target's latest scrape, and since when it has been up or down.
#[derive(Debug, Clone)]
struct TargetStatus {
    scrape: LastScrape,
    since: Instant,
}

/// The latest scrape of each target.
#[derive(Debug, Default)]
pub struct ScrapeStatus {
    latest: Mutex<Arc<HashMap<Arc<Target>, TargetStatus>>>,
    log: Mutex<TargetLog>,
}

impl ScrapeStatus {
    /// Records the outcomes of one fan-out and logs changes of state. Targets that were not in it are forgotten.
    pub fn record(&self, began: SystemTime, outcomes: &[ScrapeOutcome]) {
        let at = jiff::Timestamp::try_from(began)
            .map(|at| at.to_string())
            .unwrap_or_default();
        let now = Instant::now();
        let mut changes = Vec::new();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::with_capacity(outcomes.len());
        for outcome in outcomes {
            let previous = latest.get(&outcome.target);
            changes.extend(change(previous, outcome, now));
            let is_same = previous.is_some_and(|previous| previous.is_up() == outcome.result.is_ok());
            let since = previous
                .filter(|_| is_same)
                .map_or(now, |previous| previous.since);
            let scrape = last_scrape(&at, outcome);
            next.insert(Arc::clone(&outcome.target), TargetStatus { scrape, since });
        }
        *latest = Arc::new(next);
        drop(latest);
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .log(&changes, now);
    }

    fn latest(&self) -> Arc<HashMap<Arc<Target>, TargetStatus>> {
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TargetStatus {
    fn is_up(&self) -> bool {
        self.scrape.error.is_none()
    }
}

/// The change of state that an outcome means. The first successful scrape of a target is none.
fn change(previous: Option<&TargetStatus>, outcome: &ScrapeOutcome, now: Instant) -> Option<Change> {
    let target = Arc::clone(&outcome.target);
    match (previous, &outcome.result) {
        (Some(previous), Ok(_)) if !previous.is_up() => Some(Change::Up {
            target,
            after: now.duration_since(previous.since),
        }),
        (Some(previous), Err(_)) if !previous.is_up() => None,
        (_, Err(error)) => Some(Change::Down {
            target,
            reason: error.kind(),
            error: chain(error),
        }),
        (_, Ok(_)) => None,
    }
}

fn last_scrape(at: &str, outcome: &ScrapeOutcome) -> LastScrape {
    let (samples, body_bytes) = outcome.result.as_ref().map_or((0, 0), |exposition| {
        (exposition.n_samples(), exposition.n_bytes())
    });
    let error = outcome.result.as_ref().err();
    LastScrape {
        at: at.to_owned(),
        duration_seconds: outcome.duration.as_secs_f64(),
        samples,
        body_bytes,
        error: error.map(|error| chain(error)),
        error_kind: error.map(|error| error.kind().to_owned()),
    }
}

/// The report of a moment.
pub fn report(status: &ScrapeStatus, snapshot: &Snapshot) -> Report {
    let latest = status.latest();
    let (discovery, reason) = match &snapshot.sync {
        SyncState::Pending(reason) => ("pending", Some(reason.clone())),
        SyncState::Synced => ("synced", None),
        SyncState::Refused(reason) => ("refused", Some(reason.clone())),
    };
    let target = |target: &Arc<Target>| {
        let last_scrape = latest.get(target).map(|status| status.scrape.clone());
        let health = match &last_scrape {
            None => "unknown",
            Some(LastScrape { error: None, .. }) => "up",
            Some(_) => "down",
        };
        TargetReport {
            namespace: target.pod.namespace.clone(),
            pod: target.pod.name.clone(),
            url: target.public_url(),
            labels: target.labels.clone(),
            health: health.to_owned(),
            last_scrape,
        }
    };
    let skipped = |skipped: &crate::targets::Skipped| SkippedReport {
        namespace: skipped.pod.namespace.clone(),
        pod: skipped.pod.name.clone(),
        kind: skipped.reason.to_string(),
        reason: skipped.detail.clone(),
    };
    Report {
        discovery: discovery.to_owned(),
        reason,
        age_seconds: snapshot.confirmed_at.map(|at| at.elapsed().as_secs_f64()),
        targets: snapshot.targets.targets.iter().map(target).collect(),
        skipped: snapshot.targets.skipped.iter().map(skipped).collect(),
        unsupported: snapshot.targets.unsupported.clone(),
    }
}
