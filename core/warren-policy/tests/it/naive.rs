//! The second opinion: decides one packet straight from the document's JSON, rule by rule and word by word.
//!
//! Slow and plain on purpose. It shares nothing with the compiler: no selectors, no sets, no order, no merging. What it
//! says is what user-surface.md §4 says, read aloud.

use std::net::IpAddr;

use serde_json::Value;
use warren_ip::Prefix;
use warren_policy::{Attribute, PolicyNode, PolicyService, PolicyUser, Role};

/// A packet on its way into `receiver`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Place of the node whose filter judges.
    pub receiver: usize,
    pub protocol: u8,
    /// Of the destination; without meaning where the protocol has none.
    pub port: u16,
}

pub struct Naive<'a> {
    pub document: &'a Value,
    pub users: &'a [PolicyUser],
    pub nodes: &'a [PolicyNode],
    pub services: &'a [PolicyService],
}

impl Naive<'_> {
    /// Whether the receiver's filter must let the packet in.
    pub fn allows(&self, packet: &Packet) -> bool {
        let (acls, grants) = (self.section("acls"), self.section("grants"));
        if acls.is_null() && grants.is_null() {
            // In the words of a rule: from every device and what lies behind it to everything, and no protocol named.
            return passes("", "*", packet) && self.is_source("*", packet.src);
        }
        list(grants).iter().any(|grant| self.grant_allows(grant, packet))
            || list(acls).iter().any(|acl| self.acl_allows(acl, packet))
    }

    fn section(&self, name: &str) -> &Value {
        &self.document[name]
    }

    fn acl_allows(&self, acl: &Value, packet: &Packet) -> bool {
        let protocol = acl["proto"].as_str().unwrap_or("");
        self.some_source(acl, packet)
            && texts(&acl["dst"]).iter().any(|word| {
                let (host, ports) = word.rsplit_once(':').unwrap();
                let host = host.trim_start_matches('[').trim_end_matches(']');
                passes(protocol, ports, packet) && self.is_destination(acl, host, packet)
            })
    }

    fn grant_allows(&self, grant: &Value, packet: &Packet) -> bool {
        let passes = texts(&grant["ip"]).iter().any(|entry| match entry.split_once(':') {
            Some((protocol, ports)) => passes(protocol, ports, packet),
            None => passes("", entry, packet),
        });
        passes
            && self.some_source(grant, packet)
            && texts(&grant["dst"]).iter().any(|word| self.is_destination(grant, word, packet))
    }

    fn some_source(&self, rule: &Value, packet: &Packet) -> bool {
        let own = texts(&rule["srcPosture"]);
        let postures = if own.is_empty() { texts(self.section("defaultSrcPosture")) } else { own };
        if !postures.is_empty()
            && let Some(node) = self.holder(packet.src)
            && !postures.iter().any(|name| self.meets(name, node))
        {
            return false;
        }
        texts(&rule["src"]).iter().any(|word| self.is_source(word, packet.src))
    }

    fn meets(&self, posture: &str, node: &PolicyNode) -> bool {
        texts(&self.section("postures")[posture]).iter().all(|text| {
            let words: Vec<&str> = text.split(' ').collect();
            let value = node.attributes.get(words[0]);
            match words[1..] {
                ["IS", "SET"] => value.is_some(),
                ["NOT", "SET"] => value.is_none(),
                ["==", wanted] => matches!(value, Some(Attribute::Text(text)) if format!("'{text}'") == wanted),
                ["!=", wanted] => matches!(value, Some(Attribute::Text(text)) if format!("'{text}'") != wanted),
                [">=", least] => matches!(value, Some(Attribute::Number(number)) if *number >= least.parse().unwrap()),
                _ => panic!("{text}"),
            }
        })
    }

    fn is_source(&self, word: &str, src: IpAddr) -> bool {
        match word {
            "autogroup:danger-all" => true,
            "*" => {
                let overlay = (within("100.64.0.0/10", src) && !within("100.115.92.0/23", src))
                    || within("fd7a:115c:a1e0::/48", src);
                overlay
                    || self.holder(src).is_some()
                    || self.nodes.iter().any(|node| subnets(node).iter().any(|route| route.contains(src)))
            }
            _ => match self.holder(src) {
                Some(node) if self.names_nodes(word) => self.names(word, node),
                _ => self.literal(word).iter().any(|range| range.contains(src)),
            },
        }
    }

    fn is_destination(&self, rule: &Value, word: &str, packet: &Packet) -> bool {
        let receiver = &self.nodes[packet.receiver];
        let via = texts(&rule["via"]);
        if !via.is_empty() {
            return via.iter().any(|tag| receiver.tags.contains(tag)) && self.is_routed_there(word, packet);
        }
        if word == "*" {
            return true;
        }
        if word == "autogroup:self" {
            let (Some(from), Some(to)) = (self.holder(packet.src), self.holder(packet.dst)) else { return false };
            let owner = |node: &PolicyNode| node.user.filter(|_| node.tags.is_empty());
            let same = |a: &PolicyNode, b: &PolicyNode| owner(a).is_some() && owner(a) == owner(b);
            return same(from, receiver) && same(to, receiver) && receiver.addrs.contains(&packet.dst);
        }
        if word.starts_with("svc:") {
            let meant = self.services.iter().filter(|service| service.name == word);
            return meant
                .into_iter()
                .any(|service| service.addrs.contains(&packet.dst) && service.hosts.contains(&receiver.id));
        }
        if self.names_nodes(word) {
            let named = self.holder(packet.dst).is_some_and(|node| self.names(word, node));
            return named && self.concerns(host(packet.dst), receiver);
        }
        self.literal(word).iter().any(|range| range.contains(packet.dst) && self.concerns(*range, receiver))
    }

    /// Only routers named by `via` get here.
    fn is_routed_there(&self, word: &str, packet: &Packet) -> bool {
        let receiver = &self.nodes[packet.receiver];
        if word == "autogroup:internet" {
            return is_exit(receiver) && is_public(packet.dst);
        }
        let ranges = if self.names_nodes(word) {
            let named = self.holder(packet.dst).is_some_and(|node| self.names(word, node));
            if named { vec![host(packet.dst)] } else { Vec::new() }
        } else {
            self.literal(word)
        };
        let serves = |range: &Range| subnets(receiver).iter().any(|route| Range::of(*route).overlaps(range));
        ranges.iter().any(|range| range.contains(packet.dst) && serves(range))
    }

    /// Whether a node is told of a destination at all.
    fn concerns(&self, range: Range, node: &PolicyNode) -> bool {
        node.addrs.iter().any(|addr| range.contains(*addr))
            || subnets(node).iter().any(|route| Range::of(*route).overlaps(&range))
            || (is_exit(node) && public_ranges().iter().any(|public| public.covers(&range)))
    }

    /// Whether a word of a statement means an address; for `autogroup:self`, as seen from `src`.
    pub fn means(&self, word: &str, addr: IpAddr, src: Option<IpAddr>) -> bool {
        let holder = self.holder(addr);
        match word {
            "*" => true,
            "autogroup:self" => {
                let owner = |node: &PolicyNode| node.user.filter(|_| node.tags.is_empty());
                let from = src.and_then(|src| self.holder(src)).and_then(owner);
                from.is_some() && from == holder.and_then(owner)
            }
            _ if word.starts_with("svc:") => {
                self.services.iter().any(|service| service.name == word && service.addrs.contains(&addr))
            }
            _ if self.names_nodes(word) => holder.is_some_and(|node| self.names(word, node)),
            _ => self.literal(word).iter().any(|range| range.contains(addr)),
        }
    }

    fn holder(&self, addr: IpAddr) -> Option<&PolicyNode> {
        self.nodes.iter().find(|node| node.addrs.contains(&addr))
    }

    /// Whether a word speaks of nodes, and not of addresses.
    fn names_nodes(&self, word: &str) -> bool {
        let speaks = ["group:", "tag:", "autogroup:", "user:"].iter().any(|start| word.starts_with(start));
        (speaks && word != "autogroup:internet") || word.contains('@')
    }

    fn names(&self, word: &str, node: &PolicyNode) -> bool {
        if word.starts_with("tag:") {
            return node.tags.iter().any(|tag| tag == word);
        }
        if word == "autogroup:tagged" {
            return !node.tags.is_empty();
        }
        if !node.tags.is_empty() {
            return false;
        }
        let Some(owner) = self.users.iter().find(|user| Some(user.id) == node.user) else {
            return word == "autogroup:member";
        };
        let domain = owner.email.split_once('@').map_or("", |(_, domain)| domain);
        match word {
            "autogroup:member" => true,
            "autogroup:owner" => owner.roles.contains(&Role::Owner),
            "autogroup:admin" => owner.roles.contains(&Role::Admin) || owner.roles.contains(&Role::Owner),
            "autogroup:auditor" => owner.roles.contains(&Role::Auditor),
            _ if word.starts_with("autogroup:") => false,
            _ if word.starts_with("user:*@") => !domain.is_empty() && word == format!("user:*@{domain}"),
            _ if word.starts_with("group:") && self.section("groups")[word].is_array() => {
                texts(&self.section("groups")[word]).iter().any(|member| self.is_person(member, owner))
            }
            _ if word.starts_with("group:") => owner.groups.iter().any(|claimed| {
                let written =
                    [format!("group:{claimed}"), format!("group:{claimed}@oidc"), format!("group:{claimed}@{domain}")];
                written.iter().any(|written| written == word)
            }),
            _ => self.is_person(word, owner),
        }
    }

    /// A word that may mean two people means nobody.
    fn is_person(&self, word: &str, person: &PolicyUser) -> bool {
        let by_provider = |user: &&PolicyUser| user.provider_id.as_deref() == Some(word);
        let by_name = |user: &&PolicyUser| {
            let is_word = !user.name.is_empty() && !user.self_named;
            let named = is_word && (word == user.name || word == format!("{}@", user.name));
            named || (!user.email.is_empty() && word == user.email)
        };
        let mut meant: Vec<&PolicyUser> = self.users.iter().filter(by_provider).collect();
        if meant.is_empty() {
            meant = self.users.iter().filter(by_name).collect();
        }
        meant.len() == 1 && meant[0].id == person.id
    }

    /// The addresses that a word spells out.
    fn literal(&self, word: &str) -> Vec<Range> {
        if word == "autogroup:internet" {
            return public_ranges();
        }
        if word.starts_with("ipset:") {
            return self.ipset(word);
        }
        let name = word.strip_prefix("host:").unwrap_or(word);
        let spelled = self.section("hosts")[name].as_str().unwrap_or(word);
        network(spelled).map(Range::of).into_iter().collect()
    }

    fn ipset(&self, word: &str) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for entry in texts(&self.section("ipsets")[word]) {
            let (removes, target) = match entry.split_once(' ') {
                Some(("remove", target)) => (true, target),
                Some(("add", target)) => (false, target),
                _ => (false, entry.as_str()),
            };
            let meant = self.literal(target);
            if removes {
                ranges = ranges.into_iter().flat_map(|range| without(range, &meant)).collect();
            } else {
                ranges.extend(meant);
            }
        }
        // Neighbours are one range to a node that asks whether the range is public or its own.
        join(ranges)
    }
}

