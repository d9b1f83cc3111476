//! How two engines come to talk, and stop.

use std::time::Duration;

use warren_crypto::{DiscoSecret, NodeSecret};
use warren_engine::{DropReason, EngineEvent, EngineIdentity};
use warren_path::Hop;

use crate::net::{Net, udp};

#[test]
fn the_first_packet_goes_by_the_relay_and_later_ones_directly() {
    let mut net = Net::new();
    net.is_udp_blocked = true;
    net.send(0, udp(&net, 0, 1, b"first"));
    assert_eq!(net.take_delivered(1).len(), 1);
    assert!(net.crossed.relayed > 0);
    assert_eq!(net.crossed.direct, 0);

    net.is_udp_blocked = false;
    for _ in 0..20 {
        net.pass(Duration::from_millis(500));
        net.send(0, udp(&net, 0, 1, b"more"));
        net.send(1, udp(&net, 1, 0, b"back"));
    }
    let before = net.crossed;
    for _ in 0..10 {
        net.pass(Duration::from_millis(500));
        net.send(0, udp(&net, 0, 1, b"more"));
        net.send(1, udp(&net, 1, 0, b"back"));
    }
    assert_eq!(net.crossed.relayed, before.relayed, "nothing but disco on the relay");
    assert!(net.crossed.direct > before.direct);
    assert_eq!((net.take_delivered(0).len(), net.take_delivered(1).len()), (30, 30), "each packet once");
}

