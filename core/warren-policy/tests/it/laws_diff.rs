//! Laws of `diff`: every line has a packet that two naive evaluations decide so, and what they decide differently has a
//! line.

use std::net::IpAddr;

use serde_json::Value;
use warren_policy::analysis::{Change, Party, diff};
use warren_wire::NodeId;

use crate::laws_packets::{packets_to_try, parse};
use crate::naive::Packet;
use crate::random::{Case, Dice, document};

/// The same document with a rule more or less, or another one altogether.
fn changed(dice: &mut Dice, old: &Value) -> Value {
    if dice.one_in(6) {
        return document(dice);
    }
    let mut new = old.clone();
    let other = document(dice);
    let section = *dice.of(&["acls", "grants"]);
    let Some(rules) = new[section].as_array_mut() else { return new };
    if !rules.is_empty() && dice.one_in(2) {
        let place = dice.below(rules.len());
        rules.remove(place);
    } else {
        rules.extend(other[section].as_array().into_iter().flatten().take(1).cloned());
    }
    new
}

fn place_of(case: &Case, id: NodeId) -> usize {
    case.nodes.iter().position(|node| node.id == id).expect("a node of the tailnet")
}

/// Whether a line speaks of an end of a packet.
fn speaks_of(case: &Case, parties: &[Party], addr: IpAddr) -> bool {
    let holder = case.nodes.iter().find(|node| node.addrs.contains(&addr)).map(|node| node.id);
    parties.iter().any(|party| match party {
        Party::Node(id) => holder == Some(*id),
        Party::Behind(_, route) => holder.is_none() && route.contains(addr),
        Party::Exit(_) => holder.is_none(),
        Party::Service(name) => {
            case.services.iter().any(|service| service.name == *name && service.addrs.contains(&addr))
        }
        Party::Nobody(_) => holder.is_none(),
    })
}

fn names_receiver(case: &Case, change: &Change, packet: &Packet) -> bool {
    let id = case.nodes[packet.receiver].id;
    change.to.iter().any(|party| match party {
        Party::Node(node) | Party::Behind(node, _) | Party::Exit(node) => *node == id,
        Party::Service(_) | Party::Nobody(_) => true,
    })
}

#[test]
fn every_line_has_its_packet_and_every_difference_its_line() {
    let (mut tried, mut differing, mut lines, mut empty, mut seed) = (0, 0, 0, 0, 1 << 40);
    while tried < packets_to_try() {
        seed += 1;
        let dice = &mut Dice(seed);
        let (case, old) = (Case::roll(dice), document(dice));
        let new = changed(dice, &old);
        let ((old_policy, old_text), (new_policy, new_text)) = (parse(&old), parse(&new));
        let changes = diff(&old_policy, &new_policy, &case.tailnet());
        let context = || format!("seed {seed}\n{old_text}\n{new_text}\n{:?}\n{changes:#?}", case.nodes);
        for change in &changes {
            let witness = Packet {
                src: change.witness.src,
                dst: change.witness.dst,
                receiver: place_of(&case, change.receiver),
                protocol: change.witness.protocol.0,
                port: change.witness.port,
            };
            let decided = (case.naive(&old).allows(&witness), case.naive(&new).allows(&witness));
            assert_eq!(decided, (!change.is_gain, change.is_gain), "{change:?}\n{}", context());
            assert!(speaks_of(&case, &change.from, witness.src) || matches!(change.from[..], [Party::Nobody(_)]));
            lines += 1;
        }
        empty += usize::from(changes.is_empty());
        for _ in 0..50 {
            let Some(packet) = case.packet(dice) else { continue };
            if case.nodes[packet.receiver].addrs.contains(&packet.src) {
                continue;
            }
            tried += 1;
            let (before, after) = (case.naive(&old).allows(&packet), case.naive(&new).allows(&packet));
            if before == after {
                continue;
            }
            differing += 1;
            // Addresses that no node has are named only where nobody else changes in the same way.
            let is_held = case.nodes.iter().any(|node| node.addrs.contains(&packet.src));
            let says = |change: &&Change| {
                change.is_gain == after
                    && names_receiver(&case, change, &packet)
                    && speaks_of(&case, &change.to, packet.dst)
                    && (!is_held || speaks_of(&case, &change.from, packet.src))
            };
            assert!(changes.iter().any(|change| says(&change)), "{packet:?}\n{}", context());
        }
    }
    println!(
        "{tried} packets, {differing} decided differently; {lines} lines, {empty} empty comparisons of {}",
        seed - (1 << 40)
    );
    assert!(differing > 50 && lines > 50 && empty > 5, "the cases say too little");
}
