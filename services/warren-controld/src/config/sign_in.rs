//! How people sign in: the `oidc_…` settings, checked together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_oidc::{Provider, Rules, Secret};

use super::{ConfigError, Overrides, durations};

/// Longest client secret worth reading.
const LONGEST_SECRET: u64 = 4096;

/// Name of the file among the service manager's credentials (`LoadCredential=oidc_client_secret:…`).
const CREDENTIAL: &str = "oidc_client_secret";

/// An identity provider and what is asked of it.
#[derive(Clone, Debug)]
pub struct SignInConfig {
    /// Its name, to the letter.
    pub issuer: String,
    /// Our name there.
    pub client_id: String,
    /// What we prove ourselves with.
    pub secret: SecretSource,
    /// What is asked for, beside what asking again later needs.
    pub scopes: Vec<String>,
    /// Added to the address where people sign in.
    pub extra_params: Vec<(String, String)>,
    /// Who may join.
    pub rules: Rules,
    /// Only addresses that the provider has verified count, and there must be one.
    pub email_verified_required: bool,
    /// Which claim has the groups.
    pub groups_claim: String,
    /// A node must log in anew when the ID token of its sign-in ends.
    pub use_expiry_from_token: bool,
    /// How often the provider is asked again about everybody; `None` is never.
    pub refresh: Option<Duration>,
}

/// Where the client secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A public client has none.
    None,
    /// In the configuration.
    Here(Secret),
    /// In a file, without its line end.
    File(PathBuf),
}

