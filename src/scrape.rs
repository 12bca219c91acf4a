//! The fan-out: for one request, scrapes every target once, in parallel and with a deadline.
//!
//! Shell. The scrapes of a request are tasks of its own set, so dropping the request cancels them. Requests that
//! overlap share only connections, buffers and limits.

mod body;
mod client;
mod connect;
mod connection;
mod content;
mod deadline;
mod error;
mod memory_budget;
mod progress;
mod redirect;
mod sockets;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

pub use client::ClientError;
pub use deadline::{Deadline, TimeLimit, WriteTimes};
pub use error::{Asked, ScrapeError};
pub use memory_budget::MemoryBudget;
pub use progress::Step;

use crate::config;
use crate::targets::Target;
use crate::tls::TlsError;
use client::{TargetClient, TargetResponse};
use connection::Destination;
use content::NotMetrics;
use exposition::{Exposition, Limits, OutputFormat, Pool, RejectionKind};
use progress::Progress;
use redirect::Redirect;

/// The header in which a scraper sends its timeout.
pub static TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// How long reading a body may occupy one of the `--max-concurrent-scrapes` slots. A slower target continues without a
/// slot, so that slow targets, however many there are, do not delay the others.
const SLOT_TIME: Duration = Duration::from_millis(250);

/// Larger bodies are decompressed and parsed on the blocking pool. Parsing takes about 50 ns per sample, so this keeps
/// the work of an I/O task between two awaits below a millisecond.
const INLINE_PARSE_BYTES: usize = 128 << 10;

/// The same limit for compressed bodies, which usually become ten times as large.
const INLINE_GUNZIP_BYTES: usize = 12 << 10;

/// The result of scraping one target for one request.
#[derive(Debug)]
pub struct ScrapeOutcome {
    /// The target.
    pub target: Arc<Target>,
    /// The parsed body, or the error.
    pub result: Result<Exposition, ScrapeError>,
    /// The time from the request to the end of the parse, or to the failure.
    pub duration: Duration,
}

/// Scrapes targets. There is one per process.
#[derive(Debug)]
pub struct Scraper {
    client: TargetClient,
    settings: config::Scrape,
    limits: Limits,
    slots: Arc<Semaphore>,
    /// Memory for bodies, parser and responses, reused between scrapes. The server returns a response's buffers when the
    /// response is written.
    pub pool: Pool,
}

impl Scraper {
    /// Prepares the client.
    ///
    /// # Errors
    /// If the certificate authorities cannot be read.
    pub fn try_new(settings: &config::Scrape) -> Result<Self, TlsError> {
        Ok(Self {
            client: TargetClient::try_new(settings)?,
            limits: Limits {
                max_samples: settings.max_samples,
                max_labels: settings.max_labels,
                max_label_name_length: settings.max_label_name_length,
                max_label_value_length: settings.max_label_value_length,
                // There is no flag for it yet.
                max_families: 0,
            },
            slots: Arc::new(Semaphore::new(settings.max_concurrent)),
            // More bodies are never in memory at a time, so that more buffers are never needed.
            pool: Pool::new(usize::try_from(settings.max_held_bytes).unwrap_or(usize::MAX)),
            settings: settings.clone(),
        })
    }

