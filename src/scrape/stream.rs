//! The connection to a target as a stream of bytes: plain or TLS, and metered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The largest head of a response, with all informational (1xx) responses before it. Go accepts 10 MB.
pub(super) const MAX_HEAD_BYTES: usize = 1 << 20;

/// The most bytes of one read. hyper doubles its read buffer whenever a read fills it, up to [`MAX_HEAD_BYTES`]. Reads
/// of just under 16 KiB keep it at that size; each idle connection keeps its buffer, and there are thousands of them.
const MAX_READ_BYTES: usize = (16 << 10) - 1;

/// Counts what arrives on a connection, and bounds the head of a response.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Bytes since the latest request.
    received: AtomicU64,
    reading_head: AtomicBool,
    head_too_large: AtomicBool,
    tls_record: AtomicBool,
}

impl Meter {
    /// A request is about to be sent.
    pub(super) fn begin_request(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.reading_head.store(true, Ordering::Relaxed);
    }

    /// The head of the response is complete.
    pub(super) fn end_head(&self) {
        self.reading_head.store(false, Ordering::Relaxed);
    }

    /// Returns whether not a single byte of the response has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.received.load(Ordering::Relaxed) == 0
    }

    /// Returns whether the connection was given up because of [`MAX_HEAD_BYTES`].
    pub(super) fn head_too_large(&self) -> bool {
        self.head_too_large.load(Ordering::Relaxed)
    }

    /// Returns whether the response begins as a record of TLS does: a handshake message or an alert.
    pub(super) fn began_with_tls_record(&self) -> bool {
        self.tls_record.load(Ordering::Relaxed)
    }

    fn add(&self, received: &[u8]) -> io::Result<()> {
        let bytes = received.len();
        if self.is_empty() {
            let is_record = matches!(received, [0x15 | 0x16, 3, ..]);
            self.tls_record.store(is_record, Ordering::Relaxed);
        }
        let all = self.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if self.reading_head.load(Ordering::Relaxed) && all > (MAX_HEAD_BYTES + MAX_READ_BYTES) as u64 {
            self.head_too_large.store(true, Ordering::Relaxed);
            return Err(io::Error::other("the head of the response is too large"));
        }
        Ok(())
    }
}

/// A stream to a target.
#[derive(Debug)]
pub(super) struct TargetStream {
    transport: Transport,
    meter: Arc<Meter>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl TargetStream {
    pub(super) fn plain(stream: TcpStream, meter: Arc<Meter>) -> Self {
        Self {
            transport: Transport::Plain(stream),
            meter,
        }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, meter: Arc<Meter>) -> Self {
        Self {
            transport: Transport::Tls(Box::new(stream)),
            meter,
        }
    }
}

impl AsyncRead for TargetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A view of uninitialized memory would need `unsafe` to be marked as filled. Clearing 16 KiB costs less than a
        // microsecond, far less than the read.
        let length = buffer.remaining().min(MAX_READ_BYTES);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(length));
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, &mut part),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, &mut part),
        };
        std::task::ready!(read)?;
        let bytes = part.filled().len();
        buffer.advance(bytes);
        let start = buffer.filled().len() - bytes;
        Poll::Ready(self.meter.add(&buffer.filled()[start..]))
    }
}

impl AsyncWrite for TargetStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
