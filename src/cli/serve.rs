//! `metrics-proxy serve`, which is also what the program does without a command.

use crate::app;
use crate::config::Config;
use crate::shutdown::{self, Shutdown};

/// Serves until a signal ends it.
///
/// # Errors
/// If the program cannot start, or if a part of it ends by itself.
pub(super) async fn run(config: Config) -> anyhow::Result<u8> {
    raise_descriptor_limit();
    let shutdown = Shutdown::new();
    shutdown::on_signals(shutdown.clone())?;
    app::start(config, shutdown).await?.wait().await?;
    Ok(0)
}

/// Raises the limit of open files: each target keeps a connection, and the usual soft limit of 1,024 is meant for programs
/// that use select.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "Cannot raise the limit of open files");
    }
}
