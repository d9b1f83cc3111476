//! One packet, as far as rules tell packets apart.

use std::fmt;
use std::net::IpAddr;

use warren_ip::Protocol;

/// A packet that opens a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    pub src: IpAddr,
    /// Of the same family as `src`.
    pub dst: IpAddr,
    pub protocol: Protocol,
    /// Of the destination; 0 and without meaning where the protocol has no ports.
    pub port: u16,
}

/// `100.64.0.1 -> 100.64.0.2 tcp 22`.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.src, self.dst, self.protocol)?;
        if self.protocol.has_ports() {
            write!(f, " {}", self.port)?;
        }
        Ok(())
    }
}
