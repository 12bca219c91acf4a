//! The one loop that lists and watches a kind of object, in one namespace or in all.
//!
//! kube-runtime's watcher is not used because it never falls back (from a streaming to a paged list, from watching to
//! listing), repeats some failures for ever with the same resource version, and hides bookmarks, which are the only
//! proof that a silent watch is alive. The requests and their decoding are kube's.
//!
//! Each attempt starts at a [`Position`] and stops with an [`End`]. [`after`], a pure function, says from both where the
//! next attempt starts and how long to wait for it.

mod restart;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use kube::Resource as _;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use restart::GOOD_LIFE;
pub(super) use restart::{Attempt, End, History, Position, Restart, Streaming, after};

use super::error::{ApiError, ServerAddress};
use super::permission::{Access, Denial, Reviewer, reduction};
use crate::backoff::{Backoff, jittered};
use crate::telemetry::{DiscoveryMetrics, Telemetry};

/// A watch whose response has not begun by then is given up.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A page of a list must be complete by then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// The longest silence within the initial events of a stream. A server that does not know streaming lists never ends
/// them.
const INITIAL_SILENCE: Duration = Duration::from_secs(15);
/// The longest silence of a watch. The server sends a bookmark each minute; without one the connection may be dead, or
/// the watch may wait for a version that this server will not reach for days (etcd restored from a backup).
const SILENCE: Duration = Duration::from_secs(90);
/// Objects on one page of a list.
const PAGE: u32 = 500;
/// The server closes a watch at an age between these, in seconds. The spread keeps proxies apart that started together.
const WATCH_AGE_SECONDS: std::ops::RangeInclusive<u32> = 240..=300;
/// The wait after a server has restarted, before jitter.
const SHORT_DELAY: Duration = Duration::from_millis(200);
/// The first wait after a failed request.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest wait between requests that fail. Fifty proxies at this pace are a dozen requests a second for a server
/// that comes back, and the target set is right a few seconds after it does.
const LONGEST_DELAY: Duration = Duration::from_secs(4);

/// The configured intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) list_interval: Duration,
    pub(super) permission_interval: Duration,
    pub(super) forbidden_grace: Duration,
}

/// How a whole set was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Whether it covers one namespace instead of all.
    pub(super) is_namespaced: bool,
    /// Whether changes are watched from here on.
    pub(super) is_watched: bool,
    /// `stream` or `list`, for the metric.
    pub(super) how: &'static str,
}

/// Receives what the loop reads of one kind of object.
pub(super) trait Sink {
    /// The object as it is decoded.
    type Object: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static;
    /// What tells two objects apart.
    type Key: Ord;
    /// What is kept of an object.
    type Entry;

    /// The API of this kind, in one namespace or in all.
    fn api(&self, client: &kube::Client, namespace: Option<&str>) -> Api<Self::Object>;
    /// Group and plural of the kind.
    fn access(&self) -> Access;
    fn key(&self, object: &Self::Object) -> Self::Key;
    fn entry(&self, object: Self::Object) -> (Self::Key, Self::Entry);
    /// Replaces everything that was read before.
    fn replace(&self, entries: BTreeMap<Self::Key, Self::Entry>, reading: Reading);
    fn put(&self, key: Self::Key, entry: Self::Entry);
    fn remove(&self, key: Self::Key);
    /// What was read is correct as of now.
    fn confirm(&self);
    /// Reading fails at the moment; what was read stays in use.
    fn fail(&self, error: &ApiError, server: &ServerAddress);
    /// Reading is forbidden, or the kind does not exist; what was read is dropped.
    fn forbid(&self, reason: String);
    /// Which permission is missing; `None` where none is.
    fn set_reduction(&self, note: Option<String>);
    /// Waits until a more recent list is wanted than the last one.
    fn list_requested(&self) -> impl Future<Output = ()> + Send;
    fn telemetry(&self) -> &Arc<Telemetry>;
}

/// Why the loop has stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Neither watching nor listing is permitted; the server's words.
    Forbidden(String),
    /// The server does not know the kind.
    NotInstalled,
}

/// Lists and watches one kind of object.
pub(super) struct Watcher<S: Sink> {
    client: kube::Client,
    server: ServerAddress,
    /// The namespace that is read; none means all.
    namespace: Option<String>,
    selector: String,
    timing: Timing,
    sink: S,
    /// Whether the kind may be missing in a cluster.
    is_optional: bool,
    /// Why only one namespace is read, where all were asked for.
    scope_reduction: Option<String>,
    history: History,
    list_denial: Denial,
}

impl<S: Sink> Watcher<S> {
    /// A watcher of all namespaces; `selector` is empty where every object counts.
    pub(super) fn with_sink(
        client: kube::Client,
        server: ServerAddress,
        selector: String,
        timing: Timing,
        sink: S,
    ) -> Self {
        Self {
            client,
            server,
            namespace: None,
            selector,
            timing,
            sink,
            is_optional: false,
            scope_reduction: None,
            history: History::default(),
            list_denial: Denial::default(),
        }
    }

