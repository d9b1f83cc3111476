//! A checked look at one IP packet.
//!
//! ```text
//! IPv4  |ver ihl|tos|total len  |id         |flags frag |ttl|proto|checksum|src 4   |dst 4   |options…
//! IPv6  |ver class flow label   |payload len|next|hops|src 16               |dst 16          |extensions…
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const HOP_BY_HOP: Protocol = Protocol(0);
    pub const ICMP: Protocol = Protocol(1);
    pub const IGMP: Protocol = Protocol(2);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);
    /// Messages between nodes themselves, directly after the IP header.
    pub const TSMP: Protocol = Protocol(99);
    pub const SCTP: Protocol = Protocol(132);

    /// TCP, UDP and SCTP.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }

    /// ICMP of either family.
    pub fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Protocol::ICMP => "icmp",
            Protocol::IGMP => "igmp",
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::ICMPV6 => "ipv6-icmp",
            Protocol::TSMP => "tsmp",
            Protocol::SCTP => "sctp",
            Protocol(number) => return write!(f, "{number}"),
        })
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The flag byte of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;

    pub fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// SYN without ACK: the first segment of a connection.
    pub fn opens(self) -> bool {
        self.0 & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN
    }
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    Whole,
    /// Carries the transport header.
    First,
    /// Carries none; ports are 0.
    Later,
}

/// Why bytes are not an IP packet that we can judge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    #[error("not an IP packet")]
    Version,
    #[error("the IP header is cut short or contradicts itself")]
    IpHeader,
    #[error("shorter than its IP header says")]
    Truncated,
    #[error("too many or broken IPv6 extension headers")]
    Extensions,
    #[error("the transport header is cut short or contradicts itself")]
    Transport,
    /// A later fragment that begins inside what can be a transport header, so that it could rewrite ports or flags that
    /// were judged in the first (RFC 1858 §4).
    #[error("a fragment overlaps the transport header")]
    TinyFragment,
}

/// One IP packet whose headers are known to be there.
///
/// Bytes after the length that the IP header states are cut off: transports pad.
#[derive(Clone, Copy, Debug)]
pub struct PacketView<'a> {
    bytes: &'a [u8],
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    fragment: Fragment,
    transport: u16,
    src_port: u16,
    dst_port: u16,
}

/// IPv6 packets with more extension headers than this are nobody's honest traffic.
const MAX_EXTENSIONS: usize = 8;

/// Fragments must begin after the longest IPv4 header's worth of TCP: 60 bytes of TCP header plus the 20 that a
/// rewritten one could start behind.
const MIN_LATER_OFFSET: usize = 80;

