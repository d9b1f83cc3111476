//! Questions to the identity provider, and its answers as far as they prove something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use warren_control::Person;
use warren_crypto::UnixTime;
use warren_io::exchange::{self, ExchangeError, Question};
use warren_oidc::{
    Claims, ClaimsError, ClientSecret, Expected, KeySet, KeySetError, LARGEST_ANSWER, Login, NotAdmitted, ProfileError,
    Provider, ProviderError, Rules, Secret, TokenRequest, Tokens, TokensError,
};

use super::{Errand, person};
use crate::clock;
use crate::config::SignInConfig;

/// For one question. A person waits for three of them.
const DEADLINE: Duration = Duration::from_secs(10);

/// A discovery document changes when a provider moves.
const DISCOVERY_LIFETIME: Duration = Duration::from_secs(3600);

/// The provider, as reached over the network.
pub(super) struct ProviderLink {
    issuer: String,
    client: ClientSecret,
    redirect: String,
    scopes: Vec<String>,
    extra_params: Vec<(String, String)>,
    rules: Rules,
    groups_claim: String,
    email_verified_required: bool,
    use_expiry_from_token: bool,
    wants_refresh: bool,
    tls: Arc<rustls::ClientConfig>,
    discovered: Mutex<Discovered>,
}

/// What the last discovery brought.
#[derive(Default)]
struct Discovered {
    found: Option<(Instant, Arc<Provider>)>,
    /// When one failed last, and why.
    failed: Option<(Instant, String)>,
}

/// Somebody whom the provider vouches for and who may join.
pub(super) struct Vouched {
    pub(super) person: Person,
    /// For asking again.
    pub(super) refresh: Option<Secret>,
    /// When their node must log in anew, where the settings say so.
    pub(super) until: Option<UnixTime>,
}

/// Why nobody is vouched for.
#[derive(Debug, thiserror::Error)]
pub(super) enum VouchError {
    #[error(transparent)]
    Unreachable(#[from] ExchangeError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// As another who asked at the same time was told.
    #[error("{0}")]
    Discovery(String),
    #[error("the provider's {what} answered HTTP {status}")]
    Status { what: &'static str, status: u16 },
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error("the provider gave no ID token; is the scope \"openid\" granted?")]
    NoIdToken,
    #[error(transparent)]
    Keys(#[from] KeySetError),
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
}

impl VouchError {
    /// Whether it says something about the person, rather than about the provider or the way to it.
    pub(super) fn is_about_the_person(&self) -> bool {
        matches!(
            self,
            Self::Tokens(TokensError::InvalidGrant(_))
                | Self::Claims(ClaimsError::Subject | ClaimsError::Stale)
                | Self::Profile(_)
                | Self::NotAdmitted(_)
        )
    }
}

impl ProviderLink {
    pub(super) fn new(
        config: &SignInConfig,
        secret: Option<Secret>,
        redirect: String,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            issuer: config.issuer.clone(),
            client: ClientSecret { client_id: config.client_id.clone(), secret },
            redirect,
            scopes: config.scopes.clone(),
            extra_params: config.extra_params.clone(),
            rules: config.rules.clone(),
            groups_claim: config.groups_claim.clone(),
            email_verified_required: config.email_verified_required,
            use_expiry_from_token: config.use_expiry_from_token,
            wants_refresh: config.refresh.is_some(),
            tls,
            discovered: Mutex::default(),
        }
    }

    /// Where a person signs in. For a shell's check they must prove who they are now, whatever the provider remembers of them
    /// (Core 1.0 §3.1.2.1), and no token is asked for: at some providers a new one takes away the one that is kept.
    pub(super) async fn login_url(&self, login: &Login, errand: Errand) -> Result<url::Url, VouchError> {
        let provider = self.discover().await?;
        let (mut scopes, mut extra) = (self.scopes.clone(), self.extra_params.clone());
        // Asking again later needs a token for it, which providers give for this scope, and only with consent (Core 1.0
        // §11). Those that do not know the scope give the token by ways of their own (`oidc_extra_params`).
        let is_device = matches!(errand, Errand::Device(_));
        if !is_device {
            scopes.retain(|scope| scope != "offline_access");
            extra.retain(|(name, _)| name != "max_age");
            extra.push(("max_age".to_owned(), "0".to_owned()));
        }
        if is_device
            && self.wants_refresh
            && provider.offers_offline_access
            && !scopes.iter().any(|s| s == "offline_access")
        {
            scopes.push("offline_access".to_owned());
        }
        if scopes.iter().any(|s| s == "offline_access") && !extra.iter().any(|(name, _)| name == "prompt") {
            extra.push(("prompt".to_owned(), "consent".to_owned()));
        }
        Ok(login.url(&provider, &self.client.client_id, &self.redirect, &scopes, &extra))
    }

    /// Whether an answer must name its issuer, and which.
    pub(super) async fn check_issuer(&self, named: Option<&str>) -> Result<(), VouchError> {
        let provider = self.discover().await?;
        match named {
            Some(named) if named == provider.issuer => Ok(()),
            Some(named) => {
                Err(ClaimsError::Issuer(named.chars().filter(|c| !c.is_control()).take(200).collect()).into())
            }
            None if provider.names_itself => Err(ClaimsError::Missing("iss").into()),
            None => Ok(()),
        }
    }

    /// Turns a code into a person who may join.
    pub(super) async fn redeem(&self, login: &Login, code: &Secret, errand: Errand) -> Result<Vouched, VouchError> {
        let provider = self.discover().await?;
        let request = self.client.code_request(&provider, login, code, &self.redirect);
        let tokens = self.tokens(&provider, request, "code").await?;
        let token = tokens.id.as_ref().ok_or(VouchError::NoIdToken)?;
        let expected = self.expected(Some(&login.nonce), None);
        let claims = Claims::verify(token, &self.keys(&provider).await?, expected, clock::wall())?;
        if matches!(errand, Errand::Shell(_)) {
            claims.check_fresh(clock::wall())?;
        }
        self.vouch(&provider, claims, tokens).await
    }

    /// Asks again about somebody who signed in before. From here on the old refresh token may not be good any more.
    pub(super) async fn ask_again(&self, refresh: &Secret) -> Result<Tokened, VouchError> {
        let provider = self.discover().await?;
        let request = self.client.refresh_request(&provider, refresh);
        let tokens = self.tokens(&provider, request, "refresh token").await?;
        Ok(Tokened { provider, tokens })
    }

    /// What it says about them now. `Ok(None)`: they are still there, and nothing was said of them.
    pub(super) async fn vouch_again(&self, asked: &Tokened, subject: &str) -> Result<Option<Person>, VouchError> {
        let Tokened { provider, tokens } = asked;
        let claims = match (&tokens.id, &provider.userinfo) {
            (Some(token), _) => {
                let expected = self.expected(None, Some(subject));
                Claims::verify(token, &self.keys(provider).await?, expected, clock::wall())?
            }
            (None, Some(_)) => {
                Claims::from_userinfo(&self.issuer, subject, &self.userinfo(provider, &tokens.access).await?)?
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(self.vouch(provider, claims, tokens.clone()).await?.person))
    }

    /// Completes the profile and holds it against the rules.
    async fn vouch(&self, provider: &Provider, claims: Claims, tokens: Tokens) -> Result<Vouched, VouchError> {
        // Small ID tokens are the rule; what is not in one, the userinfo endpoint may know.
        // Groups too: policies go by them, and that a token leaves them out does not mean that there are none.
        let wanted = ["email", "preferred_username", "name", &self.groups_claim];
        let is_whole = wanted.iter().all(|name| claims.has(name));
        let expires = claims.expires();
        let claims = match &provider.userinfo {
            Some(_) if !is_whole => claims.with_userinfo(&self.userinfo(provider, &tokens.access).await?)?,
            _ => claims,
        };
        let profile = claims.profile(&self.groups_claim, self.email_verified_required)?;
        self.rules.admit(&profile)?;
        let until = self.use_expiry_from_token.then_some(expires);
        Ok(Vouched { person: person(profile), refresh: tokens.refresh.filter(|_| self.wants_refresh), until })
    }

    fn expected<'a>(&'a self, nonce: Option<&'a Secret>, subject: Option<&'a str>) -> Expected<'a> {
        Expected { issuer: &self.issuer, client_id: &self.client.client_id, nonce, subject }
    }

