//! What people are told, and when.

use std::time::Duration;

use warren_path::{Event, Hop, SocketId};
use warren_simnet::{HostId, Segment};

use crate::world::{PORT, REGION, RouterKind, World};

#[test]
fn the_first_packets_are_relayed_and_a_moment_later_they_go_directly_alone() {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::Linux);
    world.send(a, b);
    world.run(100);
    assert_eq!(world.at(b).relayed, 1);
    world.talk(a, b, 1000);
    assert!(world.status(a, b).trusted && world.status(b, a).trusted);
    assert_eq!(world.status(a, b).why, "the peer answers here");
    let relayed = world.relayed_data;
    world.talk(a, b, 60_000);
    assert_eq!(world.relayed_data, relayed, "nothing but disco on the relay");
}

#[test]
fn routers_that_map_every_destination_anew_keep_a_pair_on_the_relay_and_it_says_so() {
    let (mut world, a, b) = World::pair(RouterKind::Symmetric, RouterKind::Symmetric);
    world.talk(a, b, 12_000);
    let status = world.status(a, b);
    assert_eq!((status.current.map(|hop| hop.is_direct()), status.relay), (Some(false), Some(REGION)));
    assert!(status.why.starts_with("no answer to "), "{}", status.why);
    assert!(status.why.ends_with(" probes; mapping varies per destination on both sides"), "{}", status.why);
}

#[test]
fn a_blocked_side_says_that_udp_is_blocked_there() {
    let (mut world, a, b) = World::pair(RouterKind::Blocked, RouterKind::PortCone);
    world.run(6000);
    world.talk(a, b, 12_000);
    assert!(world.status(a, b).why.starts_with("udp blocked here"), "{}", world.status(a, b).why);
    assert!(world.status(b, a).why.starts_with("no "), "{}", world.status(b, a).why);
    let report = world.at(a).paths.report().expect("a report").clone();
    assert_eq!((report.udp, report.preferred), (false, Some(REGION)));
    assert_eq!(report.region_latency[&REGION], Duration::from_millis(60), "measured by HTTPS");
}

#[test]
fn families_that_do_not_meet_are_named() {
    let mut world = World::new();
    let (four, six) = (world.node(Segment::Public, true, false), world.node(Segment::Public, false, true));
    let both = world.node(Segment::Public, true, true);
    world.run(1000);
    world.talk(four, six, 3000);
    world.talk(four, both, 3000);
    assert_eq!(world.status(four, six).why, "peer has only IPv6 and we only IPv4");
    assert_eq!(world.status(six, four).why, "peer has only IPv4 and we only IPv6");
    assert!(world.at(six).relayed > 10);
    assert!(world.status(four, both).trusted, "one common family is enough");
}

#[test]
fn ipv6_alone_finds_a_direct_path_through_stateful_firewalls() {
    let mut world = World::new();
    let [here, there] = [RouterKind::Symmetric, RouterKind::Symmetric].map(|kind| world.router(kind));
    let (a, b) = (world.node(here, false, true), world.node(there, false, true));
    world.run(1000);
    world.talk(a, b, 5000);
    let status = world.status(a, b);
    assert!(status.trusted, "{}", status.why);
    assert!(matches!(status.current, Some(Hop::Direct { socket: SocketId::V6, .. })));
}

#[test]
fn a_peer_that_shows_no_endpoints_stays_relayed() {
    let mut world = World::new();
    world.shows_endpoints = false;
    let (a, b) = (world.node(Segment::Public, true, true), world.node(Segment::Public, true, true));
    world.run(1000);
    world.talk(a, b, 5000);
    assert_eq!(world.status(a, b).why, "no endpoints known for this peer");
    assert_eq!(world.at(b).direct, 0);
}

#[test]
fn an_idle_pair_falls_silent_and_wakes_directly() {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::Open);
    world.talk(a, b, 2000);
    world.run(120_000);
    let pings = world.at(a).paths.counters().pings_sent;
    world.run(600_000);
    assert_eq!(world.at(a).paths.counters().pings_sent, pings, "no packet, no heartbeat");
    assert_eq!(world.at(a).paths.poll_timeout(), None);
    world.talk(a, b, 2000);
    assert!(world.status(a, b).trusted);
}

