//! What may be configured, in layers: flags over environment over `node.toml` over defaults. Every key is optional.
//!
//! | key | environment | what |
//! |---|---|---|
//! | `state` | `WARREN_NODE_STATE` | folder of the node's state |
//! | `socket` | `WARREN_NODE_SOCKET` | LocalAPI's Unix socket |
//! | `stock_socket` | `WARREN_NODE_STOCK_SOCKET` | listen at the stock client's path as well |
//! | `tun` | `WARREN_NODE_TUN` | `userspace-networking`, or the name of the interface |
//! | `helper` | `WARREN_NODE_HELPER` | socket of the privileged helper |
//! | `port` | `WARREN_NODE_PORT` | UDP port to try first |
//! | `mtu` | `WARREN_NODE_MTU` | bytes in a packet of the interface |
//! | `socks5_server` | `WARREN_NODE_SOCKS5_SERVER` | where to open a SOCKS5 proxy |
//! | `outbound_http_proxy_listen` | `WARREN_NODE_OUTBOUND_HTTP_PROXY_LISTEN` | where to open an HTTP proxy |
//! | `login_server`, `auth_key`, `server_key`, `hostname` | `WARREN_NODE_LOGIN_SERVER` … | the network to join at the first start |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use warren_driver::HelperDoor;
use warren_wire::AuthKey;

/// What `tun` says when there shall be no interface.
pub const USERSPACE: &str = "userspace-networking";

/// One layer of configuration: a file, the environment, or the flags.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub state: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub stock_socket: Option<bool>,
    pub tun: Option<String>,
    pub helper: Option<PathBuf>,
    pub port: Option<u16>,
    pub mtu: Option<u16>,
    pub socks5_server: Option<String>,
    pub outbound_http_proxy_listen: Option<String>,
    pub login_server: Option<String>,
    /// The key itself, or `file:PATH`.
    pub auth_key: Option<String>,
    pub server_key: Option<String>,
    pub hostname: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Settings").field("state", &self.state).field("tun", &self.tun).finish_non_exhaustive()
    }
}

/// Every key of [`Settings`].
const KEYS: [&str; 13] = [
    "state",
    "socket",
    "stock_socket",
    "tun",
    "helper",
    "port",
    "mtu",
    "socks5_server",
    "outbound_http_proxy_listen",
    "login_server",
    "auth_key",
    "server_key",
    "hostname",
];

/// A node daemon with every choice made.
#[derive(Debug)]
pub struct Config {
    /// Folder of the node's state; made with mode 0700.
    pub state: PathBuf,
    /// LocalAPI's socket; its folder is made.
    pub socket: PathBuf,
    /// More sockets that answer the same.
    pub more_sockets: Vec<PathBuf>,
    /// Where the helper is; `None`: no interface, all in this process.
    pub helper: Option<HelperDoor>,
    pub port: u16,
    pub mtu: u16,
    pub socks5: Option<SocketAddr>,
    pub http_proxy: Option<SocketAddr>,
    pub login: Option<AutoLogin>,
    /// This program's version.
    pub version: String,
}

/// The network to join without being asked, unless the node is in it already.
#[derive(Clone, Debug)]
pub struct AutoLogin {
    pub url: String,
    pub key: Option<AuthKey>,
    /// `mkey:…`; nobody else can then answer the first contact.
    pub server_key: Option<String>,
    pub hostname: Option<String>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {text}")]
    File { path: PathBuf, text: String },
    #[error("{variable}: {text}")]
    Environment { variable: String, text: String },
    #[error("\"{text}\" is not an address to listen on such as 127.0.0.1:1055")]
    Listen { text: String },
    #[error("an MTU of {0} does not work: IPv6 needs at least 1280, and at most 9000 is supported")]
    Mtu(u16),
    #[error("read the auth key from {path}")]
    AuthKey {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("a login server is needed beside {0}")]
    NoLoginServer(&'static str),
}

impl Settings {
    /// Reads a file. One that does not exist is an error only where it was `named` by a person.
    ///
    /// # Errors
    /// [`ConfigError::Read`]; [`ConfigError::File`] with the line, or with the nearest known key.
    pub fn from_file(path: &Path, named: bool) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_toml(&text).map_err(|text| ConfigError::File { path: path.to_owned(), text }),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound && !named => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn from_toml(text: &str) -> Result<Self, String> {
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', " "))?;
        Self::from_table(table)
    }

