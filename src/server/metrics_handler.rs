//! `/metrics`: one fan-out, one merge, one streamed answer.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT, VARY,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use super::response::{Body, text};
use super::{AppState, status};
use crate::discovery::SyncState;
use crate::error::chain;
use crate::exposition::{self, Answer, DeflatedBlock, Exposition, GzipStream, Limits, Part, deflate_block};
use crate::scrape::{ScrapeError, ScrapeOutcome, TIMEOUT_HEADER, fan_out_time};
use crate::telemetry::Reason;

/// The size of a piece of the answer: large enough that a write costs nothing beside the merge.
const CHUNK_BYTES: usize = 256 << 10;

/// Pieces that may wait for a slow reader; with the one in work this bounds an answer's memory beside its bodies.
const CHUNKS_AHEAD: usize = 4;
/// The longest wait, after a scrape, for a list that tells whether its pods still own their addresses.
const CONFIRM_LIMIT: Duration = Duration::from_millis(250);

/// Counts a request that ends before its answer is whole: its future or its body is dropped.
struct InFlight {
    state: Arc<AppState>,
    complete: bool,
}

impl InFlight {
    fn begin(state: &Arc<AppState>) -> Self {
        state.telemetry.scrape.in_flight.inc();
        Self {
            state: Arc::clone(state),
            complete: false,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.telemetry.scrape.in_flight.dec();
        if !self.complete {
            self.state.telemetry.scrape.cancelled.inc();
        }
    }
}

/// Answers one request for `/metrics`.
pub(super) async fn handle(state: Arc<AppState>, head: &http::request::Parts) -> Response<Body> {
    let mut in_flight = InFlight::begin(&state);
    let started = Instant::now();
    let header = |name| header_text(&head.headers, name);
    let user_agent = header(&USER_AGENT);
    let answer = exposition::negotiate(
        header(&ACCEPT).as_deref(),
        header(&ACCEPT_ENCODING).as_deref(),
        user_agent.as_deref(),
    );
    // Another proxy: sibling units that select each other must not scrape in a circle.
    let sibling = user_agent
        .as_deref()
        .is_some_and(|agent| agent.starts_with("metrics-proxy/"));
    let fan_out_time = fan_out_time(
        &state.settings,
        header(&TIMEOUT_HEADER).as_deref(),
        state.write_times.expected(),
    );
    let deadline = started + fan_out_time;
    let pebble = pebble_part(&state, deadline);
    let mut parts = Vec::new();
    if sibling {
        parts.push(own(&state, &[]));
        parts.extend(pebble.await);
    } else {
        let snapshot = state
            .discovery
            // A server that does not answer must not cost the scrape; the last set is better than none.
            .freshen(deadline.saturating_duration_since(Instant::now()) / 4)
            .await;
        if let SyncState::Pending(reason) | SyncState::Refused(reason) = &snapshot.sync {
            in_flight.complete = true;
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"));
        }
        if head.method == Method::HEAD {
            // What a GET would say of itself, without asking every pod for it.
            in_flight.complete = true;
            return respond(
                &answer,
                Empty::new().map_err(|never| match never {}).boxed_unsync(),
            );
        }
        let began = SystemTime::now();
        let scrapes = state
            .scraper
            .fan_out(&snapshot.targets.targets, &answer, deadline);
        let (mut outcomes, pebble) = tokio::join!(scrapes, pebble);
        // A list from before the scrape cannot say whose body this is after it.
        let now = state.discovery.freshen(CONFIRM_LIMIT).await;
        for outcome in &mut outcomes {
            if outcome.result.is_ok() && !now.targets.confirms(&outcome.target) {
                outcome.result = Err(ScrapeError::Moved);
            }
        }
        note(&state, &outcomes);
        state.scrape_status.record(began, &outcomes);
        parts.push(own(&state, &outcomes));
        parts.extend(outcomes.into_iter().map(part));
        parts.extend(pebble);
    }
    state
        .telemetry
        .scrape
        .fan_out_seconds
        .observe(started.elapsed().as_secs_f64());
    let body = stream_merged(in_flight, parts, answer.clone());
    respond(&answer, body)
}

fn header_text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |all, next| all + "," + &next))
}

