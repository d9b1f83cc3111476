//! What a change of policy changes for the nodes that are there: who gains reach to what, and who loses it.
//!
//! The filters of every node under either policy are compared as sets of packets, so that no difference means that no
//! packet to a node, to a network that it serves or to a service that it hosts is decided differently. What a node sends
//! to itself goes over no network and is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use warren_ip::{IpRange, IpRanges, Prefix};
use warren_wire::NodeId;

use crate::analysis::packet::Packet;
use crate::analysis::passages::{Passage, atoms, of_family, passages};
use crate::analysis::space::{pick, whole};
use crate::analysis::traffic::Traffic;
use crate::policy::Policy;
use crate::tailnet::{PolicyNode, Tailnet};

/// One line of a comparison: each of `from` gains or loses reach to each of `to`.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub is_gain: bool,
    pub from: Vec<Party>,
    pub to: Vec<Party>,
    /// As a person reads it: `tcp 22, 80-90; icmp`.
    pub traffic: String,
    /// Whether it is so for addresses of one family only: `true` is IPv4.
    pub only_family: Option<bool>,
    /// A packet that the one policy lets pass and the other does not.
    pub witness: Packet,
    /// The node whose filter decides it.
    pub receiver: NodeId,
}

/// One end of a change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Party {
    /// A node at its own addresses.
    Node(NodeId),
    /// A network behind a node, or a part of it.
    Behind(NodeId, Prefix),
    /// The public internet and whatever else is reached through an exit node.
    Exit(NodeId),
    /// A service, by its name.
    Service(String),
    /// Addresses that no node has today; the first of them.
    Nobody(IpAddr),
}

/// Compares two policies over one tailnet. Gains come first.
pub fn diff(old: &Policy, new: &Policy, tailnet: &Tailnet<'_>) -> Vec<Change> {
    let (old, new) = (old.compile(tailnet), new.compile(tailnet));
    let mut lines: BTreeMap<Line, Seen> = BTreeMap::new();
    for node in tailnet.nodes {
        let (before, after) = (old.filter_for(node.id), new.filter_for(node.id));
        if before != after {
            compare(tailnet, node, &passages(&before), &passages(&after), &mut lines);
        }
    }
    join(lines)
}

/// What is the same on one line, before destinations are put together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    is_loss: bool,
    from: Vec<Party>,
    to: Party,
    traffic: Traffic,
}

struct Seen {
    families: [bool; 2],
    witness: Packet,
    receiver: NodeId,
}

fn compare(
    tailnet: &Tailnet<'_>,
    node: &PolicyNode,
    before: &[Passage],
    after: &[Passage],
    lines: &mut BTreeMap<Line, Seen>,
) {
    let all: Vec<&Passage> = before.iter().chain(after).collect();
    for (party, addrs) in destinations(tailnet, node) {
        for is_ipv4 in [true, false] {
            let addrs = of_family(&addrs, is_ipv4);
            let tos: Vec<&IpRanges> = all.iter().map(|passage| &passage.to).collect();
            for (dsts, reaching) in atoms(&addrs, &tos) {
                let near: Vec<(usize, &Passage)> =
                    reaching.iter().filter_map(|place| Some((*place, *all.get(*place)?))).collect();
                let froms: Vec<&IpRanges> = near.iter().map(|(_, passage)| &passage.from).collect();
                for (srcs, sending) in atoms(&of_family(&whole(), is_ipv4), &froms) {
                    let mut traffic = [Traffic::default(), Traffic::default()];
                    for (place, passage) in sending.iter().filter_map(|at| near.get(*at)) {
                        traffic[usize::from(*place >= before.len())].union_with(&passage.traffic);
                    }
                    let [old, new] = traffic;
                    for (is_loss, traffic) in [(false, new.minus(&old)), (true, old.minus(&new))] {
                        let Some((protocol, port)) = traffic.first(is_ipv4) else { continue };
                        let from = sources(tailnet, node, &srcs);
                        let parties: Vec<Party> = from.iter().map(|(party, _)| party.clone()).collect();
                        let Some((src, dst)) = from.first().and_then(|(_, set)| pair(set, &dsts, is_ipv4)) else {
                            continue;
                        };
                        let line = Line { is_loss, from: parties, to: party.clone(), traffic };
                        let witness = Packet { src, dst, protocol, port };
                        let seen =
                            lines.entry(line).or_insert(Seen { families: [false, false], witness, receiver: node.id });
                        seen.families[usize::from(is_ipv4)] = true;
                    }
                }
            }
        }
    }
}