    fn from_table(table: toml::Table) -> Result<Self, String> {
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("there is no key \"{unknown}\"; {}", suggestion(unknown, &KEYS)));
        }
        table.try_into().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', " "))
    }

    /// Reads `WARREN_NODE_…` of the environment given. An empty value is as good as none.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] for an unknown variable of that beginning, or a value that does not fit.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        for (variable, value) in variables.filter(|(_, value)| !value.is_empty()) {
            let Some(key) = variable.strip_prefix("WARREN_NODE_").map(str::to_ascii_lowercase) else { continue };
            let wrong = |text| ConfigError::Environment { variable: variable.clone(), text };
            let value = match key.as_str() {
                "port" | "mtu" => value
                    .parse()
                    .map(toml::Value::Integer)
                    .map_err(|_| wrong(format!("\"{value}\" is not a number")))?,
                "stock_socket" => value
                    .parse()
                    .map(toml::Value::Boolean)
                    .map_err(|_| wrong(format!("\"{value}\" is neither true nor false")))?,
                _ => toml::Value::String(value),
            };
            Self::from_table(toml::Table::from_iter([(key.clone(), value.clone())])).map_err(wrong)?;
            table.insert(key, value);
        }
        Self::from_table(table).map_err(|text| ConfigError::Environment { variable: "WARREN_NODE_…".into(), text })
    }

    /// What `over` says, and what this says where that is silent.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        Self {
            state: over.state.or(self.state),
            socket: over.socket.or(self.socket),
            stock_socket: over.stock_socket.or(self.stock_socket),
            tun: over.tun.or(self.tun),
            helper: over.helper.or(self.helper),
            port: over.port.or(self.port),
            mtu: over.mtu.or(self.mtu),
            socks5_server: over.socks5_server.or(self.socks5_server),
            outbound_http_proxy_listen: over.outbound_http_proxy_listen.or(self.outbound_http_proxy_listen),
            login_server: over.login_server.or(self.login_server),
            auth_key: over.auth_key.or(self.auth_key),
            server_key: over.server_key.or(self.server_key),
            hostname: over.hostname.or(self.hostname),
        }
    }

    /// Where to open the SOCKS5 proxy. `:1055` and `1055` mean this machine alone.
    ///
    /// # Errors
    /// [`ConfigError::Listen`].
    pub fn socks5(&self) -> Result<Option<SocketAddr>, ConfigError> {
        listen_address(self.socks5_server.as_deref())
    }

    /// Where to open the HTTP proxy, in the same forms.
    ///
    /// # Errors
    /// [`ConfigError::Listen`].
    pub fn http_proxy(&self) -> Result<Option<SocketAddr>, ConfigError> {
        listen_address(self.outbound_http_proxy_listen.as_deref())
    }

    /// The MTU asked for, or the usual one.
    ///
    /// # Errors
    /// [`ConfigError::Mtu`].
    pub fn mtu(&self) -> Result<u16, ConfigError> {
        match self.mtu {
            None => Ok(warren_node::DEFAULT_MTU),
            Some(mtu @ 1280..=9000) => Ok(mtu),
            Some(other) => Err(ConfigError::Mtu(other)),
        }
    }

    /// The network to join by itself.
    ///
    /// # Errors
    /// A key file that cannot be read, or a key without a server.
    pub fn login(&self) -> Result<Option<AutoLogin>, ConfigError> {
        let Some(url) = &self.login_server else {
            return match (&self.auth_key, &self.server_key) {
                (Some(_), _) => Err(ConfigError::NoLoginServer("an auth key")),
                (None, Some(_)) => Err(ConfigError::NoLoginServer("a server key")),
                (None, None) => Ok(None),
            };
        };
        let key = match self.auth_key.as_deref() {
            None => None,
            Some(text) => Some(match text.strip_prefix("file:") {
                None => AuthKey::new(text),
                Some(path) => AuthKey::new(
                    &std::fs::read_to_string(path)
                        .map_err(|source| ConfigError::AuthKey { path: path.to_owned(), source })?,
                ),
            }),
        };
        Ok(Some(AutoLogin {
            url: url.trim_end_matches('/').to_owned(),
            key,
            server_key: self.server_key.clone(),
            hostname: self.hostname.clone(),
        }))
    }
}

