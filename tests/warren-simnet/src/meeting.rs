//! Whether two hosts could ever exchange datagrams without a relay.
//!
//! Both know of the other its own addresses and the outer address that a server on the public segment saw, and both send
//! to all of them at the same time. A side is *predictable* if the outer port that the server saw is also the one that
//! the other host will see.
//!
//! | sides | they meet |
//! |---|---|
//! | both predictable | always: each opens its filter by its own packet |
//! | one predictable | if that one's filter asks for the address only, since the other's port is not known beforehand |
//! | neither | if one lets everybody in at the port that the server saw, and the other's filter looks at the address only: then the first learns the other's real port, and can answer from a port that the other did not expect |

use crate::firewall::Firewall;
use crate::internet::{HostId, Internet, RouterId, Segment};
use crate::nat::Dependence;

/// All that lies between a host and the segment where two ways meet, as one translator.
#[derive(Clone, Copy, Debug)]
struct Side {
    is_predictable: bool,
    filtering: Dependence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl<T> Internet<T> {
    /// Whether `a` and `b` can find a direct path, if they do everything right. Links are not looked at.
    pub fn direct_path_possible(&self, a: HostId, b: HostId) -> bool {
        [Family::V4, Family::V6].into_iter().any(|family| self.can_meet(a, b, family))
    }

    fn can_meet(&self, a: HostId, b: HostId, family: Family) -> bool {
        let (above_a, above_b) = (self.routers_above(a), self.routers_above(b));
        let shared = above_a.iter().rev().zip(above_b.iter().rev()).take_while(|(a, b)| a == b).count();
        let own_a = &above_a[..above_a.len() - shared];
        let own_b = &above_b[..above_b.len() - shared];
        let (Some(side_a), Some(side_b)) = (self.side(a, own_a, family), self.side(b, own_b, family)) else {
            return false;
        };
        // A host on the segment where the ways meet is known there by its own address, which needs no prediction.
        let is_plain =
            |own: &[RouterId], side: Side| own.is_empty() && side.filtering == Dependence::EndpointIndependent;
        if own_a.is_empty() && own_b.is_empty() || is_plain(own_a, side_a) || is_plain(own_b, side_b) {
            return true;
        }
        let common = above_a.len().checked_sub(shared).and_then(|index| above_a.get(index)).copied();
        let is_translated = |router: RouterId| family == Family::V4 && self.routers[router.0].config.nat.is_some();
        match common {
            // Seen from outside both have the address of the same translator: it must turn their packets back.
            Some(router) if is_translated(router) => {
                let turns_back = self.routers[router.0].config.nat.is_some_and(|nat| nat.hairpin);
                let (all_a, all_b) = (&above_a[..=own_a.len()], &above_b[..=own_b.len()]);
                turns_back
                    && matches!(
                        (self.side(a, all_a, family), self.side(b, all_b, family)),
                        (Some(a), Some(b)) if meet(a, b)
                    )
            }
            _ => meet(side_a, side_b),
        }
    }

    /// The routers above a host, the nearest first.
    fn routers_above(&self, host: HostId) -> Vec<RouterId> {
        let mut above = Vec::new();
        let mut at = self.hosts[host.0].segment;
        while let Segment::Behind(router) = at {
            above.push(router);
            at = self.routers[router.0].config.upstream;
        }
        above
    }

    /// The host's own firewall and these routers as one; `None`: no UDP of this family passes.
    fn side(&self, host: HostId, routers: &[RouterId], family: Family) -> Option<Side> {
        let host = &self.hosts[host.0];
        host.addrs.iter().find(|ip| ip.is_ipv4() == (family == Family::V4))?;
        let mut side = Side { is_predictable: true, filtering: filtering(host.firewall)? };
        for router in routers {
            let config = &self.routers[router.0].config;
            let by_firewall = filtering(config.firewall)?;
            match config.nat.filter(|_| family == Family::V4) {
                Some(nat) => {
                    side.is_predictable &= nat.is_predictable();
                    side.filtering = side.filtering.max(nat.filtering);
                }
                None => side.filtering = side.filtering.max(by_firewall),
            }
        }
        Some(side)
    }
}

fn filtering(firewall: Firewall) -> Option<Dependence> {
    match firewall {
        Firewall::Open => Some(Dependence::EndpointIndependent),
        Firewall::Stateful { .. } => Some(Dependence::AddressAndPortDependent),
        Firewall::UdpBlocked => None,
    }
}

fn meet(a: Side, b: Side) -> bool {
    let asks_for_port = |side: Side| side.filtering == Dependence::AddressAndPortDependent;
    let lets_everybody_in = |side: Side| side.filtering == Dependence::EndpointIndependent;
    match (a.is_predictable, b.is_predictable) {
        (true, true) => true,
        (true, false) => !asks_for_port(a),
        (false, true) => !asks_for_port(b),
        (false, false) => lets_everybody_in(a) && !asks_for_port(b) || lets_everybody_in(b) && !asks_for_port(a),
    }
}
