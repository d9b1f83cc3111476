//! STUN: a node asks over its data socket how the outside sees it (RFC 8489, the subset that the field uses).
//!
//! ```text
//! request, 40 bytes
//! 0      2      4        8                20     22     24         32     34     36
//! | 0001 | 0014 | cookie | transaction id | 8022 | 0008 | tailnode | 8028 | 0004 | crc |
//! response, 32 bytes (IPv4) or 44 bytes (IPv6)
//! | 0101 | size | cookie | transaction id | 0020 | size | 0 family port address |
//! ```
//!
//! Servers of the field answer only requests that carry SOFTWARE `tailnode` and end with a FINGERPRINT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Size of the one request that there is.
pub const REQUEST_BYTES: usize = 40;
/// The port that relays answer STUN on unless the map says otherwise.
pub const DEFAULT_PORT: u16 = 3478;

const HEADER_BYTES: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// What early servers used for the same; RFC 3489 drafts.
const XOR_MAPPED_ADDRESS_EARLY: u16 = 0x8020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_MASK: u32 = 0x5354_554e;
const SOFTWARE_NAME: &[u8; 8] = b"tailnode";

/// Ties a response to its request; random, so that nobody off the path can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 12]);

/// Why a datagram is not the STUN message asked for. Answered with silence, counted by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    #[error("not a STUN message")]
    NotStun,
    #[error("another kind of STUN message")]
    Kind,
    #[error("malformed attributes")]
    Attributes,
    #[error("not software of this network")]
    Software,
    #[error("fingerprint absent or wrong")]
    Fingerprint,
    #[error("no address in the response")]
    NoAddress,
}

/// Whether a datagram has the shape of STUN. WireGuard and disco never have.
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && bytes[0] & 0xc0 == 0 && bytes[4..8] == COOKIE
}

/// The binding request of a node.
pub fn encode_request(id: TxId) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    write_header(&mut bytes, BINDING_REQUEST, 20, id);
    bytes[20..22].copy_from_slice(&SOFTWARE.to_be_bytes());
    bytes[22..24].copy_from_slice(&8_u16.to_be_bytes());
    bytes[24..32].copy_from_slice(SOFTWARE_NAME);
    bytes[32..34].copy_from_slice(&FINGERPRINT.to_be_bytes());
    bytes[34..36].copy_from_slice(&4_u16.to_be_bytes());
    let print = fingerprint(&bytes[..32]);
    bytes[36..].copy_from_slice(&print.to_be_bytes());
    bytes
}

/// The server's reading of a request.
///
/// # Errors
/// [`StunError`] for anything that a node of this network would not send.
pub fn decode_request(bytes: &[u8]) -> Result<TxId, StunError> {
    let (kind, id, attributes) = split(bytes)?;
    if kind != BINDING_REQUEST {
        return Err(StunError::Kind);
    }
    let mut is_node = false;
    let mut last = None;
    for attribute in Attributes(attributes) {
        let (name, value) = attribute?;
        is_node |= name == SOFTWARE && value == SOFTWARE_NAME;
        last = Some((name, value));
    }
    if !is_node {
        return Err(StunError::Software);
    }
    // The last attribute is 8 bytes long, and it covers everything before itself.
    let covered = HEADER_BYTES + attributes.len() - 8;
    match last {
        Some((FINGERPRINT, value)) if value == fingerprint(&bytes[..covered]).to_be_bytes() => Ok(id),
        _ => Err(StunError::Fingerprint),
    }
}

/// The answer to a request that came from `source`; an IPv4 address in IPv6 form is unmapped.
pub fn encode_response(id: TxId, source: SocketAddr) -> Vec<u8> {
    let address = source.ip().to_canonical();
    let address_bytes = if address.is_ipv4() { 4 } else { 16 };
    let mut bytes = vec![0; HEADER_BYTES + 8 + address_bytes];
    write_header(&mut bytes, BINDING_SUCCESS, (8 + address_bytes) as u16, id);
    bytes[20..22].copy_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    bytes[22..24].copy_from_slice(&((4 + address_bytes) as u16).to_be_bytes());
    bytes[25] = if address.is_ipv4() { 1 } else { 2 };
    bytes[26..28].copy_from_slice(&(source.port() ^ 0x2112).to_be_bytes());
    match address {
        IpAddr::V4(address) => bytes[28..].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes[28..].copy_from_slice(&address.octets()),
    }
    xor_address(&mut bytes[28..], id);
    bytes
}

/// The node's reading of a response: which request it answers, and where that came from in the server's eyes.
///
/// # Errors
/// [`StunError`]; the caller looks the transaction up, an unknown one is nobody's answer.
pub fn decode_response(bytes: &[u8]) -> Result<(TxId, SocketAddr), StunError> {
    let (kind, id, attributes) = split(bytes)?;
    if kind != BINDING_SUCCESS {
        return Err(StunError::Kind);
    }
    let (mut seen_xored, mut seen_plain) = (None, None);
    for attribute in Attributes(attributes) {
        match attribute? {
            (XOR_MAPPED_ADDRESS | XOR_MAPPED_ADDRESS_EARLY, value) => {
                seen_xored = read_address(value, Some(id)).or(seen_xored);
            }
            (MAPPED_ADDRESS, value) => seen_plain = read_address(value, None).or(seen_plain),
            _ => {}
        }
    }
    Ok((id, seen_xored.or(seen_plain).ok_or(StunError::NoAddress)?))
}

