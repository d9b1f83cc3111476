//! What the operator configures: a file, the environment over it, flags over both.
//!
//! ```toml
//! # control.toml: every key is optional
//! server_url  = "https://vpn.example.net"   # exactly what clients log in to
//! listen      = "[::]:8080"
//! base_domain = "mesh.example.net"          # names are <node>.<base_domain>
//! ```
//!
//! In the environment the key `server_url` is `WARREN_CONTROL_SERVER_URL`.

mod acme;
mod durations;
mod keys;
mod sign_in;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_control::{DnsSettings, Probing, Settings, SettingsError};
use warren_io::acme::AcmeConfig;
use warren_io::settings::SettingError;
use warren_io::web_socket::Origins;
use warren_ip::Prefix;
use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

pub use keys::Overrides;
pub use sign_in::{SecretSource, SignInConfig};

use crate::extra_records;

use crate::relay_map::{RelayMapError, Sources};

/// How often relay maps are fetched from URLs: they change rarely, and nodes keep what they have.
const RELAY_MAP_REFRESH: Duration = Duration::from_secs(3 * 3600);
/// Somebody else's server is not asked more often.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// Everything that a control server needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for nodes and people.
    pub listen: SocketAddr,
    /// What clients log in to, without a slash at the end. Links and the relay's place derive from it.
    pub server_url: String,
    /// Names are `<node>.<base_domain>`.
    pub base_domain: String,
    /// Key and database; mode 0700.
    pub state_dir: PathBuf,
    /// Admin socket.
    pub socket: PathBuf,
    /// Where IPv4 addresses come from.
    pub ipv4_range: Option<Prefix>,
    /// Where IPv6 addresses come from.
    pub ipv6_range: Option<Prefix>,
    /// How long a node key is good; `None` is for ever.
    pub key_lifetime: Option<Duration>,
    /// How long an ephemeral node may be away.
    pub ephemeral_timeout: Duration,
    /// The longest silence on a map stream.
    pub keep_alive_interval: Duration,
    /// How routers are asked for signs of life.
    pub probing: Probing,
    /// A new node is kept out until an operator approves it.
    pub device_approval: bool,
    /// Nodes are not told each other's underlay addresses.
    pub hide_endpoints: bool,
    /// A policy file that is in force instead of the one in the database.
    pub policy_file: Option<PathBuf>,
    /// Where people sign in; `None`: operators let devices in.
    pub sign_in: Option<SignInConfig>,
    /// Certificate chain and key, PEM. For whoever opens the port.
    pub tls: Option<TlsFiles>,
    /// Or a certificate from an authority.
    pub acme: Option<AcmeConfig>,
    /// API keys may come by plain HTTP from other machines.
    pub api_over_plain_http: bool,
    /// A second port, for plain HTTP alone.
    pub http_listen: Option<SocketAddr>,
    /// The relay that runs beside this server; `None` for none.
    pub relay: Option<OwnRelay>,
    /// Relay maps in JSON whose regions are added to our own.
    pub relay_map_files: Vec<PathBuf>,
    /// The same, from elsewhere.
    pub relay_map_urls: Vec<url::Url>,
    /// How often those are fetched.
    pub relay_map_refresh: Duration,
    /// Whether nodes are told of the relay that runs beside this server.
    pub relay_in_map: bool,
    /// Pages that may speak to server and relay by WebSocket, beside the server's own.
    pub websocket_origins: Vec<String>,
    /// Resolvers and search domains.
    pub dns: DnsSettings,
    /// Names beside those of nodes, in a file that is followed.
    pub dns_extra_records_file: Option<PathBuf>,
    /// The program that makes the records by which nodes get certificates.
    pub set_dns_command: Option<PathBuf>,
    /// The executable that `/get/…` serves; `None` serves none.
    pub executable: Option<PathBuf>,
}

/// Where a certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// How the relay map describes the relay that runs beside this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRelay {
    /// Region number.
    pub region: RegionId,
    /// Name or literal address at which clients find it.
    pub host: String,
    /// For a named host: literal addresses that spare clients the resolver.
    pub addresses: Vec<IpAddr>,
    /// TCP port, always TLS.
    pub port: u16,
    /// UDP port of STUN; `None` for none.
    pub stun_port: Option<u16>,
    /// `sha256-raw:<hex>` of a self-made certificate; set by whoever makes it, not by configuration.
    pub certificate: Option<String>,
    /// Clients do not check the certificate. Only tests want this.
    pub insecure_for_tests: bool,
}

