//! What a node says of itself, its peers and its paths.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use warren_wire::{Node, UserProfile};

/// Go's zero time, which the stock shapes carry where a time is unknown.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// `GET status`. Source: `ipn/ipnstate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Status {
    /// Version of the stock contract, see [`super::CONTRACT_VERSION`].
    pub version: String,
    /// Whether packets go through a kernel interface; false in user-space mode.
    #[serde(rename = "TUN")]
    pub tun: bool,
    /// One of `NoState`, `NeedsLogin`, `NeedsMachineAuth`, `Stopped`, `Starting`, `Running`.
    pub backend_state: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub have_node_key: bool,
    /// Where a person must go to log in; empty when nowhere.
    #[serde(rename = "AuthURL")]
    pub auth_url: String,
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "Self")]
    pub self_status: PeerStatus,
    pub health: Vec<String>,
    #[serde(rename = "MagicDNSSuffix")]
    pub magic_dns_suffix: String,
    pub current_tailnet: Option<TailnetStatus>,
    pub cert_domains: Option<Vec<String>>,
    /// By node key; null when peers were not asked for or there is no map.
    pub peer: Option<BTreeMap<String, PeerStatus>>,
    /// By user id.
    pub user: Option<BTreeMap<String, UserProfile>>,
    pub client_version: Option<serde_json::Value>,
    /// Ours: version of the daemon.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub warren_version: String,
    /// Ours: seconds since the network map was received, when it is a cached one and control is out of reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warren_map_age_seconds: Option<u64>,
    /// Ours: address of the SOCKS5 proxy, if one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warren_socks5: Option<String>,
    /// Ours: the control server in use.
    #[serde(skip_serializing_if = "String::is_empty", rename = "WarrenControlURL")]
    pub warren_control_url: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TailnetStatus {
    pub name: String,
    #[serde(rename = "MagicDNSSuffix")]
    pub magic_dns_suffix: String,
    #[serde(rename = "MagicDNSEnabled")]
    pub magic_dns_enabled: bool,
}

/// One node in [`Status`]. Times are RFC 3339, [`ZERO_TIME`] when unknown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PeerStatus {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "NodeID")]
    pub node_id: i64,
    pub public_key: String,
    pub host_name: String,
    /// FQDN with a trailing dot, or empty.
    #[serde(rename = "DNSName")]
    pub dns_name: String,
    #[serde(rename = "OS")]
    pub os: String,
    #[serde(rename = "UserID")]
    pub user_id: i64,
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "AllowedIPs", skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_routes: Option<Vec<String>>,
    /// Candidate addresses, `ip:port`.
    pub addrs: Option<Vec<String>>,
    /// The direct address in use; empty when relayed.
    pub cur_addr: String,
    /// Code of the home relay region.
    pub relay: String,
    pub peer_relay: String,
    pub rx_bytes: i64,
    pub tx_bytes: i64,
    pub created: String,
    pub last_write: String,
    pub last_seen: String,
    pub last_handshake: String,
    pub online: bool,
    pub exit_node: bool,
    pub exit_node_option: bool,
    /// Traffic in the last two minutes.
    pub active: bool,
    #[serde(rename = "PeerAPIURL")]
    pub peer_api_url: Option<Vec<String>>,
    pub taildrop_target: i64,
    pub no_file_sharing_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_map: Option<BTreeMap<String, serde_json::Value>>,
    pub in_network_map: bool,
    pub in_magic_sock: bool,
    pub in_engine: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<String>,
    /// Ours: the path in words and why it is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warren_path: Option<PathExplanation>,
}