impl SecretSource {
    /// The secret itself.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or holds no secret.
    pub fn read(&self) -> Result<Option<Secret>, ConfigError> {
        use std::io::Read as _;
        let path = match self {
            Self::None => return Ok(None),
            Self::Here(secret) => return Ok(Some(secret.clone())),
            Self::File(path) => path,
        };
        let problem = |source| ConfigError::Read { path: path.clone(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(problem)?;
        file.take(LONGEST_SECRET).read_to_string(&mut text).map_err(problem)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.chars().any(char::is_control) {
            let reason = format!("{} holds no client secret (one line)", path.display());
            return Err(ConfigError::Value { place: "oidc_client_secret_file".to_owned(), reason });
        }
        Ok(Some(Secret::new(text)))
    }
}

/// Names the service manager's credential where nothing else is said. `folder` is `$CREDENTIALS_DIRECTORY`.
pub(super) fn use_credential(said: &mut Overrides, folder: Option<&str>) {
    let is_silent = said.oidc_client_secret.is_none() && said.oidc_client_secret_file.is_none();
    let file = folder.map(|folder| Path::new(folder).join(CREDENTIAL)).filter(|file| file.is_file());
    if said.oidc_issuer.is_some() && is_silent {
        said.oidc_client_secret_file = file;
    }
}

/// `None` if no provider is configured.
pub(super) fn read(said: &mut Overrides) -> Result<Option<SignInConfig>, ConfigError> {
    let Some(issuer) = said.oidc_issuer.take() else {
        let is_silent = said.oidc_client_id.is_none()
            && said.oidc_client_secret.is_none()
            && said.oidc_client_secret_file.is_none()
            && said.oidc_allowed_domains.is_none()
            && said.oidc_allowed_users.is_none()
            && said.oidc_allowed_groups.is_none();
        // Lists that let only some people in and have no effect would be a trap.
        return if is_silent { Ok(None) } else { Err(ConfigError::Together("the oidc_ settings need oidc_issuer")) };
    };
    let value = |place: &str, reason: String| ConfigError::Value { place: place.to_owned(), reason };
    Provider::discovery_url(&issuer).map_err(|error| value("oidc_issuer", error.to_string()))?;
    let Some(client_id) = said.oidc_client_id.take().filter(|id| !id.is_empty()) else {
        return Err(ConfigError::Together("oidc_issuer needs oidc_client_id, as the provider knows this server"));
    };
    let secret = match (said.oidc_client_secret.take(), said.oidc_client_secret_file.take()) {
        (Some(_), Some(_)) => {
            return Err(ConfigError::Together("give oidc_client_secret or oidc_client_secret_file, not both"));
        }
        (Some(secret), None) => SecretSource::Here(secret),
        (None, Some(file)) => SecretSource::File(file),
        (None, None) => SecretSource::None,
    };
    let scopes = said.oidc_scopes.take().unwrap_or_else(|| ["openid", "profile", "email"].map(str::to_owned).into());
    if !scopes.iter().any(|scope| scope == "openid") {
        return Err(value("oidc_scopes", "\"openid\" must be among them".to_owned()));
    }
    let mut extra_params = Vec::new();
    for text in said.oidc_extra_params.take().unwrap_or_default() {
        let Some((name, content)) = text.split_once('=') else {
            return Err(value("oidc_extra_params", format!("{text:?} is not name=value")));
        };
        extra_params.push((name.to_owned(), content.to_owned()));
    }
    let refresh = durations::parse(said.oidc_refresh.as_deref().unwrap_or("1h"))
        .map_err(|reason| value("oidc_refresh", reason))?;
    Ok(Some(SignInConfig {
        issuer,
        client_id,
        secret,
        scopes,
        extra_params,
        rules: Rules {
            domains: said.oidc_allowed_domains.take().unwrap_or_default(),
            users: said.oidc_allowed_users.take().unwrap_or_default(),
            groups: said.oidc_allowed_groups.take().unwrap_or_default(),
        },
        email_verified_required: said.oidc_email_verified_required.unwrap_or(true),
        groups_claim: said.oidc_groups_claim.take().unwrap_or_else(|| "groups".to_owned()),
        use_expiry_from_token: said.oidc_use_expiry_from_token.unwrap_or(false),
        refresh: Some(refresh).filter(|every| !every.is_zero()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(toml: &str) -> Result<Option<SignInConfig>, ConfigError> {
        read(&mut Overrides::from_text(Path::new("control.toml"), toml)?)
    }

    const LEAST: &str = "oidc_issuer = \"https://id.example\"\noidc_client_id = \"warren\"\n";

    #[test]
    fn issuer_and_name_are_enough() {
        let config = sign_in(LEAST).expect("valid").expect("a provider");
        assert_eq!(config.scopes, ["openid", "profile", "email"]);
        assert!(config.email_verified_required && config.secret == SecretSource::None);
        assert_eq!(config.refresh, Some(Duration::from_secs(3600)));
        assert!(sign_in("").expect("valid").is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_named() {
        for (more, part) in [
            ("oidc_scopes = [\"email\"]", "oidc_scopes"),
            ("oidc_extra_params = [\"prompt\"]", "oidc_extra_params"),
            ("oidc_refresh = \"often\"", "oidc_refresh"),
            ("oidc_client_secret = \"a\"\noidc_client_secret_file = \"/b\"", "not both"),
        ] {
            let error = sign_in(&format!("{LEAST}{more}")).expect_err(more).to_string();
            assert!(error.contains(part), "{error}");
        }
        for (toml, part) in [
            ("oidc_allowed_domains = [\"example.net\"]", "oidc_issuer"),
            ("oidc_issuer = \"https://id.example\"", "oidc_client_id"),
            ("oidc_issuer = \"http://id.example\"\noidc_client_id = \"w\"", "http://id.example"),
        ] {
            let error = sign_in(toml).expect_err(toml).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_secret_comes_from_the_text_a_file_or_the_service_manager_and_is_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(CREDENTIAL);
        std::fs::write(&file, "s3cret\n").expect("written");
        let mut said = Overrides::from_text(Path::new("x"), LEAST).expect("TOML");
        use_credential(&mut said, folder.path().to_str());
        assert_eq!(said.oidc_client_secret_file.as_deref(), Some(file.as_path()));
        let config = read(&mut said).expect("valid").expect("a provider");
        let secret = config.secret.read().expect("readable").expect("a secret");
        assert_eq!(secret.expose(), "s3cret");
        let here =
            Overrides::from_text(Path::new("x"), &format!("{LEAST}oidc_client_secret = \"s3cret\"")).expect("TOML");
        assert!(!format!("{here:?}{config:?}").contains("s3cret"));
        std::fs::write(&file, "\n").expect("written");
        assert!(config.secret.read().expect_err("empty").to_string().contains("holds no client secret"));
        std::fs::remove_file(&file).expect("removed");
        assert!(matches!(config.secret.read(), Err(ConfigError::Read { .. })));
    }
}
