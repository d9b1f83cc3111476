//! The NaCl box: X25519, HSalsa20, XSalsa20-Poly1305, with the shared key worked out once per peer.
//!
//! ```text
//! 0        24    40
//! | nonce  | tag | ciphertext …        overhead 40 bytes
//! ```

use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use salsa20::cipher::consts::U10;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use salsa20::{XSalsa20, hsalsa};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{DiscoPublic, DiscoSecret, NodePublic, NodeSecret, RelayPublic, RelaySecret};
use crate::seed::Random;

/// Nonce before the tag.
pub const NONCE_BYTES: usize = 24;
/// Poly1305 tag before the ciphertext.
pub const TAG_BYTES: usize = 16;
/// What a box adds to its content, the nonce included.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// The key of two parties, the same on both sides and in both directions.
#[derive(Clone)]
pub struct SharedBox([u8; 32]);

impl SharedBox {
    /// Between two nodes' disco keys. `None`: the peer's key is hostile (all-zero agreement).
    pub fn disco(own: &DiscoSecret, peer: &DiscoPublic) -> Option<Self> {
        own.agree(peer).map(Self::from_agreement)
    }

    /// A node's side of a relay login.
    pub fn relay_client(own: &NodeSecret, relay: &RelayPublic) -> Option<Self> {
        own.agree_relay(relay).map(Self::from_agreement)
    }

    /// The relay's side of a login.
    pub fn relay_server(own: &RelaySecret, node: &NodePublic) -> Option<Self> {
        own.agree_node(node).map(Self::from_agreement)
    }

    fn from_agreement(shared: Zeroizing<[u8; 32]>) -> Self {
        let key = hsalsa::<U10>(&(*shared).into(), &[0; 16].into());
        Self(key.into())
    }

    /// Tag and ciphertext; the caller sends the nonce before them. A nonce must never seal two different messages.
    pub fn seal(&self, nonce: &[u8; NONCE_BYTES], plain: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; TAG_BYTES];
        sealed.extend_from_slice(plain);
        let (mac_key, mut cipher) = self.start(nonce);
        cipher.apply_keystream(&mut sealed[TAG_BYTES..]);
        let tag = Poly1305::new((&*mac_key).into()).compute_unpadded(&sealed[TAG_BYTES..]);
        sealed[..TAG_BYTES].copy_from_slice(&tag);
        sealed
    }

    /// Nonce, tag and ciphertext, with a nonce of its own.
    pub fn seal_with_nonce(&self, random: &mut Random, plain: &[u8]) -> Vec<u8> {
        let nonce = random.bytes::<NONCE_BYTES>();
        [nonce.as_slice(), &self.seal(&nonce, plain)].concat()
    }

    /// Opens nonce, tag and ciphertext; `None` if it is too short or was not sealed with this key.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (tag, ciphertext) = rest.split_first_chunk::<TAG_BYTES>()?;
        let (mac_key, mut cipher) = self.start(nonce);
        let expected = Poly1305::new((&*mac_key).into()).compute_unpadded(ciphertext);
        if !bool::from(expected.as_slice().ct_eq(tag)) {
            return None;
        }
        let mut plain = ciphertext.to_vec();
        cipher.apply_keystream(&mut plain);
        Some(plain)
    }

    /// The first 32 bytes of the key stream are the tag's key, the rest seals.
    fn start(&self, nonce: &[u8; NONCE_BYTES]) -> (Zeroizing<[u8; 32]>, XSalsa20) {
        let mut cipher = XSalsa20::new((&self.0).into(), nonce.into());
        let mut mac_key = Zeroizing::new([0; 32]);
        cipher.apply_keystream(mac_key.as_mut_slice());
        (mac_key, cipher)
    }
}

impl Drop for SharedBox {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for SharedBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedBox(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (SharedBox, SharedBox) {
        let (a, b) = (DiscoSecret::from_seed([1; 32]), DiscoSecret::from_seed([2; 32]));
        (SharedBox::disco(&a, &b.public()).unwrap(), SharedBox::disco(&b, &a.public()).unwrap())
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let (a, b) = pair();
        let sealed = a.seal_with_nonce(&mut Random::from_seed([3; 32]), b"hello");
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(b.open(&bad), None, "byte {at}");
        }
        assert_eq!(b.open(&sealed[..39]), None);
    }

    proptest! {
        #[test]
        fn the_other_side_opens_what_was_sealed(plain in prop::collection::vec(any::<u8>(), 0..300)) {
            let (a, b) = pair();
            let sealed = a.seal_with_nonce(&mut Random::from_seed([5; 32]), &plain);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
            prop_assert_eq!(b.open(&sealed), Some(plain));
        }
    }
}