/// What the language says of protocols and ports, and a node's filter of packets without ports.
fn passes(protocol: &str, ports: &str, packet: &Packet) -> bool {
    let number = match protocol.to_ascii_lowercase().as_str() {
        "" | "*" => None,
        "icmp" => Some(1),
        "igmp" => Some(2),
        "ipv4" | "ip-in-ip" => Some(4),
        "tcp" => Some(6),
        "egp" => Some(8),
        "igp" => Some(9),
        "udp" => Some(17),
        "gre" => Some(47),
        "esp" => Some(50),
        "ah" => Some(51),
        "ipv6-icmp" => Some(58),
        "sctp" => Some(132),
        "fc" => Some(133),
        digits => Some(digits.parse::<u8>().unwrap()),
    };
    if matches!(packet.protocol, 1 | 58) {
        return true; // ICMP goes wherever anything may go.
    }
    let is_meant = match number {
        Some(number) => number == packet.protocol,
        None => matches!(packet.protocol, 6 | 17),
    };
    let fits = if matches!(packet.protocol, 6 | 17 | 132) {
        ports.split(',').any(|part| match part.trim().split_once('-') {
            Some((first, last)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&packet.port),
            None => part.trim() == "*" || part.trim().parse() == Ok(packet.port),
        })
    } else {
        ports.split(',').any(|part| matches!(part.trim(), "*" | "0-65535"))
    };
    is_meant && fits
}

