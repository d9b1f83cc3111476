//! The composing value: its fields, what the shell polls, and small getters. Each walk has a file of its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use warren_crypto::{DiscoPublic, NodePublic, Random, UnixTime};
use warren_filter::Guarded;
use warren_ip::offload::{Joiner, Super};
use warren_ip::{PrefixMap, PrefixSet};
use warren_path::{Event as PathEvent, Hop, LocalSocket, Paths, PathsConfig, PingId, Sign};
use warren_wire::RegionId;
use warren_wireguard::{Event as SessionEvent, Kind, Source, Staging, WireGuard, kind};

use crate::config::{EngineConfig, EngineIdentity, EnginePeer};
use crate::counters::{Counters, DropReason};
use crate::jobs::{OpenedPacket, Part, SealedRun};
use crate::pings::{InnerPing, InnerPingId, Pings};
use crate::pool::Pool;

/// What waits for one peer's keys: a second of an eager sender, not more.
const STAGED_BURSTS: usize = 128;
const STAGED_BYTES: usize = 1 << 20;

/// While the pool holds this many buffers, others go to the joiner.
const JOINER_LEFT: usize = 32;

/// Used where the configuration names none.
const DEFAULT_MTU: usize = 1280;

/// The data plane of one node.
pub struct Engine {
    pub(crate) wireguard: WireGuard,
    pub(crate) paths: Paths,
    pub(crate) guarded: Guarded,
    pub(crate) disco_public: DiscoPublic,
    pub(crate) config: EngineConfig,
    pub(crate) peers: BTreeMap<NodePublic, PeerState>,
    pub(crate) routes: PrefixMap<NodePublic>,
    pub(crate) local: PrefixSet,
    pub(crate) pings: Pings,
    pub(crate) joiner: Option<Joiner>,
    pub(crate) pool: Pool,
    pub(crate) lists: Lists,
    runs: VecDeque<Run>,
    pub(crate) deliveries: VecDeque<Super>,
    pub(crate) events: VecDeque<EngineEvent>,
    pub(crate) counters: Counters,
}

/// Emptied lists of jobs that were finished, so that the next ones need no memory.
#[derive(Default)]
pub(crate) struct Lists {
    pub(crate) bursts: Vec<Vec<Super>>,
    pub(crate) buffers: Vec<Vec<Vec<u8>>>,
    pub(crate) runs: Vec<Vec<SealedRun>>,
    pub(crate) parts: Vec<Vec<Part>>,
    pub(crate) packets: Vec<Vec<OpenedPacket>>,
}

pub(crate) struct PeerState {
    pub(crate) config: EnginePeer,
    pub(crate) staging: Staging<Super>,
    /// The last handshake message that found no way to the peer: it leaves with the first way that there is. Without
    /// that, keys would come only with the next try, five seconds later.
    pub(crate) held: Option<Vec<u8>>,
    pub(crate) stats: PeerStats,
}

impl PeerState {
    pub(crate) fn new(config: EnginePeer) -> Self {
        let staging = Staging::new(STAGED_BURSTS, STAGED_BYTES);
        Self { config, staging, held: None, stats: PeerStats::default() }
    }
}

/// One peer in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Bytes of inner packets accepted from it.
    pub rx_bytes: u64,
    /// Bytes of inner packets sealed for it.
    pub tx_bytes: u64,
    /// When the latest keys were made.
    pub last_handshake: Option<Instant>,
    /// When data was last sealed for it.
    pub last_send: Option<Instant>,
    /// When authenticated messages last came from it.
    pub last_receive: Option<Instant>,
    /// Whether there are keys to send with.
    pub has_session: bool,
}

/// Datagrams of equal size (the last may be shorter) for one hop: one GSO send, or so many relayed packets.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Where to.
    pub hop: Hop,
    /// Size of each datagram in bytes, at least 1.
    pub segment: usize,
    /// All of them, one after another.
    pub bytes: Vec<u8>,
}

/// News for the node, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// From the paths.
    Path(PathEvent),
    /// New keys with a peer: it is there, now.
    SessionReady {
        /// With whom.
        peer: NodePublic,
    },
    /// A handshake was given up after 90 s.
    Unreachable {
        /// Who did not answer.
        peer: NodePublic,
    },
    /// A ping inside the tunnel was answered.
    InnerPong {
        /// As [`Engine::ping_inner`] gave it.
        id: InnerPingId,
        /// What was asked.
        kind: InnerPing,
        /// Who answered.
        peer: NodePublic,
        /// By which way the answer came.
        hop: Hop,
        /// Since it was sent.
        latency: std::time::Duration,
    },
    /// A ping inside the tunnel was not answered within ten seconds.
    InnerPingTimedOut {
        /// As [`Engine::ping_inner`] gave it.
        id: InnerPingId,
    },
    /// A peer said its disco key inside the tunnel. The paths have been told; it may differ from the map's.
    DiscoKeySaid {
        /// Whose.
        peer: NodePublic,
        /// The key.
        key: DiscoPublic,
    },
    /// A peer refused a connection that was opened from here.
    ConnectionRefused {
        /// Who refused.
        peer: NodePublic,
        /// Its address.
        addr: IpAddr,
        /// The port that was asked for.
        port: u16,
    },
}

