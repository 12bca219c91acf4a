//! One scope of pods (all namespaces, or one), watched where that is allowed, else listed.
//!
//! Why not kube-runtime's watcher: it never falls back (from a streaming to a paged list, from watching to listing),
//! it repeats some failures for ever with the same resource version, and it hides bookmarks, which are the only proof
//! that a silent watch is alive. The requests and their decoding are kube's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use kube::core::Status;
use tokio::time::{timeout, timeout_at};

use super::cluster::Cluster;
use super::manifest::PodObject;
use super::store::{Change, Mode, Pods, SourceHandle};
use crate::backoff::{Backoff, jittered};
use crate::config::format_go_duration;
use crate::telemetry::Telemetry;

/// A request that has not begun to answer by then is given up.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A page of a list must be here by then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// The longest silence within the initial events of a stream. A server that does not know streaming lists never ends
/// them.
const INITIAL_SILENCE: Duration = Duration::from_secs(15);
/// The longest silence of a watch. The server sends a bookmark each minute; without one the connection may be dead, or
/// the watch may wait for a version that this server will not reach for days (etcd restored from a backup).
const SILENCE: Duration = Duration::from_secs(90);
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Rest between sets, in times of what making the last one took, and at most.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(100);
/// A 410 within this time of another is a failure in a row.
const GONE_AGAIN: Duration = Duration::from_mins(1);
/// A watch that lived this long was a good one: what follows is no failure in a row.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// The first wait after a failed request.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest wait between requests that fail. Fifty proxies at this pace are a dozen requests a second for a server
/// that comes back, and the target set is right a few seconds after it does.
const LONGEST_DELAY: Duration = Duration::from_secs(4);

pub(super) fn new_backoff() -> Backoff {
    Backoff::new(FIRST_DELAY, LONGEST_DELAY)
}

/// The configured intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) list_interval: Duration,
    pub(super) permission_interval: Duration,
    pub(super) forbidden_grace: Duration,
}

/// What may be wrong with an answer of the API server.
#[derive(Debug)]
pub(super) enum Fault {
    /// 403: no right, or an API server that has just started.
    Forbidden(String),
    /// 410: the version is no longer known; list again.
    Gone,
    /// The server does not take the request's parameters.
    Invalid(String),
    /// 401: the token is not accepted. No sign of a missing right.
    Unauthorized(String),
    /// Nothing, nonsense or a failure of the server.
    Failed {
        reason: &'static str,
        text: &'static str,
        detail: String,
    },
}

/// How a watch ended.
#[derive(Debug)]
enum End {
    /// The server closed it, as it does every few minutes.
    Closed,
    /// Nothing came for too long.
    Silent,
    Fault(Fault),
}

/// Whether and since when a right is refused.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    since: Option<Instant>,
    answers: u32,
    /// The right was once in force in this process.
    had: bool,
}

impl Refusal {
    /// One more 403. Believed when it lasts: an API server answers 403 to everybody for a moment after its start.
    pub(super) fn is_believed(&mut self, grace: Duration) -> bool {
        // What never worked needs no more than a second answer after that moment.
        let (grace, answers) = if self.had {
            (grace, 3)
        } else {
            (grace.min(Duration::from_millis(500)), 2)
        };
        self.answers += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        grace.is_zero() || (self.answers >= answers && since.elapsed() >= grace)
    }

    pub(super) fn wait(&self, grace: Duration) -> Duration {
        let grace = if self.had {
            grace
        } else {
            grace.min(Duration::from_millis(500))
        };
        jittered((grace / 4).clamp(Duration::from_millis(50), Duration::from_secs(2)))
    }

    pub(super) fn granted(&mut self) {
        *self = Self {
            had: true,
            ..Self::default()
        };
    }

    /// The refusal is a fact now; the right begins anew.
    pub(super) fn accept(&mut self) {
        *self = Self::default();
    }
}

/// One scope of pods.
pub(super) struct Scope {
    client: kube::Client,
    namespace: Option<String>,
    selector: String,
    timing: Timing,
    feed: SourceHandle,
    /// What a narrower scope than asked for means, for the note.
    reduction: Option<String>,
    watch_refusal: Refusal,
    list_refusal: Refusal,
    /// Cleared when the server says that it knows no streaming lists.
    can_stream: bool,
}

