//! Looking for direct paths: rounds of pings, call-me-maybe, heartbeats, pings that a person asked for.
//! data-plane.md §4.5, §4.6.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::NodePublic;
use warren_wire::RegionId;

use crate::candidates::PING_INTERVAL;
use crate::disco::{self, Message, TxId};
use crate::events::{Event, Hop, PingId};
use crate::manager::Paths;
use crate::netcheck::Depth;
use crate::probes::{Probe, Way};
use crate::sockets::Family;
use crate::timers::Timer;

/// Between two pings on a path in use; half of trust is lost with two of them (§4.1).
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(3);

/// After the first round of a search, more come so soon one after another: what the first said may have been lost because
/// a router was not open yet, the peer not yet at its relay, or our own addresses not yet known. Then every five seconds.
const QUICK_ROUNDS_MILLIS: [u64; 5] = [300, 400, 700, 1200, 2000];
/// An address that was just pinged for another reason is left out of a quick round.
const QUICK_INTERVAL: Duration = Duration::from_millis(200);
/// From one hurried search for a peer to the next; where no direct path can be, hurry brings nothing.
const HURRY_REST: Duration = Duration::from_secs(15);

/// More pings of persons than this are not followed at once.
const MAX_ASKED: usize = 1024;

/// Whether the peer is asked to ping us back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Wanted,
    /// We were called ourselves: a call back would never end.
    NotWanted,
}

impl Paths {
    /// Pings this peer on its present way, and on all others unless that way is direct and trusted. The first answer is
    /// [`Event::Pong`]. `size` is that of the whole UDP payload; smaller than [`disco::PING_BYTES`] means no padding.
    pub fn ping(&mut self, peer: &NodePublic, size: usize, now: Instant) -> PingId {
        let id = PingId(self.next_ping);
        self.next_ping += 1;
        // Who asks means to use the path: it is looked for as if data were sent, call-me-maybe included. Without that, a
        // peer behind a strict router would never be reached directly by asking alone.
        let _ = self.hops_for(peer, now);
        let ways = self.ways_to_ping(peer, now);
        let mut sent = 0;
        if self.asked.len() < MAX_ASKED {
            let padding = size.min(disco::MAX_PING_BYTES).saturating_sub(disco::PING_BYTES);
            for way in ways {
                // A relay carries no large probes: it would say nothing about any path.
                let padding = if matches!(way, Way::Direct(_)) { padding } else { 0 };
                sent += self.send_ping(*peer, way, padding, Some(id), now);
            }
        }
        if sent == 0 {
            self.tell(Event::PingTimedOut { id });
        } else {
            self.asked.insert(id, sent);
        }
        self.follow_ping_timeout();
        id
    }

    fn ways_to_ping(&self, peer: &NodePublic, now: Instant) -> Vec<Way> {
        let Some(paths) = self.peers.get(peer) else { return Vec::new() };
        if let Some(best) = paths.best.filter(|_| self.is_direct_allowed && paths.trusts_direct(now)) {
            return vec![Way::Direct(best.measured.addr)];
        }
        let mut ways = Vec::new();
        if self.is_direct_allowed {
            let addrs = paths.candidates.iter().map(|(addr, _)| *addr).filter(|addr| self.can_reach(addr));
            ways.extend(addrs.map(Way::Direct));
        }
        ways.extend(self.relay_of(peer).map(Way::Relay));
        ways
    }

    /// One discovery round: a ping to each candidate that is due, then, if any was sent, the call.
    pub(crate) fn search(&mut self, peer: NodePublic, call: Call, now: Instant) {
        self.search_round(peer, call, PING_INTERVAL, now);
        if call == Call::Wanted {
            self.hurry(peer, now);
        }
    }

    /// Begins the quick rounds that follow the first one of a search.
    fn hurry(&mut self, peer: NodePublic, now: Instant) {
        let Some(paths) = self.peers.get_mut(&peer).filter(|paths| !paths.trusts_direct(now)) else { return };
        if self.is_direct_allowed && paths.hurried.is_none_or(|at| now >= at + HURRY_REST) {
            (paths.hurried, paths.quick_rounds) = (Some(now), 0);
            self.timers.arm(Timer::QuickRound(peer), now + Duration::from_millis(QUICK_ROUNDS_MILLIS[0]));
        }
    }

    /// The next quick round is due.
    pub(crate) fn quick_round(&mut self, peer: NodePublic, now: Instant) {
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        if !paths.is_active(now) || paths.trusts_direct(now) {
            return;
        }
        paths.quick_rounds += 1;
        let next = QUICK_ROUNDS_MILLIS.get(paths.quick_rounds);
        self.search_round(peer, Call::Wanted, QUICK_INTERVAL, now);
        if let Some(wait) = next {
            self.timers.arm(Timer::QuickRound(peer), now + Duration::from_millis(*wait));
        }
    }

    fn search_round(&mut self, peer: NodePublic, call: Call, rest: Duration, now: Instant) {
        if !self.is_direct_allowed {
            return;
        }
        let sockets = &self.sockets;
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        let due = paths.candidates.due(now, rest, |addr| sockets.can_use(Family::of(addr)));
        paths.drop_best_if_gone();
        // Heartbeats may have pinged an address meanwhile, so a round sooner than the interval can be of use.
        paths.round_not_before = Some(now + if due.is_empty() { Duration::from_secs(1) } else { PING_INTERVAL });
        if due.is_empty() || paths.disco_keys().next().is_none() {
            return;
        }
        paths.last_round = Some(now);
        for addr in due {
            self.ping_direct(peer, addr, now);
        }
        // After the pings: they open our own firewall for the answers.
        if call == Call::Wanted {
            self.call(peer, now);
        }
    }

