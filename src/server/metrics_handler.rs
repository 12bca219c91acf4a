//! `/metrics`: one fan-out and one merge for each request.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
    VARY,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};

use super::connection::ConnectionState;
use super::response::{Body, text};
use super::response_stream::{InFlight, ResponseStream};
use super::status::RequestSummary;
use super::{AppState, self_metrics};
use crate::discovery::{Snapshot, SyncState};
use crate::error::chain;
use crate::scrape::{Charge, Deadline, ScrapeError, ScrapeOutcome, TIMEOUT_HEADER};
use crate::telemetry::Reason;
use exposition::{Input, OutputFormat};

/// The longest wait, after a scrape, for a pod list that confirms that the pods still own their addresses.
const CONFIRM_LIMIT: Duration = Duration::from_millis(250);

/// How long a client may take to read a response, after the time that the targets and the merge have. A scraper that needs
/// longer has given up by itself; one that trickles is disconnected.
const READ_ALLOWANCE: Duration = Duration::from_secs(10);

/// What a request asks for.
struct MetricsRequest {
    format: OutputFormat,
    /// It comes from another proxy. Proxies that select each other's pods must not scrape in a circle.
    is_from_proxy: bool,
    deadline: Deadline,
    /// For `/targets`.
    summary: RequestSummary,
}

impl MetricsRequest {
    fn read(state: &AppState, headers: &HeaderMap) -> Self {
        let header = |name| header_text(headers, name);
        let user_agent = header(&USER_AGENT);
        let timeout = header(&TIMEOUT_HEADER);
        let now = Instant::now();
        let deadline = Deadline::new(
            now,
            &state.settings,
            timeout.as_deref(),
            state.write_times.expected(),
        );
        Self {
            format: exposition::negotiate(
                header(&ACCEPT).as_deref(),
                header(&ACCEPT_ENCODING).as_deref(),
                user_agent.as_deref(),
            ),
            is_from_proxy: user_agent
                .as_deref()
                .is_some_and(|agent| agent.starts_with("metrics-proxy/")),
            deadline,
            summary: RequestSummary {
                by: user_agent.unwrap_or_else(|| "an unnamed client".to_owned()),
                timeout,
                targets_had: deadline.at.saturating_duration_since(now),
                at: now,
            },
        }
    }
}

/// Responds to one request for `/metrics`.
pub(super) async fn handle(
    state: Arc<AppState>,
    connection: &ConnectionState,
    head: &http::request::Parts,
) -> Response<Body> {
    let mut in_flight = InFlight::new(&state);
    let started = Instant::now();
    let request = MetricsRequest::read(&state, &head.headers);
    connection.limit_response(request.deadline.at + state.write_times.expected() + READ_ALLOWANCE);
    if head.method == Method::GET {
        in_flight.permit = Arc::clone(&state.responses).try_acquire_owned().ok();
        if in_flight.permit.is_none() {
            in_flight.complete();
            return busy();
        }
    }
    let (inputs, charges) = if request.is_from_proxy {
        let mut inputs = vec![self_metrics::of_proxy(&state, &[])];
        inputs.extend(self_metrics::of_pebble(&state, request.deadline.at).await);
        (inputs, Vec::new())
    } else {
        // An API server that does not respond must not cost the scrape: the last set is better than none.
        let refresh_limit = request.deadline.remaining() / 4;
        let snapshot = state.discovery.refresh(refresh_limit).await;
        if let SyncState::Pending(reason) | SyncState::Refused(reason) = &snapshot.sync {
            in_flight.complete();
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"));
        }
        if head.method == Method::HEAD {
            in_flight.complete();
            // The headers of a GET, without a scrape of every pod.
            let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
            return respond(&request.format, empty);
        }
        scrape(&state, &request, &snapshot).await
    };
    let took = started.elapsed().as_secs_f64();
    state.telemetry.scrape.fan_out_seconds.observe(took);
    let stream = ResponseStream::start(in_flight, inputs, charges, request.format.clone());
    respond(&request.format, stream.into_body())
}

/// The response while `--max-concurrent-responses` are in progress.
fn busy() -> Response<Body> {
    let problem = "too many responses in progress; raise --max-concurrent-responses or scrape less often\n";
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, problem.to_owned());
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Scrapes every target and collects the inputs of the merge.
async fn scrape(
    state: &AppState,
    request: &MetricsRequest,
    snapshot: &Snapshot,
) -> (Vec<Input>, Vec<Arc<Charge>>) {
    let began = SystemTime::now();
    let scrapes = state
        .scraper
        .fan_out(&snapshot.targets.targets, &request.format, request.deadline);
    let pebble = self_metrics::of_pebble(state, request.deadline.at);
    let (mut outcomes, pebble) = tokio::join!(scrapes, pebble);
    // A list from before the scrape cannot tell whose body this is after it.
    let now = state.discovery.refresh(CONFIRM_LIMIT).await;
    for outcome in &mut outcomes {
        if outcome.result.is_ok() && !now.targets.confirms(&outcome.target) {
            outcome.result = Err(ScrapeError::Moved);
        }
    }
    // A pod that is being deleted and no longer listens has ended; it is not down.
    outcomes.retain(|outcome| {
        let is_refused = outcome
            .result
            .as_ref()
            .is_err_and(ScrapeError::is_connection_refused);
        !(is_refused && state.discovery.end_target(&outcome.target))
    });
    record(state, &outcomes);
    state.scrape_status.record(began, &outcomes);
    state.scrape_status.record_request(request.summary.clone());
    let mut inputs = vec![self_metrics::of_proxy(state, &outcomes)];
    let charges = outcomes
        .iter_mut()
        .filter_map(|outcome| outcome.charge.take())
        .collect();
    inputs.extend(outcomes.into_iter().map(input));
    inputs.extend(pebble);
    (inputs, charges)
}

fn input(outcome: ScrapeOutcome) -> Input {
    Input {
        labels: outcome.target.labels.clone(),
        up: Some(outcome.result.is_ok()),
        exposition: outcome.result.ok(),
        own: false,
    }
}

/// Counts the outcomes of one fan-out.
fn record(state: &AppState, outcomes: &[ScrapeOutcome]) {
    let metrics = &state.telemetry.scrape;
    let (mut bytes, mut samples) = (0, 0);
    for outcome in outcomes {
        match &outcome.result {
            Ok(exposition) => {
                metrics.successes.inc();
                bytes += exposition.n_bytes();
                samples += exposition.n_samples();
            }
            Err(error) => {
                let reason = error.kind();
                metrics.failures.get_or_create(&Reason { reason }).inc();
                let pod = &outcome.target.pod;
                tracing::debug!(
                    target = format!("{}/{}", pod.namespace, pod.name), address = %outcome.target.address,
                    error = chain(error), "Cannot scrape target"
                );
            }
        }
    }
    metrics.body_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    metrics.samples.set(i64::try_from(samples).unwrap_or(i64::MAX));
}

/// A header's value; several fields of one name are joined by commas, as HTTP has it.
fn header_text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |all, next| all + "," + &next))
}

fn respond(format: &OutputFormat, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(
        VARY,
        HeaderValue::from_static("Accept, Accept-Encoding, User-Agent"),
    );
    if format.gzip() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
