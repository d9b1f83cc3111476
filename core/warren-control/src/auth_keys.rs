//! Join keys: how they look, how they are checked.
//!
//! ```text
//! wkey-auth-<12 hex digits: finds the row>-<64 hex digits: 32 random bytes>
//! ```
//!
//! Of the second part only the SHA-256 is kept ([`PreAuthKey::secret_sha256`] says why not bcrypt). A one-off key is
//! consumed on the same staged overlay that grants it, so two machines in one batch cannot both have it.

use std::fmt;

use warren_crypto::{Random, UnixTime, ct_eq, sha256};

use crate::command::RegisterRefusal;
use crate::registry::Registry;
use crate::rows::PreAuthKey;

const LABEL: &str = "wkey-auth-";
const PREFIX_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;

/// The whole text of a new key, to be shown once. It does not print by accident.
#[derive(Clone)]
pub struct KeySecret(String);

impl KeySecret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever asked for the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

/// What a new key is made of.
pub(crate) struct Minted {
    pub(crate) prefix: String,
    pub(crate) secret_sha256: [u8; 32],
    pub(crate) text: KeySecret,
}

/// Makes a key whose prefix no other has.
pub(crate) fn mint(registry: &Registry, random: &mut Random) -> Minted {
    loop {
        let prefix = hex(&random.bytes::<6>());
        if registry.key_by_prefix(&prefix).is_some() {
            continue;
        }
        let secret = hex(&random.bytes::<32>());
        let secret_sha256 = sha256(secret.as_bytes());
        return Minted { text: KeySecret(format!("{LABEL}{prefix}-{secret}")), prefix, secret_sha256 };
    }
}

/// The key that `text` is the secret of, whatever its state.
///
/// # Errors
/// [`RegisterRefusal::InvalidKey`] for everything else: no hint says how close a guess was.
pub(crate) fn find<'a>(registry: &'a Registry, text: &str) -> Result<&'a std::sync::Arc<PreAuthKey>, RegisterRefusal> {
    let parts = text.strip_prefix(LABEL).and_then(|rest| rest.split_once('-'));
    let parts = parts.filter(|(prefix, secret)| prefix.len() == PREFIX_DIGITS && secret.len() == SECRET_DIGITS);
    let key = parts.and_then(|(prefix, secret)| Some((registry.key_by_prefix(prefix)?, secret)));
    let fits = key.filter(|(key, secret)| ct_eq(&key.secret_sha256, &sha256(secret.as_bytes())));
    fits.map(|(key, _)| key).ok_or(RegisterRefusal::InvalidKey)
}

/// Whether a key may let one more node in.
///
/// # Errors
/// Revoked, expired or used up.
pub(crate) fn check(key: &PreAuthKey, now: UnixTime) -> Result<(), RegisterRefusal> {
    if key.revoked {
        Err(RegisterRefusal::KeyRevoked)
    } else if key.expiry.is_some_and(|expiry| expiry <= now) {
        Err(RegisterRefusal::KeyExpired)
    } else if key.used && !key.reusable {
        Err(RegisterRefusal::KeyUsed)
    } else {
        Ok(())
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot go wrong
        text
    })
}
