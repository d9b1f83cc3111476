//! A relay on a host, its STUN server, and a second STUN server beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use warren_control::Snapshot;
use warren_crypto::{NodePublic, Random, RelaySecret};
use warren_relay::server::{ConnId, Progress, Server, ServerConfig};
use warren_relay::stun;
use warren_simnet::{HostId, Link, Segment, StreamEvent, StreamId};
use warren_wire::{RegionId, RelayNode, RelayRegion};

use crate::world::World;

pub const RELAY_PORT: u16 = 443;
const STUN_PORT: u16 = 3478;

pub struct RelayHost {
    host: HostId,
    /// Only answers STUN, so that nodes can tell whether their mapping depends on the destination.
    stun_host: HostId,
    pub region: RegionId,
    secret_seed: [u8; 32],
    random: Random,
    /// `None` while it is dead.
    server: Option<Server>,
    streams: BTreeMap<StreamId, ConnId>,
    keys: BTreeMap<ConnId, NodePublic>,
    /// Connections that brought more than their receivers could take at once.
    crowded: Vec<ConnId>,
    /// What the control server last showed: it goes on admitting by this while that server is away.
    known: Option<Arc<Snapshot>>,
}

impl RelayHost {
    pub fn new(world: &mut World, region: RegionId, link: Link, mut random: Random) -> RelayHost {
        let [host, stun_host] = [0; 2].map(|_| world.internet.add_host(Segment::Public, true, true, ()));
        for host in [host, stun_host] {
            world.internet.host_mut(host).link = link;
        }
        let mut relay = RelayHost {
            host,
            stun_host,
            region,
            secret_seed: random.bytes(),
            random,
            server: None,
            streams: BTreeMap::new(),
            keys: BTreeMap::new(),
            crowded: Vec::new(),
            known: None,
        };
        relay.start(world);
        relay
    }

    /// As the relay map shows it.
    pub fn description(&self, world: &World) -> RelayRegion {
        let node = |host: HostId, stun_only: bool| {
            let addrs = world.internet.host(host).addrs();
            let text = |v4| addrs.iter().find(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).unwrap_or_default();
            RelayNode {
                name: format!("{}{}", self.region, if stun_only { "b" } else { "a" }),
                region_id: self.region,
                host_name: format!("relay{}.example", self.region),
                ipv4: text(true),
                ipv6: text(false),
                stun_only,
                ..RelayNode::default()
            }
        };
        RelayRegion {
            region_id: self.region,
            region_code: format!("r{}", self.region),
            region_name: format!("Region {}", self.region),
            nodes: vec![node(self.host, false), node(self.stun_host, true)],
            ..RelayRegion::default()
        }
    }

    pub fn is(&self, host: HostId) -> bool {
        host == self.host || host == self.stun_host
    }

    pub fn start(&mut self, world: &mut World) {
        let secret = RelaySecret::from_seed(self.secret_seed);
        self.server = Some(Server::new(secret, ServerConfig::default(), self.random.fork()));
        world.listening.extend(self.addrs(world));
    }

    pub fn kill(&mut self, world: &mut World) {
        self.server = None;
        self.streams.clear();
        self.keys.clear();
        self.crowded.clear();
        for addr in self.addrs(world) {
            world.listening.remove(&addr);
        }
        world.internet.break_streams(self.host);
    }

    fn addrs(&self, world: &World) -> Vec<SocketAddr> {
        world.internet.host(self.host).addrs().iter().map(|ip| SocketAddr::new(*ip, RELAY_PORT)).collect()
    }

    /// The control server shows something new: who may no longer be here goes.
    pub fn handle_snapshot(&mut self, world: &mut World, snapshot: Arc<Snapshot>) {
        if let Some(server) = &mut self.server {
            let wall = world.wall();
            let gone: Vec<NodePublic> = self.keys.values().filter(|key| !snapshot.admits(key, wall)).copied().collect();
            for key in gone {
                server.revoke(&key);
            }
        }
        self.known = Some(snapshot);
        self.pump(world);
    }

    pub fn handle_datagram(&mut self, world: &mut World, at: HostId, src: SocketAddr, dst: SocketAddr, bytes: &[u8]) {
        if self.server.is_some()
            && dst.port() == STUN_PORT
            && let Ok(id) = stun::decode_request(bytes)
        {
            world.internet.send(at, STUN_PORT, src, stun::encode_response(id, src));
        }
    }

    pub fn handle_stream(&mut self, world: &mut World, event: StreamEvent) {
        let now = world.now();
        let Some(server) = &mut self.server else {
            if let StreamEvent::Opened { stream, .. } = event {
                world.internet.close(stream, self.host);
            }
            return;
        };
        match event {
            StreamEvent::Opened { stream, from, .. } => {
                self.streams.insert(stream, server.connect(from.ip(), now));
            }
            StreamEvent::Bytes { stream, bytes } => {
                if let Some(conn) = self.streams.get(&stream)
                    && server.handle_bytes(*conn, &bytes, now) == Progress::Crowded
                {
                    self.crowded.push(*conn);
                }
            }
            StreamEvent::Closed { stream } => {
                if let Some(conn) = self.streams.remove(&stream) {
                    self.keys.remove(&conn);
                    server.disconnect(conn);
                }
            }
        }
        self.pump(world);
    }

    pub fn handle_timeout(&mut self, world: &mut World) {
        if let Some(server) = &mut self.server {
            server.handle_timeout(world.now());
            self.pump(world);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.server.as_ref()?.poll_timeout()
    }

    fn pump(&mut self, world: &mut World) {
        self.write_out(world);
        let now = world.now();
        while let (Some(conn), Some(server)) = (self.crowded.pop(), &mut self.server) {
            if server.handle_rest(conn, now) == Progress::Crowded {
                self.crowded.push(conn);
            }
            self.write_out(world);
        }
    }

    fn write_out(&mut self, world: &mut World) {
        let now = world.now();
        let Some(server) = &mut self.server else { return };
        while let Some(request) = server.poll_request() {
            let admits = self.known.as_ref().is_some_and(|known| known.admits(&request.key, world.wall()));
            if admits {
                self.keys.insert(request.conn, request.key);
            }
            if server.admit(request.conn, admits, now) == Progress::Crowded {
                self.crowded.push(request.conn);
            }
        }
        let stream_of = |streams: &BTreeMap<StreamId, ConnId>, conn: ConnId| {
            streams.iter().find(|(_, known)| **known == conn).map(|(stream, _)| *stream)
        };
        while let Some(conn) = server.poll_ready() {
            let stream = stream_of(&self.streams, conn);
            while let Some(frame) = server.poll_transmit(conn) {
                if let Some(stream) = stream {
                    world.internet.write(stream, self.host, frame);
                }
            }
        }
        while let Some((conn, reason)) = server.poll_closed() {
            world.note(&reason);
            self.keys.remove(&conn);
            if let Some(stream) = stream_of(&self.streams, conn) {
                self.streams.remove(&stream);
                world.internet.close(stream, self.host);
            }
        }
    }

    /// What a relay counts must be what its host sees.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        let Some(server) = &self.server else { return Ok(()) };
        let counters = server.counters();
        let open = self.streams.len() as u64;
        if counters.connections != open || counters.clients > open || counters.homes > open {
            return Err(format!("relay {} has {open} streams and counts {counters:?}", self.region));
        }
        if counters.malformed > 0 {
            return Err(format!("relay {} was sent malformed frames: {counters:?}", self.region));
        }
        Ok(())
    }
}
