//! Discovery against a real API server: which pods become targets, when, and what is left of it when the server or our
//! rights go away. Runs the library in the test's process, so that the set itself is seen and not its scrapes.

mod changes;
mod connection;
mod files;
mod objects;
mod outages;
mod ownership;
mod permissions;
mod random;
mod scale;
mod selectors;
mod shards;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_proxy::config::{Config, Raw};
use metrics_proxy::discovery::{self, Handle, Snapshot, SyncState};
use metrics_proxy::health::Health;
use metrics_proxy::shutdown::Shutdown;
use metrics_proxy::telemetry::Telemetry;

/// Far more than anything here takes; figures are printed, limits only end a hung test.
const LIMIT: Duration = Duration::from_mins(1);

/// Discovery that runs until this is dropped.
struct Running {
    handle: Handle,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Running {
    /// Starts discovery with these settings, named as their flags.
    async fn start(settings: &[(&'static str, &str)]) -> Self {
        // Test pods have loopback addresses, which a pod of a real cluster never has.
        let mut raw = Raw::default().with("target-cidr", "127.0.0.0/8");
        for (name, value) in settings {
            raw = raw.with(name, *value);
        }
        let config = Config::try_new(&raw).expect("the test's settings are right");
        let (health, telemetry) = (Arc::new(Health::default()), Arc::new(Telemetry::default()));
        let shutdown = Shutdown::new();
        let (handle, task) = discovery::start(
            &config.discovery,
            Arc::clone(&health),
            Arc::clone(&telemetry),
            shutdown.clone(),
        )
        .await
        .expect("discovery starts");
        tokio::spawn(task);
        Self {
            handle,
            health,
            telemetry,
            shutdown,
        }
    }

    /// Starts discovery of pods labelled `app=x` with a kubeconfig, and short intervals.
    async fn on_cluster(kubeconfig: &Path, more: &[(&'static str, &str)]) -> Self {
        let kubeconfig = kubeconfig.display().to_string();
        let mut settings = vec![
            ("labels", "app=x"),
            ("kubeconfig", kubeconfig.as_str()),
            ("permission-interval", "500ms"),
            ("forbidden-grace", "1s"),
        ];
        settings.extend_from_slice(more);
        Self::start(&settings).await
    }

    /// Waits until a snapshot is as wanted; returns how long that took.
    #[track_caller]
    fn until(
        &self,
        what: impl Into<String>,
        wanted: impl Fn(&Snapshot) -> bool + Send,
    ) -> impl Future<Output = Duration> {
        let caller = std::panic::Location::caller();
        let what = what.into();
        async move {
            let started = Instant::now();
            let mut snapshots = self.handle.snapshots();
            let found = tokio::time::timeout(LIMIT, snapshots.wait_for(|snapshot| wanted(snapshot))).await;
            assert!(
                found.is_ok(),
                "{caller}: not in {LIMIT:?}: {what}; instead {}",
                self.shows()
            );
            started.elapsed()
        }
    }

    /// Waits until the targets are these, in order, each as `pod address/path`.
    #[track_caller]
    fn until_targets(&self, expect: &[&str]) -> impl Future<Output = Duration> {
        let expect: Vec<String> = expect.iter().map(|line| (*line).to_owned()).collect();
        self.until(format!("targets {expect:?}"), move |snapshot| {
            snapshot.sync == SyncState::Synced && targets(snapshot) == expect
        })
    }

    /// Waits until the pod is skipped for this kind of reason.
    #[track_caller]
    fn until_skipped(&self, pod: &str, kind: &str) -> impl Future<Output = Duration> {
        let (pod, kind) = (pod.to_owned(), kind.to_owned());
        self.until(format!("{pod} skipped: {kind}"), move |snapshot| {
            let mut skipped = snapshot.targets.skipped.iter();
            skipped.any(|skipped| skipped.pod.name == pod && skipped.reason.as_str() == kind)
        })
    }

    /// Waits until `/readyz?verbose` has a line with this text.
    #[track_caller]
    fn until_readyz(&self, line: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let line = line.to_owned();
        async move {
            let started = Instant::now();
            while !self.readyz().contains(&line) {
                assert!(
                    started.elapsed() < LIMIT,
                    "{caller}: no {line:?} in {}",
                    self.readyz()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn readyz(&self) -> String {
        self.health.readiness(None, true).body
    }

    fn shows(&self) -> String {
        let snapshot = self.handle.latest();
        let mut text = format!("{:?}, targets {:?}", snapshot.sync, targets(&snapshot));
        for skipped in &snapshot.targets.skipped {
            let _ = write!(text, "; {}: {}", skipped.pod, skipped.reason);
        }
        let _ = write!(text, "; readyz:\n{}", self.readyz());
        text
    }

    /// The value of one of our own metrics, by its line's beginning.
    fn metric(&self, sample: &str) -> f64 {
        let text = self.telemetry.encode();
        let line = text.lines().find(|line| {
            line.strip_prefix(sample)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        line.and_then(|line| line.rsplit(' ').next())
            .map_or(0.0, |value| value.parse().expect("a value"))
    }
}

fn targets(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .targets
        .targets
        .iter()
        .map(|target| format!("{} {}{}", target.pod.name, target.address, target.path_and_query))
        .collect()
}