pub fn subnets(node: &PolicyNode) -> Vec<Prefix> {
    node.routes.iter().copied().filter(|route| route.bits() > 0).collect()
}

pub fn is_exit(node: &PolicyNode) -> bool {
    ["0.0.0.0/0", "::/0"].iter().all(|all| node.routes.iter().any(|route| route.to_string() == *all))
}

pub fn is_public(addr: IpAddr) -> bool {
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"];
    if addr.is_ipv4() { private.iter().all(|network| !within(network, addr)) } else { within("2000::/3", addr) }
}

/// Addresses from one to another, both included.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Range(IpAddr, IpAddr);

impl Range {
    fn of(prefix: Prefix) -> Range {
        Range(prefix.addr(), prefix.last())
    }

    fn contains(&self, addr: IpAddr) -> bool {
        self.0.is_ipv4() == addr.is_ipv4() && self.0 <= addr && addr <= self.1
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.contains(other.0) || other.contains(self.0)
    }

    fn covers(&self, other: &Range) -> bool {
        self.contains(other.0) && self.contains(other.1)
    }
}

/// The gaps between the private networks, by hand.
fn public_ranges() -> Vec<Range> {
    let range = |first: &str, last: &str| Range(first.parse().unwrap(), last.parse().unwrap());
    vec![
        range("0.0.0.0", "9.255.255.255"),
        range("11.0.0.0", "100.63.255.255"),
        range("100.128.0.0", "169.253.255.255"),
        range("169.255.0.0", "172.15.255.255"),
        range("172.32.0.0", "192.167.255.255"),
        range("192.169.0.0", "255.255.255.255"),
        range("2000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ]
}

fn without(range: Range, holes: &[Range]) -> Vec<Range> {
    let mut left = vec![range];
    for hole in holes {
        left = left
            .into_iter()
            .flat_map(|range| {
                if !range.overlaps(hole) {
                    return vec![range];
                }
                let mut parts = Vec::new();
                if range.0 < hole.0 {
                    parts.push(Range(range.0, step(hole.0, -1)));
                }
                if range.1 > hole.1 {
                    parts.push(Range(step(hole.1, 1), range.1));
                }
                parts
            })
            .collect();
    }
    left
}

fn join(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_by_key(|range| (!range.0.is_ipv4(), range.0));
    let mut joined: Vec<Range> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.overlaps(&range) || (step(last.1, 1) == range.0 && last.1 != range.0) => {
                last.1 = last.1.max(range.1);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// The next address or the one before; the ends stay.
fn step(addr: IpAddr, by: i8) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => {
            let bits = addr.to_bits();
            IpAddr::V4(if by > 0 { bits.saturating_add(1) } else { bits.saturating_sub(1) }.into())
        }
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            IpAddr::V6(if by > 0 { bits.saturating_add(1) } else { bits.saturating_sub(1) }.into())
        }
    }
}

fn host(addr: IpAddr) -> Range {
    Range(addr, addr)
}

fn within(network: &str, addr: IpAddr) -> bool {
    network.parse::<Prefix>().unwrap().contains(addr)
}

fn network(text: &str) -> Option<Prefix> {
    match text.split_once('/') {
        Some((addr, bits)) => Prefix::masked(addr.parse().ok()?, bits.parse().ok()?),
        None => Some(Prefix::host(text.parse().ok()?)),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}