/// What is wrong with the configuration. Each names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("read configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What was said in a file or the environment.
    #[error(transparent)]
    Said(#[from] SettingError),
    /// A value of the wrong kind.
    #[error("{place}: {reason}")]
    Value {
        /// File or variable, and key.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Keys that do not go together.
    #[error("configuration: {0}")]
    Together(&'static str),
    /// The file of extra names.
    #[error("extra names {}: {reason}", .path.display())]
    ExtraRecords {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A relay map.
    #[error(transparent)]
    RelayMap(#[from] RelayMapError),
    /// Settings that cannot work.
    #[error("configuration: {0}")]
    Settings(#[from] SettingsError),
}

impl Config {
    /// File, then environment (`variable` looks one up), then `flags`, the later winning. `folder` is where state and
    /// socket go when nobody says.
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
            Some(path) => Overrides::from_file(path)?,
            None => Overrides::default(),
        };
        let from_environment = Overrides::from_environment(&variable)?;
        let mut said = flags.over(from_environment).over(from_file);
        sign_in::use_credential(&mut said, variable("CREDENTIALS_DIRECTORY").as_deref());
        Self::new(said, folder)
    }

    /// Fills in what was not said.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(mut said: Overrides, folder: &Path) -> Result<Self, ConfigError> {
        let sign_in = sign_in::read(&mut said)?;
        let any = |port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let is_acme = said.acme.unwrap_or(false);
        // Authorities ask at these ports and no others.
        let listen = said.listen.unwrap_or_else(|| any(if is_acme { 443 } else { 8080 }));
        let http_listen = said.http_listen.or(is_acme.then(|| any(80)));
        let server_url = said.server_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", listen.port()));
        let url = url::Url::parse(&server_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host_str()?.to_owned()))) else {
            let reason = format!("{server_url:?} is not a URL such as https://vpn.example.net");
            return Err(ConfigError::Value { place: "server_url".to_owned(), reason });
        };
        let state_dir = said.state_dir.clone().unwrap_or_else(|| folder.to_owned());
        let acme = is_acme.then(|| acme::config(&said, url, &state_dir)).transpose()?;
        let range = |text: Option<String>, usual: &str, place: &str| match text.as_deref().unwrap_or(usual) {
            "none" => Ok(None),
            text => text.parse().map(Some).map_err(|_| ConfigError::Value {
                place: place.to_owned(),
                reason: format!("{text:?} is not a prefix such as {usual}, nor \"none\""),
            }),
        };
        let lifetime = |text: Option<String>, place: &str| match text.as_deref() {
            None => Ok(None),
            Some(text) => durations::parse(text)
                .map(Some)
                .map_err(|reason| ConfigError::Value { place: place.to_owned(), reason }),
        };
        let tls = match (said.tls_certificate, said.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(ConfigError::Together("tls_certificate and tls_key go together")),
        };
        if tls.is_some() && acme.is_some() {
            return Err(ConfigError::Together("a certificate from files and one by ACME exclude each other"));
        }
        if said.relay_region == Some(0) {
            let reason = "region numbers begin at 1; 900 to 999 are free for private relays".to_owned();
            return Err(ConfigError::Value { place: "relay_region".to_owned(), reason });
        }
        let relay = said.relay.unwrap_or(true).then(|| OwnRelay {
            region: RegionId(said.relay_region.unwrap_or(900)),
            host: said.relay_host.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned()),
            addresses: said.relay_addresses.unwrap_or_default(),
            port: said
                .relay_port
                .or(url.port_or_known_default().filter(|_| tls.is_some() || acme.is_some()))
                .unwrap_or(listen.port()),
            stun_port: Some(said.stun_port.unwrap_or(3478)).filter(|port| *port != 0),
            certificate: None,
            insecure_for_tests: said.insecure_for_tests.unwrap_or(false),
        });
        Ok(Self {
            socket: said.socket.unwrap_or_else(|| state_dir.join("run").join("control.sock")),
            state_dir,
            ipv4_range: range(said.ipv4_range, "100.64.0.0/10", "ipv4_range")?,
            ipv6_range: range(said.ipv6_range, "fd7a:115c:a1e0::/48", "ipv6_range")?,
            key_lifetime: lifetime(said.key_lifetime, "key_lifetime")?.filter(|life| !life.is_zero()),
            ephemeral_timeout: lifetime(said.ephemeral_timeout, "ephemeral_timeout")?
                .unwrap_or(Duration::from_secs(30 * 60)),
            keep_alive_interval: keep_alive(lifetime(said.keep_alive_interval, "keep_alive_interval")?)?,
            probing: Probing {
                every: lifetime(said.ha_probe_interval, "ha_probe_interval")?.unwrap_or(Probing::default().every),
                answer_within: lifetime(said.ha_probe_timeout, "ha_probe_timeout")?
                    .filter(|time| !time.is_zero())
                    .unwrap_or(Probing::default().answer_within),
            },
            base_domain: said.base_domain.unwrap_or_else(|| "warren.internal".to_owned()),
            api_over_plain_http: said.api_over_plain_http.unwrap_or(false),
            device_approval: said.device_approval.unwrap_or(false),
            hide_endpoints: said.hide_endpoints.unwrap_or(false),
            policy_file: said.policy_file,
            relay_map_files: said.relay_map_file.into_iter().collect(),
            relay_map_urls: relay_map_urls(said.relay_map_urls.unwrap_or_default())?,
            relay_map_refresh: lifetime(said.relay_map_refresh, "relay_map_refresh")?
                .unwrap_or(RELAY_MAP_REFRESH)
                .max(SHORTEST_REFRESH),
            relay_in_map: said.relay_in_map.unwrap_or(true),
            websocket_origins: said.websocket_origins.unwrap_or_default(),
            dns: DnsSettings {
                magic_dns: said.magic_dns.unwrap_or(true),
                resolvers: said.dns_resolvers.unwrap_or_default(),
                override_local: said.dns_override_local.unwrap_or(false),
                search_domains: said.dns_search_domains.unwrap_or_default(),
                split: split(said.dns_split.unwrap_or_default())?,
                ..DnsSettings::default()
            },
            dns_extra_records_file: said.dns_extra_records_file,
            set_dns_command: said.set_dns_command,
            executable: None,
            sign_in,
            server_url: server_url.trim_end_matches('/').to_owned(),
            listen,
            http_listen,
            tls,
            acme,
            relay,
        })
    }

    /// The host of `server_url`, shown as the network's name.
    pub fn host(&self) -> String {
        let host = url::Url::parse(&self.server_url).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_default().trim_matches(['[', ']']).to_owned()
    }

    /// Pages that may speak to server and relay by WebSocket: the server's own and those that were named.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn origins(&self) -> Result<Origins, ConfigError> {
        let all = [self.server_url.as_str()].into_iter().chain(self.websocket_origins.iter().map(String::as_str));
        Origins::new(all)
            .map_err(|error| ConfigError::Value { place: "websocket_origins".to_owned(), reason: error.to_string() })
    }

    /// What decisions and maps depend on, checked.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::new(&self.server_url, &self.host(), &self.base_domain);
        settings.v4_range = self.ipv4_range;
        settings.v6_range = self.ipv6_range;
        settings.key_lifetime = self.key_lifetime;
        settings.ephemeral_timeout = self.ephemeral_timeout;
        settings.device_approval = self.device_approval;
        settings.hide_endpoints = self.hide_endpoints;
        settings.probing = self.probing;
        settings.dns = self.dns.clone();
        settings.dns.certificates = self.set_dns_command.is_some();
        if let Some(path) = &self.dns_extra_records_file {
            let problem = |reason| ConfigError::ExtraRecords { path: path.clone(), reason };
            settings.dns.extra_records = extra_records::read(path).map_err(problem)?;
        }
        settings.relay_map = self.relay_map()?;
        settings.check()?;
        Ok(settings)
    }

    /// Where relays are described.
    pub fn relay_sources(&self) -> Sources {
        Sources {
            files: self.relay_map_files.clone(),
            urls: self.relay_map_urls.clone(),
            refresh: self.relay_map_refresh,
            own: self.relay.as_ref().filter(|_| self.relay_in_map).map(OwnRelay::on_the_wire),
        }
    }

    /// Our own region and those of the relay map files; what URLs have to say is not asked here.
    ///
    /// # Errors
    /// [`ConfigError::RelayMap`].
    pub fn relay_map(&self) -> Result<RelayMap, ConfigError> {
        Ok(self.relay_sources().without_urls()?)
    }
}