impl Engine {
    /// An engine without peers that accepts nothing. `wall` is the wall time at `now`, for the stamps of handshakes.
    #[must_use]
    pub fn new(identity: EngineIdentity, mut random: Random, now: Instant, wall: UnixTime) -> Self {
        let paths_config =
            PathsConfig { node: identity.node.public(), disco: identity.disco.clone(), random: random.fork() };
        Self {
            pings: Pings::new(random.fork()),
            wireguard: WireGuard::new(identity.node, random.fork(), now, wall),
            paths: Paths::new(paths_config, now),
            guarded: Guarded::new(),
            disco_public: identity.disco.public(),
            config: EngineConfig::default(),
            peers: BTreeMap::new(),
            routes: PrefixMap::default(),
            local: PrefixSet::default(),
            joiner: None,
            pool: Pool::default(),
            lists: Lists::default(),
            runs: VecDeque::new(),
            deliveries: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Carries out what fell due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wireguard.handle_timeout(now);
        self.paths.handle_timeout(now);
        self.pings.handle_timeout(now, &mut self.events);
        self.pump(now);
    }

    /// A connection to a relay stands, or no longer does: as [`Paths::relay_state`], and keys are asked for anew by it.
    pub fn relay_state(&mut self, region: RegionId, is_connected: bool, now: Instant) {
        self.paths.relay_state(region, is_connected, now);
        self.pump(now);
    }

    /// As [`Paths::relay_peer_gone`]; who waits for an answer asks anew by the way that is left.
    pub fn relay_peer_gone(&mut self, region: RegionId, peer: &NodePublic, now: Instant) {
        self.paths.relay_peer_gone(region, peer, now);
        self.pump(now);
    }

    /// As [`Paths::unreachable`]; who waits for an answer asks anew by the way that is left.
    pub fn unreachable(&mut self, hop: Hop, now: Instant) {
        self.paths.unreachable(hop, now);
        self.pump(now);
    }

    /// As [`Paths::set_sockets`], and as [`Paths::rebound`] where `is_other_network`; keys are asked for anew by what ways
    /// there are then.
    pub fn set_sockets(&mut self, open: Vec<LocalSocket>, addrs: Vec<IpAddr>, is_other_network: bool, now: Instant) {
        // First: whoever is called after this is not to be told of our old addresses.
        if is_other_network {
            self.paths.rebound(now);
        }
        self.paths.set_sockets(open, addrs, now);
        self.pump(now);
    }

    /// As [`Paths::rebound`]; keys are asked for anew by what ways there are then.
    pub fn rebound(&mut self, now: Instant) {
        self.paths.rebound(now);
        self.pump(now);
    }

    /// When [`Engine::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.wireguard.poll_timeout(), self.paths.poll_timeout(), self.pings.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagrams to send: data, handshakes and probes alike.
    pub fn poll_run(&mut self) -> Option<Run> {
        self.runs.pop_front().or_else(|| {
            let probe = self.paths.poll_transmit()?;
            Some(Run { hop: probe.hop, segment: probe.bytes.len().max(1), bytes: probe.bytes })
        })
    }

    /// The next accepted packet or burst. With joining, drain this once per batch: what is drained is no longer joined to.
    pub fn poll_delivery(&mut self) -> Option<Super> {
        if self.deliveries.is_empty()
            && let Some(joiner) = self.joiner.as_mut().filter(|joiner| !joiner.is_empty())
        {
            self.deliveries.extend(joiner.take());
        }
        self.deliveries.pop_front()
    }

    /// The next news. Drain this before [`Engine::poll_run`]: a first way to a peer lets go what was held for it.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front().or_else(|| {
            let event = self.paths.poll_event()?;
            if let PathEvent::PathChanged { peer, hop: Some(hop) } = event {
                self.send_held(&peer, hop);
            }
            Some(EngineEvent::Path(event))
        })
    }

    /// Gives back a buffer that was sent or written.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        // The joiner collects into buffers of its own; what was written to the device comes back here.
        match &mut self.joiner {
            Some(joiner) if self.pool.len() >= JOINER_LEFT => joiner.recycle(buffer),
            _ => self.pool.give(buffer),
        }
    }

    /// An empty buffer with room for the largest read.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.pool.take()
    }

    /// How many buffers lie ready.
    #[must_use]
    pub fn spare_buffers(&self) -> usize {
        self.pool.len()
    }

    /// The wall clock says `wall` at `now` (it was set, or corrected).
    pub fn set_wall(&mut self, now: Instant, wall: UnixTime) {
        self.wireguard.set_wall(now, wall);
    }

    /// Pings a peer outside the tunnel, over whatever ways there are; the answer is a path event.
    pub fn ping_disco(&mut self, peer: &NodePublic, size: usize, now: Instant) -> PingId {
        self.paths.ping(peer, size, now)
    }

    /// Asks for keys with a peer before there is data for it.
    pub fn initiate(&mut self, peer: &NodePublic, now: Instant) {
        self.wireguard.initiate(peer, now);
        self.pump(now);
    }

    // ---- getters

    /// The paths, to look at.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The paths, to tell about sockets, relays and names.
    pub fn paths_mut(&mut self) -> &mut Paths {
        &mut self.paths
    }

    /// The filter with its counters.
    #[must_use]
    pub fn filter(&self) -> &Guarded {
        &self.guarded
    }

    /// What went through and what did not.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Handshakes in numbers.
    #[must_use]
    pub fn handshake_counters(&self) -> &warren_wireguard::Counters {
        self.wireguard.counters()
    }

    /// One peer in numbers.
    #[must_use]
    pub fn peer_stats(&self, peer: &NodePublic, now: Instant) -> Option<PeerStats> {
        let mut stats = self.peers.get(peer)?.stats;
        if let Some(session) = self.wireguard.stats(peer, now) {
            stats.last_handshake = session.last_handshake;
            stats.has_session = session.has_keys;
        }
        Some(stats)
    }

    /// The peer that has this address, or is the way to it.
    #[must_use]
    pub fn peer_for(&self, addr: IpAddr) -> Option<NodePublic> {
        self.routes.lookup(addr).copied()
    }

    pub(crate) fn mtu(&self) -> usize {
        if self.config.mtu == 0 { DEFAULT_MTU } else { usize::from(self.config.mtu) }
    }

    // ---- between the parts

    /// Carries messages and news from WireGuard to where they belong.
    pub(crate) fn pump(&mut self, now: Instant) {
        while let Some((peer, sign)) = self.paths.poll_sign() {
            match sign {
                Sign::WayIsBack => self.wireguard.path_is_back(&peer, now),
                Sign::Spoke => self.wireguard.peer_is_there(&peer, now),
            }
        }
        while let Some(message) = self.wireguard.poll_transmit() {
            self.send_message(message.peer, message.bytes, now);
        }
        while let Some(event) = self.wireguard.poll_event() {
            match event {
                SessionEvent::Established { peer } => self.session_ready(peer, now),
                SessionEvent::GaveUp { peer } => self.session_failed(peer),
                SessionEvent::Erased { .. } => {}
            }
        }
    }

    /// A handshake message or keepalive goes wherever data would go.
    fn send_message(&mut self, peer: NodePublic, bytes: Vec<u8>, now: Instant) {
        match self.paths.hops_for(&peer, now) {
            Ok(hops) => {
                // What was held is overtaken: two initiations at once would cost the answer to one of them.
                if kind(&bytes) == Some(Kind::Handshake)
                    && let Some(state) = self.peers.get_mut(&peer)
                {
                    state.held = None;
                }
                if let Some(also) = hops.also {
                    self.push_run(Run { hop: also, segment: bytes.len(), bytes: bytes.clone() });
                }
                self.push_run(Run { hop: hops.first, segment: bytes.len(), bytes });
            }
            Err(_) => self.hold(peer, bytes),
        }
    }

    /// Keeps a handshake message until there is a way to the peer, in place of an older one; a keepalive is not worth it.
    fn hold(&mut self, peer: NodePublic, bytes: Vec<u8>) {
        let state = self.peers.get_mut(&peer).filter(|_| kind(&bytes) == Some(Kind::Handshake));
        let is_lost = match state {
            Some(state) => state.held.replace(bytes).is_some(),
            None => true,
        };
        self.counters.drop(DropReason::NoPath, usize::from(is_lost));
    }

    fn send_held(&mut self, peer: &NodePublic, hop: Hop) {
        if let Some(bytes) = self.peers.get_mut(peer).and_then(|state| state.held.take()) {
            self.push_run(Run { hop, segment: bytes.len(), bytes });
        }
    }

    fn session_ready(&mut self, peer: NodePublic, now: Instant) {
        self.events.push_back(EngineEvent::SessionReady { peer });
        self.say_disco_key(peer, now);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.held = None;
        for burst in state.staging.drain() {
            self.seal_now(peer, burst, now);
        }
    }

    fn session_failed(&mut self, peer: NodePublic) {
        self.events.push_back(EngineEvent::Unreachable { peer });
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.held = None;
        for burst in state.staging.drain() {
            self.counters.drop(DropReason::StagedTooLong, burst.segment_count());
            self.pool.give(burst.into_buffer());
        }
    }

    pub(crate) fn push_run(&mut self, run: Run) {
        self.counters.runs += 1;
        self.runs.push_back(run);
    }
}

/// Where a handshake message came from, in terms that cookies can be bound to.
pub(crate) fn source_of(hop: &Hop) -> Source {
    match hop {
        Hop::Direct { addr, .. } => Source::Address(*addr),
        Hop::Relay { peer, .. } => Source::Relay(*peer),
    }
}
