//! The four messages, as bytes. All integers are little-endian.
//!
//! ```text
//! initiation 148  type=1 | sender u32 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 16 | mac2 16
//! response    92  type=2 | sender u32 | receiver u32 | ephemeral 32 | empty 0+16      | mac1 16 | mac2 16
//! cookie      64  type=3 | receiver u32 | nonce 24 | cookie 16+16
//! transport  ≥32  type=4 | receiver u32 | counter u64 | packet n+16
//! ```
//! The type is one byte followed by three zero bytes. Whitepaper §5.4.

/// Length of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_LEN: usize = 64;
/// Bytes before the ciphertext of a transport message.
pub const HEADER_LEN: usize = 16;
/// Bytes of the Poly1305 tag.
pub const TAG_LEN: usize = 16;
/// What a transport message adds to the packet that it carries.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const TYPE_INITIATION: u32 = 1;
const TYPE_RESPONSE: u32 = 2;
const TYPE_COOKIE: u32 = 3;
const TYPE_TRANSPORT: u32 = 4;
const MACS_LEN: usize = 32;

/// What a datagram is by its first bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Initiation, response or cookie reply of its exact length: for [`WireGuard::handle_handshake`](crate::WireGuard::handle_handshake).
    Handshake,
    /// A transport message of at least 32 bytes.
    Transport {
        /// Our index, which names the key pair.
        receiver: u32,
        /// The sender's counter, not yet authenticated.
        counter: u64,
    },
}

/// Classifies a whole datagram; `None` when it is no WireGuard message.
#[must_use]
pub fn kind(datagram: &[u8]) -> Option<Kind> {
    match read_u32(datagram, 0)? {
        TYPE_TRANSPORT if datagram.len() >= OVERHEAD => {
            Some(Kind::Transport { receiver: read_u32(datagram, 4)?, counter: read_u64(datagram, 8)? })
        }
        TYPE_INITIATION if datagram.len() == INITIATION_LEN => Some(Kind::Handshake),
        TYPE_RESPONSE if datagram.len() == RESPONSE_LEN => Some(Kind::Handshake),
        TYPE_COOKIE if datagram.len() == COOKIE_LEN => Some(Kind::Handshake),
        _ => None,
    }
}

/// A handshake message with its fields apart; nothing of it is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Type 1.
    Initiation(Initiation),
    /// Type 2.
    Response(Response),
    /// Type 3.
    Cookie(CookieReply),
}

/// Handshake initiation without its MACs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiation {
    /// The initiator's index.
    pub sender: u32,
    /// The initiator's ephemeral public key, in clear.
    pub ephemeral: [u8; 32],
    /// The initiator's static public key, sealed.
    pub sealed_static: [u8; 48],
    /// TAI64N stamp, sealed.
    pub sealed_timestamp: [u8; 28],
}

/// Handshake response without its MACs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The responder's index.
    pub sender: u32,
    /// The initiator's index.
    pub receiver: u32,
    /// The responder's ephemeral public key, in clear.
    pub ephemeral: [u8; 32],
    /// An empty plaintext, sealed.
    pub sealed_empty: [u8; 16],
}

/// Cookie reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// Index of the message that is answered.
    pub receiver: u32,
    /// XChaCha20-Poly1305 nonce.
    pub nonce: [u8; 24],
    /// The cookie, sealed.
    pub sealed_cookie: [u8; 32],
}

impl Handshake {
    /// Takes a datagram apart; `None` unless [`kind`] says [`Kind::Handshake`].
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        match (read_u32(datagram, 0)?, datagram.len()) {
            (TYPE_INITIATION, INITIATION_LEN) => Some(Self::Initiation(Initiation {
                sender: read_u32(datagram, 4)?,
                ephemeral: read(datagram, 8)?,
                sealed_static: read(datagram, 40)?,
                sealed_timestamp: read(datagram, 88)?,
            })),
            (TYPE_RESPONSE, RESPONSE_LEN) => Some(Self::Response(Response {
                sender: read_u32(datagram, 4)?,
                receiver: read_u32(datagram, 8)?,
                ephemeral: read(datagram, 12)?,
                sealed_empty: read(datagram, 44)?,
            })),
            (TYPE_COOKIE, COOKIE_LEN) => Some(Self::Cookie(CookieReply {
                receiver: read_u32(datagram, 4)?,
                nonce: read(datagram, 8)?,
                sealed_cookie: read(datagram, 32)?,
            })),
            _ => None,
        }
    }
}

