//! An identity provider's answers, and people with odd ones.

use serde_json::{Value, json};

use super::Seeds;
use crate::sign_in::{ISSUER, NOW};

pub(super) fn add(seeds: &mut Seeds) {
    let at = |path: &str| format!("{ISSUER}{path}");
    let document = json!({
        "issuer": ISSUER, "authorization_endpoint": at("/auth"), "token_endpoint": at("/token"), "jwks_uri": at("/keys"),
        "userinfo_endpoint": "http://127.0.0.1:1/me", "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"], "scopes_supported": ["openid", "offline_access"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "authorization_response_iss_parameter_supported": true,
    });
    seeds.put_whole("oidc-discovery", document.to_string());
    let insecure = document.to_string().replace("https://id.example/token", "http://id.example/token");
    seeds.put("oidc-discovery", "insecure", insecure);

    let keys = json!({ "keys": [
        { "kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": "A".repeat(342), "e": "AQAB" },
        { "kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43) },
        { "kty": "EC", "crv": "P-384", "x": "A".repeat(64), "y": "A".repeat(64) },
        { "kty": "OKP", "crv": "Ed25519", "x": "A".repeat(43) },
        { "kty": "oct", "k": "AAAA" }, 7, null,
    ] });
    seeds.put_whole("oidc-keys", keys.to_string());
    seeds.put("oidc-keys", "no-numbers", r#"{"keys":[{"kty":"RSA","n":"","e":""}]}"#);

    let tokens = json!({ "access_token": "a.b", "token_type": "Bearer", "id_token": "a.b.c", "refresh_token": "r",
        "expires_in": 60, "scope": "openid" });
    seeds.put_whole("oidc-tokens", tokens.to_string());
    seeds.put("oidc-tokens", "refused", r#"{"error":"invalid_grant","error_description":"no\u0007\n"}"#);

    let person = json!({ "iss": ISSUER, "aud": ["warren", "other"], "azp": "warren", "sub": "42", "iat": NOW,
        "exp": NOW + 60, "email": "ann@example.net", "email_verified": true, "name": "Ann", "preferred_username": "ann",
        "picture": "https://id.example/42.png", "realm": { "roles": ["dev", "ops"] } });
    seeds.put_whole("oidc-claims", person.to_string());
    let with = |name: &str, value: Value| {
        let mut other = person.clone();
        other[name] = value;
        other.to_string()
    };
    seeds.put("oidc-claims", "escapes", with("name", "\u{202e}<b>\"\\\u{7}".into()));
    seeds.put("oidc-claims", "two-ats", with("email", "ann@example.net@evil.example".into()));
    seeds.put("oidc-claims", "late", with("exp", json!(1.5)));
    seeds.put("oidc-claims", "strange-groups", with("realm", json!({ "roles": [1, null, "", ["x"], { "y": 1 }] })));
}