impl Scope {
    /// All namespaces.
    pub(super) fn all(cluster: &Cluster, feed: SourceHandle) -> Self {
        Self::new(cluster, None, feed)
    }

    /// One namespace.
    pub(super) fn namespace(cluster: &Cluster, namespace: &str, feed: SourceHandle) -> Self {
        Self::new(cluster, Some(namespace.to_owned()), feed)
    }

    fn new(cluster: &Cluster, namespace: Option<String>, feed: SourceHandle) -> Self {
        Self {
            client: cluster.client().clone(),
            namespace,
            selector: cluster.selector().to_owned(),
            timing: cluster.timing(),
            feed,
            reduction: None,
            watch_refusal: Refusal::default(),
            list_refusal: Refusal::default(),
            can_stream: true,
        }
    }

    /// Looks at all namespaces from the next run on.
    pub(super) fn widen(&mut self) {
        self.turn_to(None);
        self.reduction = None;
    }

    /// Looks at one namespace from the next run on.
    pub(super) fn narrow(&mut self, namespace: &str) {
        self.turn_to(Some(namespace.to_owned()));
    }

    fn turn_to(&mut self, namespace: Option<String>) {
        self.namespace = namespace;
        self.watch_refusal = Refusal::default();
        self.list_refusal = Refusal::default();
    }

    /// What a narrower scope means; told once its pods are known.
    pub(super) fn note_reduction(&mut self, note: String) {
        self.reduction = Some(note);
    }

