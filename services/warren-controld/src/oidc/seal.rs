//! Refresh tokens as they lie in the database: sealed with a key that is not in it.
//!
//! The key follows from the server's Noise key, which lies beside the database with mode 0600. So a copy of the
//! database alone gives nobody a way to the provider; and a server that got a new Noise key asks people to sign in anew.
//!
//! ```text
//! sealed = nonce (12) ‖ ciphertext ‖ tag (16)       AES-256-GCM-SIV; additional data: issuer, line feed, subject
//! ```

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use warren_control::rows::Sealed;
use warren_crypto::{MachineSecret, sha256};
use warren_oidc::Secret;

/// Longer than any provider's token; a row must not grow without bound.
const LONGEST_TOKEN: usize = 16 << 10;

/// See the module.
pub(super) struct Sealer {
    key: Option<RandomizedNonceKey>,
}

impl Sealer {
    pub(super) fn new(noise_key: &MachineSecret) -> Self {
        // The Noise key is 32 random bytes, so one hash with a label of its own is a key derivation.
        let text = noise_key.to_file_text();
        let key = sha256(format!("warren refresh tokens 1\n{}", text.as_str()).as_bytes());
        Self { key: RandomizedNonceKey::new(&AES_256_GCM_SIV, &key).ok() }
    }

    /// `None` if it cannot be sealed; then it is not kept.
    pub(super) fn seal(&self, token: &Secret, issuer: &str, subject: &str) -> Option<Sealed> {
        if token.expose().len() > LONGEST_TOKEN {
            return None;
        }
        let mut sealed = token.expose().as_bytes().to_vec();
        let nonce = self.key.as_ref()?.seal_in_place_append_tag(about(issuer, subject), &mut sealed).ok()?;
        Some(Sealed([&nonce.as_ref()[..], &sealed].concat()))
    }

    /// `None` if it was sealed with another key, for somebody else, or was changed.
    pub(super) fn open(&self, sealed: &Sealed, issuer: &str, subject: &str) -> Option<Secret> {
        let (nonce, rest) = sealed.0.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let token = self.key.as_ref()?.open_in_place(nonce, about(issuer, subject), &mut rest).ok()?;
        Some(Secret::new(String::from_utf8(token.to_vec()).ok()?))
    }
}

fn about(issuer: &str, subject: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{issuer}\n{subject}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_with_its_key_for_its_person_alone() {
        let sealer = Sealer::new(&MachineSecret::from_seed([1; 32]));
        let other = Sealer::new(&MachineSecret::from_seed([2; 32]));
        let token = Secret::new("refresh-me");
        let sealed = sealer.seal(&token, "https://id.example", "42").expect("sealed");
        assert!(!sealed.0.windows(7).any(|bytes| bytes == b"refresh"));
        assert_ne!(sealer.seal(&token, "https://id.example", "42"), Some(sealed.clone()));
        assert_eq!(sealer.open(&sealed, "https://id.example", "42"), Some(token));
        assert_eq!(sealer.open(&sealed, "https://id.example", "43"), None);
        assert_eq!(other.open(&sealed, "https://id.example", "42"), None);
        for at in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[at] ^= 1;
            assert_eq!(sealer.open(&changed, "https://id.example", "42"), None);
        }
        assert_eq!(sealer.open(&Sealed(Vec::new()), "https://id.example", "42"), None);
        assert_eq!(sealer.seal(&Secret::new("x".repeat(LONGEST_TOKEN + 1)), "i", "s"), None);
    }
}