fn respond(answer: &Answer, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type()));
    headers.insert(
        VARY,
        HeaderValue::from_static("Accept, Accept-Encoding, User-Agent"),
    );
    if answer.gzip() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Pebble's own metrics, where they can be had in time: beside the scrapes, so that a slow Pebble delays nothing.
async fn pebble_part(state: &AppState, deadline: Instant) -> Option<Part> {
    let fetched = timeout_at(deadline.into(), state.pebble.as_ref()?.fetch()).await;
    match exposition::parse(fetched.ok()??.into(), None, &Limits::default()) {
        Ok(exposition) => Some(own_part(Some(exposition))),
        Err(refusal) => {
            tracing::debug!(%refusal, "Cannot read Pebble's own metrics");
            None
        }
    }
}

/// Metrics of ours or of Pebble's: no labels, no `up`.
fn own_part(exposition: Option<Exposition>) -> Part {
    Part {
        exposition,
        own: true,
        ..Part::default()
    }
}

fn part(outcome: ScrapeOutcome) -> Part {
    Part {
        labels: outcome.target.labels.clone(),
        up: Some(outcome.result.is_ok()),
        exposition: outcome.result.ok(),
        own: false,
    }
}

/// Counts outcomes, and logs what is new only at debug: a target's state is on `/targets` and in `up`.
fn note(state: &AppState, outcomes: &[ScrapeOutcome]) {
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
                metrics
                    .failures
                    .get_or_create(&Reason { reason: error.kind() })
                    .inc();
                tracing::debug!(
                    pod = outcome.target.pod.name, namespace = outcome.target.pod.namespace,
                    address = %outcome.target.address, error = chain(error), "Cannot scrape target"
                );
            }
        }
    }
    metrics.body_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    metrics.samples.set(i64::try_from(samples).unwrap_or(i64::MAX));
}

/// Our own metrics, with a few series for each target of this answer.
fn own(state: &AppState, outcomes: &[ScrapeOutcome]) -> Part {
    let mut text = state.telemetry.encode();
    text.truncate(text.trim_end_matches("# EOF\n").len());
    per_target(&mut text, outcomes);
    text.push_str("# EOF\n");
    let parsed = exposition::parse(
        text.into_bytes(),
        Some("application/openmetrics-text"),
        &Limits::default(),
    );
    match parsed {
        Ok(exposition) => own_part(Some(exposition)),
        Err(refusal) => {
            tracing::error!(%refusal, "Cannot read our own metrics; please report this");
            own_part(None)
        }
    }
}

