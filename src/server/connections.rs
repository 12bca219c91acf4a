//! Which connections are open, and which one has to go when there are too many.
//!
//! A new connection is never made to wait: where a limit is reached, the connection that has waited longest for its client
//! is closed. Half-open and idle connections therefore never keep a health check waiting.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::connection::ConnectionState;

/// Connections of all clients together. Scrapers need a handful.
const MAX_CONNECTIONS: usize = 512;

/// Connections beyond that for clients on this machine: Pebble's checks, and the kubelet's where it shares the network.
const RESERVED_CONNECTIONS: usize = 16;

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max_per_client: usize,
    max_total: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    by_id: HashMap<u64, Entry>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    client: IpAddr,
    state: Arc<ConnectionState>,
}

/// What became of a new connection.
#[derive(Debug)]
pub(super) struct Admission {
    /// The connection's place; `None` where it is refused, because every other one serves a request.
    pub(super) slot: Option<Slot>,
    /// The limit that was reached, as a stable word.
    pub(super) limit: Option<&'static str>,
}

/// A place among the open connections; gives it back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    connections: Arc<Connections>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().by_id.remove(&self.id);
    }
}

impl Connections {
    pub(super) fn new(max_per_client: usize) -> Self {
        Self {
            max_per_client,
            max_total: MAX_CONNECTIONS,
            open: Mutex::default(),
        }
    }

    /// The number of open connections.
    pub(super) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Admits a new connection, and closes another one where that is necessary.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr, state: &Arc<ConnectionState>) -> Admission {
        // An IPv4 client of a dual-stack listener has a mapped address.
        let client = client.to_canonical();
        let mut open = self.lock();
        let n_of_client = open.by_id.values().filter(|entry| entry.client == client).count();
        let (is_full, limit) = if n_of_client >= self.max_per_client {
            (!open.close_longest_waiting(Some(client)), Some("client"))
        } else if open.by_id.len() >= self.max_total {
            let has_reserve = is_local(client) && open.by_id.len() < self.max_total + RESERVED_CONNECTIONS;
            (!open.close_longest_waiting(None) && !has_reserve, Some("total"))
        } else {
            (false, None)
        };
        if is_full {
            return Admission { slot: None, limit };
        }
        let id = open.next_id;
        open.next_id += 1;
        let state = Arc::clone(state);
        open.by_id.insert(id, Entry { client, state });
        let connections = Arc::clone(self);
        let slot = Some(Slot { id, connections });
        Admission { slot, limit }
    }

    /// Closes the connection that has waited longest for its client; returns whether there was one.
    pub(super) fn close_longest_waiting(&self) -> bool {
        self.lock().close_longest_waiting(None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn close_longest_waiting(&mut self, client: Option<IpAddr>) -> bool {
        let longest = self
            .by_id
            .iter()
            .filter(|(_, entry)| client.is_none_or(|client| entry.client == client))
            .filter_map(|(id, entry)| Some((entry.state.waiting_since()?, *id)))
            .min();
        let Some((_, id)) = longest else {
            return false;
        };
        if let Some(entry) = self.by_id.remove(&id) {
            entry.state.closing.cancel();
        }
        true
    }
}

/// The addresses from which Pebble's checks come.
fn is_local(client: IpAddr) -> bool {
    client == IpAddr::V4(Ipv4Addr::LOCALHOST) || client == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max_per_client: usize, max_total: usize) -> Arc<Connections> {
        Arc::new(Connections {
            max_total,
            ..Connections::new(max_per_client)
        })
    }

    fn client(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn connect(connections: &Arc<Connections>, client: IpAddr) -> (Arc<ConnectionState>, Admission) {
        let state = Arc::new(ConnectionState::new());
        let admission = connections.admit(client, &state);
        (state, admission)
    }

    #[test]
    fn the_longest_waiting_connection_of_a_client_makes_room_for_its_next() {
        let connections = connections(2, 10);
        let (first, _first) = connect(&connections, client(1));
        let (second, _second) = connect(&connections, client(1));
        let (other, _other) = connect(&connections, client(2));
        let (_, third) = connect(&connections, client(1));
        assert!(third.slot.is_some());
        assert_eq!(third.limit, Some("client"));
        assert!(first.closing.is_cancelled());
        assert!(!second.closing.is_cancelled() && !other.closing.is_cancelled());
        assert_eq!(connections.len(), 3);
    }

    #[test]
    fn a_connection_that_serves_a_request_is_never_closed() {
        let connections = connections(1, 10);
        let (busy, _busy) = connect(&connections, client(1));
        let request = busy.begin_request();
        let (_, refused) = connect(&connections, client(1));
        assert!(refused.slot.is_none());
        drop(request);
        let (_, admitted) = connect(&connections, client(1));
        assert!(admitted.slot.is_some() && busy.closing.is_cancelled());
    }

    #[test]
    fn a_check_from_this_machine_is_admitted_when_every_connection_is_busy() {
        let connections = connections(2, 2);
        let (one, _one) = connect(&connections, client(1));
        let (two, _two) = connect(&connections, client(2));
        let _requests = [one.begin_request(), two.begin_request()];
        let (_, refused) = connect(&connections, client(3));
        assert!(refused.slot.is_none());
        assert_eq!(refused.limit, Some("total"));
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let (_, admitted) = connect(&connections, local.parse().expect("an address"));
            assert!(admitted.slot.is_some(), "{local}");
        }
    }

    #[test]
    fn a_dropped_slot_is_free_again() {
        let connections = connections(1, 1);
        let (_, admission) = connect(&connections, client(1));
        assert_eq!(connections.len(), 1);
        drop(admission);
        assert_eq!(connections.len(), 0);
    }
}
