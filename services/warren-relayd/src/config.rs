//! What the operator of a relay configures: a file, the environment over it, flags over both.
//!
//! ```toml
//! # relay.toml
//! hostname          = "relay.example.net"                     # how nodes reach it; the only key without a default…
//! verify_client_url = "https://vpn.example.net/verify"        # …but for whom it serves: this, or open = true
//!
//! [acme]                                                      # a certificate for the name; without, a self-made one
//! email = "ops@example.net"
//! ```
//!
//! In the environment the key `hostname` is `WARREN_RELAY_HOSTNAME`.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_io::acme::Wish;
use warren_io::certificates::Source;
use warren_io::listener::Caps;
use warren_io::settings::{self, SettingError};
use warren_io::tls::Trust;
use warren_io::web_socket::Origins;

use crate::service::{RelayConfig, Who};

warren_io::settings! {
    /// What one source says; `None` where it is silent.
    Overrides as KEYS;

    /// Name or address at which nodes reach it.
    hostname: String, Text;
    /// Where to listen (TLS), `[::]:443`.
    listen: SocketAddr, Text;
    /// A second port, for plain HTTP alone; `[::]:80` with ACME.
    http_listen: SocketAddr, Text;
    /// UDP port of STUN, 3478; 0 for none.
    stun_port: u16, Number;
    /// Folder of its key and certificate.
    state_dir: PathBuf, Text;
    /// Number of its region in the relay map, 900.
    region: u32, Number;
    /// A control server's address that says whom to serve.
    verify_client_url: String, Text;
    /// Seconds after which it is asked again about those inside, 10.
    verify_seconds: u32, Number;
    /// Serve everybody who finds it.
    open: bool, Switch;
    /// PEM, leaf first.
    tls_certificate: PathBuf, Text;
    /// PEM.
    tls_key: PathBuf, Text;
    /// Get a certificate for the hostname by ACME. A section `[acme]` says the same.
    acme: bool, Switch;
    /// Where the authority writes when something is wrong.
    acme_email: String, Text;
    /// The authority's directory; Let's Encrypt.
    acme_directory: String, Text;
    /// How it asks: `tls-alpn-01` on port 443, or `http-01` on port 80.
    acme_challenge: String, Text;
    /// Pages that may use the relay by WebSocket (`https://console.example.net`, or `*`), beside its own.
    websocket_origins: Vec<String>, List;
}

/// How often a control server is asked again about those inside: what it costs there against how long a deleted node can go
/// on using the relay.
const VERIFY_SECONDS: u32 = 10;

/// A relay's configuration, and what its entry in a relay map needs.
#[derive(Clone)]
pub struct Config {
    /// For [`crate::prepare`].
    pub relay: RelayConfig,
    /// Name or address, without brackets.
    pub hostname: String,
    /// Number of its region.
    pub region: u32,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A source, or a value.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// What is missing or does not go together.
    #[error("{0}")]
    Together(&'static str),
}

impl Config {
    /// File, then environment (`variable` looks one up), then `flags`, the later winning. `folder` is where state goes when
    /// nobody says.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Overrides,
        folder: &Path,
    ) -> Result<Self, ConfigError> {
        let from_file = match file {
            Some(path) => settings::from_file(path, KEYS)?,
            None => Overrides::default(),
        };
        let from_environment: Overrides = settings::from_environment("WARREN_RELAY_", KEYS, variable)?;
        // Whom it serves is one thing in two keys: who says one of them overrules what a lower source says of the other.
        let mut lower = from_file;
        let mut said = Overrides::default();
        for mut upper in [from_environment, flags] {
            if upper.open == Some(true) {
                lower.verify_client_url = None;
            } else if upper.verify_client_url.is_some() {
                upper.open = Some(false);
            }
            said = upper.over(lower);
            lower = said.clone();
        }
        Self::new(said, folder)
    }