#[test]
fn a_ping_is_answered_by_relay_first_and_directly_later() {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::PortCone);
    let pongs = |world: &mut World| -> Vec<bool> {
        let events = std::mem::take(&mut world.at(a).events);
        let hops = events.iter().filter_map(|event| if let Event::Pong { hop, .. } = event { Some(hop) } else { None });
        hops.map(|hop| hop.is_direct()).collect()
    };
    let (now, peer) = (world.internet.now(), world.key(b));
    world.at(a).paths.ping(&peer, 0, now);
    world.run(500);
    assert_eq!(pongs(&mut world), [false]);
    world.talk(a, b, 2000);
    let now = world.internet.now();
    world.at(a).paths.ping(&peer, 1300, now);
    world.run(500);
    assert_eq!(pongs(&mut world), [true]);
}

#[test]
fn a_ping_that_nobody_answers_times_out_once() {
    let (mut world, a, b) = World::pair(RouterKind::Blocked, RouterKind::PortCone);
    world.set_relay(false);
    let (now, peer) = (world.internet.now(), world.key(b));
    let id = world.at(a).paths.ping(&peer, 0, now);
    world.run(10_000);
    let timeouts = world.at(a).events.iter().filter(|event| **event == Event::PingTimedOut { id }).count();
    assert_eq!(timeouts, 1);
}

#[test]
fn endpoints_name_the_outer_address_first_and_the_port_of_the_socket() {
    let (mut world, a, _) = World::pair(RouterKind::PortCone, RouterKind::Open);
    let inner = world.internet.host(a).addrs()[0];
    let listed = world.at(a).events.iter().rev().find_map(|event| match event {
        Event::EndpointsChanged(endpoints) => Some(endpoints.clone()),
        _ => None,
    });
    let listed = listed.expect("endpoints");
    assert_eq!(listed.len(), 2);
    assert_ne!(listed[0].addr.ip(), inner);
    assert_eq!((listed[1].addr.ip(), listed[1].addr.port()), (inner, PORT));
    let report = world.at(a).paths.report().expect("a report").clone();
    assert_eq!((report.udp, report.mapping_varies), (true, Some(false)));
}

#[test]
fn a_mapping_that_varies_is_noticed_with_two_servers() {
    let (mut world, a, b) = World::pair(RouterKind::Symmetric, RouterKind::Linux);
    let varies = [a, b].map(|host| world.at(host).paths.report().expect("a report").mapping_varies);
    assert_eq!(varies, [Some(true), Some(false)]);
}

/// How long it takes from the first ping that a person asks for until the path is direct; pings come every 100 ms.
fn millis_until_direct(world: &mut World, a: HostId, b: HostId, mut each: impl FnMut(&mut World, u64)) -> u64 {
    let key = world.key(b);
    for millis in (0..10_000).step_by(100) {
        each(world, millis);
        let now = world.internet.now();
        world.at(a).paths.ping(&key, 0, now);
        world.run(100);
        if world.status(a, b).trusted {
            return millis;
        }
    }
    panic!("no direct path: {}", world.status(a, b).why);
}

#[test]
fn a_call_that_the_relay_lost_is_repeated_at_once() {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::PortCone);
    world.relay_is_up = false;
    let millis = millis_until_direct(&mut world, a, b, |world, millis| world.relay_is_up = millis >= 300);
    assert!(millis <= 1000, "direct after {millis} ms");
}

#[test]
fn who_could_not_be_called_is_called_as_soon_as_the_relay_is_there() {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::Linux);
    world.set_relay(false);
    let millis = millis_until_direct(&mut world, a, b, |world, millis| {
        if millis == 6000 {
            world.set_relay(true);
        }
    });
    assert!((6000..6500).contains(&millis), "direct after {millis} ms");
}

#[test]
fn where_no_direct_path_can_be_the_hurry_ends_soon() {
    let (mut world, a, b) = World::pair(RouterKind::Symmetric, RouterKind::Symmetric);
    world.talk(a, b, 10_000);
    let before = world.at(a).paths.counters().calls_sent;
    world.talk(a, b, 60_000);
    let calls = world.at(a).paths.counters().calls_sent - before;
    assert!((6..=40).contains(&calls), "{calls} calls in a minute");
}
