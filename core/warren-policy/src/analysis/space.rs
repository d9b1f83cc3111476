//! Where addresses of unknown nodes lie, and what words of a policy say of addresses alone.

use std::net::IpAddr;

use warren_ip::{IpRange, IpRanges, Prefix};

use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::sources::internet;

/// The two kinds of address that a packet can have: a node's own, and one behind a node.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    /// Held by nodes, and by services.
    pub(crate) overlay: IpRanges,
    /// Everything else: networks behind routers and exit nodes.
    pub(crate) outside: IpRanges,
}

impl Space {
    pub(crate) fn new() -> Space {
        let ranges = |texts: &[&str]| texts.iter().map(|text| network(text)).collect::<IpRanges>();
        let mesh = ranges(&["100.64.0.0/10", "fd7a:115c:a1e0::/48"]);
        // Addresses of IPv4 networks in IPv6 clothes: routed, never held.
        let routed = ranges(&["fd7a:115c:a1e0:b1a::/64"]);
        // The resolver, and what ChromeOS keeps for itself: handed to nobody.
        let nobody = ranges(&["100.100.100.100/32", "100.115.92.0/23", "fd7a:115c:a1e0::53/128"]);
        let mut overlay = mesh.clone();
        routed.iter().chain(nobody.iter()).for_each(|range| overlay.subtract(range));
        let mut outside: IpRanges = [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect();
        mesh.iter().for_each(|range| outside.subtract(range));
        outside.extend(routed.iter());
        Space { overlay, outside }
    }
}

/// The addresses that a word spells out; `None` if it does not speak of addresses. One that is not defined spells out
/// none.
pub(crate) fn literal(policy: &Policy, selector: &Selector) -> Option<IpRanges> {
    match selector {
        Selector::Address(prefix) => Some([*prefix].into_iter().collect()),
        Selector::Host(name) => Some(policy.hosts.get(name).copied().into_iter().collect()),
        Selector::IpSet(name) => Some(policy.ip_sets.get(name).cloned().unwrap_or_default()),
        Selector::Autogroup(Autogroup::Internet) => Some(internet()),
        _ => None,
    }
}

/// An address of the set that a person recognises as one of its kind, apart from `taken`.
pub(crate) fn pick(set: &IpRanges, is_ipv4: bool, taken: &[IpAddr]) -> Option<IpAddr> {
    const FAMILIAR: [&str; 6] = [
        "100.64.0.1-100.64.255.254",
        "10.0.0.1-10.255.255.254",
        "192.168.0.1-192.168.255.254",
        "8.8.8.8-8.8.9.255",
        "fd7a:115c:a1e0::1-fd7a:115c:a1e0::ffff:ffff",
        "2606:4700::1-2606:4700::ffff",
    ];
    let familiar = FAMILIAR.iter().filter_map(|text| text.parse::<IpRange>().ok());
    let familiar = familiar.map(|range| set.intersection(&[range].into_iter().collect()));
    let mut choices = familiar.chain([set.clone()]);
    choices.find_map(|choice| {
        choice.iter().filter(|range| range.is_ipv4() == is_ipv4).find_map(|range| free_in(range, taken))
    })
}

/// The lowest address that is not taken.
fn free_in(range: IpRange, taken: &[IpAddr]) -> Option<IpAddr> {
    let mut left: IpRanges = [range].into_iter().collect();
    taken.iter().for_each(|addr| left.subtract((*addr).into()));
    left.iter().next().map(|range| range.first())
}

pub(crate) fn whole() -> IpRanges {
    [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect()
}

fn network(text: &str) -> Prefix {
    text.parse().expect("a constant network")
}
