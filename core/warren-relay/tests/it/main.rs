//! Clients and a relay in memory, under one clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_crypto::{NodePublic, NodeSecret, Random, RelaySecret};
use warren_relay::client::{Client, ClientError, Event};
use warren_relay::server::{CloseReason, ConnId, DropReason, Server};
use warren_relay::{DISCO_MAGIC, Frame, GoneReason};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn secret(number: u8) -> NodeSecret {
    NodeSecret::from_seed([number; 32])
}

fn disco(extra: usize) -> Vec<u8> {
    [DISCO_MAGIC.as_slice(), &vec![0; 56 + extra]].concat()
}

/// A relay and its clients; bytes are carried in pieces of `cut`.
struct World {
    now: Instant,
    cut: usize,
    server: Server,
    clients: BTreeMap<ConnId, Client>,
    refuse: Vec<NodePublic>,
    /// Connections whose bytes from the relay nobody reads.
    stuck: Vec<ConnId>,
}

impl World {
    fn new() -> Self {
        let server = Server::new(RelaySecret::from_seed([99; 32]), Random::from_seed([1; 32]));
        World { now: Instant::now(), cut: usize::MAX, server, clients: BTreeMap::new(), refuse: Vec::new(), stuck: Vec::new() }
    }

    fn join(&mut self, number: u8) -> ConnId {
        let conn = self.server.connect(HERE, self.now);
        let client = Client::new(secret(number), true, Random::from_seed([number; 32]), self.now);
        self.clients.insert(conn, client);
        self.run();
        conn
    }

