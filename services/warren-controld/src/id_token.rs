//! `POST /machine/id-token`: a node gets a token by which others can tell that it is that node (control-protocol.md §4.3).
//!
//! ```text
//! node ──audience, inside its channel──▶ server ──JWT, RS256, good for 5 min──▶ node ──▶ whoever trusts the issuer
//!                                           ▲                                              │
//!                                           └── /.well-known/openid-configuration, jwks ◀──┘
//! ```
//!
//! The key is made when a node first asks, and lies in the state folder. RSA, because relying parties must understand RS256
//! and need not understand anything else (OpenID Connect Discovery 1.0 §3). RFC 7515, 7517, 7518, 7519.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use warren_control::Snapshot;
use warren_control::rows::{Node, Owner};
use warren_crypto::{NodePublic, UnixTime, sha256};
use warren_io::answer::{self, Body};

use crate::clock;
use crate::noise_endpoint::Machine;
use crate::service::Shared;
use crate::small_requests::{member, read};
use crate::state_dir::{self, StateError};

/// Long enough to be carried to whoever asked for it, and to be used there once.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// An audience is a URL or a short name.
const LONGEST_AUDIENCE: usize = 1024;

const FILE: &str = "id-token.key";
const JWKS: &str = "/.well-known/jwks.json";
const HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const FOOT: &str = "-----END PRIVATE KEY-----";

/// The server's key for tokens: none before a node first asked for one.
pub(crate) struct Issuer {
    folder: PathBuf,
    key: Arc<OnceLock<SigningKey>>,
    /// One maker at a time.
    making: Arc<tokio::sync::Mutex<()>>,
}

struct SigningKey {
    pair: RsaKeyPair,
    id: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TokenRequest {
    node_key: NodePublic,
    audience: String,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self { node_key: NodePublic::ZERO, audience: String::new() }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("make an RSA key")]
    Make,
    #[error("the thread that made the key panicked")]
    Panicked,
}

impl Issuer {
    /// Reads the key, if there is one.
    ///
    /// # Errors
    /// [`StateError`]: a file that is no key, or that others can read.
    pub(crate) fn open(folder: &Path) -> Result<Self, StateError> {
        let key = OnceLock::new();
        if let Some(text) = state_dir::read_secret(folder, FILE)? {
            let read = from_file_text(&text).ok_or_else(|| StateError::CorruptToken { path: folder.join(FILE) })?;
            let _ = key.set(read); // it is new, so it was empty
        }
        Ok(Self { folder: folder.to_owned(), key: Arc::new(key), making: Arc::default() })
    }

    /// The key, made if there is none. A key whose making was begun is kept, also where whoever asked has left.
    async fn key(&self) -> Result<&SigningKey, KeyError> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let only = Arc::clone(&self.making).lock_owned().await;
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let (folder, place) = (self.folder.clone(), Arc::clone(&self.key));
        let making = tokio::task::spawn_blocking(move || {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Make)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Make)?;
            let key = SigningKey::new(pair).ok_or(KeyError::Make)?;
            let text = format!("{HEAD}\n{}\n{FOOT}\n", STANDARD.encode(der.as_ref()));
            state_dir::write_secret(&folder, FILE, &text)?;
            let _ = place.set(key); // it was empty, and nobody else makes one
            drop(only);
            Ok::<_, KeyError>(())
        });
        making.await.map_err(|_| KeyError::Panicked)??;
        self.key.get().ok_or(KeyError::Make)
    }
}

/// One line of base64 between the two that say what it is: what other programs read too.
fn from_file_text(text: &str) -> Option<SigningKey> {
    let inner = text.trim().strip_prefix(HEAD)?.strip_suffix(FOOT)?;
    let der = STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()?;
    SigningKey::new(RsaKeyPair::from_pkcs8(&der).ok()?)
}

impl SigningKey {
    fn new(pair: RsaKeyPair) -> Option<Self> {
        let public = pair.public_key().as_ref();
        let (modulus, exponent) = public_numbers(public)?;
        let id = hex::encode(&sha256(public)[..8]);
        Some(Self { id, modulus: modulus.to_vec(), exponent: exponent.to_vec(), pair })
    }