/// Under a client's patience of 120 s with a fifth to spare, and not so short that idle phones are kept awake by it.
fn keep_alive(said: Option<Duration>) -> Result<Duration, ConfigError> {
    let interval = said.unwrap_or(Duration::from_secs(50));
    if (Duration::from_secs(5)..=Duration::from_secs(90)).contains(&interval) {
        return Ok(interval);
    }
    let reason = "must be between 5 s and 90 s: clients give up after 120 s of silence".to_owned();
    Err(ConfigError::Value { place: "keep_alive_interval".to_owned(), reason })
}

fn split(said: Vec<String>) -> Result<BTreeMap<String, Vec<String>>, ConfigError> {
    let mut split: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in said {
        let pair = entry.split_once('=').map(|(domain, resolver)| (domain.trim().trim_matches('.'), resolver.trim()));
        match pair {
            Some((domain, resolver)) if !domain.is_empty() && !resolver.is_empty() => {
                split.entry(domain.to_ascii_lowercase()).or_default().push(resolver.to_owned());
            }
            _ => {
                let reason = format!("{entry:?} is not a domain and a resolver, as in corp.example=10.0.0.53");
                return Err(ConfigError::Value { place: "dns_split".to_owned(), reason });
            }
        }
    }
    Ok(split)
}

