//! News that links, addresses or routes changed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteAttribute;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use crate::ROUTE_PROTOCOL;
use crate::netlink::messages;
use crate::uplinks::is_default;

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
                is_default(route) && !into_mesh && u8::from(route.header.protocol) != ROUTE_PROTOCOL
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

pub(crate) fn name_of(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}
