//! The metrics that a response has beside those of the targets: the proxy's own and Pebble's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use tokio::time::timeout_at;

use super::AppState;
use crate::scrape::{ScrapeError, ScrapeOutcome};
use crate::telemetry::TargetSample;
use exposition::{Exposition, Input, Limits};

/// The proxy's own metrics, with a few series for each target of this response.
pub(super) fn of_proxy(state: &AppState, outcomes: &[ScrapeOutcome]) -> Input {
    let text = state.telemetry.encode_with_targets(target_samples(outcomes));
    let parsed = exposition::parse(
        text.into_bytes(),
        Some("application/openmetrics-text"),
        &Limits::default(),
    );
    match parsed {
        Ok(exposition) => unlabelled(Some(exposition)),
        Err(refusal) => {
            tracing::error!(%refusal, "Cannot parse the proxy's own metrics; please report this");
            unlabelled(None)
        }
    }
}

/// Pebble's metrics, where they arrive before the deadline. Fetched beside the scrapes, so that a slow Pebble delays
/// nothing.
pub(super) async fn of_pebble(state: &AppState, deadline: Instant) -> Option<Input> {
    let fetched = timeout_at(deadline.into(), state.pebble.as_ref()?.fetch()).await;
    match exposition::parse(fetched.ok()??.into(), None, &Limits::default()) {
        Ok(exposition) => Some(unlabelled(Some(exposition))),
        Err(refusal) => {
            tracing::debug!(%refusal, "Cannot parse Pebble's metrics");
            None
        }
    }
}

/// An input without the labels of a pod and without `up`.
fn unlabelled(exposition: Option<Exposition>) -> Input {
    Input {
        exposition,
        own: true,
        ..Input::default()
    }
}

/// One entry for each namespace, pod and URL without its query. Targets that differ in their queries only share an entry,
/// because no series may occur twice and values of parameters may be secrets.
fn target_samples(outcomes: &[ScrapeOutcome]) -> Vec<TargetSample> {
    let mut samples: Vec<TargetSample> = Vec::with_capacity(outcomes.len());
    let mut known = HashMap::with_capacity(outcomes.len());
    for outcome in outcomes {
        let target = &outcome.target;
        let exposition = outcome.result.as_ref().ok();
        let next = TargetSample {
            namespace: target.pod.namespace.clone(),
            pod: target.pod.name.clone(),
            url: target.public_url(),
            duration_seconds: outcome.duration.as_secs_f64(),
            n_samples: exposition.map_or(0, Exposition::n_samples),
            body_bytes: exposition.map_or(0, Exposition::n_bytes),
            down: outcome.result.as_ref().err().map(ScrapeError::kind),
        };
        match known.entry((&target.pod, next.url.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(samples.len());
                samples.push(next);
            }
            Entry::Occupied(entry) => {
                let first = &mut samples[*entry.get()];
                first.duration_seconds = first.duration_seconds.max(next.duration_seconds);
                first.n_samples += next.n_samples;
                first.body_bytes += next.body_bytes;
                first.down = first.down.or(next.down);
            }
        }
    }
    samples
}