/// What a node receives packets for.
fn destinations(tailnet: &Tailnet<'_>, node: &PolicyNode) -> Vec<(Party, IpRanges)> {
    let own: IpRanges = node.addrs.iter().map(|addr| IpRange::from(*addr)).collect();
    let mut ends = vec![(Party::Node(node.id), own)];
    for route in node.subnet_routes() {
        ends.push((Party::Behind(node.id, route), held_by_nobody(tailnet, &[route].into_iter().collect())));
    }
    if node.routes.iter().any(Prefix::is_default_route) {
        let all: IpRanges = node.routes.iter().copied().filter(Prefix::is_default_route).collect();
        ends.push((Party::Exit(node.id), held_by_nobody(tailnet, &all)));
    }
    for service in tailnet.services.iter().filter(|service| service.hosts.contains(&node.id)) {
        let addrs = service.addrs.iter().map(|addr| IpRange::from(*addr)).collect();
        ends.push((Party::Service(service.name.clone()), addrs));
    }
    ends
}

/// Packets to an address that a node holds go to that node, whatever networks others serve.
fn held_by_nobody(tailnet: &Tailnet<'_>, set: &IpRanges) -> IpRanges {
    let mut left = set.clone();
    for addr in tailnet.nodes.iter().flat_map(|node| &node.addrs).filter(|addr| set.contains(**addr)) {
        left.subtract((*addr).into());
    }
    left
}

/// Who can send from these addresses, apart from the receiver; what no node has only if nobody else can.
fn sources(tailnet: &Tailnet<'_>, receiver: &PolicyNode, set: &IpRanges) -> Vec<(Party, IpRanges)> {
    let mut parties = Vec::new();
    let mut left = set.clone();
    for node in tailnet.nodes {
        let own: IpRanges = node.addrs.iter().map(|addr| IpRange::from(*addr)).collect();
        let own = own.intersection(set);
        own.iter().for_each(|range| left.subtract(range));
        if node.id != receiver.id && !own.is_empty() {
            parties.push((Party::Node(node.id), own));
        }
    }
    let unheld = left.clone();
    for node in tailnet.nodes.iter().filter(|node| node.id != receiver.id) {
        for route in node.subnet_routes() {
            let part = unheld.intersection(&[route].into_iter().collect());
            part.iter().for_each(|range| left.subtract(range));
            if !part.is_empty() {
                parties.push((Party::Behind(node.id, route), part));
            }
        }
    }
    let first = left.iter().next().map(|range| range.first());
    if let (true, Some(first)) = (parties.is_empty(), first) {
        parties.push((Party::Nobody(first), left));
    }
    parties
}

fn pair(from: &IpRanges, to: &IpRanges, is_ipv4: bool) -> Option<(IpAddr, IpAddr)> {
    let dst = pick(to, is_ipv4, &[])?;
    let src = pick(from, is_ipv4, &[dst]).or_else(|| pick(from, is_ipv4, &[]))?;
    Some((src, dst))
}

/// Puts destinations together that the same sources gain or lose in the same way.
fn join(lines: BTreeMap<Line, Seen>) -> Vec<Change> {
    type Key = (bool, Vec<Party>, Traffic, [bool; 2]);
    let mut joined: BTreeMap<Key, (Vec<Party>, Packet, NodeId)> = BTreeMap::new();
    for (line, seen) in lines {
        let key = (line.is_loss, line.from, line.traffic, seen.families);
        joined.entry(key).or_insert_with(|| (Vec::new(), seen.witness, seen.receiver)).0.push(line.to);
    }
    let change =
        |((is_loss, from, traffic, families), (to, witness, receiver)): (Key, (Vec<Party>, Packet, NodeId))| Change {
            is_gain: !is_loss,
            from,
            to,
            traffic: traffic.to_string(),
            only_family: if families[0] == families[1] { None } else { Some(families[1]) },
            witness,
            receiver,
        };
    joined.into_iter().map(change).collect()
}
