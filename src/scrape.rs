//! The fan-out: for one request, scrapes every target once, in parallel and with a deadline.
//!
//! Shell. The scrapes of a request are tasks of its own set, so dropping the request cancels them. Requests that
//! overlap share only connections, buffers and limits.

mod body;
mod cgroup;
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
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

pub use client::ClientError;
pub use deadline::{Deadline, TimeLimit, WriteTimes};
pub use error::{Asked, ScrapeError};
pub use memory_budget::{Charge, MemoryBudget, OverBudget};
pub use progress::Step;
pub use work::{Cancel, CancelOnDrop};

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

/// The share of the memory budget that reusable memory may occupy between two scrapes: an eighth. Another eighth is for
/// what the account does not see: read buffers of connections, and what the allocator keeps.
const POOLED_SHARE: u64 = 8;

/// The memory of the index for each line of a body, as an estimate before the body is parsed.
const INDEX_BYTES_PER_LINE: u64 = 32;

/// Bodies that are larger after decompression are parsed on the blocking pool. Parsing takes about 50 ns per sample, so this keeps
/// the work of an I/O task between two awaits below a millisecond.
const INLINE_PARSE_BYTES: usize = 128 << 10;

/// Larger compressed bodies are decompressed on the blocking pool. Smaller ones are tried on the I/O task, which stops
/// at [`INLINE_PARSE_BYTES`]: a target can reach a thousandfold.
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
    /// What it occupies in the memory account. To be kept until the response is written.
    pub charge: Option<Arc<Charge>>,
}

/// What belongs to one scrape beside its target.
struct Scrape {
    deadline: Deadline,
    accept: HeaderValue,
    progress: Progress,
    charge: Arc<Charge>,
}

/// Scrapes targets. There is one per process.
#[derive(Debug)]
pub struct Scraper {
    client: TargetClient,
    settings: config::Scrape,
    limits: Limits,
    slots: Arc<Semaphore>,
    /// One permit for each CPU, for bodies that are decompressed or parsed outside of the I/O tasks.
    cpus: Arc<Semaphore>,
    memory: MemoryBudget,
    /// Memory that is reused between scrapes. The server returns the bodies of a response when it is written.
    pub pool: Pool,
}

