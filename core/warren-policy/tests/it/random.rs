//! Random tailnets and policies over them, from a seed. Small on purpose: what is rare in life must be frequent here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use warren_ip::Prefix;
use warren_policy::{Attribute, PolicyNode, PolicyService, PolicyUser, Role, Tailnet};
use warren_wire::{NodeId, UserId};

use crate::naive::{Naive, Packet};

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn of<'t, T>(&mut self, choices: &'t [T]) -> &'t T {
        &choices[self.below(choices.len())]
    }

    fn some(&mut self, choices: &[&str], most: usize) -> Vec<String> {
        let count = 1 + self.below(most);
        (0..count).map(|_| (*self.of(choices)).to_owned()).collect()
    }
}

pub const TAGS: [&str; 3] = ["tag:a", "tag:b", "tag:c"];
const ROUTES: [&str; 6] =
    ["10.1.0.0/16", "10.0.0.0/8", "192.168.7.0/24", "8.8.0.0/16", "10.1.2.0/24", "2001:db8:1::/48"];
const PLACES: [&str; 12] = [
    "10.1.0.7",
    "10.1.2.9",
    "10.200.0.1",
    "192.168.7.7",
    "8.8.8.8",
    "8.8.200.1",
    "1.1.1.1",
    "100.64.77.77",
    "172.16.0.1",
    "2001:db8:1::5",
    "2606:4700::1",
    "fd7a:115c:a1e0::7777",
];

pub struct Case {
    pub users: Vec<PolicyUser>,
    pub nodes: Vec<PolicyNode>,
    pub services: Vec<PolicyService>,
}

impl Case {
    pub fn tailnet(&self) -> Tailnet<'_> {
        Tailnet { users: &self.users, nodes: &self.nodes, services: &self.services }
    }

    pub fn naive<'a>(&'a self, document: &'a Value) -> Naive<'a> {
        Naive { document, users: &self.users, nodes: &self.nodes, services: &self.services }
    }

    pub fn roll(dice: &mut Dice) -> Case {
        let mut users = people();
        if dice.one_in(4) {
            // Two people of one address: a word that means both means nobody.
            users[1].email = users[0].email.clone();
        }
        let count = 2 + dice.below(6);
        let mut nodes: Vec<PolicyNode> = (0..count).map(|index| node(dice, index)).collect();
        if dice.one_in(2) {
            nodes[0].tags.clear();
        }
        let hosts = nodes.iter().filter(|_| dice.one_in(2)).map(|node| node.id).collect();
        let service = || PolicyService {
            name: "svc:web".to_owned(),
            addrs: vec!["100.64.9.9".parse().unwrap(), "fd7a:115c:a1e0::99".parse().unwrap()],
            hosts,
        };
        let services = if dice.one_in(3) { vec![service()] } else { Vec::new() };
        Case { users, nodes, services }
    }

    /// A packet into one of the nodes: for one of its addresses, a network that it serves, or a service that it hosts.
    pub fn packet(&self, dice: &mut Dice) -> Option<Packet> {
        let receiver = dice.below(self.nodes.len());
        let dst = *dice.of(&self.destinations(receiver));
        let sources: Vec<IpAddr> = self.sources().into_iter().filter(|src| fits(*src, dst)).collect();
        let src = *dice.of(sources.get(..).filter(|sources| !sources.is_empty())?);
        Some(packet(dice, src, dst, receiver))
    }

    /// The same among ends that somebody asks about; none if there are none.
    pub fn packet_like(
        &self,
        dice: &mut Dice,
        is_src: impl Fn(IpAddr) -> bool,
        is_dst: impl Fn(IpAddr, IpAddr) -> bool,
    ) -> Option<Packet> {
        let sources: Vec<IpAddr> = self.sources().into_iter().filter(|src| is_src(*src)).collect();
        let src = *dice.of(sources.get(..).filter(|sources| !sources.is_empty())?);
        let ends =
            (0..self.nodes.len()).flat_map(|node| self.destinations(node).into_iter().map(move |dst| (node, dst)));
        let ends: Vec<(usize, IpAddr)> = ends.filter(|(_, dst)| fits(src, *dst) && is_dst(src, *dst)).collect();
        let (receiver, dst) = *dice.of(ends.get(..).filter(|ends| !ends.is_empty())?);
        Some(packet(dice, src, dst, receiver))
    }

    /// Addresses of nodes are three times as likely as others.
    fn destinations(&self, receiver: usize) -> Vec<IpAddr> {
        let node = &self.nodes[receiver];
        let mut destinations: Vec<IpAddr> = node.addrs.iter().flat_map(|addr| [*addr; 3]).collect();
        destinations.extend(places().filter(|place| node.routes.iter().any(|route| route.contains(*place))));
        let hosted = self.services.iter().filter(|service| service.hosts.contains(&node.id));
        destinations.extend(hosted.flat_map(|service| &service.addrs));
        destinations
    }

    fn sources(&self) -> Vec<IpAddr> {
        self.nodes.iter().flat_map(|node| node.addrs.iter().flat_map(|addr| [*addr; 3])).chain(places()).collect()
    }
}

