//! Laws of `prove`: a counterexample is a tailnet and a packet that the naive evaluator decides so; a proof is contradicted
//! by no packet of any tailnet.

use std::net::IpAddr;

use serde_json::{Value, json};
use warren_policy::PolicyNode;
use warren_policy::analysis::{Counterexample, Verdict, prove, read_statements};

use crate::laws_packets::{packets_to_try, parse};
use crate::naive::{Naive, Packet, is_exit, is_public, subnets};
use crate::random::{Case, Dice, TAGS, document, people};

const FROM: [&str; 17] = [
    "ann@",
    "bob@example.com",
    "dan@other.org",
    "zoe@example.com",
    "group:g",
    "group:h",
    "group:ops@oidc",
    "autogroup:member",
    "autogroup:admin",
    "user:*@example.com",
    "tag:a",
    "tag:b",
    "tag:c",
    "autogroup:tagged",
    "*",
    "10.1.0.0/16",
    "100.64.0.2",
];
const TO: [&str; 17] = [
    "ann@",
    "group:g",
    "autogroup:member",
    "tag:a",
    "tag:b",
    "tag:c",
    "autogroup:tagged",
    "*",
    "net",
    "10.1.2.0/24",
    "ipset:s",
    "h1",
    "autogroup:internet",
    "public",
    "svc:web",
    "autogroup:self",
    "8.8.0.0/16",
];
/// Whether a protocol and a port are meant.
type Meant = fn(u8, u16) -> bool;

const ON: [(&str, Meant); 6] = [
    ("", |_, _| true),
    (" on 22", |protocol, port| matches!(protocol, 6 | 17) && port == 22),
    (" on tcp 22", |protocol, port| protocol == 6 && port == 22),
    (" on tcp 80,443, udp 53", |protocol, port| {
        (protocol == 6 && matches!(port, 80 | 443)) || (protocol == 17 && port == 53)
    }),
    (" on icmp", |protocol, _| matches!(protocol, 1 | 58)),
    (" on sctp", |protocol, _| protocol == 132),
];

struct Statement {
    text: String,
    is_nothing: bool,
    from: &'static str,
    to: &'static str,
    on: Meant,
}

impl Statement {
    fn roll(dice: &mut Dice) -> Statement {
        let (from, mut to, (ports, on)) = (*dice.of(&FROM), *dice.of(&TO), *dice.of(&ON));
        let people =
            from.contains('@') || from.starts_with("group:") || matches!(from, "autogroup:member" | "autogroup:admin");
        if to == "autogroup:self" && !people {
            to = "tag:b";
        }
        let is_nothing = dice.one_in(2);
        let text = if is_nothing {
            format!("nothing from {from} reaches {to}{ports}")
        } else {
            format!("{from} reaches every {to}{ports}")
        };
        let usual: Meant = |protocol, _| matches!(protocol, 6 | 17 | 1 | 58);
        let on = if !is_nothing && ports.is_empty() { usual } else { on };
        Statement { text, is_nothing, from, to, on }
    }

    /// Whether the statement speaks of a packet, and the tailnet can carry it.
    fn speaks_of(&self, naive: &Naive<'_>, packet: &Packet) -> bool {
        (self.on)(packet.protocol, packet.port)
            && can_send(naive, packet)
            && can_receive(naive, packet, self.is_nothing || self.to.starts_with("svc:"))
            && naive.means(self.from, packet.src, None)
            && naive.means(self.to, packet.dst, Some(packet.src))
    }
}