impl Default for PeerStatus {
    fn default() -> Self {
        let zero = || ZERO_TIME.to_string();
        PeerStatus {
            id: String::new(),
            node_id: 0,
            public_key: String::new(),
            host_name: String::new(),
            dns_name: String::new(),
            os: String::new(),
            user_id: 0,
            tailscale_ips: None,
            allowed_ips: None,
            tags: None,
            primary_routes: None,
            addrs: None,
            cur_addr: String::new(),
            relay: String::new(),
            peer_relay: String::new(),
            rx_bytes: 0,
            tx_bytes: 0,
            created: zero(),
            last_write: zero(),
            last_seen: zero(),
            last_handshake: zero(),
            online: false,
            exit_node: false,
            exit_node_option: false,
            active: false,
            peer_api_url: None,
            taildrop_target: 0,
            no_file_sharing_reason: String::new(),
            cap_map: None,
            in_network_map: false,
            in_magic_sock: false,
            in_engine: false,
            expired: false,
            key_expiry: None,
            warren_path: None,
        }
    }
}

/// Ours: how a peer is reached now, and why not otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PathExplanation {
    /// `direct`, `relay` or `none`.
    pub kind: String,
    /// One sentence for a person; empty when there is nothing to explain.
    pub why: String,
    pub latency_ms: Option<f64>,
}

/// How `ping` probes. The text forms are those of the stock query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingKind {
    Disco,
    Tsmp,
    Icmp,
    PeerApi,
}

impl PingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            PingKind::Disco => "disco",
            PingKind::Tsmp => "TSMP",
            PingKind::Icmp => "ICMP",
            PingKind::PeerApi => "peerapi",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [PingKind::Disco, PingKind::Tsmp, PingKind::Icmp, PingKind::PeerApi].into_iter().find(|k| k.as_str() == text)
    }
}

/// `POST ping`. Source: `ipn/ipnstate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PingResult {
    #[serde(rename = "IP")]
    pub ip: String,
    #[serde(rename = "NodeIP")]
    pub node_ip: String,
    pub node_name: String,
    /// Empty on success.
    pub err: String,
    pub latency_seconds: f64,
    /// `ip:port` when the reply came directly.
    pub endpoint: String,
    pub peer_relay: String,
    #[serde(rename = "DERPRegionID")]
    pub derp_region_id: i64,
    #[serde(rename = "DERPRegionCode")]
    pub derp_region_code: String,
    #[serde(rename = "IsLocalIP", skip_serializing_if = "std::ops::Not::not")]
    pub is_local_ip: bool,
    /// Ours: why the reply did not come directly.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub warren_why: String,
}

/// `GET whois`. Source: `client/tailscale/apitype`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WhoIs {
    pub node: Node,
    pub user_profile: UserProfile,
    pub cap_map: Option<BTreeMap<String, Vec<serde_json::Value>>>,
}

/// Ours, `POST warren/netcheck`: the daemon's own report, in the stock netcheck's JSON shape, from the sockets that carry
/// the traffic. Latencies are nanoseconds by region id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetcheckReport {
    pub now: String,
    #[serde(rename = "UDP")]
    pub udp: bool,
    #[serde(rename = "IPv6")]
    pub ipv6: bool,
    #[serde(rename = "IPv4")]
    pub ipv4: bool,
    #[serde(rename = "OSHasIPv6")]
    pub os_has_ipv6: bool,
    #[serde(rename = "MappingVariesByDestIP")]
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// Null: port mapping is not built yet, so nothing is known.
    #[serde(rename = "UPnP")]
    pub upnp: Option<bool>,
    #[serde(rename = "PMP")]
    pub pmp: Option<bool>,
    #[serde(rename = "PCP")]
    pub pcp: Option<bool>,
    #[serde(rename = "PreferredDERP")]
    pub preferred_derp: i64,
    pub region_latency: BTreeMap<String, i64>,
    #[serde(rename = "RegionV4Latency")]
    pub region_v4_latency: BTreeMap<String, i64>,
    #[serde(rename = "RegionV6Latency")]
    pub region_v6_latency: BTreeMap<String, i64>,
    #[serde(rename = "GlobalV4")]
    pub global_v4: String,
    #[serde(rename = "GlobalV6")]
    pub global_v6: String,
    pub captive_portal: Option<bool>,
}
