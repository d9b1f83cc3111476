//! Transport messages: sealing and opening as pure functions of a key, a counter and bytes.
//!
//! A key is immutable and shared by `Arc`; the counter and the replay window belong to the key pair's owner, who
//! reserves counters in order ([`WireGuard::reserve`](crate::WireGuard::reserve)) and judges them in order afterwards.
//! So several threads may seal and open for one peer.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::message::{HEADER_LEN, OVERHEAD, TAG_LEN, read_u64, write_transport_header};

/// Counters end here, so that late packets of an exhausted key cannot wrap (whitepaper §6.1: 2^64 - 2^13 - 1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Seals for one direction of one key pair.
pub struct SendKey {
    receiver: u32,
    key: LessSafeKey,
}

/// Opens one direction of one key pair.
pub struct ReceiveKey {
    key: LessSafeKey,
}

/// A transport message that was opened in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The authenticated counter, for [`ReplayWindow::accept`](crate::ReplayWindow::accept).
    pub counter: u64,
    /// Length of the plaintext, which begins at byte 16 of the message; 0 is a keepalive. Still covers the padding.
    pub len: usize,
}

/// Why a transport message was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Fewer than 32 bytes.
    #[error("transport message is shorter than its header and tag")]
    Short,
    /// The tag does not verify.
    #[error("transport message is forged, or sealed with another key")]
    Forged,
}

impl SendKey {
    pub(crate) fn new(receiver: u32, key: &Zeroizing<[u8; 32]>) -> Self {
        Self { receiver, key: bind(key) }
    }

    /// Seals in place. `message` is the whole datagram: 16 bytes of headroom, the padded packet, 16 bytes for the tag.
    ///
    /// `counter` comes from a reserved range and is never used twice with this key.
    ///
    /// # Panics
    /// When `message` is shorter than 32 bytes.
    pub fn seal(&self, counter: u64, message: &mut [u8]) {
        let (header, rest) = message.split_at_mut(HEADER_LEN);
        write_transport_header(header, self.receiver, counter);
        let (body, tag_out) = rest.split_at_mut(rest.len() - TAG_LEN);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), body)
            .expect("a datagram is far below the cipher's limit");
        tag_out.copy_from_slice(tag.as_ref());
    }

    /// Seals `packet` into `out` (its length plus 32), leaving `packet` as it is: the encryption is the copy.
    ///
    /// For packets that need no padding; otherwise copy, pad and [`SendKey::seal`].
    ///
    /// # Panics
    /// When `out` is not 32 bytes longer than `packet`.
    pub fn seal_from(&self, counter: u64, packet: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), packet.len() + OVERHEAD, "room for header and tag");
        let (header, rest) = out.split_at_mut(HEADER_LEN);
        write_transport_header(header, self.receiver, counter);
        let (body, tag) = rest.split_at_mut(packet.len());
        self.key
            .seal_out_of_place_scatter(nonce(counter), Aad::empty(), packet, body, &[], tag)
            .expect("lengths were checked, and a datagram is far below the cipher's limit");
    }
}

impl ReceiveKey {
    pub(crate) fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self { key: bind(key) }
    }

    /// Opens one transport message in place; the packet then lies at bytes `16..16 + len` of `message`.
    ///
    /// `message` is a whole UDP payload: 16-byte header, ciphertext, 16-byte tag. The length still covers 0–15 bytes of
    /// padding. Whether the counter is new is judged afterwards, in order, so that several threads may open for one
    /// peer. On error `message` holds garbage.
    ///
    /// # Errors
    /// [`OpenError::Forged`]: the tag does not verify. [`OpenError::Short`]: under 32 bytes.
    ///
    /// Whitepaper §5.4.6.
    pub fn open(&self, message: &mut [u8]) -> Result<Opened, OpenError> {
        if message.len() < OVERHEAD {
            return Err(OpenError::Short);
        }
        let counter = read_u64(message, 8).ok_or(OpenError::Short)?;
        let plain = self
            .key
            .open_in_place(nonce(counter), Aad::empty(), &mut message[HEADER_LEN..])
            .map_err(|_| OpenError::Forged)?;
        Ok(Opened { counter, len: plain.len() })
    }
}

/// Length of a packet on the wire inside the tunnel: padded to 16 bytes, but not beyond `mtu_bytes`, and never cut.
///
/// Whitepaper §5.4.6; the limit keeps a full-sized packet from becoming a larger datagram than the path was measured for.
#[must_use]
pub fn padded_len(packet_len: usize, mtu_bytes: usize) -> usize {
    packet_len.next_multiple_of(16).min(mtu_bytes.max(packet_len))
}

fn bind(key: &Zeroizing<[u8; 32]>) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key[..]).expect("32 bytes are the cipher's key length"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SendKey, ReceiveKey) {
        let key = Zeroizing::new([9; 32]);
        (SendKey::new(0x0102_0304, &key), ReceiveKey::new(&key))
    }

    #[test]
    fn both_ways_of_sealing_give_the_same_bytes_and_open() {
        let (send, receive) = pair();
        let packet: Vec<u8> = (0..160).collect();
        let mut in_place = vec![0; packet.len() + OVERHEAD];
        in_place[16..176].copy_from_slice(&packet);
        send.seal(77, &mut in_place);
        let mut apart = vec![0; packet.len() + OVERHEAD];
        send.seal_from(77, &packet, &mut apart);
        assert_eq!(in_place, apart);
        assert_eq!(receive.open(&mut apart), Ok(Opened { counter: 77, len: 160 }));
        assert_eq!(&apart[16..176], &packet[..]);
    }

    #[test]
    fn any_flipped_bit_after_the_index_is_a_forgery() {
        let (send, receive) = pair();
        let mut sealed = vec![0; OVERHEAD + 16];
        send.seal(5, &mut sealed);
        for byte in 8..sealed.len() {
            let mut forged = sealed.clone();
            forged[byte] ^= 0x40;
            assert_eq!(receive.open(&mut forged), Err(OpenError::Forged), "byte {byte}");
        }
        assert_eq!(receive.open(&mut sealed[..31]), Err(OpenError::Short));
    }

    #[test]
    fn two_threads_seal_for_one_key() {
        fn shareable<T: Send + Sync>(_: &T) {}
        let (send, receive) = pair();
        shareable(&send);
        shareable(&receive);
    }

    #[test]
    fn padding_stops_at_the_mtu() {
        for (len, mtu, expect) in [
            (0, 1280, 0),
            (1, 1280, 16),
            (1279, 1280, 1280),
            (1280, 1280, 1280),
            (1415, 1420, 1420),
            (1500, 1420, 1500),
        ] {
            assert_eq!(padded_len(len, mtu), expect, "{len} in {mtu}");
        }
    }
}
