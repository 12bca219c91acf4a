//! Integration tests: the program with the real parts around it, one module per behaviour.
//!
//! The parts come from `tools/get` (see `tools/README.md`); `support` starts them and cleans up after them.

// Helpers assert: what cannot be had fails the test with its reason. A `# Panics` section on each would say only that.
#![allow(clippy::missing_panics_doc)]

mod support;

mod architecture;
mod charm;
mod dashboard;
mod demo;
mod deploy;
mod discovery;
mod docs;
mod drop_in;
mod end_to_end;
mod environment;
mod exposition;
mod image;
mod ingress;
mod log;
mod reconciler;
mod release;
mod rock;
mod scrape;
mod secrets_in_urls;
mod server;
mod spread;
mod terminating;
mod testbed;
mod tidy;