    /// Fills in what was not said.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(said: Overrides, folder: &Path) -> Result<Self, ConfigError> {
        let wrong = |place: &str, reason: String| SettingError::Value { place: place.to_owned(), reason };
        let hostname = said.hostname.ok_or(ConfigError::Together(
            "say at which name or address nodes reach this relay (hostname, or --hostname)",
        ))?;
        let hostname = hostname.trim_matches(['[', ']']).to_owned();
        let who = match (said.verify_client_url, said.open.unwrap_or(false)) {
            (Some(url), false) => {
                let every = Duration::from_secs(said.verify_seconds.unwrap_or(VERIFY_SECONDS).max(1).into());
                Who::VerifiedBy { url, trust: Trust::System, every }
            }
            (None, true) => Who::Everyone,
            (Some(_), true) => {
                return Err(ConfigError::Together("verify_client_url and open = true exclude each other"));
            }
            (None, false) => {
                return Err(ConfigError::Together(
                    "say whom this relay serves: verify_client_url (https://server/verify), or open = true for everybody",
                ));
            }
        };
        let region = said.region.unwrap_or(900);
        if region == 0 {
            return Err(wrong(
                "region",
                "region numbers begin at 1; 900 to 999 are free for private relays".to_owned(),
            )
            .into());
        }
        let any = |port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let state = said.state_dir.unwrap_or_else(|| folder.to_owned());
        let listen = said.listen.unwrap_or_else(|| any(443));
        let is_acme = said.acme.unwrap_or(false);
        let certificate = match (said.tls_certificate, said.tls_key, is_acme) {
            (Some(chain), Some(key), false) => Source::Files { chain, key },
            (None, None, false) => Source::SelfMade { folder: state.clone(), names: vec![hostname.clone()] },
            (None, None, true) => Source::Acme(
                Wish {
                    names: vec![hostname.clone()],
                    email: said.acme_email,
                    directory: said.acme_directory,
                    challenge: said.acme_challenge,
                    folder: state.clone(),
                }
                .check()?,
            ),
            (.., true) => {
                return Err(ConfigError::Together("a certificate from files and one by ACME exclude each other"));
            }
            _ => return Err(ConfigError::Together("tls_certificate and tls_key go together")),
        };
        let bracketed = if hostname.contains(':') { format!("[{hostname}]") } else { hostname.clone() };
        let own = format!("https://{bracketed}:{}", listen.port());
        let more = said.websocket_origins.unwrap_or_default();
        let origins = Origins::new([own.as_str()].into_iter().chain(more.iter().map(String::as_str)))
            .map_err(|error| wrong("websocket_origins", error.to_string()))?;
        let stun_port = said.stun_port.unwrap_or(3478);
        let relay = RelayConfig {
            listen,
            http_listen: said.http_listen.or(is_acme.then(|| any(80))),
            stun: (stun_port != 0).then(|| SocketAddr::new(listen.ip(), stun_port)),
            state,
            certificate,
            who,
            origins,
            caps: Caps::default(),
        };
        Ok(Self { relay, hostname, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let said = settings::from_text(Path::new("relay.toml"), text, KEYS).map_err(|error| error.to_string())?;
        Config::new(said, Path::new("/state")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_and_whom_it_serves_are_enough() {
        let config = config("hostname = \"relay.example.net\"\nopen = true\n").expect("good");
        assert_eq!((config.region, config.relay.listen.port()), (900, 443));
        assert_eq!(config.relay.stun.map(|stun| stun.port()), Some(3478));
        assert!(matches!(config.relay.who, Who::Everyone));
        assert!(matches!(config.relay.certificate, Source::SelfMade { names, .. } if names == ["relay.example.net"]));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, part) in [
            ("open = true", "hostname"),
            ("hostname = \"x\"", "whom this relay serves"),
            ("hostname = \"x\"\nopen = true\nverify_client_url = \"https://y/verify\"", "exclude"),
            ("hostname = \"x\"\nopen = true\nregion = 0", "begin at 1"),
            ("hostname = \"x\"\nopen = true\ntls_key = \"k\"", "go together"),
            ("hostname = \"192.0.2.1\"\nopen = true\n[acme]", "public name"),
            ("hostname = \"x\"\nopen = true\nwebsocket_origins = [\"y\"]", "websocket_origins"),
            ("hostnmae = \"x\"", "did you mean \"hostname\""),
        ] {
            let error = config(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn flags_win_also_about_whom_it_serves() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, "hostname = \"file\"\nverify_client_url = \"https://y/verify\"\nregion = 901\n")
            .expect("written");
        let variable = |name: &str| (name == "WARREN_RELAY_HOSTNAME").then(|| "environment".to_owned());
        let flags = Overrides { open: Some(true), ..Overrides::default() };
        let config = Config::load(Some(&file), variable, flags, folder.path()).expect("good");
        assert_eq!((config.hostname.as_str(), config.region), ("environment", 901));
        assert!(matches!(config.relay.who, Who::Everyone));
        let silent = |_: &str| None;
        let config = Config::load(Some(&file), silent, Overrides::default(), folder.path()).expect("good");
        assert!(matches!(config.relay.who, Who::VerifiedBy { .. }));
    }
}
