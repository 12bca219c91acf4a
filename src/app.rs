//! Starts and owns the listener, discovery and the reconciler.
//!
//! Shell. Every task has one owner here, which awaits it. A long-lived task that ends by itself or panics ends the process
//! with an error, and Pebble restarts it with backoff.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{Config, PebbleMode};
use crate::health::Health;
use crate::scrape::Scraper;
use crate::server::{AppState, MergePool, ScrapeStatus, Server};
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;
use crate::{discovery, pebble, reconciler};

/// How long tasks other than the server may take to end. None of them has work that needs longer.
const TASK_GRACE: Duration = Duration::from_millis(500);

/// A running proxy.
#[derive(Debug)]
pub struct Bound {
    /// The address in use.
    pub address: SocketAddr,
    /// The conditions that `/readyz` reports.
    pub health: Arc<Health>,
    tasks: JoinSet<&'static str>,
    shutdown: Shutdown,
    grace: Duration,
}

/// Binds, then starts everything.
///
/// # Errors
/// Where the port is in use, the certificate authorities cannot be read, or the cluster's configuration is broken.
pub async fn start(config: Config, shutdown: Shutdown) -> anyhow::Result<Bound> {
    let server = Server::bind(&config).with_context(|| {
        format!(
            "cannot listen on port {}; another process has it, or choose another with --port or PORT",
            config.listen.port
        )
    })?;
    let address = server
        .local_addr()
        .context("cannot read the address of the listener")?;
    let health = Arc::new(Health::default());
    let telemetry = Arc::new(Telemetry::default());
    let (discovery, watching) = discovery::start(
        &config.discovery,
        Arc::clone(&health),
        Arc::clone(&telemetry),
        shutdown.clone(),
    )
    .await
    .context("cannot start discovery")?;
    // Runs even with `--pebble off`: it still reports that the identity is unavailable, and still exits when the parent
    // Pebble ends.
    let reconciling = reconciler::run(
        config.pebble.clone(),
        &config.listen,
        Arc::clone(&health),
        Arc::clone(&telemetry),
        shutdown.clone(),
    );
    let state = app_state(&config, discovery, Arc::clone(&health), telemetry)?;
    let serving = server.serve(Arc::new(state), shutdown.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        watching.await;
        "discovery"
    });
    tasks.spawn(async move {
        reconciling.await;
        "reconciler"
    });
    tasks.spawn(async move {
        serving.await;
        "server"
    });
    tracing::info!(%address, version = crate::VERSION, "Serving");
    Ok(Bound {
        address,
        health,
        tasks,
        shutdown,
        grace: config.listen.grace,
    })
}

/// What the server's handlers share.
fn app_state(
    config: &Config,
    discovery: discovery::Handle,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<AppState> {
    let max_responses = config.listen.max_concurrent_responses;
    let scrapes_pebble = config.pebble.own_metrics && config.pebble.mode != PebbleMode::Off;
    Ok(AppState {
        settings: config.scrape.clone(),
        discovery,
        health,
        telemetry,
        scraper: Arc::new(Scraper::try_new(&config.scrape).context("cannot prepare scrapes")?),
        scrape_status: ScrapeStatus::default(),
        write_times: crate::scrape::WriteTimes::default(),
        pebble: scrapes_pebble.then(|| pebble::PebbleScraper::new(&config.pebble)),
        responses: Arc::new(Semaphore::new(max_responses)),
        merges: MergePool::try_new(max_responses).context("cannot start the threads for merges")?,
    })
}

impl Bound {
    /// Waits until every task has ended. `Ok` after a shutdown, even where a task was late.
    ///
    /// # Errors
    /// Where a task ended by itself or panicked; the others are stopped then.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = self.tasks.join_next() => match ended {
                // At shutdown a task may end before this select sees the signal.
                Some(_) if self.shutdown.is_cancelled() => Ok(()),
                Some(Ok(name)) => Err(anyhow!("{name} ended by itself; please report this")),
                Some(Err(error)) => Err(anyhow!(error).context("a task failed; please report this")),
                None => Err(anyhow!("no task is left; please report this")),
            },
        };
        self.shutdown.cancel();
        let joined = async {
            while let Some(joined) = self.tasks.join_next().await {
                if let Err(error) = joined {
                    tracing::error!(%error, "Task failed while stopping");
                }
            }
        };
        if tokio::time::timeout(self.grace + TASK_GRACE, joined)
            .await
            .is_err()
        {
            tracing::warn!(late = self.tasks.len(), "Tasks did not end in time");
        }
        tracing::info!("Stopped");
        ended
    }
}
