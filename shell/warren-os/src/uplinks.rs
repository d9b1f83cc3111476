//! Which of this host's addresses say where it is in the world, and by which ways it leads out.
//!
//! A host has addresses that are about itself only: containers and virtual machines bring bridges and cables of their own,
//! and come and go all day. They lead nowhere that a peer could come from, so their changes are not changes of network.
//!
//! An interface is an **uplink** when it is up, is not the mesh's own, and one of these holds:
//!
//! - a default route leaves by it, whatever it is made of (a container's own `eth0` is a cable to its host, and all it has);
//! - it is hardware (the kernel names no kind of virtual link for it), or a way to use hardware: VLAN, bond, team, MACVLAN,
//!   IPVLAN, MACsec, HSR, a point-to-point or mobile line;
//! - it is a bridge or the like with one of those among its ports.
//!
//! What is left out are bridges of guests alone, their cables, dummies and other networks' tunnels. A host without any
//! uplink is an island, and all of its interfaces count. Link-local addresses never do; loopback ones do on an island.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use warren_ip::Prefix;

use crate::ROUTE_PROTOCOL;
use crate::default_routes::{DefaultRoute, preferred};
use crate::netlink::Netlink;
use crate::watch::name_of;

/// Where this host is in the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Its addresses on its uplinks (see above).
    pub addrs: BTreeSet<IpAddr>,
    /// The default routes of the main table, the preferred one of each family, IPv4's first.
    pub routes: Vec<DefaultRoute>,
}

impl Uplinks {
    /// As the kernel says it is, without the addresses of `ignored_interface` and routes into it. Tables of routes are read
    /// once: they may be long.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn look(ignored_interface: &str) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let (mut links, mut ignored) = (BTreeMap::new(), None);
        for row in netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            let RouteNetlinkMessage::NewLink(link) = row else { continue };
            if name_of(&link).map(String::as_str) == Some(ignored_interface) {
                ignored = Some(link.header.index);
            } else if link.header.flags.contains(LinkFlags::Up) {
                links.insert(link.header.index, link);
            }
        }
        let routes = default_routes(&mut netlink)?;
        let addrs = addrs_on_uplinks(&mut netlink, &links, &interfaces_of_all(&routes))?;
        Ok(Self { addrs, routes: preferred(&routes, ignored) })
    }
}

fn addrs_on_uplinks(
    netlink: &mut Netlink,
    links: &BTreeMap<u32, LinkMessage>,
    default: &BTreeSet<u32>,
) -> io::Result<BTreeSet<IpAddr>> {
    let mut addrs = Vec::new();
    for row in netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(row) = row
            && links.contains_key(&row.header.index)
            && let Some(addr) = own_end(&row)
            && !is_link_local(addr)
        {
            addrs.push((row.header.index, addr));
        }
    }
    let uplinks = uplinks(links, default);
    let found: BTreeSet<IpAddr> = addrs
        .iter()
        .filter(|(index, addr)| uplinks.contains(index) && !addr.is_loopback())
        .map(|(_, addr)| *addr)
        .collect();
    Ok(if found.is_empty() { addrs.into_iter().map(|(_, addr)| addr).collect() } else { found })
}

/// The interfaces by which a default route leaves and that have no address in any of `ranges`; `own_interface` apart.
pub(crate) fn uplinks_outside(ranges: &[Prefix], own_interface: &str) -> io::Result<BTreeSet<u32>> {
    let mut netlink = Netlink::open()?;
    let mut found = interfaces_of_all(&default_routes(&mut netlink)?);
    for row in netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(row) = row
            && own_end(&row).is_some_and(|addr| ranges.iter().any(|range| range.contains(addr)))
        {
            found.remove(&row.header.index);
        }
    }
    for row in netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(link) = row
            && name_of(&link).map(String::as_str) == Some(own_interface)
        {
            found.remove(&link.header.index);
        }
    }
    Ok(found)
}

/// Whether a route is for everything, or for one half of it: some tunnels put two halves over a default route.
pub(crate) fn is_default(route: &RouteMessage) -> bool {
    is_default_length(route.header.destination_prefix_length)
}

fn is_default_length(bits: u8) -> bool {
    bits <= 1
}

fn uplinks(links: &BTreeMap<u32, LinkMessage>, default: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut found = default.clone();
    for (index, link) in links {
        if is_hardware(link) {
            found.insert(*index);
            found.extend(link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Controller(bridge) => Some(*bridge),
                _ => None,
            }));
        }
    }
    found
}

/// Whether a link is hardware, or one way to use it.
fn is_hardware(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
        _ => None,
    });
    let kind = infos.unwrap_or_default().iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        None => true,
        Some(InfoKind::Other(name)) => name == "ppp",
        Some(kind) => matches!(
            kind,
            InfoKind::Vlan
                | InfoKind::Bond
                | InfoKind::Team
                | InfoKind::MacVlan
                | InfoKind::IpVlan
                | InfoKind::MacSec
                | InfoKind::Hsr
                | InfoKind::Wwan
        ),
    }
}

/// Default routes of others than us, of any table.
fn default_routes(netlink: &mut Netlink) -> io::Result<Vec<RouteMessage>> {
    netlink.routes(|head| is_default_length(head.prefix_length) && head.protocol != ROUTE_PROTOCOL)
}

fn interfaces_of_all(routes: &[RouteMessage]) -> BTreeSet<u32> {
    routes.iter().flat_map(interfaces_of).collect()
}

/// By which interfaces a route leaves.
pub(crate) fn interfaces_of(route: &RouteMessage) -> Vec<u32> {
    let each = route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    each.collect()
}

/// "Local" is this end of a point-to-point link; elsewhere IPv6 rows have only "address".
fn own_end(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => return Some(*addr),
            AddressAttribute::Address(addr) => found = Some(*addr),
            _ => {}
        }
    }
    found
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: Option<InfoKind>, bridge: Option<u32>) -> (u32, LinkMessage) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link.attributes.extend(bridge.map(LinkAttribute::Controller));
        (index, link)
    }

    #[test]
    fn hardware_what_uses_it_and_bridges_with_it_are_uplinks_and_what_is_for_guests_is_not() {
        let links = [
            link(1, None, None),
            link(2, Some(InfoKind::Vlan), Some(5)),
            link(3, Some(InfoKind::Other("ppp".into())), None),
            link(4, Some(InfoKind::Bridge), None),
            link(5, Some(InfoKind::Bridge), None),
            link(6, Some(InfoKind::Veth), Some(4)),
            link(7, Some(InfoKind::Veth), None),
            link(8, Some(InfoKind::Wireguard), None),
            link(9, Some(InfoKind::Dummy), None),
        ];
        let found = uplinks(&BTreeMap::from(links), &BTreeSet::from([7]));
        assert_eq!(found, BTreeSet::from([1, 2, 3, 5, 7]));
    }
}