    pub(crate) fn ping_direct(&mut self, peer: NodePublic, addr: SocketAddr, now: Instant) {
        if !self.is_direct_allowed || !self.can_reach(&addr) {
            return;
        }
        if self.send_ping(peer, Way::Direct(addr), 0, None, now) > 0
            && let Some(paths) = self.peers.get_mut(&peer)
        {
            paths.candidates.note_sent(addr, now);
            paths.unanswered = paths.unanswered.saturating_add(1);
        }
        self.follow_ping_timeout();
    }

    /// Asks the peer, by its relay, to ping all our addresses. They must be fresh; if not, they are looked up first.
    fn call(&mut self, peer: NodePublic, now: Instant) {
        let Some(region) = self.relay_of(&peer) else { return };
        if !self.endpoints.is_fresh(now) {
            self.calls_waiting.insert(peer);
            if !self.netcheck.is_running() {
                self.start_check(Depth::Incremental, now);
            }
            return;
        }
        let endpoints = self.endpoints.addrs();
        if endpoints.is_empty() {
            return;
        }
        let hop = Hop::Relay { region, peer };
        if self.send_sealed(peer, hop, &Message::CallMeMaybe { endpoints }, now) {
            self.counters.calls_sent += 1;
        }
    }

    /// Our endpoints are fresh: call those who wait for it.
    pub(crate) fn send_waiting_calls(&mut self, now: Instant) {
        for peer in std::mem::take(&mut self.calls_waiting) {
            let is_wanted = |paths: &crate::peer_paths::PeerPaths| paths.is_active(now) && !paths.trusts_direct(now);
            if self.peers.get(&peer).is_some_and(is_wanted) {
                self.call(peer, now);
            }
        }
    }

    /// Keeps the path of a peer alive that we send to, and looks for a better one when it is time.
    pub(crate) fn heartbeat(&mut self, peer: NodePublic, now: Instant) {
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        if !paths.is_active(now) {
            paths.heartbeat_is_armed = false;
            return;
        }
        let (best, wants_round) = (paths.best, paths.wants_round(now));
        if let Some(best) = best {
            self.ping_direct(peer, best.measured.addr, now);
        }
        if wants_round {
            self.search(peer, Call::Wanted, now);
        }
        self.timers.arm(Timer::Heartbeat(peer), now + HEARTBEAT);
    }

    /// Pings that nobody answered within their time.
    pub(crate) fn expire_pings(&mut self, now: Instant) {
        while let Some(probe) = self.probes.pop_timed_out(now) {
            self.handle_silence(probe, now);
        }
        self.follow_ping_timeout();
    }

    fn handle_silence(&mut self, probe: Probe, now: Instant) {
        if let (Way::Direct(addr), Some(paths)) = (probe.way, self.peers.get_mut(&probe.peer)) {
            paths.handle_silence(addr, now);
            self.announce(&probe.peer, now);
        }
        if let Some(id) = probe.asked
            && let Some(waiting) = self.asked.get_mut(&id)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.asked.remove(&id);
                self.tell(Event::PingTimedOut { id });
            }
        }
    }

    /// Sends one ping for each disco key that the peer may have, and returns how many.
    fn send_ping(&mut self, peer: NodePublic, way: Way, padding: usize, asked: Option<PingId>, now: Instant) -> u32 {
        let Some(paths) = self.peers.get(&peer) else { return 0 };
        let mut sent = 0;
        for disco in paths.disco_keys().collect::<Vec<_>>() {
            let tx = TxId(self.random.bytes());
            let message = Message::Ping { tx, node: Some(self.node), padding };
            let Some(shared) = self.disco_keys.shared(&self.disco, &disco) else { continue };
            let bytes = disco::seal(shared, &mut self.random, &self.disco_public, &message);
            let evicted = self.probes.insert(tx, Probe { peer, disco, way, sent: now, asked });
            let hop = match way {
                Way::Direct(addr) => Hop::direct(addr),
                Way::Relay(region) => Hop::Relay { region, peer },
            };
            self.transmit(hop, bytes, now);
            self.counters.pings_sent += 1;
            sent += 1;
            if let Some(evicted) = evicted {
                self.handle_silence(evicted, now);
            }
        }
        sent
    }

    /// Seals a message for each disco key that the peer may have. Returns whether anything was sent.
    fn send_sealed(&mut self, peer: NodePublic, hop: Hop, message: &Message, now: Instant) -> bool {
        let Some(paths) = self.peers.get(&peer) else { return false };
        let mut is_sent = false;
        for disco in paths.disco_keys().collect::<Vec<_>>() {
            let Some(shared) = self.disco_keys.shared(&self.disco, &disco) else { continue };
            let bytes = disco::seal(shared, &mut self.random, &self.disco_public, message);
            self.transmit(hop, bytes, now);
            is_sent = true;
        }
        is_sent
    }

    pub(crate) fn follow_ping_timeout(&mut self) {
        self.timers.follow(Timer::PingTimeout, self.probes.next_timeout());
    }

    /// The region by which the peer is reached now.
    pub(crate) fn relay_of(&self, peer: &NodePublic) -> Option<RegionId> {
        let ways = self.peers.get(peer)?.ways(self.is_direct_allowed, |region| self.relays.is_connected(region));
        match ways.relay {
            Some(Hop::Relay { region, .. }) => Some(region),
            Some(Hop::Direct { .. }) | None => None,
        }
    }

    fn can_reach(&self, addr: &SocketAddr) -> bool {
        self.sockets.can_use(Family::of(addr))
    }
}
