//! What a verified ID token says (Core 1.0 §3.1.3.7).

use serde_json::{Map, Value};
use warren_crypto::{UnixTime, ct_eq};

use crate::keys::{KeySet, SignatureError};
use crate::secret::Secret;

/// Clocks of provider and server may differ by this much, in seconds.
const LEEWAY: u64 = 60;

/// As long as a sign-in may take between our page and the token, in seconds.
const FRESH: u64 = 15 * 60;

/// Longest subject (Core 1.0 §2).
const LONGEST_SUBJECT: usize = 255;

/// What the token must be about.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The provider's name.
    pub issuer: &'a str,
    /// Ours.
    pub client_id: &'a str,
    /// Of the sign-in. `None` for a refresh, whose token need not have one.
    pub nonce: Option<&'a Secret>,
    /// Of the person, where they are known already.
    pub subject: Option<&'a str>,
}

/// Statements of the provider about a person. Made by verification alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) expires: UnixTime,
    pub(crate) all: Map<String, Value>,
}

/// Why a token says nothing that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not signed by the provider.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Signed, but not what an ID token is.
    #[error("the ID token has no sensible {0}")]
    Missing(&'static str),
    /// Another provider's.
    #[error("the ID token was issued by {0:?}, not by the configured provider")]
    Issuer(String),
    /// For another service.
    #[error("the ID token is meant for another client than this server")]
    Audience,
    /// Too old.
    #[error("the ID token has expired")]
    Expired,
    /// From the future: one of the clocks is wrong.
    #[error("the ID token is not valid yet; are the clocks of this server and of the provider right?")]
    Early,
    /// Of another sign-in.
    #[error("the ID token belongs to another sign-in")]
    Nonce,
    /// About somebody else.
    #[error("the provider answered for somebody else")]
    Subject,
    /// The person did not prove who they are for this sign-in.
    #[error("the provider did not ask who you are but went by an earlier sign-in: sign out there, then try again")]
    Stale,
}

impl Claims {
    /// Verifies a token: signature, issuer, audience, times, nonce, subject.
    ///
    /// # Errors
    /// [`ClaimsError`].
    pub fn verify(token: &Secret, keys: &KeySet, expected: Expected<'_>, now: UnixTime) -> Result<Self, ClaimsError> {
        let payload = keys.open(token.expose())?;
        let all: Map<String, Value> = serde_json::from_slice(&payload).map_err(|_| ClaimsError::Missing("content"))?;
        let text = |name: &'static str| all.get(name).and_then(Value::as_str).ok_or(ClaimsError::Missing(name));
        let issuer = text("iss")?;
        if issuer != expected.issuer {
            return Err(ClaimsError::Issuer(crate::tokens::printable(issuer)));
        }
        check_audience(&all, expected.client_id)?;
        let expires = time(&all, "exp")?.ok_or(ClaimsError::Missing("exp"))?;
        let issued = time(&all, "iat")?.ok_or(ClaimsError::Missing("iat"))?;
        if now.as_secs() >= expires.saturating_add(LEEWAY) {
            return Err(ClaimsError::Expired);
        }
        let begins = time(&all, "nbf")?.unwrap_or(issued).max(issued);
        if begins > now.as_secs().saturating_add(LEEWAY) {
            return Err(ClaimsError::Early);
        }
        if let Some(nonce) = expected.nonce {
            let found = all.get("nonce").and_then(Value::as_str).ok_or(ClaimsError::Nonce)?;
            if !ct_eq(found.as_bytes(), nonce.expose().as_bytes()) {
                return Err(ClaimsError::Nonce);
            }
        }
        let subject = subject(&all)?;
        if expected.subject.is_some_and(|known| known != subject) {
            return Err(ClaimsError::Subject);
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            // A year nobody lives to see is "never" as well.
            expires: UnixTime::from_secs(expires.min(253_402_300_799)),
            all,
        })
    }

    /// The provider's name for the person.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Who vouches.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When the token stops being good.
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// Whether the person proved just now who they are, as far as the provider says when they did. One that was asked for it
    /// (`max_age`) must say; some know neither the question nor the answer, and are believed.
    ///
    /// # Errors
    /// [`ClaimsError::Stale`], or [`ClaimsError::Missing`]: `auth_time` is no time.
    pub fn check_fresh(&self, now: UnixTime) -> Result<(), ClaimsError> {
        let signed_in = time(&self.all, "auth_time")?;
        let is_fresh = |at: u64| at.saturating_add(FRESH + LEEWAY) >= now.as_secs();
        if signed_in.is_none_or(is_fresh) { Ok(()) } else { Err(ClaimsError::Stale) }
    }

    /// Whether a claim of this name, or at the end of this path of names with dots, is there at all.
    pub fn has(&self, name: &str) -> bool {
        crate::profile::find(&self.all, name).is_some()
    }

    /// What the userinfo endpoint says about a person who signed in before, where a refresh brought no ID token. The
    /// answer is not signed: it must come from the provider's own endpoint, by TLS, for a token that the provider just
    /// gave.
    ///
    /// # Errors
    /// As [`Claims::with_userinfo`].
    pub fn from_userinfo(issuer: &str, known_subject: &str, answer: &[u8]) -> Result<Self, ClaimsError> {
        let (issuer, subject) = (issuer.to_owned(), known_subject.to_owned());
        Self { issuer, subject, expires: UnixTime::from_secs(0), all: Map::new() }.with_userinfo(answer)
    }

    /// Adds what the userinfo endpoint says about the same person; what the token says stays (Core 1.0 §5.3.2).
    ///
    /// # Errors
    /// [`ClaimsError::Subject`]: about somebody else. [`ClaimsError::Missing`]: not what userinfo is.
    pub fn with_userinfo(mut self, answer: &[u8]) -> Result<Self, ClaimsError> {
        if answer.len() > crate::LARGEST_ANSWER {
            return Err(ClaimsError::Missing("userinfo"));
        }
        let info: Map<String, Value> = serde_json::from_slice(answer).map_err(|_| ClaimsError::Missing("userinfo"))?;
        if subject(&info)? != self.subject {
            return Err(ClaimsError::Subject);
        }
        // An address and whether it is verified belong together, so both come from the same place.
        let has_email = self.all.contains_key("email");
        if !has_email {
            self.all.remove("email_verified");
        }
        for (name, value) in info {
            if name == "email_verified" && has_email {
                continue;
            }
            self.all.entry(name).or_insert(value);
        }
        Ok(self)
    }
}

