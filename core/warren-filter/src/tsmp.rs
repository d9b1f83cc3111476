//! Messages between nodes, in place of a transport: IP protocol 99. data-plane.md §6.3.
//!
//! ```text
//! '!' protocol 1  reason 1  source port 2  destination port 2  [flags 1]    refused, ports as the initiator sees them
//! 'p' data 8                                                                ping
//! 'o' data 8  [peer API port 2]                                             pong
//! 'a' disco key 32                                                          "my disco key is now this"
//! ```

use std::net::IpAddr;

use warren_ip::{PacketView, Protocol, build};

use crate::verdict::DropReason;

/// One message. Unknown kinds are not ours to judge: [`Tsmp::parse`] gives `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tsmp {
    /// The flow that the receiver opened was refused.
    Rejected {
        protocol: Protocol,
        reason: RejectReason,
        /// The initiator's port.
        src_port: u16,
        dst_port: u16,
        /// Only a hint that something is broken; the flow may yet succeed.
        is_tentative: bool,
    },
    Ping([u8; 8]),
    /// `peer_api_port` is 0 where there is none.
    Pong {
        data: [u8; 8],
        peer_api_port: u16,
    },
    DiscoKey([u8; 32]),
}

/// Why a flow was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    Policy,
    ShieldsUp,
    ForwardingOff,
    HostFirewall,
    /// A letter that we do not know.
    Other(u8),
}

impl Tsmp {
    /// Reads what stands behind the IP header. Trailing bytes are ignored, so that messages may grow.
    pub fn parse(message: &[u8]) -> Option<Tsmp> {
        let (kind, rest) = message.split_first()?;
        match kind {
            b'!' => {
                let fields: &[u8; 6] = rest.first_chunk()?;
                Some(Tsmp::Rejected {
                    protocol: Protocol(fields[0]),
                    reason: RejectReason::decode(fields[1]),
                    src_port: u16::from_be_bytes([fields[2], fields[3]]),
                    dst_port: u16::from_be_bytes([fields[4], fields[5]]),
                    is_tentative: rest.get(6).is_some_and(|flags| flags & 1 != 0),
                })
            }
            b'p' => Some(Tsmp::Ping(*rest.first_chunk()?)),
            b'o' => Some(Tsmp::Pong {
                data: *rest.first_chunk()?,
                peer_api_port: rest.get(8..10).map_or(0, |port| u16::from_be_bytes([port[0], port[1]])),
            }),
            b'a' => Some(Tsmp::DiscoKey(*rest.first_chunk()?)),
            _ => None,
        }
    }

    /// The message as it stands behind an IP header.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Tsmp::Rejected { protocol, reason, src_port, dst_port, is_tentative } => {
                let mut bytes = vec![b'!', protocol.0, reason.encode()];
                bytes.extend_from_slice(&src_port.to_be_bytes());
                bytes.extend_from_slice(&dst_port.to_be_bytes());
                bytes.push(u8::from(*is_tentative));
                bytes
            }
            Tsmp::Ping(data) => [&b"p"[..], data].concat(),
            Tsmp::Pong { data, peer_api_port } => [&b"o"[..], data, &peer_api_port.to_be_bytes()].concat(),
            Tsmp::DiscoKey(key) => [&b"a"[..], key].concat(),
        }
    }

    /// The message as a packet; `None` if the families differ.
    pub fn packet(&self, src: IpAddr, dst: IpAddr) -> Option<Vec<u8>> {
        build::ip(src, dst, Protocol::TSMP, &self.encode())
    }
}

impl RejectReason {
    fn decode(letter: u8) -> RejectReason {
        match letter {
            b'A' => RejectReason::Policy,
            b'S' => RejectReason::ShieldsUp,
            b'F' => RejectReason::ForwardingOff,
            b'W' => RejectReason::HostFirewall,
            other => RejectReason::Other(other),
        }
    }

    fn encode(self) -> u8 {
        match self {
            RejectReason::Policy => b'A',
            RejectReason::ShieldsUp => b'S',
            RejectReason::ForwardingOff => b'F',
            RejectReason::HostFirewall => b'W',
            RejectReason::Other(letter) => letter,
        }
    }
}

/// The packet that tells a peer its connection was refused, so that it need not wait for a timeout. Only for IPv4 TCP
/// that opens, as stock nodes expect it.
pub fn rejection_of(packet: &PacketView<'_>, why: DropReason) -> Option<Vec<u8>> {
    let reason = match why {
        DropReason::NoRule | DropReason::FlowCut => RejectReason::Policy,
        DropReason::ShieldsUp => RejectReason::ShieldsUp,
        DropReason::Multicast | DropReason::LinkLocal | DropReason::NotLocal | DropReason::TsmpFromHost => return None,
    };
    if !packet.src().is_ipv4() || !packet.tcp_flags().opens() {
        return None;
    }
    let message = Tsmp::Rejected {
        protocol: Protocol::TCP,
        reason,
        src_port: packet.src_port(),
        dst_port: packet.dst_port(),
        is_tentative: false,
    };
    message.packet(packet.dst(), packet.src())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_reads_back() {
        let messages = [
            Tsmp::Rejected {
                protocol: Protocol::TCP,
                reason: RejectReason::Policy,
                src_port: 5000,
                dst_port: 22,
                is_tentative: true,
            },
            Tsmp::Ping(*b"12345678"),
            Tsmp::Pong { data: *b"12345678", peer_api_port: 80 },
            Tsmp::DiscoKey([7; 32]),
        ];
        for message in messages {
            let bytes = message.encode();
            assert_eq!(Tsmp::parse(&bytes), Some(message));
            let shortest = if bytes[0] == b'!' { 7 } else { bytes.len() - if bytes[0] == b'o' { 2 } else { 0 } };
            assert!(Tsmp::parse(&bytes[..shortest]).is_some());
            assert!((0..shortest).all(|len| Tsmp::parse(&bytes[..len]).is_none()));
        }
    }

    #[test]
    fn a_refused_connection_is_answered_from_its_target_with_the_initiators_ports() {
        let mut syn = vec![0u8; 20];
        syn[..4].copy_from_slice(&[0x13, 0x88, 0, 22]);
        syn[12] = 0x50;
        syn[13] = 2;
        let (peer, us): (IpAddr, IpAddr) = ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap());
        let packet = build::ip(peer, us, Protocol::TCP, &syn).unwrap();
        let answer = rejection_of(&PacketView::parse(&packet).unwrap(), DropReason::NoRule).unwrap();
        let view = PacketView::parse(&answer).unwrap();
        assert_eq!((view.src(), view.dst(), view.protocol()), (us, peer, Protocol::TSMP));
        assert_eq!(
            Tsmp::parse(view.payload()),
            Some(Tsmp::Rejected {
                protocol: Protocol::TCP,
                reason: RejectReason::Policy,
                src_port: 5000,
                dst_port: 22,
                is_tentative: false,
            })
        );
        assert_eq!(rejection_of(&PacketView::parse(&packet).unwrap(), DropReason::NotLocal), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(message) = Tsmp::parse(&bytes) {
                prop_assert_eq!(Tsmp::parse(&message.encode()), Some(message));
            }
        }
    }
}