    fn as_jwk(&self) -> Value {
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id,
            "n": number(&self.modulus), "e": number(&self.exponent),
        })
    }

    /// `None`: the library refuses.
    fn sign(&self, claims: &Value) -> Option<String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({ "alg": "RS256", "kid": self.id, "typ": "JWT" });
        let signed = format!("{}.{}", part(&head), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Modulus and exponent, without zeros in front, of a public key as RFC 8017 §A.1.1 writes it.
fn public_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (0x30, inside, []) = element(der)? else { return None };
    let (0x02, modulus, rest) = element(inside)? else { return None };
    let (0x02, exponent, []) = element(rest)? else { return None };
    let bare = |number: &'_ [u8]| number.iter().take_while(|byte| **byte == 0).count();
    Some((&modulus[bare(modulus)..], &exponent[bare(exponent)..]))
}

/// Tag, content and what follows of the first element of DER.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        _ => return None, // longer than any key here
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// See the module.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let asked: TokenRequest = match read(request).await {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let node = match member(&shared, &machine, &asked.node_key) {
        Ok(node) => node,
        Err(response) => return *response,
    };
    let now = clock::wall();
    let audience = asked.audience.as_str();
    if audience.is_empty() || audience.len() > LONGEST_AUDIENCE || audience.chars().any(char::is_control) {
        let text = format!("say for whom the token is: an audience of 1 to {LONGEST_AUDIENCE} bytes");
        return answer::text(StatusCode::BAD_REQUEST, &text);
    }
    let key = match shared.issuer.key().await {
        Ok(key) => key,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the key for nodes' tokens");
            return answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the control server has no key for tokens; see its log",
            );
        }
    };
    let id = hex::encode(shared.seeds.fork().bytes::<16>());
    let claims = claims(&node, &shared.registry.snapshot(), audience, &id, now);
    match claims.and_then(|claims| key.sign(&claims)) {
        Some(token) => answer::json(&json!({ "id_token": token })),
        None => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "no token could be made for this node"),
    }
}

/// `None`: the node has no name in DNS.
fn claims(node: &Node, snapshot: &Snapshot, audience: &str, id: &str, now: UnixTime) -> Option<Value> {
    let (settings, registry) = (snapshot.settings(), snapshot.registry());
    let name = snapshot.names_of(node.id).into_iter().next()?;
    let mut claims = json!({
        "iss": settings.server_url,
        "sub": name,
        "aud": audience,
        "exp": now.saturating_add(LIFETIME).as_secs(),
        "iat": now.as_secs(),
        "nbf": now.as_secs(),
        "jti": id,
        "key": node.node_key.to_string(),
        "addresses": node.addresses().iter().map(|prefix| prefix.to_string()).collect::<Vec<_>>(),
        "nid": node.id.0,
        "node": name,
        "domain": settings.domain,
    });
    let in_domain = |text: &str| format!("{}:{text}", settings.domain);
    match &node.owner {
        Owner::Tags(tags) => claims["tags"] = tags.iter().map(|tag| in_domain(tag)).collect(),
        Owner::User(user) => {
            claims["user"] = in_domain(registry.user(*user)?.login_name()).into();
            claims["uid"] = user.0.into();
        }
    }
    Some(claims)
}

/// `GET /.well-known/openid-configuration`: whose tokens they are, and where the keys lie.
pub(crate) async fn discovery(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let document = json!({
        "issuer": shared.server_url,
        "jwks_uri": format!("{}{JWKS}", shared.server_url),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "key", "addresses", "nid", "node", "domain", "tags", "user",
            "uid",
        ],
    });
    public(&request, &document)
}

/// `GET /.well-known/jwks.json`: no key before a node first asked for a token.
pub(crate) async fn keys(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let keys: Vec<Value> = shared.issuer.key.get().into_iter().map(SigningKey::as_jwk).collect();
    public(&request, &json!({ "keys": keys }))
}

fn public(request: &Request<Incoming>, document: &Value) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    answer::json(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_der_are_read_and_nothing_beyond_them() {
        assert_eq!(element(&[0x02, 1, 7, 9]), Some((2, &[7][..], &[9][..])));
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[5; 256]].concat();
        assert_eq!(element(&long).map(|(tag, content, rest)| (tag, content.len(), rest.len())), Some((0x30, 256, 0)));
        for bad in [&[][..], &[2], &[2, 2, 1], &[2, 0x83, 0, 0, 1, 7], &[2, 0x81]] {
            assert_eq!(element(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_key_is_kept_also_where_whoever_asked_first_has_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let issuer = Issuer::open(folder.path()).expect("empty");
        let left = tokio::time::timeout(Duration::ZERO, issuer.key()).await;
        assert!(left.is_err(), "an RSA key takes longer");
        let key = issuer.key().await.expect("made");
        let again = Issuer::open(folder.path()).expect("readable");
        assert_eq!(again.key().await.expect("kept").id, key.id);
    }
}
