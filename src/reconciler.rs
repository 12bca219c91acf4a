//! Keeps Pebble's plan and identities as they should be (shell).
//!
//! Desired state against observed state, one look at a time: `decide` says what to do and is pure, `reconcile` does
//! it. Nothing here makes the program fail: whatever Pebble does, metrics are served and `/readyz` says what is wrong.
//! The service never replans, starts or stops anything; only the command `bootstrap` ([`commands`]) does.

pub mod commands;
mod decide;
mod parent;
mod reconcile;

use std::sync::Arc;

pub use decide::{Fight, Foreign, LayerStep, Step, Wanted, Why, decide_identity, decide_layer};

use crate::config::{self, PebbleMode};
use crate::health::Health;
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;

/// Keeps Pebble as it should be until `shutdown`; reports on `health` and `telemetry`.
///
/// Where Pebble started this process and is gone (killed, so that it could not stop us), it cancels `shutdown` and ends
/// the process a second later at the latest: the next Pebble starts another of us, which needs the port.
///
/// The duties are named on `health` when this is called, not when it is first polled: nobody shall read `ready` in
/// between.
pub fn run(
    settings: config::Pebble,
    port: u16,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send {
    reconcile::announce(&settings, &health, &telemetry);
    async move {
        let parent = parent::Parent::new();
        let work = async {
            if settings.mode == PebbleMode::Off {
                std::future::pending::<()>().await;
            }
            reconcile::Reconciler::new(settings, port, health, telemetry, &parent)
                .run()
                .await;
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = parent.gone() => {
                parent::end_soon();
                shutdown.cancel();
                tracing::warn!("Pebble, which started us, is gone: ending");
            }
            () = work => {}
        }
    }
}
