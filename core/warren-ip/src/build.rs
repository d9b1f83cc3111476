//! Packets that we make ourselves: echo, UDP, and anything behind a plain IP header.

use std::net::{IpAddr, SocketAddr};

use crate::checksum;
use crate::packet::Protocol;

/// Hops that our own packets may take; the value that hosts commonly start with.
const HOP_LIMIT: u8 = 64;

/// An IP header without options in front of `message`. The transport checksum is the caller's.
///
/// `None` if the families differ or the packet would pass 65,535 bytes.
pub fn ip(src: IpAddr, dst: IpAddr, protocol: Protocol, message: &[u8]) -> Option<Vec<u8>> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(20 + message.len()).ok()?;
            let mut header = [0u8; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[8] = HOP_LIMIT;
            header[9] = protocol.0;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = checksum::internet(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let payload = u16::try_from(message.len()).ok().filter(|len| *len <= u16::MAX - 40)?;
            let mut header = [0u8; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&payload.to_be_bytes());
            header[6] = protocol.0;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
            header.to_vec()
        }
        _ => return None,
    };
    packet.extend_from_slice(message);
    Some(packet)
}

/// A UDP datagram with its checksum. `None` as for [`ip`].
pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(8 + payload.len()).ok()?;
    let mut message = Vec::with_capacity(usize::from(len));
    message.extend_from_slice(&src.port().to_be_bytes());
    message.extend_from_slice(&dst.port().to_be_bytes());
    message.extend_from_slice(&len.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(payload);
    let sum = checksum::transport(src.ip(), dst.ip(), Protocol::UDP, &message);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(src.ip(), dst.ip(), Protocol::UDP, &message)
}

/// An echo request of the family of its addresses (RFC 792, RFC 4443 §4.1). `None` as for [`ip`].
pub fn echo_request(src: IpAddr, dst: IpAddr, id: u16, sequence: u16, payload: &[u8]) -> Option<Vec<u8>> {
    echo(src, dst, (8, 128), id, sequence, payload)
}

/// The answer to an echo request; `src` is who answers. `None` as for [`ip`].
pub fn echo_reply(src: IpAddr, dst: IpAddr, id: u16, sequence: u16, payload: &[u8]) -> Option<Vec<u8>> {
    echo(src, dst, (0, 129), id, sequence, payload)
}

fn echo(src: IpAddr, dst: IpAddr, kinds: (u8, u8), id: u16, sequence: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let (kind, protocol) = if src.is_ipv4() { (kinds.0, Protocol::ICMP) } else { (kinds.1, Protocol::ICMPV6) };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    let sum = match protocol {
        Protocol::ICMP => checksum::internet(&message),
        _ => checksum::transport(src, dst, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(src, dst, protocol, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PacketView;

    #[test]
    fn echoes_of_both_families_verify_and_keep_their_numbers() {
        for (src, dst) in [("100.64.0.1", "100.64.0.2"), ("fd7a::1", "fd7a::2")] {
            let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let request = echo_request(src, dst, 7, 9, b"odd").unwrap();
            let view = PacketView::parse(&request).unwrap();
            assert!(view.checksums_are_valid());
            assert_eq!((view.echo_request(), view.echo_reply()), (Some((7, 9)), None));
            let reply = echo_reply(dst, src, 7, 9, view.payload()).unwrap();
            let view = PacketView::parse(&reply).unwrap();
            assert!(view.checksums_are_valid());
            assert_eq!((view.echo_request(), view.echo_reply()), (None, Some((7, 9))));
            assert_eq!(view.payload(), b"odd");
        }
    }

    #[test]
    fn mixed_families_and_oversized_packets_are_refused() {
        let v4: SocketAddr = "100.64.0.1:1".parse().unwrap();
        let v6: SocketAddr = "[fd7a::1]:1".parse().unwrap();
        assert_eq!(udp(v4, v6, b""), None);
        assert_eq!(udp(v4, v4, &[0; 65_508]), None);
        assert!(udp(v4, v4, &[0; 65_507]).is_some());
        assert_eq!(udp(v6, v6, &[0; 65_488]), None);
    }
}
