//! How many sockets may be open to targets: in all, and to one address.
//!
//! A pod chooses how many ports and paths are scraped on its address. Without these limits one pod could use up the
//! process' file descriptors, which the listener, the API server's connections and Pebble's need as well.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// File descriptors that stay free for the API server, Pebble, files and the log.
const RESERVED_DESCRIPTORS: u64 = 64;

/// File descriptors that stay free for the connections of scrapers and probes, if the limit is not much smaller.
const LISTENER_DESCRIPTORS: u64 = 512;

/// The limits on sockets to targets.
#[derive(Debug)]
pub(super) struct Sockets {
    all: Arc<Semaphore>,
    per_address: usize,
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The right to have one socket open.
#[derive(Debug)]
pub(super) struct SocketPermit {
    _all: OwnedSemaphorePermit,
}

/// The right to use one connection to an address. An idle connection has none.
#[derive(Debug)]
pub(super) struct AddressPermit {
    _one: OwnedSemaphorePermit,
}

impl Sockets {
    /// Limits the sockets to what the process' limit on file descriptors leaves, and to `per_address` for each address.
    pub(super) fn new(per_address: usize) -> Self {
        Self::with_limit(max_sockets(getrlimit(Resource::Nofile).current), per_address)
    }

    fn with_limit(all: usize, per_address: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            per_address: per_address.max(1),
            by_address: Mutex::default(),
        }
    }

    /// Waits until a connection to this address may be used.
    pub(super) async fn address(&self, address: IpAddr) -> AddressPermit {
        let semaphore = {
            let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if by_address.len() >= 1024 && !by_address.contains_key(&address) {
                // Addresses without a permit in use have only this reference. They are forgotten now and then.
                by_address.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            }
            let new = || Arc::new(Semaphore::new(self.per_address));
            Arc::clone(by_address.entry(address).or_insert_with(new))
        };
        let permit = semaphore
            .acquire_owned()
            .await
            .expect("these semaphores are never closed");
        AddressPermit { _one: permit }
    }

    /// Waits until one more socket may be opened. `evict` closes an idle one, and returns whether there was any.
    pub(super) async fn socket(&self, evict: impl Fn() -> bool) -> SocketPermit {
        loop {
            match Arc::clone(&self.all).try_acquire_owned() {
                Ok(permit) => return SocketPermit { _all: permit },
                Err(TryAcquireError::NoPermits) if evict() => {}
                Err(_) => break,
            }
        }
        let permit = Arc::clone(&self.all)
            .acquire_owned()
            .await
            .expect("this semaphore is never closed");
        SocketPermit { _all: permit }
    }
}

/// The sockets to targets that a limit on file descriptors allows.
fn max_sockets(descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else {
        return Semaphore::MAX_PERMITS;
    };
    let reserved = RESERVED_DESCRIPTORS + LISTENER_DESCRIPTORS.min(descriptors / 4);
    let left = descriptors.saturating_sub(reserved).max(8);
    usize::try_from(left).map_or(Semaphore::MAX_PERMITS, |left| left.min(Semaphore::MAX_PERMITS))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn descriptors_are_reserved() {
        for (descriptors, sockets) in [
            (1024, 1024 - 64 - 256),
            (1_048_576, 1_048_576 - 576),
            (200, 86),
            (10, 8),
        ] {
            assert_eq!(max_sockets(Some(descriptors)), sockets, "{descriptors}");
        }
        assert_eq!(max_sockets(None), Semaphore::MAX_PERMITS);
    }

    #[tokio::test]
    async fn one_address_does_not_use_up_the_sockets_of_others() {
        let sockets = Sockets::with_limit(8, 2);
        let [one, other] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
        let first = sockets.address(one).await;
        let _second = sockets.address(one).await;
        let mut third = std::pin::pin!(sockets.address(one));
        assert!(futures::poll!(third.as_mut()).is_pending());
        sockets.address(other).await;
        drop(first);
        third.await;
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_for_a_new_one() {
        let sockets = Sockets::with_limit(1, 2);
        let idle = Cell::new(Some(sockets.socket(|| false).await));
        let _used = sockets.socket(|| idle.take().is_some()).await;
        let mut waiting = std::pin::pin!(sockets.socket(|| idle.take().is_some()));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
    }
}
