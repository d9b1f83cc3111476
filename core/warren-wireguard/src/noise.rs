//! The symmetric half of the handshake: chaining key, transcript hash, and the functions of whitepaper §5.4.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U16};
use blake2::{Blake2s256, Blake2sMac, Digest};
use zeroize::Zeroizing;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const BLOCK: usize = 64;

/// A key or chaining key; wiped when dropped.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// What both sides have mixed so far.
#[derive(Clone)]
pub(crate) struct Symmetric {
    chain: Key,
    transcript: [u8; 32],
}

impl Symmetric {
    /// The state before the first message to (or at) the responder with this static key.
    pub(crate) fn new(responder: &[u8; 32]) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let transcript = hash(&[&hash(&[&chain, IDENTIFIER]), responder]);
        Self { chain: Zeroizing::new(chain), transcript }
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.transcript = hash(&[&self.transcript, data]);
    }

    /// Ephemeral keys enter the chain as well as the transcript, as in every PSK pattern of Noise (§9.2).
    pub(crate) fn mix_ephemeral(&mut self, ephemeral: &[u8; 32]) {
        let [chain] = kdf(&self.chain, ephemeral);
        self.chain = chain;
        self.mix_hash(ephemeral);
    }

    /// Mixes a Diffie-Hellman result; the key is for the next sealed field.
    pub(crate) fn mix_key(&mut self, shared: &[u8; 32]) -> Key {
        let [chain, key] = kdf(&self.chain, shared);
        self.chain = chain;
        key
    }

    /// Mixes a Diffie-Hellman result after which nothing is sealed.
    pub(crate) fn mix_chain(&mut self, shared: &[u8; 32]) {
        let [chain] = kdf(&self.chain, shared);
        self.chain = chain;
    }

    pub(crate) fn mix_psk(&mut self, psk: &[u8; 32]) -> Key {
        let [chain, transcript_part, key] = kdf(&self.chain, psk);
        self.chain = chain;
        self.mix_hash(&transcript_part[..]);
        key
    }

    /// Seals a field (`out` is 16 bytes longer) and mixes it.
    pub(crate) fn seal(&mut self, key: &Key, plain: &[u8], out: &mut [u8]) {
        let (body, tag_out) = out.split_at_mut(plain.len());
        body.copy_from_slice(plain);
        let tag = aead(key)
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(&self.transcript), body)
            .expect("a handshake field is far below the cipher's limit");
        tag_out.copy_from_slice(tag.as_ref());
        self.mix_hash(out);
    }

    /// Opens a field of `N` bytes and mixes it; `None` when it is forged.
    pub(crate) fn open<const N: usize>(&mut self, key: &Key, sealed: &[u8]) -> Option<[u8; N]> {
        let mut copy = [0; 64];
        let copy = copy.get_mut(..sealed.len())?;
        copy.copy_from_slice(sealed);
        let plain = aead(key).open_in_place(zero_nonce(), Aad::from(&self.transcript), copy).ok()?;
        let plain = plain[..].try_into().ok()?;
        self.mix_hash(sealed);
        Some(plain)
    }

    /// The two transport keys: initiator to responder, responder to initiator.
    pub(crate) fn split(self) -> [Key; 2] {
        kdf(&self.chain, &[])
    }
}

/// BLAKE2s-256 of the concatenation.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s with a 16-byte result; `key` is at most 32 bytes.
pub(crate) fn mac(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mut state = Blake2sMac::<U16>::new_from_slice(key).expect("MAC keys here are 16 or 32 bytes");
    Update::update(&mut state, data);
    state.finalize_fixed().into()
}

/// HKDF with HMAC-BLAKE2s: `N` outputs, at most three (Noise §4.3).
fn kdf<const N: usize>(chain: &Key, input: &[u8]) -> [Key; N] {
    let extracted = hmac(&chain[..], &[input]);
    let mut last: Key = Zeroizing::new([0; 32]);
    std::array::from_fn(|i| {
        let number = [u8::try_from(i + 1).expect("at most three outputs")];
        last = if i == 0 { hmac(&extracted[..], &[&number]) } else { hmac(&extracted[..], &[&last[..], &number]) };
        last.clone()
    })
}

/// HMAC (RFC 2104) over BLAKE2s-256; keys here are 32 bytes, so never longer than a block.
fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut inner_pad = Zeroizing::new([0x36; BLOCK]);
    let mut outer_pad = Zeroizing::new([0x5c; BLOCK]);
    for (i, byte) in key.iter().enumerate() {
        inner_pad[i] ^= byte;
        outer_pad[i] ^= byte;
    }
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, &inner_pad[..]);
    for part in parts {
        Digest::update(&mut inner, part);
    }
    let inner: [u8; 32] = inner.finalize().into();
    Zeroizing::new(hash(&[&outer_pad[..], &inner]))
}

fn aead(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key[..]).expect("32 bytes are the cipher's key length"))
}

/// Each handshake key seals one field.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blake2s_of_abc_is_the_digest_in_rfc_7693_appendix_b() {
        let digest: String = hash(&[b"a", b"bc"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    }

    #[test]
    fn a_sealed_field_opens_only_with_the_same_transcript() {
        let mut sealing = Symmetric::new(&[1; 32]);
        let mut opening = sealing.clone();
        let mut elsewhere = Symmetric::new(&[2; 32]);
        let key = Zeroizing::new([3; 32]);
        let mut sealed = [0; 21];
        sealing.seal(&key, b"hello", &mut sealed);
        assert_eq!(opening.open::<5>(&key, &sealed), Some(*b"hello"));
        assert_eq!(opening.transcript, sealing.transcript);
        assert_eq!(elsewhere.open::<5>(&key, &sealed), None);
    }
}
