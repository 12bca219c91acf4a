//! The one signal that ends everything (leaf).

/// Cancelled when the process shall end. Every long-lived task waits for it beside its work.
pub type Shutdown = tokio_util::sync::CancellationToken;

/// Cancels `shutdown` at SIGTERM or SIGINT; a second signal ends the process at once with exit code 130.
///
/// # Errors
/// Where the signal handlers cannot be installed.
pub fn on_signals(shutdown: Shutdown) -> std::io::Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        tracing::info!(signal, "Stopping");
        shutdown.cancel();
        let signal = next().await;
        tracing::warn!(signal, "Second signal, ending at once");
        std::process::exit(130);
    }))
}