fn places() -> impl Iterator<Item = IpAddr> {
    PLACES.iter().map(|place| place.parse::<IpAddr>().unwrap())
}

fn fits(src: IpAddr, dst: IpAddr) -> bool {
    src.is_ipv4() == dst.is_ipv4() && src != dst
}

fn packet(dice: &mut Dice, src: IpAddr, dst: IpAddr, receiver: usize) -> Packet {
    Packet {
        src,
        dst,
        receiver,
        protocol: *dice.of(&[6, 6, 6, 17, 17, 1, 58, 132, 47, 99]),
        port: *dice.of(&[0, 1, 21, 22, 22, 23, 53, 79, 80, 81, 443, 8080, 65535]),
    }
}

pub fn people() -> Vec<PolicyUser> {
    let user = |id: i64, name: &str, email: &str, groups: &[&str], roles: &[Role]| PolicyUser {
        id: UserId(id),
        name: name.to_owned(),
        email: email.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        roles: roles.to_vec(),
        ..PolicyUser::default()
    };
    vec![
        user(1, "ann", "ann@example.com", &[], &[Role::Owner]),
        user(2, "bob", "bob@example.com", &["ops"], &[]),
        user(3, "cat", "cat@example.com", &[], &[Role::Auditor]),
        user(4, "dan", "dan@other.org", &["ops", "lab"], &[Role::Admin]),
        user(5, "eve", "", &[], &[]),
        PolicyUser { self_named: true, ..user(6, "bob", "", &["lab"], &[]) },
    ]
}

pub fn addrs(index: usize) -> Vec<IpAddr> {
    // Neighbours, so that ranges of several nodes join.
    vec![
        format!("100.64.0.{}", index + 1).parse().unwrap(),
        format!("fd7a:115c:a1e0::{:x}", index + 1).parse().unwrap(),
    ]
}

fn node(dice: &mut Dice, index: usize) -> PolicyNode {
    let mut tags: Vec<String> = Vec::new();
    if dice.one_in(2) {
        tags = dice.some(&TAGS, 2);
        tags.sort();
        tags.dedup();
    }
    let mut routes: Vec<Prefix> = Vec::new();
    if dice.one_in(3) {
        routes = dice.some(&ROUTES, 2).iter().map(|route| route.parse().unwrap()).collect();
    }
    if dice.one_in(5) {
        routes.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
    } else if dice.one_in(12) {
        routes.push(Prefix::ALL_V4);
    }
    PolicyNode {
        id: NodeId(index as i64 + 1),
        // What a tagged node says of an owner means nothing.
        user: (!dice.one_in(10)).then(|| UserId(1 + dice.below(5) as i64)),
        tags,
        addrs: addrs(index),
        routes,
        attributes: attributes(dice),
    }
}

fn attributes(dice: &mut Dice) -> BTreeMap<String, Attribute> {
    let mut attributes = BTreeMap::new();
    if dice.one_in(2) {
        let os = *dice.of(&["linux", "macos"]);
        attributes.insert("node:os".to_owned(), Attribute::Text(os.to_owned()));
    }
    if dice.one_in(2) {
        attributes.insert("custom:tier".to_owned(), Attribute::Number(dice.below(6) as f64));
    }
    attributes
}

const PEOPLE: [&str; 13] = [
    "ann@",
    "ann@example.com",
    "bob@example.com",
    "cat@example.com",
    "dan@other.org",
    "eve@",
    "group:g",
    "group:h",
    "group:ops@oidc",
    "group:lab@other.org",
    "autogroup:member",
    "autogroup:admin",
    "user:*@example.com",
];
const SOURCES: [&str; 14] = [
    "*",
    "*",
    "tag:a",
    "tag:b",
    "tag:c",
    "autogroup:tagged",
    "autogroup:auditor",
    "autogroup:shared",
    "h1",
    "net",
    "ipset:s",
    "100.64.0.0/30",
    "10.1.2.0/24",
    "autogroup:danger-all",
];
const DESTINATIONS: [&str; 16] = [
    "*",
    "tag:a",
    "tag:b",
    "tag:c",
    "autogroup:tagged",
    "autogroup:member",
    "autogroup:internet",
    "h1",
    "net",
    "public",
    "ipset:s",
    "svc:web",
    "100.64.0.0/30",
    "10.1.2.0/24",
    "group:g",
    "ann@",
];
const PORTS: [&str; 6] = ["*", "22", "80,443", "20-100", "22,8080", "1-65535"];
const POSTURES: [&str; 3] = ["posture:linux", "posture:tier", "posture:bare"];