    /// Scrapes every target once, in parallel, until `deadline`. Returns one outcome per target, in the given order.
    pub async fn fan_out(
        self: &Arc<Self>,
        targets: &[Arc<Target>],
        answer: &OutputFormat,
        deadline: Deadline,
    ) -> Vec<ScrapeOutcome> {
        let started = Instant::now();
        let after = deadline.at.saturating_duration_since(started);
        self.client.prune();
        let memory_budget = Arc::new(MemoryBudget::new(self.settings.max_held_bytes));
        let accept = HeaderValue::from_str(&answer.target_accept())
            .expect("the generated Accept header has only visible ASCII characters");
        let mut tasks = JoinSet::new();
        for (index, target) in targets.iter().enumerate() {
            let (scraper, target, memory_budget, accept) = (
                Arc::clone(self),
                Arc::clone(target),
                Arc::clone(&memory_budget),
                accept.clone(),
            );
            tasks.spawn(async move {
                let progress = Progress::default();
                let scrape = scraper.scrape(&target, index, &memory_budget, accept, deadline, &progress);
                let result = timeout_at(deadline.at.into(), scrape).await.unwrap_or_else(|_| {
                    Err(ScrapeError::Deadline {
                        after,
                        limit: deadline.limit,
                        step: progress.step(),
                        asked: Asked::from(&*target),
                    })
                });
                (index, result, started.elapsed())
            });
        }
        let mut outcomes: Vec<Option<ScrapeOutcome>> = targets.iter().map(|_| None).collect();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((index, result, duration)) => {
                    outcomes[index] = Some(ScrapeOutcome {
                        target: Arc::clone(&targets[index]),
                        result,
                        duration,
                    });
                }
                Err(error) => tracing::error!(%error, "Cannot finish a scrape"),
            }
            // The largest bodies are freed as soon as the sum exceeds the limit and not at the end, so that memory stays
            // bounded.
            for index in memory_budget.drain_refused() {
                if let Some(outcome) = &mut outcomes[index] {
                    let error = ScrapeError::MemoryBudget {
                        limit_bytes: self.settings.max_held_bytes,
                    };
                    if let Ok(exposition) = std::mem::replace(&mut outcome.result, Err(error)) {
                        self.pool.release(exposition.into_body());
                    }
                }
            }
        }
        let lost = |target: &Arc<Target>| ScrapeOutcome {
            target: Arc::clone(target),
            result: Err(ScrapeError::Lost),
            duration: started.elapsed(),
        };
        outcomes
            .into_iter()
            .zip(targets)
            .map(|(outcome, target)| outcome.unwrap_or_else(|| lost(target)))
            .collect()
    }

    async fn scrape(
        &self,
        target: &Target,
        index: usize,
        memory_budget: &MemoryBudget,
        accept: HeaderValue,
        deadline: Deadline,
        progress: &Progress,
    ) -> Result<Exposition, ScrapeError> {
        let mut response = self.request(target, accept, deadline, progress).await?;
        let status = response.head.status;
        if status != StatusCode::OK {
            let body = content::excerpt(&body::read_start(&mut response).await);
            return Err(ScrapeError::Status { status, body });
        }
        self.read(response, index, memory_budget, progress).await
    }

    /// Sends the request, and follows redirects within the target's address.
    async fn request(
        &self,
        target: &Target,
        accept: HeaderValue,
        deadline: Deadline,
        progress: &Progress,
    ) -> Result<TargetResponse<'_>, ScrapeError> {
        let mut destination = Destination {
            scheme: target.scheme,
            address: target.address,
        };
        let failed = |error| ScrapeError::Request(Asked::from(target), error);
        let mut path = PathAndQuery::try_from(target.path_and_query.as_str())
            .map_err(|error| failed(ClientError::Invalid(error.into())))?;
        let mut n_redirects = 0;
        loop {
            let request = request(destination, &path, accept.clone(), deadline)
                .map_err(|error| failed(ClientError::Invalid(error)))?;
            let response = self
                .client
                .get(destination, request, progress)
                .await
                .map_err(failed)?;
            let status = response.head.status;
            if !redirect::is_redirect(status) {
                return Ok(response);
            }
            let location = response
                .head
                .headers
                .get(LOCATION)
                .map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
            let Some(location) = location else {
                return Err(ScrapeError::RedirectUnusable {
                    status,
                    location: None,
                });
            };
            let shown = content::excerpt(location.as_bytes());
            let resolved = redirect::resolve(destination, &path, &location);
            drain(response).await;
            match resolved {
                Redirect::Same(..) if n_redirects == redirect::MAX_REDIRECTS => {
                    let location = Some(shown);
                    return Err(ScrapeError::RedirectUnusable { status, location });
                }
                Redirect::Same(to, new_path) => {
                    (destination, path) = (to, new_path);
                    n_redirects += 1;
                }
                Redirect::Elsewhere => {
                    return Err(ScrapeError::RedirectElsewhere {
                        status,
                        location: shown,
                    });
                }
                Redirect::Unusable => {
                    return Err(ScrapeError::RedirectUnusable {
                        status,
                        location: None,
                    });
                }
            }
        }
    }

    /// Reads, decompresses and parses a body. A slot is occupied only from here on, not while waiting for the first
    /// byte.
    async fn read(
        &self,
        mut response: TargetResponse<'_>,
        index: usize,
        memory_budget: &MemoryBudget,
        progress: &Progress,
    ) -> Result<Exposition, ScrapeError> {
        let limit_bytes = self.settings.max_body_bytes;
        let headers = &response.head.headers;
        // Prometheus decodes exactly this value. With any other value, it parses the body as it is.
        let gzip = headers
            .get(http::header::CONTENT_ENCODING)
            .is_some_and(|value| value == "gzip");
        let content_type = headers
            .get(http::header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut slot = Some(self.slots.acquire().await.expect("the semaphore is never closed"));
        progress.set(Step::Body);
        let raw = {
            let mut reading =
                std::pin::pin!(body::read(&mut response, limit_bytes, &self.pool, memory_budget));
            tokio::select! {
                raw = &mut reading => raw?,
                () = tokio::time::sleep(SLOT_TIME) => {
                    slot = None;
                    reading.await?
                }
            }
        };
        response.release();
        progress.set(Step::Parse);
        let decode_and_parse = {
            let (limits, pool) = (self.limits, self.pool.clone());
            let inline = raw.len()
                < if gzip {
                    INLINE_GUNZIP_BYTES
                } else {
                    INLINE_PARSE_BYTES
                };
            let work = move || -> Result<Exposition, ScrapeError> {
                let raw = if gzip {
                    body::gunzip(raw, limit_bytes, &pool)?
                } else {
                    raw
                };
                parse(raw, content_type.as_deref(), &limits, &pool)
            };
            if inline {
                work()
            } else {
                tokio::task::spawn_blocking(work)
                    .await
                    .unwrap_or(Err(ScrapeError::Lost))
            }
        };
        drop(slot);
        let exposition = decode_and_parse?;
        if memory_budget.add(index, exposition.n_budget_bytes() as u64) {
            Ok(exposition)
        } else {
            self.pool.release(exposition.into_body());
            Err(ScrapeError::MemoryBudget {
                limit_bytes: self.settings.max_held_bytes,
            })
        }
    }
}

