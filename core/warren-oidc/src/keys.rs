//! A provider's public keys, and signatures by them (RFC 7515, 7517, 7518 §3, 8037).
//!
//! ```text
//! token = base64url(header) . base64url(payload) . base64url(signature)      signed: the first two and their dot
//! ```
//!
//! The token names its algorithm, but the key decides: each kind of key verifies only with algorithms of its own, and
//! there is none that takes a public key for a shared secret.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::LARGEST_ANSWER;

/// More keys than a provider has at a time; bounds the work for one token without a key's name.
const MOST_KEYS: usize = 64;

/// All keys that a provider signs with now.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points: 0x04, x, y.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Too long, or not a set of keys.
    #[error("the provider's keys cannot be read: {0}")]
    Document(String),
    /// Only kinds of keys that we do not know.
    #[error(
        "the provider has no key for signatures that is known here (RSA of 2048 bits or more, P-256, P-384, Ed25519)"
    )]
    None,
}

/// Why a signature proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not three parts of base64url, or too long.
    #[error("the ID token is not a signed token")]
    Form,
    /// `none`, a shared secret, or something unheard of.
    #[error("the ID token is signed with {0:?}, which is not accepted")]
    Algorithm(String),
    /// Rotated away, or never the provider's.
    #[error("the ID token is signed with a key that the provider does not have (any more)")]
    UnknownKey,
    /// Forged, or damaged.
    #[error("the ID token's signature is wrong")]
    Wrong,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; we understand none.
    crit: Option<serde_json::Value>,
}

impl KeySet {
    /// Reads a provider's answer. Keys for something else, or of a kind that is not known here, are left out.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(answer: &[u8]) -> Result<Self, KeySetError> {
        if answer.len() > LARGEST_ANSWER {
            return Err(KeySetError::Document(format!("longer than {LARGEST_ANSWER} bytes")));
        }
        let document: Document =
            serde_json::from_slice(answer).map_err(|error| KeySetError::Document(error.to_string()))?;
        let keys: Vec<Key> = document.keys.into_iter().filter_map(read_key).take(MOST_KEYS).collect();
        if keys.is_empty() { Err(KeySetError::None) } else { Ok(Self { keys }) }
    }

    /// The payload of a token, once its signature has been verified.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub(crate) fn open(&self, token: &str) -> Result<Vec<u8>, SignatureError> {
        if token.len() > LARGEST_ANSWER {
            return Err(SignatureError::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(SignatureError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(SignatureError::Form)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| SignatureError::Form);
        // A dot more in the payload is not base64url, so there are exactly three parts.
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| SignatureError::Form)?;
        if header.crit.is_some() {
            return Err(SignatureError::Form);
        }
        if !ALGORITHMS.contains(&header.alg.as_str()) {
            return Err(SignatureError::Algorithm(crate::tokens::printable(&header.alg)));
        }
        let may_be = |key: &&Key| {
            let named = header.kid.is_none() || key.id.is_none() || key.id == header.kid;
            named && key.algorithm.as_ref().is_none_or(|algorithm| *algorithm == header.alg) && key.fits(&header.alg)
        };
        let mut tried = false;
        for key in self.keys.iter().filter(may_be) {
            tried = true;
            if key.verifies(&header.alg, signed.as_bytes(), &signature) {
                return Ok(payload);
            }
        }
        Err(if tried { SignatureError::Wrong } else { SignatureError::UnknownKey })
    }
}

/// `Ed25519` is what RFC 9864 calls the one kind of `EdDSA` that is in use.
const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519"];

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

impl Key {
    fn fits(&self, algorithm: &str) -> bool {
        match &self.kind {
            Kind::Rsa { .. } => rsa(algorithm).is_some(),
            Kind::P256(_) => algorithm == "ES256",
            Kind::P384(_) => algorithm == "ES384",
            Kind::Ed25519(_) => matches!(algorithm, "EdDSA" | "Ed25519"),
        }
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Rsa { n, e } => {
                let Some(parameters) = rsa(algorithm) else { return false };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            Kind::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Kind::P384(point) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            Kind::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
        }
    }
}