fn relay_map_urls(texts: Vec<String>) -> Result<Vec<url::Url>, ConfigError> {
    let parse = |text: &String| {
        let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.ok_or_else(|| ConfigError::Value {
            place: "relay_map_urls".to_owned(),
            reason: format!("{text:?} is not a URL such as https://relays.example.net/map.json"),
        })
    };
    texts.iter().map(parse).collect()
}

impl OwnRelay {
    fn on_the_wire(&self) -> RelayRegion {
        let literal: Option<IpAddr> = self.host.parse().ok();
        let addresses: Vec<IpAddr> = literal.into_iter().chain(self.addresses.iter().copied()).collect();
        let of_family = |is_v4: bool| {
            let found = addresses.iter().find(|address| address.is_ipv4() == is_v4);
            match found {
                Some(address) => address.to_string(),
                None if addresses.is_empty() => String::new(),
                // Who names addresses names all of them; and asking DNS for a literal address leads nowhere.
                None => "none".to_owned(),
            }
        };
        RelayRegion {
            region_id: self.region,
            region_code: "warren".to_owned(),
            region_name: "Warren".to_owned(),
            nodes: vec![RelayNode {
                name: format!("{}a", self.region),
                region_id: self.region,
                host_name: self.host.clone(),
                cert_name: self.certificate.clone().unwrap_or_default(),
                ipv4: of_family(true),
                ipv6: of_family(false),
                stun_port_raw: self.stun_port.map_or(-1, i32::from),
                derp_port_raw: i32::from(self.port),
                insecure_for_tests: self.insecure_for_tests,
                ..RelayNode::default()
            }],
            ..RelayRegion::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_io::acme::LETS_ENCRYPT;

    fn config(toml: &str) -> Result<Config, ConfigError> {
        Config::new(Overrides::from_text(Path::new("control.toml"), toml)?, Path::new("/state"))
    }

    #[test]
    fn an_empty_file_is_a_working_configuration() {
        let config = config("").expect("defaults");
        assert_eq!(config.server_url, "http://127.0.0.1:8080");
        assert_eq!(config.socket, Path::new("/state/run/control.sock"));
        let settings = config.settings().expect("settings that work");
        assert_eq!(settings.relay_map.regions.keys().copied().collect::<Vec<_>>(), [RegionId(900)]);
        assert_eq!(settings.domain, "127.0.0.1");
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_one_named() {
        let error = config("server_ulr = \"x\"").expect_err("misspelt").to_string();
        assert_eq!(error, "control.toml: there is no setting \"server_ulr\"; did you mean \"server_url\"?");
        let error = config("frobnicate = 1").expect_err("unknown").to_string();
        assert_eq!(error, "control.toml: there is no setting \"frobnicate\"");
    }

    #[test]
    fn wrong_values_are_named_with_their_key() {
        for (toml, part) in [
            ("listen = 8080", "listen"),
            ("listen = \"somewhere\"", "listen"),
            ("server_url = \"vpn.example.net\"", "server_url"),
            ("ipv4_range = \"100.64.0.1/10\"", "ipv4_range"),
            ("key_lifetime = \"a while\"", "key_lifetime"),
            ("tls_key = \"/k\"", "tls_certificate and tls_key"),
            ("relay_map_file = \"/nonexistent\"", "/nonexistent"),
            ("keep_alive_interval = \"2m\"", "keep_alive_interval"),
            ("dns_split = [\"corp.example\"]", "dns_split"),
            ("dns_extra_records_file = \"/nonexistent\"", "/nonexistent"),
            ("server_url = \"https://a.example.net\"\nbase_domain = \"example.net\"", "base domain"),
            ("websocket_origins = [\"vpn.example.net\"]", "websocket_origins"),
            ("relay_map_urls = [\"relays.example.net\"]", "relay_map_urls"),
            ("relay_region = 0", "begin at 1"),
            ("[acme]\nemial = \"a@example.net\"", "did you mean \"acme_email\""),
            ("server_url = \"https://192.0.2.1\"\n[acme]", "a public name"),
            ("server_url = \"http://vpn.example.net\"\n[acme]", "https"),
            ("server_url = \"https://vpn.example.net\"\n[acme]\nchallenge = \"dns-01\"", "acme_challenge"),
            ("server_url = \"https://vpn.example.net\"\ntls_key = \"k\"\ntls_certificate = \"c\"\n[acme]", "exclude"),
            ("acme = 3", "acme"),
            ("= 3", "control.toml"),
        ] {
            let error =
                config(toml).and_then(|config| config.origins().and(config.settings())).expect_err(toml).to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("control.toml");
        std::fs::write(&file, "server_url = \"http://file\"\nbase_domain = \"file.test\"\nstun_port = 1\n")
            .expect("writable");
        let variable = |name: &str| match name {
            "WARREN_CONTROL_SERVER_URL" => Some("http://environment".to_owned()),
            "WARREN_CONTROL_BASE_DOMAIN" => Some("environment.test".to_owned()),
            "WARREN_CONTROL_HIDE_ENDPOINTS" => Some("true".to_owned()),
            "WARREN_CONTROL_DNS_RESOLVERS" => Some("1.1.1.1, 9.9.9.9".to_owned()),
            _ => None,
        };
        let flags = Overrides { server_url: Some("http://flag".to_owned()), ..Overrides::default() };
        let config = Config::load(Some(&file), variable, flags, folder.path()).expect("valid");
        assert_eq!(config.server_url, "http://flag");
        assert_eq!(config.base_domain, "environment.test");
        assert_eq!(config.relay.expect("on").stun_port, Some(1));
        assert_eq!(config.dns.resolvers, ["1.1.1.1", "9.9.9.9"]);
        assert!(config.hide_endpoints);
        let wrong = |name: &str| (name == "WARREN_CONTROL_STUN_PORT").then(|| "many".to_owned());
        let error = Config::load(None, wrong, Overrides::default(), folder.path()).expect_err("not a number");
        assert!(error.to_string().contains("WARREN_CONTROL_STUN_PORT"), "{error}");
    }

    #[test]
    fn a_section_asks_for_a_certificate_by_acme_at_the_usual_ports() {
        let config = self::config("server_url = \"https://vpn.example.net\"\n[acme]\nemail = \"ops@example.net\"\n");
        let config = config.expect("valid");
        let acme = config.acme.expect("on");
        assert_eq!(acme.names, ["vpn.example.net"]);
        assert_eq!((acme.email.as_deref(), acme.directory.as_str()), (Some("ops@example.net"), LETS_ENCRYPT));
        assert_eq!((config.listen.port(), config.http_listen.map(|listen| listen.port())), (443, Some(80)));
        assert_eq!(config.relay.expect("on").port, 443);
        let text = "server_url = \"https://vpn.example.net\"\nacme = true\n[relay]\nport = 8443\n";
        assert_eq!(self::config(text).expect("valid").relay.expect("on").port, 8443, "any key may be in a section");
    }

    #[test]
    fn a_relay_at_a_literal_address_leaves_nothing_for_the_resolver() {
        let map = config("server_url = \"http://192.0.2.7:8080\"").expect("valid").relay_map().expect("a map");
        let node = &map.regions[&RegionId(900)].nodes[0];
        assert_eq!(
            (node.host_name.as_str(), node.ipv4.as_str(), node.ipv6.as_str()),
            ("192.0.2.7", "192.0.2.7", "none")
        );
        assert_eq!((node.derp_port(), node.stun_port()), (8080, Some(3478)));
        let map = config("server_url = \"http://[2001:db8::1]:8080\"").expect("valid").relay_map().expect("a map");
        let node = &map.regions[&RegionId(900)].nodes[0];
        assert_eq!(
            (node.host_name.as_str(), node.ipv4.as_str(), node.ipv6.as_str()),
            ("2001:db8::1", "none", "2001:db8::1")
        );
        let map =
            config("server_url = \"https://ctl.test\"\nrelay_addresses = [\"192.0.2.7\"]").expect("valid").relay_map();
        let node = &map.expect("a map").regions[&RegionId(900)].nodes[0];
        assert_eq!((node.ipv4.as_str(), node.ipv6.as_str()), ("192.0.2.7", "none"));
        assert!(config("relay = false").expect("valid").relay_map().expect("a map").regions.is_empty());
    }
}
