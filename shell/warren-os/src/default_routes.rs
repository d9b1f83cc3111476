//! Where the underlay leads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

/// Where the underlay leads in one family: the default route that the kernel prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Whether it is IPv6's.
    pub is_ipv6: bool,
    /// The interface's index.
    pub interface: u32,
    /// The next router; `None` on a link without one.
    pub gateway: Option<IpAddr>,
}

/// Those of the main table among `routes`, the preferred one of each family, IPv4's first; without routes into `mesh`.
pub(crate) fn preferred(routes: &[RouteMessage], mesh: Option<u32>) -> Vec<DefaultRoute> {
    let mut best: BTreeMap<bool, (u32, DefaultRoute)> = BTreeMap::new();
    for (metric, found) in routes.iter().filter_map(default_route) {
        let is_preferred = best.get(&found.is_ipv6).is_none_or(|(known, _)| metric < *known);
        if Some(found.interface) != mesh && is_preferred {
            best.insert(found.is_ipv6, (metric, found));
        }
    }
    best.into_values().map(|(_, route)| route).collect()
}

/// Its metric and the route, if this row is a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, DefaultRoute)> {
    let header = &route.header;
    let is_usable = header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast;
    if !is_usable {
        return None;
    }
    let (mut metric, mut interface, mut gateway) = (0, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(addr)) => gateway = Some(IpAddr::from(*addr)),
            RouteAttribute::Gateway(RouteAddress::Inet6(addr)) => gateway = Some(IpAddr::from(*addr)),
            _ => {}
        }
    }
    let is_ipv6 = header.address_family == AddressFamily::Inet6;
    Some((metric, DefaultRoute { is_ipv6, interface: interface?, gateway }))
}
