//! Client of Pebble's API over its unix socket, one file a resource (shell).
//!
//! Every request has a deadline of its own. Nothing here decides: that is [`crate::bootstrap`].

mod client;
mod error;
mod identities;
mod layers;
mod metrics;
mod notices;
mod proof;
mod services;
mod system;

pub use client::Client;
pub use error::PebbleError;
pub(crate) use error::chain;
pub use identities::{Change, IdentityInfo, hash_password};
pub use metrics::OwnMetrics;
pub use notices::Notice;
pub use proof::Proof;
pub use services::ServiceInfo;
pub use system::{Peer, SystemInfo, Version};
