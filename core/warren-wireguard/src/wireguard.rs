//! All peers of one node: the composing value.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, NodeSecret, Random, UnixTime};

use crate::Counters;
use crate::handshake::{Claimed, Initiated, Psk};
use crate::index::IndexTable;
use crate::keypairs::Keypair;
use crate::limiter::Limiter;
use crate::macs::{Checker, Source};
use crate::message::{CookieReply, Handshake, Initiation, OVERHEAD, Response};
use crate::peer::Peer;
use crate::timers::{ERASE_AFTER, INITIATION_SPACING, MAX_JITTER, REKEY_ATTEMPT, REKEY_TIMEOUT, Timer};
use crate::timestamp::Stamps;
use crate::transport::{ReceiveKey, SendKey};

/// The WireGuard state of one node towards all its peers.
pub struct WireGuard {
    secret: NodeSecret,
    public: NodePublic,
    random: Random,
    stamps: Stamps,
    checker: Checker,
    limiter: Limiter,
    peers: Vec<Option<Peer>>,
    slots: BTreeMap<NodePublic, usize>,
    free: Vec<usize>,
    indices: IndexTable,
    due: BTreeSet<(Instant, usize)>,
    outgoing: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    counters: Counters,
}

/// A message for a peer, to be sent over whatever path it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whom it is for.
    pub peer: NodePublic,
    /// The whole datagram: an initiation or a keepalive.
    pub bytes: Vec<u8>,
}

/// Something the engine wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There are new keys to send with: what is staged for the peer can go.
    Established {
        /// With whom.
        peer: NodePublic,
    },
    /// 90 s without an answer: what is staged will not go.
    GaveUp {
        /// Who is silent.
        peer: NodePublic,
    },
    /// The keys were wiped after 540 s.
    Erased {
        /// Whose.
        peer: NodePublic,
    },
}

/// Keys and counters to seal a burst with.
#[derive(Clone)]
pub struct Reserved {
    /// Seals; may be used on any thread.
    pub key: Arc<SendKey>,
    /// One counter per message, each to be used once.
    pub counters: Range<u64>,
}

/// Why nothing can be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// A handshake is under way; [`Event::Established`] or [`Event::GaveUp`] follows.
    #[error("a handshake is under way")]
    Handshaking,
    /// Not configured.
    #[error("no such peer")]
    UnknownPeer,
    /// The peer's public key is a point that no honest peer has.
    #[error("the peer's key cannot be agreed with")]
    ImpossibleKey,
}

/// What to open a transport message with.
#[derive(Clone)]
pub struct InboundKey {
    /// Whose messages these are, if they open.
    pub peer: NodePublic,
    /// Opens; may be used on any thread.
    pub key: Arc<ReceiveKey>,
}

/// What a handshake message led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// To be sent to where the message came from.
    pub reply: Option<Vec<u8>>,
    /// The peer that has just proven to be there, now, at that place. An initiation alone does not: it may be a replay.
    pub proven: Option<NodePublic>,
}

/// Why a handshake message was dropped. Nothing changed but counters, and the bucket that measures load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeDrop {
    /// Not a handshake message.
    #[error("not a handshake message")]
    Malformed,
    /// The sender does not know our public key.
    #[error("first MAC is wrong")]
    BadMac1,
    /// The source exceeds its share while the node is under load.
    #[error("source exceeds its share under load")]
    RateLimited,
    /// A response or cookie to nothing that we sent.
    #[error("answers nothing that was sent")]
    Unexpected,
    /// The noise does not verify.
    #[error("forged")]
    Forged,
    /// A proper initiation by somebody who is no peer.
    #[error("initiator is no peer")]
    UnknownPeer,
    /// An initiation seen before, older than one seen, or too soon after one.
    #[error("initiation is replayed or too soon")]
    Replayed,
}

/// What there is to say about one peer's session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// When the latest key pair was made.
    pub last_handshake: Option<Instant>,
    /// Whether there are keys to send with.
    pub has_keys: bool,
    /// Whether we are asking for keys.
    pub is_handshaking: bool,
}

/// Judges the counters of one key pair, in order.
pub struct Receiving<'a>(&'a mut Keypair);

impl Receiving<'_> {
    /// Whether this authenticated counter is new.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        self.0.window.accept(counter)
    }
}

