//! The body of `/metrics`: merges on a thread of its own and streams what the merge writes.
//!
//! ```text
//! merge thread --Piece--> channel (4 chunks) --> ResponseStream::next --> connection
//!                                                  | with gzip: several chunks are compressed at the same time,
//!                                                  | and leave in their order
//! ```
//!
//! The channel bounds the memory of a response beside its bodies: a slow reader stops the merge.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::AppState;
use super::report::ConflictReport;
use super::response::Body;
use crate::scrape::{Cancel, CancelOnDrop, Charge};
use crate::telemetry::Reason;
use exposition::{DeflatedBlock, GzipStream, Input, OutputFormat, deflate_block};

/// The size of a chunk: large enough that sending it costs little beside the merge.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that may wait for a slow reader.
const MAX_WAITING_CHUNKS: usize = 4;

/// A request for `/metrics` in progress. It counts as cancelled where it is dropped before its response is complete.
pub(super) struct InFlight {
    pub(super) state: Arc<AppState>,
    is_complete: bool,
    /// One of `--max-concurrent-responses`; a response without a body needs none.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    pub(super) fn new(state: &Arc<AppState>) -> Self {
        state.telemetry.scrape.in_flight.inc();
        Self {
            state: Arc::clone(state),
            is_complete: false,
            permit: None,
        }
    }

    /// Marks the response as complete, or as one that the server ends itself.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.telemetry.scrape.in_flight.dec();
        if !self.is_complete {
            self.state.telemetry.scrape.cancelled.inc();
        }
    }
}

/// What the merge sends to the connection.
enum Piece {
    Chunk(Vec<u8>),
    /// The merge is complete. Without this the body must not end as a complete one.
    End,
}

/// How the body is sent.
enum Encoding {
    Identity,
    Gzip(Compressor),
    /// Everything was sent.
    Finished,
}

/// Compresses chunks, several at the same time, into one gzip member.
struct Compressor {
    stream: GzipStream,
    /// Blocks in their order.
    blocks: VecDeque<AbortOnDropHandle<DeflatedBlock>>,
    max_blocks: usize,
    /// No further chunk will come.
    has_ended: bool,
}

/// The response to one request, chunk by chunk.
pub(super) struct ResponseStream {
    pieces: mpsc::Receiver<Piece>,
    encoding: Encoding,
    in_flight: InFlight,
    started: Instant,
    /// Ends the merge when the reader has gone or the deadline of the response has passed.
    _cancel: CancelOnDrop,
}

impl ResponseStream {
    /// Starts the merge of `inputs`, which occupy `charges` in the memory account.
    pub(super) fn start(
        in_flight: InFlight,
        inputs: Vec<Input>,
        charges: Vec<Arc<Charge>>,
        format: OutputFormat,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(MAX_WAITING_CHUNKS);
        let encoding = if format.gzip() {
            Encoding::Gzip(Compressor::new())
        } else {
            Encoding::Identity
        };
        let state = Arc::clone(&in_flight.state);
        let guard = CancelOnDrop::default();
        let cancel = guard.flag();
        in_flight.state.merges.run(move || {
            merge(&state, inputs, &format, &sender, &cancel);
            // The bodies are freed only now, also if the reader went away before.
            drop(charges);
        });
        Self {
            pieces,
            encoding,
            in_flight,
            started: Instant::now(),
            _cancel: guard,
        }
    }

