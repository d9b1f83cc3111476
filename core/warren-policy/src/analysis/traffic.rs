//! Sets of protocols and ports, exactly as a node's filter tells packets apart.
//!
//! TCP, UDP and SCTP have ports. ICMP goes wherever anything may go between two addresses. Every other protocol needs its
//! number and all ports.

use std::fmt;

use warren_ip::Protocol;
use warren_wire::{FilterRule, PortRange};

use crate::rule::Access;

/// A set of (protocol, port) pairs; the port is without meaning where the protocol has none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Traffic {
    tcp: Ports,
    udp: Ports,
    sctp: Ports,
    /// One bit for each protocol without ports, by number.
    plain: [u64; 4],
}

/// What a rule that names no protocol means.
const USUAL: [Protocol; 4] = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6];

impl Traffic {
    /// Every packet there is.
    pub(crate) fn all() -> Traffic {
        let mut all = Traffic::default();
        (0..=u8::MAX).for_each(|number| all.insert(Protocol(number), PortRange::ANY));
        all
    }

    /// What `*` means in a rule: TCP and UDP on every port, and ICMP.
    pub(crate) fn usual() -> Traffic {
        let mut usual = Traffic::default();
        USUAL.into_iter().for_each(|protocol| usual.insert(protocol, PortRange::ANY));
        usual
    }

    /// Adds ports of a protocol; those of one that has none count only if they are all.
    pub(crate) fn insert(&mut self, protocol: Protocol, ports: PortRange) {
        match self.ports_mut(protocol) {
            Some(set) => set.insert(ports),
            None if ports == PortRange::ANY => {
                self.plain[usize::from(protocol.0 >> 6)] |= 1 << (protocol.0 & 63);
            }
            None => {}
        }
    }

    /// What a filter lets through between two addresses that these entries of a rule connect.
    pub(crate) fn of_access(access: &[Access]) -> Traffic {
        let mut traffic = Traffic::default();
        for entry in access {
            traffic.add_entry(entry.protocol.as_slice(), &entry.ports);
        }
        traffic
    }

    /// What a filter lets through to one destination of a wire rule.
    pub(crate) fn of_wire(rule: &FilterRule, ports: PortRange) -> Traffic {
        let numbers = rule.ip_proto.iter().filter_map(|number| u8::try_from(*number).ok().map(Protocol));
        let mut traffic = Traffic::default();
        traffic.add_entry(&numbers.collect::<Vec<_>>(), &[ports]);
        traffic
    }

    fn add_entry(&mut self, protocols: &[Protocol], ports: &[PortRange]) {
        if ports.is_empty() {
            return;
        }
        let meant = if protocols.is_empty() { &USUAL } else { protocols };
        for protocol in meant {
            ports.iter().for_each(|range| self.insert(*protocol, *range));
        }
        self.insert(Protocol::ICMP, PortRange::ANY);
        self.insert(Protocol::ICMPV6, PortRange::ANY);
    }

    pub(crate) fn contains(&self, protocol: Protocol, port: u16) -> bool {
        match self.ports(protocol) {
            Some(set) => set.contains(port),
            None => self.plain[usize::from(protocol.0 >> 6)] & (1 << (protocol.0 & 63)) != 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first(true).is_none()
    }

    pub(crate) fn union_with(&mut self, other: &Traffic) {
        for protocol in PORTED {
            if let (Some(have), Some(more)) = (self.ports_mut(protocol), other.ports(protocol)) {
                more.0.iter().for_each(|range| have.insert(*range));
            }
        }
        self.plain.iter_mut().zip(&other.plain).for_each(|(have, more)| *have |= more);
    }

    pub(crate) fn minus(&self, other: &Traffic) -> Traffic {
        Traffic {
            tcp: self.tcp.minus(&other.tcp),
            udp: self.udp.minus(&other.udp),
            sctp: self.sctp.minus(&other.sctp),
            plain: std::array::from_fn(|word| self.plain[word] & !other.plain[word]),
        }
    }

    pub(crate) fn intersection(&self, other: &Traffic) -> Traffic {
        self.minus(&self.minus(other))
    }

    /// One member, the most telling first: TCP, UDP, ICMP of the family, then the rest.
    pub(crate) fn first(&self, is_ipv4: bool) -> Option<(Protocol, u16)> {
        for protocol in PORTED {
            if let Some(port) = self.ports(protocol).and_then(Ports::first) {
                return Some((protocol, port));
            }
        }
        let icmp = if is_ipv4 { Protocol::ICMP } else { Protocol::ICMPV6 };
        let plain = std::iter::once(icmp).chain((0..=u8::MAX).map(Protocol).filter(|number| !number.has_ports()));
        plain.into_iter().find(|protocol| self.contains(*protocol, 0)).map(|protocol| (protocol, 0))
    }

    fn ports(&self, protocol: Protocol) -> Option<&Ports> {
        match protocol {
            Protocol::TCP => Some(&self.tcp),
            Protocol::UDP => Some(&self.udp),
            Protocol::SCTP => Some(&self.sctp),
            _ => None,
        }
    }

    fn ports_mut(&mut self, protocol: Protocol) -> Option<&mut Ports> {
        match protocol {
            Protocol::TCP => Some(&mut self.tcp),
            Protocol::UDP => Some(&mut self.udp),
            Protocol::SCTP => Some(&mut self.sctp),
            _ => None,
        }
    }
}

const PORTED: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// As a person writes it: `tcp 22, 80-90; udp *; icmp`.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Traffic::all() {
            return f.write_str("everything");
        }
        let mut parts = Vec::new();
        if self.tcp == self.udp && !self.tcp.0.is_empty() {
            parts.push(format!("tcp and udp {}", self.tcp));
        } else {
            let named = [("tcp", &self.tcp), ("udp", &self.udp)];
            parts.extend(
                named.iter().filter(|(_, ports)| !ports.0.is_empty()).map(|(name, ports)| format!("{name} {ports}")),
            );
        }
        if !self.sctp.0.is_empty() {
            parts.push(format!("sctp {}", self.sctp));
        }
        let icmp = [Protocol::ICMP, Protocol::ICMPV6].map(|protocol| self.contains(protocol, 0));
        if icmp == [true, true] {
            parts.push("icmp".to_owned());
        }
        let others: Vec<u8> = (0..=u8::MAX)
            .filter(|number| !(icmp == [true, true] && Protocol(*number).is_icmp()))
            .filter(|number| !Protocol(*number).has_ports() && self.contains(Protocol(*number), 0))
            .collect();
        if others.len() > 8 {
            parts.push(format!("{} other protocols", others.len()));
        } else {
            parts.extend(others.iter().map(|number| Protocol(*number).to_string()));
        }
        f.write_str(&parts.join("; "))
    }
}

