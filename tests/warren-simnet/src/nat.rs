//! Address translation for UDP, in the terms of RFC 4787.
//!
//! *Mapping* (§4.1) says which destinations share the outer port that an inner address gets. *Filtering* (§5) says from
//! whom packets to that outer port are let in. The two are independent.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::random::Dice;

/// On what of the outer end something depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// Which outer port a new mapping gets (§4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner port, if nobody else holds it. One inner address may use it towards several destinations, as Linux does.
    Preserved,
    /// Any.
    Random,
}

/// How a router translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    pub mapping: Dependence,
    pub filtering: Dependence,
    pub ports: Ports,
    /// A mapping without outbound packets is forgotten after this (§4.3).
    pub expiry: Duration,
    /// Whether inner hosts reach each other by their outer addresses (§6).
    pub hairpin: bool,
}

impl Nat {
    /// A translator with these two behaviours, ports preserved, half a minute of memory, no hairpinning.
    pub const fn new(mapping: Dependence, filtering: Dependence) -> Nat {
        Nat { mapping, filtering, ports: Ports::Preserved, expiry: Duration::from_secs(30), hairpin: false }
    }

    pub const fn with_ports(self, ports: Ports) -> Nat {
        Nat { ports, ..self }
    }

    /// Whether the outer port towards one destination tells that towards another.
    pub(crate) fn is_predictable(&self) -> bool {
        self.mapping == Dependence::EndpointIndependent || self.ports == Ports::Preserved
    }
}

/// One outer port in use by one inner address, for the destinations that share it.
#[derive(Clone, Debug)]
struct Mapping {
    inside: SocketAddr,
    /// What the mapping depends on: nothing, an address, or an address and port.
    toward: (Option<IpAddr>, Option<u16>),
    port: u16,
    /// Where packets went: what filtering looks at.
    contacted: BTreeSet<SocketAddr>,
    last_out: Instant,
}

/// The mappings of one router.
#[derive(Clone, Debug, Default)]
pub(crate) struct NatState {
    mappings: Vec<Mapping>,
}

impl NatState {
    /// Translates an outbound packet; returns its outer source.
    pub fn outbound(
        &mut self,
        nat: &Nat,
        outer: IpAddr,
        src: SocketAddr,
        dst: SocketAddr,
        dice: &mut Dice,
        now: Instant,
    ) -> SocketAddr {
        self.mappings.retain(|mapping| now < mapping.last_out + nat.expiry);
        let toward = match nat.mapping {
            Dependence::EndpointIndependent => (None, None),
            Dependence::AddressDependent => (Some(dst.ip()), None),
            Dependence::AddressAndPortDependent => (Some(dst.ip()), Some(dst.port())),
        };
        let known = self.mappings.iter_mut().find(|mapping| mapping.inside == src && mapping.toward == toward);
        if let Some(mapping) = known {
            mapping.contacted.insert(dst);
            mapping.last_out = now;
            return SocketAddr::new(outer, mapping.port);
        }
        let port = self.choose_port(nat, src, dice);
        let contacted = BTreeSet::from([dst]);
        self.mappings.push(Mapping { inside: src, toward, port, contacted, last_out: now });
        SocketAddr::new(outer, port)
    }

    /// The inner address that a packet from `src` to the outer `port` goes to, if it is let in.
    pub fn inbound(&self, nat: &Nat, src: SocketAddr, port: u16, now: Instant) -> Option<SocketAddr> {
        let is_contacted = |mapping: &Mapping| match nat.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => mapping.contacted.iter().any(|contacted| contacted.ip() == src.ip()),
            Dependence::AddressAndPortDependent => mapping.contacted.contains(&src),
        };
        let alive = self.mappings.iter().filter(|mapping| now < mapping.last_out + nat.expiry);
        alive.filter(|mapping| mapping.port == port).find(|mapping| is_contacted(mapping)).map(|mapping| mapping.inside)
    }

    fn choose_port(&self, nat: &Nat, src: SocketAddr, dice: &mut Dice) -> u16 {
        let is_others = |port: u16| self.mappings.iter().any(|mapping| mapping.port == port && mapping.inside != src);
        if nat.ports == Ports::Preserved && !is_others(src.port()) {
            return src.port();
        }
        loop {
            let port = 1024 + u16::try_from(dice.below(60_000)).unwrap_or(0);
            if !self.mappings.iter().any(|mapping| mapping.port == port) {
                return port;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

    const OUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn addr(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], port))
    }

    fn inside(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 41641))
    }

    /// Outer ports towards three destinations: two ports of one address, and another address.
    #[track_caller]
    fn check_mapping(mapping: Dependence, expect_same: [bool; 2]) {
        let nat = Nat::new(mapping, EndpointIndependent).with_ports(Ports::Random);
        let (mut state, mut dice, now) = (NatState::default(), Dice::new(7), Instant::now());
        let mut port = |dst| state.outbound(&nat, OUTER, inside(1), dst, &mut dice, now).port();
        let first = port(addr(1, 1));
        assert_eq!([port(addr(1, 2)) == first, port(addr(2, 1)) == first], expect_same);
        assert_eq!(port(addr(1, 1)), first, "the same destination keeps its mapping");
    }

    #[test]
    fn mapping_depends_on_what_its_name_says() {
        check_mapping(EndpointIndependent, [true, true]);
        check_mapping(AddressDependent, [true, false]);
        check_mapping(AddressAndPortDependent, [false, false]);
    }

    /// After a packet to `198.51.100.1:1`, who may answer: the same, another port, another address?
    #[track_caller]
    fn check_filtering(filtering: Dependence, expect: [bool; 3]) {
        let nat = Nat::new(EndpointIndependent, filtering);
        let (mut state, mut dice, now) = (NatState::default(), Dice::new(7), Instant::now());
        let port = state.outbound(&nat, OUTER, inside(1), addr(1, 1), &mut dice, now).port();
        let enters = |src| state.inbound(&nat, src, port, now) == Some(inside(1));
        assert_eq!([enters(addr(1, 1)), enters(addr(1, 2)), enters(addr(2, 1))], expect);
    }

    #[test]
    fn filtering_depends_on_what_its_name_says() {
        check_filtering(EndpointIndependent, [true, true, true]);
        check_filtering(AddressDependent, [true, true, false]);
        check_filtering(AddressAndPortDependent, [true, false, false]);
    }

    #[test]
    fn a_mapping_lives_by_what_goes_out_and_not_by_what_comes_in() {
        let nat = Nat::new(EndpointIndependent, EndpointIndependent);
        let (mut state, mut dice, now) = (NatState::default(), Dice::new(7), Instant::now());
        let port = state.outbound(&nat, OUTER, inside(1), addr(1, 1), &mut dice, now).port();
        let almost = now + nat.expiry - Duration::from_millis(1);
        assert!(state.inbound(&nat, addr(1, 1), port, almost).is_some());
        assert!(state.inbound(&nat, addr(1, 1), port, now + nat.expiry).is_none());
    }

    #[test]
    fn a_preserved_port_goes_to_the_first_who_asks_and_to_all_its_destinations() {
        let nat = Nat::new(AddressAndPortDependent, AddressAndPortDependent);
        let (mut state, mut dice, now) = (NatState::default(), Dice::new(7), Instant::now());
        let mut port = |from, dst| state.outbound(&nat, OUTER, inside(from), dst, &mut dice, now).port();
        assert_eq!([port(1, addr(1, 1)), port(1, addr(2, 2))], [41641, 41641]);
        assert_ne!(port(2, addr(1, 1)), 41641);
    }
}
