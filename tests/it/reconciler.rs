//! The reconciler in this process, against real Pebbles: what it changes there and what it reports.

mod charm;
mod commands;
mod connection;
mod killed;
mod life_cycle;
mod others;
mod pyyaml;
mod rig;
mod rotations;
mod two_proxies;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_proxy::config::{self, Config};
use metrics_proxy::health::Health;
use metrics_proxy::reconciler;
use metrics_proxy::shutdown::Shutdown;
use metrics_proxy::telemetry::Telemetry;

use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::wait_for;
use rig::works;

const LIMIT: Duration = Duration::from_secs(20);

/// A running reconciler.
struct Keeper {
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

/// Settings with short intervals.
fn settings(pebble: &Pebble) -> config::Pebble {
    config::Pebble {
        socket: pebble.socket(),
        secret: Some(secret_path(pebble)),
        resync_interval: Duration::from_millis(200),
        secret_poll: Duration::from_millis(100),
        secret_debounce: Duration::from_millis(100),
        secret_removal_grace: Duration::from_millis(500),
        ..Config::default().pebble
    }
}

fn secret_path(pebble: &Pebble) -> PathBuf {
    pebble.scratch().join("secret.yaml")
}

fn write_secret(pebble: &Pebble, username: &str, password: &str) {
    rig::push(&secret_path(pebble), &rig::pair(username, password));
}

impl Keeper {
    fn start(settings: config::Pebble) -> Self {
        let (health, telemetry, shutdown) = <(Arc<Health>, Arc<Telemetry>, Shutdown)>::default();
        let task = tokio::spawn(reconciler::run(
            settings,
            &Config::default().listen,
            Arc::clone(&health),
            Arc::clone(&telemetry),
            shutdown.clone(),
        ));
        Self {
            health,
            telemetry,
            shutdown,
            task,
        }
    }

    fn readyz(&self) -> String {
        self.health.readiness(None, true).body
    }

    async fn wait_readyz(&self, first_line: &str) {
        let describe = || format!("{}\n{}", self.readyz(), self.telemetry.encode());
        wait_for(
            &format!("readyz says {first_line}"),
            LIMIT,
            describe,
            async || (self.readyz().lines().next() == Some(first_line)).then_some(()),
        )
        .await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(1), self.task)
            .await
            .expect("ends at once")
            .expect("does not panic");
    }
}

#[tokio::test]
async fn a_secret_becomes_an_identity_and_the_checks_are_there() {
    for version in VERSIONS {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        write_secret(&pebble, "alice", "one");
        let keeper = Keeper::start(settings(&pebble));
        keeper.wait_readyz("ready").await;
        assert!(works(&pebble, "alice", "one").await);
        let names: Vec<_> = pebble
            .checks()
            .await
            .iter()
            .map(|check| check["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "metrics-proxy-alive",
                "metrics-proxy-identity",
                "metrics-proxy-ready"
            ]
        );
        write_secret(&pebble, "bob", "two");
        wait_for(
            "bob works",
            LIMIT,
            || keeper.readyz(),
            async || works(&pebble, "bob", "two").await.then_some(()),
        )
        .await;
        assert!(!works(&pebble, "alice", "one").await);
        std::fs::remove_file(secret_path(&pebble)).unwrap();
        wait_for(
            "bob is gone",
            LIMIT,
            || keeper.readyz(),
            async || rig::names(&pebble).await.is_empty().then_some(()),
        )
        .await;
        keeper.stop().await;
    }
}