    /// Says that clusters without this kind are normal.
    pub(super) fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// Reads one namespace, or all, from the next run on. `reduction` says why it is not all.
    pub(super) fn set_scope(&mut self, namespace: Option<&str>, reduction: Option<String>) {
        self.namespace = namespace.map(str::to_owned);
        self.scope_reduction = reduction;
        self.history.denial = Denial::default();
        self.list_denial = Denial::default();
    }

    pub(super) fn sink(&self) -> &S {
        &self.sink
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    /// Asks the API server what is permitted, as this watcher would.
    pub(super) fn reviewer(&self, namespace: Option<&str>) -> Reviewer {
        Reviewer {
            client: self.client.clone(),
            namespace: namespace.map(str::to_owned),
            access: self.sink.access(),
            interval: self.timing.permission_interval,
            telemetry: Arc::clone(self.sink.telemetry()),
        }
    }

    fn metrics(&self) -> &DiscoveryMetrics {
        &self.sink.telemetry().discovery
    }

    /// Keeps the objects up to date until that is denied for good, or turns out to be impossible.
    pub(super) async fn run(&mut self) -> Stop {
        loop {
            if let Some(stop) = self.watch().await {
                return stop;
            }
            if let Some(stop) = self.list_until_watching_is_permitted().await {
                return stop;
            }
        }
    }

    /// Watches until that is denied for good (`None`: listing may be permitted still), or impossible.
    async fn watch(&mut self) -> Option<Stop> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut position = Position::Empty;
        self.history.start_over();
        loop {
            let started = Instant::now();
            let end = self.attempt(&mut position).await;
            let attempt = Attempt {
                end,
                lived: started.elapsed(),
                at: Instant::now(),
            };
            tracing::debug!(?attempt, ?position, "Watch ended");
            if attempt.lived >= GOOD_LIFE {
                backoff.reset();
            }
            let was_streaming = self.history.streaming;
            let restart = after(
                &attempt,
                &mut position,
                &mut self.history,
                self.timing.forbidden_grace,
            );
            let delay = match restart {
                Restart::Now => Duration::ZERO,
                Restart::Soon => jittered(SHORT_DELAY),
                Restart::Backoff => backoff.next_delay(),
                Restart::CheckDenial => self.history.denial.delay(self.timing.forbidden_grace),
                Restart::GiveUp => {
                    self.history.denial = Denial::default();
                    return None;
                }
            };
            if self.is_missing(&attempt.end) && was_streaming == Streaming::Unsupported {
                self.history.streaming = Streaming::Tried;
                return Some(Stop::NotInstalled);
            }
            self.report(&attempt.end, restart);
            tokio::time::sleep(delay).await;
        }
    }

    fn is_missing(&self, end: &End) -> bool {
        self.is_optional && matches!(end, End::Failed(ApiError::Rejected(_)))
    }

    /// Counts how an attempt ended, and records a failure that says something about the server.
    fn report(&self, end: &End, restart: Restart) {
        match end {
            End::Closed => {}
            End::Silent => self.metrics().failure("timeout"),
            End::Failed(error @ (ApiError::Expired | ApiError::Forbidden(_))) => {
                self.metrics().failure(error.metric_reason());
            }
            // The server knows no streaming lists: the next attempt does without.
            End::Failed(_) if restart == Restart::Now => {}
            End::Failed(error) => self.sink.fail(error, &self.server),
        }
    }

    /// One attempt: the whole set where there is no position to continue from, then a watch. Keeps `position` up to date.
    async fn attempt(&mut self, position: &mut Position) -> End {
        let mut params = WatchParams::default().timeout(rand::random_range(WATCH_AGE_SECONDS));
        if !self.selector.is_empty() {
            params = params.labels(&self.selector);
        }
        let mut initial = None;
        if *position == Position::Empty {
            if self.history.streaming == Streaming::Tried {
                params.send_initial_events = true;
                initial = Some(BTreeMap::new());
            } else {
                match self.list().await {
                    Ok((entries, version)) => {
                        self.sink.replace(entries, self.reading(true, "list"));
                        *position = Position::Listed(version);
                    }
                    Err(error) => return End::Failed(error),
                }
            }
        }
        let version = match &*position {
            Position::Empty => String::new(),
            Position::Listed(version) => version.clone(),
        };
        self.metrics().request("watch");
        let api = self.sink.api(&self.client, self.namespace.as_deref());
        let events = match timeout(START_LIMIT, api.watch(&params, &version)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return End::Failed(ApiError::from(&error)),
            Err(_) => return End::Failed(ApiError::Timeout(START_LIMIT)),
        };
        self.history.denial.granted();
        if initial.is_none() {
            self.set_reduction(true);
        }
        self.follow(std::pin::pin!(events), initial, position).await
    }

