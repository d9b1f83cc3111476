//! Where the underlay leads.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::ROUTE_PROTOCOL;
use crate::netlink::Netlink;
use crate::watch::name_of;

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

/// The default routes of the main table, the preferred one of each family, IPv4's first; without routes into the mesh.
///
/// # Errors
/// When the kernel does not answer.
pub fn default_routes(ignored_interface: &str) -> io::Result<Vec<DefaultRoute>> {
    let mut netlink = Netlink::open()?;
    let mesh = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?.iter().find_map(|row| match row {
        RouteNetlinkMessage::NewLink(link) if name_of(link).is_some_and(|name| name == ignored_interface) => {
            Some(link.header.index)
        }
        _ => None,
    });
    let mut best: BTreeMap<bool, (u32, DefaultRoute)> = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let pick = |row| match row {
            RouteNetlinkMessage::NewRoute(route) => default_route(&route),
            _ => None,
        };
        for (metric, found) in netlink.dump_some(&RouteNetlinkMessage::GetRoute(question), pick)? {
            let is_preferred = best.get(&found.is_ipv6).is_none_or(|(known, _)| metric < *known);
            if Some(found.interface) != mesh && is_preferred {
                best.insert(found.is_ipv6, (metric, found));
            }
        }
    }
    Ok(best.into_values().map(|(_, route)| route).collect())
}

/// Its metric and the route, if this row is a default route of the main table and not ours.
fn default_route(route: &RouteMessage) -> Option<(u32, DefaultRoute)> {
    let header = &route.header;
    let is_usable = header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && u8::from(header.protocol) != ROUTE_PROTOCOL;
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
