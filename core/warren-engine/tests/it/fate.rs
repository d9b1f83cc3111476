//! One packet's fate: whose it is, whether it may, and what becomes of what may not.

use std::net::IpAddr;
use std::time::Duration;

use warren_engine::{Burst, DropReason, EngineEvent, InnerPing, PingError};
use warren_ip::{PacketView, Prefix, Protocol, build};
use warren_path::{Hop, SocketId};
use warren_wire::PortRange;

use crate::net::{Net, allow, udp};

fn dropped(net: &Net, at: usize, reason: DropReason) -> u64 {
    net.sides[at].engine.counters().dropped(reason)
}

/// A TCP segment with these flags, 5001 to 5002.
fn tcp(net: &Net, from: usize, flags: u8) -> Vec<u8> {
    let (src, dst) = (net.sides[from].addr, net.sides[1 - from].addr);
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&5001u16.to_be_bytes());
    segment[2..4].copy_from_slice(&5002u16.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    build::ip(src, dst, Protocol::TCP, &segment).expect("one family")
}

#[test]
fn a_source_that_is_not_the_peers_is_dropped() {
    let mut net = Net::connected();
    let strangers: IpAddr = [100, 64, 0, 9].into();
    // The sender believes the address to be its own; the receiver knows better.
    net.reconfigure(0, |config| config.self_addrs.push(strangers));
    let packet = build::udp((strangers, 1000).into(), (net.sides[1].addr, 2000).into(), b"forged").expect("packet");
    net.send(0, packet);
    assert!(net.take_delivered(1).is_empty());
    assert_eq!(dropped(&net, 1, DropReason::SourceNotOwnedByPeer), 1);
}

#[test]
fn the_more_specific_owner_of_an_address_wins_over_a_route() {
    let mut net = Net::connected();
    let mine: IpAddr = [100, 64, 0, 9].into();
    net.reconfigure(0, |config| config.self_addrs.push(mine));
    net.reconfigure(1, |config| config.peers[0].allowed.push(Prefix::new([100, 64, 0, 0].into(), 10).expect("prefix")));
    let packet = build::udp((mine, 1).into(), (net.sides[1].addr, 2).into(), b"routed").expect("packet");
    net.send(0, packet.clone());
    assert_eq!(net.take_delivered(1).len(), 1);
    let other = warren_crypto::NodePublic::from_bytes([9; 32]);
    net.reconfigure(1, |config| {
        let mut peer = warren_engine::EnginePeer::new(other);
        peer.allowed.push(Prefix::host(mine));
        config.peers.push(peer);
    });
    net.send(0, packet);
    assert_eq!(dropped(&net, 1, DropReason::SourceNotOwnedByPeer), 1);
}

#[test]
fn packets_that_are_not_ours_to_send_are_dropped_by_reason() {
    let mut net = Net::connected();
    let elsewhere: IpAddr = [100, 64, 0, 77].into();
    let spoofed = build::udp((elsewhere, 1).into(), (net.sides[1].addr, 2).into(), b"x").expect("packet");
    net.send(0, spoofed);
    net.send(0, build::udp((net.sides[0].addr, 1).into(), (elsewhere, 2).into(), b"x").expect("packet"));
    net.send(0, vec![0xff; 40]);
    let own_disco = [&warren_path::disco::MAGIC[..], net.sides[0].disco.as_bytes(), &[0; 40]].concat();
    net.send(0, udp(&net, 0, 1, &own_disco));
    for reason in [DropReason::NotOurSource, DropReason::NoPeerForAddress, DropReason::NotIp, DropReason::OwnDisco] {
        assert_eq!(dropped(&net, 0, reason), 1, "{}", reason.name());
    }
}

#[test]
fn a_policy_that_is_taken_away_cuts_running_flows_of_peers_and_giving_it_back_restores_them() {
    let mut net = Net::connected();
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    net.send(0, tcp(&net, 0, SYN));
    net.send(0, tcp(&net, 0, ACK));
    assert_eq!(net.take_delivered(1).len(), 2);
    net.reconfigure(1, |config| config.filter = vec![allow("*", PortRange { first: 80, last: 80 })]);
    net.send(0, tcp(&net, 0, ACK));
    net.send(0, tcp(&net, 0, SYN));
    assert!(net.take_delivered(1).is_empty());
    assert_eq!(dropped(&net, 1, DropReason::Filter), 2);
    let refusals =
        net.sides[0].events.iter().filter(|event| matches!(event, EngineEvent::ConnectionRefused { port: 5002, .. }));
    assert_eq!(refusals.count(), 1, "the opener is told, once for its SYN");
    net.reconfigure(1, |config| config.filter = vec![allow("*", PortRange::ANY)]);
    net.send(0, tcp(&net, 0, ACK));
    assert_eq!(net.take_delivered(1).len(), 1);
}

#[test]
fn replies_come_back_to_a_node_that_lets_nobody_in() {
    let mut net = Net::connected();
    net.reconfigure(0, |config| config.shields_up = true);
    net.send(
        1,
        warren_ip::build::udp((net.sides[1].addr, 7).into(), (net.sides[0].addr, 8).into(), b"in").expect("packet"),
    );
    assert!(net.take_delivered(0).is_empty());
    net.send(0, udp(&net, 0, 1, b"question"));
    let answer =
        build::udp((net.sides[1].addr, 2000).into(), (net.sides[0].addr, 1000).into(), b"answer").expect("packet");
    net.send(1, answer);
    assert_eq!(net.take_delivered(0).len(), 1);
}