    /// One question at a time; whoever came while it was under way has its answer, be it a failure.
    async fn discover(&self) -> Result<Arc<Provider>, VouchError> {
        let came = clock::now();
        let mut discovered = self.discovered.lock().await;
        if let Some((since, provider)) = &discovered.found
            && since.elapsed() < DISCOVERY_LIFETIME
        {
            return Ok(Arc::clone(provider));
        }
        if let Some((failed, why)) = &discovered.failed
            && *failed >= came
        {
            return Err(VouchError::Discovery(why.clone()));
        }
        match self.ask_discovery().await {
            Ok(provider) => {
                discovered.found = Some((clock::now(), Arc::clone(&provider)));
                Ok(provider)
            }
            Err(error) => {
                discovered.failed = Some((clock::now(), error.to_string()));
                Err(error)
            }
        }
    }

    async fn ask_discovery(&self) -> Result<Arc<Provider>, VouchError> {
        let url = Provider::discovery_url(&self.issuer)?;
        let answer = self.get("discovery document", &url, None).await?;
        Ok(Arc::new(Provider::parse(&self.issuer, &answer)?))
    }

    /// Asked for each time: a key that the provider has withdrawn must not count a minute longer.
    async fn keys(&self, provider: &Provider) -> Result<KeySet, VouchError> {
        Ok(KeySet::parse(&self.get("key set", &provider.keys, None).await?)?)
    }

    async fn userinfo(&self, provider: &Provider, access: &Secret) -> Result<bytes::Bytes, VouchError> {
        let url = provider.userinfo.as_ref().ok_or(ProviderError::Lacks("a userinfo endpoint"))?;
        self.get("userinfo endpoint", url, Some(&format!("Bearer {}", access.expose()))).await
    }

    async fn tokens(
        &self,
        provider: &Provider,
        request: TokenRequest,
        what: &'static str,
    ) -> Result<Tokens, VouchError> {
        let question = Question {
            url: &provider.token,
            form: Some(request.form.expose()),
            authorization: request.authorization.as_ref().map(Secret::expose),
        };
        let answer = exchange::ask(question, &self.tls, LARGEST_ANSWER, DEADLINE).await?;
        Ok(Tokens::parse(answer.status, &answer.body, what)?)
    }

    async fn get(
        &self,
        what: &'static str,
        url: &url::Url,
        authorization: Option<&str>,
    ) -> Result<bytes::Bytes, VouchError> {
        let question = Question { url, form: None, authorization };
        let answer = exchange::ask(question, &self.tls, LARGEST_ANSWER, DEADLINE).await?;
        if answer.status != 200 {
            return Err(VouchError::Status { what, status: answer.status });
        }
        Ok(answer.body)
    }
}

/// The provider took the refresh token. What it gave in its stead must be kept, whatever else it says.
pub(super) struct Tokened {
    provider: Arc<Provider>,
    tokens: Tokens,
}

impl Tokened {
    /// For the next time, if it gave another.
    pub(super) fn refresh(&self) -> Option<&Secret> {
        self.tokens.refresh.as_ref()
    }
}