/// `aud` is one text or several. With others beside us, `azp` must say that it was issued to us.
fn check_audience(all: &Map<String, Value>, client_id: &str) -> Result<(), ClaimsError> {
    let audiences: Vec<&str> = match all.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().map(|one| one.as_str().unwrap_or_default()).collect(),
        _ => return Err(ClaimsError::Missing("aud")),
    };
    let party = all.get("azp").map(|party| party.as_str().unwrap_or_default());
    let is_ours = audiences.contains(&client_id)
        && party.is_none_or(|party| party == client_id)
        && (audiences.len() == 1 || party.is_some());
    if is_ours { Ok(()) } else { Err(ClaimsError::Audience) }
}

/// Seconds since 1970, fractions dropped.
fn time(all: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, ClaimsError> {
    let Some(value) = all.get(name) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|v| *v >= 0.0 && *v < 1e15).map(|v| v as u64));
    whole.map(Some).ok_or(ClaimsError::Missing(name))
}

fn subject(all: &Map<String, Value>) -> Result<&str, ClaimsError> {
    let subject = all.get("sub").and_then(Value::as_str).unwrap_or_default();
    let is_sensible = !subject.is_empty() && subject.len() <= LONGEST_SUBJECT && !subject.contains(char::is_control);
    if is_sensible { Ok(subject) } else { Err(ClaimsError::Missing("sub")) }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn signed(claims: &Value) -> (Secret, KeySet) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA" })), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
        (Secret::new(format!("{signed}.{signature}")), KeySet::parse(keys.to_string().as_bytes()).expect("keys"))
    }

    #[test]
    fn a_sign_in_of_long_ago_is_not_fresh_and_a_provider_that_does_not_say_is_believed() {
        let fresh = |at: Value| verify(|claims| claims["auth_time"] = at).expect("ours").check_fresh(NOW);
        assert_eq!(verify(|_| {}).expect("ours").check_fresh(NOW), Ok(()));
        for (ago, expect) in [(0, Ok(())), (16 * 60, Ok(())), (16 * 60 + 1, Err(ClaimsError::Stale))] {
            assert_eq!(fresh((NOW.as_secs() - ago).into()), expect, "{ago}");
        }
        assert_eq!(fresh("yesterday".into()), Err(ClaimsError::Missing("auth_time")));
    }

    fn verify(change: impl FnOnce(&mut Value)) -> Result<Claims, ClaimsError> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "warren", "sub": "42", "nonce": "n",
            "iat": NOW.as_secs(), "exp": NOW.as_secs() + 300,
        });
        change(&mut claims);
        let (token, keys) = signed(&claims);
        let nonce = Secret::new("n");
        let expected =
            Expected { issuer: "https://id.example", client_id: "warren", nonce: Some(&nonce), subject: None };
        Claims::verify(&token, &keys, expected, NOW)
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expect: Result<(), ClaimsError>) {
        assert_eq!(verify(change).map(drop), expect);
    }

    #[test]
    fn a_token_is_for_us_by_them_now_and_of_this_sign_in() {
        let now = NOW.as_secs();
        check(|_| {}, Ok(()));
        check(|c| c["iss"] = "https://evil.example".into(), Err(ClaimsError::Issuer("https://evil.example".into())));
        check(|c| c["aud"] = "other".into(), Err(ClaimsError::Audience));
        check(|c| c["aud"] = json!(["warren"]), Ok(()));
        check(|c| c["aud"] = json!(["warren", "other"]), Err(ClaimsError::Audience));
        check(|c| c["azp"] = "other".into(), Err(ClaimsError::Audience));
        check(
            |c| {
                c["aud"] = json!(["other", "warren"]);
                c["azp"] = "warren".into();
            },
            Ok(()),
        );
        check(|c| c["aud"] = Value::Null, Err(ClaimsError::Missing("aud")));
        check(|c| c["exp"] = (now - 60).into(), Err(ClaimsError::Expired));
        check(|c| c["exp"] = (now - 59).into(), Ok(()));
        check(|c| c["exp"] = "soon".into(), Err(ClaimsError::Missing("exp")));
        check(|c| c["exp"] = (-1).into(), Err(ClaimsError::Missing("exp")));
        check(|c| c["exp"] = (now as f64 + 9.5).into(), Ok(()));
        check(|c| c["exp"] = u64::MAX.into(), Ok(()));
        check(|c| c["iat"] = (now + 61).into(), Err(ClaimsError::Early));
        check(|c| c["nbf"] = (now + 61).into(), Err(ClaimsError::Early));
        check(|c| drop(c.as_object_mut().map(|c| c.remove("iat"))), Err(ClaimsError::Missing("iat")));
        check(|c| c["nonce"] = "m".into(), Err(ClaimsError::Nonce));
        check(|c| drop(c.as_object_mut().map(|c| c.remove("nonce"))), Err(ClaimsError::Nonce));
        for bad in [json!(""), json!(7), json!("a\nb"), json!("x".repeat(256))] {
            check(|c| c["sub"] = bad, Err(ClaimsError::Missing("sub")));
        }
    }

    #[test]
    fn userinfo_adds_to_the_token_and_never_speaks_of_somebody_else() {
        let claims = verify(|c| c["email"] = "ann@example.net".into()).expect("verified");
        let info = json!({ "sub": "42", "email": "boss@example.net", "email_verified": true, "groups": ["dev"] });
        let both = claims.clone().with_userinfo(info.to_string().as_bytes()).expect("the same person");
        assert_eq!((both.all["email"].as_str(), both.has("email_verified")), (Some("ann@example.net"), false));
        assert_eq!(both.all["groups"], json!(["dev"]));
        // What the token says of no address says nothing of another place's.
        let flag = verify(|c| c["email_verified"] = true.into()).expect("verified");
        let info = json!({ "sub": "42", "email": "boss@example.net" }).to_string();
        let both = flag.with_userinfo(info.as_bytes()).expect("the same person");
        assert_eq!((both.all["email"].as_str(), both.has("email_verified")), (Some("boss@example.net"), false));
        let other = json!({ "sub": "43" }).to_string();
        assert_eq!(claims.clone().with_userinfo(other.as_bytes()), Err(ClaimsError::Subject));
        assert_eq!(claims.with_userinfo(b"[]"), Err(ClaimsError::Missing("userinfo")));
    }
}
