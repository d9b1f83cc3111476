//! What breaks and how it goes on.

use warren_crypto::{DiscoSecret, NodePublic};
use warren_path::{Hop, Hops};
use warren_simnet::{Firewall, HostId, Segment};

use crate::world::{REGION, RouterKind, World};

/// A pair with a trusted direct path.
fn direct_pair() -> (World, HostId, HostId) {
    let (mut world, a, b) = World::pair(RouterKind::PortCone, RouterKind::PortCone);
    world.talk(a, b, 3000);
    assert!(world.status(a, b).trusted && world.status(b, a).trusted);
    (world, a, b)
}

fn hops(world: &mut World, a: HostId, b: HostId) -> Hops {
    let (now, peer) = (world.internet.now(), world.key(b));
    world.at(a).paths.hops_for(&peer, now).expect("a way")
}

#[test]
fn a_path_that_stops_answering_is_used_with_the_relay_and_then_left() {
    let (mut world, a, b) = direct_pair();
    world.internet.host_mut(b).firewall = Firewall::UdpBlocked;
    let relay = Hop::Relay { region: REGION, peer: world.key(b) };
    let relayed = world.at(b).relayed;
    let mut seen = Vec::new();
    for _ in 0..60 {
        let now = hops(&mut world, a, b);
        seen.push((now.first.is_direct(), now.also.is_some()));
        seen.dedup();
        world.talk(a, b, 200);
    }
    assert_eq!(seen, [(true, false), (true, true), (false, false)]);
    assert_eq!(hops(&mut world, a, b).first, relay);
    assert!(world.at(b).relayed > relayed + 25, "after 6.5 s at the latest every packet arrives");

    world.internet.host_mut(b).firewall = Firewall::Open;
    world.talk(a, b, 8000);
    assert!(world.status(a, b).trusted, "{}", world.status(a, b).why);
}

#[test]
fn a_lost_relay_does_not_disturb_a_direct_path() {
    let (mut world, a, b) = direct_pair();
    world.set_relay(false);
    let before = world.at(b).direct;
    world.talk(a, b, 60_000);
    assert!(world.status(a, b).trusted);
    assert_eq!(world.at(b).direct, before + 300);
}

#[test]
fn a_peer_that_calls_from_elsewhere_is_sent_to_by_the_relay_too_until_its_old_address_answers() {
    for kind in [RouterKind::PortCone, RouterKind::Linux, RouterKind::Symmetric] {
        let (mut world, a, b) = direct_pair();
        let elsewhere = world.router(kind);
        world.internet.move_host(b, elsewhere);
        let now = world.internet.now();
        world.at(b).paths.rebound(now);
        world.refresh_sockets(b);
        world.send(b, a);
        world.run(1000);
        let received = |world: &mut World| world.at(b).direct + world.at(b).relayed;
        let before = received(&mut world);
        for _ in 0..10 {
            world.send(a, b);
            world.run(100);
        }
        let count = received(&mut world) - before;
        assert!(count >= 10, "{}: {count} of ten packets", kind.name());
    }
}

#[test]
fn a_node_that_moves_is_found_again() {
    let (mut world, a, b) = direct_pair();
    let elsewhere = world.router(RouterKind::Linux);
    world.internet.move_host(b, elsewhere);
    world.refresh_sockets(b);
    let now = world.internet.now();
    world.at(b).paths.rebound(now);
    assert!(!world.status(b, a).trusted);
    world.talk(a, b, 10_000);
    assert!(world.status(a, b).trusted && world.status(b, a).trusted, "{}", world.status(a, b).why);
}

/// Node `b` gets a new disco key of which the control server cannot tell anybody.
fn restarted_while_control_is_down() -> (World, HostId, HostId) {
    let (mut world, a, b) = direct_pair();
    world.control_is_up = false;
    world.at(b).paths.set_disco(DiscoSecret::from_seed([77; 32]));
    (world, a, b)
}

#[test]
fn a_peer_whose_disco_key_changed_while_control_is_down_is_reached_directly_again() {
    let (mut world, a, b) = restarted_while_control_is_down();
    let before = world.at(b).direct + world.at(b).relayed;
    world.talk(a, b, 15_000);
    assert!(world.at(b).direct + world.at(b).relayed >= before + 75, "no packet was lost on the way");
    assert!(world.status(a, b).trusted && world.status(b, a).trusted, "{}", world.status(a, b).why);
    let relayed = world.relayed_data;
    world.talk(a, b, 10_000);
    assert_eq!(world.relayed_data, relayed);
}

#[test]
fn without_relay_and_with_an_unknown_disco_key_data_still_flows_where_data_came_from() {
    let (mut world, a, b) = restarted_while_control_is_down();
    world.set_relay(false);
    let before = world.at(b).direct;
    world.talk(a, b, 30_000);
    assert!(world.at(b).direct >= before + 140, "{} of 150", world.at(b).direct - before);
}

#[test]
fn the_map_has_the_last_word_on_a_disco_key() {
    let (mut world, a, b) = restarted_while_control_is_down();
    world.talk(a, b, 15_000);
    world.control_is_up = true;
    world.send_maps();
    world.talk(a, b, 10_000);
    assert!(world.status(a, b).trusted && world.status(b, a).trusted);
    world.at(b).paths.set_disco(DiscoSecret::from_seed([78; 32]));
    world.send_maps();
    world.talk(a, b, 10_000);
    assert!(world.status(a, b).trusted && world.status(b, a).trusted);
}

#[test]
fn a_peer_that_left_the_map_is_unknown_at_once() {
    let (mut world, a, b) = direct_pair();
    let (now, peer) = (world.internet.now(), world.key(b));
    world.at(a).paths.set_peers(Vec::new(), now);
    assert!(world.at(a).paths.hops_for(&peer, now).is_err());
    assert_eq!(world.status(a, b).why, "no such peer");
    let pings = world.at(a).paths.counters().pings_sent;
    world.control_is_up = false;
    world.run(60_000);
    assert_eq!(world.at(a).paths.counters().pings_sent, pings);
}

#[test]
fn many_nodes_on_one_segment_find_each_other_by_their_local_addresses() {
    let mut world = World::new();
    let home = world.router(RouterKind::Symmetric);
    let hosts: Vec<HostId> = (0..5).map(|_| world.node(home, true, false)).collect();
    world.run(1000);
    for a in &hosts {
        for b in &hosts {
            if a != b {
                world.send(*a, *b);
            }
        }
    }
    world.run(2000);
    for pair in hosts.windows(2) {
        let status = world.status(pair[0], pair[1]);
        let own = world.internet.host(pair[1]).addrs()[0];
        assert!(matches!(status.current, Some(Hop::Direct { addr, .. }) if addr.ip() == own), "{status:?}");
    }
}

#[test]
fn the_same_calls_give_the_same_packets() {
    let run = || {
        let (mut world, a, b) = direct_pair();
        world.talk(a, b, 30_000);
        (*world.at(a).paths.counters(), *world.at(b).paths.counters(), world.internet.lost())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_stranger_on_the_relay_is_nobody() {
    let mut world = World::new();
    let a = world.node(Segment::Public, true, false);
    world.run(1000);
    let now = world.internet.now();
    let bytes = [&warren_path::disco::MAGIC[..], &[9; 100]].concat();
    world.receive(a, Hop::Relay { region: REGION, peer: NodePublic::from_bytes([200; 32]) }, &bytes, now);
    assert_eq!(world.at(a).paths.counters().drop_unknown_sender, 1);
}
