//! From wishes, map and clock to what engine and host shall be. Pure, and idempotent: the same facts, the same plan.

use std::net::IpAddr;

use warren_crypto::UnixTime;
use warren_ip::Prefix;
use warren_wire::netmap::NetMap;
use warren_wire::{FilterRule, Node, RelayMap};

use crate::prefs::{NETFILTER_ON, Prefs};

/// Fits into every path that IPv6 allows.
pub const DEFAULT_MTU: u16 = 1280;

/// Beyond so many peers the host gets one route per family instead of one per peer.
const MOST_PEER_ROUTES: usize = 10_000;

/// What the host (or the user-space stack) shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// Whether there is an interface at all.
    pub up: bool,
    /// Our addresses in the mesh.
    pub addrs: Vec<IpAddr>,
    /// What goes into the interface.
    pub routes: Vec<Prefix>,
    /// Of the interface.
    pub mtu: u16,
    /// Drop packets from the mesh's addresses that come by other interfaces.
    pub guard: bool,
}

/// What the engine shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct EnginePlan {
    /// Our addresses in the mesh.
    pub self_addrs: Vec<IpAddr>,
    /// Peers that may be spoken to now: keys that have not expired.
    pub peers: Vec<Node>,
    /// What may come in.
    pub filter: Vec<FilterRule>,
    /// Refuse everything inbound.
    pub shields_up: bool,
    /// The relays.
    pub relay_map: RelayMap,
    /// Of the mesh.
    pub mtu: u16,
}

/// Both halves, and when the clock alone will change them.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// For the engine.
    pub engine: EnginePlan,
    /// For the host.
    pub host: HostPlan,
    /// The next moment (corrected clock) at which a key expires.
    pub next_expiry: Option<UnixTime>,
}

/// Plans. Without a usable map (none, down, logged out, own key expired, machine not approved) nobody may be spoken to.
pub fn plan(prefs: &Prefs, map: Option<&NetMap>, time: UnixTime, mtu: u16) -> Plan {
    let wanted = prefs.want_running && !prefs.logged_out;
    let next_expiry = map.and_then(|map| next_expiry(map, time));
    let usable = map.filter(|map| wanted && map.self_node.machine_authorized && !is_expired(&map.self_node, time));
    let Some(map) = usable else {
        // The relays stay known, so that the network can be measured.
        let relay_map = map.filter(|_| wanted).map(|map| map.relay_map.clone()).unwrap_or_default();
        return Plan {
            engine: EnginePlan {
                self_addrs: Vec::new(),
                peers: Vec::new(),
                filter: Vec::new(),
                shields_up: true,
                relay_map,
                mtu,
            },
            host: HostPlan { up: false, addrs: Vec::new(), routes: Vec::new(), mtu, guard: false },
            next_expiry,
        };
    };
    let self_addrs: Vec<IpAddr> =
        map.self_node.addresses.iter().filter(|prefix| prefix.is_host() && in_mesh(prefix)).map(Prefix::addr).collect();
    let peers: Vec<Node> = map.peers.values().filter(|peer| !is_expired(peer, time)).map(reachable_part).collect();
    let routes = host_routes(&peers, &self_addrs);
    Plan {
        engine: EnginePlan {
            self_addrs: self_addrs.clone(),
            peers,
            filter: map.filter_rules(),
            shields_up: prefs.shields_up,
            relay_map: map.relay_map.clone(),
            mtu,
        },
        host: HostPlan { up: true, addrs: self_addrs, routes, mtu, guard: prefs.netfilter_mode == NETFILTER_ON },
        next_expiry,
    }
}

/// Whether a node's key has expired, by the server's word or by the corrected clock.
pub fn is_expired(node: &Node, time: UnixTime) -> bool {
    node.expired || node.key_expiry.is_some_and(|expiry| expiry <= time)
}

fn next_expiry(map: &NetMap, time: UnixTime) -> Option<UnixTime> {
    let nodes = std::iter::once(&map.self_node).chain(map.peers.values());
    nodes.filter_map(|node| node.key_expiry).filter(|expiry| *expiry > time).min()
}

/// A peer with only those routes that lie inside the mesh: other routes are for the host to accept, which is not built.
fn reachable_part(peer: &Node) -> Node {
    let allowed = peer.routed().iter().filter(|prefix| in_mesh(prefix)).copied().collect();
    Node { allowed_ips: Some(allowed), ..peer.clone() }
}

fn in_mesh(prefix: &Prefix) -> bool {
    mesh_ranges().iter().any(|range| range.contains_prefix(prefix))
}

