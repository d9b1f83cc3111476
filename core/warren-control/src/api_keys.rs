//! API keys: how they look, what each may do, and how an operator makes and ends them.
//!
//! ```text
//! wkey-api-<12 hex digits: finds the row>-<64 hex digits: 32 random bytes>
//! ```
//!
//! Of the second part only the SHA-256 is kept, as of join keys. Which request needs which scope is the API's to say.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_crypto::{Random, UnixTime, ct_eq, sha256};

use crate::auth_keys::{KeySecret, hex};
use crate::command::{Answer, Refusal};
use crate::register::next;
use crate::registry::Registry;
use crate::rows::{ApiKey, ApiKeyId};
use crate::staged::Staged;

const LABEL: &str = "wkey-api-";
const PREFIX_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;

/// More than people and programs of a large network need: each request that names none is looked up among them.
const MOST_KEYS: usize = 1000;

/// The use of a key is written down at most this often, for each time is a commit.
const SEEN_EVERY: Duration = Duration::from_secs(10 * 60);

/// What a key may do. A scope of one noun reads and changes that noun and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiScope {
    /// Everything, API keys too.
    All,
    /// Look at everything, change nothing.
    Read,
    /// People.
    Users,
    /// Devices.
    Nodes,
    /// Join keys.
    Keys,
    /// The policy.
    Policy,
    /// Services with addresses of their own.
    Services,
    /// Devices and shell sessions that wait to be let in.
    Auth,
}

impl ApiScope {
    /// All of them.
    pub const EVERY: [Self; 8] =
        [Self::All, Self::Read, Self::Users, Self::Nodes, Self::Keys, Self::Policy, Self::Services, Self::Auth];

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Read => "read",
            Self::Users => "users",
            Self::Nodes => "nodes",
            Self::Keys => "keys",
            Self::Policy => "policy",
            Self::Services => "services",
            Self::Auth => "auth",
        }
    }
}

impl fmt::Display for ApiScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scope: say all, read, users, nodes, keys, policy, services or auth")]
pub struct NoScope(String);

impl FromStr for ApiScope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Self, NoScope> {
        // The word may be anything, a key by mistake too: what is not a scope's shape is not repeated.
        let shown = || if text.len() <= 16 { text.to_owned() } else { "…".to_owned() };
        Self::EVERY.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| NoScope(shown()))
    }
}

/// Why a text is not the secret of a key that is good now. For the log; the caller is told nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyRefusal {
    /// Not of the form of an API key.
    #[error("not an API key")]
    Malformed,
    /// No key has this prefix.
    #[error("no such API key")]
    Unknown,
    /// The prefix is a key's, the rest is not.
    #[error("wrong secret for API key {0}")]
    WrongSecret(String),
    /// It was good once.
    #[error("API key {0} has expired")]
    Expired(String),
}

/// The key that `text` is the secret of, if it is good at `now`.
///
/// # Errors
/// [`ApiKeyRefusal`].
pub fn check<'a>(registry: &'a Registry, text: &str, now: UnixTime) -> Result<&'a Arc<ApiKey>, ApiKeyRefusal> {
    let (prefix, secret) = split(text).ok_or(ApiKeyRefusal::Malformed)?;
    let key = registry.api_key_by_prefix(prefix).ok_or(ApiKeyRefusal::Unknown)?;
    if !ct_eq(&key.secret_sha256, &sha256(secret.as_bytes())) {
        return Err(ApiKeyRefusal::WrongSecret(key.prefix.clone()));
    }
    if key.expiry <= now { Err(ApiKeyRefusal::Expired(key.prefix.clone())) } else { Ok(key) }
}

