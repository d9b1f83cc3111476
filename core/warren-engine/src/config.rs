//! The whole desired state of the data plane, applied by [`Engine::set`](crate::Engine::set).

use std::net::{IpAddr, SocketAddr};

use warren_crypto::{DiscoPublic, DiscoSecret, NodePublic, NodeSecret};
use warren_ip::Prefix;
use warren_wire::{FilterRule, RegionId, RelayMap};

/// Who this node is towards peers.
pub struct EngineIdentity {
    /// Authenticates to peers and relays.
    pub node: NodeSecret,
    /// Seals disco messages; kept over restarts.
    pub disco: DiscoSecret,
}

/// What the network map and the user's preferences come to.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// This node's overlay addresses, first of each family first.
    pub self_addrs: Vec<IpAddr>,
    /// Networks behind this node, for which it takes packets beside its own addresses.
    pub routes_here: Vec<Prefix>,
    /// Everybody whom this node may talk to.
    pub peers: Vec<EnginePeer>,
    /// What may come in: all named chunks one after another.
    pub filter: Vec<FilterRule>,
    /// Nobody opens anything towards this node.
    pub shields_up: bool,
    /// Where relays and STUN servers are.
    pub relay_map: RelayMap,
    /// Largest inner packet in bytes; bounds padding. 0 means 1280.
    pub mtu: u16,
    /// How accepted packets are handed over.
    pub delivery: Delivery,
}

/// How accepted inner packets leave [`Engine::poll_delivery`](crate::Engine::poll_delivery).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// One by one: for a user-space stack, or a device without offloads.
    #[default]
    Single,
    /// Segments of one flow as one burst, for a device with offloads.
    Joined {
        /// The device takes UDP bursts as well.
        udp: bool,
    },
}

/// A peer of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnginePeer {
    /// Its node key.
    pub key: NodePublic,
    /// Its disco key; `None`: it speaks no disco.
    pub disco: Option<DiscoPublic>,
    /// Where it says that it can be reached.
    pub endpoints: Vec<SocketAddr>,
    /// The relay region where it listens.
    pub home: Option<RegionId>,
    /// Whether its router maps it differently for each destination, if it says so.
    pub mapping_varies: Option<bool>,
    /// Its own addresses and the accepted networks behind it. Packets to these go to it; only packets from these come from it.
    pub allowed: Vec<Prefix>,
    /// Names of the node capabilities that it holds (sources `cap:<name>` in rules).
    pub caps: Vec<String>,
    /// Its key has expired: nothing goes to it or comes from it.
    pub expired: bool,
    /// It understands a disco key said inside the tunnel (capability version 144 and up): say it with each new session.
    pub takes_disco_key: bool,
}

impl EnginePeer {
    /// A peer of which only the key is known.
    #[must_use]
    pub fn new(key: NodePublic) -> Self {
        Self {
            key,
            disco: None,
            endpoints: Vec::new(),
            home: None,
            mapping_varies: None,
            allowed: Vec::new(),
            caps: Vec::new(),
            expired: false,
            takes_disco_key: false,
        }
    }
}
