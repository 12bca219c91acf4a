//! Client of Pebble's API over its unix socket, one file a resource (shell).
//!
//! Every request has a deadline of its own. Nothing here decides: that is [`crate::reconciler`]. `layer`, `plan` and
//! `owner_marker` are values: what the proxy writes into Pebble, and how it reads what is there.

mod api_client;
mod error;
mod identities;
mod layer;
mod layers;
mod notices;
mod owner_marker;
mod plan;
mod scraper;
mod services;
mod system_info;
mod verification;

pub use api_client::Client;
pub use error::PebbleError;
pub use identities::{Change, IdentityInfo, hash_password};
pub use layer::{LABEL, Layer, LayerInputs, SERVICE, SERVICE_LABEL};
pub use notices::Notice;
pub use owner_marker::{Marker, Owner};
pub use plan::{EffectiveCheck, Plan, PlanError, PlannedService};
pub use scraper::PebbleScraper;
pub use services::ServiceInfo;
pub use system_info::{Peer, SystemInfo, Version};
pub use verification::Verification;
pub(crate) use verification::responds_on_loopback;
