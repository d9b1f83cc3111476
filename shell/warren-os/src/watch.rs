//! News that links, addresses or routes changed, and the list of this host's addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use crate::ROUTE_PROTOCOL;
use crate::netlink::{Netlink, messages};

/// A non-blocking subscription to the kernel's news; readable when there is some.
pub struct Watch {
    socket: Socket,
    /// The mesh interface, whose own comings and goings are no news.
    ignored_interface: String,
    ignored_index: Option<u32>,
}

// Multicast groups of NETLINK_ROUTE (include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;

impl Watch {
    /// Subscribes; `ignored_interface` is the mesh's own.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open(ignored_interface: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE] {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, ignored_interface: ignored_interface.to_owned(), ignored_index: None })
    }

    /// Reads all waiting news: true when something other than the mesh interface changed.
    ///
    /// # Errors
    /// When the socket is lost. Overrun (more news than room) counts as a change.
    pub fn read(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    for message in messages(&datagram) {
                        if let NetlinkPayload::InnerMessage(news) = message.payload {
                            changed |= self.concerns_us(&news);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn concerns_us(&mut self, news: &RouteNetlinkMessage) -> bool {
        match news {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let is_mesh = name_of(link) == Some(&self.ignored_interface);
                if is_mesh {
                    self.ignored_index = Some(link.header.index);
                }
                !is_mesh
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                Some(address.header.index) != self.ignored_index
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                let into_mesh = route.attributes.iter().any(
                    |attribute| matches!(attribute, RouteAttribute::Oif(index) if Some(*index) == self.ignored_index),
                );
                // Only default routes say where the underlay leads.
                route.header.destination_prefix_length == 0
                    && !into_mesh
                    && u8::from(route.header.protocol) != ROUTE_PROTOCOL
            }
            _ => false,
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// This host's addresses on interfaces that are up, without those of `ignored_interface`, in the kernel's order.
///
/// # Errors
/// When the kernel does not answer.
pub fn interface_addrs(ignored_interface: &str) -> io::Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let mut usable = BTreeMap::new();
    for row in netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(link) = row {
            let is_up = link.header.flags.contains(LinkFlags::Up);
            usable.insert(link.header.index, is_up && name_of(&link).map(String::as_str) != Some(ignored_interface));
        }
    }
    let rows = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(rows
        .iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewAddress(address) if usable.get(&address.header.index) == Some(&true) => {
                own_end(address)
            }
            _ => None,
        })
        .collect())
}

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

fn name_of(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}