/// Ranges in order, none touching the next.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Ports(Vec<PortRange>);

impl Ports {
    fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }

    fn insert(&mut self, new: PortRange) {
        if new.first > new.last {
            return;
        }
        let touches = |range: &PortRange| {
            u32::from(range.first) <= u32::from(new.last) + 1 && u32::from(new.first) <= u32::from(range.last) + 1
        };
        let (touching, mut apart): (Vec<PortRange>, Vec<PortRange>) = self.0.iter().partition(|range| touches(range));
        let joined = touching
            .iter()
            .fold(new, |all, range| PortRange { first: all.first.min(range.first), last: all.last.max(range.last) });
        apart.push(joined);
        apart.sort_unstable_by_key(|range| range.first);
        self.0 = apart;
    }

    fn minus(&self, other: &Ports) -> Ports {
        let mut left = self.0.clone();
        for hole in &other.0 {
            left = left
                .into_iter()
                .flat_map(|range| {
                    if hole.last < range.first || range.last < hole.first {
                        return [Some(range), None];
                    }
                    let before = (range.first < hole.first)
                        .then(|| PortRange { first: range.first, last: hole.first.saturating_sub(1) });
                    let after = (hole.last < range.last)
                        .then(|| PortRange { first: hole.last.saturating_add(1), last: range.last });
                    [before, after]
                })
                .flatten()
                .collect();
        }
        Ports(left)
    }

    /// Port 0 is a port to a filter, but tells a person nothing; it comes last.
    fn first(&self) -> Option<u16> {
        let lowest = self.0.first()?;
        if lowest.first > 0 || lowest.last == 0 && self.0.len() == 1 {
            return Some(lowest.first);
        }
        if lowest.last > 0 { Some(1) } else { self.0.get(1).map(|range| range.first) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |range: &PortRange| match *range {
            PortRange::ANY => "*".to_owned(),
            PortRange { first, last } if first == last => first.to_string(),
            PortRange { first, last } => format!("{first}-{last}"),
        };
        f.write_str(&self.0.iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ranges: &[(u16, u16)]) -> Traffic {
        let mut traffic = Traffic::default();
        ranges.iter().for_each(|(first, last)| traffic.insert(Protocol::TCP, PortRange { first: *first, last: *last }));
        traffic
    }

    #[test]
    fn ports_that_touch_are_one_range() {
        assert_eq!(ports(&[(80, 90), (22, 22), (91, 95)]).to_string(), "tcp 22, 80-95");
        assert_eq!(ports(&[(0, 100), (101, 65535)]).to_string(), "tcp *");
    }

    #[test]
    fn a_difference_leaves_what_is_on_either_side() {
        assert_eq!(ports(&[(10, 20)]).minus(&ports(&[(13, 15)])).to_string(), "tcp 10-12, 16-20");
        assert!(ports(&[(10, 20)]).minus(&ports(&[(0, 65535)])).is_empty());
        assert_eq!(ports(&[(0, 65535)]).minus(&ports(&[(0, 0), (65535, 65535)])).to_string(), "tcp 1-65534");
    }

    #[test]
    fn icmp_goes_with_any_entry_and_other_protocols_need_all_ports() {
        let entry = |protocol: u8, first, last| Access {
            protocol: Some(Protocol(protocol)),
            ports: vec![PortRange { first, last }],
        };
        let ssh = Traffic::of_access(&[entry(6, 22, 22)]);
        assert!(ssh.contains(Protocol::ICMP, 0) && ssh.contains(Protocol::ICMPV6, 0));
        assert!(!ssh.contains(Protocol::UDP, 22) && !ssh.contains(Protocol(47), 0));
        assert!(Traffic::of_access(&[entry(47, 0, 65535)]).contains(Protocol(47), 9));
        assert!(Traffic::of_access(&[]).is_empty());
    }

    #[test]
    fn a_member_is_found_if_there_is_one_and_port_zero_is_the_last_choice() {
        assert_eq!(ports(&[(0, 9)]).first(true), Some((Protocol::TCP, 1)));
        assert_eq!(ports(&[(0, 0), (7, 9)]).first(true), Some((Protocol::TCP, 7)));
        assert_eq!(ports(&[(0, 0)]).first(true), Some((Protocol::TCP, 0)));
        assert_eq!(Traffic::default().first(true), None);
        assert_eq!(Traffic::usual().minus(&Traffic::usual()).first(false), None);
    }
}