#[test]
fn what_waits_for_keys_is_sent_when_they_are_there_and_in_order() {
    let mut net = Net::new();
    net.held = Some(Vec::new());
    for n in 0..10u8 {
        net.send(0, udp(&net, 0, 1, &[n]));
    }
    for (at, from, burst) in net.held.take().expect("held") {
        net.receive(at, from, burst);
    }
    net.settle();
    let numbers: Vec<u8> = net.take_delivered(1).iter().map(|packet| packet[28]).collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_handshake_that_found_no_way_leaves_with_the_first_one_that_there_is() {
    let mut net = Net::new();
    net.reconfigure(0, |config| (config.peers[0].home, config.peers[0].endpoints) = (None, Vec::new()));
    net.settle();
    net.send(0, udp(&net, 0, 1, b"no way yet"));
    net.pass(Duration::from_millis(500));
    assert!(net.take_delivered(1).is_empty());
    let before = net.now;
    net.reconfigure(0, |config| config.peers[0].home = Some(crate::net::REGION));
    net.settle();
    assert_eq!((net.take_delivered(1).len(), net.now), (1, before), "at once, with the keys");
    let counters = net.sides[0].engine.counters();
    assert_eq!((counters.dropped(DropReason::NoPath), net.crossed.direct), (0, 0));
}

#[test]
fn a_handshake_that_a_lost_relay_swallowed_is_made_anew_when_it_is_back() {
    let mut net = Net::new();
    net.is_udp_blocked = true;
    net.pass(Duration::from_secs(10));
    for side in 0..2 {
        net.sides[side].engine.relay_state(crate::net::REGION, false, net.now);
    }
    net.held = Some(Vec::new());
    net.send(0, udp(&net, 0, 1, b"into the void"));
    net.pass(Duration::from_millis(1500));
    // The way has the same name as before: only the connection is another one.
    net.held = None;
    for side in 0..2 {
        net.sides[side].engine.relay_state(crate::net::REGION, true, net.now);
    }
    net.settle();
    assert_eq!(net.take_delivered(1).len(), 1, "at once, and not with the next try");
}

#[test]
fn an_address_that_the_kernel_calls_unreachable_is_left_at_once() {
    let mut net = Net::connected();
    net.pass(Duration::from_secs(5));
    let before = net.crossed;
    net.send(0, udp(&net, 0, 1, b"directly"));
    assert_eq!((net.crossed.direct, net.crossed.relayed), (before.direct + 1, before.relayed));
    let hop = Hop::direct(net.sides[1].underlay);
    net.sides[0].engine.unreachable(hop, net.now);
    net.is_udp_blocked = true;
    let before = net.crossed;
    net.send(0, udp(&net, 0, 1, b"by the relay"));
    assert_eq!((net.crossed.direct, net.crossed.relayed), (before.direct, before.relayed + 1));
}

#[test]
fn a_peer_that_speaks_again_is_asked_for_keys_at_once() {
    let mut net = Net::new();
    net.held = Some(Vec::new());
    net.send(0, udp(&net, 0, 1, b"into the void"));
    net.pass(Duration::from_millis(1500));
    net.held = None;
    assert!(net.take_delivered(1).is_empty());
    let peer = net.sides[0].node;
    net.sides[1].engine.ping_disco(&peer, 0, net.now);
    net.settle();
    assert_eq!(net.take_delivered(1).len(), 1, "at once, and not with the next try");
}

#[test]
fn a_peer_that_never_answers_is_given_up_and_its_packets_are_counted() {
    let mut net = Net::new();
    net.held = Some(Vec::new());
    net.send(0, udp(&net, 0, 1, b"anybody?"));
    net.pass(Duration::from_secs(100));
    let peer = net.sides[1].node;
    assert!(net.sides[0].events.contains(&EngineEvent::Unreachable { peer }));
    assert_eq!(net.sides[0].engine.counters().dropped(DropReason::StagedTooLong), 1);
}

#[test]
fn removing_a_peer_kills_its_keys_at_once_and_both_ways() {
    let mut net = Net::connected();
    // Sealed before the removal, arriving after it.
    net.held = Some(Vec::new());
    net.send(1, udp(&net, 1, 0, b"late"));
    let late = net.held.take().expect("held");
    let mut jobs = Vec::new();
    let packet = warren_ip::offload::Super::packet(udp(&net, 0, 1, b"sealed"));
    net.sides[0].engine.decide_outbound(vec![packet], net.now, &mut jobs);
    let peers = std::mem::take(&mut net.sides[0].config.peers);
    net.reconfigure(0, |config| config.peers.clear());
    for (at, from, burst) in late {
        net.receive(at, from, burst);
    }
    for job in jobs {
        let now = net.now;
        net.sides[0].engine.finish_sealed(job.run(), now);
    }
    net.settle();
    assert!(net.take_delivered(0).is_empty() && net.take_delivered(1).is_empty());
    assert!(net.sides[0].engine.counters().dropped(DropReason::UnknownKeys) >= 1);
    assert_eq!(net.sides[0].engine.counters().dropped(DropReason::PeerGone), 1);
    net.send(0, udp(&net, 0, 1, b"nobody"));
    assert_eq!(net.sides[0].engine.counters().dropped(DropReason::NoPeerForAddress), 1);
    // Its handshakes are nobody's either, until it is back.
    net.pass(Duration::from_secs(30));
    net.send(1, udp(&net, 1, 0, b"hello?"));
    net.pass(Duration::from_secs(10));
    assert!(net.sides[0].engine.handshake_counters().unknown_peer > 0);
    net.reconfigure(0, |config| config.peers = peers);
    net.pass(Duration::from_secs(10));
    net.send(1, udp(&net, 1, 0, b"again"));
    assert_eq!(net.take_delivered(0).len(), 1, "the next try made new keys");
}

#[test]
fn setting_the_same_state_again_keeps_keys_and_changes_nothing() {
    let mut net = Net::connected();
    let handshakes = *net.sides[0].engine.handshake_counters();
    for _ in 0..3 {
        net.reconfigure(0, |_| {});
        net.reconfigure(1, |config| config.peers[0].endpoints.clear());
        net.send(0, udp(&net, 0, 1, b"again"));
        assert_eq!(net.take_delivered(1).len(), 1);
    }
    assert_eq!(*net.sides[0].engine.handshake_counters(), handshakes);
}

#[test]
fn an_expired_peer_is_cut_and_a_renewed_one_is_heard_again() {
    let mut net = Net::connected();
    net.reconfigure(0, |config| config.peers[0].expired = true);
    net.send(0, udp(&net, 0, 1, b"out"));
    net.send(1, udp(&net, 1, 0, b"in"));
    assert!(net.take_delivered(0).is_empty() && net.take_delivered(1).is_empty());
    assert_eq!(net.sides[0].engine.counters().dropped(DropReason::PeerExpired), 1);
    net.reconfigure(0, |config| config.peers[0].expired = false);
    net.pass(Duration::from_secs(1));
    net.send(0, udp(&net, 0, 1, b"out"));
    assert_eq!(net.take_delivered(1).len(), 1);
}

#[test]
fn a_rotated_node_key_is_followed_when_the_map_says_so() {
    let mut net = Net::connected();
    let (node, disco) = (NodeSecret::from_seed([77; 32]), DiscoSecret::from_seed([20; 32]));
    let public = node.public();
    let now = net.now;
    net.sides[0].engine.replace_identity(EngineIdentity { node, disco }, now);
    net.sides[0].node = public;
    net.reconfigure(1, |config| config.peers[0].key = public);
    net.send(0, udp(&net, 0, 1, b"rotated"));
    assert_eq!(net.take_delivered(1).len(), 1);
    net.send(1, udp(&net, 1, 0, b"back"));
    assert_eq!(net.take_delivered(0).len(), 1);
}

#[test]
fn both_sides_stay_connected_for_an_hour_and_stats_say_so() {
    let mut net = Net::connected();
    for _ in 0..360 {
        net.pass(Duration::from_secs(10));
        net.send(0, udp(&net, 0, 1, b"tick"));
    }
    assert_eq!(net.take_delivered(1).len(), 360);
    let (peer, now) = (net.sides[1].node, net.now);
    let stats = net.sides[0].engine.peer_stats(&peer, now).expect("known");
    assert!(stats.has_session && stats.tx_bytes > 360 * 32);
    let since = now.duration_since(stats.last_handshake.expect("there was one"));
    assert!(since < Duration::from_secs(140), "{since:?}");
    let finished = net.sides[0].engine.handshake_counters().handshakes_finished;
    assert!((28..=32).contains(&finished), "{finished} handshakes in an hour");
}

#[test]
fn a_disco_key_said_inside_the_tunnel_reaches_the_paths() {
    let mut net = Net::new();
    net.reconfigure(0, |config| config.peers[0].takes_disco_key = true);
    net.send(0, udp(&net, 0, 1, b"hello"));
    let (peer, key) = (net.sides[0].node, net.sides[0].disco);
    assert!(net.sides[1].events.contains(&EngineEvent::DiscoKeySaid { peer, key }));
    assert_eq!(net.take_delivered(1).len(), 1, "the host does not see it");
}

#[test]
fn answers_to_a_handshake_go_to_where_it_came_from() {
    let mut net = Net::new();
    net.is_udp_blocked = true;
    net.log = Some(Vec::new());
    net.send(0, udp(&net, 0, 1, b"hello"));
    let log = net.log.take().expect("kept");
    let answer = log.iter().find(|(from, _, segment, _)| *from == 1 && *segment == 92).expect("a response");
    assert!(matches!(answer.1, Hop::Relay { .. }));
}
