//! Nodes on a simulated internet. The stand-ins: a relay that forwards after 20 ms, a control server that tells everybody
//! about everybody after 50 ms, and "data", which is believed to be authentic because it says so.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_crypto::{DiscoSecret, NodePublic, Random};
use warren_path::{Event, Hop, LocalSocket, PathStatus, Paths, PathsConfig, PeerConfig, SocketId, disco};
use warren_relay::stun;
use warren_simnet::{Arrival, Dependence, Firewall, HostId, Internet, Link, Nat, Ports, RouterConfig, Segment};
use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

pub const REGION: RegionId = RegionId(900);
pub const PORT: u16 = 41641;
const RELAY_LATENCY: Duration = Duration::from_millis(20);
const CONTROL_LATENCY: Duration = Duration::from_millis(50);
/// First byte of what stands for WireGuard data; the sender's key follows.
const DATA: u8 = 4;

/// What runs on a host of the simulation.
pub enum Machine {
    Stun,
    Node(Box<Node>),
}

pub struct Node {
    pub key: NodePublic,
    pub paths: Paths,
    pub events: Vec<Event>,
    /// Data that came directly, and by relay.
    pub direct: u32,
    pub relayed: u32,
    endpoints: Vec<SocketAddr>,
    home: Option<RegionId>,
    mapping_varies: Option<bool>,
    is_connected: bool,
}

enum Later {
    /// A packet in the relay.
    Frame { from: NodePublic, to: NodePublic, bytes: Vec<u8> },
    /// The control server sends maps.
    Maps,
}

pub struct World {
    pub internet: Internet<Machine>,
    pub relay_is_up: bool,
    pub control_is_up: bool,
    /// Whether nodes show each other endpoints.
    pub shows_endpoints: bool,
    /// Packets that were not disco, in the relay.
    pub relayed_data: u32,
    relay_map: RelayMap,
    later: BTreeMap<(Instant, u64), Later>,
    sequence: u64,
}

