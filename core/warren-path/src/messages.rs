//! Probes that arrive: STUN answers, pings, pongs, calls. data-plane.md §2.3, §3.4, §4.7.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, NodePublic, SharedBox};
use warren_relay::stun;

use crate::candidates::PingedFrom;
use crate::disco::{self, Envelope, Message, TxId};
use crate::discovery::Call;
use crate::events::{Event, Hop, unmapped};
use crate::manager::Paths;
use crate::probes::Way;
use crate::select::Measured;
use crate::sockets::is_overlay;

/// A disco key that the map does not know costs a scalar multiplication: at most one a peer in this time.
const STRANGER_INTERVAL: Duration = Duration::from_secs(1);
/// A call makes us ping many addresses: within this time after the last, only addresses that it adds.
const CALL_INTERVAL: Duration = Duration::from_millis(250);

impl Paths {
    /// Whether these bytes are for [`Paths::handle_probe`]: disco (by UDP or relay), or STUN (by UDP).
    pub fn is_probe(bytes: &[u8]) -> bool {
        disco::looks_like_disco(bytes) || looks_like_stun(bytes)
    }

    /// A probe arrived. By a relay, `from` names the node that the relay has checked as the sender.
    pub fn handle_probe(&mut self, from: Hop, bytes: &[u8], now: Instant) {
        let from = match from {
            Hop::Direct { socket, addr } => Hop::Direct { socket, addr: unmapped(addr) },
            relayed => relayed,
        };
        match from {
            _ if disco::looks_like_disco(bytes) => self.handle_disco(from, bytes, now),
            Hop::Direct { addr, .. } if looks_like_stun(bytes) => self.handle_stun(addr, bytes, now),
            _ => self.counters.drop_malformed += 1,
        }
    }

    fn handle_stun(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let is_expected = match stun::decode_response(bytes) {
            Ok((tx, mapped)) => self.netcheck.handle_answer(from, tx, unmapped(mapped), now),
            Err(_) => false,
        };
        if is_expected {
            self.step_check(now);
        } else {
            self.counters.drop_unexpected_stun += 1;
        }
    }

    fn handle_disco(&mut self, from: Hop, bytes: &[u8], now: Instant) {
        let Some(envelope) = Envelope::parse(bytes) else {
            self.counters.drop_malformed += 1;
            return;
        };
        let owners = match from {
            Hop::Direct { .. } => self.disco_keys.owners(&envelope.sender),
            Hop::Relay { region, peer } => {
                self.relays.note_heard(region, now);
                if !self.peers.contains_key(&peer) {
                    self.counters.drop_unknown_sender += 1;
                    return;
                }
                if !self.disco_keys.owners(&envelope.sender).contains(&peer) {
                    self.handle_stranger(peer, &envelope, now);
                }
                self.disco_keys.owners(&envelope.sender).into_iter().filter(|owner| *owner == peer).collect()
            }
        };
        if owners.is_empty() {
            self.counters.drop_unknown_sender += 1;
            return;
        }
        let plain =
            self.disco_keys.shared(&self.disco, &envelope.sender).and_then(|shared| shared.open(envelope.sealed));
        let Some(plain) = plain else {
            self.counters.drop_forged += 1;
            return;
        };
        if let Hop::Relay { region, peer } = from
            && let Some(paths) = self.peers.get_mut(&peer)
        {
            paths.route = Some(region);
        }
        let message = Message::parse(&plain);
        if let Some(peer) = speaker(from, &owners, message.as_ref()) {
            self.note_spoke(peer);
        }
        match message {
            Some(Message::Ping { tx, node, .. }) => self.handle_ping(from, envelope.sender, &owners, tx, node, now),
            Some(Message::Pong { tx, seen }) => self.handle_pong(from, envelope.sender, tx, seen, now),
            Some(Message::CallMeMaybe { endpoints }) => self.handle_call(from, &endpoints, now),
            Some(Message::Other { .. }) | None => self.counters.drop_unknown_message += 1,
        }
        self.follow_ping_timeout();
    }

    /// A peer uses a disco key that the map does not know: it may have restarted while the control server is down. The
    /// relay has checked its node key, so that key may speak for it; it does not replace the one in the map, because a
    /// relay that lies must not take away more than itself.
    fn handle_stranger(&mut self, peer: NodePublic, envelope: &Envelope<'_>, now: Instant) {
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        if paths.last_stranger.is_some_and(|at| now < at + STRANGER_INTERVAL) {
            return;
        }
        paths.last_stranger = Some(now);
        let opened = SharedBox::disco(&self.disco, &envelope.sender).and_then(|shared| shared.open(envelope.sealed));
        let names_another =
            |message: &Message| matches!(message, Message::Ping { node: Some(node), .. } if *node != peer);
        let message = opened.and_then(|plain| Message::parse(&plain));
        if message.is_some_and(|message| !names_another(&message)) {
            self.learn_disco(peer, envelope.sender, now);
        }
    }

    /// Takes a disco key for a peer beside the one in the map.
    pub(crate) fn learn_disco(&mut self, peer: NodePublic, disco: DiscoPublic, now: Instant) {
        let Some(paths) = self.peers.get(&peer) else { return };
        if disco.is_zero() || paths.disco_keys().any(|known| known == disco) {
            return;
        }
        let of_map = paths.disco;
        self.set_disco_keys(peer, of_map, Some(disco));
        if self.peers.get(&peer).is_some_and(|paths| paths.is_active(now)) {
            self.search(peer, Call::Wanted, now);
        }
    }

