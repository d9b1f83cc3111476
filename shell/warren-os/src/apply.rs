//! Making the host as an [`OsConfig`] says, whole and idempotent, and undoing it.
//!
//! ```text
//! apply:  find our interface ─▶ mtu, up ─▶ addresses: add missing, remove others ─▶ routes of ROUTE_PROTOCOL: add missing, remove others
//! remove: delete the interface (its addresses and routes go with it) ─▶ delete stray routes of ROUTE_PROTOCOL on it
//! ```
//!
//! Somebody else's route to the same prefix is never replaced: it is reported in [`Applied::skipped`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use warren_ip::Prefix;

use crate::netlink::Netlink;
use crate::{ALIAS, OsConfig, ROUTE_PROTOCOL};

/// The host's network configuration, as far as it is ours.
pub struct Host {
    netlink: Netlink,
}

/// What [`Host::apply`] could not do without harm to others, in words for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub skipped: Vec<String>,
}

/// Why the host could not be made as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("talk to the kernel's routing tables")]
    Netlink(#[source] io::Error),
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("interface {0} belongs to somebody else")]
    Foreign(String),
    #[error("{what} on {interface}")]
    Change {
        what: &'static str,
        interface: String,
        #[source]
        source: io::Error,
    },
}

/// The kernel's answer to "exists already" and to "no such family here".
const EXISTS: i32 = libc::EEXIST;

/// A list that goes on for ever would hide the reason a person looks for.
const MOST_SKIPPED: usize = 20;

struct Link {
    index: u32,
    mtu: u32,
    up: bool,
    ours: bool,
}

impl Host {
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// Whether an interface of this name exists, and whether it is ours.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn interface(&mut self, name: &str) -> io::Result<Option<bool>> {
        Ok(self.find(name)?.map(|link| link.ours))
    }

    /// Marks a new interface as ours, sets its MTU and keeps the kernel's own IPv6 chatter off it.
    ///
    /// # Errors
    /// [`ApplyError::NoInterface`] when it does not exist.
    pub fn claim(&mut self, name: &str, mtu: u16) -> Result<(), ApplyError> {
        let link = self.find(name).map_err(ApplyError::Netlink)?;
        let link = link.ok_or_else(|| ApplyError::NoInterface(name.to_owned()))?;
        // A link-local address would only send router solicitations and multicast reports into the mesh.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        let mut message = link_message(link.index);
        message.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(u32::from(mtu)));
        self.change("name and size", name, RouteNetlinkMessage::SetLink(message), 0)?;
        self.fit_bursts(link.index, mtu);
        Ok(())
    }

    /// Asks the host for TCP bursts that fill one segmented UDP send and no second one: an unlimited burst is a little
    /// longer, and would cost every send twice. A kernel that refuses gives the longer ones.
    fn fit_bursts(&mut self, index: u32, mtu: u16) {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::GsoMaxSegs(segments_per_send(mtu)));
        let _ = self.netlink.change(RouteNetlinkMessage::SetLink(message), 0);
    }

    /// Makes the host as `config` says. Applying the same configuration twice changes nothing.
    ///
    /// # Errors
    /// The first change that the kernel refused; changes before it stand, and applying again goes on from there.
    pub fn apply(&mut self, config: &OsConfig) -> Result<Applied, ApplyError> {
        let name = &config.interface;
        let link = self.find(name).map_err(ApplyError::Netlink)?;
        let link = link.ok_or_else(|| ApplyError::NoInterface(name.clone()))?;
        if !link.ours {
            return Err(ApplyError::Foreign(name.clone()));
        }
        let mut applied = Applied::default();
        self.set_addrs(&link, config, &mut applied)?;
        self.set_link(&link, config)?;
        self.set_routes(&link, config, &mut applied)?;
        Ok(applied)
    }

    /// Removes our interface and every route of ours that led into it. Absent is fine.
    ///
    /// # Errors
    /// [`ApplyError::Foreign`] when the interface is somebody else's: it stays.
    pub fn remove(&mut self, name: &str) -> Result<(), ApplyError> {
        let Some(link) = self.find(name).map_err(ApplyError::Netlink)? else { return Ok(()) };
        if !link.ours {
            return Err(ApplyError::Foreign(name.to_owned()));
        }
        let removal = RouteNetlinkMessage::DelLink(link_message(link.index));
        match self.netlink.change(removal, 0) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                Err(ApplyError::Change { what: "removal", interface: name.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// The routes of ours that stand now, for a look from outside.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn our_routes(&mut self) -> io::Result<BTreeSet<Prefix>> {
        Ok(self.routes()?.into_iter().map(|(prefix, _)| prefix).collect())
    }

    fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let rows = self.netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(rows.into_iter().find_map(|row| match row {
            RouteNetlinkMessage::NewLink(message) => link_named(&message, name),
            _ => None,
        }))
    }

    fn set_link(&mut self, link: &Link, config: &OsConfig) -> Result<(), ApplyError> {
        if link.mtu == u32::from(config.mtu) && link.up == config.up {
            return Ok(());
        }
        let mut message = link_message(link.index);
        message.header.flags = if config.up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(u32::from(config.mtu)));
        self.change("state and size", &config.interface, RouteNetlinkMessage::SetLink(message), 0)?;
        self.fit_bursts(link.index, config.mtu);
        Ok(())
    }

    fn set_addrs(&mut self, link: &Link, config: &OsConfig, applied: &mut Applied) -> Result<(), ApplyError> {
        let wanted: BTreeSet<Prefix> = config.addrs.iter().map(|&addr| Prefix::host(addr)).collect();
        let have = self.addrs(link.index).map_err(ApplyError::Netlink)?;
        for extra in have.difference(&wanted) {
            let message = RouteNetlinkMessage::DelAddress(address_message(link.index, extra));
            self.change("removal of an address", &config.interface, message, 0)?;
        }
        for missing in wanted.difference(&have) {
            let message = RouteNetlinkMessage::NewAddress(address_message(link.index, missing));
            match self.netlink.change(message, NLM_F_CREATE | NLM_F_REPLACE) {
                Ok(()) => {}
                // IPv6 switched off on this host or interface: the other family still works.
                Err(error) if missing.addr().is_ipv6() => applied.skip(format!("address {}: {error}", missing.addr())),
                Err(source) => {
                    let interface = config.interface.clone();
                    return Err(ApplyError::Change { what: "new address", interface, source });
                }
            }
        }
        Ok(())
    }

    fn set_routes(&mut self, link: &Link, config: &OsConfig, applied: &mut Applied) -> Result<(), ApplyError> {
        let wanted: BTreeSet<Prefix> =
            if config.up { config.routes.iter().copied().collect() } else { BTreeSet::new() };
        let have = self.routes().map_err(ApplyError::Netlink)?;
        let mut standing = BTreeSet::new();
        for (prefix, index) in have {
            if index != link.index {
                continue;
            }
            if wanted.contains(&prefix) {
                standing.insert(prefix);
                continue;
            }
            let message = RouteNetlinkMessage::DelRoute(route_message(link.index, &prefix));
            match self.netlink.change(message, 0) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    let interface = config.interface.clone();
                    return Err(ApplyError::Change { what: "removal of a route", interface, source: error });
                }
                _ => {}
            }
        }
        for prefix in wanted.difference(&standing) {
            let message = RouteNetlinkMessage::NewRoute(route_message(link.index, prefix));
            match self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(EXISTS) => {
                    applied.skip(format!("route {prefix}: somebody else has one"));
                }
                Err(error) if prefix.addr().is_ipv6() => applied.skip(format!("route {prefix}: {error}")),
                Err(source) => {
                    let interface = config.interface.clone();
                    return Err(ApplyError::Change { what: "new route", interface, source });
                }
            }
        }
        Ok(())
    }

    fn addrs(&mut self, index: u32) -> io::Result<BTreeSet<Prefix>> {
        let rows = self.netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| match row {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => address_of(&message),
                _ => None,
            })
            .collect())
    }

    /// Every route that carries our protocol number, with the interface it leads into.
    fn routes(&mut self) -> io::Result<Vec<(Prefix, u32)>> {
        let ours = self.netlink.routes(|head| head.protocol == ROUTE_PROTOCOL)?;
        Ok(ours.iter().filter_map(our_route).collect())
    }

    fn change(
        &mut self,
        what: &'static str,
        interface: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), ApplyError> {
        let change = |source| ApplyError::Change { what, interface: interface.to_owned(), source };
        self.netlink.change(message, flags).map_err(change)
    }
}