impl<'a> PacketView<'a> {
    /// Checks IP and transport headers once; nothing below can fail or panic afterwards. Checksums are not verified.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<PacketView<'a>, Malformed> {
        let mut view = match bytes.first().ok_or(Malformed::Version)? >> 4 {
            4 => parse_v4(bytes)?,
            6 => parse_v6(bytes)?,
            _ => return Err(Malformed::Version),
        };
        if view.fragment != Fragment::Later {
            view.parse_transport()?;
        }
        Ok(view)
    }

    fn parse_transport(&mut self) -> Result<(), Malformed> {
        let message = self.transport_message();
        let least = match self.protocol {
            Protocol::TCP => 20,
            Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => 8,
            Protocol::SCTP => 12,
            _ => 0,
        };
        if message.len() < least {
            return Err(Malformed::Transport);
        }
        if self.protocol == Protocol::TCP {
            let header = usize::from(message[12] >> 4) * 4;
            if header < 20 || header > message.len() {
                return Err(Malformed::Transport);
            }
        }
        if self.protocol.has_ports() {
            let (src, dst) = (be16(message, 0), be16(message, 2));
            self.src_port = src;
            self.dst_port = dst;
        }
        Ok(())
    }

    /// The whole packet, trimmed to the length that its header states.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn src(&self) -> IpAddr {
        self.src
    }

    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// The transport protocol, behind any IPv6 extension headers.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// 0 where the protocol has no ports or the packet is a later fragment.
    pub fn src_port(&self) -> u16 {
        self.src_port
    }

    /// 0 where the protocol has no ports or the packet is a later fragment.
    pub fn dst_port(&self) -> u16 {
        self.dst_port
    }

    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// A fragment other than the first.
    pub fn is_fragment(&self) -> bool {
        self.fragment == Fragment::Later
    }

    /// Length of the IP header with options or extension headers: where the transport header begins.
    pub fn header_len(&self) -> usize {
        usize::from(self.transport)
    }

    /// The transport header and everything behind it.
    pub fn transport_message(&self) -> &'a [u8] {
        &self.bytes[self.header_len()..]
    }

    /// What the transport carries: behind the TCP, UDP or ICMP header, else behind the IP header.
    pub fn payload(&self) -> &'a [u8] {
        let message = self.transport_message();
        if self.is_fragment() {
            return message;
        }
        let header = match self.protocol {
            Protocol::TCP => usize::from(message[12] >> 4) * 4,
            Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => 8,
            Protocol::SCTP => 12,
            _ => 0,
        };
        &message[header..]
    }

    /// No flags where the packet is not TCP or is a later fragment.
    pub fn tcp_flags(&self) -> TcpFlags {
        if self.protocol == Protocol::TCP && !self.is_fragment() {
            TcpFlags(self.transport_message()[13])
        } else {
            TcpFlags(0)
        }
    }

    /// ICMP type and code, of either family.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        (self.protocol.is_icmp() && !self.is_fragment())
            .then(|| (self.transport_message()[0], self.transport_message()[1]))
    }

    /// An echo request's identifier and sequence number.
    pub fn echo_request(&self) -> Option<(u16, u16)> {
        self.echo(8, 128)
    }

    /// An echo reply's identifier and sequence number.
    pub fn echo_reply(&self) -> Option<(u16, u16)> {
        self.echo(0, 129)
    }

    fn echo(&self, v4_type: u8, v6_type: u8) -> Option<(u16, u16)> {
        let wanted = if self.protocol == Protocol::ICMP { v4_type } else { v6_type };
        let message = self.transport_message();
        (self.icmp()? == (wanted, 0)).then(|| (be16(message, 4), be16(message, 6)))
    }

    /// ICMP that reports on a packet sent before: unreachable, time exceeded, parameter problem, too big, quench.
    pub fn is_icmp_error(&self) -> bool {
        match (self.protocol, self.icmp()) {
            (Protocol::ICMP, Some((kind, _))) => matches!(kind, 3 | 4 | 11 | 12),
            (Protocol::ICMPV6, Some((kind, _))) => matches!(kind, 1..=4),
            _ => false,
        }
    }

    /// Whether IPv4 header and TCP, UDP or ICMP checksums are right. A UDP checksum of 0 over IPv4 is "none", not
    /// right. Other protocols and fragments have nothing to check beyond the IPv4 header.
    pub fn checksums_are_valid(&self) -> bool {
        if self.src.is_ipv4() && checksum::internet(&self.bytes[..self.header_len()]) != 0 {
            return false;
        }
        let message = self.transport_message();
        match (self.fragment, self.protocol) {
            (Fragment::Whole, Protocol::UDP) if be16(message, 6) == 0 => false,
            (Fragment::Whole, Protocol::TCP | Protocol::UDP | Protocol::ICMPV6) => {
                checksum::transport_is_valid(self.src, self.dst, self.protocol, message)
            }
            (Fragment::Whole, Protocol::ICMP) => checksum::internet(message) == 0,
            _ => true,
        }
    }
}

fn parse_v4(bytes: &[u8]) -> Result<PacketView<'_>, Malformed> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed::IpHeader)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(be16(header, 2));
    if header_len < 20 || total_len < header_len {
        return Err(Malformed::IpHeader);
    }
    let bytes = bytes.get(..total_len).ok_or(Malformed::Truncated)?;
    let fragment_field = be16(header, 6);
    let fragment = fragment_of(usize::from(fragment_field & 0x1fff) * 8, fragment_field & 0x2000 != 0)?;
    Ok(PacketView {
        bytes,
        src: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        dst: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        protocol: Protocol(header[9]),
        fragment,
        transport: header_len as u16,
        src_port: 0,
        dst_port: 0,
    })
}

fn parse_v6(bytes: &[u8]) -> Result<PacketView<'_>, Malformed> {
    let header: &[u8; 40] = bytes.first_chunk().ok_or(Malformed::IpHeader)?;
    let total_len = 40 + usize::from(be16(header, 4));
    let bytes = bytes.get(..total_len).ok_or(Malformed::Truncated)?;
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let (protocol, transport, fragment) = walk_extensions(bytes, header[6])?;
    Ok(PacketView {
        bytes,
        src: address(8),
        dst: address(24),
        protocol,
        fragment,
        transport: u16::try_from(transport).map_err(|_| Malformed::Extensions)?,
        src_port: 0,
        dst_port: 0,
    })
}

