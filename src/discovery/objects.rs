//! Services, their endpoints, and monitors: listed, then watched, where they may be read.
//!
//! None of them is needed to be ready: what may not be read, or is not installed, is said with its remedy, and targets
//! of the other kinds are served. They come as dynamic objects, and only what [`Object`] keeps of them stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchEvent, WatchParams};
use tokio::time::{timeout, timeout_at};

use super::scope::{Fault, Refusal, Timing, classify, classify_status, new_backoff, probe_resource, spread};
use super::store::{ObjectHandle, Store};
use crate::targets::{Discover, Object, ObjectKey, ObjectKind};

const LIMIT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(90);
const PAGE: u32 = 250;
/// As with pods: rest between works, in times of what the last one took, and at most.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(200);

/// How a kind is asked for.
#[derive(Debug, Clone, Copy)]
struct Form {
    kind: ObjectKind,
    name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
}

const SERVICES: Form = Form {
    kind: ObjectKind::Service,
    name: "Service",
    group: "",
    version: "v1",
    plural: "services",
};
const SLICES: Form = Form {
    kind: ObjectKind::EndpointSlice,
    name: "EndpointSlice",
    group: "discovery.k8s.io",
    version: "v1",
    plural: "endpointslices",
};
const POD_MONITORS: Form = Form {
    kind: ObjectKind::PodMonitor,
    name: "PodMonitor",
    group: "monitoring.coreos.com",
    version: "v1",
    plural: "podmonitors",
};
const SERVICE_MONITORS: Form = Form {
    kind: ObjectKind::ServiceMonitor,
    name: "ServiceMonitor",
    group: "monitoring.coreos.com",
    version: "v1",
    plural: "servicemonitors",
};

/// Keeps up all objects that `discover` needs, in these namespaces (none: in all, or the own one), for ever.
pub(super) fn run(
    discover: Discover,
    client: &kube::Client,
    namespaces: &[String],
    own_namespace: &str,
    timing: Timing,
    store: &Arc<Store>,
) -> BoxFuture<'static, ()> {
    let through_services = discover.services || discover.service_monitors;
    let forms = [
        (SERVICES, through_services),
        (SLICES, through_services),
        (POD_MONITORS, discover.pod_monitors),
        (SERVICE_MONITORS, discover.service_monitors),
    ];
    let scopes: Vec<Option<String>> = if namespaces.is_empty() {
        vec![None]
    } else {
        namespaces.iter().cloned().map(Some).collect()
    };
    let mut sources = Vec::new();
    for (form, _) in forms.into_iter().filter(|(_, needed)| *needed) {
        for namespace in &scopes {
            let name = match namespace {
                None => form.plural.to_owned(),
                Some(namespace) => format!("{} in namespace {namespace}", form.plural),
            };
            let source = Source {
                form,
                client: client.clone(),
                asked: namespace.clone(),
                own: own_namespace.to_owned(),
                timing,
                feed: store.add_object_source(form.kind, name),
            };
            sources.push(source.run());
        }
    }
    if sources.is_empty() {
        return std::future::pending().boxed();
    }
    futures::future::join_all(sources).map(|_| ()).boxed()
}

struct Source {
    form: Form,
    client: kube::Client,
    /// The namespace that was asked for; none means all.
    asked: Option<String>,
    own: String,
    timing: Timing,
    feed: ObjectHandle,
}

impl Source {
    async fn run(self) {
        loop {
            let asked = self.asked.clone();
            let why = self.follow(asked.as_deref(), None).await;
            let Why::Forbidden = why else {
                self.feed.missing(format!(
                    "{} are not installed in this cluster; install prometheus-operator's CRDs or leave them out of --discover",
                    self.form.plural
                ));
                tokio::time::sleep(spread(self.timing.permission_interval)).await;
                continue;
            };
            // All of them are refused: our own namespace's may be allowed, until all are.
            let granted = self.granted(asked.clone());
            if asked.is_some() {
                self.refuse();
                granted.await;
                continue;
            }
            let own = async {
                let note = format!(
                    "may not list {} in all namespaces, only those of namespace {} are used; deploy with --trust, or grant \
                     get, list and watch on {}",
                    self.form.plural,
                    self.own,
                    self.resource()
                );
                self.follow(Some(&self.own), Some(note)).await;
                self.refuse();
                self.granted(Some(self.own.clone())).await;
            };
            tokio::select! {
                () = granted => self.feed.reduced(None),
                () = own => {}
            }
        }
    }

    fn resource(&self) -> String {
        if self.form.group.is_empty() {
            self.form.plural.to_owned()
        } else {
            format!("{}.{}", self.form.plural, self.form.group)
        }
    }

    fn refuse(&self) {
        self.feed.reduced(None);
        self.feed.missing(format!(
            "may not list {}; deploy with --trust, grant get, list and watch on {}, or leave them out of --discover",
            self.form.plural,
            self.resource()
        ));
    }

    async fn granted(&self, namespace: Option<String>) {
        let resource = (self.form.group, self.form.plural);
        let telemetry = self.feed.telemetry();
        probe_resource(
            self.client.clone(),
            namespace,
            resource,
            &["list"],
            self.timing.permission_interval,
            telemetry,
        )
        .await;
    }