/// 100.64.0.0/10 and fd7a:115c:a1e0::/48.
pub fn mesh_ranges() -> [Prefix; 2] {
    let v4 = Prefix::masked(IpAddr::from([100, 64, 0, 0]), 10);
    let v6 = Prefix::masked(IpAddr::from([0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0]), 48);
    [v4.expect("10 bits fit IPv4"), v6.expect("48 bits fit IPv6")]
}

fn host_routes(peers: &[Node], self_addrs: &[IpAddr]) -> Vec<Prefix> {
    let mut routes: Vec<Prefix> = peers.iter().flat_map(Node::routed).copied().collect();
    // A family that we have no address of could carry nothing.
    routes.retain(|route| self_addrs.iter().any(|addr| addr.is_ipv4() == route.is_ipv4()));
    routes.sort_unstable();
    routes.dedup();
    if routes.len() > MOST_PEER_ROUTES {
        let whole = mesh_ranges().into_iter();
        return whole.filter(|range| self_addrs.iter().any(|addr| addr.is_ipv4() == range.is_ipv4())).collect();
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_wire::NodeId;

    const NOON: UnixTime = UnixTime::from_secs(1_790_000_000);
    const LATER: UnixTime = UnixTime::from_secs(1_790_000_060);

    fn node(id: i64, allowed: &[&str]) -> Node {
        Node {
            id: NodeId(id),
            addresses: vec![format!("100.64.0.{id}/32").parse().unwrap()],
            allowed_ips: Some(allowed.iter().map(|text| text.parse().unwrap()).collect()),
            machine_authorized: true,
            ..Node::default()
        }
    }

    fn map(peers: Vec<Node>) -> NetMap {
        NetMap {
            self_node: node(1, &[]),
            peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
            ..NetMap::default()
        }
    }

    fn up() -> Prefs {
        Prefs { want_running: true, ..Prefs::default() }
    }

    #[test]
    fn routes_outside_the_mesh_are_not_taken_from_a_peer() {
        let map = map(vec![node(2, &["100.64.0.2/32", "0.0.0.0/0", "10.0.0.0/8", "fd7a:115c:a1e0::2/128"])]);
        let plan = plan(&up(), Some(&map), NOON, DEFAULT_MTU);
        assert_eq!(plan.host.routes, ["100.64.0.2/32".parse().unwrap()], "and no IPv6 without an address of ours");
        assert_eq!(plan.engine.peers[0].routed().len(), 2);
        assert_eq!(plan.host.addrs, [IpAddr::from([100, 64, 0, 1])]);
    }

    #[test]
    fn an_expired_peer_is_left_out_from_the_very_second() {
        let mut peer = node(2, &["100.64.0.2/32"]);
        peer.key_expiry = Some(LATER);
        let map = map(vec![peer]);
        let before = plan(&up(), Some(&map), NOON, DEFAULT_MTU);
        assert_eq!((before.engine.peers.len(), before.next_expiry), (1, Some(LATER)));
        let after = plan(&up(), Some(&map), LATER, DEFAULT_MTU);
        assert_eq!((after.engine.peers.len(), after.host.routes.len(), after.next_expiry), (0, 0, None));
    }

    #[test]
    fn nobody_is_spoken_to_when_down_expired_or_not_approved() {
        let mut good = map(vec![node(2, &["100.64.0.2/32"])]);
        let nobody = |prefs: &Prefs, map: Option<&NetMap>, time| {
            let plan = plan(prefs, map, time, DEFAULT_MTU);
            plan.engine.peers.is_empty() && plan.engine.self_addrs.is_empty() && !plan.host.up
        };
        assert!(!nobody(&up(), Some(&good), NOON));
        assert!(nobody(&up(), None, NOON));
        assert!(nobody(&Prefs::default(), Some(&good), NOON));
        assert!(nobody(&Prefs { logged_out: true, ..up() }, Some(&good), NOON));
        good.self_node.key_expiry = Some(LATER);
        assert!(!nobody(&up(), Some(&good), NOON));
        assert!(nobody(&up(), Some(&good), LATER));
        good.self_node.key_expiry = None;
        good.self_node.machine_authorized = false;
        assert!(nobody(&up(), Some(&good), NOON));
    }

    #[test]
    fn very_many_peers_share_one_route() {
        let peers = (0..10_001u32).map(|n| {
            let mut peer = node(2, &[]);
            peer.id = NodeId(i64::from(n) + 2);
            let [_, b, c, d] = n.to_be_bytes();
            peer.allowed_ips = Some(vec![Prefix::host(IpAddr::from([100, 65 + b, c, d]))]);
            peer
        });
        let plan = plan(&up(), Some(&map(peers.collect())), NOON, DEFAULT_MTU);
        assert_eq!(plan.host.routes, [mesh_ranges()[0]]);
    }
}
