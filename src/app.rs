//! Builds and owns everything: listener, discovery, reconciler and their end.
//!
//! Shell. Every task has one owner here, which awaits it. A long-lived task that ends on its own or panics ends the
//! process with an error, and Pebble restarts it with backoff.

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

/// How long tasks other than the server may take to end; they hold nothing that needs longer.
const TASK_GRACE: Duration = Duration::from_millis(500);

/// A running proxy: where it listens, and a wait for its end.
#[derive(Debug)]
pub struct Bound {
    /// The address in use.
    pub address: SocketAddr,
    /// Readiness, as `/readyz` sees it.
    pub health: Arc<Health>,
    tasks: JoinSet<&'static str>,
    shutdown: Shutdown,
    grace: Duration,
}

/// Binds, then starts everything.
///
/// # Errors
/// Where the port is taken, the certificate authorities cannot be read, or the cluster's configuration is broken.
pub async fn start(config: Config, shutdown: Shutdown) -> anyhow::Result<Bound> {
    let server = Server::bind(&config).with_context(|| {
        format!(
            "cannot listen on port {}; another process has it, or choose another with --port or PORT",
            config.listen.port
        )
    })?;
    let address = server
        .local_addr()
        .context("cannot tell the address of the listener")?;
    let health = Arc::new(Health::default());
    let telemetry = Arc::new(Telemetry::default());
    let scraper = Arc::new(Scraper::try_new(&config.scrape).context("cannot prepare scrapes")?);
    let mut tasks = JoinSet::new();

    let (discovery, watching) = discovery::start(
        &config.discovery,
        Arc::clone(&health),
        Arc::clone(&telemetry),
        shutdown.clone(),
    )
    .await
    .context("cannot start discovery")?;
    tasks.spawn(async move {
        watching.await;
        "discovery"
    });
    let pebble = (config.pebble.own_metrics && config.pebble.mode != PebbleMode::Off)
        .then(|| pebble::PebbleScraper::new(&config.pebble));
    // Runs even with `--pebble off`: it still reports that the identity is unavailable, and still exits when the parent
    // Pebble ends.
    let reconciling = reconciler::run(
        config.pebble.clone(),
        &config.listen,
        Arc::clone(&health),
        Arc::clone(&telemetry),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        reconciling.await;
        "reconciler"
    });
    let max_responses = config.listen.max_concurrent_responses;
    let state = Arc::new(AppState {
        responses: Arc::new(Semaphore::new(max_responses)),
        merges: MergePool::try_new(max_responses).context("cannot start the threads for merges")?,
        settings: config.scrape.clone(),
        discovery,
        health: Arc::clone(&health),
        telemetry,
        scraper,
        scrape_status: ScrapeStatus::default(),
        write_times: crate::scrape::WriteTimes::default(),
        pebble,
    });
    let stop = shutdown.clone();
    tasks.spawn(async move {
        server.serve(state, stop).await;
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

impl Bound {
    /// Waits for the end. `Ok` after a shutdown, however late some task was.
    ///
    /// # Errors
    /// Where a task ended on its own or panicked; the others are stopped then.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = self.tasks.join_next() => match ended {
                // At shutdown a task may be through before this select sees the signal.
                Some(_) if self.shutdown.is_cancelled() => Ok(()),
                Some(Ok(name)) => Err(anyhow!("{name} ended on its own; please report this")),
                Some(Err(error)) => Err(anyhow!(error).context("a task failed; please report this")),
                None => Err(anyhow!("nothing is left to wait for; please report this")),
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