/// Parses a body. If that fails, the start of the body often tells more than the faulty line.
fn parse(
    body: Vec<u8>,
    content_type: Option<&str>,
    limits: &Limits,
    pool: &Pool,
) -> Result<Exposition, ScrapeError> {
    let start = body[..body.len().min(content::MAX_START_BYTES)].to_vec();
    pool.parse(body, content_type, limits).map_err(|refusal| {
        let syntax = matches!(refusal.kind, RejectionKind::Parse | RejectionKind::Protobuf);
        match NotMetrics::detect(content_type, &start) {
            Some(found) if syntax => ScrapeError::NotMetrics(found),
            _ => ScrapeError::Refused(refusal),
        }
    })
}

/// Reads the short body of a redirect, so that its connection can be used for the next request.
async fn drain(mut response: TargetResponse<'_>) {
    const MAX_DRAINED_BYTES: u64 = 2 << 10;
    if response
        .content_length()
        .is_none_or(|bytes| bytes > MAX_DRAINED_BYTES)
    {
        return;
    }
    loop {
        match response.chunk().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => return response.release(),
        }
    }
}

fn request(
    destination: Destination,
    path: &PathAndQuery,
    accept: HeaderValue,
    deadline: Deadline,
) -> Result<Request<http_body_util::Empty<bytes::Bytes>>, http::Error> {
    let seconds = deadline.remaining().as_secs_f64();
    Request::get(path.as_str())
        .header(HOST, destination.address.to_string())
        .header(USER_AGENT, concat!("metrics-proxy/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, accept)
        .header(ACCEPT_ENCODING, "gzip")
        .header(&TIMEOUT_HEADER, format!("{seconds:.3}"))
        .body(http_body_util::Empty::new())
}
