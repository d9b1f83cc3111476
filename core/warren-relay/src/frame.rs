//! Frames of a relay connection.
//!
//! ```text
//! 0      1        5
//! | type | length | payload …            length is big-endian and excludes these five bytes
//! ```
//!
//! ```text
//! client                         relay
//!   | <------------- ServerKey ---|     magic, relay key
//!   |-- ClientInfo -------------> |     node key, sealed JSON
//!   | <------------ ServerInfo ---|     sealed JSON
//!   |-- NotePreferred ----------> |     "this relay is my home"
//!   |-- SendPacket(to) ---------> | --- RecvPacket(from) ---> another client
//!   | <-- KeepAlive, PeerGone, Ping, Health, Restarting ---|
//! ```

use warren_crypto::{NodePublic, RelayPublic};

/// Type and length.
pub const HEADER_BYTES: usize = 5;
/// A node key before a packet.
pub const KEY_BYTES: usize = 32;
/// Longest packet that a relay carries.
pub const MAX_PACKET_BYTES: usize = 65_536;
/// Longest frame that a client reads.
pub const MAX_CLIENT_FRAME_BYTES: usize = 1 << 20;
/// First bytes of every disco message.
pub const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Disco magic, sender key and nonce: shorter packets are not disco.
const MIN_DISCO_BYTES: usize = 62;
const MAGIC: [u8; 8] = [0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91];

pub const SERVER_KEY: u8 = 0x01;
pub const CLIENT_INFO: u8 = 0x02;
pub const SERVER_INFO: u8 = 0x03;
pub const SEND_PACKET: u8 = 0x04;
pub const RECV_PACKET: u8 = 0x05;
pub const KEEP_ALIVE: u8 = 0x06;
pub const NOTE_PREFERRED: u8 = 0x07;
pub const PEER_GONE: u8 = 0x08;
pub const PEER_PRESENT: u8 = 0x09;
pub const FORWARD_PACKET: u8 = 0x0a;
pub const WATCH_CONNS: u8 = 0x10;
pub const CLOSE_PEER: u8 = 0x11;
pub const PING: u8 = 0x12;
pub const PONG: u8 = 0x13;
pub const HEALTH: u8 = 0x14;
pub const RESTARTING: u8 = 0x15;

/// Whether a relayed packet is a disco message, by its magic and size: disco and other frames are queued and counted apart.
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= MIN_DISCO_BYTES && packet.starts_with(&DISCO_MAGIC)
}

/// Why a relay says that a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It had sent to us and left this relay.
    Disconnected,
    /// We sent it disco and it is not here.
    NotHere,
    Other(u8),
}

impl GoneReason {
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            0 => Self::Disconnected,
            1 => Self::NotHere,
            other => Self::Other(other),
        }
    }

    pub fn to_wire(self) -> u8 {
        match self {
            Self::Disconnected => 0,
            Self::NotHere => 1,
            Self::Other(byte) => byte,
        }
    }
}

/// A frame of these parts, header included.
///
/// The parts together must be shorter than 4 GiB; every caller's are capped far below.
pub(crate) fn encode(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

pub fn encode_server_key(key: &RelayPublic) -> Vec<u8> {
    encode(SERVER_KEY, &[&MAGIC, key.as_bytes()])
}

/// The relay's key; bytes after it are for later versions of the protocol.
pub fn decode_server_key(payload: &[u8]) -> Option<RelayPublic> {
    let rest = payload.strip_prefix(&MAGIC)?;
    rest.first_chunk().copied().map(RelayPublic::from_bytes)
}

pub fn encode_send_packet(to: &NodePublic, packet: &[u8]) -> Vec<u8> {
    encode(SEND_PACKET, &[to.as_bytes(), packet])
}

pub fn encode_recv_packet(from: &NodePublic, packet: &[u8]) -> Vec<u8> {
    encode(RECV_PACKET, &[from.as_bytes(), packet])
}

pub fn encode_note_preferred(is_home: bool) -> Vec<u8> {
    encode(NOTE_PREFERRED, &[&[u8::from(is_home)]])
}

pub fn encode_peer_gone(key: &NodePublic, reason: GoneReason) -> Vec<u8> {
    encode(PEER_GONE, &[key.as_bytes(), &[reason.to_wire()]])
}

/// Servers of old say no reason; that reads as "disconnected".
pub fn decode_peer_gone(payload: &[u8]) -> Option<(NodePublic, GoneReason)> {
    let (key, rest) = split_key(payload)?;
    Some((key, GoneReason::from_wire(rest.first().copied().unwrap_or(0))))
}

/// A key and what follows it.
pub(crate) fn split_key(payload: &[u8]) -> Option<(NodePublic, &[u8])> {
    let (key, rest) = payload.split_first_chunk::<KEY_BYTES>()?;
    Some((NodePublic::from_bytes(*key), rest))
}

/// What a role does with frames of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Read it whole, if its payload is at most this long; a longer one ends the connection.
    Read { most: usize },
    /// Pass over it, however long it is, without holding it.
    Skip,
}

