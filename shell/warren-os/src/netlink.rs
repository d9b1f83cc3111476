//! One blocking conversation with the kernel's routing tables: ask, and wait for the answer.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A conversation; one request at a time.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// How often a dump that raced with a change is asked for again.
const DUMP_TRIES: u32 = 5;

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one change and waits for the kernel's verdict.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(|_| true, |_| {})?;
        Ok(())
    }

    /// Asks for a whole table. A table that changed while it was read is read again.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.dump_some(message, |_| true)
    }

    /// The routes of all tables and both families that `is_of_use` takes by their heads. There may be a million others, so
    /// those are not read further.
    pub(crate) fn routes(&mut self, is_of_use: impl Fn(RouteHead) -> bool) -> io::Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let ask = RouteNetlinkMessage::GetRoute(ask);
            let rows = match self.dump_some(&ask, |row| RouteHead::of(row).is_some_and(&is_of_use)) {
                Ok(rows) => rows,
                // A kernel without IPv6 has no such table.
                Err(_) if family == AddressFamily::Inet6 => continue,
                Err(error) => return Err(error),
            };
            found.extend(rows.into_iter().filter_map(|row| match row {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// As [`Netlink::dump`], without the rows whose bytes `is_of_use` does not take.
    fn dump_some(
        &mut self,
        message: &RouteNetlinkMessage,
        is_of_use: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut rows = Vec::new();
            if self.receive(&is_of_use, |row| rows.push(row))? == Read::Whole {
                return Ok(rows);
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// Reads until the answer to the last request ends, by "done" or by an acknowledgement.
    fn receive(
        &mut self,
        is_of_use: impl Fn(&[u8]) -> bool,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<Read> {
        let mut result = Read::Whole;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for bytes in pieces(&datagram) {
                let Ok(head) = NetlinkBuffer::new_checked(bytes) else { continue };
                if head.sequence_number() != self.sequence {
                    continue;
                }
                if head.flags() & NLM_F_DUMP_INTR != 0 {
                    result = Read::Interrupted;
                }
                if head.message_type() >= FIRST_ROW && !is_of_use(head.payload()) {
                    continue;
                }
                let Ok(message) = NetlinkMessage::deserialize(bytes) else { continue };
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(result),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(result),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        };
                    }
                    NetlinkPayload::InnerMessage(row) => each(row),
                    _ => {}
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Read {
    Whole,
    /// The table changed meanwhile; rows may be missing.
    Interrupted,
}

/// What can be told of a route without reading its attributes (`struct rtmsg`, include/uapi/linux/rtnetlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteHead {
    /// Of its destination, in bits.
    pub(crate) prefix_length: u8,
    /// Who made it.
    pub(crate) protocol: u8,
}

impl RouteHead {
    fn of(row: &[u8]) -> Option<Self> {
        let &[_family, prefix_length, _source, _service, _table, protocol, ..] = row else { return None };
        Some(Self { prefix_length, protocol })
    }
}

/// The messages in one datagram; one that this library cannot read is left out.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    pieces(datagram).filter_map(|bytes| NetlinkMessage::deserialize(bytes).ok())
}

/// The bytes of each message in one datagram.
fn pieces(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let piece = rest.get(..length).filter(|piece| piece.len() >= HEADER_BYTES)?;
        // Messages begin at multiples of four (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(piece)
    })
}

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;

/// Messages of a lower type are about the conversation itself (`NLMSG_MIN_TYPE`).
const FIRST_ROW: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_route_is_read_where_the_kernel_writes_it() {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = 24;
        route.header.source_prefix_length = 1;
        route.header.tos = 2;
        route.header.table = 3;
        route.header.protocol = 87.into();
        let mut packet = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let twice = [bytes.as_slice(), &bytes, &bytes[..20]].concat();
        let heads: Vec<_> = pieces(&twice).map(|piece| RouteHead::of(&piece[HEADER_BYTES..])).collect();
        assert_eq!(heads, [Some(RouteHead { prefix_length: 24, protocol: 87 }); 2]);
        assert_eq!(messages(&twice).count(), 2);
    }
}
