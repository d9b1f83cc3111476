//! One blocking conversation with the kernel's routing tables: ask, and wait for the answer.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
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
        self.receive(|_| {})?;
        Ok(())
    }

    /// Asks for a whole table. A table that changed while it was read is read again.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.dump_some(message, Some)
    }

    /// As [`Netlink::dump`], keeping of each row what `pick` takes: some tables are long.
    pub(crate) fn dump_some<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut rows = Vec::new();
            if self.receive(|row| rows.extend(pick(row)))? == Read::Whole {
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
    fn receive(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<Read> {
        let mut result = Read::Whole;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages(&datagram) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    result = Read::Interrupted;
                }
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

/// The messages in one datagram; one that this library cannot read is left out.
pub(crate) fn messages(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER_BYTES || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            found.push(message);
        }
        // Messages begin at multiples of four (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