impl Scraper {
    /// Prepares the client.
    ///
    /// # Errors
    /// If the certificate authorities cannot be read.
    pub fn try_new(settings: &config::Scrape) -> Result<Self, TlsError> {
        let budget_bytes = settings
            .memory_budget
            .unwrap_or_else(cgroup::default_budget_bytes);
        // Memory that is kept for the next scrape is part of the budget.
        let pooled_bytes = budget_bytes / POOLED_SHARE;
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
            cpus: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(2, usize::from),
            )),
            pool: Pool::new(usize::try_from(pooled_bytes).unwrap_or(usize::MAX)),
            memory: MemoryBudget::new(budget_bytes - 2 * pooled_bytes),
            settings: settings.clone(),
        })
    }

    /// Scrapes every target once, in parallel, until `deadline`. Returns one outcome per target, in the given order.
    pub async fn fan_out(
        self: &Arc<Self>,
        targets: &[Arc<Target>],
        format: &OutputFormat,
        deadline: Deadline,
    ) -> Vec<ScrapeOutcome> {
        let started = Instant::now();
        let after = deadline.at.saturating_duration_since(started);
        self.client.prune();
        let refused = Arc::new(Notify::new());
        let accept = HeaderValue::from_str(&format.target_accept())
            .expect("the generated Accept header has only visible ASCII characters");
        let mut tasks = JoinSet::new();
        for (index, target) in targets.iter().enumerate() {
            let (scraper, target) = (Arc::clone(self), Arc::clone(target));
            let scrape = Scrape {
                deadline,
                accept: accept.clone(),
                progress: Progress::default(),
                charge: Arc::new(self.memory.open(&refused)),
            };
            tasks.spawn(async move {
                let limited = timeout_at(deadline.at.into(), scraper.scrape(&target, &scrape));
                let result = tokio::select! {
                    biased;
                    over = scrape.charge.refused() => Err(over.into()),
                    result = limited => result.unwrap_or_else(|_| {
                        Err(ScrapeError::Deadline {
                            after,
                            limit: deadline.limit,
                            step: scrape.progress.step(),
                            asked: Asked::from(&*target),
                        })
                    }),
                };
                // A failed scrape gives its part of the account back at once.
                let charge = result.is_ok().then_some(scrape.charge);
                let duration = started.elapsed();
                (
                    index,
                    ScrapeOutcome {
                        target,
                        result,
                        duration,
                        charge,
                    },
                )
            });
        }
        let mut outcomes: Vec<Option<ScrapeOutcome>> = targets.iter().map(|_| None).collect();
        loop {
            tokio::select! {
                biased;
                // A scrape that is refused after its end is freed here, while others are still in progress.
                () = refused.notified() => {
                    for outcome in outcomes.iter_mut().flatten() {
                        if outcome.charge.as_ref().is_some_and(|charge| charge.is_refused()) {
                            self.refuse(outcome);
                        }
                    }
                }
                joined = tasks.join_next() => match joined {
                    Some(Ok((index, outcome))) => outcomes[index] = Some(outcome),
                    Some(Err(error)) => tracing::error!(%error, "Cannot finish a scrape"),
                    None => break,
                },
            }
        }
        // From here on these bodies are part of a response, and the scrapes of other requests must fit beside them.
        for outcome in outcomes.iter_mut().flatten() {
            if outcome
                .charge
                .as_ref()
                .is_some_and(|charge| charge.commit().is_err())
            {
                self.refuse(outcome);
            }
        }
        let lost = |target: &Arc<Target>| ScrapeOutcome {
            target: Arc::clone(target),
            result: Err(ScrapeError::Lost),
            duration: started.elapsed(),
            charge: None,
        };
        outcomes
            .into_iter()
            .zip(targets)
            .map(|(outcome, target)| outcome.unwrap_or_else(|| lost(target)))
            .collect()
    }

    /// Frees the body of a scrape that is too expensive.
    fn refuse(&self, outcome: &mut ScrapeOutcome) {
        let limit_bytes = self.memory.limit_bytes();
        let error = ScrapeError::MemoryBudget { limit_bytes };
        if let Ok(exposition) = std::mem::replace(&mut outcome.result, Err(error)) {
            self.pool.release(exposition.into_body());
        }
        outcome.charge = None;
    }

    async fn scrape(&self, target: &Target, scrape: &Scrape) -> Result<Exposition, ScrapeError> {
        let mut response = self.request(target, scrape).await?;
        let status = response.head.status;
        if status != StatusCode::OK {
            let body = content::excerpt(&body::read_start(&mut response).await);
            return Err(ScrapeError::Status { status, body });
        }
        self.read(response, scrape).await
    }

    /// Sends the request, and follows redirects within the target's address.
    async fn request(&self, target: &Target, scrape: &Scrape) -> Result<TargetResponse<'_>, ScrapeError> {
        let mut destination = Destination {
            scheme: target.scheme,
            address: target.address,
        };
        let failed = |error| ScrapeError::Request(Asked::from(target), error);
        let mut path = PathAndQuery::try_from(target.path_and_query.as_str())
            .map_err(|error| failed(ClientError::Invalid(error.into())))?;
        let mut n_redirects = 0;
        loop {
            let request = request(destination, &path, scrape.accept.clone(), scrape.deadline)
                .map_err(|error| failed(ClientError::Invalid(error)))?;
            let response = self
                .client
                .get(destination, request, &scrape.progress)
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
        scrape: &Scrape,
    ) -> Result<Exposition, ScrapeError> {
        let headers = &response.head.headers;
        // Prometheus decodes exactly this value. With any other value, it parses the body as it is.
        let gzip = headers
            .get(http::header::CONTENT_ENCODING)
            .is_some_and(|value| value == "gzip");
        let content_type = headers
            .get(http::header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        scrape.progress.set(Step::Body);
        let raw = {
            let limit_bytes = self.settings.max_body_bytes;
            let reading = body::read(&mut response, limit_bytes, &self.pool, &scrape.charge);
            let mut reading = std::pin::pin!(reading);
            tokio::select! {
                raw = &mut reading => raw?,
                () = tokio::time::sleep(SLOT_TIME) => {
                    drop(slot);
                    reading.await?
                }
            }
        };
        response.release();
        scrape.progress.set(Step::Parse);
        // If this future is dropped, work on a thread stops at its next step. It keeps its charge until then.
        let guard = CancelOnDrop::default();
        let job = Job {
            limit_bytes: self.settings.max_body_bytes,
            limits: self.limits,
            content_type,
            pool: self.pool.clone(),
            charge: Arc::clone(&scrape.charge),
            cancel: guard.flag(),
            on_thread: false,
        };
        self.decode(raw, gzip, job).await
    }

    /// Decompresses and parses a body: a small one here, a large one on a thread with a permit for a CPU.
    async fn decode(&self, raw: Vec<u8>, gzip: bool, mut job: Job) -> Result<Exposition, ScrapeError> {
        if !gzip && raw.len() < INLINE_PARSE_BYTES {
            return job.parse(raw);
        }
        if gzip && raw.len() < INLINE_GUNZIP_BYTES {
            let inline_bytes = job.limit_bytes.min(INLINE_PARSE_BYTES as u64);
            match job.gunzip(&raw, inline_bytes) {
                Err(ScrapeError::TooLarge { limit_bytes }) if limit_bytes < job.limit_bytes => {}
                decompressed => {
                    let body = decompressed?;
                    job.release(raw);
                    return job.parse(body);
                }
            }
        }
        let permit = Arc::clone(&self.cpus)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        job.on_thread = true;
        let work = move || {
            let _permit = permit;
            if !gzip {
                return job.parse(raw);
            }
            let body = job.gunzip(&raw, job.limit_bytes)?;
            job.release(raw);
            job.parse(body)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(ScrapeError::Lost))
    }
}