fn is_mesh(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.octets()[0] == 100 && (64..128).contains(&addr.octets()[1]),
        IpAddr::V6(addr) => addr.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

fn can_send(naive: &Naive<'_>, packet: &Packet) -> bool {
    let receiver = &naive.nodes[packet.receiver];
    let others = || naive.nodes.iter().filter(|node| node.id != receiver.id);
    if others().any(|node| node.addrs.contains(&packet.src)) {
        return true;
    }
    let is_behind = |node: &PolicyNode| subnets(node).iter().any(|route| route.contains(packet.src));
    !is_mesh(packet.src) && others().any(is_behind)
}

fn can_receive(naive: &Naive<'_>, packet: &Packet, services: bool) -> bool {
    let node = &naive.nodes[packet.receiver];
    let is_served = subnets(node).iter().any(|route| route.contains(packet.dst));
    let mut hosted = naive.services.iter().filter(|service| service.hosts.contains(&node.id));
    node.addrs.contains(&packet.dst)
        || (services && hosted.any(|service| service.addrs.contains(&packet.dst)))
        || (!is_mesh(packet.dst) && (is_served || (is_exit(node) && is_public(packet.dst))))
}

fn shown(counterexample: &Counterexample) -> (Packet, Case) {
    let packet = counterexample.packet;
    let packet =
        Packet { src: packet.src, dst: packet.dst, receiver: 1, protocol: packet.protocol.0, port: packet.port };
    let case = Case {
        users: counterexample.users.clone(),
        nodes: counterexample.nodes.clone(),
        services: counterexample.services.clone(),
    };
    (packet, case)
}

/// A document whose tags one person owns together, or nobody does.
fn policy(dice: &mut Dice) -> Value {
    let mut document = document(dice);
    if dice.one_in(3) {
        document["tagOwners"] = json!({"tag:a": ["ann@example.com"], "tag:b": ["bob@example.com"], "tag:c": ["tag:b"]});
    }
    document
}

/// In the second kind of document `tag:a` is owned by another person than `tag:b` and `tag:c`.
fn is_owned_by_one(node: &PolicyNode) -> bool {
    let wears = |tag: &str| node.tags.iter().any(|worn| worn == tag);
    !(wears(TAGS[0]) && (wears(TAGS[1]) || wears(TAGS[2])))
}

fn tailnet(dice: &mut Dice) -> Case {
    Case { users: people(), ..Case::roll(dice) }
}

#[test]
fn no_packet_contradicts_a_proof_and_every_counterexample_is_one() {
    let (mut tried, mut seed) = (0, 1 << 48);
    let (mut proved, mut proved_every, mut vacuous, mut assumed, mut disproved, mut undecided, mut about) =
        (0, 0, 0, 0, 0, 0, 0);
    while about < packets_to_try() / 4 {
        seed += 1;
        let dice = &mut Dice(seed);
        let document = policy(dice);
        let (policy, text) = parse(&document);
        let known = if dice.one_in(2) { people() } else { Vec::new() };
        for _ in 0..6 {
            let statement = Statement::roll(dice);
            let read = read_statements(&statement.text).unwrap();
            let verdict = prove(&policy, &known, &read[0]);
            let context = || format!("seed {seed}: {}\n{text}\n{verdict:?}", statement.text);
            let assuming = match &verdict {
                Verdict::Disproved(counterexample) => {
                    disproved += 1;
                    let (packet, case) = shown(counterexample);
                    let naive = case.naive(&document);
                    assert!(statement.speaks_of(&naive, &packet), "not what was said: {}", context());
                    assert_eq!(naive.allows(&packet), statement.is_nothing, "{}", context());
                    continue;
                }
                Verdict::Undecided(_) => {
                    undecided += 1;
                    continue;
                }
                Verdict::Proved { assuming, is_vacuous } => {
                    proved += 1;
                    proved_every += usize::from(!statement.is_nothing);
                    vacuous += usize::from(*is_vacuous);
                    assumed += usize::from(!assuming.is_empty());
                    assuming
                }
            };
            // The proof speaks of no node that wears tags together which no one person owns.
            let is_split = document["tagOwners"]["tag:b"] == json!(["bob@example.com"]);
            for _ in 0..20 {
                let case = tailnet(dice);
                if is_split && !case.nodes.iter().all(is_owned_by_one) {
                    continue;
                }
                assert!(is_split || assuming.is_empty(), "{}", context());
                let naive = case.naive(&document);
                for _ in 0..20 {
                    let is_src = |src| naive.means(statement.from, src, None);
                    let packet = case.packet_like(dice, is_src, |src, dst| naive.means(statement.to, dst, Some(src)));
                    let Some(packet) = packet else { break };
                    tried += 1;
                    if statement.speaks_of(&naive, &packet) {
                        about += 1;
                        assert_eq!(
                            naive.allows(&packet),
                            !statement.is_nothing,
                            "{packet:?} {:?}\n{}",
                            case.nodes,
                            context()
                        );
                    }
                }
            }
        }
    }
    println!(
        "{proved} proved ({proved_every} of them that every packet passes, {vacuous} of them of nobody, {assumed} assuming something), {disproved} disproved, {undecided} undecided; \
         {tried} packets, {about} of them spoken of"
    );
    assert!(proved > 50 && proved_every > 10 && disproved > 50, "the cases say too little");
    assert!(undecided * 10 < proved + disproved, "{undecided} undecided");
}