/// A frame that is longer than its kind may be: the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of type {kind:#04x} with {length} bytes")]
pub struct TooLong {
    pub kind: u8,
    pub length: usize,
}

/// Cuts a byte stream into frames. Holds at most one incomplete frame and whatever was pushed after it.
pub struct Decoder {
    treat: fn(u8) -> Treatment,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were given out.
    used: usize,
    /// Bytes of a passed-over frame that are still to come.
    skipping: usize,
}

impl Decoder {
    pub fn new(treat: fn(u8) -> Treatment) -> Self {
        Self { treat, buffer: Vec::new(), used: 0, skipping: 0 }
    }

    /// What frames are treated how from now on (a relay reads more of a client that has logged in).
    pub fn set_treatment(&mut self, treat: fn(u8) -> Treatment) {
        self.treat = treat;
    }

    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        if self.skipping > 0 && self.buffer.is_empty() {
            let passed = self.skipping.min(bytes.len());
            self.skipping -= passed;
            bytes = &bytes[passed..];
        }
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES && bytes.len() <= KEPT_BYTES {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame: its type and payload. `None`: push more.
    ///
    /// # Errors
    /// [`TooLong`], again on every further call.
    pub fn next_frame(&mut self) -> Result<Option<(u8, &[u8])>, TooLong> {
        loop {
            let passed = self.skipping.min(self.buffer.len() - self.used);
            self.used += passed;
            self.skipping -= passed;
            let Some((header, rest)) = self.buffer[self.used..].split_first_chunk::<HEADER_BYTES>() else {
                return Ok(None);
            };
            let kind = header[0];
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            match (self.treat)(kind) {
                Treatment::Skip => {
                    self.used += HEADER_BYTES;
                    self.skipping = length;
                }
                Treatment::Read { most } if length > most => return Err(TooLong { kind, length }),
                Treatment::Read { .. } if rest.len() < length => return Ok(None),
                Treatment::Read { .. } => {
                    let begin = self.used + HEADER_BYTES;
                    self.used = begin + length;
                    return Ok(Some((kind, &self.buffer[begin..self.used])));
                }
            }
        }
    }

    /// Bytes held and not yet given out.
    pub fn held(&self) -> usize {
        self.buffer.len() - self.used
    }
}

/// A drained buffer larger than this is given back: idle connections should hold little.
const KEPT_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn treat(kind: u8) -> Treatment {
        if kind < 0x80 { Treatment::Read { most: 1000 } } else { Treatment::Skip }
    }

    #[test]
    fn a_keepalive_is_five_bytes_and_a_gone_peer_thirty_three() {
        assert_eq!(encode(KEEP_ALIVE, &[]), [6, 0, 0, 0, 0]);
        let gone = encode_peer_gone(&NodePublic::from_bytes([7; 32]), GoneReason::NotHere);
        assert_eq!(gone.len(), HEADER_BYTES + 33);
        assert_eq!(decode_peer_gone(&gone[5..]), Some((NodePublic::from_bytes([7; 32]), GoneReason::NotHere)));
        assert_eq!(decode_peer_gone(&gone[5..37]).unwrap().1, GoneReason::Disconnected);
    }

    #[test]
    fn a_frame_beyond_its_cap_ends_the_stream_before_it_is_held() {
        let mut decoder = Decoder::new(treat);
        decoder.push(&[1, 0, 0, 3, 233]);
        assert_eq!(decoder.next_frame(), Err(TooLong { kind: 1, length: 1001 }));
        assert_eq!(decoder.next_frame(), Err(TooLong { kind: 1, length: 1001 }));
    }

    #[test]
    fn an_unknown_frame_is_passed_over_without_being_held() {
        let mut decoder = Decoder::new(treat);
        decoder.push(&[0x90, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next_frame(), Ok(None));
        for _ in 0..1000 {
            decoder.push(&[0; 4096]);
            assert_eq!(decoder.next_frame(), Ok(None));
            assert_eq!(decoder.held(), 0);
        }
    }

    #[test]
    fn only_long_packets_with_the_magic_are_disco() {
        let mut packet = [DISCO_MAGIC.as_slice(), &[0; 56]].concat();
        assert!(looks_like_disco(&packet));
        assert!(!looks_like_disco(&packet[..61]));
        packet[5] ^= 1;
        assert!(!looks_like_disco(&packet));
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1_usize..50, 1..10),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(kind, payload)| encode(*kind, &[payload])).collect();
            let mut decoder = Decoder::new(treat);
            let (mut seen, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                decoder.push(piece);
                while let Some((kind, payload)) = decoder.next_frame().unwrap() {
                    seen.push((kind, payload.to_vec()));
                }
                rest = after;
            }
            let expected: Vec<_> = frames.into_iter().filter(|(kind, _)| *kind < 0x80).collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(decoder.held(), 0);
        }
    }
}
