//! What an identity provider answers: where it is, its keys, tokens, and statements about people.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warren_crypto::UnixTime;
use warren_oidc::{Claims, Expected, KeySet, Profile, Provider, Rules, Secret, Tokens, TokensError};

pub(crate) const ISSUER: &str = "https://id.example";
pub(crate) const NOW: u64 = 1_800_000_000;

/// Wherever a document leads, it is by TLS or on this machine, and it is the configured issuer's.
pub fn discovery(bytes: &[u8]) -> bool {
    let Ok(provider) = Provider::parse(ISSUER, bytes) else { return false };
    assert_eq!(provider.issuer, ISSUER);
    let places = [&provider.authorization, &provider.token, &provider.keys].into_iter().chain(&provider.userinfo);
    for place in places {
        let is_here = matches!(place.host_str(), Some("localhost" | "[::1]"))
            || place.host_str().is_some_and(|host| host.starts_with("127."));
        assert!(place.scheme() == "https" || is_here, "{place}");
    }
    true
}

/// No set of keys that was not made for it verifies a token, and none makes verification do harm.
pub fn keys(bytes: &[u8]) -> bool {
    let Ok(keys) = KeySet::parse(bytes) else { return false };
    let forged = format!("{}.e30.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode([7; 256]));
    for token in [&forged, &forged.replace("UlMyNTY", "RVMyNTY")] {
        assert!(Claims::verify(&Secret::new(token.as_str()), &keys, expected(), UnixTime::from_secs(NOW)).is_err());
    }
    true
}

/// Answers of the token endpoint, good and bad; what is wrong with one never shows what is in it.
pub fn tokens(bytes: &[u8]) -> bool {
    for status in [400, 500] {
        let error = Tokens::parse(status, bytes, "code").expect_err("not 200");
        assert!(status == 400 || !matches!(error, TokensError::InvalidGrant(_)));
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 2000, "{text:?}");
    }
    Tokens::parse(200, bytes, "code").is_ok()
}

/// Statements about a person: not a token by themselves, but then signed, and again as the userinfo endpoint's.
pub fn claims(bytes: &[u8]) -> bool {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let key = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let keys = format!("{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{key}\"}}]}}");
    let keys = KeySet::parse(keys.as_bytes()).expect("a key set");
    let now = UnixTime::from_secs(NOW);
    let unsigned = Secret::new(String::from_utf8_lossy(bytes));
    assert!(Claims::verify(&unsigned, &keys, expected(), now).is_err(), "nobody signed this");
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#), URL_SAFE_NO_PAD.encode(bytes));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    let by_token = Claims::verify(&Secret::new(format!("{signed}.{signature}")), &keys, expected(), now);
    let by_userinfo = Claims::from_userinfo(ISSUER, "42", bytes);
    let mut understood = false;
    for claims in [by_token, by_userinfo].into_iter().flatten() {
        for verified_email in [false, true] {
            let Ok(profile) = claims.profile("realm.roles", verified_email) else { continue };
            check(&profile);
            understood = true;
        }
    }
    understood
}

fn expected() -> Expected<'static> {
    Expected { issuer: ISSUER, client_id: "warren", nonce: None, subject: None }
}

fn check(profile: &Profile) {
    let Profile { issuer, subject, login, email, display_name, picture_url, groups } = profile;
    assert!(issuer == ISSUER && !subject.is_empty());
    for text in [subject, login, email, display_name, picture_url].into_iter().chain(groups) {
        assert!(text.len() <= 255 && !text.contains(char::is_control), "{text:?}");
    }
    assert!(groups.len() <= 256 && (email.is_empty() || email.contains('@')));
    let domains = Rules { domains: vec!["example.net".into()], ..Rules::default() };
    assert!(domains.admit(profile).is_err() || email.to_ascii_lowercase().ends_with("@example.net"));
}
