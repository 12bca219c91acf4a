//! The signal that ends all tasks (leaf).

/// Cancelled when the process must end. Every long-lived task waits for it beside its work.
pub type Shutdown = tokio_util::sync::CancellationToken;

/// Cancels `shutdown` at SIGTERM or SIGINT; a second signal ends the process at once with exit code 130.
///
/// SIGHUP, SIGUSR1 and SIGUSR2 are ignored. By default they would end the process, and people who know other servers send
/// them to reload the configuration or to reopen log files.
///
/// # Errors
/// Where the signal handlers cannot be installed.
pub fn on_signals(shutdown: Shutdown) -> std::io::Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    Ok(tokio::spawn(async move {
        let mut next = async || {
            loop {
                let ignored = tokio::select! {
                    _ = terminate.recv() => return "SIGTERM",
                    _ = interrupt.recv() => return "SIGINT",
                    _ = hangup.recv() => "SIGHUP",
                    _ = user1.recv() => "SIGUSR1",
                    _ = user2.recv() => "SIGUSR2",
                };
                tracing::info!(signal = ignored, "Ignored a signal");
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
