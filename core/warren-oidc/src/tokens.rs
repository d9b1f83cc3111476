//! What is posted to the token endpoint, and what it answers (RFC 6749 §4.1.3, §5, §6).

use base64::Engine as _;
use serde::Deserialize;
use url::form_urlencoded;

use crate::LARGEST_ANSWER;
use crate::login::Login;
use crate::provider::Provider;
use crate::secret::Secret;

/// How this server proves to the provider that it is the client.
#[derive(Clone, Debug)]
pub struct ClientSecret {
    /// Its name there.
    pub client_id: String,
    /// `None` for a public client, which has PKCE alone.
    pub secret: Option<Secret>,
}

/// A form to post. Holds secrets, so it does not print.
pub struct TokenRequest {
    /// Value of `Authorization`, if there is one.
    pub authorization: Option<Secret>,
    /// `application/x-www-form-urlencoded`.
    pub form: Secret,
}

impl ClientSecret {
    /// Turns a code into tokens.
    pub fn code_request(&self, provider: &Provider, login: &Login, code: &Secret, redirect: &str) -> TokenRequest {
        self.request(
            provider,
            &[
                ("grant_type", "authorization_code"),
                ("code", code.expose()),
                ("redirect_uri", redirect),
                ("code_verifier", login.verifier.expose()),
            ],
        )
    }

    /// Asks again about a person who signed in before.
    pub fn refresh_request(&self, provider: &Provider, refresh: &Secret) -> TokenRequest {
        self.request(provider, &[("grant_type", "refresh_token"), ("refresh_token", refresh.expose())])
    }

    fn request(&self, provider: &Provider, fields: &[(&str, &str)]) -> TokenRequest {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let authorization = match &self.secret {
            Some(secret) if !provider.secret_in_body => {
                // Both are form-encoded before they are joined (§2.3.1).
                let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encode(&self.client_id), encode(secret.expose()));
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                Some(Secret::new(format!("Basic {pair}")))
            }
            Some(secret) => {
                form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret.expose());
                None
            }
            None => {
                form.append_pair("client_id", &self.client_id);
                None
            }
        };
        TokenRequest { authorization, form: Secret::new(form.finish()) }
    }
}

/// What the token endpoint gave. Nothing of it has been verified.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// For the userinfo endpoint.
    pub access: Secret,
    /// Who it is; an answer to a refresh may leave it out.
    pub id: Option<Secret>,
    /// For asking again later.
    pub refresh: Option<Secret>,
}

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// The code, or the refresh token, is not good (any more): used, expired, revoked, or of somebody who was removed.
    #[error("the provider refused the {0} (invalid_grant): it was used before, has expired or was withdrawn")]
    InvalidGrant(&'static str),
    /// It does not take this server for its client, or not for this: something is configured wrong, here or there.
    #[error("the provider refused this server: {0}")]
    Client(String),
    /// Anything else that it said no to.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// Not an answer of a token endpoint.
    #[error("the provider's token endpoint answered HTTP {status} without sense: {reason}")]
    Nonsense {
        /// HTTP status.
        status: u16,
        /// What is wrong with it. Never part of the answer, which may hold tokens.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    token_type: String,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
}

impl Tokens {
    /// Reads an answer. `what` was asked with, `code` or `refresh token`, is for messages.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn parse(status: u16, answer: &[u8], what: &'static str) -> Result<Self, TokensError> {
        let nonsense = |reason| TokensError::Nonsense { status, reason };
        if answer.len() > LARGEST_ANSWER {
            return Err(nonsense("too long"));
        }
        if status != 200 {
            let refused: Refused = serde_json::from_slice(answer).map_err(|_| nonsense("no JSON with an error"))?;
            // Only a statement of the provider itself counts as one: 400 (or 401, as some have it).
            return Err(match refused.error.as_str() {
                "invalid_grant" if matches!(status, 400 | 401 | 403) => TokensError::InvalidGrant(what),
                error => {
                    let said = refused.error_description.map(|text| format!(": {text}")).unwrap_or_default();
                    let said = printable(&format!("{error}{said}"));
                    match error {
                        "invalid_client" | "unauthorized_client" => TokensError::Client(said),
                        _ => TokensError::Refused(said),
                    }
                }
            });
        }
        let granted: Granted = serde_json::from_slice(answer).map_err(|_| nonsense("no JSON with an access token"))?;
        if !granted.token_type.eq_ignore_ascii_case("bearer") {
            return Err(nonsense("tokens of another type than Bearer"));
        }
        let access = &granted.access_token;
        if access.expose().is_empty() || !access.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(nonsense("an access token that is none"));
        }
        let present = |secret: Option<Secret>| secret.filter(|secret| !secret.expose().is_empty());
        Ok(Self {
            access: granted.access_token,
            id: present(granted.id_token),
            refresh: present(granted.refresh_token),
        })
    }
}

