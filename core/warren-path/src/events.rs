//! What goes into [`crate::Paths`] and what comes out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use warren_crypto::{DiscoPublic, DiscoSecret, NodePublic, Random};
use warren_wire::{Endpoint, NetInfo, RegionId};

/// One UDP socket of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u8);

impl SocketId {
    pub const V4: SocketId = SocketId(0);
    pub const V6: SocketId = SocketId(1);

    /// The socket that speaks to `addr`.
    pub fn for_addr(addr: &SocketAddr) -> SocketId {
        if addr.is_ipv4() { SocketId::V4 } else { SocketId::V6 }
    }
}

/// Where one datagram goes, or came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// By UDP, from this socket. `addr` is never an IPv4-mapped IPv6 address.
    Direct { socket: SocketId, addr: SocketAddr },
    /// By a relay of `region`. `peer` is the node at the other end, as the relay has checked it.
    Relay { region: RegionId, peer: NodePublic },
}

impl Hop {
    /// The direct hop to `addr`, by the socket of its family. An IPv4-mapped address is unmapped.
    pub fn direct(addr: SocketAddr) -> Hop {
        let addr = unmapped(addr);
        Hop::Direct { socket: SocketId::for_addr(&addr), addr }
    }

    pub fn is_direct(&self) -> bool {
        matches!(self, Hop::Direct { .. })
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hop::Direct { addr, .. } => write!(formatter, "{addr}"),
            Hop::Relay { region, .. } => write!(formatter, "relay {region}"),
        }
    }
}

/// Where the packets for a peer go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    pub first: Hop,
    /// The second way, while the first is not (or no longer) known to work; the peer's replay window drops the copy.
    pub also: Option<Hop>,
}

/// A probe to send: by the socket that it speaks for, or by a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub hop: Hop,
    pub bytes: Vec<u8>,
}

/// Why a packet for a peer can go nowhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    #[error("no such peer")]
    UnknownPeer,
    #[error("neither a direct path nor a relay is known for this peer")]
    NoAddress,
}

/// One ping that a person asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub u64);

/// What a node is born with.
pub struct PathsConfig {
    /// Goes into every ping, so that the peer knows who is behind an address.
    pub node: NodePublic,
    /// Kept by the caller over restarts.
    pub disco: DiscoSecret,
    pub random: Random,
}

/// A peer as the network map shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub key: NodePublic,
    /// `None`: the peer speaks no disco, so nothing but the relay is tried.
    pub disco: Option<DiscoPublic>,
    pub endpoints: Vec<SocketAddr>,
    /// Where it listens for relayed packets.
    pub home: Option<RegionId>,
    /// Whether its router maps it differently for each destination, if its host information says so. Only explains.
    pub mapping_varies: Option<bool>,
}

impl PeerConfig {
    /// A peer of which only the key is known.
    pub fn new(key: NodePublic) -> PeerConfig {
        PeerConfig { key, disco: None, endpoints: Vec::new(), home: None, mapping_varies: None }
    }
}

/// A socket that the caller has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSocket {
    pub id: SocketId,
    /// With its real port; the address is often the wildcard.
    pub bound: SocketAddr,
}

/// Why a peer can perhaps be reached again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// There is another way to it, or the relay on its way is connected again.
    WayIsBack,
    /// It sent an authentic probe.
    Spoke,
}

/// News, in the order in which they happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The addresses at which others may reach this node, best first: tell the control server.
    EndpointsChanged(Vec<Endpoint>),
    /// The relay region where this node listens: connect to it and stay.
    HomeChanged(Option<RegionId>),
    /// How the network looks has changed in a way that matters to others: tell the control server.
    NetInfoChanged(NetInfo),
    /// [`crate::Paths::report`] is new.
    ReportReady,
    /// Packets for this peer now take another way; `None`: none at all.
    PathChanged { peer: NodePublic, hop: Option<Hop> },
    /// A relay region is in use. Repeated at most every ten seconds while it is, at most every second until connected.
    WantRelay { region: RegionId },
    /// No STUN server answers: time one HTTPS request to this region, then call [`crate::Paths::https_latency`].
    ProbeHttps { region: RegionId },
    /// A relay has no literal address: look the name up, then call [`crate::Paths::resolved`].
    Resolve { name: String },
    /// The first answer to a ping that a person asked for. `observed`: by which address the peer sees us.
    Pong { id: PingId, hop: Hop, latency: Duration, observed: SocketAddr },
    /// No way answered within five seconds, or there was none to try.
    PingTimedOut { id: PingId },
}

/// What was dropped or sent, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub pings_sent: u64,
    pub pongs_sent: u64,
    pub calls_sent: u64,
    pub stun_sent: u64,
    pub pongs_received: u64,
    pub calls_received: u64,
    /// Shorter than an envelope, or neither STUN nor disco.
    pub drop_malformed: u64,
    /// A disco key of nobody that we know.
    pub drop_unknown_sender: u64,
    /// The seal does not open.
    pub drop_forged: u64,
    /// Sealed well, but of a kind or shape that this build does not know.
    pub drop_unknown_message: u64,
    /// Call-me-maybe that did not come by a relay from its sender.
    pub drop_call_not_relayed: u64,
    /// A pong that nobody waits for.
    pub drop_unexpected_pong: u64,
    /// A STUN answer to no question of ours.
    pub drop_unexpected_stun: u64,
    /// The same ping twice from one address.
    pub drop_duplicate_ping: u64,
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it is.
pub(crate) fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether a datagram to `addr` may leave by a socket: no link-local IPv6 (it means nothing without its interface), no
/// group, no wildcard, no port 0.
pub(crate) fn is_usable_endpoint(addr: &SocketAddr) -> bool {
    let usable_ip = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    usable_ip && addr.port() != 0
}
