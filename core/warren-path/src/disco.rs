//! The small sealed messages by which nodes find each other.
//!
//! ```text
//! 0      6                 38        62    78    79      80
//! | magic | sender disco key | nonce | tag | type | version | body …
//!                                          └──── sealed ────────────
//!
//! 1 ping            tx (12), sender node key (32), zero padding
//! 2 pong            tx (12), the pinger as the answerer sees it (18)
//! 3 call-me-maybe   endpoints, 18 each; only by a relay
//!
//! an endpoint       IPv6 address (16; IPv4 as ::ffff:a.b.c.d), port (2)
//! ```
//!
//! data-plane.md §3.1, §3.2. Messages about peer relays (types 4–9) are not built and read as [`Message::Other`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use warren_crypto::{DiscoPublic, NodePublic, Random, SharedBox};
use warren_wire::RegionId;

/// How every disco message begins.
pub const MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Magic and sender.
const HEADER_BYTES: usize = MAGIC.len() + KEY_BYTES;
/// From here on a packet that begins with the magic is disco and never WireGuard (§0).
const LOOKS_LIKE_DISCO_BYTES: usize = HEADER_BYTES;
const TX_BYTES: usize = 12;
const ENDPOINT_BYTES: usize = 18;

/// A whole ping without padding.
pub const PING_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES + 2 + TX_BYTES + KEY_BYTES;
/// The largest ping that we pad: one jumbo frame.
pub const MAX_PING_BYTES: usize = 9000 - 28;
/// The most endpoints that are sent or read in one call-me-maybe.
pub const MAX_CALL_ENDPOINTS: usize = 64;

const PING: u8 = 1;
const PONG: u8 = 2;
const CALL_ME_MAYBE: u8 = 3;

const _: () = assert!(PING_BYTES == 124);

/// Whether a UDP payload or a relayed packet is meant as disco.
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= LOOKS_LIKE_DISCO_BYTES && packet.starts_with(&MAGIC)
}

/// Links a ping and its pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TxId(pub [u8; TX_BYTES]);

/// What is readable without a key.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    pub sender: DiscoPublic,
    /// Nonce, tag, ciphertext.
    pub sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// `None`: no magic, or too short to hold a sealed message.
    pub fn parse(packet: &'a [u8]) -> Option<Envelope<'a>> {
        let rest = packet.strip_prefix(&MAGIC)?;
        let (sender, sealed) = rest.split_first_chunk::<KEY_BYTES>()?;
        if sealed.len() < NONCE_BYTES + TAG_BYTES {
            return None;
        }
        Some(Envelope { sender: DiscoPublic::from_bytes(*sender), sealed })
    }
}

/// One opened message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Ping {
        tx: TxId,
        /// Who pings; only ancient peers leave it out.
        node: Option<NodePublic>,
        /// Zero bytes at the end. Only says how large the message is.
        padding: usize,
    },
    Pong {
        tx: TxId,
        /// By which address the answerer sees the pinger; [`relay_as_address`] if the ping came by a relay.
        seen: SocketAddr,
    },
    /// "Ping me at these addresses now: I have just pinged you, so my firewall lets you in."
    CallMeMaybe { endpoints: Vec<SocketAddr> },
    /// Sealed well, but of a kind that this build does not know.
    Other { kind: u8 },
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Message::Ping { tx, node, padding } => {
                bytes.extend_from_slice(&[PING, 0]);
                bytes.extend_from_slice(&tx.0);
                if let Some(node) = node {
                    bytes.extend_from_slice(node.as_bytes());
                    bytes.resize(bytes.len() + padding, 0);
                }
            }
            Message::Pong { tx, seen } => {
                bytes.extend_from_slice(&[PONG, 0]);
                bytes.extend_from_slice(&tx.0);
                push_endpoint(&mut bytes, seen);
            }
            Message::CallMeMaybe { endpoints } => {
                bytes.extend_from_slice(&[CALL_ME_MAYBE, 0]);
                for endpoint in endpoints.iter().take(MAX_CALL_ENDPOINTS) {
                    push_endpoint(&mut bytes, endpoint);
                }
            }
            Message::Other { kind } => bytes.extend_from_slice(&[*kind, 0]),
        }
        bytes
    }

    /// `None`: cut short. A call-me-maybe of a newer version or an odd length reads as one without endpoints.
    pub fn parse(plain: &[u8]) -> Option<Message> {
        let (&[kind, version], body) = plain.split_first_chunk::<2>()?;
        match kind {
            PING => {
                let (tx, rest) = body.split_first_chunk::<TX_BYTES>()?;
                let (node, padding) = match rest.split_first_chunk::<KEY_BYTES>() {
                    Some((key, padding)) => (Some(NodePublic::from_bytes(*key)), padding.len()),
                    None => (None, 0),
                };
                Some(Message::Ping { tx: TxId(*tx), node: node.filter(|key| !key.is_zero()), padding })
            }
            PONG => {
                let (tx, rest) = body.split_first_chunk::<TX_BYTES>()?;
                let seen = read_endpoint(rest.first_chunk::<ENDPOINT_BYTES>()?);
                Some(Message::Pong { tx: TxId(*tx), seen })
            }
            CALL_ME_MAYBE => {
                let known = version == 0 && body.len().is_multiple_of(ENDPOINT_BYTES);
                let body = if known { body } else { &[] };
                let endpoints = body.as_chunks::<ENDPOINT_BYTES>().0.iter().take(MAX_CALL_ENDPOINTS).map(read_endpoint);
                Some(Message::CallMeMaybe { endpoints: endpoints.collect() })
            }
            kind => Some(Message::Other { kind }),
        }
    }
}

