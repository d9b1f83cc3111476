//! STUN, the little of it that nodes and relays use: "by which address do you see me?"
//!
//! ```text
//! request, 40 bytes
//! 0       2       4        8                 20                32             40
//! | 00 01 | 00 14 | cookie | transaction id  | SOFTWARE tailnode | FINGERPRINT |
//! ```
//!
//! Relays answer only requests of exactly this kind, so that they are of no use to anybody else. RFC 8489.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_BYTES: usize = 20;
const REQUEST_BYTES: usize = 40;
const ATTRIBUTE_SOFTWARE: u16 = 0x8022;
const ATTRIBUTE_FINGERPRINT: u16 = 0x8028;
const ATTRIBUTE_MAPPED: u16 = 0x0001;
const ATTRIBUTE_XOR_MAPPED: u16 = 0x0020;
/// Servers from before the attribute had its number.
const ATTRIBUTE_XOR_MAPPED_OLD: u16 = 0x8020;
const SOFTWARE: &[u8; 8] = b"tailnode";
/// RFC 8489 §14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Names one request; its answer carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 12]);

/// Why a datagram is not the STUN message that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    #[error("not a STUN message")]
    NotStun,
    #[error("not a binding request")]
    NotRequest,
    #[error("not a successful answer")]
    NotSuccess,
    #[error("not from a node of this kind of network")]
    WrongSoftware,
    #[error("wrong or missing fingerprint")]
    WrongFingerprint,
    #[error("malformed attributes")]
    Malformed,
    #[error("names no address")]
    NoAddress,
}

/// Whether a datagram has the shape of STUN: enough to tell it from disco and WireGuard, not more.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES && datagram[0] & 0xc0 == 0 && datagram[4..8] == COOKIE
}

/// A binding request.
pub fn encode_request(id: TxId) -> [u8; REQUEST_BYTES] {
    let mut message = [0; REQUEST_BYTES];
    message[..4].copy_from_slice(&[0, 1, 0, 20]);
    message[4..8].copy_from_slice(&COOKIE);
    message[8..20].copy_from_slice(&id.0);
    message[20..22].copy_from_slice(&ATTRIBUTE_SOFTWARE.to_be_bytes());
    message[22..24].copy_from_slice(&8_u16.to_be_bytes());
    message[24..32].copy_from_slice(SOFTWARE);
    message[32..34].copy_from_slice(&ATTRIBUTE_FINGERPRINT.to_be_bytes());
    message[34..36].copy_from_slice(&4_u16.to_be_bytes());
    let fingerprint = crc32(&message[..32]) ^ FINGERPRINT_XOR;
    message[36..].copy_from_slice(&fingerprint.to_be_bytes());
    message
}

/// # Errors
/// [`StunError`]: not a request of a node, to be dropped without an answer.
pub fn decode_request(datagram: &[u8]) -> Result<TxId, StunError> {
    if !is_stun(datagram) {
        return Err(StunError::NotStun);
    }
    if datagram[..2] != [0, 1] {
        return Err(StunError::NotRequest);
    }
    let (mut software, mut fingerprint) = (false, None);
    let mut at = HEADER_BYTES;
    for attribute in attributes(datagram) {
        let (kind, value) = attribute?;
        // The fingerprint must be last: what follows it is not covered.
        fingerprint = None;
        match kind {
            ATTRIBUTE_SOFTWARE => software |= value == SOFTWARE,
            ATTRIBUTE_FINGERPRINT => fingerprint = Some((at, value)),
            _ => {}
        }
        at += 4 + value.len().next_multiple_of(4);
    }
    if !software {
        return Err(StunError::WrongSoftware);
    }
    let expected = fingerprint.map(|(at, value)| (crc32(&datagram[..at]) ^ FINGERPRINT_XOR).to_be_bytes() == value);
    if expected == Some(true) { Ok(id_of(datagram)) } else { Err(StunError::WrongFingerprint) }
}

