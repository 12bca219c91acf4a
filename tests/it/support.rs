//! What the integration tests share: getting the real parts, starting them on loopback, asking them, ending them.
//!
//! Everything that is started lives in a value and ends with it, after a panic too; what has no owner (the shared API
//! server) and what outlives a killed test run is ended by the [`process`] reaper.

// A helper that no test happens to use just now is not a mistake.
#![allow(dead_code)]

pub(crate) mod app;
pub(crate) mod http;
pub(crate) mod kube;
pub(crate) mod pebble;
pub(crate) mod pod;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod tools;
