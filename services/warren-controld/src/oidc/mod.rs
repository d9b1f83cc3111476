//! People who sign in at an identity provider: devices become theirs, and shells that a rule checks are let in.
//!
//! ```text
//! /register/<id>          "a device wants to join": name, system, code            (page)
//! /oidc/start/<id>        remembers state, nonce and verifier for this browser ──▶ the provider
//! /oidc/callback          code ─▶ tokens ─▶ verified claims ─▶ may they join?
//! /oidc/confirm/<state>   "add this device?": who, which device, the code          (page, POST with a token)
//! /register/<id>          "this device is in", or waits for an operator           (page)
//! ```
//!
//! For a shell it is the same way from `/auth/<id>` and back, and only the person whose device it comes from may say yes.
//!
//! | module | what |
//! |---|---|
//! | `attempts` | sign-ins between their steps, bound to one browser each |
//! | `provider` | questions to the provider, and answers as far as they prove something |
//! | `flow` | the four addresses above |
//! | `refresh` | asking again about everybody, and logging out who is gone |
//! | `seal` | refresh tokens as they lie in the database |
//!
//! What is decided about tokens and claims is `warren-oidc`'s, what follows for users and nodes `warren-control`'s.

mod attempts;
pub(crate) mod flow;
mod provider;
mod refresh;
mod seal;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use warren_control::Person;
use warren_control::rows::User;
use warren_crypto::MachineSecret;
use warren_io::tls::{self, Trust};
use warren_oidc::Profile;

use crate::config::{Config, ConfigError, SignInConfig};
use crate::service::Shared;
use attempts::Attempts;
pub(crate) use attempts::Errand;
use provider::ProviderLink;
use seal::Sealer;

/// Where the provider sends people back to; an operator registers it there.
pub(crate) const CALLBACK: &str = "/oidc/callback";

/// Everything about signing in. One for the whole server.
pub(crate) struct SignIn {
    config: SignInConfig,
    provider: ProviderLink,
    attempts: Mutex<Attempts>,
    sealer: Sealer,
    /// Our own address, for cookies and the way back.
    server_url: String,
}

impl SignIn {
    /// `None` if no provider is configured. The provider need not answer yet: a control server must not be down because
    /// it is.
    ///
    /// # Errors
    /// [`ConfigError`]: the client secret cannot be read, or this system trusts no certificate authority.
    pub(crate) fn open(config: &Config, noise_key: &MachineSecret) -> Result<Option<Self>, ConfigError> {
        let Some(sign_in) = &config.sign_in else { return Ok(None) };
        // A provider on this machine is asked without TLS, and then no authority is needed.
        let trust = if sign_in.issuer.starts_with("http://") { Trust::Pinned([0; 32]) } else { Trust::System };
        let tls = tls::client_config(trust).map_err(|error| ConfigError::Value {
            place: "oidc_issuer".to_owned(),
            reason: format!("it cannot be asked: {error}"),
        })?;
        let redirect = format!("{}{CALLBACK}", config.server_url);
        Ok(Some(Self {
            provider: ProviderLink::new(sign_in, sign_in.secret.read()?, redirect, tls),
            attempts: Mutex::default(),
            sealer: Sealer::new(noise_key),
            server_url: config.server_url.clone(),
            config: sign_in.clone(),
        }))
    }

    /// The provider as people know it: its host.
    pub(crate) fn provider_name(&self) -> String {
        let host = url::Url::parse(&self.config.issuer).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_else(|| self.config.issuer.clone())
    }

    /// Whether it is this provider that knows the person.
    pub(crate) fn vouches_for(&self, user: &User) -> bool {
        user.issuer == self.config.issuer
    }

    /// Asks again about everybody from time to time, until `shutdown` turns true.
    pub(crate) async fn keep_fresh(shared: Arc<Shared>, shutdown: watch::Receiver<bool>) {
        refresh::run(shared, shutdown).await;
    }
}

/// The same facts in the words of the registry.
fn person(profile: Profile) -> Person {
    let Profile { issuer, subject, login, email, display_name, picture_url, groups } = profile;
    Person { issuer, subject, login, email, display_name, picture_url, groups }
}
