//! [`Paths`]: the composing value. What happens in each case stands in the file named after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, DiscoSecret, NodePublic, Random};
use warren_wire::{NetInfo, RegionId, RelayMap};

use crate::disco_keys::DiscoKeys;
use crate::endpoints::OwnEndpoints;
use crate::events::{
    Counters, Event, Hop, Hops, LocalSocket, NoPath, PathsConfig, PeerConfig, PingId, Sign, Transmit, unmapped,
};
use crate::netcheck::{Depth, Home, HomeFacts, Need, Netcheck, Report};
use crate::peer_paths::PeerPaths;
use crate::probes::Probes;
use crate::relays::Relays;
use crate::select::select;
use crate::sockets::{Sockets, is_overlay};
use crate::timers::{Timer, Timers};

/// Between two looks at the network while it is used: under the 30 s for which common routers hold a mapping (§2.8).
const PERIODIC: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(26));
/// Without any own packet for so long, the network is left alone.
const IDLE: Duration = Duration::from_secs(45);
/// More probes than this do not wait to be sent; the oldest go.
const MAX_TRANSMITS: usize = 16_384;
const MAX_EVENTS: usize = 16_384;

/// All ways from one node to its peers.
///
/// Everything here is a function of the calls and the seed. No call blocks, and none fails because of what another node
/// sent.
pub struct Paths {
    pub(crate) node: NodePublic,
    pub(crate) disco: DiscoSecret,
    pub(crate) disco_public: DiscoPublic,
    pub(crate) random: Random,
    pub(crate) peers: BTreeMap<NodePublic, PeerPaths>,
    pub(crate) disco_keys: DiscoKeys,
    pub(crate) probes: Probes,
    /// Pings that a person asked for: how many probes of each are still under way.
    pub(crate) asked: BTreeMap<PingId, u32>,
    pub(crate) next_ping: u64,
    /// Peers that are to be called as soon as our endpoints are fresh.
    pub(crate) calls_waiting: BTreeSet<NodePublic>,
    pub(crate) sockets: Sockets,
    pub(crate) endpoints: OwnEndpoints,
    pub(crate) netcheck: Netcheck,
    pub(crate) relays: Relays,
    pub(crate) timers: Timers,
    pub(crate) is_direct_allowed: bool,
    pub(crate) counters: Counters,
    home: Home,
    announced_home: Option<RegionId>,
    announced_net_info: Option<NetInfo>,
    is_control_reachable: bool,
    /// Our last own packet to anybody.
    last_activity: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    /// Not more than one for each peer.
    signs: BTreeMap<NodePublic, Sign>,
}

impl Paths {
    pub fn new(config: PathsConfig, _now: Instant) -> Paths {
        Paths {
            node: config.node,
            disco_public: config.disco.public(),
            disco: config.disco,
            random: config.random,
            peers: BTreeMap::new(),
            disco_keys: DiscoKeys::default(),
            probes: Probes::default(),
            asked: BTreeMap::new(),
            next_ping: 0,
            calls_waiting: BTreeSet::new(),
            sockets: Sockets::default(),
            endpoints: OwnEndpoints::default(),
            netcheck: Netcheck::default(),
            relays: Relays::default(),
            timers: Timers::default(),
            is_direct_allowed: true,
            counters: Counters::default(),
            home: Home::default(),
            announced_home: None,
            announced_net_info: None,
            is_control_reachable: true,
            last_activity: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            signs: BTreeMap::new(),
        }
    }

    // What happened.