    /// Takes events until the watch ends. `initial` collects the initial events until the server says that it has sent
    /// them all.
    async fn follow(
        &self,
        mut events: impl Stream<Item = kube::Result<WatchEvent<S::Object>>> + Unpin,
        mut initial: Option<BTreeMap<S::Key, S::Entry>>,
        position: &mut Position,
    ) -> End {
        loop {
            let limit = if initial.is_some() {
                INITIAL_SILENCE
            } else {
                SILENCE
            };
            let event = match timeout(limit, events.next()).await {
                Err(_) => return End::Silent,
                Ok(None) => return End::Closed,
                Ok(Some(Err(error))) => return End::Failed(ApiError::from(&error)),
                Ok(Some(Ok(event))) => event,
            };
            if let Err(error) = self.take(event, &mut initial, position) {
                return End::Failed(error);
            }
        }
    }

    /// Takes one event: into `initial` while there is one, else as a change.
    fn take(
        &self,
        event: WatchEvent<S::Object>,
        initial: &mut Option<BTreeMap<S::Key, S::Entry>>,
        position: &mut Position,
    ) -> Result<(), ApiError> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.meta().resource_version.clone();
                let (key, entry) = self.sink.entry(object);
                if let Some(entries) = initial {
                    entries.insert(key, entry);
                } else {
                    position.advance(version);
                    self.sink.put(key, entry);
                }
            }
            WatchEvent::Deleted(object) => {
                let key = self.sink.key(&object);
                if let Some(entries) = initial {
                    entries.remove(&key);
                } else {
                    position.advance(object.meta().resource_version.clone());
                    self.sink.remove(key);
                }
            }
            WatchEvent::Bookmark(bookmark) => {
                let metadata = bookmark.metadata;
                let is_end = metadata.annotations.contains_key("k8s.io/initial-events-end");
                if let Some(entries) = initial.take_if(|_| is_end) {
                    self.sink.replace(entries, self.reading(true, "stream"));
                    self.set_reduction(true);
                } else if initial.is_none() {
                    self.sink.confirm();
                }
                if initial.is_none() {
                    position.advance(Some(metadata.resource_version));
                }
            }
            WatchEvent::Error(status) => return Err(ApiError::from(&*status)),
        }
        Ok(())
    }

    /// Lists again and again until watching is permitted (`None`), or listing is denied for good or impossible.
    async fn list_until_watching_is_permitted(&mut self) -> Option<Stop> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let reviewer = self.reviewer(self.namespace.as_deref());
        let permitted = reviewer.until_permitted(&["watch"]);
        tokio::pin!(permitted);
        loop {
            let delay = match self.list().await {
                Ok((entries, _)) => {
                    backoff.reset();
                    self.sink.replace(entries, self.reading(false, "list"));
                    self.set_reduction(false);
                    spread(self.timing.list_interval)
                }
                Err(error) => match self.after_failed_list(&error, &mut backoff) {
                    Ok(delay) => delay,
                    Err(stop) => return Some(stop),
                },
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.sink.list_requested() => {}
                () = &mut permitted => return None,
            }
        }
    }

    /// How long to wait after a list has failed, or why to stop.
    fn after_failed_list(&mut self, error: &ApiError, backoff: &mut Backoff) -> Result<Duration, Stop> {
        match error {
            ApiError::Forbidden(text) => {
                self.metrics().failure(error.metric_reason());
                if self
                    .list_denial
                    .lasts(Instant::now(), self.timing.forbidden_grace)
                {
                    self.list_denial = Denial::default();
                    return Err(Stop::Forbidden(text.clone()));
                }
                Ok(self.list_denial.delay(self.timing.forbidden_grace))
            }
            ApiError::Rejected(_) if self.is_optional => Err(Stop::NotInstalled),
            error => {
                self.sink.fail(error, &self.server);
                Ok(backoff.next_delay())
            }
        }
    }

    /// The whole set, page by page, and its resource version.
    async fn list(&mut self) -> Result<(BTreeMap<S::Key, S::Entry>, String), ApiError> {
        let api = self.sink.api(&self.client, self.namespace.as_deref());
        let mut entries = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        if !self.selector.is_empty() {
            params = params.labels(&self.selector);
        }
        loop {
            self.metrics().request("list");
            let page = timeout(PAGE_LIMIT, api.list(&params))
                .await
                .map_err(|_| ApiError::Timeout(PAGE_LIMIT))?;
            let page = page.map_err(|error| ApiError::from(&error))?;
            entries.extend(page.items.into_iter().map(|object| self.sink.entry(object)));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.list_denial.granted();
                return Ok((entries, page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    fn reading(&self, is_watched: bool, how: &'static str) -> Reading {
        Reading {
            is_namespaced: self.namespace.is_some(),
            is_watched,
            how,
        }
    }

    /// Records which permission is missing, now that the set was read with the others.
    fn set_reduction(&self, is_watched: bool) {
        let list_interval = (!is_watched).then_some(self.timing.list_interval);
        self.sink.set_reduction(reduction(
            &self.sink.access(),
            self.namespace.as_deref(),
            list_interval,
            self.scope_reduction.as_deref(),
        ));
    }
}

/// A little less than `interval`, so that proxies that started together drift apart.
pub(super) fn spread(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.9..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    struct Loop {
        position: Position,
        history: History,
        at: Instant,
    }

    impl Loop {
        fn at(position: Position) -> Self {
            Self {
                position,
                history: History::default(),
                at: Instant::now(),
            }
        }

        /// One attempt that lasted `seconds` and ended so.
        fn end(&mut self, seconds: u64, end: End) -> Restart {
            let lived = Duration::from_secs(seconds);
            self.at += lived;
            let attempt = Attempt {
                end,
                lived,
                at: self.at,
            };
            after(&attempt, &mut self.position, &mut self.history, GRACE)
        }
    }

    fn listed() -> Position {
        Position::Listed("7".to_owned())
    }

    fn forbidden() -> End {
        End::Failed(ApiError::Forbidden("no".to_owned()))
    }

    fn rejected() -> End {
        End::Failed(ApiError::Rejected("no".to_owned()))
    }

    #[test]
    fn a_watch_that_ends_by_age_continues_where_it_was() {
        let mut watch = Loop::at(listed());
        assert_eq!(watch.end(280, End::Closed), Restart::Now);
        assert_eq!(watch.end(1, End::Closed), Restart::Backoff, "closed too soon");
        assert_eq!(watch.position, listed());
    }

    #[test]
    fn the_second_silence_reads_the_set_again() {
        let mut watch = Loop::at(listed());
        assert_eq!(watch.end(90, End::Silent), Restart::Backoff);
        assert_eq!(watch.position, listed());
        watch.end(90, End::Silent);
        assert_eq!(watch.position, Position::Empty);
    }

    #[test]
    fn a_stream_that_stalls_is_read_page_by_page_until_watching_starts_over() {
        let mut watch = Loop::at(Position::Empty);
        assert_eq!(watch.end(15, End::Silent), Restart::Backoff);
        assert_eq!(watch.history.streaming, Streaming::Stalled);
        watch.history.start_over();
        assert_eq!(watch.history.streaming, Streaming::Tried);
    }

    #[test]
    fn a_server_without_streaming_lists_is_asked_for_pages_at_once_and_for_good() {
        let mut watch = Loop::at(Position::Empty);
        assert_eq!(watch.end(0, rejected()), Restart::Now);
        assert_eq!(watch.history.streaming, Streaming::Unsupported);
        watch.history.start_over();
        assert_eq!(watch.history.streaming, Streaming::Unsupported);
        assert_eq!(watch.end(0, rejected()), Restart::Backoff);
    }

    #[test]
    fn the_first_410_is_a_restart_and_the_next_one_a_failure() {
        let gone = || End::Failed(ApiError::Expired);
        let mut watch = Loop::at(listed());
        assert_eq!(watch.end(0, gone()), Restart::Soon);
        assert_eq!(watch.position, Position::Empty);
        assert_eq!(watch.end(5, gone()), Restart::Backoff);
        assert_eq!(
            watch.end(61, gone()),
            Restart::Soon,
            "a minute later it is the first again"
        );
    }

    #[test]
    fn a_version_that_the_server_rejects_is_not_repeated() {
        let mut watch = Loop::at(listed());
        assert_eq!(watch.end(0, rejected()), Restart::Backoff);
        assert_eq!(watch.position, Position::Empty);
    }

    #[test]
    fn only_a_denial_that_lasts_ends_the_watch() {
        let mut watch = Loop::at(listed());
        watch.history.denial.granted();
        assert_eq!(watch.end(0, forbidden()), Restart::CheckDenial);
        assert_eq!(watch.end(9, forbidden()), Restart::CheckDenial);
        assert_eq!(watch.end(2, forbidden()), Restart::GiveUp);
        assert_eq!(watch.position, listed(), "the last set stays");
    }

    #[test]
    fn a_server_that_fails_is_no_reason_to_read_everything_again() {
        let mut watch = Loop::at(listed());
        for error in [
            ApiError::Unauthorized("x".to_owned()),
            ApiError::Timeout(START_LIMIT),
            ApiError::Overloaded("x".to_owned()),
        ] {
            assert_eq!(watch.end(0, End::Failed(error)), Restart::Backoff);
            assert_eq!(watch.position, listed());
        }
    }
}
