//! The ports of this host that the node itself listens on.
//!
//! In user-space mode what peers send to a port of this node is led to that port of 127.0.0.1. The node's own sockets are
//! there as well: proxies that act as this node for whoever reaches them, and the tunnel itself. They are for programs of
//! this host; a peer that asks for one finds nobody there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

/// The list; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnPorts(Arc<Mutex<Vec<(Kind, u16)>>>);

/// An entry of the list, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held {
    list: OwnPorts,
    entry: (Kind, u16),
}

impl OwnPorts {
    /// Lists the port of a socket for good.
    pub(crate) fn add(&self, kind: Kind, bound: SocketAddr) {
        self.with(|list| list.push((kind, bound.port())));
    }

    /// Lists the port of a socket that lives less long than the node.
    pub(crate) fn hold(&self, kind: Kind, bound: SocketAddr) -> Held {
        self.add(kind, bound);
        Held { list: self.clone(), entry: (kind, bound.port()) }
    }

    pub(crate) fn contains(&self, kind: Kind, port: u16) -> bool {
        self.with(|list| list.contains(&(kind, port)))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Vec<(Kind, u16)>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.list.with(|list| {
            // Two sockets of different families may have one number; each takes its own entry away.
            if let Some(at) = list.iter().position(|entry| *entry == self.entry) {
                list.swap_remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ours_while_any_socket_has_it_and_for_its_protocol_only() {
        let ports = OwnPorts::default();
        let [v4, v6]: [SocketAddr; 2] = ["127.0.0.1:9", "[::1]:9"].map(|text| text.parse().unwrap());
        ports.add(Kind::Tcp, v4);
        let first = ports.hold(Kind::Udp, v4);
        let second = ports.hold(Kind::Udp, v6);
        drop(first);
        assert!(ports.contains(Kind::Udp, 9));
        drop(second);
        assert!(!ports.contains(Kind::Udp, 9));
        assert!(ports.contains(Kind::Tcp, 9) && !ports.contains(Kind::Tcp, 10));
    }
}