fn write_header(bytes: &mut [u8], kind: [u8; 2], attribute_bytes: u16, id: TxId) {
    bytes[..2].copy_from_slice(&kind);
    bytes[2..4].copy_from_slice(&attribute_bytes.to_be_bytes());
    bytes[4..8].copy_from_slice(&COOKIE);
    bytes[8..20].copy_from_slice(&id.0);
}

/// Kind, transaction and attributes; bytes beyond the stated length are ignored.
fn split(bytes: &[u8]) -> Result<([u8; 2], TxId, &[u8]), StunError> {
    if !is_stun(bytes) {
        return Err(StunError::NotStun);
    }
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(StunError::NotStun)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let attributes = rest.get(..length).ok_or(StunError::Attributes)?;
    let mut id = [0; 12];
    id.copy_from_slice(&header[8..]);
    Ok(([header[0], header[1]], TxId(id), attributes))
}

/// Walks attributes, each padded to four bytes; ends after the first malformed one.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let one = (|| {
            let (head, rest) = self.0.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = rest.get(..length)?;
            let after = rest.get(length.next_multiple_of(4)..)?;
            Some((u16::from_be_bytes([head[0], head[1]]), value, after))
        })();
        match one {
            Some((name, value, after)) => {
                self.0 = after;
                Some(Ok((name, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(StunError::Attributes))
            }
        }
    }
}

fn read_address(value: &[u8], xored_with: Option<TxId>) -> Option<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let mut port = u16::from_be_bytes([head[2], head[3]]);
    let mut bytes = [0; 16];
    let length = match (head[1], address.len()) {
        (1, 4) => 4,
        (2, 16) => 16,
        _ => return None,
    };
    bytes[..length].copy_from_slice(address);
    if let Some(id) = xored_with {
        port ^= 0x2112;
        xor_address(&mut bytes[..length], id);
    }
    let address = match length {
        4 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    Some(SocketAddr::new(address, port))
}

fn xor_address(address: &mut [u8], id: TxId) {
    for (byte, mask) in address.iter_mut().zip(COOKIE.iter().chain(&id.0)) {
        *byte ^= mask;
    }
}

fn fingerprint(covered: &[u8]) -> u32 {
    let crc = covered.iter().fold(!0_u32, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        (crc >> 8) ^ CRC_TABLE[index as usize]
    });
    !crc ^ FINGERPRINT_MASK
}

/// CRC-32 (IEEE 802.3, reflected).
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: TxId = TxId(*b"twelve bytes");

    #[test]
    fn the_checksum_is_the_one_everybody_knows() {
        assert_eq!(fingerprint(b"123456789") ^ FINGERPRINT_MASK, 0xcbf4_3926);
    }

    #[test]
    fn a_request_is_forty_bytes_and_the_server_knows_it() {
        let request = encode_request(ID);
        assert_eq!(request.len(), 40);
        assert_eq!(&request[..8], &[0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42]);
        assert!(is_stun(&request));
        assert_eq!(decode_request(&request), Ok(ID));
    }

    #[test]
    fn requests_of_strangers_are_refused() {
        let mut other_software = encode_request(ID);
        other_software[24] = b'X';
        assert_eq!(decode_request(&other_software), Err(StunError::Software));
        let mut wrong_print = encode_request(ID);
        wrong_print[39] ^= 1;
        assert_eq!(decode_request(&wrong_print), Err(StunError::Fingerprint));
        let mut without_print = encode_request(ID)[..32].to_vec();
        without_print[3] = 12;
        assert_eq!(decode_request(&without_print), Err(StunError::Fingerprint));
        assert_eq!(decode_request(&encode_response(ID, "1.2.3.4:5".parse().unwrap())), Err(StunError::Kind));
    }

    #[test]
    fn a_mapped_ipv4_source_is_answered_as_ipv4() {
        let response = encode_response(ID, "[::ffff:192.0.2.7]:4242".parse().unwrap());
        assert_eq!(response.len(), 32);
        assert_eq!(decode_response(&response), Ok((ID, "192.0.2.7:4242".parse().unwrap())));
    }

    #[test]
    fn old_attribute_forms_are_read_and_trailing_bytes_ignored() {
        let mut early = encode_response(ID, "192.0.2.7:4242".parse().unwrap());
        early[20] = 0x80;
        early.push(9);
        assert_eq!(decode_response(&early), Ok((ID, "192.0.2.7:4242".parse().unwrap())));
        let mut plain = early.clone();
        plain[20..22].copy_from_slice(&[0, 1]);
        plain[26..32].copy_from_slice(&[0, 80, 10, 0, 0, 1]);
        assert_eq!(decode_response(&plain), Ok((ID, "10.0.0.1:80".parse().unwrap())));
        plain[21] = 9;
        assert_eq!(decode_response(&plain), Err(StunError::NoAddress));
    }

    proptest! {
        #[test]
        fn a_node_reads_what_the_server_saw(id in any::<[u8; 12]>(), ip in any::<IpAddr>(), port in any::<u16>()) {
            let source = SocketAddr::new(ip, port);
            let expected = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(decode_response(&encode_response(TxId(id), source)), Ok((TxId(id), expected)));
            prop_assert_eq!(decode_request(&encode_request(TxId(id))), Ok(TxId(id)));
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), shaped in any::<bool>()) {
            if shaped && bytes.len() >= 20 {
                let length = (bytes.len() - 20) as u16;
                bytes[..2].copy_from_slice(&[length as u8 & 1, 1]);
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&COOKIE);
            }
            let _ = (decode_request(&bytes), decode_response(&bytes));
        }
    }
}
