//! Who is who in the map: names to addresses, addresses to owners.

use std::net::{IpAddr, SocketAddr};

use warren_ip::Prefix;
use warren_wire::netmap::NetMap;
use warren_wire::{CapMap, UserProfile};

use crate::Node;

/// Who has an address.
#[derive(Clone, Debug, PartialEq)]
pub struct WhoIs {
    /// The node.
    pub node: warren_wire::Node,
    /// Its owner (made up from the number when the server did not say).
    pub user: UserProfile,
    /// What it may ask of applications here.
    pub caps: CapMap,
}

impl Node {
    /// Who has this address in the mesh; the port is not looked at.
    pub fn whois(&self, addr: SocketAddr) -> Option<WhoIs> {
        let map = &self.profile().map.as_ref()?.map;
        let node = map.find(|node| node.addresses.iter().any(|prefix| prefix.contains(addr.ip())))?;
        let unnamed = || UserProfile { id: node.user, login_name: node.user.to_string(), ..UserProfile::default() };
        Some(WhoIs {
            node: node.clone(),
            user: map.profiles.get(&node.user).cloned().unwrap_or_else(unnamed),
            caps: caps_of(map, addr.ip()),
        })
    }

    /// The addresses of a name in the mesh: full name, short name, or an extra record; either case, dot or no dot at
    /// its end. `None`: not a name of ours.
    pub fn resolve_name(&self, name: &str) -> Option<Vec<IpAddr>> {
        let map = &self.profile().map.as_ref()?.map;
        let name = name.strip_suffix('.').unwrap_or(name);
        let named = map.find(|node| !name.is_empty() && node.full_name().eq_ignore_ascii_case(name));
        let short = || map.find(|node| !name.is_empty() && node.short_name().eq_ignore_ascii_case(name));
        if let Some(node) = named.or_else(short) {
            return Some(node.addresses.iter().map(Prefix::addr).collect());
        }
        let records = map.dns.extra_records.iter().filter(|record| {
            matches!(record.kind.as_str(), "" | "A" | "AAAA")
                && record.name.trim_end_matches('.').eq_ignore_ascii_case(name)
        });
        let addrs: Vec<IpAddr> = records.filter_map(|record| record.value.parse().ok()).collect();
        (!addrs.is_empty()).then_some(addrs)
    }

    /// The local user who may control this node beside its owner and root; empty for none.
    pub fn operator_user(&self) -> &str {
        &self.profile().prefs.operator_user
    }
}

fn caps_of(map: &NetMap, source: IpAddr) -> CapMap {
    let mut caps = CapMap::new();
    let rules = map.filters.values().flatten();
    let matching = rules.filter(|rule| rule.src_ips.iter().any(|text| covers(text, source)));
    for grant in matching.flat_map(|rule| &rule.cap_grant) {
        for name in &grant.caps {
            caps.entry(name.clone()).or_default();
        }
        for (name, values) in &grant.cap_map {
            caps.entry(name.clone()).or_default().extend(values.iter().cloned());
        }
    }
    caps
}

/// Whether a rule's source names this address. What cannot be read covers nothing.
fn covers(text: &str, addr: IpAddr) -> bool {
    if text == "*" || text.parse() == Ok(addr) {
        return true;
    }
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>())
    {
        return first.is_ipv4() == addr.is_ipv4() && last.is_ipv4() == addr.is_ipv4() && first <= addr && addr <= last;
    }
    text.parse::<Prefix>().is_ok_and(|prefix| prefix.contains(addr))
}
