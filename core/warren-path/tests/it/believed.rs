//! Bytes that nobody vouches for change nothing.

use std::net::SocketAddr;

use proptest::prelude::*;
use warren_crypto::{DiscoSecret, Random, SharedBox};
use warren_path::disco::{self, Message, TxId};
use warren_path::{Counters, Hop, Paths};
use warren_relay::stun;
use warren_simnet::HostId;

use crate::world::{REGION, RouterKind, World};

/// A pair that has talked, and what the first knows of the second.
fn pair() -> (World, HostId, HostId) {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::PortCone);
    world.talk(a, b, 2000);
    (world, a, b)
}

fn elsewhere() -> Hop {
    Hop::direct(SocketAddr::from(([198, 51, 100, 66], 666)))
}

/// A message of `b` for `a`, sealed with the keys that the world gives its nodes.
fn sealed(world: &mut World, a: HostId, b: HostId, message: &Message) -> Vec<u8> {
    let number = world.key(b).as_bytes()[0];
    let own = DiscoSecret::from_seed([number; 32]);
    let shared = SharedBox::disco(&own, &world.at(a).paths.disco_public()).expect("honest keys agree");
    disco::seal(&shared, &mut Random::from_seed([1; 32]), &own.public(), message)
}

/// Hands a message to `a` and returns whether anything but a counter moved.
fn moves(world: &mut World, a: HostId, b: HostId, from: Hop, bytes: &[u8]) -> (bool, Counters) {
    let (now, key) = (world.internet.now(), world.key(b));
    let paths = &mut world.at(a).paths;
    let (status, timeout) = (paths.path_of(&key, now), paths.poll_timeout());
    paths.handle_probe(from, bytes, now);
    let is_still = paths.path_of(&key, now) == status
        && paths.poll_timeout() == timeout
        && paths.poll_transmit().is_none()
        && paths.poll_event().is_none();
    (!is_still, *paths.counters())
}

#[test]
fn a_call_by_udp_is_not_a_call() {
    let (mut world, a, b) = pair();
    let call = Message::CallMeMaybe { endpoints: vec![SocketAddr::from(([192, 0, 2, 1], 1))] };
    let bytes = sealed(&mut world, a, b, &call);
    let (moved, counters) = moves(&mut world, a, b, elsewhere(), &bytes);
    assert!(!moved);
    assert_eq!(counters.drop_call_not_relayed, 1);
    let key = world.key(b);
    let (moved, _) = moves(&mut world, a, b, Hop::Relay { region: REGION, peer: key }, &bytes);
    assert!(moved, "by relay it is one");
}

#[test]
fn a_ping_under_an_unknown_disco_key_by_udp_is_not_answered_whatever_it_claims() {
    let (mut world, a, b) = pair();
    let stranger = DiscoSecret::from_seed([99; 32]);
    let shared = SharedBox::disco(&stranger, &world.at(a).paths.disco_public()).expect("honest keys agree");
    let ping = Message::Ping { tx: TxId([1; 12]), node: Some(world.key(b)), padding: 0 };
    let bytes = disco::seal(&shared, &mut Random::from_seed([1; 32]), &stranger.public(), &ping);
    let (moved, counters) = moves(&mut world, a, b, elsewhere(), &bytes);
    assert!(!moved);
    assert_eq!(counters.drop_unknown_sender, 1);
}

#[test]
fn a_pong_that_nobody_asked_for_moves_nothing() {
    let (mut world, a, b) = pair();
    let pong = Message::Pong { tx: TxId([1; 12]), seen: SocketAddr::from(([192, 0, 2, 1], 1)) };
    let bytes = sealed(&mut world, a, b, &pong);
    let (moved, counters) = moves(&mut world, a, b, elsewhere(), &bytes);
    assert!(!moved);
    assert_eq!(counters.drop_unexpected_pong, 1);
}

#[test]
fn a_repeated_ping_is_answered_once() {
    let (mut world, a, b) = pair();
    let ping = Message::Ping { tx: TxId([1; 12]), node: Some(world.key(b)), padding: 0 };
    let bytes = sealed(&mut world, a, b, &ping);
    assert!(moves(&mut world, a, b, elsewhere(), &bytes).0);
    while world.at(a).paths.poll_transmit().is_some() {}
    let (moved, counters) = moves(&mut world, a, b, elsewhere(), &bytes);
    assert!(!moved);
    assert_eq!(counters.drop_duplicate_ping, 1);
}

#[test]
fn places_inside_the_tunnel_are_never_probed() {
    let (mut world, a, b) = pair();
    let inside: Vec<SocketAddr> =
        ["100.64.0.9:41641", "[fd7a:115c:a1e0::9]:41641"].map(|text| text.parse().expect("an address")).into();
    let bytes = sealed(&mut world, a, b, &Message::CallMeMaybe { endpoints: inside.clone() });
    let (now, key) = (world.internet.now(), world.key(b));
    world.at(a).paths.handle_probe(Hop::Relay { region: REGION, peer: key }, &bytes, now);
    let status = world.status(a, b);
    assert!(status.candidates.iter().all(|candidate| !inside.contains(&candidate.addr)));
}

#[test]
fn a_stun_answer_without_a_question_is_dropped() {
    let (mut world, a, b) = pair();
    world.run(2000);
    let bytes = stun::encode_response(stun::TxId([5; 12]), SocketAddr::from(([192, 0, 2, 1], 1)));
    let (moved, counters) = moves(&mut world, a, b, elsewhere(), &bytes);
    assert!(!moved);
    assert_eq!(counters.drop_unexpected_stun, 1);
}

#[test]
fn wireguard_is_never_taken_for_a_probe() {
    let mut initiation = vec![1, 0, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    initiation.resize(148, 0);
    assert!(!Paths::is_probe(&initiation), "an index that looks like the STUN cookie");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn garbage_changes_nothing_but_counters(garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let (mut world, a, b) = pair();
        let own_key = DiscoSecret::from_seed([world.key(b).as_bytes()[0]; 32]).public();
        let relay = Hop::Relay { region: REGION, peer: world.key(b) };
        for bytes in garbage {
            // As it is, as disco of anybody, as disco of the peer, and as an answer of a STUN server.
            let disco = [&disco::MAGIC, bytes.as_slice()].concat();
            let of_peer = [&disco::MAGIC, own_key.as_bytes().as_slice(), &bytes].concat();
            let stun = [&[1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42], bytes.as_slice()].concat();
            for packet in [bytes.clone(), disco, of_peer, stun] {
                for from in [elsewhere(), relay] {
                    let (moved, _) = moves(&mut world, a, b, from, &packet);
                    prop_assert!(!moved, "{from:?} {packet:?}");
                }
            }
        }
    }
}
