//! The symmetric state: chaining key, handshake hash, and the key of the moment.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest};
use hmac::{KeyInit, Mac, SimpleHmac};
use zeroize::Zeroizing;

const PROTOCOL: &[u8] = b"Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// The two keys that a finished handshake gives.
pub(crate) struct TransportKeys {
    pub(crate) initiator_to_responder: Zeroizing<[u8; 32]>,
    pub(crate) responder_to_initiator: Zeroizing<[u8; 32]>,
}

/// Noise §5.2. A key is used for one message only here, so its nonce is always zero.
pub(crate) struct Symmetric {
    hash: [u8; 32],
    chaining: Zeroizing<[u8; 32]>,
    key: Zeroizing<[u8; 32]>,
}

impl Symmetric {
    /// The state after the prologue and the responder's static key, which both sides know beforehand.
    pub(crate) fn new(prologue: &[u8], responder: &[u8; 32]) -> Self {
        // The protocol's name is longer than a hash, so it is hashed rather than padded.
        let hash: [u8; 32] = Blake2s256::digest(PROTOCOL).into();
        let mut state = Symmetric { hash, chaining: Zeroizing::new(hash), key: Zeroizing::new([0; 32]) };
        state.mix_hash(prologue);
        state.mix_hash(responder);
        state
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Blake2s256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    pub(crate) fn mix_key(&mut self, secret: &[u8; 32]) {
        let (chaining, key) = hkdf(&self.chaining, secret);
        (self.chaining, self.key) = (chaining, key);
    }

    /// Encrypts `plain`, appends ciphertext and tag to `out`, and binds them into the hash.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        let mut sealed = plain.to_vec();
        // The only errors of this library call are lengths beyond 2^36 bytes.
        if let Some(key) = cipher(&self.key) {
            let done = key.seal_in_place_append_tag(zero_nonce(), Aad::from(self.hash), &mut sealed);
            debug_assert!(done.is_ok());
        }
        out.extend_from_slice(&sealed);
        let hashed = out[begin..].to_vec();
        self.mix_hash(&hashed);
    }

    /// Decrypts what the other side sealed; `None` if it did not.
    pub(crate) fn open(&mut self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let plain = cipher(&self.key)?.open_in_place(zero_nonce(), Aad::from(self.hash), &mut buffer).ok()?.len();
        buffer.truncate(plain);
        self.mix_hash(sealed);
        Some(buffer)
    }

    pub(crate) fn split(self) -> TransportKeys {
        let (first, second) = hkdf(&self.chaining, &[]);
        TransportKeys { initiator_to_responder: first, responder_to_initiator: second }
    }
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

type Key = Zeroizing<[u8; 32]>;

/// HKDF with two outputs (RFC 5869, empty info) over HMAC-BLAKE2s.
fn hkdf(chaining: &[u8; 32], input: &[u8]) -> (Key, Key) {
    let extracted = hmac(chaining, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[first.as_slice(), &[2]]);
    (first, second)
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let mut mac = SimpleHmac::<Blake2s256>::new(&blake2::digest::Key::<SimpleHmac<Blake2s256>>::from(block(key)));
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HMAC pads a short key with zeros to the hash's block (64 bytes).
fn block(key: &[u8; 32]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    block
}
