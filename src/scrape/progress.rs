//! What a scrape is doing, for the message when its deadline passes.

use std::sync::atomic::{AtomicU8, Ordering};

/// A step of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Waiting for permission to open a connection.
    Queue,
    /// Connecting.
    Connect,
    /// The TLS handshake.
    TlsHandshake,
    /// The request is sent, and no byte of the response has been parsed.
    Response,
    /// Reading the body.
    Body,
    /// Decompressing and parsing the body, or waiting for a CPU to do so.
    Parse,
}

const STEPS: [Step; 6] = [
    Step::Queue,
    Step::Connect,
    Step::TlsHandshake,
    Step::Response,
    Step::Body,
    Step::Parse,
];

/// The current step of one scrape. It outlives the scrape's future, which the deadline drops.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

impl Progress {
    pub(super) fn set(&self, step: Step) {
        self.0.store(step as u8, Ordering::Relaxed);
    }

    pub(super) fn step(&self) -> Step {
        let step = usize::from(self.0.load(Ordering::Relaxed));
        STEPS.get(step).copied().unwrap_or(Step::Queue)
    }
}