    /// One or more timers are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::PingTimeout => self.expire_pings(now),
                Timer::NetworkCheck => self.step_check(now),
                Timer::PeriodicCheck => self.periodic_check(now),
                Timer::QuickRound(peer) => self.quick_round(peer, now),
                Timer::Heartbeat(peer) => self.heartbeat(peer, now),
            }
        }
    }

    /// Authenticated data of this peer arrived by `hop`. This alone makes no direct path trusted, but its source may be
    /// answered for a while (see [`crate::select::select`]), and is pinged.
    pub fn heard_from(&mut self, peer: &NodePublic, hop: Hop, now: Instant) {
        let Some(paths) = self.peers.get_mut(peer) else { return };
        paths.last_heard = Some(now);
        match hop {
            Hop::Relay { region, .. } => {
                paths.route = Some(region);
                self.relays.note_heard(region, now);
            }
            Hop::Direct { addr, .. } => {
                let addr = unmapped(addr);
                paths.last_direct = Some(now);
                let is_same = paths.heard_direct.is_some_and(|(heard, _)| heard == addr);
                paths.heard_direct = Some((addr, now));
                let is_known_best = paths.best.is_some_and(|best| best.measured.addr == addr);
                if is_same && is_known_best || is_overlay(&addr.ip()) {
                    return;
                }
                let is_new = paths.candidates.note_heard(addr, now);
                if is_new && !paths.trusts_direct(now) {
                    self.ping_direct(*peer, addr, now);
                }
                self.announce(peer, now);
            }
        }
    }

    /// The relay of `region` says that this peer is not there (any more).
    pub fn relay_peer_gone(&mut self, region: RegionId, peer: &NodePublic, now: Instant) {
        if let Some(paths) = self.peers.get_mut(peer)
            && paths.route == Some(region)
        {
            paths.route = None;
            self.announce(peer, now);
        }
    }

    /// A connection to a relay stands, or no longer does.
    pub fn relay_state(&mut self, region: RegionId, is_connected: bool, now: Instant) {
        if self.relays.is_connected(region) == is_connected {
            return;
        }
        self.relays.set_connected(region, is_connected);
        let keys: Vec<NodePublic> = self.peers.keys().copied().collect();
        for key in keys {
            if let Some(paths) = self.peers.get_mut(&key) {
                if is_connected {
                    // Who could not be called before can be called now.
                    (paths.round_not_before, paths.hurried) = (None, None);
                } else if paths.route == Some(region) {
                    // Whether the peer is still there by another connection, only that one can tell.
                    paths.route = None;
                }
            }
            self.announce(&key, now);
            // The way may be named as before, and yet what was sent by it meanwhile went nowhere.
            if is_connected && self.relay_of(&key) == Some(region) {
                self.signs.insert(key, Sign::WayIsBack);
            }
        }
        if is_connected {
            self.search_again(now);
        }
    }

    /// A datagram could not leave because its destination is unreachable: what goes there goes elsewhere at once.
    pub fn unreachable(&mut self, hop: Hop, now: Instant) {
        let Hop::Direct { addr, .. } = hop else { return };
        let keys: Vec<NodePublic> = self.peers.keys().copied().collect();
        for key in keys {
            let Some(paths) = self.peers.get_mut(&key) else { continue };
            if paths.best.is_some_and(|best| best.measured.addr == addr) {
                paths.best = None;
                paths.heard_direct = None;
                self.announce(&key, now);
            }
        }
    }

    /// The time of one HTTPS request, asked for by [`Event::ProbeHttps`]; `None` if it failed.
    pub fn https_latency(&mut self, region: RegionId, latency: Option<Duration>, now: Instant) {
        self.netcheck.https_latency(region, latency);
        self.step_check(now);
    }

    /// The addresses of a name that [`Event::Resolve`] asked for.
    pub fn resolved(&mut self, name: &str, addrs: Vec<IpAddr>, now: Instant) {
        if self.netcheck.resolved(name, addrs, now) {
            self.start_check(Depth::Full, now);
        }
    }

    // What someone wants.

    pub fn set_node_key(&mut self, node: NodePublic) {
        self.node = node;
    }

    /// A new disco key. Peers learn it from the control server, or from the next message by relay.
    pub fn set_disco(&mut self, disco: DiscoSecret) {
        self.disco_public = disco.public();
        self.disco = disco;
        self.disco_keys.forget_boxes();
    }

    /// All peers there are. Those that are named again keep what is known of them.
    pub fn set_peers(&mut self, configs: Vec<PeerConfig>, now: Instant) {
        let named: BTreeSet<NodePublic> = configs.iter().map(|config| config.key).collect();
        let gone: Vec<NodePublic> = self.peers.keys().filter(|key| !named.contains(key)).copied().collect();
        for key in gone {
            self.remove_peer(&key);
        }
        for config in configs {
            if config.key != self.node {
                self.set_peer(config, now);
            }
        }
    }

    /// The relays there are. Servers without a literal address are asked for with [`Event::Resolve`].
    pub fn set_relay_map(&mut self, relay_map: RelayMap, now: Instant) {
        if *self.netcheck.relay_map() == relay_map {
            return;
        }
        self.netcheck.set_relay_map(relay_map);
        self.home.handle_relay_map(self.netcheck.relay_map());
        self.announce_home();
        self.netcheck.abandon();
        self.start_check(Depth::Full, now);
    }

    /// The sockets that are open and the addresses of this host's interfaces, after any change of either.
    pub fn set_sockets(&mut self, open: Vec<LocalSocket>, interface_addrs: Vec<IpAddr>, now: Instant) {
        let sockets = Sockets::new(open, interface_addrs);
        if sockets == self.sockets {
            return;
        }
        self.sockets = sockets;
        for paths in self.peers.values_mut() {
            // Paths may or may not work as before: go both ways until a pong tells.
            if let Some(best) = &mut paths.best {
                best.trusted_until = best.trusted_until.min(now);
            }
            paths.allow_round();
            paths.hurried = None;
        }
        self.netcheck.abandon();
        self.start_check(Depth::Full, now);
        self.search_again(now);
    }

    /// The network under this node is another one: nothing that was measured holds.
    pub fn rebound(&mut self, now: Instant) {
        self.endpoints.forget();
        let keys: Vec<NodePublic> = self.peers.keys().copied().collect();
        for key in keys {
            if let Some(paths) = self.peers.get_mut(&key) {
                paths.forget_measurements();
            }
            self.announce(&key, now);
        }
        self.netcheck.forget_network();
        self.netcheck.abandon();
        self.start_check(Depth::Full, now);
        self.search_again(now);
    }

    /// For finding faults: with `false` everything goes by relay, and no probe is sent or answered directly.
    pub fn set_direct_allowed(&mut self, is_allowed: bool) {
        self.is_direct_allowed = is_allowed;
        if !is_allowed {
            self.peers.values_mut().for_each(PeerPaths::forget_measurements);
        }
    }

    /// While the control server cannot be reached, nobody would learn of another home: it stays.
    pub fn control_reachable(&mut self, is_reachable: bool) {
        self.is_control_reachable = is_reachable;
    }

    /// The peer itself said inside the tunnel which disco key it has. Stands beside what the map says.
    pub fn disco_advertised(&mut self, peer: &NodePublic, disco: DiscoPublic, now: Instant) {
        self.learn_disco(*peer, disco, now);
    }

    /// A person wants a whole look at the network, now. [`Event::ReportReady`] follows.
    pub fn check_network(&mut self, now: Instant) {
        self.start_check(Depth::Full, now);
    }

    /// Where a burst for this peer goes, now. Notes that there is something to send, which keeps the path alive, and
    /// looks for a better one when it is time.
    ///
    /// # Errors
    /// [`NoPath`]: nothing can be sent now. A search has begun all the same.
    pub fn hops_for(&mut self, peer: &NodePublic, now: Instant) -> Result<Hops, NoPath> {
        let paths = self.peers.get_mut(peer).ok_or(NoPath::UnknownPeer)?;
        paths.last_send = Some(now);
        if !paths.heartbeat_is_armed {
            paths.heartbeat_is_armed = true;
            self.timers.arm(Timer::Heartbeat(*peer), now + crate::discovery::HEARTBEAT);
        }
        let ways = paths.ways(self.is_direct_allowed, |region| self.relays.is_connected(region));
        let hops = select(&ways, now);
        let is_settled = paths.trusts_direct(now);
        let may_search = paths.round_not_before.is_none_or(|at| now >= at);
        self.note_activity(now);
        if !is_settled && may_search {
            self.search(*peer, crate::discovery::Call::Wanted, now);
        }
        let hops = hops.ok_or(NoPath::NoAddress)?;
        let peer_home = self.peers.get(peer).and_then(|paths| paths.home);
        for hop in [Some(hops.first), hops.also].into_iter().flatten() {
            if let Hop::Relay { region, .. } = hop {
                self.want_relay(region, now);
                // A peer answers by our relay while it has something to say there, and may leave it any time.
                if let Some(home) = peer_home.filter(|home| *home != region) {
                    self.want_relay(home, now);
                }
            }
        }
        Ok(hops)
    }

    // What the caller must do.

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Peers that can perhaps be reached again: who waits for an answer of theirs asks anew.
    pub fn poll_sign(&mut self) -> Option<(NodePublic, Sign)> {
        self.signs.pop_first()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // Looks, without effect.

    pub fn disco_public(&self) -> DiscoPublic {
        self.disco_public
    }

    /// The last whole look at the network.
    pub fn report(&self) -> Option<&Report> {
        self.netcheck.report()
    }

    pub fn home(&self) -> Option<RegionId> {
        self.home.region()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    // Below: what several files need.

    pub(crate) fn transmit(&mut self, hop: Hop, bytes: Vec<u8>, now: Instant) {
        if let Hop::Relay { region, .. } = hop {
            self.want_relay(region, now);
        }
        if self.transmits.len() >= MAX_TRANSMITS {
            self.transmits.pop_front();
        }
        self.transmits.push_back(Transmit { hop, bytes });
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Says so if packets for this peer now take another way.
    pub(crate) fn announce(&mut self, peer: &NodePublic, now: Instant) {
        let Some(paths) = self.peers.get_mut(peer) else { return };
        let ways = paths.ways(self.is_direct_allowed, |region| self.relays.is_connected(region));
        let hop = select(&ways, now).map(|hops| hops.first);
        if paths.announced != hop {
            paths.announced = hop;
            if hop.is_some() {
                self.signs.insert(*peer, Sign::WayIsBack);
            }
            self.tell(Event::PathChanged { peer: *peer, hop });
        }
    }

    /// An authentic message of this peer came, outside the tunnel.
    pub(crate) fn note_spoke(&mut self, peer: NodePublic) {
        if self.peers.contains_key(&peer) {
            self.signs.entry(peer).or_insert(Sign::Spoke);
        }
    }

    fn want_relay(&mut self, region: RegionId, now: Instant) {
        if self.relays.note_wanted(region, now) {
            self.tell(Event::WantRelay { region });
        }
    }

    fn set_peer(&mut self, config: PeerConfig, now: Instant) {
        let key = config.key;
        let paths = self.peers.entry(key).or_insert_with(|| PeerPaths::new(key));
        (paths.home, paths.mapping_varies) = (config.home, config.mapping_varies);
        let endpoints: Vec<_> = config.endpoints.into_iter().map(unmapped).collect();
        let endpoints: Vec<_> = endpoints.into_iter().filter(|addr| !is_overlay(&addr.ip())).collect();
        let mut has_news = paths.candidates.set_in_map(&endpoints, now);
        paths.drop_best_if_gone();
        if paths.disco != config.disco {
            has_news = true;
            self.set_disco_keys(key, config.disco, None);
        }
        if has_news && let Some(paths) = self.peers.get_mut(&key) {
            paths.round_not_before = None;
            if paths.is_active(now) && !paths.trusts_direct(now) {
                self.search(key, crate::discovery::Call::Wanted, now);
            }
        }
        self.announce(&key, now);
    }

    fn remove_peer(&mut self, key: &NodePublic) {
        self.set_disco_keys(*key, None, None);
        self.timers.cancel(Timer::Heartbeat(*key));
        self.timers.cancel(Timer::QuickRound(*key));
        self.calls_waiting.remove(key);
        self.signs.remove(key);
        self.peers.remove(key);
    }

    /// The keys of a peer from now on; the index follows.
    pub(crate) fn set_disco_keys(
        &mut self,
        peer: NodePublic,
        disco: Option<DiscoPublic>,
        learned: Option<DiscoPublic>,
    ) {
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        let before: Vec<DiscoPublic> = paths.disco_keys().collect();
        (paths.disco, paths.learned_disco) = (disco, learned.filter(|learned| Some(*learned) != disco));
        let after: Vec<DiscoPublic> = paths.disco_keys().collect();
        if before != after {
            paths.allow_round();
        }
        for key in before.iter().filter(|key| !after.contains(key)) {
            self.disco_keys.remove(key, &peer);
        }
        for key in after {
            self.disco_keys.add(key, peer);
        }
    }

    /// Peers that we talk with and do not reach directly are looked for at once.
    fn search_again(&mut self, now: Instant) {
        let is_lost = |paths: &&PeerPaths| paths.is_active(now) && !paths.trusts_direct(now);
        let lost: Vec<NodePublic> = self.peers.values().filter(is_lost).map(|paths| paths.key).collect();
        for key in lost {
            self.search(key, crate::discovery::Call::Wanted, now);
        }
    }

    fn note_activity(&mut self, now: Instant) {
        let was_idle = self.last_activity.is_none_or(|at| now >= at + IDLE);
        self.last_activity = Some(now);
        if was_idle && !self.netcheck.is_running() && !self.timers.is_armed(Timer::PeriodicCheck) {
            self.timers.arm(Timer::PeriodicCheck, now);
        }
    }

    fn periodic_check(&mut self, now: Instant) {
        let is_idle = self.last_activity.is_none_or(|at| now >= at + IDLE);
        if !is_idle && !self.peers.is_empty() {
            self.start_check(Depth::Incremental, now);
        }
    }

    fn arm_periodic(&mut self, now: Instant) {
        let pause = self.random.range_duration(PERIODIC.0, PERIODIC.1);
        self.timers.arm(Timer::PeriodicCheck, now + pause);
    }

    pub(crate) fn start_check(&mut self, depth: Depth, now: Instant) {
        if self.netcheck.relay_map().regions.is_empty() {
            // Nobody to ask; peers on this network can still be told our local addresses.
            self.announce_endpoints(now);
            return;
        }
        self.netcheck.start(depth, &self.sockets, self.home.region(), now);
        self.step_check(now);
    }

    pub(crate) fn step_check(&mut self, now: Instant) {
        loop {
            for probe in self.netcheck.handle_timeout(&mut self.random, now) {
                self.counters.stun_sent += 1;
                self.transmit(Hop::direct(probe.to), probe.bytes, now);
            }
            let Some((started, again)) = self.netcheck.poll_finished(now) else { break };
            self.finish_check(started, now);
            if again == Some(Depth::Full) {
                self.netcheck.start(Depth::Full, &self.sockets, self.home.region(), now);
            }
        }
        while let Some(need) = self.netcheck.poll_need() {
            self.tell(match need {
                Need::Resolve(name) => Event::Resolve { name },
                Need::Https(region) => Event::ProbeHttps { region },
            });
        }
        self.timers.follow(Timer::NetworkCheck, self.netcheck.deadline());
    }

    /// A look at the network is over: a home, endpoints and a description of the network follow from it.
    fn finish_check(&mut self, started: Instant, now: Instant) {
        let Some(report) = self.netcheck.report() else { return };
        let facts = HomeFacts {
            relay_map: self.netcheck.relay_map(),
            is_control_reachable: self.is_control_reachable,
            check_started: started,
            heard_home: self.home.region().and_then(|home| self.relays.heard(home)),
            node: self.node,
        };
        self.home.handle_report(report, &facts, now);
        let changed = self.endpoints.handle_report(report, &self.sockets, now);
        self.netcheck.set_preferred(self.home.region());
        self.announce_home();
        if let Some(endpoints) = changed {
            self.tell(Event::EndpointsChanged(endpoints));
        }
        self.announce_net_info();
        self.tell(Event::ReportReady);
        self.send_waiting_calls(now);
        self.arm_periodic(now);
    }

    fn announce_home(&mut self) {
        let home = self.home.region();
        if home != self.announced_home {
            self.announced_home = home;
            self.tell(Event::HomeChanged(home));
        }
    }

    fn announce_endpoints(&mut self, now: Instant) {
        let changed = self.endpoints.handle_sockets(&self.sockets, self.netcheck.report(), now);
        if let Some(endpoints) = changed {
            self.tell(Event::EndpointsChanged(endpoints));
        }
    }

    fn announce_net_info(&mut self) {
        let Some(info) = self.netcheck.report().map(Report::net_info) else { return };
        let is_news =
            self.announced_net_info.as_ref().is_none_or(|old| crate::netcheck::differs_materially(old, &info));
        if is_news {
            self.announced_net_info = Some(info.clone());
            self.tell(Event::NetInfoChanged(info));
        }
    }
}
