//! Keeps Pebble's plan and identities as they should be (shell).
//!
//! Desired state against observed state, one pass at a time:
//!
//! - [`decide`] compares the two and says what to do (pure); [`status`] says what metric, condition and notice follow
//!   from the result (pure).
//! - `reconcile` owns the loop and the connection, `reconcile_layer` and `reconcile_identity` do what was decided,
//!   `report` publishes a status.
//! - `parent` ends the process with the Pebble that started it.
//! - [`commands`] does the same once, for the commands `identity` and `bootstrap`.
//!
//! Nothing here ends the program with an error: whatever Pebble does, metrics are served and `/readyz` names the
//! problem. The service never replans, starts or stops anything; only the command `bootstrap` does.

pub mod commands;
mod decide;
mod parent;
mod reconcile;
mod reconcile_identity;
mod reconcile_layer;
mod report;
mod status;

use std::sync::Arc;

pub use decide::{
    Action, ChangeReason, Desired, LayerAction, Observed, WriteLimiter, plan_identity, plan_layer,
};
pub use status::{Foreign, IdentityStatus, LayerStatus, PebbleStatus, PrivilegeStatus, SecretStatus};

use crate::config::{self, PebbleMode};
use crate::health::Health;
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;
use report::Reporter;

/// Reconciles Pebble until `shutdown`; reports on `health` and `telemetry`.
///
/// Where Pebble started this process and ends without stopping it (killed), this cancels `shutdown` and ends the process
/// a second later at the latest: the next Pebble starts another proxy, which needs the port.
///
/// The conditions are set when this is called, not when it is first polled, so that `/readyz` never says `ready` in
/// between.
pub fn run(
    settings: config::Pebble,
    listen: &config::Listen,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let mut reporter = Reporter::new(settings.mode, health, telemetry);
    announce(&settings, &mut reporter);
    let listen = (listen.address, listen.port);
    async move {
        let parent = parent::Parent::new();
        let work = async {
            if settings.mode == PebbleMode::Off {
                std::future::pending::<()>().await;
            }
            reconcile::Reconciler::new(settings, listen, reporter, &parent)
                .run()
                .await;
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = parent.ended() => {
                parent::exit_soon();
                shutdown.cancel();
                tracing::warn!("Parent Pebble exited, shutting down");
            }
            () = work => {}
        }
    }
}

/// Sets the conditions of this process before the first pass.
fn announce(settings: &config::Pebble, reporter: &mut Reporter) {
    if settings.mode != PebbleMode::Off {
        reporter.announce_pebble();
    }
    reporter.announce_identity(match (settings.secret.is_some(), settings.mode) {
        (false, _) => IdentityStatus::NotConfigured,
        (true, PebbleMode::Off) => IdentityStatus::PebbleOff,
        (true, _) => IdentityStatus::Pending,
    });
}
