//! A container in a Juju sidecar charm that serves one `/metrics` for many pods.
//!
//! Pebble runs it. It adds checks of its own to Pebble's plan, keeps a Pebble identity in step with a mounted secret, watches
//! Kubernetes pods, and responds to `GET /metrics` by scraping all selected pods at that moment and merging their metrics into
//! one exposition.
//!
//! Functional core, imperative shell: the crate [`exposition`], [`targets`] and [`config`] turn values into values; everything
//! else does the I/O. `ARCHITECTURE.md` draws the dependencies, `tests/it/tidy.rs` checks them.

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

/// The version of this build, as `metrics-proxy --version` and the User-Agent of scrapes show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