    /// Answers at once, by the way that the ping came, and remembers where it came from.
    fn handle_ping(
        &mut self,
        from: Hop,
        sender: DiscoPublic,
        owners: &[NodePublic],
        tx: TxId,
        node: Option<NodePublic>,
        now: Instant,
    ) {
        let seen = match from {
            Hop::Relay { region, .. } => disco::relay_as_address(region),
            Hop::Direct { addr, .. } => {
                if !self.is_direct_allowed || is_overlay(&addr.ip()) {
                    return;
                }
                if let Some(peer) = pinger(owners, node)
                    && self.note_ping(peer, addr, tx, now) == PingedFrom::Again
                {
                    self.counters.drop_duplicate_ping += 1;
                    return;
                }
                addr
            }
        };
        let Some(shared) = self.disco_keys.shared(&self.disco, &sender) else { return };
        let pong = disco::seal(shared, &mut self.random, &self.disco_public, &Message::Pong { tx, seen });
        self.transmit(from, pong, now);
        self.counters.pongs_sent += 1;
        // Where the peer reaches us from, our own ping gets through now, even if one was lost a moment ago because their
        // router had not been opened yet.
        if let (Hop::Direct { addr, .. }, Some(peer)) = (from, pinger(owners, node))
            && let Some(paths) = self.peers.get_mut(&peer)
            && !paths.trusts_direct(now)
            && paths.candidates.may_return(&addr, now)
        {
            self.ping_direct(peer, addr, now);
        }
    }

    fn note_ping(&mut self, peer: NodePublic, from: SocketAddr, tx: TxId, now: Instant) -> PingedFrom {
        let Some(paths) = self.peers.get_mut(&peer) else { return PingedFrom::NoRoom };
        let noted = paths.candidates.note_ping(from, tx, now);
        if noted != PingedFrom::Again {
            paths.last_direct = Some(now);
        }
        noted
    }

    /// A pong counts for the address that was pinged, even if it comes from another one.
    fn handle_pong(&mut self, from: Hop, sender: DiscoPublic, tx: TxId, seen: SocketAddr, now: Instant) {
        let is_expected = self.probes.get(&tx).is_some_and(|probe| {
            let same_kind = match (probe.way, from) {
                (Way::Direct(_), Hop::Direct { .. }) => true,
                (Way::Relay(region), Hop::Relay { region: by, peer }) => region == by && probe.peer == peer,
                (Way::Direct(_), Hop::Relay { .. }) | (Way::Relay(_), Hop::Direct { .. }) => false,
            };
            same_kind && probe.disco == sender
        });
        let Some(probe) = self.probes.take(&tx).filter(|_| is_expected) else {
            self.counters.drop_unexpected_pong += 1;
            return;
        };
        self.counters.pongs_received += 1;
        let latency = now.saturating_duration_since(probe.sent);
        let hop = match probe.way {
            Way::Direct(addr) => {
                self.handle_direct_pong(probe.peer, Measured { addr, latency }, now);
                Hop::direct(addr)
            }
            Way::Relay(region) => {
                if let Some(paths) = self.peers.get_mut(&probe.peer) {
                    paths.relay_latency = Some(latency);
                }
                Hop::Relay { region, peer: probe.peer }
            }
        };
        if let Some(id) = probe.asked
            && self.asked.remove(&id).is_some()
        {
            self.tell(Event::Pong { id, hop, latency, observed: seen });
        }
    }

    fn handle_direct_pong(&mut self, peer: NodePublic, measured: Measured, now: Instant) {
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        if !self.is_direct_allowed || !paths.candidates.note_answer(measured.addr, measured.latency, now) {
            return;
        }
        if paths.handle_answer(measured, now) {
            self.announce(&peer, now);
        }
    }

    /// The peer has just pinged us and asks for pings. Only a relay can say who asks.
    fn handle_call(&mut self, from: Hop, endpoints: &[SocketAddr], now: Instant) {
        let Hop::Relay { peer, .. } = from else {
            self.counters.drop_call_not_relayed += 1;
            return;
        };
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        self.counters.calls_received += 1;
        let endpoints: Vec<SocketAddr> = endpoints.iter().copied().filter(|addr| !is_overlay(&addr.ip())).collect();
        paths.candidates.set_in_call(&endpoints, now);
        paths.drop_best_if_gone();
        // It has perhaps left the address that we trust: until that one answers again, packets go by the relay too.
        let doubtful = paths.best.as_mut().filter(|best| !endpoints.contains(&best.measured.addr));
        let doubtful = doubtful.map(|best| {
            best.trusted_until = best.trusted_until.min(now);
            best.measured.addr
        });
        if let Some(addr) = doubtful {
            self.ping_direct(peer, addr, now);
        }
        let Some(paths) = self.peers.get_mut(&peer) else { return };
        if paths.last_call.is_none_or(|at| now >= at + CALL_INTERVAL) {
            paths.last_call = Some(now);
            paths.allow_round();
        }
        self.search(peer, Call::NotWanted, now);
        self.announce(&peer, now);
    }
}

/// A STUN binding message. The second byte of WireGuard is 0, so the two never meet.
fn looks_like_stun(bytes: &[u8]) -> bool {
    stun::is_stun(bytes) && bytes[1] == 1
}

/// Who sent an authentic message, as far as it can be told.
fn speaker(from: Hop, owners: &[NodePublic], message: Option<&Message>) -> Option<NodePublic> {
    match (from, message?) {
        (Hop::Relay { peer, .. }, _) => Some(peer),
        (Hop::Direct { .. }, Message::Ping { node, .. }) => pinger(owners, *node),
        (Hop::Direct { .. }, _) => pinger(owners, None),
    }
}

/// Who pinged: the node that the ping names, if the key is its own, or the only one that has the key.
fn pinger(owners: &[NodePublic], node: Option<NodePublic>) -> Option<NodePublic> {
    match owners {
        [only] => Some(*only),
        several => node.filter(|node| several.contains(node)),
    }
}
