//! What is read from the API server of a cluster (shell).
//!
//! [`watch`] holds the one loop that lists and watches; [`pods`] and [`monitors`] are the kinds that use it.
//! [`permission`] and [`fallback`] say what happens where something may not be read.

mod client;
mod cluster;
mod error;
mod fallback;
mod monitors;
mod permission;
mod pods;
mod replicas;
mod watch;

pub(super) use cluster::Cluster;
