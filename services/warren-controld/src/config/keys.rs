//! The table of settings: one row gives the field, the key in the file, the variable and the flag.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use warren_oidc::Secret;

use super::ConfigError;

/// How a setting is written where there is only text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Switch,
    List,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $kind:ident;)*) => {
        /// What one source says; `None` where it is silent. Flags of the command line are given as one of these.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(default)]
        pub struct Overrides {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        const KEYS: &[(&str, Kind)] = &[$((stringify!($name), Kind::$kind),)*];

        impl Overrides {
            /// What `self` says, and where it is silent what `lower` says.
            #[must_use]
            pub fn over(self, lower: Self) -> Self {
                Self { $($name: self.$name.or(lower.$name),)* }
            }
        }
    };
}

settings! {
    /// Where to listen for nodes and people, `[::]:8080`.
    listen: SocketAddr, Text;
    /// What clients log in to.
    server_url: String, Text;
    /// Names are `<node>.<base_domain>`, `warren.internal`.
    base_domain: String, Text;
    /// Key and database.
    state_dir: PathBuf, Text;
    /// Admin socket.
    socket: PathBuf, Text;
    /// Where IPv4 addresses come from, or `none`.
    ipv4_range: String, Text;
    /// Where IPv6 addresses come from, or `none`.
    ipv6_range: String, Text;
    /// How long a node key is good (`180d`); `0` is for ever.
    key_lifetime: String, Text;
    /// How long an ephemeral node may be away, `30m`.
    ephemeral_timeout: String, Text;
    /// The longest silence on a map stream, `50s`; clients give up after 120 s.
    keep_alive_interval: String, Text;
    /// How often routers are asked for a sign of life where several serve one network, `10s`; `0` is never.
    ha_probe_interval: String, Text;
    /// How long they have to answer, `5s`.
    ha_probe_timeout: String, Text;
    /// A new node is kept out until an operator approves it, unless its join key was made to spare that.
    device_approval: bool, Switch;
    /// Nodes are not told each other's underlay addresses.
    hide_endpoints: bool, Switch;
    /// A policy file that is in force instead of the one in the database.
    policy_file: PathBuf, Text;
    /// Identity provider at which people sign in, to the letter as it calls itself.
    oidc_issuer: String, Text;
    /// This server's name there.
    oidc_client_id: String, Text;
    /// What proves it; better in a file.
    oidc_client_secret: Secret, Text;
    /// A file with nothing but that.
    oidc_client_secret_file: PathBuf, Text;
    /// What is asked for: `openid`, `profile`, `email`.
    oidc_scopes: Vec<String>, List;
    /// Added to the address where people sign in, each `name=value`.
    oidc_extra_params: Vec<String>, List;
    /// Domains of e-mail addresses that may join; none is all.
    oidc_allowed_domains: Vec<String>, List;
    /// E-mail addresses that may join; none is all.
    oidc_allowed_users: Vec<String>, List;
    /// Groups of the provider that may join; none is all.
    oidc_allowed_groups: Vec<String>, List;
    /// Only addresses that the provider has verified count.
    oidc_email_verified_required: bool, Switch;
    /// Which claim has the groups, `groups`.
    oidc_groups_claim: String, Text;
    /// A node must log in anew when the ID token of its sign-in ends.
    oidc_use_expiry_from_token: bool, Switch;
    /// How often the provider is asked again about everybody, `1h`; `0` is never.
    oidc_refresh: String, Text;
    /// PEM, leaf first.
    tls_certificate: PathBuf, Text;
    /// PEM.
    tls_key: PathBuf, Text;
    /// Run a relay beside this server.
    relay: bool, Switch;
    /// Its region, 900.
    relay_region: u32, Number;
    /// Its host, if not the server's.
    relay_host: String, Text;
    /// Its literal addresses, which spare clients the resolver; a family of which none is named is not tried.
    relay_addresses: Vec<IpAddr>, List;
    /// Its TCP port, if not the one that is listened on.
    relay_port: u16, Number;
    /// Its UDP port, 3478; 0 is none.
    stun_port: u16, Number;
    /// Clients do not check the relay's certificate. Only tests want this.
    insecure_for_tests: bool, Switch;
    /// A relay map in JSON whose regions are added to our own.
    relay_map_file: PathBuf, Text;
    /// Nodes answer the network's names themselves.
    magic_dns: bool, Switch;
    /// Resolvers for everything else.
    dns_resolvers: Vec<String>, List;
    /// They replace a node's own resolvers.
    dns_override_local: bool, Switch;
    /// Searched after the base domain.
    dns_search_domains: Vec<String>, List;
    /// Resolvers for some domains only, each `domain=resolver`; a domain may stand in several.
    dns_split: Vec<String>, List;
    /// A JSON list of names beside those of nodes; followed while the server runs.
    dns_extra_records_file: PathBuf, Text;
}

impl Overrides {
    /// # Errors
    /// [`ConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_text(path, &text)
    }

    /// `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        };
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        for key in table.keys() {
            if !KEYS.iter().any(|(known, _)| known == key) {
                let nearest = nearest(key);
                return Err(ConfigError::UnknownKey { place: path.display().to_string(), key: key.clone(), nearest });
            }
        }
        // From the text once more: only so do errors name their line.
        toml::from_str(text).map_err(syntax)
    }

    /// `variable` looks up one variable of the environment.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut all = Self::default();
        for (key, kind) in KEYS {
            let name = format!("WARREN_CONTROL_{}", key.to_ascii_uppercase());
            let Some(text) = variable(&name) else { continue };
            let wrong = |reason: String| ConfigError::Value { place: name.clone(), reason };
            let value = kind.read(&text).map_err(wrong)?;
            let table = toml::Table::from_iter([((*key).to_owned(), value)]);
            let one: Self = table.try_into().map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
            all = all.over(one);
        }
        Ok(all)
    }
}

impl Kind {
    fn read(self, text: &str) -> Result<toml::Value, String> {
        let text = text.trim();
        match self {
            Self::Text => Ok(text.into()),
            Self::Number => text.parse::<i64>().map(Into::into).map_err(|_| format!("{text:?} is not a number")),
            Self::Switch => match text {
                "true" | "1" | "yes" | "on" => Ok(true.into()),
                "false" | "0" | "no" | "off" => Ok(false.into()),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Self::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(toml::Value::Array(items.map(toml::Value::from).collect()))
            }
        }
    }
}

/// The key that a misspelt one most likely means.
fn nearest(wrong: &str) -> Option<&'static str> {
    let (distance, key) = KEYS.iter().map(|(key, _)| (distance(wrong, key), *key)).min()?;
    (distance <= 1 + wrong.len() / 4).then_some(key)
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}