fn listen_address(text: Option<&str>) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || ConfigError::Listen { text: text.to_owned() };
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return Ok(Some(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    let text = text.replace("localhost:", "127.0.0.1:");
    text.parse().map(Some).map_err(|_| wrong())
}

/// What else the writer of `unknown` may have meant.
fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|key| (distance(unknown, key), key)).min();
    match nearest {
        Some((distance, key)) if distance <= 3 => format!("did you mean \"{key}\"?"),
        _ => format!("known are {}", known.join(", ")),
    }
}

/// Levenshtein's: how many letters to change, add or take away.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..to.len() {
            let change = diagonal + usize::from(letter != to[column]);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let file = Settings::from_toml("port = 1\nmtu = 1280\ntun = \"a\"").unwrap();
        let environment =
            [("WARREN_NODE_PORT", "2"), ("WARREN_NODE_TUN", "b"), ("WARREN_NODE_STATE", ""), ("HOME", "/")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Settings::from_environment(environment.into_iter()).unwrap();
        let flags = Settings { tun: Some("c".into()), ..Settings::default() };
        let all = file.overlaid(environment).overlaid(flags);
        assert_eq!((all.port, all.mtu, all.tun.as_deref(), all.state), (Some(2), Some(1280), Some("c"), None));
    }

    #[track_caller]
    fn refused(toml: &str, expect: &str) {
        let text = Settings::from_toml(toml).expect_err("refused");
        assert!(text.contains(expect), "{text}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        refused("socks5_sever = \"x\"", "did you mean \"socks5_server\"?");
        refused("colour = \"red\"", "known are state, socket");
        refused("port = 70000", "invalid value");
        refused("port = ", "line 1");
        let wrong = [("WARREN_NODE_PROT".to_owned(), "1".to_owned())];
        let error = Settings::from_environment(wrong.into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "WARREN_NODE_PROT: there is no key \"prot\"; did you mean \"port\"?");
    }

    #[test]
    fn the_list_of_keys_is_the_settings() {
        for key in KEYS {
            let value = match key {
                "port" | "mtu" => "1",
                "stock_socket" => "true",
                _ => "\"x\"",
            };
            let settings = Settings::from_toml(&format!("{key} = {value}")).unwrap();
            assert!(settings != Settings::default(), "{key}");
        }
    }

    #[test]
    fn a_proxy_without_a_host_listens_on_this_machine_alone() {
        for (text, expect) in [(":1055", "127.0.0.1:1055"), ("localhost:1", "127.0.0.1:1"), ("[::1]:2", "[::1]:2")] {
            let settings = Settings { socks5_server: Some(text.into()), ..Settings::default() };
            assert_eq!(settings.socks5().unwrap(), Some(expect.parse().unwrap()));
        }
        let settings = Settings { socks5_server: Some("somewhere".into()), ..Settings::default() };
        assert!(settings.socks5().is_err());
    }

    #[test]
    fn a_key_without_a_server_is_a_mistake() {
        let settings = Settings { auth_key: Some("k".into()), ..Settings::default() };
        assert!(matches!(settings.login(), Err(ConfigError::NoLoginServer(_))));
        let settings = Settings { login_server: Some("http://x/".into()), ..settings };
        assert_eq!(settings.login().unwrap().unwrap().url, "http://x");
    }
}
