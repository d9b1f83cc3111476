//! The UDP sockets of this node and the addresses of its interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::events::{LocalSocket, SocketId};

/// More interface addresses than this are not offered to peers.
const MAX_INTERFACE_ADDRS: usize = 64;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(addr: &SocketAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn socket(self) -> SocketId {
        match self {
            Family::V4 => SocketId::V4,
            Family::V6 => SocketId::V6,
        }
    }

    fn includes(self, ip: &IpAddr) -> bool {
        ip.is_ipv4() == (self == Family::V4)
    }
}

/// What this node has to speak with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sockets {
    open: Vec<LocalSocket>,
    interface_addrs: Vec<IpAddr>,
}

impl Sockets {
    /// Addresses inside the overlay are left out: a path to a peer must never lead through the tunnel.
    pub fn new(mut open: Vec<LocalSocket>, mut interface_addrs: Vec<IpAddr>) -> Sockets {
        open.sort_by_key(|socket| socket.id);
        open.dedup_by_key(|socket| socket.id);
        interface_addrs.retain(|ip| !is_overlay(ip) && !ip.is_unspecified() && !ip.is_multicast());
        interface_addrs.sort();
        interface_addrs.dedup();
        interface_addrs.truncate(MAX_INTERFACE_ADDRS);
        Sockets { open, interface_addrs }
    }

    pub fn get(&self, family: Family) -> Option<&LocalSocket> {
        self.open.iter().find(|socket| socket.id == family.socket())
    }

    /// Whether packets of this family can reach anybody: there is a socket, and an interface with an address that means
    /// something beyond its link. If the caller named no interface addresses, the socket is enough.
    pub fn can_use(&self, family: Family) -> bool {
        if self.get(family).is_none() {
            return false;
        }
        let meaningful: Vec<&IpAddr> = self.interface_addrs.iter().filter(|ip| !is_link_local_v6(ip)).collect();
        if meaningful.is_empty() {
            return self.interface_addrs.is_empty();
        }
        // Every host has ::1, also one without IPv6; loopback counts only on a host that has nothing else.
        let only_loopback = meaningful.iter().all(|ip| ip.is_loopback());
        meaningful.iter().any(|ip| family.includes(ip) && (only_loopback || !ip.is_loopback()))
    }

    /// Where others on the same network may reach us: each interface address with the port of its socket.
    pub fn local_endpoints(&self) -> Vec<SocketAddr> {
        let only_loopback = self.interface_addrs.iter().all(|ip| ip.is_loopback() || is_link_local(ip));
        let mut endpoints = Vec::new();
        for socket in &self.open {
            if !socket.bound.ip().is_unspecified() {
                endpoints.push(socket.bound);
                continue;
            }
            let family = if socket.bound.is_ipv4() { Family::V4 } else { Family::V6 };
            let shown =
                |ip: &&IpAddr| family.includes(ip) && !is_link_local(ip) && (only_loopback || !ip.is_loopback());
            let addrs = self.interface_addrs.iter().filter(shown);
            endpoints.extend(addrs.map(|ip| SocketAddr::new(*ip, socket.bound.port())));
        }
        endpoints
    }
}

/// Whether an address lies in the ranges of the overlay (§0): the node addresses of both families.
pub(crate) fn is_overlay(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => u32::from(*v4) & 0xffc0_0000 == u32::from(Ipv4Addr::new(100, 64, 0, 0)),
        IpAddr::V6(v6) => v6.segments()[..3] == Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0).segments()[..3],
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_link_local()) || is_link_local_v6(ip)
}

fn is_link_local_v6(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Vec<LocalSocket> {
        vec![
            LocalSocket { id: SocketId::V4, bound: "0.0.0.0:41641".parse().expect("v4") },
            LocalSocket { id: SocketId::V6, bound: "[::]:41642".parse().expect("v6") },
        ]
    }

    #[track_caller]
    fn check(interface_addrs: &[&str], expect_v4: bool, expect_v6: bool, expect_local: &[&str]) {
        let addrs = interface_addrs.iter().map(|text| text.parse().expect("an address")).collect();
        let sockets = Sockets::new(both(), addrs);
        assert_eq!((sockets.can_use(Family::V4), sockets.can_use(Family::V6)), (expect_v4, expect_v6));
        let local: Vec<String> = sockets.local_endpoints().iter().map(SocketAddr::to_string).collect();
        assert_eq!(local, expect_local);
    }

    #[test]
    fn a_link_local_address_makes_no_ipv6() {
        check(&["127.0.0.1", "::1", "10.0.0.2", "fe80::1"], true, false, &["10.0.0.2:41641"]);
    }

    #[test]
    fn a_host_without_ipv4_says_so() {
        check(&["127.0.0.1", "::1", "2001:db8::2"], false, true, &["[2001:db8::2]:41642"]);
    }

    #[test]
    fn loopback_is_offered_only_when_there_is_nothing_else() {
        check(&["127.0.0.1", "::1"], true, true, &["127.0.0.1:41641", "[::1]:41642"]);
    }

    #[test]
    fn the_tunnel_itself_is_never_offered() {
        check(&["10.0.0.2", "100.64.0.7", "fd7a:115c:a1e0::7"], true, false, &["10.0.0.2:41641"]);
    }
}
