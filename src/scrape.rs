//! Fan-out: one bounded, timed scrape of each target for one request.
//!
//! Shell. Each scrape is a task of the request's own set: dropping the request drops its scrapes. Overlapping
//! requests share nothing but connections, buffers and limits.

mod body;
mod budget;
mod client;
mod held;
mod pool;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

pub use budget::{WriteTimes, budget};
pub use client::ClientError;
pub use held::Held;
pub use pool::BufferPool;

use crate::config;
use crate::exposition::{Answer, Exposition, Limits, Pool, Refusal};
use crate::targets::{Scheme, Target};
use client::Client;

/// How a scraper says how long it will wait.
pub static TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// How long a body may hold one of the `--max-concurrent-scrapes` slots. A target that drips its body slower than
/// this goes on without a slot, so that any number of slow targets never keeps the others waiting.
const SLOT_TIME: Duration = Duration::from_millis(250);

/// Bodies from here on are decompressed and parsed on the blocking pool: parsing runs at some 50 ns a sample, so this
/// keeps the work between two awaits of an I/O task below a millisecond.
const INLINE_PARSE_BYTES: usize = 128 << 10;

/// The same for compressed bodies, which grow about tenfold.
const INLINE_GUNZIP_BYTES: usize = 12 << 10;

/// Why a scrape gave no samples.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] ClientError),
    /// The request was not answered properly.
    #[error("cannot read the answer")]
    Request(#[source] ClientError),
    /// Not within the budget.
    #[error("no complete answer within {:.1} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// A redirect, which is never followed: a target must not make the proxy ask elsewhere.
    #[error("answered with a redirect ({0}), which is not followed")]
    Redirect(StatusCode),
    /// Any other status than 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// The body ended early or the connection broke.
    #[error("the body broke off after {read_bytes} bytes")]
    Body {
        /// Bytes that arrived.
        read_bytes: u64,
        /// What the connection says.
        #[source]
        source: hyper::Error,
    },
    /// Not what its Content-Encoding says.
    #[error("the body is not valid gzip")]
    Gzip(#[source] std::io::Error),
    /// Larger than one body may be.
    #[error("the body exceeds {limit_bytes} bytes; raise --max-body-bytes or reduce what the target exposes")]
    TooLarge {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// Among the largest of an answer whose bodies are too large in all.
    #[error(
        "all bodies together exceed {limit_bytes} bytes and this is among the largest; raise --max-held-bytes or use shards"
    )]
    Held {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// Not an exposition, or over one of its limits.
    #[error("{0}")]
    Refused(Refusal),
    /// While the scrape ran, its address went over to another pod.
    #[error("the pod lost its address while it was scraped")]
    Moved,
    /// A bug: the scrape's task ended without a result.
    #[error("the scrape ended without a result; please report this")]
    Lost,
}

impl ScrapeError {
    /// A stable word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Request(_) => "request",
            Self::Deadline(_) => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Body { .. } => "body",
            Self::Gzip(_) => "gzip",
            Self::TooLarge { .. } => "body_bytes",
            Self::Held { .. } => "held_bytes",
            Self::Refused(refusal) => refusal.kind.as_str(),
            Self::Moved => "moved",
            Self::Lost => "internal",
        }
    }
}

/// What became of one target in one request.
#[derive(Debug)]
pub struct Outcome {
    /// The target.
    pub target: Arc<Target>,
    /// Its body, parsed, or why there is none.
    pub result: Result<Exposition, ScrapeError>,
    /// From the request to the end of the parse, or to the failure.
    pub duration: Duration,
}

/// Scrapes targets. One per process; cheap to share.
#[derive(Debug)]
pub struct Scraper {
    client: Client,
    settings: config::Scrape,
    limits: Limits,
    slots: Arc<Semaphore>,
    /// Bodies between scrapes; the server gives them back once an answer is out.
    pub buffers: Arc<BufferPool>,
    /// What parsing and merging need between scrapes.
    pub pool: Pool,
}

impl Scraper {
    /// Prepares the client.
    ///
    /// # Errors
    /// Where the certificate authorities cannot be read.
    pub fn try_new(settings: &config::Scrape) -> Result<Self, ClientError> {
        Ok(Self {
            client: Client::try_new(settings)?,
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

    /// Scrapes every target once, in parallel, until `deadline`. Returns one outcome a target, in the order given.
    pub async fn fan_out(
        self: &Arc<Self>,
        targets: &[Arc<Target>],
        answer: &Answer,
        deadline: Instant,
    ) -> Vec<Outcome> {
        let started = Instant::now();
        let budget = deadline.saturating_duration_since(started);
        let held = Arc::new(Held::new(self.settings.max_held_bytes));
        let accept =
            HeaderValue::from_str(&answer.target_accept()).expect("the accept header is of our own making");
        let mut tasks = JoinSet::new();
        for (index, target) in targets.iter().enumerate() {
            let (scraper, target, held, accept) = (
                Arc::clone(self),
                Arc::clone(target),
                Arc::clone(&held),
                accept.clone(),
            );
            tasks.spawn(async move {
                let scrape = scraper.scrape(&target, index, &held, accept, deadline);
                let result = timeout_at(deadline.into(), scrape)
                    .await
                    .unwrap_or(Err(ScrapeError::Deadline(budget)));
                (index, result, started.elapsed())
            });
        }
        let mut outcomes: Vec<Option<Outcome>> = targets.iter().map(|_| None).collect();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((index, result, duration)) => {
                    outcomes[index] = Some(Outcome {
                        target: Arc::clone(&targets[index]),
                        result,
                        duration,
                    });
                }
                Err(error) => tracing::error!(%error, "Cannot finish a scrape"),
            }
            // The largest bodies go as soon as the sum is over, not at the end: memory stays bounded throughout.
            for index in held.take_refused() {
                if let Some(outcome) = &mut outcomes[index] {
                    let error = ScrapeError::Held {
                        limit_bytes: self.settings.max_held_bytes,
                    };
                    if let Ok(exposition) = std::mem::replace(&mut outcome.result, Err(error)) {
                        self.buffers.give(exposition.into_body());
                    }
                }
            }
        }
        let lost = |target: &Arc<Target>| Outcome {
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
        held: &Held,
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
        self.read(response, index, held).await
    }

    /// Reads, decompresses and parses a body. Only from here on a slot is held: waiting for a first byte costs none.
    async fn read(
        &self,
        response: http::Response<Incoming>,
        index: usize,
        held: &Held,
    ) -> Result<Exposition, ScrapeError> {
        let limit_bytes = self.settings.max_body_bytes;
        // Prometheus decodes this spelling and no other; whatever else is parsed as it came.
        let gzip = response
            .headers()
            .get(http::header::CONTENT_ENCODING)
            .is_some_and(|value| value == "gzip");
        let content_type = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let mut slot = Some(self.slots.acquire().await.expect("the semaphore is never closed"));
        let mut reading = std::pin::pin!(body::read(response.into_body(), limit_bytes, &self.buffers, held));
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
        if held.add(index, exposition.n_budget_bytes() as u64) {
            Ok(exposition)
        } else {
            self.buffers.give(exposition.into_body());
            Err(ScrapeError::Held {
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
