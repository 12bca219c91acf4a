//! The Pebble that started this process, and its end.
//!
//! A Pebble that is killed leaves its services running. The next one starts a second proxy beside this one, which finds
//! the port taken. This process therefore ends when its parent has ended, if the parent was Pebble.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::pebble::Peer;

/// How often the parent is checked: one system call.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long requests in flight may take then. Pebble gives more time when it stops a service itself.
const GRACE: Duration = Duration::from_secs(1);

/// The parent at the start of this process.
#[derive(Debug)]
pub(super) struct Parent {
    pid: Option<i32>,
    is_pebble: AtomicBool,
}

impl Parent {
    pub(super) fn new() -> Self {
        let pid = parent_pid();
        // Recognizes Pebble by its name where its socket is not asked (`--pebble off`), or where it ends before that.
        let is_pebble = pid
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .is_some_and(|name| name.starts_with("pebble"));
        Self {
            pid,
            is_pebble: AtomicBool::new(is_pebble),
        }
    }

    /// Recognizes the parent as Pebble where it serves Pebble's socket.
    pub(super) fn recognize(&self, peer: Peer) {
        if peer.pid.is_some() && peer.pid == self.pid {
            self.is_pebble.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until this process has another parent than at the start, if that one was Pebble.
    pub(super) async fn ended(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
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

/// Ends the process a moment later, whatever still runs then. It has a thread of its own, so that nothing delays it; no
/// task awaits the thread, since it ends with the process.
pub(super) fn exit_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(GRACE);
        std::process::exit(0);
    });
}
