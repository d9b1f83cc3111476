//! The addresses at which a peer might be reached directly. data-plane.md §4.3.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::disco::TxId;
use crate::events::is_usable_endpoint;

/// More than this many addresses of one peer are not remembered: a peer may ping from anywhere it likes.
pub(crate) const MAX_CANDIDATES: usize = 100;

/// An address that only a ping or data taught us is forgotten so long after the last of them.
const LEARNED_LIFETIME: Duration = Duration::from_secs(45);

/// Between two discovery pings to one address.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(5);

/// A ping may be returned with a ping of ours so often: where pings arrive and pongs do not, two nodes must not keep
/// each other busy.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);

/// One address, why we know it and what came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    /// The network map names it.
    pub in_map: bool,
    /// The last call-me-maybe named it.
    pub in_call: bool,
    /// The last ping from it.
    pub pinged_us: Option<(Instant, TxId)>,
    /// The last authenticated data from it.
    pub heard: Option<Instant>,
    /// Our last ping to it.
    pub sent: Option<Instant>,
    /// Our last ping in return for one of theirs.
    pub returned: Option<Instant>,
    /// The last pong: how long it took, when it came.
    pub answer: Option<(Duration, Instant)>,
}

impl Candidate {
    fn is_alive(&self, now: Instant) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now < at + LEARNED_LIFETIME);
        self.in_map || self.in_call || recent(self.heard) || recent(self.pinged_us.map(|(at, _)| at))
    }
}

/// What a ping from an address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PingedFrom {
    New,
    Known,
    /// The same ping once more.
    Again,
    /// There is no room to remember the address.
    NoRoom,
}

/// The candidates of one peer, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates(BTreeMap<SocketAddr, Candidate>);

impl Candidates {
    /// Takes over what the map says; addresses that it no longer names live on only if something else knows them.
    pub fn set_in_map(&mut self, endpoints: &[SocketAddr], now: Instant) -> bool {
        self.set_source(endpoints, now, |candidate, is_in| candidate.in_map = is_in)
    }

    /// Takes over what a call-me-maybe says, in place of the one before.
    pub fn set_in_call(&mut self, endpoints: &[SocketAddr], now: Instant) -> bool {
        self.set_source(endpoints, now, |candidate, is_in| candidate.in_call = is_in)
    }

    /// Returns whether an address is new.
    fn set_source(&mut self, endpoints: &[SocketAddr], now: Instant, set: impl Fn(&mut Candidate, bool)) -> bool {
        self.0.values_mut().for_each(|candidate| set(candidate, false));
        let mut is_new = false;
        for endpoint in endpoints.iter().filter(|endpoint| is_usable_endpoint(endpoint)) {
            if !self.0.contains_key(endpoint) {
                if !self.make_room(now) {
                    break;
                }
                is_new = true;
            }
            set(self.0.entry(*endpoint).or_default(), true);
        }
        self.purge(now);
        is_new
    }

    pub fn note_ping(&mut self, from: SocketAddr, tx: TxId, now: Instant) -> PingedFrom {
        if let Some(candidate) = self.0.get_mut(&from) {
            let before = candidate.pinged_us.replace((now, tx));
            return if before.is_some_and(|(_, last)| last == tx) { PingedFrom::Again } else { PingedFrom::Known };
        }
        if !self.make_room(now) {
            return PingedFrom::NoRoom;
        }
        self.0.insert(from, Candidate { pinged_us: Some((now, tx)), ..Candidate::default() });
        PingedFrom::New
    }

    /// Authenticated data came from here. Returns whether the address is new.
    pub fn note_heard(&mut self, from: SocketAddr, now: Instant) -> bool {
        if let Some(candidate) = self.0.get_mut(&from) {
            candidate.heard = Some(now);
            return false;
        }
        if !self.make_room(now) {
            return false;
        }
        self.0.insert(from, Candidate { heard: Some(now), ..Candidate::default() });
        true
    }

    pub fn note_sent(&mut self, to: SocketAddr, now: Instant) {
        if let Some(candidate) = self.0.get_mut(&to) {
            candidate.sent = Some(now);
        }
    }

    /// Returns whether the address is (still) a candidate.
    pub fn note_answer(&mut self, from: SocketAddr, latency: Duration, now: Instant) -> bool {
        let Some(candidate) = self.0.get_mut(&from) else { return false };
        candidate.answer = Some((latency, now));
        true
    }

