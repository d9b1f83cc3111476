//! Networks behind nodes: who serves them, who approved them, who is told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use warren_control::What;
use warren_ip::Prefix;
use warren_wire::{Hostinfo, MapRequest, NodeId};

use crate::sessions::{Client, three, update};
use crate::world::*;

fn nets(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn announcing(texts: &[&str]) -> MapRequest {
    let mut request = update(2, "192.0.2.2:41641", Some(900));
    request.hostinfo = Some(Box::new(Hostinfo { routable_ips: nets(texts), ..Hostinfo::default() }));
    request
}

/// The node comes online, announcing these.
fn announce(world: &mut World, node: NodeId, texts: &[&str]) {
    world.control.handle_stream_started(node, CHANNEL, world.now);
    world.control.handle_map_request(node, CHANNEL, &announcing(texts), world.now);
    world.pass(Duration::ZERO);
}

fn approve(world: &mut World, node: NodeId, texts: &[&str]) {
    let routes: BTreeSet<Prefix> = nets(texts).into_iter().collect();
    world.ask(What::SetRoutes { node, routes }).expect("granted");
}

/// What `viewer` may send to `peer` beside the peer's own addresses, and for which of it the peer is shown as elected.
#[track_caller]
fn behind(viewer: &mut Client, world: &World, peer: NodeId) -> (String, String) {
    viewer.poll(world);
    let map = viewer.held.as_ref().expect("a map");
    let peer = if map.self_node.id == peer { &map.self_node } else { &map.peers[&peer] };
    let text =
        |prefixes: &mut dyn Iterator<Item = &Prefix>| prefixes.map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let routed = text(&mut peer.routed().iter().filter(|prefix| !peer.addresses.contains(prefix)));
    (routed, text(&mut peer.primary_routes.iter()))
}

#[test]
fn a_network_is_served_once_it_is_announced_and_approved() {
    let (mut world, [a, r, _]) = three();
    let mut client = Client::of(&mut world, a);
    let mut router = Client::of(&mut world, r);
    let nothing = (String::new(), String::new());
    announce(&mut world, r, &["10.50.0.0/24"]);
    assert_eq!(behind(&mut client, &world, r), nothing);
    approve(&mut world, r, &["10.50.0.0/24", "10.60.0.0/24"]);
    let served = ("10.50.0.0/24".to_owned(), "10.50.0.0/24".to_owned());
    assert_eq!(behind(&mut client, &world, r), served, "of what is approved only what is announced");
    assert_eq!(behind(&mut router, &world, r), served, "it is told of itself");
    assert_eq!(world.snapshot().served_by(r).expect("a router").primary, nets(&["10.50.0.0/24"]));
    announce(&mut world, r, &["10.60.0.0/24", "10.70.0.0/24"]);
    assert_eq!(behind(&mut client, &world, r).0, "10.60.0.0/24", "of what is announced only what is approved");
    approve(&mut world, r, &[]);
    assert_eq!(behind(&mut client, &world, r), nothing);
    assert!(world.snapshot().served_by(r).is_none());
}

#[test]
fn a_router_and_a_plain_node_that_change_together_are_told_in_their_order() {
    let (mut world, [a, r, c]) = three();
    let mut client = Client::of(&mut world, a);
    announce(&mut world, r, &["10.50.0.0/24", "10.60.0.0/24"]);
    approve(&mut world, r, &["10.50.0.0/24"]);
    client.poll(&world);
    let routes = nets(&["10.50.0.0/24", "10.60.0.0/24"]).into_iter().collect();
    let both = vec![What::SetRoutes { node: r, routes }, What::RenameNode { node: c, name: "renamed".to_owned() }];
    assert!(world.batch(both).iter().all(Result::is_ok));
    world.control.publish();
    let told = client.poll(&world).expect("a message").peers_changed;
    assert_eq!(told.iter().map(|peer| peer.id).collect::<Vec<_>>(), [r, c]);
}

#[test]
fn the_other_router_takes_over_when_the_first_goes_or_falls_silent() {
    let (mut world, [a, first, second]) = three();
    let mut client = Client::of(&mut world, a);
    for router in [first, second] {
        announce(&mut world, router, &["10.50.0.0/24"]);
        approve(&mut world, router, &["10.50.0.0/24"]);
    }
    let mut primary = |world: &World| {
        let of = |client: &mut Client, node| !behind(client, world, node).0.is_empty();
        match (of(&mut client, first), of(&mut client, second)) {
            (true, false) => 1,
            (false, true) => 2,
            other => panic!("one of them serves it, not {other:?}"),
        }
    };
    assert_eq!(primary(&world), 1);
    // A clean end of the stream: after the grace.
    world.control.handle_stream_ended(first, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(10));
    assert_eq!(primary(&world), 2);
    announce(&mut world, first, &["10.50.0.0/24"]);
    assert_eq!(primary(&world), 2, "connections through the second are not broken for nothing");
    // A pulled cable: its stream looks open, but it gives no sign of life.
    let mut seconds = 0;
    while primary(&world) == 2 {
        seconds += 1;
        assert!(seconds <= 15, "failover takes too long");
        world.pass(Duration::from_secs(1));
        while let Some(asked) = world.control.poll_probe() {
            if asked == first {
                world.control.handle_probe_answer(asked);
            }
        }
    }
    // An expired router serves nothing.
    for router in [first, second] {
        world.ask(What::ExpireNode { node: router, at: None }).expect("granted");
    }
    assert!(world.snapshot().served_by(first).is_none() && world.snapshot().served_by(second).is_none());
}

#[test]
fn a_router_that_reconnects_while_it_is_asked_keeps_its_networks() {
    let (mut world, [a, first, second]) = three();
    let mut client = Client::of(&mut world, a);
    for router in [first, second] {
        announce(&mut world, router, &["10.50.0.0/24"]);
        approve(&mut world, router, &["10.50.0.0/24"]);
    }
    world.pass(Duration::from_secs(10));
    while let Some(asked) = world.control.poll_probe() {
        if asked == second {
            world.control.handle_probe_answer(asked);
        }
    }
    // The first was asked over a stream that broke just then.
    world.control.handle_stream_ended(first, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(2));
    world.control.handle_stream_started(first, CHANNEL, world.now);
    world.pass(Duration::from_secs(4));
    assert_eq!(behind(&mut client, &world, first).0, "10.50.0.0/24");
    assert_eq!(behind(&mut client, &world, second).0, "");
}

#[test]
fn an_exit_node_is_approved_by_either_half_and_offered_whole() {
    let (mut world, [a, e, _]) = three();
    let mut client = Client::of(&mut world, a);
    announce(&mut world, e, &["0.0.0.0/0", "::/0"]);
    approve(&mut world, e, &["0.0.0.0/0"]);
    assert_eq!(behind(&mut client, &world, e), ("0.0.0.0/0 ::/0".to_owned(), String::new()));
}

/// bob's device may use the network, ann's may not, and nobody the exit.
const POLICY: &str = r#"{
    "tagOwners": { "tag:router": ["ann@"] },
    "acls": [
        { "action": "accept", "src": ["bob@"], "dst": ["10.50.0.0/24:22"] },
        { "action": "accept", "src": ["ann@"], "dst": ["tag:router:22"] },
    ],
    "autoApprovers": { "routes": { "10.50.0.0/16": ["tag:router"] }, "exitNode": ["tag:router"] },
}"#;