/// A document that must be read without complaint.
pub fn document(dice: &mut Dice) -> Value {
    let mut document = definitions();
    let kinds = dice.below(8);
    if kinds != 7 {
        if kinds != 6 {
            document.insert("acls".to_owned(), (0..dice.below(4)).map(|_| acl(dice)).collect());
        }
        if kinds != 5 {
            document.insert("grants".to_owned(), (0..dice.below(4)).map(|_| grant(dice)).collect());
        }
    }
    if dice.one_in(6) {
        document.insert("defaultSrcPosture".to_owned(), json!([dice.of(&POSTURES)]));
    }
    Value::Object(document)
}

fn definitions() -> Map<String, Value> {
    let definitions = json!({
        "groups": {"group:g": ["bob@example.com", "cat@"], "group:h": ["ann@example.com"]},
        "hosts": {"h1": "100.64.0.2", "net": "10.1.0.0/16", "public": "8.8.8.0/24"},
        "ipsets": {"ipset:s": ["10.0.0.0/8", "remove 10.1.2.0/24", "add 100.64.0.3", "h1", "8.8.0.0/20", "ipset:t"],
                   "ipset:t": ["192.168.0.0/16", "remove 192.168.8.0/24"]},
        "tagOwners": {"tag:a": ["ann@example.com"], "tag:b": ["group:g", "tag:a"], "tag:c": []},
        "postures": {"posture:linux": ["node:os == 'linux'"], "posture:tier": ["custom:tier >= 3", "node:os IS SET"],
                     "posture:bare": ["custom:tier NOT SET"]},
    });
    match definitions {
        Value::Object(fields) => fields,
        _ => unreachable!("an object"),
    }
}

fn sources(dice: &mut Dice) -> (Vec<String>, bool) {
    if dice.one_in(2) {
        return (dice.some(&PEOPLE, 3), true);
    }
    let both: Vec<&str> = PEOPLE.iter().chain(&SOURCES).copied().collect();
    (dice.some(&both, 3), false)
}

fn posture(dice: &mut Dice, rule: &mut Value) {
    if dice.one_in(6) {
        rule["srcPosture"] = json!(dice.some(&POSTURES, 2));
    }
}

fn acl(dice: &mut Dice) -> Value {
    let (src, is_people) = sources(dice);
    let destinations: Vec<&str> = DESTINATIONS.iter().copied().chain(is_people.then_some("autogroup:self")).collect();
    let protocol = *dice.of(&["", "", "tcp", "udp", "sctp", "icmp", "gre", "99"]);
    let takes_ports = matches!(protocol, "" | "tcp" | "udp" | "sctp");
    let dst: Vec<String> = dice
        .some(&destinations, 3)
        .into_iter()
        .map(|word| format!("{word}:{}", if takes_ports { dice.of(&PORTS) } else { "*" }))
        .collect();
    let mut rule = json!({"action": "accept", "proto": protocol, "src": src, "dst": dst});
    posture(dice, &mut rule);
    rule
}

fn grant(dice: &mut Dice) -> Value {
    let (src, is_people) = sources(dice);
    let ip = dice.some(&["*", "22", "80,443", "tcp:22", "udp:*", "icmp:*", "sctp:1-100", "47:*"], 2);
    let mut rule = if dice.one_in(4) {
        let dst = dice.some(&["net", "10.1.2.0/24", "ipset:s", "autogroup:internet", "public", "10.0.0.0/8"], 2);
        json!({"src": src, "dst": dst, "ip": ip, "via": dice.some(&TAGS, 2)})
    } else {
        let own = is_people && dice.one_in(3);
        let destinations: Vec<&str> = DESTINATIONS.iter().copied().chain(own.then_some("autogroup:self")).collect();
        json!({"src": src, "dst": dice.some(&destinations, 3), "ip": ip})
    };
    posture(dice, &mut rule);
    rule
}
