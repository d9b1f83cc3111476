//! Keys as types: one type per purpose, public halves with the field's text forms, secret halves that cannot print.
//!
//! Text forms: prefix and 64 lower-case hexadecimal digits (`types/key` of the stock client). Curve25519 throughout, except
//! the lock keys (Ed25519).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use crate::seed::Random;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    #[error("a key of this kind begins with \"{0}\"")]
    Prefix(&'static str),
    #[error("a key is 64 hexadecimal digits after its prefix, this one has {0} characters")]
    Length(usize),
    #[error("a key holds only hexadecimal digits")]
    Digit,
}

/// Prefix of secret keys in files, the same for machine and node keys.
const SECRET_PREFIX: &str = "privkey:";

fn parse_hex(text: &str, prefix: &'static str) -> Result<[u8; 32], ParseKeyError> {
    let digits = text.strip_prefix(prefix).ok_or(ParseKeyError::Prefix(prefix))?;
    if digits.len() != 64 {
        return Err(ParseKeyError::Length(digits.len()));
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseKeyError::Digit)?;
    Ok(bytes)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// All zero: "none" in the control protocol.
            pub const ZERO: Self = Self([0; 32]);

            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }

            /// The first characters of the key's base64 in brackets, for logs.
            pub fn short(&self) -> String {
                use base64::Engine as _;
                let text = base64::engine::general_purpose::STANDARD.encode(self.0);
                format!("[{}]", &text[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            fn from_str(text: &str) -> Result<Self, ParseKeyError> {
                parse_hex(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! agreement_secret {
    ($(#[$doc:meta])* $name:ident, $public:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key that follows from 32 random bytes, clamped (RFC 7748 §5).
            pub fn from_seed(mut seed: [u8; 32]) -> Self {
                seed[0] &= 248;
                seed[31] = (seed[31] & 127) | 64;
                Self(seed)
            }

            pub fn generate(random: &mut Random) -> Self {
                Self::from_seed(random.bytes())
            }

            pub fn public(&self) -> $public {
                $public(PublicKey::from(&StaticSecret::from(self.0)).to_bytes())
            }

            /// X25519; `None` when the result is all zero, which only a hostile public key gives.
            pub fn agree(&self, public: &$public) -> Option<Zeroizing<[u8; 32]>> {
                agree(&self.0, &public.0)
            }

            /// X25519 with a public key that has no type of its own (an ephemeral key from the wire).
            pub fn agree_raw(&self, public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
                agree(&self.0, public)
            }

            /// For the owner's state file, and for nothing else.
            pub fn to_file_text(&self) -> Zeroizing<String> {
                Zeroizing::new(format!("{SECRET_PREFIX}{}", hex::encode(self.0)))
            }

            /// # Errors
            /// [`ParseKeyError`] if it is not what [`Self::to_file_text`] writes.
            pub fn from_file_text(text: &str) -> Result<Self, ParseKeyError> {
                parse_hex(text, SECRET_PREFIX).map(Self::from_seed)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

pub(crate) fn agree(secret: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let shared = StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

public_key!(
    /// Who a machine is towards the control server, and the server's own Noise key.
    MachinePublic, "mkey:");
public_key!(
    /// Who a node is towards peers and relays: its WireGuard key.
    NodePublic, "nodekey:");
public_key!(
    /// Who seals a node's disco messages.
    DiscoPublic, "discokey:");
public_key!(
    /// A control connection's challenge.
    ChallengePublic, "chalpub:");
public_key!(
    /// A relay's own key, in the untyped text form.
    RelayPublic, "");
public_key!(
    /// Tailnet-lock key (Ed25519).
    LockPublic, "nlpub:");

agreement_secret!(
    /// Secret half of [`MachinePublic`].
    MachineSecret, MachinePublic);
agreement_secret!(
    /// Secret half of [`NodePublic`].
    NodeSecret, NodePublic);
agreement_secret!(
    /// Secret half of [`DiscoPublic`].
    DiscoSecret, DiscoPublic);
agreement_secret!(
    /// Secret half of [`RelayPublic`].
    RelaySecret, RelayPublic);

impl NodeSecret {
    /// The shared secret with a relay, which a relay's login box is sealed with.
    pub(crate) fn agree_relay(&self, relay: &RelayPublic) -> Option<Zeroizing<[u8; 32]>> {
        agree(&self.0, &relay.0)
    }
}

impl RelaySecret {
    pub(crate) fn agree_node(&self, node: &NodePublic) -> Option<Zeroizing<[u8; 32]>> {
        agree(&self.0, &node.0)
    }
}

/// Secret half of [`LockPublic`].
#[derive(Clone)]
pub struct LockSecret([u8; 32]);

impl LockSecret {
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    pub fn generate(random: &mut Random) -> Self {
        Self(random.bytes())
    }

    pub fn public(&self) -> LockPublic {
        LockPublic(ed25519_dalek::SigningKey::from_bytes(&self.0).verifying_key().to_bytes())
    }

    /// For the owner's state file, and for nothing else.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("nlpriv:{}{}", hex::encode(self.0), hex::encode(self.public().0)))
    }

    /// # Errors
    /// [`ParseKeyError`] if it is not `nlpriv:` and 128 digits whose second half belongs to the first.
    pub fn from_file_text(text: &str) -> Result<Self, ParseKeyError> {
        let digits = text.strip_prefix("nlpriv:").ok_or(ParseKeyError::Prefix("nlpriv:"))?;
        if digits.len() != 128 {
            return Err(ParseKeyError::Length(digits.len()));
        }
        let mut bytes = Zeroizing::new([0; 64]);
        hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| ParseKeyError::Digit)?;
        let mut seed = [0; 32];
        seed.copy_from_slice(&bytes[..32]);
        let secret = Self(seed);
        if secret.public().0 != bytes[32..] {
            return Err(ParseKeyError::Digit);
        }
        Ok(secret)
    }
}

impl Drop for LockSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for LockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_have_the_text_forms_of_the_field() {
        let key = NodePublic::from_bytes([0xab; 32]);
        assert_eq!(key.to_string(), format!("nodekey:{}", "ab".repeat(32)));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(format!("MKEY:{}", "ab".repeat(32)).parse::<MachinePublic>(), Err(ParseKeyError::Prefix("mkey:")));
        assert_eq!("mkey:ab".parse::<MachinePublic>(), Err(ParseKeyError::Length(2)));
        assert_eq!(format!("mkey:{}", "zz".repeat(32)).parse::<MachinePublic>(), Err(ParseKeyError::Digit));
    }

    #[test]
    fn both_sides_agree_and_a_hostile_public_key_gives_nothing() {
        let mut random = Random::from_seed([1; 32]);
        let (a, b) = (NodeSecret::generate(&mut random), NodeSecret::generate(&mut random));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert_eq!(a.agree(&NodePublic::ZERO), None);
    }

    #[test]
    fn a_secret_survives_its_file_and_does_not_print() {
        let secret = DiscoSecret::from_seed([7; 32]);
        let again = DiscoSecret::from_file_text(&secret.to_file_text()).unwrap();
        assert_eq!(secret.public(), again.public());
        assert_eq!(format!("{secret:?}"), "DiscoSecret(..)");
        let lock = LockSecret::from_seed([9; 32]);
        assert_eq!(LockSecret::from_file_text(&lock.to_file_text()).unwrap().public(), lock.public());
    }
}
