//! Who talks to whom.

use std::fmt;
use std::net::SocketAddr;

use crate::packet::{PacketView, Protocol};

/// Protocol and both ends, in the direction of one packet. Ports are 0 where the protocol has none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub protocol: Protocol,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

impl Flow {
    pub fn of(packet: &PacketView<'_>) -> Flow {
        Flow {
            protocol: packet.protocol(),
            src: SocketAddr::new(packet.src(), packet.src_port()),
            dst: SocketAddr::new(packet.dst(), packet.dst_port()),
        }
    }

    /// The same conversation seen from the other end.
    pub fn reversed(self) -> Flow {
        Flow { protocol: self.protocol, src: self.dst, dst: self.src }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.src, self.dst)
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
