//! News that links, addresses or routes changed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use crate::ROUTE_PROTOCOL;
use crate::netlink::messages;
use crate::uplinks::{interfaces_of, is_default};

/// A non-blocking subscription to the kernel's news; readable when there is some.
pub struct Watch {
    socket: Socket,
    /// The mesh interface.
    own_interface: String,
    own_index: Option<u32>,
}

/// What changed, in few words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// A link, an address or a default route other than the mesh interface's.
    pub elsewhere: bool,
    /// The mesh interface was taken away or set down, or lost an address or a route of ours: by whomever.
    pub own_loss: bool,
}

// Multicast groups of NETLINK_ROUTE (include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;

impl Watch {
    /// Subscribes; `own_interface` is the mesh's.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open(own_interface: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE] {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, own_interface: own_interface.to_owned(), own_index: None })
    }

    /// Reads all waiting news.
    ///
    /// # Errors
    /// When the socket is lost. Overrun (more news than room) counts as a change of everything.
    pub fn read(&mut self) -> io::Result<News> {
        let mut all = News::default();
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    for message in messages(&datagram) {
                        if let NetlinkPayload::InnerMessage(news) = message.payload {
                            self.note(&news, &mut all);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    all = News { elsewhere: true, own_loss: true };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, news: &RouteNetlinkMessage, all: &mut News) {
        match news {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                if name_of(link) == Some(&self.own_interface) {
                    self.own_index = Some(link.header.index);
                    let stands = matches!(news, RouteNetlinkMessage::NewLink(_));
                    all.own_loss |= !(stands && link.header.flags.contains(LinkFlags::Up));
                } else {
                    all.elsewhere = true;
                }
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                if Some(address.header.index) == self.own_index {
                    all.own_loss |= matches!(news, RouteNetlinkMessage::DelAddress(_));
                } else {
                    all.elsewhere = true;
                }
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                let is_ours = u8::from(route.header.protocol) == ROUTE_PROTOCOL;
                let into_mesh = self.own_index.is_some_and(|own| interfaces_of(route).contains(&own));
                all.own_loss |= is_ours && into_mesh && matches!(news, RouteNetlinkMessage::DelRoute(_));
                // Only default routes say where the underlay leads.
                all.elsewhere |= is_default(route) && !into_mesh && !is_ours;
            }
            _ => {}
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
