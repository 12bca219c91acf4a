//! The Pebble that started us, and its end.
//!
//! A Pebble that is killed leaves its services behind. The next one starts a second proxy beside us, which would find
//! the port taken; so we go when our parent is gone, if it was Pebble.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::pebble::Peer;

/// How often the parent is looked at: one system call.
const LOOK: Duration = Duration::from_millis(250);
/// How long requests in flight may take then. A stop that Pebble asks for has longer.
const GRACE: Duration = Duration::from_secs(1);

/// Our parent when we started.
#[derive(Debug)]
pub(super) struct Parent {
    pid: Option<i32>,
    is_pebble: AtomicBool,
}

impl Parent {
    pub(super) fn new() -> Self {
        let pid = parent_pid();
        // Enough to know it by where Pebble is not to be asked, or is gone before we could ask who serves its socket.
        let is_pebble = pid
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .is_some_and(|name| name.starts_with("pebble"));
        Self {
            pid,
            is_pebble: AtomicBool::new(is_pebble),
        }
    }

    /// Takes note of who serves Pebble's socket.
    pub(super) fn recognise(&self, peer: Peer) {
        if peer.pid.is_some() && peer.pid == self.pid {
            self.is_pebble.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the parent is another than at the start, if it was Pebble.
    pub(super) async fn gone(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if self.is_pebble.load(Ordering::Relaxed) && parent_pid() != self.pid {
                return;
            }
        }
    }
}

fn parent_pid() -> Option<i32> {
    rustix::process::getppid().map(rustix::process::Pid::as_raw_pid)
}

/// Ends the process a moment later, whatever still runs then. A thread of its own, so that nothing can hold it up; it
/// goes with the process, and there is nobody who could wait for it.
pub(super) fn end_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(GRACE);
        std::process::exit(0);
    });
}