impl WireGuard {
    /// A node without peers. `wall` is the wall time at `now`.
    #[must_use]
    pub fn new(secret: NodeSecret, mut random: Random, now: Instant, wall: UnixTime) -> Self {
        let public = secret.public();
        Self {
            checker: Checker::new(&public, random.fork(), now),
            secret,
            public,
            random,
            stamps: Stamps::new(now, wall),
            limiter: Limiter::new(now),
            peers: Vec::new(),
            slots: BTreeMap::new(),
            free: Vec::new(),
            indices: IndexTable::default(),
            due: BTreeSet::new(),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    // ---- inputs

    /// Takes an initiation, response or cookie reply. Bytes that do not authenticate change nothing.
    ///
    /// # Errors
    /// [`HandshakeDrop`], which is counted.
    pub fn handle_handshake(&mut self, datagram: &[u8], source: Source, now: Instant) -> Result<Answer, HandshakeDrop> {
        let result = self.judge_handshake(datagram, source, now);
        if let Err(drop) = result {
            let counter = match drop {
                HandshakeDrop::Malformed | HandshakeDrop::Unexpected => &mut self.counters.malformed,
                HandshakeDrop::BadMac1 => &mut self.counters.bad_mac1,
                HandshakeDrop::RateLimited => &mut self.counters.rate_limited,
                HandshakeDrop::Forged => &mut self.counters.forged,
                HandshakeDrop::UnknownPeer => &mut self.counters.unknown_peer,
                HandshakeDrop::Replayed => &mut self.counters.replayed_initiations,
            };
            *counter += 1;
        }
        result
    }

    /// Authenticated, new messages arrived under `index`. `has_data`: not only keepalives.
    pub fn heard(&mut self, index: u32, has_data: bool, now: Instant) {
        let Some(slot) = self.indices.peer(index) else { return };
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let (is_confirmed, retired) = peer.keypairs.confirm(index);
        if is_confirmed {
            peer.heard.confirm();
            // Keys are there, whoever asked for them: our own initiation is moot.
            peer.attempt_since = None;
            peer.deadlines.clear(Timer::Retry);
            let moot = peer.initiated.take().map(|(_, index)| index);
            for index in retired.map(|pair| pair.local_index).into_iter().chain(moot) {
                self.indices.release(index);
            }
            self.events.push_back(Event::Established { peer: peer.key });
        }
        if peer.received(has_data, now) {
            self.request_handshake(slot, now);
        }
        self.reschedule(slot);
    }

    /// There is a way to the peer that was not there before, or that was lost in between: what left meanwhile is gone. If
    /// keys are being asked for, a new initiation leaves at once (the same bytes would be a replay), and is soon repeated.
    pub fn path_is_back(&mut self, key: &NodePublic, now: Instant) {
        self.initiate_anew_if(key, now, |peer| peer.path_is_back(now));
    }

    /// The peer spoke outside the tunnel, authentically: it is there, and perhaps can hear us now.
    pub fn peer_is_there(&mut self, key: &NodePublic, now: Instant) {
        self.initiate_anew_if(key, now, |peer| peer.is_there(now));
    }

    /// What fell due: retries, keepalives, silence, wiping.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            let Some(peer) = self.peers[slot].as_mut() else { continue };
            peer.scheduled = None;
            while let Some(timer) = self.peers[slot].as_mut().and_then(|peer| peer.deadlines.take_due(now)) {
                match timer {
                    Timer::Retry => self.retry(slot, now),
                    Timer::Keepalive => self.keepalive(slot, now),
                    Timer::Silence => self.request_handshake(slot, now),
                    Timer::Erase => self.erase(slot),
                }
            }
            self.reschedule(slot);
        }
    }

    // ---- commands