/// One short line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(secret_in_body: bool) -> Provider {
        let method = if secret_in_body { "client_secret_post" } else { "client_secret_basic" };
        let document = serde_json::json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/keys",
            "token_endpoint_auth_methods_supported": [method],
        });
        Provider::parse("https://id.example", document.to_string().as_bytes()).expect("a provider")
    }

    #[test]
    fn the_secret_goes_where_the_provider_wants_it() {
        let client = ClientSecret { client_id: "wa:rren".into(), secret: Some(Secret::new("s&c rét")) };
        let refresh = Secret::new("r/1");
        let basic = client.refresh_request(&provider(false), &refresh);
        assert_eq!(basic.form.expose(), "grant_type=refresh_token&refresh_token=r%2F1");
        let pair = basic.authorization.expect("a header");
        let pair = pair.expose().strip_prefix("Basic ").expect("Basic");
        let pair = base64::engine::general_purpose::STANDARD.decode(pair).expect("base64");
        assert_eq!(pair, b"wa%3Arren:s%26c+r%C3%A9t");
        let post = client.refresh_request(&provider(true), &refresh);
        assert!(post.authorization.is_none());
        assert!(post.form.expose().ends_with("&client_id=wa%3Arren&client_secret=s%26c+r%C3%A9t"));
        let public = ClientSecret { client_id: "warren".into(), secret: None };
        let login = Login { state: String::new(), nonce: Secret::new(""), verifier: Secret::new("v") };
        let form = public.code_request(&provider(false), &login, &Secret::new("c"), "https://x/oidc/callback").form;
        let expect = "grant_type=authorization_code&code=c&redirect_uri=https%3A%2F%2Fx%2Foidc%2Fcallback&code_verifier=v&client_id=warren";
        assert_eq!(form.expose(), expect);
    }

    #[test]
    fn only_the_providers_own_word_is_a_refusal_of_the_person() {
        let error = |status, answer: &str| Tokens::parse(status, answer.as_bytes(), "refresh token").expect_err(answer);
        assert_eq!(error(400, r#"{"error":"invalid_grant"}"#), TokensError::InvalidGrant("refresh token"));
        let client = TokensError::Client("invalid_client".into());
        assert_eq!(error(401, r#"{"error":"invalid_client"}"#), client);
        assert_eq!(error(400, r#"{"error":"invalid_request"}"#), TokensError::Refused("invalid_request".into()));
        for (status, answer) in [
            (500, r#"{"error":"invalid_grant"}"#),
            (400, r#"{"error":"invalid_client","error_description":"no\nsuch"}"#),
            (503, "<html>"),
            (400, ""),
            (200, "{}"),
            (200, r#"{"access_token":"a","token_type":"mac"}"#),
            (200, r#"{"access_token":"a b","token_type":"bearer"}"#),
            (200, r#"{"access_token":"","token_type":"bearer"}"#),
        ] {
            let error = error(status, answer);
            assert!(!matches!(error, TokensError::InvalidGrant(_)), "{answer}: {error}");
            assert!(!error.to_string().contains(char::is_control));
        }
    }

    #[test]
    fn tokens_are_read_and_not_printed() {
        let answer = br#"{"access_token":"acc","token_type":"bearer","id_token":"a.b.c","refresh_token":"ref","expires_in":60,"scope":"openid"}"#;
        let tokens = Tokens::parse(200, answer, "code").expect("tokens");
        assert_eq!(tokens.refresh.as_ref().map(Secret::expose), Some("ref"));
        let shown = format!("{tokens:?}");
        assert!(!shown.contains("acc\"") && !shown.contains("a.b.c") && !shown.contains("\"ref\""), "{shown}");
    }
}