/// The final protocol, where it begins, and what the fragment header said (RFC 8200 §4).
fn walk_extensions(bytes: &[u8], first: u8) -> Result<(Protocol, usize, Fragment), Malformed> {
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let mut next = first;
    let mut at = 40;
    let mut fragment = Fragment::Whole;
    for _ in 0..=MAX_EXTENSIONS {
        let length = match next {
            0 | ROUTING | DESTINATION => {
                let extension = bytes.get(at..at + 2).ok_or(Malformed::Extensions)?;
                next = extension[0];
                8 + usize::from(extension[1]) * 8
            }
            FRAGMENT => {
                let extension = bytes.get(at..at + 8).ok_or(Malformed::Extensions)?;
                next = extension[0];
                let field = be16(extension, 2);
                fragment = fragment_of(usize::from(field & 0xfff8), field & 1 != 0)?;
                8
            }
            _ => return Ok((Protocol(next), at, fragment)),
        };
        at += length;
        if at > bytes.len() {
            return Err(Malformed::Extensions);
        }
        if fragment == Fragment::Later {
            return Ok((Protocol(next), at, fragment));
        }
    }
    Err(Malformed::Extensions)
}

fn fragment_of(offset: usize, more: bool) -> Result<Fragment, Malformed> {
    match (offset, more) {
        (0, false) => Ok(Fragment::Whole),
        (0, true) => Ok(Fragment::First),
        (offset, _) if offset < MIN_LATER_OFFSET => Err(Malformed::TinyFragment),
        _ => Ok(Fragment::Later),
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use proptest::prelude::*;

    fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
        build::udp(src.parse().unwrap(), dst.parse().unwrap(), payload).expect("one family, short payload")
    }

    #[test]
    fn a_udp_packet_shows_its_ends_in_both_families() {
        for (src, dst) in [("100.64.0.1:53", "100.64.0.2:4000"), ("[fd7a::1]:53", "[fd7a::2]:4000")] {
            let packet = udp(src, dst, b"hello");
            let view = PacketView::parse(&packet).unwrap();
            assert_eq!(crate::Flow::of(&view).to_string(), format!("udp {src} -> {dst}"));
            assert_eq!(view.payload(), b"hello");
            assert!(view.checksums_are_valid());
        }
    }

    #[test]
    fn padding_behind_the_packet_is_cut_off() {
        let mut packet = udp("100.64.0.1:53", "100.64.0.2:4000", b"hello");
        let len = packet.len();
        packet.extend_from_slice(&[0; 15]);
        assert_eq!(PacketView::parse(&packet).unwrap().bytes().len(), len);
    }

    #[test]
    fn every_cut_of_a_packet_is_malformed() {
        for packet in
            [udp("100.64.0.1:53", "100.64.0.2:4000", b"hello"), udp("[fd7a::1]:53", "[fd7a::2]:4000", b"hello")]
        {
            for len in 0..packet.len() {
                assert!(PacketView::parse(&packet[..len]).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn a_later_fragment_shows_no_ports_and_one_over_the_header_is_refused() {
        let mut packet = udp("100.64.0.1:53", "100.64.0.2:4000", &[0; 64]);
        packet[7] = 10; // 80 bytes
        let view = PacketView::parse(&packet).unwrap();
        assert!(view.is_fragment());
        assert_eq!((view.src_port(), view.dst_port()), (0, 0));
        packet[7] = 1;
        assert_eq!(PacketView::parse(&packet).unwrap_err(), Malformed::TinyFragment);
    }

    #[test]
    fn ipv6_extension_headers_are_walked_to_the_transport() {
        let plain = udp("[fd7a::1]:53", "[fd7a::2]:4000", b"hello");
        let mut packet = plain[..40].to_vec();
        packet.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]); // hop-by-hop, padded
        packet.extend_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]); // destination options
        packet.extend_from_slice(&plain[40..]);
        packet[6] = 0;
        let payload_len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        let view = PacketView::parse(&packet).unwrap();
        assert_eq!((view.protocol(), view.header_len(), view.dst_port()), (Protocol::UDP, 56, 4000));
        assert_eq!(view.payload(), b"hello");
    }

    #[test]
    fn a_chain_of_extension_headers_ends() {
        let mut packet = vec![0u8; 40 + 20 * 8];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&160u16.to_be_bytes());
        assert_eq!(PacketView::parse(&packet).unwrap_err(), Malformed::Extensions);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0usize..4, protocol in any::<proptest::sample::Index>()) {
            // Steered towards the parsers: a right version, length and a known protocol most of the time.
            let protocols = [0u8, 1, 6, 17, 43, 44, 58, 60, 99, 132];
            let len = bytes.len() as u16;
            if version > 0 && bytes.len() >= 40 {
                bytes[0] = if version == 1 { 0x60 } else { 0x45 };
                let (at, value) = if version == 1 { (4, len - 40) } else { (2, len) };
                bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
                bytes[if version == 1 { 6 } else { 9 }] = protocols[protocol.index(protocols.len())];
                if version == 3 {
                    bytes[6..8].fill(0);
                }
            }
            if let Ok(view) = PacketView::parse(&bytes) {
                let _ = (view.payload(), view.tcp_flags(), view.icmp(), view.echo_request(), view.echo_reply());
                let _ = (view.is_icmp_error(), view.checksums_are_valid(), crate::Flow::of(&view));
            }
        }
    }
}