    /// The next chunk of the body; `None` after the last one.
    ///
    /// # Errors
    /// Where the merge ended without its last piece. The connection then ends without its last chunk, so that no reader
    /// takes half a response for a complete one.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let chunk = match &mut self.encoding {
            Encoding::Finished => return Ok(None),
            Encoding::Gzip(compressor) => compressor.next(&mut self.pieces).await?,
            Encoding::Identity => match self.pieces.recv().await.ok_or_else(failed_merge)? {
                Piece::Chunk(chunk) => Some(chunk),
                Piece::End => None,
            },
        };
        if chunk.is_some() {
            return Ok(chunk);
        }
        self.finish();
        match std::mem::replace(&mut self.encoding, Encoding::Finished) {
            Encoding::Gzip(compressor) => Ok(Some(compressor.stream.finish())),
            Encoding::Identity | Encoding::Finished => Ok(None),
        }
    }

    /// Records that the response is complete.
    fn finish(&mut self) {
        self.in_flight.complete();
        let took = self.started.elapsed().as_secs_f64();
        self.in_flight.state.telemetry.scrape.write_seconds.observe(took);
    }

    /// The stream as the body of a response.
    pub(super) fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut stream| async {
            let chunk = match stream.next().await {
                Ok(chunk) => Ok(Frame::data(Bytes::from(chunk?))),
                Err(error) => {
                    stream.in_flight.complete();
                    tracing::error!(%error, "Cannot complete a response; please report this");
                    Err(error)
                }
            };
            Some((chunk, stream))
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

fn failed_merge() -> io::Error {
    io::Error::other("the merge failed")
}

impl Compressor {
    fn new() -> Self {
        Self {
            stream: GzipStream::default(),
            blocks: VecDeque::new(),
            max_blocks: std::thread::available_parallelism().map_or(2, usize::from),
            has_ended: false,
        }
    }

    /// The next compressed block; `None` after the last one.
    async fn next(&mut self, pieces: &mut mpsc::Receiver<Piece>) -> io::Result<Option<Vec<u8>>> {
        loop {
            let is_full = self.has_ended || self.blocks.len() >= self.max_blocks;
            let block = match self.blocks.front_mut() {
                // A finished block must not wait until the merge sends the next chunk.
                Some(block) => tokio::select! {
                    biased;
                    block = block => Some(block),
                    piece = pieces.recv(), if !is_full => {
                        self.push(piece.ok_or_else(failed_merge)?);
                        None
                    }
                },
                None if self.has_ended => return Ok(None),
                None => {
                    self.push(pieces.recv().await.ok_or_else(failed_merge)?);
                    None
                }
            };
            if let Some(block) = block {
                self.blocks.pop_front();
                return Ok(Some(self.stream.push(block.map_err(io::Error::other)?)));
            }
        }
    }

    fn push(&mut self, piece: Piece) {
        match piece {
            Piece::End => self.has_ended = true,
            Piece::Chunk(chunk) => {
                let block = tokio::task::spawn_blocking(move || deflate_block(&chunk));
                self.blocks.push_back(AbortOnDropHandle::new(block));
            }
        }
    }
}

/// Merges the inputs and sends what the merge writes, until the reader disconnects.
fn merge(
    state: &AppState,
    inputs: Vec<Input>,
    format: &OutputFormat,
    sender: &mpsc::Sender<Piece>,
    cancel: &Cancel,
) {
    let started = Instant::now();
    // Time spent on waiting for the reader. A slow reader must not shorten the time that other responses give their
    // targets, so only the rest counts as the time of a merge.
    let mut waited = Duration::ZERO;
    let pool = &state.scraper.pool;
    let Ok(merged) = pool.merge_unless(&|| cancel.is_cancelled(), inputs, format) else {
        return;
    };
    record(state, &merged);
    let mut is_gone = false;
    merged.write(CHUNK_BYTES, &mut |chunk| {
        let began = Instant::now();
        is_gone = sender.blocking_send(Piece::Chunk(chunk)).is_err();
        waited += began.elapsed();
        !is_gone
    });
    if !is_gone {
        state.write_times.record(started.elapsed().saturating_sub(waited));
        let _ = sender.blocking_send(Piece::End);
    }
    let conflicts = merged.conflicts().to_vec();
    let inputs = merged.into_inputs();
    let conflicts = conflicts
        .into_iter()
        .map(|conflict| conflict_report(conflict, &inputs));
    state.scrape_status.record_conflicts(conflicts.collect());
    for exposition in inputs.into_iter().filter_map(|input| input.exposition) {
        pool.release(exposition.into_body());
    }
    pool.end_of_response();
}

/// Counts duplicates and conflicts of a merge.
fn record(state: &AppState, merged: &exposition::Merged) {
    let metrics = &state.telemetry.scrape;
    metrics.duplicates.inc_by(merged.n_dropped() as u64);
    metrics.conflicts.clear();
    for conflict in merged.conflicts() {
        let reason = conflict.kind.as_str();
        metrics.conflicts.get_or_create(&Reason { reason }).inc();
        tracing::debug!(%conflict, "Targets disagree on a metric family");
    }
}

/// A conflict with the pods that take part in it.
fn conflict_report(conflict: exposition::Conflict, inputs: &[Input]) -> ConflictReport {
    let pod = |input: &Input| {
        let label = |name: &str| input.labels.iter().find(|(label, _)| label == name);
        match (label("k8s_namespace"), label("k8s_pod_name")) {
            (Some((_, namespace)), Some((_, pod))) => format!("{namespace}/{pod}"),
            _ => "metrics-proxy".to_owned(),
        }
    };
    let inputs = conflict.inputs.iter().filter_map(|input| inputs.get(*input));
    ConflictReport {
        pods: inputs.map(pod).collect(),
        family: conflict.family,
        kind: conflict.kind.as_str().to_owned(),
        detail: conflict.detail,
    }
}
