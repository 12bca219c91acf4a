//! A container in a Juju sidecar charm that answers one `/metrics` for many pods.
//!
//! Pebble runs it. It adds its own checks to Pebble's plan, keeps a Pebble identity in step with a mounted secret,
//! watches Kubernetes pods, and answers `GET /metrics` by scraping all selected pods at that moment and merging what
//! they say into one valid exposition.
//!
//! Functional core, imperative shell: the crate [`exposition`], [`targets`] and [`config`] turn values into values;
//! everything else does the I/O. `ARCHITECTURE.md` draws the arrows, `tests/it/tidy.rs` keeps them.

pub mod config;
pub mod credential;
pub mod targets;

pub mod backoff;
pub mod error;
pub mod health;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub mod discovery;
pub mod pebble;
pub mod reconciler;
pub mod scrape;
pub mod secret;
pub mod server;

pub mod app;
pub mod cli;

/// The version of this build, as in `metrics-proxy --version` and the User-Agent of scrapes.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
