//! One sign-in, as it is begun: three unguessable values that tie the answer to the question.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;
use warren_crypto::{Random, sha256};

use crate::provider::Provider;
use crate::secret::Secret;

/// What is remembered of a sign-in between sending a person away and having them back.
#[derive(Clone, Debug)]
pub struct Login {
    /// Comes back in the answer's address. Not secret by itself; the browser must also have its cookie.
    pub state: String,
    /// Comes back inside the ID token.
    pub nonce: Secret,
    /// Proves to the provider that whoever has the code is who asked for it (RFC 7636).
    pub verifier: Secret,
}

impl Login {
    /// A new one: 256 random bits each.
    pub fn begin(random: &mut Random) -> Self {
        let mut word = || URL_SAFE_NO_PAD.encode(random.bytes::<32>());
        Self { state: word(), nonce: Secret::new(word()), verifier: Secret::new(word()) }
    }

    /// Where the person's browser goes. `extra` are parameters that the operator adds; they cannot replace ours.
    pub fn url(
        &self,
        provider: &Provider,
        client_id: &str,
        redirect: &str,
        scopes: &[String],
        extra: &[(String, String)],
    ) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(sha256(self.verifier.expose().as_bytes()));
        let scope = scopes.join(" ");
        let ours = [
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", redirect),
            ("scope", &scope),
            ("state", &self.state),
            ("nonce", self.nonce.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let mut url = provider.authorization.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(extra.iter().filter(|(name, _)| ours.iter().all(|(our, _)| our != name)));
            query.extend_pairs(ours);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn provider() -> Provider {
        let document = serde_json::json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth?tenant=1",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/keys",
        });
        Provider::parse("https://id.example", document.to_string().as_bytes()).expect("a provider")
    }

    #[test]
    fn the_address_asks_for_a_code_and_names_the_challenge_not_the_verifier() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let login = Login { state: "st&te".into(), nonce: Secret::new("n"), verifier: Secret::new(verifier) };
        let extra = [("prompt".to_owned(), "consent".to_owned()), ("state".to_owned(), "theirs".to_owned())];
        let url = login.url(
            &provider(),
            "warren",
            "https://vpn.example/oidc/callback",
            &["openid".into(), "email".into()],
            &extra,
        );
        let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        for (name, value) in [
            ("tenant", "1"),
            ("prompt", "consent"),
            ("state", "st&te"),
            ("scope", "openid email"),
            ("redirect_uri", "https://vpn.example/oidc/callback"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ] {
            assert_eq!(query[name], value, "{name}");
        }
        assert!(!url.as_str().contains(verifier));
        assert_eq!(url.query_pairs().filter(|(name, _)| name == "state").count(), 1);
    }

    #[test]
    fn no_two_sign_ins_share_a_word_and_none_prints_its_secrets() {
        let mut random = Random::from_seed([1; 32]);
        let (one, two) = (Login::begin(&mut random), Login::begin(&mut random));
        let words = |l: &Login| [l.state.clone(), l.nonce.expose().to_owned(), l.verifier.expose().to_owned()];
        let all: std::collections::BTreeSet<String> = words(&one).into_iter().chain(words(&two)).collect();
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|word| word.len() == 43));
        assert!(
            !format!("{one:?}").contains(one.verifier.expose()) && !format!("{one:?}").contains(one.nonce.expose())
        );
    }
}