    fn api(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(self.form.group, self.form.version, self.form.name);
        let resource = ApiResource::from_gvk_with_plural(&kind, self.form.plural);
        match namespace {
            None => Api::all_with(self.client.clone(), &resource),
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    /// Keeps the objects up until they are refused for good or turn out not to exist.
    async fn follow(&self, namespace: Option<&str>, note: Option<String>) -> Why {
        let api = self.api(namespace);
        let mut refusal = Refusal::default();
        let mut backoff = new_backoff();
        loop {
            let started = Instant::now();
            let fault = match self.list(&api).await {
                Ok((objects, version)) => {
                    refusal.granted();
                    self.feed.swap(objects);
                    self.feed.reduced(note.clone());
                    self.watch(&api, version).await
                }
                Err(fault) => fault,
            };
            if started.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            let wait = match fault {
                Fault::Forbidden(_) => {
                    if refusal.is_believed(self.timing.forbidden_grace) {
                        return Why::Forbidden;
                    }
                    refusal.wait(self.timing.forbidden_grace)
                }
                Fault::Invalid(_) => return Why::Unknown,
                Fault::Gone => backoff.next_delay(),
                Fault::Unauthorized(text) | Fault::Failed { detail: text, .. } => {
                    tracing::debug!(resource = self.form.plural, %text, "Cannot read objects");
                    self.feed.trouble(&format!("cannot list {}", self.form.plural));
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn list(&self, api: &Api<DynamicObject>) -> Result<(BTreeMap<ObjectKey, Object>, String), Fault> {
        let mut objects = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            self.feed.telemetry().discovery.request("list");
            let page = timeout(LIMIT, api.list(&params)).await.map_err(|_| no_answer())?;
            let page = page.map_err(|error| classify(&error))?;
            objects.extend(page.items.iter().map(|object| self.read(object)));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    fn read(&self, object: &DynamicObject) -> (ObjectKey, Object) {
        let meta = &object.metadata;
        let none = BTreeMap::new();
        let read = Object::read(
            self.form.kind,
            meta.labels.as_ref().unwrap_or(&none),
            meta.annotations.as_ref().unwrap_or(&none),
            &object.data,
        );
        (name_of(object), read)
    }

    /// Watches from `version` on, and goes on where a watch ended well. Returns what makes a new list necessary; where
    /// watching is refused, that is the time of the next one.
    async fn watch(&self, api: &Api<DynamicObject>, mut version: String) -> Fault {
        loop {
            let params = WatchParams::default().timeout(rand::random_range(240..=300));
            self.feed.telemetry().discovery.request("watch");
            let events = match timeout(LIMIT, api.watch(&params, &version)).await {
                Ok(Ok(events)) => events,
                Ok(Err(error)) => match classify(&error) {
                    Fault::Forbidden(_) => {
                        // Listing is allowed, as it has just worked.
                        tokio::time::sleep(spread(self.timing.list_interval)).await;
                        return Fault::Gone;
                    }
                    fault => return fault,
                },
                Err(_) => return no_answer(),
            };
            let mut events = std::pin::pin!(events);
            let mut changes = Vec::new();
            let mut rested_at = tokio::time::Instant::now();
            let started = Instant::now();
            loop {
                let next = if changes.is_empty() {
                    match timeout(SILENCE, events.next()).await {
                        Ok(next) => next,
                        Err(_) => return Fault::Gone,
                    }
                } else if let Ok(next) = timeout_at(rested_at, events.next()).await {
                    next
                } else {
                    let took = self.feed.apply(std::mem::take(&mut changes));
                    rested_at = tokio::time::Instant::now() + (took * REST).min(LONGEST_REST);
                    continue;
                };
                let fault = match next {
                    None if started.elapsed() < Duration::from_secs(5) => Some(Fault::Gone),
                    None => break,
                    Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                        note_version(&mut version, &object);
                        let (name, object) = self.read(&object);
                        changes.push((name, Some(object)));
                        None
                    }
                    Some(Ok(WatchEvent::Deleted(object))) => {
                        note_version(&mut version, &object);
                        changes.push((name_of(&object), None));
                        None
                    }
                    Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                        version = bookmark.metadata.resource_version;
                        None
                    }
                    Some(Ok(WatchEvent::Error(status))) => Some(classify_status(&status)),
                    Some(Err(error)) => Some(classify(&error)),
                };
                if let Some(fault) = fault {
                    self.feed.apply(changes);
                    return fault;
                }
            }
            self.feed.apply(changes);
        }
    }
}

/// Why objects cannot be had.
enum Why {
    /// We may not read them.
    Forbidden,
    /// The server does not know them.
    Unknown,
}

fn no_answer() -> Fault {
    Fault::Failed {
        reason: "timeout",
        text: "the API server does not answer",
        detail: format!("no answer in {LIMIT:?}"),
    }
}

fn name_of(object: &DynamicObject) -> ObjectKey {
    let meta = &object.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn note_version(version: &mut String, object: &DynamicObject) {
    if let Some(seen) = &object.metadata.resource_version {
        version.clone_from(seen);
    }
}