    fn run(&mut self) {
        loop {
            let mut moved = false;
            for (conn, client) in &mut self.clients {
                while let Some(bytes) = client.poll_transmit() {
                    moved = true;
                    for piece in bytes.chunks(self.cut) {
                        let _ = self.server.handle_bytes(*conn, piece, self.now);
                    }
                }
            }
            while let Some(request) = self.server.poll_request() {
                self.server.admit(request.conn, !self.refuse.contains(&request.key), self.now);
            }
            while let Some(conn) = self.server.poll_ready() {
                if self.stuck.contains(&conn) {
                    continue;
                }
                while let Some(bytes) = self.server.poll_transmit(conn) {
                    moved = true;
                    let Some(client) = self.clients.get_mut(&conn) else { continue };
                    for piece in bytes.chunks(self.cut) {
                        client.handle_bytes(piece, self.now).expect("a relay of ours says only what may be said");
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn send(&mut self, conn: ConnId, to: u8, packet: &[u8]) {
        let now = self.now;
        self.clients.get_mut(&conn).unwrap().send(secret(to).public(), packet, now);
        self.run();
    }

    fn events(&mut self, conn: ConnId) -> Vec<Event> {
        let client = self.clients.get_mut(&conn).unwrap();
        std::iter::from_fn(|| client.poll_event()).collect()
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.server.handle_timeout(self.now);
        self.run();
    }
}

fn packet(from: u8, bytes: &[u8]) -> Event {
    Event::Packet { from: secret(from).public(), bytes: bytes.to_vec() }
}

#[test]
fn two_clients_exchange_packets_whatever_the_cuts() {
    for cut in [1, 7, usize::MAX] {
        let mut world = World::new();
        world.cut = cut;
        let (a, b) = (world.join(1), world.join(2));
        assert_eq!(world.events(a), [Event::Connected]);
        world.events(b);
        world.send(a, 2, b"hello");
        world.send(b, 1, &disco(10));
        assert_eq!(world.events(b), [packet(1, b"hello")]);
        assert_eq!(world.events(a), [packet(2, &disco(10))]);
        let counters = world.server.counters();
        assert_eq!((counters.disco_frames_forwarded, counters.other_frames_forwarded), (1, 1));
        assert_eq!((counters.disco_bytes_forwarded, counters.other_bytes_forwarded), (72, 5));
    }
}

#[test]
fn a_node_that_is_not_admitted_gets_nothing_and_reaches_nobody() {
    let mut world = World::new();
    world.refuse.push(secret(1).public());
    let (a, b) = (world.join(1), world.join(2));
    world.events(b);
    world.send(a, 2, b"hello");
    assert!(world.events(a).is_empty());
    assert!(world.events(b).is_empty());
    assert_eq!(world.server.poll_closed(), Some((a, CloseReason::Refused)));
    assert_eq!(world.server.counters().refused, 1);
}

#[test]
fn a_claimed_key_without_its_secret_is_not_even_asked_about() {
    let mut world = World::new();
    let conn = world.server.connect(HERE, world.now);
    let mut bytes = Vec::new();
    Frame::ClientInfo { key: secret(1).public(), sealed: &[7; 80] }.encode(&mut bytes);
    assert_eq!(world.server.handle_bytes(conn, &bytes, world.now), Err(CloseReason::Forged));
    assert_eq!(world.server.poll_request(), None);
}

#[test]
fn a_packet_before_the_login_closes_the_connection() {
    let mut world = World::new();
    let conn = world.server.connect(HERE, world.now);
    let mut bytes = Vec::new();
    Frame::SendPacket { to: secret(2).public(), packet: b"x" }.encode(&mut bytes);
    assert_eq!(world.server.handle_bytes(conn, &bytes, world.now), Err(CloseReason::OutOfTurn));
}

#[test]
fn disco_to_an_absent_key_is_answered_three_times_and_then_once_a_second() {
    let mut world = World::new();
    let a = world.join(1);
    world.events(a);
    for _ in 0..10 {
        world.send(a, 9, &disco(0));
    }
    let gone = Event::PeerGone { key: secret(9).public(), reason: GoneReason::NotHere };
    assert_eq!(world.events(a), vec![gone.clone(); 3]);
    world.send(a, 9, b"data gets no answer at all");
    assert!(world.events(a).is_empty());
    world.advance(Duration::from_secs(1));
    world.send(a, 9, &disco(0));
    assert_eq!(world.events(a), [gone]);
}

#[test]
fn a_peer_that_got_packets_is_told_when_their_sender_leaves() {
    let mut world = World::new();
    let (a, b, c) = (world.join(1), world.join(2), world.join(3));
    world.send(a, 2, b"hello");
    for conn in [b, c] {
        world.events(conn);
    }
    world.clients.remove(&a);
    world.server.disconnect(a);
    world.run();
    let gone = Event::PeerGone { key: secret(1).public(), reason: GoneReason::Disconnected };
    assert_eq!(world.events(b), [gone]);
    assert!(world.events(c).is_empty());
}

#[test]
fn of_two_connections_of_one_key_the_one_that_spoke_last_is_active() {
    let mut world = World::new();
    let (old, b, new) = (world.join(1), world.join(2), world.join(1));
    for conn in [old, b, new] {
        world.events(conn);
    }
    world.send(b, 1, b"to the newest");
    assert_eq!(world.events(new), [packet(2, b"to the newest")]);
    world.send(old, 2, b"I am still here");
    world.send(b, 1, b"to the last that spoke");
    assert_eq!(world.events(old), [packet(2, b"to the last that spoke")]);
    world.clients.remove(&old);
    world.server.disconnect(old);
    world.send(b, 1, b"to the survivor");
    assert_eq!(world.events(new), [packet(2, b"to the survivor")]);
    assert!(!world.events(b).iter().any(|event| matches!(event, Event::PeerGone { .. })));
}

#[test]
fn a_client_that_does_not_read_loses_its_oldest_packets_and_delays_nobody() {
    let mut world = World::new();
    let (a, slow, quick) = (world.join(1), world.join(2), world.join(3));
    for conn in [slow, quick] {
        world.events(conn);
    }
    world.stuck.push(slow);
    for number in 0..100_u8 {
        world.send(a, 2, &[number]);
        world.send(a, 3, &[number]);
    }
    assert_eq!(world.events(quick).len(), 100);
    assert_eq!(world.server.counters().dropped.get(&DropReason::QueueHead), Some(&68));
    world.stuck.clear();
    world.send(a, 2, &[100]);
    let kept: Vec<u8> = world.events(slow).iter().filter_map(|event| if let Event::Packet { bytes, .. } = event { Some(bytes[0]) } else { None }).collect();
    assert_eq!(kept, (69..=100).collect::<Vec<u8>>());
}

#[test]
fn an_idle_connection_is_kept_alive_and_a_silent_login_is_closed() {
    let mut world = World::new();
    let a = world.join(1);
    let lazy = world.server.connect(HERE, world.now);
    world.advance(Duration::from_secs(11));
    assert_eq!(world.server.poll_closed(), Some((lazy, CloseReason::TooSlow)));
    for _ in 0..20 {
        world.advance(Duration::from_secs(30));
        let now = world.now;
        assert_eq!(world.clients.get_mut(&a).unwrap().handle_timeout(now), Ok(()));
    }
    let later = world.now + Duration::from_secs(121);
    assert!(matches!(world.clients.get_mut(&a).unwrap().handle_timeout(later), Err(ClientError::Silent(_))));
}

#[test]
fn a_relay_that_does_not_hold_its_key_is_not_believed() {
    let now = Instant::now();
    let mut client = Client::new(secret(1), true, Random::from_seed([1; 32]), now);
    let mut bytes = Vec::new();
    Frame::ServerKey(RelaySecret::from_seed([5; 32]).public()).encode(&mut bytes);
    Frame::ServerInfo { sealed: &[3; 60] }.encode(&mut bytes);
    assert_eq!(client.handle_bytes(&bytes, now), Err(ClientError::Forged));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_from_a_stranger_make_a_relay_or_a_client_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut world = World::new();
        let (a, conn) = (world.join(1), world.server.connect(HERE, world.now));
        let _ = world.server.handle_bytes(conn, &bytes, world.now);
        let _ = world.server.handle_bytes(a, &bytes, world.now);
        world.server.handle_timeout(world.now + Duration::from_secs(100));
        let mut client = Client::new(secret(1), true, Random::from_seed([1; 32]), world.now);
        let _ = client.handle_bytes(&bytes, world.now);
    }
}
