//! The latest scrape of each target, for `/targets`, `/api/v1/targets` and the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::report::{ConflictReport, LastRequest, LastScrape, Report, SkippedReport, TargetReport};
use super::target_log::{Change, TargetLog};
use crate::discovery::{Snapshot, SyncState};
use crate::error::chain;
use crate::scrape::ScrapeOutcome;
use crate::targets::Target;

/// A target's latest scrape, and since when it has been up or down.
#[derive(Debug, Clone)]
struct TargetStatus {
    scrape: LastScrape,
    at: Instant,
    since: Instant,
}

/// A request for `/metrics`, as far as a person may want to know about it.
#[derive(Debug, Clone)]
pub struct RequestSummary {
    /// The User-Agent.
    pub by: String,
    /// The scraper's own timeout as it was sent.
    pub timeout: Option<String>,
    /// The time that the targets had.
    pub targets_had: Duration,
    /// When it came.
    pub at: Instant,
}

/// The latest scrape of each target.
#[derive(Debug, Default)]
pub struct ScrapeStatus {
    latest: Mutex<Arc<HashMap<Arc<Target>, TargetStatus>>>,
    log: Mutex<TargetLog>,
    request: Mutex<Option<RequestSummary>>,
    conflicts: Mutex<Vec<ConflictReport>>,
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
            let status = TargetStatus {
                scrape,
                at: now,
                since,
            };
            next.insert(Arc::clone(&outcome.target), status);
        }
        *latest = Arc::new(next);
        drop(latest);
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .log(&changes, now);
    }

    /// Records the latest request for `/metrics`.
    pub fn record_request(&self, request: RequestSummary) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }

    /// Records the conflicts between targets of the latest response.
    pub fn record_conflicts(&self, conflicts: Vec<ConflictReport>) {
        *self.conflicts.lock().unwrap_or_else(PoisonError::into_inner) = conflicts;
    }

    fn last_request(&self) -> Option<LastRequest> {
        let request = self
            .request
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        Some(LastRequest {
            by: request.by,
            timeout: request.timeout,
            targets_had_seconds: request.targets_had.as_secs_f64(),
            age_seconds: request.at.elapsed().as_secs_f64(),
        })
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
        SyncState::Pending(problem) => ("pending", Some(problem.to_string())),
        SyncState::Synced => ("synced", None),
        SyncState::Refused(problem) => ("refused", Some(problem.to_string())),
    };
    let target = |target: &Arc<Target>| {
        let status = latest.get(target);
        let health = match status.map(TargetStatus::is_up) {
            None => "unknown",
            Some(true) => "up",
            Some(false) => "down",
        };
        TargetReport {
            namespace: target.pod.namespace.clone(),
            pod: target.pod.name.clone(),
            url: target.public_url(),
            labels: target.labels.iter().cloned().collect(),
            health: health.to_owned(),
            health_seconds: status.map(|status| status.since.elapsed().as_secs_f64()),
            age_seconds: status.map(|status| status.at.elapsed().as_secs_f64()),
            last_scrape: status.map(|status| status.scrape.clone()),
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
        outage: snapshot.outage.clone(),
        no_match: snapshot.no_match.clone(),
        targets: snapshot.targets.targets.iter().map(target).collect(),
        skipped: snapshot.targets.skipped.iter().map(skipped).collect(),
        unsupported: snapshot.targets.unsupported.clone(),
        conflicts: status
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        last_request: status.last_request(),
    }
}