    /// Adds a peer; `false` if it is there already, which changes nothing.
    pub fn add_peer(&mut self, key: NodePublic) -> bool {
        if key == self.public || self.slots.contains_key(&key) {
            return false;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.peers[slot] = Some(Peer::new(key));
        self.slots.insert(key, slot);
        true
    }

    /// Removes a peer and wipes its keys; jobs under way may still finish, and are not accepted.
    pub fn remove_peer(&mut self, key: &NodePublic) -> bool {
        let Some(slot) = self.slots.remove(key) else { return false };
        if let Some(mut peer) = self.peers[slot].take() {
            for index in peer.indices() {
                self.indices.release(index);
            }
            if let Some(at) = peer.scheduled {
                self.due.remove(&(at, slot));
            }
        }
        self.outgoing.retain(|message| message.peer != *key);
        self.free.push(slot);
        true
    }

    /// A preshared key for the next handshakes with this peer; running keys stay.
    pub fn set_psk(&mut self, key: &NodePublic, psk: Psk) -> bool {
        let Some(peer) = self.slots.get(key).and_then(|slot| self.peers[*slot].as_mut()) else { return false };
        peer.psk = psk;
        true
    }

    /// The node's key was rotated: peers stay, all keys go.
    pub fn replace_secret(&mut self, secret: NodeSecret, now: Instant) {
        self.public = secret.public();
        self.checker = Checker::new(&self.public, self.random.fork(), now);
        self.secret = secret;
        let keys: Vec<(NodePublic, Psk)> =
            self.peers.iter().flatten().map(|peer| (peer.key, peer.psk.clone())).collect();
        for (key, psk) in keys {
            self.remove_peer(&key);
            self.add_peer(key);
            self.set_psk(&key, psk);
        }
    }

    /// The wall clock says `wall` at `now`; stamps still only grow.
    pub fn set_wall(&mut self, now: Instant, wall: UnixTime) {
        self.stamps.set_wall(now, wall);
    }

    /// Reserves `messages` counters for data to a peer, in order; asks for keys where there are none or they age.
    ///
    /// # Errors
    /// [`NoKeys`]; with [`NoKeys::Handshaking`] an initiation is on its way out.
    pub fn reserve(&mut self, key: &NodePublic, messages: u64, now: Instant) -> Result<Reserved, NoKeys> {
        let slot = *self.slots.get(key).ok_or(NoKeys::UnknownPeer)?;
        let peer = self.peers[slot].as_mut().ok_or(NoKeys::UnknownPeer)?;
        let Some(pair) = peer.keypairs.current.as_mut().filter(|pair| pair.can_send(messages, now)) else {
            if peer.shared(&self.secret).is_none() {
                return Err(NoKeys::ImpossibleKey);
            }
            self.request_handshake(slot, now);
            self.reschedule(slot);
            return Err(NoKeys::Handshaking);
        };
        let counters = pair.next_counter..pair.next_counter + messages;
        pair.next_counter = counters.end;
        let reserved = Reserved { key: Arc::clone(&pair.send), counters };
        let jitter = if peer.deadlines.is_set(Timer::Silence) {
            Duration::ZERO
        } else {
            self.random.range_duration(Duration::ZERO, MAX_JITTER)
        };
        if peer.sent_data(jitter, now) {
            self.request_handshake(slot, now);
        }
        self.reschedule(slot);
        Ok(reserved)
    }

    /// Asks for a handshake without data (a peer that announced itself, a test).
    pub fn initiate(&mut self, key: &NodePublic, now: Instant) {
        if let Some(&slot) = self.slots.get(key) {
            self.request_handshake(slot, now);
            self.reschedule(slot);
        }
    }

    /// The key for messages to our `index`; `None` when it is nobody's, or too old.
    #[must_use]
    pub fn inbound_key(&mut self, index: u32, now: Instant) -> Option<InboundKey> {
        let peer = self.peers[self.indices.peer(index)?].as_mut()?;
        let pair = peer.keypairs.by_index(index).filter(|pair| pair.is_alive(now))?;
        Some(InboundKey { peer: peer.key, key: Arc::clone(&pair.receive) })
    }

    /// The replay window for messages to our `index` that were opened; `None` when the keys are gone meanwhile.
    #[must_use]
    pub fn receiving(&mut self, index: u32) -> Option<Receiving<'_>> {
        let peer = self.peers[self.indices.peer(index)?].as_mut()?;
        peer.keypairs.by_index(index).map(Receiving)
    }

    // ---- outputs

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// The next news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`WireGuard::handle_timeout`] has something to do; may be early, never late.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    // ---- getters

