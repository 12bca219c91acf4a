//! Services with their EndpointSlices, PodMonitors and ServiceMonitors.
//!
//! The proxy can be ready without any of them. A kind that may not be read, or is not installed, is a note with a
//! remedy, and targets of the other kinds are served. ClusterObjects are decoded without a schema, and only what [`Object`]
//! keeps of them stays in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};

use super::cluster::Connection;
use super::error::{ApiError, ServerAddress};
use super::fallback::{watch_namespace, watch_with_fallback};
use super::permission::Access;
use super::watch::{Reading, Sink, Timing, Watcher};
use crate::discovery::store::{ObjectHandle, Store};
use crate::targets::{Discover, Object, ObjectKey, ObjectKind};
use crate::telemetry::Telemetry;

/// How one kind is named in the API.
#[derive(Debug, Clone, Copy)]
struct Form {
    kind: ObjectKind,
    name: &'static str,
    group: &'static str,
    plural: &'static str,
}

const SERVICES: Form = Form {
    kind: ObjectKind::Service,
    name: "Service",
    group: "",
    plural: "services",
};
const SLICES: Form = Form {
    kind: ObjectKind::EndpointSlice,
    name: "EndpointSlice",
    group: "discovery.k8s.io",
    plural: "endpointslices",
};
const POD_MONITORS: Form = Form {
    kind: ObjectKind::PodMonitor,
    name: "PodMonitor",
    group: "monitoring.coreos.com",
    plural: "podmonitors",
};
const SERVICE_MONITORS: Form = Form {
    kind: ObjectKind::ServiceMonitor,
    name: "ServiceMonitor",
    group: "monitoring.coreos.com",
    plural: "servicemonitors",
};

/// Keeps all objects up to date that `discover` needs, for ever: in these namespaces, or without any in all (in the
/// proxy's own where that is denied).
pub(super) fn run(
    discover: Discover,
    connection: &Connection,
    namespaces: &[String],
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
    let mut runs = Vec::new();
    for (form, _) in forms.into_iter().filter(|(_, needed)| *needed) {
        for namespace in &scopes {
            let name = match namespace {
                None => form.plural.to_owned(),
                Some(namespace) => format!("{} in namespace {namespace}", form.plural),
            };
            let sink = ObjectSink {
                form,
                handle: store.add_object_source(form.kind, name),
            };
            let mut watcher = Watcher::with_sink(
                connection.client.clone(),
                connection.server.clone(),
                String::new(),
                timing,
                sink,
            )
            .optional();
            let namespace = namespace.clone();
            let own = connection.own_namespace.clone();
            runs.push(async move {
                match namespace {
                    None => watch_with_fallback(&mut watcher, &own).await,
                    Some(namespace) => watch_namespace(&mut watcher, &namespace).await,
                }
            });
        }
    }
    if runs.is_empty() {
        return std::future::pending().boxed();
    }
    futures::future::join_all(runs).map(|_| ()).boxed()
}

/// Gives what is read to a source of objects.
struct ObjectSink {
    form: Form,
    handle: ObjectHandle,
}

impl Sink for ObjectSink {
    type Object = DynamicObject;
    type Key = ObjectKey;
    type Entry = Object;

    fn api(&self, client: &kube::Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(self.form.group, "v1", self.form.name);
        let resource = ApiResource::from_gvk_with_plural(&kind, self.form.plural);
        match namespace {
            None => Api::all_with(client.clone(), &resource),
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        }
    }

    fn access(&self) -> Access {
        Access {
            group: self.form.group,
            plural: self.form.plural,
            alternative: Some("leave them out of --discover"),
        }
    }

    fn key(&self, object: &DynamicObject) -> ObjectKey {
        let meta = &object.metadata;
        (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    fn entry(&self, object: DynamicObject) -> (ObjectKey, Object) {
        let meta = &object.metadata;
        let none = BTreeMap::new();
        let read = Object::read(
            self.form.kind,
            meta.labels.as_ref().unwrap_or(&none),
            meta.annotations.as_ref().unwrap_or(&none),
            &object.data,
        );
        (self.key(&object), read)
    }

    fn replace(&self, entries: BTreeMap<ObjectKey, Object>, _: Reading) {
        self.handle.replace(entries);
    }

    fn put(&self, key: ObjectKey, entry: Object) {
        self.handle.change(key, Some(entry));
    }

    fn remove(&self, key: ObjectKey) {
        self.handle.change(key, None);
    }

    /// How old objects are is not shown anywhere.
    fn confirm(&self) {}

    fn fail(&self, error: &ApiError, server: &ServerAddress) {
        let (resource, cause, detail) = (self.form.plural, error.cause(server), error.detail());
        tracing::debug!(resource, cause, detail, "Cannot read objects");
        self.handle.fail(&format!("cannot list {resource}: {cause}"));
    }

    fn forbid(&self, reason: String) {
        self.handle.set_reduction(None);
        self.handle.forbid(reason);
    }

    fn set_reduction(&self, note: Option<String>) {
        self.handle.set_reduction(note);
    }

    /// A scrape never waits for objects.
    fn list_requested(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    fn telemetry(&self) -> &Arc<Telemetry> {
        self.handle.telemetry()
    }
}