#[test]
fn duplicates_and_forgeries_are_counted_and_never_delivered() {
    let mut net = Net::connected();
    net.held = Some(Vec::new());
    net.send(0, udp(&net, 0, 1, b"once"));
    let (at, from, burst) = net.held.take().expect("held").pop().expect("one run");
    for byte in [4, 8, 20, burst.bytes.len() - 1] {
        let mut bytes = burst.bytes.clone();
        bytes[byte] ^= 1;
        net.receive(at, from, Burst { bytes, segment: burst.segment });
    }
    assert_eq!((dropped(&net, 1, DropReason::Forged), dropped(&net, 1, DropReason::UnknownKeys)), (3, 1));
    for _ in 0..3 {
        net.receive(at, from, Burst { bytes: burst.bytes.clone(), segment: burst.segment });
    }
    net.settle();
    assert_eq!(net.take_delivered(1).len(), 1);
    assert_eq!(dropped(&net, 1, DropReason::Replayed), 2);
}

#[test]
fn arbitrary_datagrams_are_dropped_and_change_nothing() {
    let mut net = Net::connected();
    let from = Hop::Direct { socket: SocketId::V4, addr: ([198, 51, 100, 7], 9).into() };
    let mut seed = warren_crypto::Random::from_seed([3; 32]);
    for round in 0..2000u32 {
        let len = seed.below(300) as usize;
        let mut bytes = vec![0; len];
        seed.fill(&mut bytes);
        if round % 2 == 0 && len > 4 {
            bytes[..4].copy_from_slice(&[(round % 5) as u8, 0, 0, 0]);
        }
        let segment = seed.below(len as u64 + 1) as usize;
        net.receive(1, from, Burst { bytes, segment });
    }
    net.settle();
    assert!(net.take_delivered(1).is_empty());
    net.send(0, udp(&net, 0, 1, b"still here"));
    assert_eq!(net.take_delivered(1).len(), 1);
}

#[test]
fn pings_inside_the_tunnel_are_answered_by_node_and_by_host() {
    let mut net = Net::connected();
    let (dst, now, peer) = (net.sides[1].addr, net.now, net.sides[1].node);
    // The node answers whatever its filter says.
    net.reconfigure(1, |config| config.filter.clear());
    let id = net.sides[0].engine.ping_inner(InnerPing::Tsmp, dst, now).expect("sent");
    net.settle();
    assert!(net.sides[0].events.iter().any(
        |event| matches!(event, EngineEvent::InnerPong { id: got, kind: InnerPing::Tsmp, peer: by, .. } if *got == id && *by == peer)
    ));
    // The host answers only what the filter lets through.
    let id = net.sides[0].engine.ping_inner(InnerPing::Icmp, dst, now).expect("sent");
    net.settle();
    assert!(net.take_delivered(1).is_empty());
    net.pass(Duration::from_secs(11));
    assert!(net.sides[0].events.contains(&EngineEvent::InnerPingTimedOut { id }));

    net.reconfigure(1, |config| config.filter = vec![allow("*", PortRange::ANY)]);
    let (now, hops) = (net.now, net.crossed);
    let id = net.sides[0].engine.ping_inner(InnerPing::Icmp, dst, now).expect("sent");
    net.settle();
    let request = net.take_delivered(1).pop().expect("the host gets the request");
    let view = PacketView::parse(&request).expect("IP");
    let (identifier, sequence) = view.echo_request().expect("echo");
    net.send(1, build::echo_reply(view.dst(), view.src(), identifier, sequence, view.payload()).expect("reply"));
    assert!(
        net.sides[0].events.iter().any(|event| matches!(event, EngineEvent::InnerPong { id: got, .. } if *got == id))
    );
    assert!(net.take_delivered(0).is_empty(), "the answer is ours, not the host's");
    assert!(net.crossed != hops);
    let nobody: IpAddr = [100, 64, 9, 9].into();
    assert_eq!(net.sides[0].engine.ping_inner(InnerPing::Tsmp, nobody, now), Err(PingError::NoPeer));
}

#[test]
fn a_hosts_own_echo_replies_are_not_mistaken_for_ours() {
    let mut net = Net::connected();
    let reply = build::echo_reply(net.sides[1].addr, net.sides[0].addr, 5, 6, b"hosts").expect("reply");
    let (dst, now) = (net.sides[1].addr, net.now);
    net.sides[0].engine.ping_inner(InnerPing::Icmp, dst, now).expect("sent");
    net.send(1, reply);
    assert_eq!(net.take_delivered(0).len(), 1);
}

#[test]
fn small_packets_in_a_row_travel_as_one_run() {
    let mut net = Net::connected();
    net.log = Some(Vec::new());
    let mut batch: Vec<_> = (0..80).map(|_| warren_ip::offload::Super::packet(udp(&net, 0, 1, &[7; 100]))).collect();
    batch.push(warren_ip::offload::Super::packet(udp(&net, 0, 1, &[7; 20])));
    batch.push(warren_ip::offload::Super::packet(udp(&net, 0, 1, &[7; 100])));
    net.send_bursts(0, batch);
    // Packets go both ways at once while no direct path is proven: look at one way only.
    let log = net.log.take().expect("kept");
    let first_hop = log.iter().find(|(from, ..)| *from == 0).expect("a run").1;
    let runs: Vec<_> = log
        .iter()
        .filter(|(from, hop, ..)| *from == 0 && *hop == first_hop)
        .map(|(_, _, segment, len)| (*segment, *len))
        .collect();
    assert_eq!(runs, [(160, 64 * 160), (160, 16 * 160 + 80), (160, 160)]);
    assert_eq!(net.take_delivered(1).len(), 82);
}
