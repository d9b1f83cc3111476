//! Laws over single packets: whoever is asked (the explanation, the compiled filter of the node that receives, the list of
//! peers, an evaluator that knows nothing of the compiler) says the same.

use std::net::SocketAddr;

use warren_filter::Filter;
use warren_ip::{Flow, IpRange, IpRanges, Prefix, Protocol};
use warren_policy::analysis::{self, explain_at};
use warren_policy::{Compiled, Policy, PolicyNode};

use crate::naive::{Packet, subnets};
use crate::random::{Case, Dice, document};

/// How many packets a law is tried with: ten thousand, or what `WARREN_LAW_PACKETS` says.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is for its caller to say")]
pub fn packets_to_try() -> usize {
    std::env::var("WARREN_LAW_PACKETS").map_or(10_000, |count| count.parse().expect("WARREN_LAW_PACKETS is a number"))
}

pub fn parse(document: &serde_json::Value) -> (Policy, String) {
    let text = serde_json::to_string_pretty(document).unwrap();
    let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (policy, text)
}

pub fn asked(packet: &Packet) -> analysis::Packet {
    analysis::Packet { src: packet.src, dst: packet.dst, protocol: Protocol(packet.protocol), port: packet.port }
}

pub fn flow(packet: &analysis::Packet) -> Flow {
    Flow {
        protocol: packet.protocol,
        src: SocketAddr::new(packet.src, 9),
        dst: SocketAddr::new(packet.dst, packet.port),
    }
}

pub fn filter_of(compiled: &Compiled, node: &PolicyNode) -> Filter {
    let (filter, problems) = Filter::compile(&compiled.filter_for(node.id), |_| Vec::new());
    assert_eq!(problems, [], "our own rules are readable");
    filter
}

#[test]
fn explanation_filter_and_naive_evaluator_agree_on_every_packet() {
    let (mut tried, mut allowed, mut seed) = (0, 0, 0);
    while tried < packets_to_try() {
        seed += 1;
        let dice = &mut Dice(seed);
        let (case, document) = (Case::roll(dice), document(dice));
        let (policy, text) = parse(&document);
        let compiled = policy.compile(&case.tailnet());
        let filters: Vec<Filter> = case.nodes.iter().map(|node| filter_of(&compiled, node)).collect();
        for _ in 0..50 {
            let Some(packet) = case.packet(dice) else { continue };
            let expected = case.naive(&document).allows(&packet);
            let question = asked(&packet);
            let explained = explain_at(&policy, &text, &case.tailnet(), question, case.nodes[packet.receiver].id);
            let by_filter = filters[packet.receiver].permits(&flow(&question));
            assert_eq!(
                (by_filter, explained.answer.is_allowed()),
                (expected, expected),
                "seed {seed}: {packet:?}\n{text}\n{:?}\n{explained}",
                case.nodes,
            );
            tried += 1;
            allowed += usize::from(expected);
        }
    }
    println!("{tried} packets over {seed} tailnets, {allowed} allowed");
    assert!(allowed * 20 > tried && allowed * 2 < tried, "{allowed} of {tried}: the cases say too little");
}

/// Everything that a node sends from or receives for, exit routes apart.
fn reach(case: &Case, node: &PolicyNode) -> (IpRanges, IpRanges) {
    let own = node.addrs.iter().map(|addr| IpRange::from(*addr));
    let from: IpRanges = own.chain(subnets(node).into_iter().map(IpRange::from)).collect();
    let hosted = case.services.iter().filter(|service| service.hosts.contains(&node.id));
    let services = hosted.flat_map(|service| &service.addrs).map(|addr| IpRange::from(*addr));
    let to = from.iter().chain(services).collect();
    (from, to)
}

#[test]
fn nodes_see_each_other_exactly_if_a_packet_may_pass_between_them() {
    let (mut pairs, mut visible, mut seed) = (0, 0, 1 << 32);
    while pairs < packets_to_try() / 10 {
        seed += 1;
        let dice = &mut Dice(seed);
        let (case, document) = (Case::roll(dice), document(dice));
        let (policy, text) = parse(&document);
        let compiled = policy.compile(&case.tailnet());
        // From each node into each other, by the wire rules of the receiver alone.
        let lets = |a: &PolicyNode, b: &PolicyNode| {
            let ((from, _), (_, to)) = (reach(&case, a), reach(&case, b));
            let is_exit = [Prefix::ALL_V4, Prefix::ALL_V6].iter().all(|all| b.routes.contains(all));
            compiled.filter_for(b.id).iter().any(|rule| {
                // Whoever reaches the whole internet sees the exit nodes.
                let is_internet = |text: &str| is_exit && text == "0.0.0.0-9.255.255.255";
                let touches = |text: &str, set: &IpRanges| text == "*" || set.overlaps(text.parse().unwrap());
                rule.src_ips.iter().any(|src| touches(src, &from))
                    && rule.dst_ports.iter().any(|dst| touches(&dst.ip, &to) || is_internet(&dst.ip))
            })
        };
        for a in &case.nodes {
            let peers: Vec<_> = compiled.peers_of(a.id).collect();
            for b in case.nodes.iter().filter(|b| b.id != a.id) {
                let expected = lets(a, b) || lets(b, a);
                assert_eq!(compiled.visible(a.id, b.id), expected, "seed {seed}: {a:?} {b:?}\n{text}");
                assert_eq!(peers.contains(&b.id), expected, "seed {seed}: {a:?} {b:?}\n{text}");
                assert_eq!(compiled.may_reach(a.id, b.id), lets(a, b), "seed {seed}: {a:?} {b:?}\n{text}");
                pairs += 1;
                visible += usize::from(expected);
            }
        }
    }
    assert!(visible * 10 > pairs && visible < pairs, "{visible} of {pairs}: the cases say too little");
}

/// A packet that passes, by the evaluator that knows nothing of visibility, is one between nodes that see each other.
#[test]
fn whoever_a_packet_may_reach_is_a_peer() {
    let (mut tried, mut seed) = (0, 1 << 33);
    while tried < packets_to_try() {
        seed += 1;
        let dice = &mut Dice(seed);
        let (case, document) = (Case::roll(dice), document(dice));
        let (policy, text) = parse(&document);
        let compiled = policy.compile(&case.tailnet());
        for _ in 0..50 {
            let Some(packet) = case.packet(dice) else { continue };
            tried += 1;
            let to = &case.nodes[packet.receiver];
            let is_sender = |node: &&PolicyNode| node.id != to.id && reach(&case, node).0.contains(packet.src);
            if !reach(&case, to).1.contains(packet.dst) || !case.naive(&document).allows(&packet) {
                continue;
            }
            for from in case.nodes.iter().filter(is_sender) {
                assert!(compiled.visible(from.id, to.id), "seed {seed}: {packet:?}\n{text}\n{:?}", case.nodes);
            }
        }
    }
}