    pub(super) fn namespace_name(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(super) fn refused(&self, reason: String) {
        self.feed.refused(reason);
    }

    fn api(&self) -> Api<PodObject> {
        match &self.namespace {
            None => Api::all(self.client.clone()),
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    fn mode(&self, watching: bool) -> Mode {
        match (self.namespace.is_some(), watching) {
            (false, true) => Mode::ClusterWatch,
            (false, false) => Mode::ClusterList,
            (true, true) => Mode::NamespaceWatch,
            (true, false) => Mode::NamespaceList,
        }
    }

    /// Keeps the scope's pods right until neither watching nor listing is allowed; returns the server's words for that.
    pub(super) async fn run(&mut self) -> String {
        loop {
            self.watch().await;
            if let Some(why) = self.poll().await {
                return why;
            }
        }
    }

    /// Watches until that is refused for good.
    async fn watch(&mut self) {
        let mut backoff = new_backoff();
        // Where to go on; none means to read the whole set first.
        let mut version: Option<String> = None;
        let mut streams = true;
        let mut silences = 0;
        let mut last_gone: Option<Instant> = None;
        loop {
            let started = Instant::now();
            let was_initial = version.is_none();
            let end = self.watch_once(&mut version, streams && self.can_stream).await;
            if started.elapsed() >= GOOD_LIFE {
                backoff.reset();
            }
            tracing::debug!(?end, lived = ?started.elapsed(), ?version, "Watch ended");
            let wait = match end {
                End::Closed if started.elapsed() >= GOOD_LIFE => {
                    silences = 0;
                    Duration::ZERO
                }
                End::Closed => backoff.next_delay(),
                End::Silent => {
                    self.feed.metrics().failure("timeout");
                    silences += 1;
                    // Once may be the connection; twice is the version, or streaming.
                    if was_initial {
                        streams = false;
                    } else if silences > 1 {
                        version = None;
                    }
                    backoff.next_delay()
                }
                End::Fault(Fault::Gone) => {
                    self.feed.metrics().failure("gone");
                    version = None;
                    // The first one tells of a restarted server and of nothing wrong with us.
                    let is_first = last_gone.is_none_or(|at| at.elapsed() > GONE_AGAIN);
                    last_gone = Some(Instant::now());
                    if is_first {
                        jittered(Duration::from_millis(200))
                    } else {
                        backoff.next_delay()
                    }
                }
                End::Fault(Fault::Forbidden(text)) => {
                    self.feed.metrics().failure("forbidden");
                    if self.watch_refusal.is_believed(self.timing.forbidden_grace) {
                        self.watch_refusal.accept();
                        tracing::debug!(reason = %text, "Watching is refused");
                        return;
                    }
                    self.watch_refusal.wait(self.timing.forbidden_grace)
                }
                End::Fault(Fault::Invalid(text)) if was_initial && self.can_stream => {
                    tracing::debug!(reason = %text, "The API server streams no lists");
                    self.can_stream = false;
                    Duration::ZERO
                }
                End::Fault(fault) => {
                    // A version that the server chokes on must not be repeated for ever.
                    if matches!(fault, Fault::Invalid(_)) {
                        version = None;
                    }
                    self.tell(fault);
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One watch, with the whole set read before it where there is no version to go on from. `version` is kept up.
    async fn watch_once(&mut self, version: &mut Option<String>, stream: bool) -> End {
        let api = self.api();
        let mut params = WatchParams::default()
            .labels(&self.selector)
            // Servers close watches at this age; a spread of it keeps proxies that started together apart.
            .timeout(rand::random_range(240..=300));
        let mut loading = None;
        if version.is_none() {
            if stream {
                params.send_initial_events = true;
                loading = Some(Pods::new());
            } else {
                match self.list().await {
                    Ok((pods, listed)) => {
                        let mode = self.mode(true);
                        self.publish(pods, mode, "list");
                        *version = Some(listed);
                    }
                    Err(fault) => return End::Fault(fault),
                }
            }
        }
        self.feed.metrics().request("watch");
        let start = version.clone().unwrap_or_default();
        let events = match timeout(START_LIMIT, api.watch(&params, &start)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return End::Fault(classify(&error)),
            Err(_) => {
                return End::Fault(Fault::Failed {
                    reason: "timeout",
                    text: "the API server does not answer",
                    detail: format!("no answer to a watch in {START_LIMIT:?}"),
                });
            }
        };
        self.watch_refusal.granted();
        if loading.is_none() {
            self.note_mode(true);
        }
        self.follow(std::pin::pin!(events), loading, version).await
    }

    /// Takes events until the watch ends. `loading` collects the initial events until the server says that it was all.
    ///
    /// A rollout tells of thousands of changes one by one. The first is in the set at once; those that come while we
    /// rest from making it are one set more, not many.
    async fn follow(
        &mut self,
        mut events: impl Stream<Item = kube::Result<WatchEvent<PodObject>>> + Unpin,
        mut loading: Option<Pods>,
        version: &mut Option<String>,
    ) -> End {
        let mut changes = Vec::new();
        let mut rested_at = tokio::time::Instant::now();
        loop {
            let next = if changes.is_empty() {
                let limit = if loading.is_some() {
                    INITIAL_SILENCE
                } else {
                    SILENCE
                };
                let Ok(next) = timeout(limit, events.next()).await else {
                    return End::Silent;
                };
                next
            } else {
                let Ok(next) = timeout_at(rested_at, events.next()).await else {
                    let took = self.feed.apply(std::mem::take(&mut changes));
                    rested_at = tokio::time::Instant::now() + (took * REST).min(LONGEST_REST);
                    continue;
                };
                next
            };
            let end = match next {
                None => End::Closed,
                Some(event) => match self.take(event, &mut loading, version, &mut changes) {
                    Ok(()) => continue,
                    Err(fault) => End::Fault(fault),
                },
            };
            if !changes.is_empty() {
                self.feed.apply(changes);
            }
            return end;
        }
    }

    /// Takes one event: into `loading` while there is one, else as a change.
    fn take(
        &mut self,
        event: kube::Result<WatchEvent<PodObject>>,
        loading: &mut Option<Pods>,
        version: &mut Option<String>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Fault> {
        match event.map_err(|error| classify(&error))? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let seen = object.metadata.resource_version.clone();
                let pod = self.feed.prepare(object.into_pod(self.feed.needs_labels()));
                if let Some(pods) = loading {
                    pods.insert(Arc::clone(pod.id()), pod);
                } else {
                    *version = seen.or(version.take());
                    changes.push(Change::Put(Box::new(pod)));
                }
            }
            WatchEvent::Deleted(object) => {
                let seen = object.metadata.resource_version.clone();
                let id = object.into_pod(false).id;
                if let Some(pods) = loading {
                    pods.remove(&id);
                } else {
                    *version = seen.or(version.take());
                    changes.push(Change::Remove(id));
                }
            }
            WatchEvent::Bookmark(bookmark) => {
                let metadata = bookmark.metadata;
                let is_end = metadata.annotations.contains_key("k8s.io/initial-events-end");
                if let Some(pods) = loading.take_if(|_| is_end) {
                    self.publish(pods, self.mode(true), "stream");
                    self.note_mode(true);
                } else if loading.is_none() && changes.is_empty() {
                    self.feed.confirm();
                }
                if loading.is_none() {
                    *version = Some(metadata.resource_version);
                }
            }
            WatchEvent::Error(status) => return Err(classify_status(&status)),
        }
        Ok(())
    }

    /// Lists again and again until watching is allowed (`None`) or listing is refused for good (the server's words).
    async fn poll(&mut self) -> Option<String> {
        let mut backoff = new_backoff();
        let next_probe = self.probe_watch();
        tokio::pin!(next_probe);
        loop {
            let wait = match self.list().await {
                Ok((pods, _)) => {
                    backoff.reset();
                    let mode = self.mode(false);
                    self.publish(pods, mode, "list");
                    self.note_mode(false);
                    spread(self.timing.list_interval)
                }
                Err(Fault::Forbidden(text)) => {
                    self.feed.metrics().failure("forbidden");
                    if self.list_refusal.is_believed(self.timing.forbidden_grace) {
                        self.list_refusal.accept();
                        return Some(text);
                    }
                    self.list_refusal.wait(self.timing.forbidden_grace)
                }
                Err(fault) => {
                    self.tell(fault);
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.feed.list_wanted() => {}
                () = &mut next_probe => return None,
            }
        }
    }

    /// The whole set, page by page, and its version.
    async fn list(&mut self) -> Result<(Pods, String), Fault> {
        let api = self.api();
        let mut pods = Pods::new();
        let mut params = ListParams::default().labels(&self.selector).limit(PAGE);
        loop {
            self.feed.metrics().request("list");
            let page = match timeout(PAGE_LIMIT, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return Err(classify(&error)),
                Err(_) => {
                    return Err(Fault::Failed {
                        reason: "timeout",
                        text: "the API server does not answer",
                        detail: format!("no page of a list in {PAGE_LIMIT:?}"),
                    });
                }
            };
            for object in page.items {
                let pod = self.feed.prepare(object.into_pod(self.feed.needs_labels()));
                pods.insert(Arc::clone(pod.id()), pod);
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.list_refusal.granted();
                return Ok((pods, page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    fn publish(&self, pods: Pods, mode: Mode, how: &'static str) {
        self.feed.swap(pods, mode, how);
    }

    /// Says what is less than asked for, now that it is certain.
    fn note_mode(&self, watching: bool) {
        let listing = (!watching).then(|| {
            let place = match &self.namespace {
                None => "all namespaces".to_owned(),
                Some(namespace) => format!("namespace {namespace}"),
            };
            let remedy = if self.reduction.is_some() {
                String::new()
            } else {
                "; deploy with --trust, or grant watch on pods".to_owned()
            };
            format!(
                "may not watch pods in {place}, they are listed every {}{remedy}",
                format_go_duration(self.timing.list_interval)
            )
        });
        let note = match (listing, &self.reduction) {
            (None, None) => None,
            (Some(listing), None) => Some(listing),
            (None, Some(reduction)) => Some(reduction.clone()),
            (Some(listing), Some(reduction)) => Some(format!("{listing}; {reduction}")),
        };
        self.feed.reduced(note);
    }

    fn tell(&self, fault: Fault) {
        match fault {
            Fault::Failed { reason, text, detail } => self.feed.trouble(reason, text.to_owned(), &detail),
            Fault::Unauthorized(detail) => self.feed.trouble(
                "unauthorized",
                "the API server does not accept our token (401)".to_owned(),
                &detail,
            ),
            Fault::Invalid(detail) => self.feed.trouble(
                "refused",
                "the API server does not take our request".to_owned(),
                &detail,
            ),
            Fault::Gone => self.feed.trouble(
                "gone",
                "the list was too slow for the API server (410)".to_owned(),
                "",
            ),
            Fault::Forbidden(detail) => {
                self.feed
                    .trouble("forbidden", "the API server refuses us (403)".to_owned(), &detail);
            }
        }
    }

    /// Ends when watching pods in this scope is allowed.
    fn probe_watch(&self) -> impl Future<Output = ()> + use<> {
        probe(
            self.client.clone(),
            self.namespace.clone(),
            &["watch"],
            self.timing.permission_interval,
            self.feed.telemetry(),
        )
    }

    /// Ends when listing or watching pods in `namespace` (none: in all) is allowed.
    pub(super) fn probe(&self, namespace: Option<String>) -> impl Future<Output = ()> + use<> {
        probe(
            self.client.clone(),
            namespace,
            &["list", "watch"],
            self.timing.permission_interval,
            self.feed.telemetry(),
        )
    }

    /// Ends when this scope may be listed or watched.
    pub(super) async fn until_granted(&self) {
        self.probe(self.namespace.clone()).await;
    }
}

/// Asks every `interval` whether one of `verbs` is allowed on pods in `namespace` (none: in all), and ends when it is.
///
/// A review is what the server itself would decide by, and costs it no list. Where reviews are not answered, trying is
/// the only way to know: that ends it too.
async fn probe(
    client: kube::Client,
    namespace: Option<String>,
    verbs: &'static [&'static str],
    interval: Duration,
    telemetry: Arc<Telemetry>,
) {
    probe_resource(client, namespace, ("", "pods"), verbs, interval, telemetry).await;
}

/// As [`probe`], for a resource given as its group and plural.
pub(super) async fn probe_resource(
    client: kube::Client,
    namespace: Option<String>,
    (group, resource): (&str, &str),
    verbs: &'static [&'static str],
    interval: Duration,
    telemetry: Arc<Telemetry>,
) {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    loop {
        tokio::time::sleep(jittered(interval)).await;
        for verb in verbs {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        verb: Some((*verb).to_owned()),
                        group: Some(group.to_owned()),
                        resource: Some(resource.to_owned()),
                        // All namespaces are written as the empty one.
                        namespace: Some(namespace.clone().unwrap_or_default()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            telemetry.discovery.request("review");
            let parameters = PostParams::default();
            match timeout(START_LIMIT, reviews.create(&parameters, &review)).await {
                Ok(Ok(answer)) if answer.status.as_ref().is_some_and(|status| status.allowed) => return,
                Ok(Err(error)) if matches!(classify(&error), Fault::Forbidden(_)) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A little less than `interval`, so that proxies that started together drift apart.
pub(super) fn spread(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.9..=1.0))
}

pub(super) fn classify(error: &kube::Error) -> Fault {
    let detail = crate::error::chain(error);
    match error {
        kube::Error::Api(status) => classify_status(status),
        kube::Error::Auth(_) => Fault::Failed {
            reason: "unauthorized",
            text: "our credentials for the API server cannot be read",
            detail,
        },
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Fault::Failed {
            reason: "refused",
            text: "the API server's answer cannot be understood",
            detail,
        },
        _ => Fault::Failed {
            reason: "unreachable",
            text: "the API server cannot be reached",
            detail,
        },
    }
}

pub(super) fn classify_status(status: &Status) -> Fault {
    let detail = format!("{} ({}, {})", status.message, status.reason, status.code);
    match status.code {
        401 => Fault::Unauthorized(detail),
        403 => Fault::Forbidden(status.message.clone()),
        410 => Fault::Gone,
        400 | 404 | 405 | 406 | 415 | 422 => Fault::Invalid(detail),
        _ if status.is_forbidden() => Fault::Forbidden(status.message.clone()),
        _ => Fault::Failed {
            reason: "refused",
            text: "the API server fails or is overloaded",
            detail,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_was_had_is_lost_only_by_a_refusal_that_lasts() {
        let mut refusal = Refusal::default();
        refusal.granted();
        let grace = Duration::from_millis(30);
        assert!(!refusal.is_believed(grace));
        std::thread::sleep(grace);
        assert!(!refusal.is_believed(grace), "two answers are not enough");
        assert!(refusal.is_believed(grace));
        refusal.granted();
        assert!(!refusal.is_believed(grace), "a grant begins it anew");
    }

    #[test]
    fn no_grace_believes_at_once() {
        assert!(Refusal::default().is_believed(Duration::ZERO));
    }

    #[test]
    fn statuses_are_told_apart_by_code() {
        let status = |code| Status {
            code,
            ..Status::default()
        };
        assert!(matches!(classify_status(&status(401)), Fault::Unauthorized(_)));
        assert!(matches!(classify_status(&status(403)), Fault::Forbidden(_)));
        assert!(matches!(classify_status(&status(410)), Fault::Gone));
        assert!(matches!(classify_status(&status(422)), Fault::Invalid(_)));
        assert!(matches!(classify_status(&status(429)), Fault::Failed { .. }));
        assert!(matches!(classify_status(&status(504)), Fault::Failed { .. }));
    }
}