impl World {
    /// An internet with two STUN servers of one region.
    pub fn new() -> World {
        let mut internet = Internet::new(1);
        let servers = [0; 2].map(|_| internet.add_host(Segment::Public, true, true, Machine::Stun));
        let nodes = servers.map(|server| {
            let [v4, v6] = [0, 1].map(|family| internet.host(server).addrs()[family].to_string());
            RelayNode { name: v4.clone(), region_id: REGION, ipv4: v4, ipv6: v6, ..RelayNode::default() }
        });
        let region = RelayRegion { region_id: REGION, nodes: nodes.into(), ..RelayRegion::default() };
        World {
            internet,
            relay_is_up: true,
            control_is_up: true,
            shows_endpoints: true,
            relayed_data: 0,
            relay_map: RelayMap { regions: BTreeMap::from([(REGION, region)]), ..RelayMap::default() },
            later: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Two nodes, each behind a router of its own.
    pub fn pair(a: RouterKind, b: RouterKind) -> (World, HostId, HostId) {
        let mut world = World::new();
        let [a, b] = [a, b].map(|kind| world.router(kind));
        let (a, b) = (world.node(a, true, false), world.node(b, true, false));
        world.run(1000);
        (world, a, b)
    }

    pub fn router(&mut self, kind: RouterKind) -> Segment {
        let (nat, firewall) = kind.config();
        let config = RouterConfig { upstream: Segment::Public, nat, firewall, link: Link::default() };
        Segment::Behind(self.internet.add_router(config))
    }

    pub fn node(&mut self, segment: Segment, v4: bool, v6: bool) -> HostId {
        let number = u8::try_from(self.internet.host_ids().count()).expect("few hosts");
        let now = self.internet.now();
        let key = NodePublic::from_bytes([number; 32]);
        let disco = DiscoSecret::from_seed([number; 32]);
        let random = Random::from_seed([number; 32]);
        let mut paths = Paths::new(PathsConfig { node: key, disco, random }, now);
        paths.set_relay_map(self.relay_map.clone(), now);
        let node = Node {
            key,
            paths,
            events: Vec::new(),
            direct: 0,
            relayed: 0,
            endpoints: Vec::new(),
            home: None,
            mapping_varies: None,
            is_connected: false,
        };
        let host = self.internet.add_host(segment, v4, v6, Machine::Node(Box::new(node)));
        self.refresh_sockets(host);
        host
    }

    /// Tells a node which addresses its host has.
    pub fn refresh_sockets(&mut self, host: HostId) {
        let (now, addrs) = (self.internet.now(), self.internet.host(host).addrs().to_vec());
        let bound = [("0.0.0.0", SocketId::V4), ("::", SocketId::V6)];
        let sockets = bound.map(|(any, id)| {
            let ip: IpAddr = any.parse().expect("an address");
            LocalSocket { id, bound: SocketAddr::new(ip, PORT) }
        });
        self.at(host).paths.set_sockets(sockets.into(), addrs, now);
    }

    pub fn at(&mut self, host: HostId) -> &mut Node {
        match &mut self.internet.host_mut(host).value {
            Machine::Node(node) => node,
            Machine::Stun => panic!("a server, not a node"),
        }
    }

    pub fn key(&mut self, host: HostId) -> NodePublic {
        self.at(host).key
    }

    pub fn status(&mut self, host: HostId, of: HostId) -> PathStatus {
        let (now, key) = (self.internet.now(), self.key(of));
        self.at(host).paths.path_of(&key, now)
    }

    /// One data packet; it goes every way that `hops_for` says.
    pub fn send(&mut self, from: HostId, to: HostId) {
        let (now, own, peer) = (self.internet.now(), self.key(from), self.key(to));
        let Ok(hops) = self.at(from).paths.hops_for(&peer, now) else { return };
        for hop in [Some(hops.first), hops.also].into_iter().flatten() {
            let bytes = [&[DATA], own.as_bytes().as_slice()].concat();
            self.carry(from, hop, bytes);
        }
        self.drain(from);
    }

    /// Both send to each other every 200 ms.
    pub fn talk(&mut self, a: HostId, b: HostId, millis: u64) {
        for _ in 0..millis / 200 {
            self.send(a, b);
            self.send(b, a);
            self.run(200);
        }
    }

    pub fn run(&mut self, millis: u64) {
        let limit = self.internet.now() + Duration::from_millis(millis);
        let hosts: Vec<HostId> = self.internet.host_ids().collect();
        for host in &hosts {
            self.drain(*host);
        }
        loop {
            let timers = hosts.iter().filter_map(|host| self.timeout(*host)).min();
            let later = self.later.first_key_value().map(|((at, _), _)| *at);
            let next = [timers, later, self.internet.next_at(), Some(limit)].into_iter().flatten().min();
            let next = next.unwrap_or(limit).min(limit);
            if let Some(arrival) = self.internet.advance(next) {
                self.arrive(arrival);
                continue;
            }
            self.do_later(next);
            for host in &hosts {
                if self.timeout(*host).is_some_and(|at| at <= next) {
                    self.at(*host).paths.handle_timeout(next);
                    self.drain(*host);
                }
            }
            let has_more = self.later.first_key_value().is_some_and(|((at, _), _)| *at <= limit)
                || self.internet.next_at().is_some_and(|at| at <= limit)
                || hosts.iter().any(|host| self.timeout(*host).is_some_and(|at| at <= limit));
            if next >= limit && !has_more {
                return;
            }
        }
    }

    fn timeout(&self, host: HostId) -> Option<Instant> {
        match &self.internet.host(host).value {
            Machine::Node(node) => node.paths.poll_timeout(),
            Machine::Stun => None,
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.internet.now();
        let Arrival::Datagram { host, src, bytes, dst } = arrival else { return };
        if let Machine::Stun = self.internet.host(host).value {
            if let Ok(tx) = stun::decode_request(&bytes) {
                self.internet.send(host, dst.port(), src, stun::encode_response(tx, src));
            }
            return;
        }
        self.receive(host, Hop::direct(src), &bytes, now);
    }

    pub fn receive(&mut self, host: HostId, from: Hop, bytes: &[u8], now: Instant) {
        let node = self.at(host);
        if Paths::is_probe(bytes) {
            node.paths.handle_probe(from, bytes, now);
        } else if let Some((DATA, key)) = bytes.split_first().map(|(first, key)| (*first, key)) {
            let key = NodePublic::from_bytes(key.try_into().expect("data carries a key"));
            node.paths.heard_from(&key, from, now);
            match from {
                Hop::Direct { .. } => node.direct += 1,
                Hop::Relay { .. } => node.relayed += 1,
            }
        }
        self.drain(host);
    }

    fn carry(&mut self, from: HostId, hop: Hop, bytes: Vec<u8>) {
        match hop {
            Hop::Direct { addr, .. } => self.internet.send(from, PORT, addr, bytes),
            Hop::Relay { peer, region } => {
                assert_eq!(region, REGION);
                let own = self.key(from);
                self.relayed_data += u32::from(!disco::looks_like_disco(&bytes));
                if self.at(from).is_connected {
                    self.schedule(RELAY_LATENCY, Later::Frame { from: own, to: peer, bytes });
                }
            }
        }
    }

    fn drain(&mut self, host: HostId) {
        if !matches!(self.internet.host(host).value, Machine::Node(_)) {
            return;
        }
        while let Some(transmit) = self.at(host).paths.poll_transmit() {
            self.carry(host, transmit.hop, transmit.bytes);
        }
        while let Some(event) = self.at(host).paths.poll_event() {
            self.handle(host, &event);
            self.at(host).events.push(event);
        }
    }

    fn handle(&mut self, host: HostId, event: &Event) {
        let (now, relay_is_up) = (self.internet.now(), self.relay_is_up);
        let node = self.at(host);
        match event {
            Event::EndpointsChanged(endpoints) => {
                node.endpoints = endpoints.iter().map(|endpoint| endpoint.addr).collect();
                self.schedule(CONTROL_LATENCY, Later::Maps);
            }
            Event::HomeChanged(home) => {
                node.home = *home;
                self.schedule(CONTROL_LATENCY, Later::Maps);
            }
            Event::NetInfoChanged(info) => {
                node.mapping_varies = info.mapping_varies_by_dest_ip;
                self.schedule(CONTROL_LATENCY, Later::Maps);
            }
            Event::WantRelay { region } if relay_is_up && !node.is_connected => {
                node.is_connected = true;
                node.paths.relay_state(*region, true, now);
            }
            Event::ProbeHttps { region } => node.paths.https_latency(*region, Some(Duration::from_millis(60)), now),
            _ => {}
        }
        let node = self.at(host);
        if node.home.is_some() && relay_is_up && !node.is_connected {
            node.is_connected = true;
            node.paths.relay_state(REGION, true, now);
        }
    }

    /// The relay stops, or is there again: everybody notices at once.
    pub fn set_relay(&mut self, is_up: bool) {
        self.relay_is_up = is_up;
        let now = self.internet.now();
        for host in self.internet.host_ids() {
            if let Machine::Node(node) = &mut self.internet.host_mut(host).value {
                node.is_connected = is_up;
                node.paths.relay_state(REGION, is_up, now);
            }
        }
    }

    fn schedule(&mut self, after: Duration, later: Later) {
        self.sequence += 1;
        self.later.insert((self.internet.now() + after, self.sequence), later);
    }

    fn do_later(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            match entry.remove() {
                Later::Maps if self.control_is_up => self.send_maps(),
                Later::Maps => {}
                Later::Frame { from, to, bytes } => {
                    let hosts: Vec<HostId> = self.internet.host_ids().collect();
                    let is_target = |host: &&HostId| matches!(&self.internet.host(**host).value, Machine::Node(node) if node.key == to && node.is_connected);
                    if let Some(host) = hosts.iter().find(is_target).copied().filter(|_| self.relay_is_up) {
                        self.receive(host, Hop::Relay { region: REGION, peer: from }, &bytes, now);
                    }
                }
            }
        }
    }

    /// Everybody learns of everybody.
    pub fn send_maps(&mut self) {
        let now = self.internet.now();
        let mut configs = Vec::new();
        for host in self.internet.host_ids() {
            if let Machine::Node(node) = &self.internet.host(host).value {
                configs.push(PeerConfig {
                    key: node.key,
                    disco: Some(node.paths.disco_public()),
                    endpoints: if self.shows_endpoints { node.endpoints.clone() } else { Vec::new() },
                    home: node.home,
                    mapping_varies: node.mapping_varies,
                });
            }
        }
        for host in self.internet.host_ids() {
            if let Machine::Node(node) = &mut self.internet.host_mut(host).value {
                let others = configs.iter().filter(|config| config.key != node.key);
                node.paths.set_peers(others.cloned().collect(), now);
            }
            self.drain(host);
        }
    }
}

/// Kinds of routers that people have at home, at work and on the road.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// Public addresses, nothing filtered.
    Open,
    /// Public addresses, only answers come in.
    Firewall,
    /// One mapping for all; anybody may answer, then anybody at a known address, then only who was asked.
    FullCone,
    AddressCone,
    PortCone,
    /// A mapping a destination, but always with the inner port: what Linux does.
    Linux,
    /// A mapping for each address that is talked to; each address and port; the latter open to everybody.
    PerAddress,
    Symmetric,
    SymmetricOpen,
    /// No UDP at all.
    Blocked,
}

impl RouterKind {
    pub const ALL: [RouterKind; 10] = [
        RouterKind::Open,
        RouterKind::Firewall,
        RouterKind::FullCone,
        RouterKind::AddressCone,
        RouterKind::PortCone,
        RouterKind::Linux,
        RouterKind::PerAddress,
        RouterKind::Symmetric,
        RouterKind::SymmetricOpen,
        RouterKind::Blocked,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RouterKind::Open => "open",
            RouterKind::Firewall => "firewall",
            RouterKind::FullCone => "full-cone",
            RouterKind::AddressCone => "address-cone",
            RouterKind::PortCone => "port-cone",
            RouterKind::Linux => "linux",
            RouterKind::PerAddress => "per-address",
            RouterKind::Symmetric => "symmetric",
            RouterKind::SymmetricOpen => "symmetric-open",
            RouterKind::Blocked => "blocked",
        }
    }

