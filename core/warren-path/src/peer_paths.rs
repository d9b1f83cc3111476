//! Everything about the ways to one peer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, NodePublic};
use warren_wire::RegionId;

use crate::candidates::Candidates;
use crate::events::Hop;
use crate::select::{GOOD_ENOUGH, Measured, TRUST, Ways};

/// Without an own packet for so long, heartbeats stop (§4.1).
pub(crate) const SESSION: Duration = Duration::from_secs(45);
/// While a direct path works, a better one is looked for so often.
const UPGRADE_INTERVAL: Duration = Duration::from_secs(60);

/// The direct address in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub measured: Measured,
    pub trusted_until: Instant,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerPaths {
    pub key: NodePublic,
    /// As the map says.
    pub disco: Option<DiscoPublic>,
    /// A newer key that the peer used while the map did not know: both are used until the map decides.
    pub learned_disco: Option<DiscoPublic>,
    pub home: Option<RegionId>,
    pub mapping_varies: Option<bool>,
    pub candidates: Candidates,
    pub best: Option<Best>,
    /// Where authenticated data last came from directly.
    pub heard_direct: Option<(SocketAddr, Instant)>,
    /// The relay region by which the peer last reached us.
    pub route: Option<RegionId>,
    pub last_heard: Option<Instant>,
    /// When it last reached us, or answered, without a relay.
    pub last_direct: Option<Instant>,
    pub relay_latency: Option<Duration>,
    pub last_send: Option<Instant>,
    pub last_round: Option<Instant>,
    /// Discovery pings sent since the last answer.
    pub unanswered: u32,
    pub last_call: Option<Instant>,
    /// When we last worked out the shared key with a disco key that the map does not know.
    pub last_stranger: Option<Instant>,
    pub heartbeat_is_armed: bool,
    /// Nothing can be due for a round before this; `None` when something may be.
    pub round_not_before: Option<Instant>,
    /// When the last hurried search began, and how many of its rounds have been.
    pub hurried: Option<Instant>,
    pub quick_rounds: usize,
    /// The hop that was last announced.
    pub announced: Option<Hop>,
}

impl PeerPaths {
    pub fn new(key: NodePublic) -> PeerPaths {
        PeerPaths {
            key,
            disco: None,
            learned_disco: None,
            home: None,
            mapping_varies: None,
            candidates: Candidates::default(),
            best: None,
            heard_direct: None,
            route: None,
            last_heard: None,
            last_direct: None,
            relay_latency: None,
            last_send: None,
            last_round: None,
            unanswered: 0,
            last_call: None,
            last_stranger: None,
            heartbeat_is_armed: false,
            round_not_before: None,
            hurried: None,
            quick_rounds: 0,
            announced: None,
        }
    }

    /// The keys to seal for, the newest first.
    pub fn disco_keys(&self) -> impl Iterator<Item = DiscoPublic> {
        self.learned_disco.into_iter().chain(self.disco)
    }

    pub fn trusts_direct(&self, now: Instant) -> bool {
        self.best.is_some_and(|best| now < best.trusted_until)
    }

    pub fn is_active(&self, now: Instant) -> bool {
        self.last_send.is_some_and(|sent| now < sent + SESSION)
    }

    /// Whether a whole round is worth its packets.
    pub fn wants_round(&self, now: Instant) -> bool {
        if !self.trusts_direct(now) {
            return true;
        }
        let is_slow = self.best.is_some_and(|best| best.measured.latency > GOOD_ENOUGH);
        self.last_round.is_none_or(|round| is_slow && now >= round + UPGRADE_INTERVAL)
    }

    /// A pong came: adopt the address if it is better, or if what we have is not trusted; renew trust in it if it is the
    /// one in use. Returns whether the path is another one now.
    pub fn handle_answer(&mut self, measured: Measured, now: Instant) -> bool {
        (self.unanswered, self.last_direct) = (0, Some(now));
        let before = self.best.map(|best| best.measured.addr);
        let incumbent = self.best.filter(|best| now < best.trusted_until).map(|best| best.measured);
        let adopts = crate::select::is_better(&measured, incumbent.as_ref());
        if adopts || before == Some(measured.addr) {
            self.best = Some(Best { measured, trusted_until: now + TRUST });
        }
        before != self.best.map(|best| best.measured.addr)
    }

    /// A direct ping stayed without an answer.
    pub fn handle_silence(&mut self, addr: SocketAddr, now: Instant) {
        if self.best.is_some_and(|best| best.measured.addr == addr && now >= best.trusted_until) {
            self.best = None;
        }
    }

    /// The path in use must be a candidate.
    pub fn drop_best_if_gone(&mut self) {
        if self.best.is_some_and(|best| !self.candidates.contains(&best.measured.addr)) {
            self.best = None;
        }
    }

    /// The network under us is another one: what was measured holds no longer.
    pub fn forget_measurements(&mut self) {
        (self.best, self.heard_direct, self.round_not_before, self.unanswered) = (None, None, None, 0);
        self.hurried = None;
        self.candidates.forget_history();
    }

    /// All addresses may be pinged at once.
    pub fn allow_round(&mut self) {
        self.round_not_before = None;
        self.candidates.forget_sent();
    }

    /// The ways there are now. The home region is left out for the region that the peer last used, where only that one is
    /// connected.
    pub fn ways(&self, is_direct_allowed: bool, is_connected: impl Fn(RegionId) -> bool) -> Ways {
        let other_route = self.route.filter(|route| is_connected(*route));
        let region = match self.home {
            Some(home) if is_connected(home) => Some(home),
            home => other_route.or(home),
        };
        let direct = self.best.filter(|_| is_direct_allowed).map(|best| (best.measured.addr, best.trusted_until));
        let relay = region.map(|region| Hop::Relay { region, peer: self.key });
        Ways { direct, heard: self.heard_direct.filter(|_| is_direct_allowed), relay }
    }
}