    /// Whether a ping from here deserves one in return now; if so, it counts as returned.
    pub fn may_return(&mut self, addr: &SocketAddr, now: Instant) -> bool {
        let Some(candidate) = self.0.get_mut(addr) else { return false };
        if candidate.returned.is_some_and(|at| now < at + RETURN_INTERVAL) {
            return false;
        }
        candidate.returned = Some(now);
        true
    }

    /// Every address may be pinged again at once.
    pub fn forget_sent(&mut self) {
        self.0.values_mut().for_each(|candidate| candidate.sent = None);
    }

    /// Nothing that was measured holds any longer.
    pub fn forget_history(&mut self) {
        for candidate in self.0.values_mut() {
            (candidate.sent, candidate.answer) = (None, None);
        }
    }

    /// Forgets what is dead and lists what a discovery round should ping: what was not pinged for `rest`.
    pub fn due(&mut self, now: Instant, rest: Duration, is_reachable: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
        self.purge(now);
        let rested = |candidate: &Candidate| candidate.sent.is_none_or(|sent| now >= sent + rest);
        let due = self.0.iter().filter(|(addr, candidate)| is_reachable(addr) && rested(candidate));
        due.map(|(addr, _)| *addr).collect()
    }

    pub fn contains(&self, addr: &SocketAddr) -> bool {
        self.0.contains_key(addr)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &Candidate)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn purge(&mut self, now: Instant) {
        self.0.retain(|_, candidate| candidate.is_alive(now));
    }

    /// Whether one more address fits, after the dead ones were forgotten.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.0.len() >= MAX_CANDIDATES {
            self.purge(now);
        }
        self.0.len() < MAX_CANDIDATES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_second_call_replaces_the_first_and_leaves_the_map_alone() {
        let now = warren_simnet::beginning();
        let mut candidates = Candidates::default();
        assert!(candidates.set_in_map(&[addr(1)], now));
        assert!(candidates.set_in_call(&[addr(2)], now));
        assert!(candidates.set_in_call(&[addr(3)], now));
        assert_eq!(candidates.due(now, PING_INTERVAL, |_| true), [addr(1), addr(3)]);
        assert!(!candidates.set_in_call(&[addr(3)], now));
    }

    #[test]
    fn an_address_is_pinged_every_five_seconds_and_not_sooner() {
        let now = warren_simnet::beginning();
        let mut candidates = Candidates::default();
        candidates.set_in_map(&[addr(1)], now);
        candidates.note_sent(addr(1), now);
        assert!(candidates.due(now + PING_INTERVAL - Duration::from_millis(1), PING_INTERVAL, |_| true).is_empty());
        assert_eq!(candidates.due(now + PING_INTERVAL, PING_INTERVAL, |_| true), [addr(1)]);
    }

    #[test]
    fn an_address_that_only_pinged_us_is_forgotten_after_forty_five_seconds() {
        let now = warren_simnet::beginning();
        let mut candidates = Candidates::default();
        assert_eq!(candidates.note_ping(addr(1), TxId([1; 12]), now), PingedFrom::New);
        assert_eq!(candidates.note_ping(addr(1), TxId([1; 12]), now), PingedFrom::Again);
        assert_eq!(candidates.note_ping(addr(1), TxId([2; 12]), now), PingedFrom::Known);
        assert_eq!(candidates.due(now + LEARNED_LIFETIME, PING_INTERVAL, |_| true), []);
    }

    #[test]
    fn a_peer_that_pings_from_everywhere_fills_its_own_hundred_places_only() {
        let now = warren_simnet::beginning();
        let mut candidates = Candidates::default();
        let results: Vec<PingedFrom> =
            (1..=200).map(|port| candidates.note_ping(addr(port), TxId([1; 12]), now)).collect();
        assert_eq!(results.iter().filter(|result| **result == PingedFrom::New).count(), MAX_CANDIDATES);
        assert_eq!(candidates.len(), MAX_CANDIDATES);
        assert_eq!(candidates.note_ping(addr(999), TxId([1; 12]), now + LEARNED_LIFETIME), PingedFrom::New);
    }

    #[test]
    fn places_without_meaning_elsewhere_are_no_candidates() {
        let now = warren_simnet::beginning();
        let mut candidates = Candidates::default();
        let bad = ["[fe80::1]:1", "0.0.0.0:1", "[ff02::1]:1", "224.0.0.1:1", "192.0.2.1:0", "255.255.255.255:1"];
        candidates.set_in_call(&bad.map(|text| text.parse().expect("an address")), now);
        assert_eq!(candidates.len(), 0);
    }
}