fn per_target(text: &mut String, outcomes: &[ScrapeOutcome]) {
    type Value = fn(&ScrapeOutcome) -> f64;
    let families: [(&str, &str, Value); 3] = [
        (
            "duration_seconds",
            "How long the scrape of a target took in this answer",
            |o| o.duration.as_secs_f64(),
        ),
        (
            "samples",
            "Samples of a target in this answer, before duplicates were dropped",
            |o| {
                o.result
                    .as_ref()
                    .map_or(0.0, |exposition| exposition.n_samples() as f64)
            },
        ),
        (
            "body_bytes",
            "Bytes of a target's body in this answer, after decompression",
            |o| {
                o.result
                    .as_ref()
                    .map_or(0.0, |exposition| exposition.n_bytes() as f64)
            },
        ),
    ];
    for (name, help, value) in families {
        if outcomes.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "# HELP metrics_proxy_target_{name} {help}.\n# TYPE metrics_proxy_target_{name} gauge"
        );
        for outcome in outcomes {
            let target = &outcome.target;
            let _ = writeln!(
                text,
                "metrics_proxy_target_{name}{{namespace=\"{}\",pod=\"{}\",url=\"{}\"}} {}",
                escaped(&target.pod.namespace),
                escaped(&target.pod.name),
                escaped(&status::url(target)),
                value(outcome)
            );
        }
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// What goes through the channel from the merge to the connection.
enum Piece {
    Chunk(Vec<u8>),
    /// The merge is through: only now may the body end as a whole one.
    End,
}

/// Merges on a blocking thread and streams what it writes; gzip runs on further threads, several blocks at once.
fn stream_merged(in_flight: InFlight, parts: Vec<Part>, answer: Answer) -> Body {
    let state = Arc::clone(&in_flight.state);
    let (sender, receiver) = mpsc::channel::<Piece>(CHUNKS_AHEAD);
    let started = Instant::now();
    let gzip = answer.gzip();
    let merging = tokio::task::spawn_blocking({
        let state = Arc::clone(&state);
        move || {
            let merged = state.scraper.pool.merge(parts, &answer);
            note_merge(&state, &merged);
            let mut gone = false;
            merged.write(CHUNK_BYTES, &mut |chunk| {
                gone = sender.blocking_send(Piece::Chunk(chunk)).is_err();
                !gone
            });
            if !gone {
                let _ = sender.blocking_send(Piece::End);
            }
            for exposition in merged.into_parts().into_iter().filter_map(|part| part.exposition) {
                state.scraper.buffers.release(exposition.into_body());
            }
            state.scraper.buffers.end_of_response();
        }
    });
    // Held by the stream, so that nothing outlives the answer unseen.
    let merging = AbortOnDropHandle::new(merging);
    let pieces = stream::unfold(
        (receiver, in_flight, merging),
        move |(mut receiver, mut in_flight, merging)| async move {
            if in_flight.complete {
                return None;
            }
            match receiver.recv().await {
                Some(Piece::Chunk(chunk)) => Some((Ok(Some(chunk)), (receiver, in_flight, merging))),
                Some(Piece::End) => {
                    in_flight.complete = true;
                    let took = started.elapsed();
                    in_flight.state.write_times.record(took);
                    in_flight
                        .state
                        .telemetry
                        .scrape
                        .write_seconds
                        .observe(took.as_secs_f64());
                    Some((Ok(None), (receiver, in_flight, merging)))
                }
                None => {
                    in_flight.complete = true;
                    tracing::error!("Cannot finish an answer, the merge failed; please report this");
                    Some((
                        Err(io::Error::other("the merge failed")),
                        (receiver, in_flight, merging),
                    ))
                }
            }
        },
    );
    if gzip {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        framed(joined(pieces.map(deflated).buffered(workers)))
    } else {
        framed(pieces)
    }
}

async fn deflated(piece: io::Result<Option<Vec<u8>>>) -> io::Result<Option<DeflatedBlock>> {
    match piece? {
        None => Ok(None),
        Some(chunk) => tokio::task::spawn_blocking(move || Some(deflate_block(&chunk)))
            .await
            .map_err(io::Error::other),
    }
}

/// One gzip stream of the blocks. Its end is written where the merge was through, and only there.
fn joined(
    blocks: impl Stream<Item = io::Result<Option<DeflatedBlock>>> + Send + 'static,
) -> impl Stream<Item = io::Result<Option<Vec<u8>>>> + Send + 'static {
    let mut gzip = Some(GzipStream::default());
    blocks.map(move |block| {
        let bytes = match block? {
            Some(block) => gzip.as_mut().map(|gzip| gzip.push(block)),
            None => gzip.take().map(GzipStream::finish),
        };
        Ok(bytes)
    })
}

fn framed(pieces: impl Stream<Item = io::Result<Option<Vec<u8>>>> + Send + 'static) -> Body {
    let frames = pieces
        .filter_map(|piece| async { piece.transpose().map(|c| c.map(|c| Frame::data(Bytes::from(c)))) });
    StreamBody::new(frames).boxed_unsync()
}

fn note_merge(state: &AppState, merged: &exposition::Merged) {
    let metrics = &state.telemetry.scrape;
    metrics.duplicates.inc_by(merged.n_dropped() as u64);
    metrics.conflicts.clear();
    for conflict in merged.problems() {
        metrics
            .conflicts
            .get_or_create(&Reason {
                reason: conflict.kind.as_str(),
            })
            .inc();
        tracing::debug!(%conflict, "Targets disagree");
    }
}