/// The answer to request `id`, which came from `source`. 32 bytes for IPv4, 44 for IPv6.
pub fn encode_response(id: TxId, source: SocketAddr) -> Vec<u8> {
    let ip = source.ip().to_canonical();
    let (family, address) = match ip {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let value_bytes = u16::try_from(4 + address.len()).unwrap_or(0);
    let mut message = vec![1, 1];
    message.extend_from_slice(&(value_bytes + 4).to_be_bytes());
    message.extend_from_slice(&COOKIE);
    message.extend_from_slice(&id.0);
    message.extend_from_slice(&ATTRIBUTE_XOR_MAPPED.to_be_bytes());
    message.extend_from_slice(&value_bytes.to_be_bytes());
    message.extend_from_slice(&[0, family]);
    message.extend_from_slice(&(source.port() ^ 0x2112).to_be_bytes());
    let pad = [COOKIE.as_slice(), &id.0].concat();
    message.extend(address.iter().zip(pad).map(|(byte, pad)| byte ^ pad));
    message
}

/// Which request is answered, and the address that the server saw.
///
/// # Errors
/// [`StunError`]: not a successful answer with an address.
pub fn decode_response(datagram: &[u8]) -> Result<(TxId, SocketAddr), StunError> {
    if !is_stun(datagram) {
        return Err(StunError::NotStun);
    }
    if datagram[..2] != [1, 1] {
        return Err(StunError::NotSuccess);
    }
    let id = id_of(datagram);
    let pad = [COOKIE.as_slice(), &id.0].concat();
    let (mut xored, mut plain) = (None, None);
    for attribute in attributes(datagram) {
        let (kind, value) = attribute?;
        match kind {
            ATTRIBUTE_XOR_MAPPED | ATTRIBUTE_XOR_MAPPED_OLD => xored = address(value, &pad).or(xored),
            ATTRIBUTE_MAPPED => plain = address(value, &[0; 16]).or(plain),
            _ => {}
        }
    }
    xored.or(plain).map(|address| (id, address)).ok_or(StunError::NoAddress)
}

fn id_of(datagram: &[u8]) -> TxId {
    let mut id = [0; 12];
    id.copy_from_slice(&datagram[8..20]);
    TxId(id)
}

fn address(value: &[u8], pad: &[u8]) -> Option<SocketAddr> {
    let [_, family, port_high, port_low, rest @ ..] = value else { return None };
    let port = u16::from_be_bytes([port_high ^ pad[0], port_low ^ pad[1]]);
    let bytes: Vec<u8> = rest.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect();
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The attributes inside the length that the header states; bytes behind it are ignored.
fn attributes(datagram: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), StunError>> {
    let stated = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    let mut rest = datagram.get(HEADER_BYTES..HEADER_BYTES + stated);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || rest.is_some_and(<[u8]>::is_empty) {
            return None;
        }
        let next = rest.and_then(|bytes| {
            let (header, body) = bytes.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let value = body.get(..length)?;
            // Padding after the last attribute may be missing.
            rest = Some(body.get(length.next_multiple_of(4)..).unwrap_or_default());
            Some((u16::from_be_bytes([header[0], header[1]]), value))
        });
        failed = next.is_none();
        Some(next.ok_or(StunError::Malformed))
    })
}

/// CRC-32 of IEEE 802.3, bit by bit: 32 bytes per request are no reason for a table.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_the_one_everybody_uses() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_request_without_our_mark_or_with_a_wrong_fingerprint_gets_no_answer() {
        let good = encode_request(TxId([7; 12]));
        assert_eq!(decode_request(&good), Ok(TxId([7; 12])));
        let mut other = good;
        other[24] = b'T';
        assert_eq!(decode_request(&other), Err(StunError::WrongSoftware));
        let mut flipped = good;
        flipped[9] ^= 1;
        assert_eq!(decode_request(&flipped), Err(StunError::WrongFingerprint));
        assert_eq!(decode_request(&good[..39]), Err(StunError::Malformed));
    }

    #[test]
    fn answers_have_their_known_sizes_and_v4_mapped_sources_count_as_v4() {
        let v6 = encode_response(TxId([1; 12]), "[2001:db8::1]:5".parse().unwrap());
        let mapped = encode_response(TxId([1; 12]), "[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!((v6.len(), mapped.len()), (44, 32));
        assert_eq!(decode_response(&mapped).unwrap().1, "192.0.2.1:5".parse().unwrap());
    }

    proptest! {
        #[test]
        fn an_answer_says_which_request_and_which_address(id: [u8; 12], ip: u128, port: u16, v4: bool) {
            let ip = if v4 { IpAddr::V4(Ipv4Addr::from(ip as u32)) } else { IpAddr::V6(Ipv6Addr::from(ip)).to_canonical() };
            let source = SocketAddr::new(ip, port);
            prop_assert_eq!(decode_response(&encode_response(TxId(id), source)), Ok((TxId(id), source)));
            prop_assert_eq!(decode_request(&encode_request(TxId(id))), Ok(TxId(id)));
        }

        #[test]
        fn no_datagram_makes_the_parsers_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if bytes.len() > 8 {
                bytes[0] &= 1;
                bytes[4..8].copy_from_slice(&COOKIE);
            }
            let _ = decode_request(&bytes);
            let _ = decode_response(&bytes);
        }
    }
}
