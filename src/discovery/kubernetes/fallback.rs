//! Which part of a cluster is read: all namespaces, else the proxy's own, else none, and back again.
//!
//! The documentation of [`crate::discovery`] draws the states.

use super::watch::{Sink, Stop, Watcher, spread};

/// Reads one kind in all namespaces, in the proxy's own where that is denied, and in all again once that is permitted.
pub(super) async fn watch_with_fallback<S: Sink>(watcher: &mut Watcher<S>, own_namespace: &str) {
    loop {
        watcher.set_scope(None, None);
        match watcher.run().await {
            Stop::NotInstalled => {
                wait_for_installation(watcher).await;
                continue;
            }
            Stop::Forbidden(why) => tracing::debug!(%why, "Reading all namespaces is denied"),
        }
        let access = watcher.sink().access();
        let all = watcher.reviewer(None);
        let own = watcher.reviewer(Some(own_namespace));
        watcher.set_scope(Some(own_namespace), Some(access.scope_reduction(own_namespace)));
        let stop = tokio::select! {
            stop = watcher.run() => stop,
            () = all.until_permitted(&["list", "watch"]) => continue,
        };
        let Stop::Forbidden(why) = stop else {
            wait_for_installation(watcher).await;
            continue;
        };
        watcher.sink().forbid(access.denied(own_namespace, false, &why));
        tokio::select! {
            () = own.until_permitted(&["list", "watch"]) => {}
            () = all.until_permitted(&["list", "watch"]) => {}
        }
    }
}

/// Reads one kind in a namespace that was asked for by name: there is nothing to fall back to.
pub(super) async fn watch_namespace<S: Sink>(watcher: &mut Watcher<S>, namespace: &str) {
    loop {
        watcher.set_scope(Some(namespace), None);
        let Stop::Forbidden(why) = watcher.run().await else {
            wait_for_installation(watcher).await;
            continue;
        };
        let sink = watcher.sink();
        sink.forbid(sink.access().denied(namespace, true, &why));
        let reviewer = watcher.reviewer(Some(namespace));
        reviewer.until_permitted(&["list", "watch"]).await;
    }
}

/// The kind does not exist here: records that and waits.
async fn wait_for_installation<S: Sink>(watcher: &Watcher<S>) {
    let plural = watcher.sink().access().plural;
    watcher.sink().forbid(format!(
        "{plural} are not installed in this cluster; install prometheus-operator's CRDs or leave them out of --discover"
    ));
    tokio::time::sleep(spread(watcher.timing().permission_interval)).await;
}
