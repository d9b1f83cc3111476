//! The table of settings: one row gives the field, the key in the file, the variable and the flag.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use warren_io::settings;
use warren_oidc::Secret;

use super::ConfigError;

warren_io::settings! {
    /// What one source says; `None` where it is silent. Flags of the command line are given as one of these.
    Overrides as KEYS;

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
    /// Get a certificate for the server's name by ACME. A section `[acme]` says the same.
    acme: bool, Switch;
    /// Where the authority writes when something is wrong.
    acme_email: String, Text;
    /// The authority's directory; Let's Encrypt.
    acme_directory: String, Text;
    /// How it asks: `tls-alpn-01` on port 443, or `http-01` on port 80.
    acme_challenge: String, Text;
    /// Further names of the certificate.
    acme_names: Vec<String>, List;
    /// A second port, for plain HTTP alone; `[::]:80` with ACME.
    http_listen: SocketAddr, Text;
    /// Take API keys by plain HTTP from other machines too: behind a proxy elsewhere that speaks TLS, or for tests.
    api_over_plain_http: bool, Switch;
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
    /// Whether nodes are told of it; without, it serves those who know it otherwise.
    relay_in_map: bool, Switch;
    /// A relay map in JSON whose regions are added to our own. Read again when it changes.
    relay_map_file: PathBuf, Text;
    /// The same from elsewhere.
    relay_map_urls: Vec<String>, List;
    /// How often those are fetched, `3h`.
    relay_map_refresh: String, Text;
    /// Pages that may speak to server and relay by WebSocket (`https://console.example.net`, or `*`), beside the server's own.
    websocket_origins: Vec<String>, List;
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
    /// A program that makes a TXT record: it is called with name and value. With it nodes can get certificates.
    set_dns_command: PathBuf, Text;
}

impl Overrides {
    /// # Errors
    /// [`ConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Ok(settings::from_file(path, KEYS)?)
    }

    /// `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Ok(settings::from_text(path, text, KEYS)?)
    }

    /// `variable` looks up one variable of the environment.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Ok(settings::from_environment("WARREN_CONTROL_", KEYS, variable)?)
    }
}
