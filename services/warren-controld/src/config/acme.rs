//! What is said about ACME, checked.

use std::path::Path;

use url::Url;
use warren_io::acme::{AcmeConfig, Wish};

use super::{ConfigError, Overrides};

/// The order that follows from the settings: for the server's own name first.
pub(super) fn config(said: &Overrides, server: &Url, state_dir: &Path) -> Result<AcmeConfig, ConfigError> {
    if server.scheme() != "https" {
        return Err(ConfigError::Together("a certificate by ACME needs a server_url that begins with https"));
    }
    let own = server.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
    let wish = Wish {
        names: own.into_iter().chain(said.acme_names.iter().flatten().cloned()).collect(),
        email: said.acme_email.clone(),
        directory: said.acme_directory.clone(),
        challenge: said.acme_challenge.clone(),
        folder: state_dir.to_owned(),
    };
    Ok(wish.check()?)
}
