//! One connection: what it waits for, and how long it may.
//!
//! ```text
//! Head ──request──> Busy ──response complete──> Idle ──first byte──> Head
//! ```
//!
//! hyper has one timer for the request head and for the time between requests. Here a request head has seconds, an idle
//! connection minutes, and a response as long as its handler allows.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::response::Body;

/// How long a connection may wait for its next request: as long as Prometheus keeps an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long a response may take where its handler sets no limit.
const RESPONSE_LIMIT: Duration = Duration::from_mins(1);

/// What a connection waits for.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// For the rest of a request head.
    Head { since: Instant },
    /// For the response to be complete, at `deadline` at the latest.
    Busy { deadline: Instant },
    /// For the next request.
    Idle { since: Instant },
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientTimeouts {
    /// For a request head.
    pub(super) header: Duration,
    /// Between two reads of its response.
    pub(super) write: Duration,
}

/// What the listener, the stream and the handler of one connection share.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: Mutex<Phase>,
    /// Cancelled to close the connection at once.
    pub(super) closing: CancellationToken,
}

impl ConnectionState {
    pub(super) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Head {
                since: Instant::now(),
            }),
            closing: CancellationToken::new(),
        }
    }

    /// Since when the connection waits for its client; `None` while a request is served.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        match self.phase() {
            Phase::Head { since } | Phase::Idle { since } => Some(since),
            Phase::Busy { .. } => None,
        }
    }

    /// A request head is complete. The returned guard ends the request when it is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.set(Phase::Busy {
            deadline: Instant::now() + RESPONSE_LIMIT,
        });
        RequestGuard(Arc::clone(self))
    }

    /// Limits the time of the complete response. A client that reads too slowly is disconnected then.
    pub(super) fn limit_response(&self, deadline: Instant) {
        self.set(Phase::Busy { deadline });
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

/// A request that is being served.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<ConnectionState>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.set(Phase::Idle {
            since: Instant::now(),
        });
    }
}

/// A response's body that ends its request when it is complete or dropped.
pub(super) struct GuardedBody {
    body: Body,
    _guard: RequestGuard,
}

impl GuardedBody {
    pub(super) fn new(body: Body, guard: RequestGuard) -> Self {
        Self { body, _guard: guard }
    }
}

impl hyper::body::Body for GuardedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A timer that is reset only when its deadline changes.
#[derive(Debug, Default)]
struct Timer(Option<(Instant, Pin<Box<Sleep>>)>);

impl Timer {
    /// Whether the deadline has passed; otherwise the task is woken then.
    fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some((set, _)) if *set == deadline => {}
            Some((set, sleep)) => {
                *set = deadline;
                sleep.as_mut().reset(deadline.into());
            }
            None => self.0 = Some((deadline, Box::pin(tokio::time::sleep_until(deadline.into())))),
        }
        match &mut self.0 {
            Some((_, sleep)) => sleep.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client takes too long.
#[derive(Debug)]
pub(super) struct TimedStream {
    inner: TcpStream,
    state: Arc<ConnectionState>,
    timeouts: ClientTimeouts,
    read_timer: Timer,
    write_timer: Timer,
    /// Since when the client has read nothing of a response that waits for it.
    stuck_since: Option<Instant>,
}

impl TimedStream {
    pub(super) fn new(inner: TcpStream, state: Arc<ConnectionState>, timeouts: ClientTimeouts) -> Self {
        Self {
            inner,
            state,
            timeouts,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            stuck_since: None,
        }
    }

    /// Applies the limits to the outcome of a write.
    fn limit_write(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let deadline = match self.state.phase() {
            Phase::Busy { deadline } => Some(deadline),
            Phase::Head { .. } | Phase::Idle { .. } => None,
        };
        if written.is_ready() {
            self.stuck_since = None;
            return match deadline {
                Some(deadline) if deadline <= Instant::now() => Poll::Ready(Err(too_slow(READING))),
                _ => written,
            };
        }
        let stuck_until = *self.stuck_since.get_or_insert_with(Instant::now) + self.timeouts.write;
        let limit = deadline.map_or(stuck_until, |deadline| deadline.min(stuck_until));
        ready!(self.write_timer.poll(limit, context));
        Poll::Ready(Err(too_slow(READING)))
    }
}

const READING: &str = "the client reads its response too slowly";
const SENDING: &str = "the client did not send a complete request in time";

fn too_slow(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl AsyncRead for TimedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        let limit = match this.state.phase() {
            Phase::Busy { .. } => return read,
            Phase::Head { since } => since + this.timeouts.header,
            Phase::Idle { since } => {
                if read.is_ready() && !buffer.filled().is_empty() {
                    this.state.set(Phase::Head {
                        since: Instant::now(),
                    });
                }
                since + IDLE_TIMEOUT
            }
        };
        if read.is_ready() {
            return read;
        }
        ready!(this.read_timer.poll(limit, context));
        Poll::Ready(Err(too_slow(SENDING)))
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.limit_write(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        this.limit_write(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Longer than any test may take.
    const NEVER: Duration = Duration::from_mins(10);
    const SHORT: Duration = Duration::from_millis(50);

    async fn pair(timeouts: ClientTimeouts) -> (TcpStream, TimedStream, Arc<ConnectionState>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let state = Arc::new(ConnectionState::new());
        let stream = TimedStream::new(accepted.expect("a connection").0, Arc::clone(&state), timeouts);
        (client.expect("a connection"), stream, state)
    }

    #[tokio::test]
    async fn a_client_that_sends_half_a_head_is_disconnected() {
        let timeouts = ClientTimeouts {
            header: SHORT,
            write: NEVER,
        };
        let (mut client, mut stream, state) = pair(timeouts).await;
        client.write_all(b"GET / HT").await.expect("sent");
        let mut buffer = Vec::new();
        let error = stream.read_to_end(&mut buffer).await.expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(buffer, b"GET / HT");
        assert!(state.waiting_since().is_some());
    }

    #[tokio::test]
    async fn a_client_that_trickles_is_disconnected_at_the_deadline_of_the_response() {
        let timeouts = ClientTimeouts {
            header: NEVER,
            write: NEVER,
        };
        let (mut client, mut stream, state) = pair(timeouts).await;
        let guard = state.begin_request();
        assert!(state.waiting_since().is_none());
        state.limit_response(Instant::now() + SHORT);
        let reading = tokio::spawn(async move { while client.read_u8().await.is_ok() {} });
        let block = vec![0; 64 << 10];
        let error = loop {
            if let Err(error) = stream.write_all(&block).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(guard);
        assert!(state.waiting_since().is_some());
        drop(stream);
        reading.await.expect("the client sees the end");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let timeouts = ClientTimeouts {
            header: NEVER,
            write: SHORT,
        };
        let (_client, mut stream, state) = pair(timeouts).await;
        let _guard = state.begin_request();
        let block = vec![0; 16 << 20];
        let error = stream.write_all(&block).await.expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