    fn config(self) -> (Option<Nat>, Firewall) {
        use Dependence::{AddressAndPortDependent as Port, AddressDependent as Address, EndpointIndependent as Any};
        let nat = |mapping, filtering, ports| Some(Nat::new(mapping, filtering).with_ports(ports));
        match self {
            RouterKind::Open => (None, Firewall::Open),
            RouterKind::Firewall => (None, Firewall::STATEFUL),
            RouterKind::FullCone => (nat(Any, Any, Ports::Random), Firewall::STATEFUL),
            RouterKind::AddressCone => (nat(Any, Address, Ports::Random), Firewall::STATEFUL),
            RouterKind::PortCone => (nat(Any, Port, Ports::Random), Firewall::STATEFUL),
            RouterKind::Linux => (nat(Port, Port, Ports::Preserved), Firewall::STATEFUL),
            RouterKind::PerAddress => (nat(Address, Address, Ports::Random), Firewall::STATEFUL),
            RouterKind::Symmetric => (nat(Port, Port, Ports::Random), Firewall::STATEFUL),
            RouterKind::SymmetricOpen => (nat(Port, Any, Ports::Random), Firewall::STATEFUL),
            RouterKind::Blocked => (nat(Any, Port, Ports::Random), Firewall::UdpBlocked),
        }
    }
}
