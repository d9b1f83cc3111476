//! Where a provider is asked what: its discovery document, held against what the operator configured.

use serde::Deserialize;
use url::{Host, Url};

use crate::LARGEST_ANSWER;

/// A provider that said of itself what it must (Discovery 1.0 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, exactly as configured.
    pub issuer: String,
    /// Where people sign in.
    pub authorization: Url,
    /// Where codes and refresh tokens are turned into tokens.
    pub token: Url,
    /// Where its keys are.
    pub keys: Url,
    /// Where a profile can be asked for; not every provider has it.
    pub userinfo: Option<Url>,
    /// The client secret goes into the body instead of a header.
    pub secret_in_body: bool,
    /// It gives refresh tokens for the scope `offline_access`.
    pub offers_offline_access: bool,
    /// It names itself in every answer to a sign-in (RFC 9207).
    pub names_itself: bool,
}

/// Why a provider cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// Not a URL that an issuer can have.
    #[error("{0:?} is not the address of an identity provider: https://…, without a query (http only on this machine)")]
    Issuer(String),
    /// Too long, not JSON, or without what is needed.
    #[error("the discovery document cannot be read: {0}")]
    Document(String),
    /// Somebody else's document, or a name that was configured not quite right.
    #[error(
        "the provider calls itself {found:?}, but {configured:?} is configured; they must be the same to the letter"
    )]
    OtherIssuer {
        /// As configured.
        configured: String,
        /// As it says.
        found: String,
    },
    /// Answers could be read or changed on the way.
    #[error("the provider's {what} is {url}, which is not https")]
    Insecure {
        /// Which address.
        what: &'static str,
        /// As it says.
        url: String,
    },
    /// It cannot do what is needed.
    #[error("the provider does not offer {0}")]
    Lacks(&'static str),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    response_types_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Provider {
    /// Where the discovery document of `issuer` lies (Discovery 1.0 §4.1).
    ///
    /// # Errors
    /// [`ProviderError::Issuer`].
    pub fn discovery_url(issuer: &str) -> Result<Url, ProviderError> {
        let wrong = || ProviderError::Issuer(issuer.to_owned());
        let url = Url::parse(issuer).map_err(|_| wrong())?;
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !is_plain || !is_safe(&url) || issuer.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        Url::parse(&document).map_err(|_| wrong())
    }

    /// Reads the document that was found there.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn parse(issuer: &str, document: &[u8]) -> Result<Self, ProviderError> {
        Self::discovery_url(issuer)?;
        if document.len() > LARGEST_ANSWER {
            return Err(ProviderError::Document(format!("it is longer than {LARGEST_ANSWER} bytes")));
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|error| ProviderError::Document(error.to_string()))?;
        if document.issuer != issuer {
            let found = document.issuer.chars().take(255).collect();
            return Err(ProviderError::OtherIssuer { configured: issuer.to_owned(), found });
        }
        let url = |what: &'static str, text: &str| {
            let url = Url::parse(text).map_err(|_| ProviderError::Document(format!("its {what} is no URL")))?;
            if is_safe(&url) { Ok(url) } else { Err(ProviderError::Insecure { what, url: url.to_string() }) }
        };
        let lacks =
            |list: &Option<Vec<String>>, word: &str| list.as_ref().is_some_and(|l| !l.iter().any(|w| w == word));
        if lacks(&document.response_types_supported, "code") {
            return Err(ProviderError::Lacks("the authorization code flow (response_types_supported)"));
        }
        // Where the list is absent most providers do it all the same, and one that does not ignores the challenge.
        if lacks(&document.code_challenge_methods_supported, "S256") {
            return Err(ProviderError::Lacks("PKCE with S256 (code_challenge_methods_supported)"));
        }
        let methods = &document.token_endpoint_auth_methods_supported;
        Ok(Self {
            authorization: url("authorization_endpoint", &document.authorization_endpoint)?,
            token: url("token_endpoint", &document.token_endpoint)?,
            keys: url("jwks_uri", &document.jwks_uri)?,
            userinfo: document.userinfo_endpoint.as_deref().map(|text| url("userinfo_endpoint", text)).transpose()?,
            // Basic is what is meant where nothing is said.
            secret_in_body: lacks(methods, "client_secret_basic") && !lacks(methods, "client_secret_post"),
            offers_offline_access: document.scopes_supported.is_some_and(|s| s.iter().any(|w| w == "offline_access")),
            names_itself: document.authorization_response_iss_parameter_supported,
            issuer: document.issuer,
        })
    }
}

/// TLS, or no way at all: a provider on this machine, as in a trial.
fn is_safe(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example/realms/home";

    fn document(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut document = serde_json::json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example/auth?tenant=1",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/keys",
            "scopes_supported": ["openid", "offline_access"],
            "response_types_supported": ["code"],
        });
        change(&mut document);
        document.to_string().into_bytes()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut serde_json::Value), expect: &str) {
        let found = Provider::parse(ISSUER, &document(change)).map(|p| (p.secret_in_body, p.offers_offline_access));
        match found {
            Ok(found) => assert_eq!(format!("{found:?}"), expect),
            Err(error) => assert!(error.to_string().contains(expect), "{error}"),
        }
    }

    #[test]
    fn a_document_must_be_the_configured_issuers_and_lead_to_safe_places() {
        check(|_| {}, "(false, true)");
        check(|d| d["issuer"] = "https://id.example/realms/home/".into(), "the same to the letter");
        check(|d| d["issuer"] = "https://evil.example".into(), "calls itself");
        check(|d| d["token_endpoint"] = "http://id.example/token".into(), "token_endpoint is http://id.example/token");
        check(|d| d["jwks_uri"] = "http://127.0.0.1.evil.example/".into(), "jwks_uri");
        check(|d| d["jwks_uri"] = "file:///etc/passwd".into(), "jwks_uri");
        check(|d| d["response_types_supported"] = serde_json::json!(["id_token"]), "authorization code flow");
        check(|d| d["code_challenge_methods_supported"] = serde_json::json!(["plain"]), "PKCE");
        check(|d| drop(d.as_object_mut().map(|d| d.remove("jwks_uri"))), "jwks_uri");
        let auth = "token_endpoint_auth_methods_supported";
        check(|d| d[auth] = serde_json::json!(["client_secret_post"]), "(true, true)");
        check(|d| d[auth] = serde_json::json!(["client_secret_post", "client_secret_basic"]), "(false, true)");
        let long = vec![b' '; LARGEST_ANSWER + 1];
        assert!(matches!(Provider::parse(ISSUER, &long), Err(ProviderError::Document(_))));
    }

    #[test]
    fn an_issuer_is_https_or_on_this_machine() {
        for (issuer, expect) in [
            ("https://a.example", Some("https://a.example/.well-known/openid-configuration")),
            ("https://a.example/", Some("https://a.example/.well-known/openid-configuration")),
            ("https://a.example/x/", Some("https://a.example/x/.well-known/openid-configuration")),
            ("http://127.0.0.1:3000", Some("http://127.0.0.1:3000/.well-known/openid-configuration")),
            ("http://[::1]:3000", Some("http://[::1]:3000/.well-known/openid-configuration")),
            ("http://localhost:3000", Some("http://localhost:3000/.well-known/openid-configuration")),
            ("http://a.example", None),
            ("http://10.0.0.1", None),
            ("https://a.example/?x=1", None),
            ("https://ann@a.example/", None),
            ("https://a.example/\n", None),
            ("a.example", None),
            ("", None),
        ] {
            assert_eq!(Provider::discovery_url(issuer).ok().map(String::from).as_deref(), expect, "{issuer}");
        }
    }
}
