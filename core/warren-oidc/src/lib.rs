//! A relying party of OpenID Connect as values: what to ask an identity provider, and what its answers prove.
//!
//! ```text
//! Provider::parse(discovery)                  where to ask, after it was held against the configured issuer
//!   Login::url                               the person's browser goes there, with PKCE, nonce and state
//!   code_request, refresh_request             what to post to the token endpoint
//! Tokens::parse(answer)                       or the provider's refusal
//! KeySet::parse(jwks) ─▶ Claims::verify         signature, issuer, audience, times, nonce ─▶ Claims
//! Claims ─▶ profile(...) ─▶ Rules::admit      who it is, and whether they may
//! ```
//!
//! [`Claims`] cannot be made but by verification, so no handler can use a token that nobody checked.
//!
//! What it is not: no HTTP, no clock, no cookies, no state between two steps. The code flow alone (RFC 6749 §4.1 with
//! RFC 7636), signatures alone: nothing encrypted, no `none`, no shared-secret algorithms.
//!
//! OpenID Connect Core 1.0, Discovery 1.0; RFC 7515, 7517, 7518, 7519, 8037, 9207.

#![forbid(unsafe_code)]

mod claims;
mod keys;
mod login;
mod profile;
mod provider;
mod rules;
mod secret;
mod tokens;

pub use claims::{Claims, ClaimsError, Expected};
pub use keys::{KeySet, KeySetError, SignatureError};
pub use login::Login;
pub use profile::{Profile, ProfileError};
pub use provider::{Provider, ProviderError};
pub use rules::{NotAdmitted, Rules};
pub use secret::Secret;
pub use tokens::{ClientSecret, TokenRequest, Tokens, TokensError};

/// Largest answer of a provider that is worth reading. Discovery documents and key sets are some kilobytes, tokens of
/// people in very many groups some tens.
pub const LARGEST_ANSWER: usize = 256 << 10;