impl Applied {
    fn skip(&mut self, what: String) {
        if self.skipped.len() < MOST_SKIPPED {
            self.skipped.push(what);
        }
    }
}

fn link_named(message: &LinkMessage, name: &str) -> Option<Link> {
    let mut link =
        Link { index: message.header.index, mtu: 0, up: message.header.flags.contains(LinkFlags::Up), ours: false };
    let mut is_it = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => is_it = found == name,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.ours = alias == ALIAS,
            _ => {}
        }
    }
    is_it.then_some(link)
}

/// The address in a row, unless it is the link-local one that the kernel made.
fn address_of(message: &AddressMessage) -> Option<Prefix> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface "local" is this end; otherwise both say the same, or only "address" does.
            AddressAttribute::Local(addr) => return Some(Prefix::host(*addr)),
            AddressAttribute::Address(addr) => found = Some(Prefix::host(*addr)),
            _ => {}
        }
    }
    found
}

/// Where a route goes to, and into which interface.
fn our_route(message: &RouteMessage) -> Option<(Prefix, u32)> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut destination, mut index) = (unspecified, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => destination = IpAddr::V4(*addr),
            RouteAttribute::Destination(RouteAddress::Inet6(addr)) => destination = IpAddr::V6(*addr),
            RouteAttribute::Oif(oif) => index = *oif,
            _ => {}
        }
    }
    Some((Prefix::new(destination, message.header.destination_prefix_length)?, index))
}

/// Packets of `mtu` bytes that fit one UDP datagram train, each 32 bytes longer outside: `UDP_MAX_SEGMENTS` of all kernels
/// that know GSO, and the longest UDP payload over IPv4.
fn segments_per_send(mtu: u16) -> u32 {
    (65_507 / (u32::from(mtu) + 32)).clamp(1, 64)
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn family_of(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, prefix: &Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(prefix.addr());
    message.header.prefix_len = prefix.bits();
    message.header.index = index;
    if prefix.addr().is_ipv6() {
        // The control server gives each address once; probing for duplicates would only delay its use.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Local(prefix.addr()));
    message.attributes.push(AddressAttribute::Address(prefix.addr()));
    message
}

fn route_message(index: u32, prefix: &Prefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(prefix.addr()),
        destination_prefix_length: prefix.bits(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(ROUTE_PROTOCOL),
        scope: if prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}