impl Initiation {
    /// The message with zero MACs, for [`crate::macs`] to fill.
    #[must_use]
    pub fn encode(&self) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        out[0..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
        out[4..8].copy_from_slice(&self.sender.to_le_bytes());
        out[8..40].copy_from_slice(&self.ephemeral);
        out[40..88].copy_from_slice(&self.sealed_static);
        out[88..116].copy_from_slice(&self.sealed_timestamp);
        out
    }
}

impl Response {
    /// The message with zero MACs, for [`crate::macs`] to fill.
    #[must_use]
    pub fn encode(&self) -> [u8; RESPONSE_LEN] {
        let mut out = [0; RESPONSE_LEN];
        out[0..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
        out[4..8].copy_from_slice(&self.sender.to_le_bytes());
        out[8..12].copy_from_slice(&self.receiver.to_le_bytes());
        out[12..44].copy_from_slice(&self.ephemeral);
        out[44..60].copy_from_slice(&self.sealed_empty);
        out
    }
}

impl CookieReply {
    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> [u8; COOKIE_LEN] {
        let mut out = [0; COOKIE_LEN];
        out[0..4].copy_from_slice(&TYPE_COOKIE.to_le_bytes());
        out[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        out[8..32].copy_from_slice(&self.nonce);
        out[32..64].copy_from_slice(&self.sealed_cookie);
        out
    }
}

/// Writes a transport header; `out` holds at least 16 bytes.
pub(crate) fn write_transport_header(out: &mut [u8], receiver: u32, counter: u64) {
    out[0..4].copy_from_slice(&TYPE_TRANSPORT.to_le_bytes());
    out[4..8].copy_from_slice(&receiver.to_le_bytes());
    out[8..16].copy_from_slice(&counter.to_le_bytes());
}

/// Where the two MACs of an initiation or response begin; `None` for a message too short to hold them.
pub(crate) fn macs_at(message: &[u8]) -> Option<usize> {
    message.len().checked_sub(MACS_LEN)
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    read(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let initiation =
            Initiation { sender: 7, ephemeral: [1; 32], sealed_static: [2; 48], sealed_timestamp: [3; 28] };
        assert_eq!(Handshake::decode(&initiation.encode()), Some(Handshake::Initiation(initiation)));
        let response = Response { sender: 8, receiver: 7, ephemeral: [4; 32], sealed_empty: [5; 16] };
        assert_eq!(Handshake::decode(&response.encode()), Some(Handshake::Response(response)));
        let cookie = CookieReply { receiver: 9, nonce: [6; 24], sealed_cookie: [7; 32] };
        assert_eq!(Handshake::decode(&cookie.encode()), Some(Handshake::Cookie(cookie)));
    }

    #[test]
    fn a_wrong_length_or_nonzero_reserved_byte_is_no_message() {
        let good =
            Initiation { sender: 7, ephemeral: [1; 32], sealed_static: [2; 48], sealed_timestamp: [3; 28] }.encode();
        assert_eq!(kind(&good), Some(Kind::Handshake));
        for len in (0..good.len()).filter(|len| *len != RESPONSE_LEN) {
            assert_eq!(kind(&good[..len]), None, "{len} bytes");
        }
        let mut reserved = good;
        reserved[2] = 1;
        assert_eq!(kind(&reserved), None);
        assert_eq!(kind(&[4, 0, 0, 0]), None);
        let mut transport = [0; 32];
        write_transport_header(&mut transport, 5, 6);
        assert_eq!(kind(&transport), Some(Kind::Transport { receiver: 5, counter: 6 }));
        assert_eq!(kind(&transport[..31]), None);
    }
}