/// Prefix and secret of a key's whole text.
fn split(text: &str) -> Option<(&str, &str)> {
    let (prefix, secret) = text.strip_prefix(LABEL)?.split_once('-')?;
    (is_hex(prefix, PREFIX_DIGITS) && is_hex(secret, SECRET_DIGITS)).then_some((prefix, secret))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl ApiKey {
    /// As lists show it: `wkey-api-0123456789ab-***`.
    pub fn masked(&self) -> String {
        format!("{LABEL}{}-***", self.prefix)
    }

    /// Whether a use of it is worth writing down again.
    pub fn is_news(&self, now: UnixTime) -> bool {
        self.last_seen.is_none_or(|seen| seen.saturating_add(SEEN_EVERY) <= now)
    }
}

/// The prefix that somebody means who wrote it bare, as a list shows it, or in the whole text of the key. What is not a
/// prefix is cut off, so that an error can repeat it.
pub fn prefix_of(text: &str) -> &str {
    let text = text.strip_prefix(LABEL).unwrap_or(text);
    let prefix = text.split('-').next().unwrap_or_default();
    prefix.get(..PREFIX_DIGITS).unwrap_or(prefix)
}

impl Staged {
    pub(crate) fn create_api_key(
        &mut self,
        scopes: BTreeSet<ApiScope>,
        expiry: UnixTime,
        now: UnixTime,
        random: &mut Random,
    ) -> Result<Answer, Refusal> {
        if scopes.is_empty() {
            return Err(Refusal::Invalid("an API key needs a scope, such as read".to_owned()));
        }
        if expiry <= now {
            return Err(Refusal::Invalid("an API key must expire in the future".to_owned()));
        }
        if self.state.registry.api_key_count() >= MOST_KEYS {
            return Err(Refusal::Conflict(format!("there are {MOST_KEYS} API keys; delete those that have expired")));
        }
        let prefix = loop {
            let prefix = hex(&random.bytes::<6>());
            if self.state.registry.api_key_by_prefix(&prefix).is_none() {
                break prefix;
            }
        };
        let secret = hex(&random.bytes::<32>());
        let text = KeySecret::new(format!("{LABEL}{prefix}-{secret}"));
        let id = ApiKeyId(self.count(|facts| next(&mut facts.next_api_key)));
        let may = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",");
        self.note(
            now,
            format!("api_key:{id}"),
            format!("prefix {prefix}, scopes {may}, until {}", expiry.to_rfc3339()),
        );
        let secret_sha256 = sha256(secret.as_bytes());
        let key = ApiKey { id, prefix, secret_sha256, scopes, created: now, expiry, last_seen: None };
        let key = self.put_api_key(key);
        Ok(Answer::ApiKey { key, secret: Some(text) })
    }

    pub(crate) fn expire_api_key(&mut self, id: ApiKeyId, now: UnixTime) -> Result<Answer, Refusal> {
        let mut key = self.api_key(id)?;
        if key.expiry > now {
            self.note(now, format!("api_key:{id}"), format!("prefix {}", key.prefix));
            key = self.put_api_key(ApiKey { expiry: now, ..ApiKey::clone(&key) });
        }
        Ok(Answer::ApiKey { key, secret: None })
    }

    pub(crate) fn delete_api_key(&mut self, id: ApiKeyId, now: UnixTime) -> Result<Answer, Refusal> {
        let key = self.api_key(id)?;
        self.note(now, format!("api_key:{id}"), format!("prefix {}", key.prefix));
        self.remove_api_key(id);
        Ok(Answer::Done)
    }

    /// Not worth a line of the audit table: what is done with a key has its own.
    pub(crate) fn see_api_key(&mut self, id: ApiKeyId, now: UnixTime) -> Result<Answer, Refusal> {
        let key = self.api_key(id)?;
        if key.is_news(now) {
            self.put_api_key(ApiKey { last_seen: Some(now), ..ApiKey::clone(&key) });
        }
        Ok(Answer::Done)
    }

    fn api_key(&self, id: ApiKeyId) -> Result<Arc<ApiKey>, Refusal> {
        let missing = || Refusal::NotFound { kind: "API key", name: id.to_string() };
        self.state.registry.api_key(id).cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_is_read_as_it_is_written_and_nothing_else_is_one() {
        for scope in ApiScope::EVERY {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_string(&scope).expect("JSON"), format!("\"{scope}\""));
        }
        for word in ["", "All", "write", "read ", "user"] {
            assert!(word.parse::<ApiScope>().is_err(), "{word:?}");
        }
        let key = format!("{LABEL}{}-{}", "0".repeat(12), "5e".repeat(32));
        assert!(!key.parse::<ApiScope>().expect_err("no scope").to_string().contains("5e5e"));
    }

    #[test]
    fn the_text_of_a_key_is_read_strictly() {
        let (prefix, secret) = ("0123456789ab", "5e".repeat(32));
        let whole = format!("{LABEL}{prefix}-{secret}");
        assert_eq!(split(&whole), Some((prefix, secret.as_str())));
        for wrong in [
            String::new(),
            whole.to_uppercase(),
            format!("wkey-auth-{prefix}-{secret}"),
            format!("{whole} "),
            format!(" {whole}"),
            format!("{whole}0"),
            format!("{LABEL}{prefix}{secret}"),
            format!("{LABEL}{prefix}-{}g", &secret[1..]),
            format!("{LABEL}{}-{secret}", prefix.to_uppercase()),
            format!("{LABEL}{prefix}-***"),
        ] {
            assert_eq!(split(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_prefix_is_found_however_a_list_shows_it() {
        let whole = format!("{LABEL}0123456789ab-{}", "5e".repeat(32));
        for text in ["0123456789ab", "wkey-api-0123456789ab", "wkey-api-0123456789ab-***", &whole] {
            assert_eq!(prefix_of(text), "0123456789ab");
        }
        assert_eq!(prefix_of(&"5e".repeat(32)), "5e5e5e5e5e5e", "a secret alone is not repeated whole");
        assert_eq!(prefix_of("ääääääää"), "ääääää");
    }
}