fn read_key(value: serde_json::Value) -> Option<Key> {
    let key: WireKey = serde_json::from_value(value).ok()?;
    if key.purpose.is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let number = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    let point = |length: usize| {
        let (x, y) = (number(key.x.clone())?, number(key.y.clone())?);
        (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
    };
    let kind = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => Kind::Rsa { n: number(key.n).map(unpadded)?, e: number(key.e).map(unpadded)? },
        ("EC", Some("P-256")) => Kind::P256(point(32)?),
        ("EC", Some("P-384")) => Kind::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Kind::Ed25519(number(key.x).filter(|x| x.len() == 32)?),
        _ => return None,
    };
    Some(Key { id: key.kid, algorithm: key.alg, kind })
}

/// Some providers write numbers with zeros in front (RFC 7518 §2 forbids it), which the library refuses.
fn unpadded(number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.2: key and token.
    const RSA_KEY: &str = r#"{"kty":"RSA","kid":"a2","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    /// RFC 7515, appendix A.3.
    const EC_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const EC_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    /// RFC 8037, appendix A.
    const ED_KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const ED_TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    /// RFC 7515, appendix A.1: a shared secret.
    const HMAC_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn keys(list: &[&str]) -> KeySet {
        KeySet::parse(format!("{{\"keys\":[{}]}}", list.join(",")).as_bytes()).expect("keys")
    }

    #[test]
    fn the_tokens_of_the_standards_verify_and_any_change_does_not() {
        let all = keys(&[RSA_KEY, EC_KEY, ED_KEY]);
        for token in [RSA_TOKEN, EC_TOKEN, ED_TOKEN] {
            all.open(token).expect("genuine");
            for at in (0..token.len()).step_by(7) {
                let mut bytes = token.as_bytes().to_vec();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).expect("ASCII");
                // The last letter of a part carries bits that do not count; those forms are refused as well.
                assert!(all.open(&changed).is_err(), "{at} of {token}");
            }
        }
        assert_eq!(all.open(ED_TOKEN).as_deref(), Ok(&b"Example of Ed25519 signing"[..]));
    }

    #[test]
    fn a_key_verifies_with_its_own_algorithms_alone() {
        assert_eq!(keys(&[EC_KEY]).open(RSA_TOKEN), Err(SignatureError::UnknownKey));
        let other = RSA_KEY.replace("ofgWCuLjyb", "ofgWCuLjyc");
        assert_eq!(keys(&[&other]).open(RSA_TOKEN), Err(SignatureError::Wrong));
        let elsewhere = RSA_KEY.replace("\"kid\"", "\"alg\":\"RS512\",\"kid\"");
        assert_eq!(keys(&[&elsewhere]).open(RSA_TOKEN), Err(SignatureError::UnknownKey));
        assert_eq!(keys(&[RSA_KEY]).open(HMAC_TOKEN), Err(SignatureError::Algorithm("HS256".into())));
        let unsigned = format!("{}.e30.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(keys(&[RSA_KEY]).open(&unsigned), Err(SignatureError::Algorithm("none".into())));
        let critical = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#));
        assert_eq!(keys(&[RSA_KEY]).open(&critical), Err(SignatureError::Form));
        let other_key = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"b"}"#));
        assert_eq!(keys(&[RSA_KEY]).open(&other_key), Err(SignatureError::UnknownKey));
        for form in ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30", &"A".repeat(LARGEST_ANSWER + 1)] {
            assert_eq!(keys(&[RSA_KEY]).open(form), Err(SignatureError::Form));
        }
    }

    #[test]
    fn keys_of_unknown_kinds_are_left_out_and_none_is_an_error() {
        for useless in [
            r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}"#,
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
            r#"{"kty":"RSA"}"#,
            r#"7"#,
            &RSA_KEY.replace("\"kid\"", "\"use\":\"enc\",\"kid\""),
        ] {
            let set = KeySet::parse(format!("{{\"keys\":[{useless}]}}").as_bytes());
            assert!(matches!(set, Err(KeySetError::None)), "{useless}");
            keys(&[useless, RSA_KEY]).open(RSA_TOKEN).expect("the other one");
        }
        assert!(matches!(KeySet::parse(b"[]"), Err(KeySetError::Document(_))));
        // Short keys are read but prove nothing.
        let short = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJj","e":"AQAB"}"#;
        assert_eq!(keys(&[short]).open(RSA_TOKEN), Err(SignatureError::Wrong));
    }
}
