//! One connection to a target, and the pool of idle ones.
//!
//! A connection has no task of its own: whoever waits for a response also drives the connection. That saves a task and
//! a wake-up for each frame, and dropping a scrape closes its connection at once. An idle connection is therefore
//! checked when it is used again.

use std::collections::HashMap;
use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::task::noop_waker_ref;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::sockets::SocketPermit;
use super::stream::{Meter, TargetStream};
use crate::targets::Scheme;

/// Idle connections are kept for longer than the usual scrape intervals of up to one minute.
const MAX_IDLE_TIME: Duration = Duration::from_secs(90);

/// Two, because two scrapers may scrape at the same time.
const MAX_IDLE_PER_TARGET: usize = 2;

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
}

/// An open connection.
pub(super) struct Connection {
    destination: Destination,
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` when the connection has ended.
    driver: Option<http1::Connection<TokioIo<TargetStream>, Empty<Bytes>>>,
    meter: Arc<Meter>,
    /// See [`Connector::generation`](super::connect::Connector::generation).
    generation: u64,
    _socket: SocketPermit,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins HTTP on a stream.
    pub(super) async fn begin(
        http: &http1::Builder,
        stream: TargetStream,
        meter: Arc<Meter>,
        destination: Destination,
        generation: u64,
        socket: SocketPermit,
    ) -> hyper::Result<Self> {
        let (sender, driver) = http.handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            destination,
            sender,
            driver: Some(driver),
            meter,
            generation,
            _socket: socket,
        })
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.meter.begin_request();
        let mut response = pin!(self.sender.send_request(request));
        let driver = &mut self.driver;
        let response = std::future::poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response);
            }
            drive(driver, cx);
            response.as_mut().poll(cx)
        })
        .await;
        self.meter.end_head();
        response
    }

    /// Waits for the next frame of the body.
    pub(super) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<hyper::Result<hyper::body::Frame<Bytes>>> {
        let driver = &mut self.driver;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            drive(driver, cx);
            Pin::new(&mut *body).poll_frame(cx)
        })
        .await
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Lets the connection finish the latest response, and notice whether the target has closed it. Returns whether it
    /// can take another request.
    fn is_reusable(&mut self) -> bool {
        let mut cx = Context::from_waker(noop_waker_ref());
        drive(&mut self.driver, &mut cx);
        self.driver.is_some() && matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

/// Drives a connection, and drops it when it has ended. Its error reaches the response or the body.
fn drive(driver: &mut Option<http1::Connection<TokioIo<TargetStream>, Empty<Bytes>>>, cx: &mut Context<'_>) {
    let ended = driver
        .as_mut()
        .is_some_and(|driver| Pin::new(driver).poll(cx).is_ready());
    if ended {
        *driver = None;
    }
}

/// Idle connections.
#[derive(Debug, Default)]
pub(super) struct ConnectionPool {
    idle: Mutex<HashMap<Destination, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl ConnectionPool {
    /// Returns an idle connection that its target has not closed, as far as this side knows.
    pub(super) fn acquire(&self, destination: Destination, generation: u64) -> Option<Connection> {
        loop {
            let mut idle = self.lock();
            let list = idle.get_mut(&destination)?;
            let found = list.pop();
            if list.is_empty() {
                idle.remove(&destination);
            }
            drop(idle);
            let Idle {
                mut connection,
                since,
            } = found?;
            if connection.generation == generation
                && since.elapsed() < MAX_IDLE_TIME
                && connection.is_reusable()
            {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back after a response, unless it cannot be used again.
    pub(super) fn release(&self, mut connection: Connection) {
        if !connection.is_reusable() {
            return;
        }
        let mut idle = self.lock();
        let list = idle.entry(connection.destination).or_default();
        if list.len() < MAX_IDLE_PER_TARGET {
            let since = Instant::now();
            list.push(Idle { connection, since });
        }
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn prune(&self) {
        self.lock().retain(|_, list| {
            list.retain_mut(|idle| idle.since.elapsed() < MAX_IDLE_TIME);
            !list.is_empty()
        });
    }

    /// Closes the connection that has been idle for the longest time. Returns whether there was one.
    pub(super) fn evict(&self) -> bool {
        let mut idle = self.lock();
        let oldest = idle
            .iter()
            .filter_map(|(destination, list)| Some((list.first()?.since, *destination)))
            .min_by_key(|(since, _)| *since);
        let Some((_, destination)) = oldest else {
            return false;
        };
        if let Some(list) = idle.get_mut(&destination) {
            list.remove(0);
            if list.is_empty() {
                idle.remove(&destination);
            }
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Destination, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