    /// Our public key.
    #[must_use]
    pub fn public(&self) -> NodePublic {
        self.public
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How one peer's session stands.
    #[must_use]
    pub fn stats(&self, key: &NodePublic, now: Instant) -> Option<SessionStats> {
        let peer = self.peers[*self.slots.get(key)?].as_ref()?;
        Some(SessionStats {
            last_handshake: peer.last_handshake,
            has_keys: peer.keypairs.current.as_ref().is_some_and(|pair| pair.is_alive(now)),
            is_handshaking: peer.attempt_since.is_some(),
        })
    }

    // ---- handshakes

    fn judge_handshake(&mut self, datagram: &[u8], source: Source, now: Instant) -> Result<Answer, HandshakeDrop> {
        let message = Handshake::decode(datagram).ok_or(HandshakeDrop::Malformed)?;
        let sender = match &message {
            Handshake::Cookie(reply) => return self.take_cookie(reply, now),
            Handshake::Initiation(initiation) => initiation.sender,
            Handshake::Response(response) => response.sender,
        };
        if !self.checker.mac1_is_right(datagram) {
            return Err(HandshakeDrop::BadMac1);
        }
        if self.limiter.note(now) {
            if !self.checker.mac2_is_right(datagram, source, now) {
                let reply = self.checker.cookie_reply(datagram, sender, source, now).ok_or(HandshakeDrop::Malformed)?;
                self.counters.cookies_sent += 1;
                return Ok(Answer { reply: Some(reply.encode().to_vec()), proven: None });
            }
            if !self.limiter.admit(source, now) {
                return Err(HandshakeDrop::RateLimited);
            }
        }
        match message {
            Handshake::Initiation(initiation) => self.take_initiation(&initiation, now),
            Handshake::Response(response) => self.take_response(&response, now),
            Handshake::Cookie(_) => Err(HandshakeDrop::Malformed),
        }
    }

    fn take_initiation(&mut self, initiation: &Initiation, now: Instant) -> Result<Answer, HandshakeDrop> {
        let claimed = Claimed::open(&self.secret, &self.public, initiation).ok_or(HandshakeDrop::Forged)?;
        let key = claimed.peer;
        let slot = *self.slots.get(&key).ok_or(HandshakeDrop::UnknownPeer)?;
        let peer = self.peers[slot].as_mut().ok_or(HandshakeDrop::UnknownPeer)?;
        let shared = peer.shared(&self.secret).ok_or(HandshakeDrop::Forged)?;
        let received = claimed.prove(&shared, initiation).ok_or(HandshakeDrop::Forged)?;
        let stamp = received.timestamp;
        let is_spaced = peer.last_answered.is_none_or(|at| now.saturating_duration_since(at) >= INITIATION_SPACING);
        if !is_spaced || !peer.heard.is_fresh(stamp, peer.keypairs.has_confirmed(now), now) {
            return Err(HandshakeDrop::Replayed);
        }
        let index = self.indices.allocate(slot, &mut self.random);
        let Some((keys, response)) = received.respond(&key, &peer.psk, initiation, index, &mut self.random) else {
            self.indices.release(index);
            return Err(HandshakeDrop::Forged);
        };
        peer.heard.answered(stamp, now);
        peer.last_answered = Some(now);
        let retired = peer.keypairs.add(Keypair::new(index, keys, false, now));
        peer.last_handshake = Some(now);
        peer.deadlines.set(Timer::Erase, now + ERASE_AFTER);
        peer.sent_any();
        let mut reply = response.encode().to_vec();
        peer.macs.write(&mut reply, now);
        self.release(retired);
        self.reschedule(slot);
        self.counters.initiations_answered += 1;
        Ok(Answer { reply: Some(reply), proven: None })
    }

    fn take_response(&mut self, response: &Response, now: Instant) -> Result<Answer, HandshakeDrop> {
        let slot = self.indices.peer(response.receiver).ok_or(HandshakeDrop::Unexpected)?;
        let peer = self.peers[slot].as_mut().ok_or(HandshakeDrop::Unexpected)?;
        let (initiated, index) = peer.initiated.as_ref().ok_or(HandshakeDrop::Unexpected)?;
        if *index != response.receiver {
            return Err(HandshakeDrop::Unexpected);
        }
        let keys = initiated.finish(&self.secret, &peer.psk, response).ok_or(HandshakeDrop::Forged)?;
        let index = *index;
        peer.initiated = None;
        peer.attempt_since = None;
        peer.deadlines.clear(Timer::Retry);
        peer.deadlines.clear(Timer::Silence);
        peer.deadlines.set(Timer::Erase, now + ERASE_AFTER);
        peer.last_handshake = Some(now);
        let retired = peer.keypairs.add(Keypair::new(index, keys, true, now));
        let key = peer.key;
        self.release(retired);
        self.counters.handshakes_finished += 1;
        self.events.push_back(Event::Established { peer: key });
        // The responder may send only once it has heard from us, and there may be nothing staged.
        self.keepalive(slot, now);
        self.reschedule(slot);
        Ok(Answer { reply: None, proven: Some(key) })
    }

    fn take_cookie(&mut self, reply: &CookieReply, now: Instant) -> Result<Answer, HandshakeDrop> {
        let slot = self.indices.peer(reply.receiver).ok_or(HandshakeDrop::Unexpected)?;
        let peer = self.peers[slot].as_mut().ok_or(HandshakeDrop::Unexpected)?;
        if !peer.macs.accept_cookie(reply, now) {
            return Err(HandshakeDrop::Forged);
        }
        self.counters.cookies_received += 1;
        Ok(Answer::default())
    }

    fn request_handshake(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        if peer.attempt_since.is_some() {
            return;
        }
        peer.begin_attempt(now);
        match peer.last_initiation.map(|at| at + REKEY_TIMEOUT).filter(|next| *next > now) {
            Some(next) => peer.deadlines.set(Timer::Retry, next),
            None => self.send_initiation(slot, now),
        }
    }

    fn initiate_anew_if(&mut self, key: &NodePublic, now: Instant, decide: impl FnOnce(&mut Peer) -> bool) {
        let Some(&slot) = self.slots.get(key) else { return };
        if self.peers[slot].as_mut().is_some_and(decide) {
            self.send_initiation(slot, now);
        }
        self.reschedule(slot);
    }

    fn retry(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let Some(since) = peer.attempt_since else { return };
        if now.saturating_duration_since(since) < REKEY_ATTEMPT {
            self.send_initiation(slot, now);
            return;
        }
        peer.attempt_since = None;
        let key = peer.key;
        if let Some((_, index)) = peer.initiated.take() {
            self.indices.release(index);
        }
        self.counters.given_up += 1;
        self.events.push_back(Event::GaveUp { peer: key });
    }

    fn send_initiation(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let Some(shared) = peer.shared(&self.secret) else {
            peer.attempt_since = None;
            return;
        };
        let index = self.indices.allocate(slot, &mut self.random);
        let stamp = self.stamps.next(now);
        let Some((initiated, message)) =
            Initiated::begin(&self.secret, &shared, &peer.key, index, stamp, &mut self.random)
        else {
            self.indices.release(index);
            return;
        };
        if let Some((_, old)) = peer.initiated.replace((initiated, index)) {
            self.indices.release(old);
        }
        peer.last_initiation = Some(now);
        let jitter = self.random.range_duration(Duration::ZERO, MAX_JITTER);
        let wait = peer.answer_wait();
        peer.deadlines.set(Timer::Retry, now + wait + jitter);
        let mut bytes = message.encode().to_vec();
        peer.macs.write(&mut bytes, now);
        peer.sent_any();
        self.counters.initiations_sent += 1;
        self.outgoing.push_back(Outgoing { peer: peer.key, bytes });
    }

    fn keepalive(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let Some(pair) = peer.keypairs.current.as_mut().filter(|pair| pair.can_send(1, now)) else { return };
        let mut bytes = vec![0; OVERHEAD];
        pair.send.seal(pair.next_counter, &mut bytes);
        pair.next_counter += 1;
        peer.sent_any();
        peer.keepalive_sent(now);
        self.outgoing.push_back(Outgoing { peer: peer.key, bytes });
    }

    fn erase(&mut self, slot: usize) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        for index in peer.wipe_keypairs() {
            self.indices.release(index);
        }
        self.events.push_back(Event::Erased { peer: peer.key });
    }

    fn release<const N: usize>(&mut self, retired: [Option<Keypair>; N]) {
        for pair in retired.into_iter().flatten() {
            self.indices.release(pair.local_index);
        }
    }

    /// Keeps the queue of deadlines true. A deadline that moved back leaves its entry where it is: waking early and
    /// looking again is cheaper than moving it with every packet.
    fn reschedule(&mut self, slot: usize) {
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let Some(next) = peer.deadlines.next() else { return };
        match peer.scheduled {
            Some(at) if at <= next => {}
            earlier => {
                if let Some(at) = earlier {
                    self.due.remove(&(at, slot));
                }
                self.due.insert((next, slot));
                peer.scheduled = Some(next);
            }
        }
    }
}
