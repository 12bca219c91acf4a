//! The fan-out: for one request, scrapes every target once, in parallel and with a deadline.
//!
//! Shell. The scrapes of a request are tasks of its own set, so dropping the request cancels them. Requests that
//! overlap share only connections, buffers and limits.

mod body;
mod buffer_pool;
mod client;
mod deadline;
mod error;
mod memory_budget;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

pub use buffer_pool::BufferPool;
pub use client::ClientError;
pub use deadline::{WriteTimes, fan_out_time};
pub use error::ScrapeError;
pub use memory_budget::MemoryBudget;

use crate::config;
use crate::targets::{Scheme, Target};
use client::TargetClient;
use exposition::{Exposition, Limits, OutputFormat, Pool};

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
    /// Free body buffers. The server returns a response's buffers when the response is written.
    pub buffers: Arc<BufferPool>,
    /// The parser's and the merger's memory, reused between scrapes.
    pub pool: Pool,
}

impl Scraper {
    /// Prepares the client.
    ///
    /// # Errors
    /// If the certificate authorities cannot be read.
    pub fn try_new(settings: &config::Scrape) -> Result<Self, ClientError> {
        Ok(Self {
            client: TargetClient::try_new(settings)?,
            limits: Limits {
                max_samples: settings.max_samples,
                max_labels: settings.max_labels,
                max_label_name_length: settings.max_label_name_length,
                max_label_value_length: settings.max_label_value_length,
            },
            slots: Arc::new(Semaphore::new(settings.max_concurrent)),
            buffers: Arc::default(),
            pool: Pool::default(),
            settings: settings.clone(),
        })
    }

    /// Scrapes every target once, in parallel, until `deadline`. Returns one outcome per target, in the given order.
    pub async fn fan_out(
        self: &Arc<Self>,
        targets: &[Arc<Target>],
        answer: &OutputFormat,
        deadline: Instant,
    ) -> Vec<ScrapeOutcome> {
        let started = Instant::now();
        let time = deadline.saturating_duration_since(started);
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
                let scrape = scraper.scrape(&target, index, &memory_budget, accept, deadline);
                let result = timeout_at(deadline.into(), scrape)
                    .await
                    .unwrap_or(Err(ScrapeError::Deadline(time)));
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
                        self.buffers.release(exposition.into_body());
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
        deadline: Instant,
    ) -> Result<Exposition, ScrapeError> {
        let response = self
            .client
            .send(request(target, accept, deadline)?)
            .await
            .map_err(|error| {
                if error.is_connect() {
                    ScrapeError::Connect(error)
                } else {
                    ScrapeError::Request(error)
                }
            })?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(ScrapeError::Redirect(status)),
            status => return Err(ScrapeError::Status(status)),
        }
        self.read(response, index, memory_budget).await
    }

    /// Reads, decompresses and parses a body. A slot is occupied only from here on, not while waiting for the first byte.
    async fn read(
        &self,
        response: http::Response<Incoming>,
        index: usize,
        memory_budget: &MemoryBudget,
    ) -> Result<Exposition, ScrapeError> {
        let limit_bytes = self.settings.max_body_bytes;
        // Prometheus decodes exactly this value. With any other value, it parses the body as it is.
        let gzip = response
            .headers()
            .get(http::header::CONTENT_ENCODING)
            .is_some_and(|value| value == "gzip");
        let content_type = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let mut slot = Some(self.slots.acquire().await.expect("the semaphore is never closed"));
        let mut reading = std::pin::pin!(body::read(
            response.into_body(),
            limit_bytes,
            &self.buffers,
            memory_budget
        ));
        let raw = tokio::select! {
            raw = &mut reading => raw?,
            () = tokio::time::sleep(SLOT_TIME) => {
                slot = None;
                reading.await?
            }
        };
        let decode_and_parse = {
            let (limits, buffers, pool) = (self.limits, Arc::clone(&self.buffers), self.pool.clone());
            let inline = raw.len()
                < if gzip {
                    INLINE_GUNZIP_BYTES
                } else {
                    INLINE_PARSE_BYTES
                };
            let work = move || -> Result<Exposition, ScrapeError> {
                let raw = if gzip {
                    body::gunzip(raw, limit_bytes, &buffers)?
                } else {
                    raw
                };
                pool.parse(raw, content_type.as_deref(), &limits)
                    .map_err(ScrapeError::Refused)
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
            self.buffers.release(exposition.into_body());
            Err(ScrapeError::MemoryBudget {
                limit_bytes: self.settings.max_held_bytes,
            })
        }
    }
}

fn request(
    target: &Target,
    accept: HeaderValue,
    deadline: Instant,
) -> Result<Request<http_body_util::Empty<bytes::Bytes>>, ScrapeError> {
    let scheme = match target.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let authority = target.address.to_string();
    let invalid = |e: http::Error| ScrapeError::Request(ClientError::Invalid(e));
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority.as_str())
        .path_and_query(target.path_and_query.as_str())
        .build()
        .map_err(invalid)?;
    let seconds = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
    Request::get(uri)
        .header(HOST, authority)
        .header(ACCEPT, accept)
        .header(ACCEPT_ENCODING, "gzip")
        .header(USER_AGENT, concat!("metrics-proxy/", env!("CARGO_PKG_VERSION")))
        .header(&TIMEOUT_HEADER, format!("{seconds:.3}"))
        .body(http_body_util::Empty::new())
        .map_err(invalid)
}