/// The whole packet: envelope and sealed message, under a random nonce.
pub fn seal(shared: &SharedBox, random: &mut Random, sender: &DiscoPublic, message: &Message) -> Vec<u8> {
    let sealed = shared.seal_with_nonce(random, &message.encode());
    [&MAGIC, sender.as_bytes().as_slice(), &sealed].concat()
}

/// How a pong names a relay as the place where a ping came from: never on the wire as a destination (§0).
pub fn relay_as_address(region: RegionId) -> SocketAddr {
    let port = u16::try_from(region.0).unwrap_or(u16::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 3, 3, 40)), port)
}

fn push_endpoint(bytes: &mut Vec<u8>, endpoint: &SocketAddr) {
    let ip = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    bytes.extend_from_slice(&ip.octets());
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
}

fn read_endpoint(bytes: &[u8; ENDPOINT_BYTES]) -> SocketAddr {
    let [ip @ .., high, low] = bytes;
    SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), u16::from_be_bytes([*high, *low]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_crypto::DiscoSecret;

    use super::*;

    fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port));
        let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port));
        prop_oneof![v4, v6]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let tx = any::<[u8; 12]>().prop_map(TxId);
        let node = prop::option::of(prop::array::uniform32(1u8..).prop_map(NodePublic::from_bytes));
        prop_oneof![
            (tx.clone(), node, 0usize..200).prop_map(|(tx, node, padding)| {
                let padding = if node.is_some() { padding } else { 0 };
                Message::Ping { tx, node, padding }
            }),
            (tx, any_endpoint()).prop_map(|(tx, seen)| Message::Pong { tx, seen }),
            prop::collection::vec(any_endpoint(), 0..MAX_CALL_ENDPOINTS)
                .prop_map(|endpoints| Message::CallMeMaybe { endpoints }),
            (4u8..).prop_map(|kind| Message::Other { kind }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(message in any_message()) {
            prop_assert_eq!(Message::parse(&message.encode()), Some(message));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
            let _ = Envelope::parse(&bytes);
            let _ = Envelope::parse(&[&MAGIC, bytes.as_slice()].concat());
        }

        #[test]
        fn the_receiver_opens_what_was_sealed(message in any_message(), seed in any::<[u8; 32]>()) {
            let (a, b) = (DiscoSecret::from_seed([1; 32]), DiscoSecret::from_seed([2; 32]));
            let to_b = SharedBox::disco(&a, &b.public()).expect("honest keys agree");
            let packet = seal(&to_b, &mut Random::from_seed(seed), &a.public(), &message);
            prop_assert!(looks_like_disco(&packet));
            let envelope = Envelope::parse(&packet).expect("whole");
            prop_assert_eq!(envelope.sender, a.public());
            let from_a = SharedBox::disco(&b, &envelope.sender).expect("honest keys agree");
            prop_assert_eq!(Message::parse(&from_a.open(envelope.sealed).expect("authentic")), Some(message));
        }
    }

    #[test]
    fn whole_packets_have_the_sizes_of_the_field() {
        let (a, b) = (DiscoSecret::from_seed([1; 32]), DiscoSecret::from_seed([2; 32]));
        let shared = SharedBox::disco(&a, &b.public()).expect("honest keys agree");
        let size = |message| seal(&shared, &mut Random::from_seed([3; 32]), &a.public(), &message).len();
        let seen = SocketAddr::from(([192, 0, 2, 1], 41641));
        let ping = |padding| Message::Ping { tx: TxId([7; 12]), node: Some(NodePublic::from_bytes([9; 32])), padding };
        assert_eq!(size(ping(0)), 124);
        assert_eq!(size(ping(1332 - 124)), 1332);
        assert_eq!(size(Message::Pong { tx: TxId([7; 12]), seen }), 110);
        assert_eq!(size(Message::CallMeMaybe { endpoints: vec![seen; 2] }), 80 + 36);
    }

    #[test]
    fn a_call_of_a_newer_version_or_an_odd_length_names_nobody() {
        let none = Some(Message::CallMeMaybe { endpoints: Vec::new() });
        assert_eq!(Message::parse(&[&[3, 1][..], &[1; 18]].concat()), none);
        assert_eq!(Message::parse(&[&[3, 0][..], &[1; 19]].concat()), none);
    }
}
