//! One relay, its clients, and the streams between them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, NodeSecret, Random, RelaySecret};
use warren_relay::client::{Client, Event};
use warren_relay::server::{CloseReason, ConnId, Progress, Server, ServerConfig};

pub struct Room {
    pub server: Server,
    /// Admission requests are kept until [`Room::answer_held`].
    pub hold_admission: bool,
    clients: BTreeMap<ConnId, Client>,
    closed: BTreeMap<ConnId, CloseReason>,
    refused: BTreeSet<NodePublic>,
    stalled: BTreeSet<ConnId>,
    ready: BTreeSet<ConnId>,
    held: Vec<ConnId>,
    now: Instant,
    clients_made: u8,
}

fn secret(seed: u8) -> NodeSecret {
    NodeSecret::from_seed([seed; 32])
}

pub fn key(seed: u8) -> NodePublic {
    secret(seed).public()
}

/// The shortest packet that counts as disco.
pub fn disco_packet() -> Vec<u8> {
    [warren_relay::DISCO_MAGIC.as_slice(), &[0; 56]].concat()
}

/// An owner that gives receivers no turn between a sender's frames.
fn push(server: &mut Server, id: ConnId, bytes: &[u8], now: Instant) {
    let mut progress = server.handle_bytes(id, bytes, now);
    while progress == Progress::Crowded {
        progress = server.handle_rest(id, now);
    }
}

fn admit(server: &mut Server, id: ConnId, is_admitted: bool, now: Instant) {
    let mut progress = server.admit(id, is_admitted, now);
    while progress == Progress::Crowded {
        progress = server.handle_rest(id, now);
    }
}

impl Room {
    pub fn new() -> Self {
        let random = Random::from_seed([100; 32]);
        Self {
            server: Server::new(RelaySecret::from_seed([200; 32]), ServerConfig::default(), random),
            hold_admission: false,
            clients: BTreeMap::new(),
            closed: BTreeMap::new(),
            refused: BTreeSet::new(),
            stalled: BTreeSet::new(),
            ready: BTreeSet::new(),
            held: Vec::new(),
            // Where the clock starts does not matter: nothing waits for it.
            #[allow(clippy::disallowed_methods)]
            now: Instant::now(),
            clients_made: 0,
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn dial(&mut self, seed: u8, is_home: bool) -> ConnId {
        let id = self.dial_mute();
        self.clients_made += 1;
        let random = Random::from_seed([self.clients_made; 32]);
        self.clients.insert(id, Client::new(secret(seed), is_home, random, self.now));
        id
    }

    /// A connection whose other end says nothing by itself.
    pub fn dial_mute(&mut self) -> ConnId {
        self.server.connect([192, 0, 2, 1].into(), self.now)
    }

    pub fn join(&mut self, seed: u8) -> ConnId {
        let id = self.dial(seed, false);
        self.settle();
        assert!(matches!(self.events(id)[..], [Event::Connected { .. }]));
        id
    }

    pub fn refuse(&mut self, seed: u8) {
        self.refused.insert(key(seed));
    }

    pub fn client(&mut self, id: ConnId) -> &mut Client {
        self.clients.get_mut(&id).expect("a client of this room")
    }

    pub fn send(&mut self, from: ConnId, to: u8, packet: &[u8]) {
        let now = self.now;
        self.client(from).send(key(to), packet, now);
    }

    pub fn raw(&mut self, from: ConnId, bytes: &[u8]) {
        push(&mut self.server, from, bytes, self.now);
    }

    /// The same, and `to` takes what waits for it whenever the relay is crowded.
    pub fn raw_with_turns(&mut self, from: ConnId, bytes: &[u8], to: ConnId) {
        let mut progress = self.server.handle_bytes(from, bytes, self.now);
        while progress == Progress::Crowded {
            while let Some(frame) = self.server.poll_transmit(to) {
                let now = self.now;
                self.client(to).handle_bytes(&frame, now).expect("the relay speaks the protocol");
            }
            progress = self.server.handle_rest(from, self.now);
        }
    }

    pub fn leave(&mut self, id: ConnId) {
        self.clients.remove(&id);
        self.server.disconnect(id);
    }

    /// The client's socket takes nothing.
    pub fn stall(&mut self, id: ConnId) {
        self.stalled.insert(id);
    }

    pub fn resume(&mut self, id: ConnId) {
        self.stalled.remove(&id);
    }

    pub fn events(&mut self, id: ConnId) -> Vec<Event> {
        let client = self.client(id);
        std::iter::from_fn(|| client.poll_event()).collect()
    }

    pub fn closed(&self, id: ConnId) -> Option<CloseReason> {
        self.closed.get(&id).copied()
    }

    pub fn answer_held(&mut self) {
        for id in std::mem::take(&mut self.held) {
            admit(&mut self.server, id, true, self.now);
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now += by;
        self.server.handle_timeout(self.now);
        if self.server.counters().connections > 0 {
            self.settle();
        }
    }

    /// Moves bytes until nobody has anything to say.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for (id, client) in &mut self.clients {
                while self.server.wants_bytes(*id)
                    && let Some(frame) = client.poll_transmit()
                {
                    moved = true;
                    // In two pieces: a stream keeps no boundaries.
                    let (head, tail) = frame.split_at(frame.len() / 2);
                    push(&mut self.server, *id, head, self.now);
                    push(&mut self.server, *id, tail, self.now);
                }
            }
            while let Some(request) = self.server.poll_request() {
                moved = true;
                if self.hold_admission {
                    self.held.push(request.conn);
                } else {
                    admit(&mut self.server, request.conn, !self.refused.contains(&request.key), self.now);
                }
            }
            while let Some(id) = self.server.poll_ready() {
                self.ready.insert(id);
            }
            for id in self.ready.difference(&self.stalled).copied().collect::<Vec<_>>() {
                self.ready.remove(&id);
                while let Some(frame) = self.server.poll_transmit(id) {
                    moved = true;
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.handle_bytes(&frame, self.now).expect("the relay speaks the protocol");
                    }
                }
            }
            while let Some((id, reason)) = self.server.poll_closed() {
                self.closed.insert(id, reason);
            }
            if !moved {
                return;
            }
        }
    }
}