#[test]
fn the_policy_approves_by_itself_and_says_who_is_told() {
    let (mut world, [a, r, _]) = three();
    let bob = world.user("bob");
    let key = world.key(Some(bob), &[], REUSABLE);
    let b = world.join(7, 17, &key).id;
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    announce(&mut world, r, &["10.50.1.0/24", "10.50.0.0/24", "10.99.0.0/24", "0.0.0.0/0", "::/0"]);
    assert!(world.node(r).approved_routes.is_empty(), "ann's own device is no router");
    world.ask(What::SetTags { node: r, tags: tag_set(&["tag:router"]) }).expect("granted");
    let approved: BTreeSet<Prefix> = nets(&["10.50.1.0/24", "10.50.0.0/24", "0.0.0.0/0", "::/0"]).into_iter().collect();
    assert_eq!(world.node(r).approved_routes, approved, "as soon as it has the tag");
    let (mut anns, mut bobs) = (Client::of(&mut world, a), Client::of(&mut world, b));
    assert_eq!(behind(&mut bobs, &world, r).0, "10.50.0.0/24");
    assert_eq!(behind(&mut anns, &world, r).0, "", "she sees the router, not what is behind it");
    let filter = Client::of(&mut world, r).poll(&world).expect("a map").packet_filters;
    assert!(format!("{filter:?}").contains("10.50.0.0/24"), "the router lets through what it serves: {filter:?}");
    // An operator's word stands against the policy's until the node announces something else.
    approve(&mut world, r, &[]);
    announce(&mut world, r, &["10.50.1.0/24", "10.50.0.0/24", "10.99.0.0/24", "0.0.0.0/0", "::/0"]);
    assert!(world.node(r).approved_routes.is_empty());
    announce(&mut world, r, &["10.50.2.0/24"]);
    assert_eq!(world.node(r).approved_routes, nets(&["10.50.2.0/24"]).into_iter().collect());
    world.ask(What::ReplacePolicy { text: "{}".to_owned() }).expect("a policy");
    assert_eq!(world.node(r).approved_routes.len(), 1, "nothing is taken back");
}