/// What is needed to decompress and parse one body.
struct Job {
    limit_bytes: u64,
    limits: Limits,
    content_type: Option<String>,
    pool: Pool,
    charge: Arc<Charge>,
    cancel: Cancel,
    /// Whether it runs on a thread that may wait, and not on an I/O task.
    on_thread: bool,
}

impl Job {
    fn gunzip(&self, compressed: &[u8], limit_bytes: u64) -> Result<Vec<u8>, ScrapeError> {
        let grow = |bytes| self.grow(bytes);
        body::gunzip(compressed, limit_bytes, &self.pool, &grow, &self.cancel)
            .inspect_err(|(made, _)| self.charge.shrink(*made))
            .map_err(|(_, error)| error)
    }

    fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        if self.on_thread {
            self.charge.grow_blocking(bytes)
        } else {
            self.charge.grow(bytes)
        }
    }

    /// Gives the compressed bytes back.
    fn release(&self, compressed: Vec<u8>) {
        self.charge.shrink(compressed.len() as u64);
        self.pool.release(compressed);
    }

    fn parse(&self, body: Vec<u8>) -> Result<Exposition, ScrapeError> {
        if self.cancel.is_cancelled() {
            // Nobody reads this error.
            return Err(ScrapeError::Lost);
        }
        let n_lines = memchr::memchr_iter(b'\n', &body).count() as u64;
        self.grow(n_lines * INDEX_BYTES_PER_LINE)?;
        let exposition = parse(body, self.content_type.as_deref(), &self.limits, &self.pool)?;
        self.charge.set(exposition.n_budget_bytes() as u64)?;
        Ok(exposition)
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
