//! One message of the map stream. Every key is optional; absent means "unchanged". control-protocol.md §7.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use warren_crypto::{DiscoPublic, NodePublic, UnixTime};

use crate::object::wire_object;
use crate::ssh::SshPolicy;
use crate::{CapMap, CapabilityVersion, DnsConfig, FilterRule, Node, NodeId, RegionId, RelayMapUpdate, UserProfile};

wire_object! {
    /// One message of the map stream. [`crate::netmap::fold`] gives it its meaning.
    pub struct MapResponse {
        [omit] pub map_session_handle: String => "MapSessionHandle",
        [omit] pub seq: i64 => "Seq",
        /// Ignore everything but pings, time and dial plan.
        [omit] pub keep_alive: bool => "KeepAlive",
        [omit] pub ping_request: Option<PingRequest> => "PingRequest",
        [omit] pub pop_browser_url: String => "PopBrowserURL",
        /// Self, whole. The first message of a stream must have it.
        [omit] pub node: Option<Box<Node>> => "Node",
        [omit] pub derp_map: Option<RelayMapUpdate> => "DERPMap",
        /// The whole set of peers, by id. An empty list means nothing (as if absent): never send one.
        [omit] pub peers: Vec<Node> => "Peers",
        /// Peers to add or replace, by id.
        [omit] pub peers_changed: Vec<Node> => "PeersChanged",
        [omit] pub peers_removed: Vec<NodeId> => "PeersRemoved",
        [omit] pub peers_changed_patch: Vec<PeerChange> => "PeersChangedPatch",
        /// true: seen just now; false: last seen is unknown.
        [omit] pub peer_seen_change: BTreeMap<NodeId, bool> => "PeerSeenChange",
        [omit] pub online_change: BTreeMap<NodeId, bool> => "OnlineChange",
        [omit] pub dns_config: Option<Box<DnsConfig>> => "DNSConfig",
        [omit] pub domain: String => "Domain",
        [omit] pub collect_services: Option<bool> => "CollectServices",
        /// The same as the chunk `base` of `packet_filters`, applied before it. `Some([])` blocks everything.
        [omit] pub packet_filter: Option<Vec<FilterRule>> => "PacketFilter",
        /// Name → rules; `None` deletes; the name `*` with `None` clears all first.
        [omit] pub packet_filters: BTreeMap<String, Option<Vec<FilterRule>>> => "PacketFilters",
        /// Added or replaced by id, never removed.
        [omit] pub user_profiles: Vec<UserProfile> => "UserProfiles",
        /// `Some([])`: healthy.
        [omit] pub health: Option<Vec<String>> => "Health",
        /// Id → message; `None` deletes; the id `*` with `None` clears all first.
        [omit] pub display_messages: BTreeMap<String, Option<DisplayMessage>> => "DisplayMessages",
        [omit] pub ssh_policy: Option<SshPolicy> => "SSHPolicy",
        [time] pub control_time: Option<UnixTime> => "ControlTime",
        [omit] pub tka_info: Option<TkaInfo> => "TKAInfo",
        [omit] pub domain_data_plane_audit_log_id: String => "DomainDataPlaneAuditLogID",
        [omit] pub debug: Option<Debug> => "Debug",
        [omit] pub control_dial_plan: Option<ControlDialPlan> => "ControlDialPlan",
        [omit] pub client_version: Option<ClientVersion> => "ClientVersion",
        [omit] pub default_auto_update: Option<bool> => "DefaultAutoUpdate",
    }
}

impl MapResponse {
    /// The message that only shows that the server is alive.
    pub fn keep_alive() -> MapResponse {
        MapResponse { keep_alive: true, ..MapResponse::default() }
    }
}

wire_object! {
    /// A change of one peer: every key but the id may be left out, which keeps what was. §7.3.
    pub struct PeerChange {
        [always] pub node_id: NodeId => "NodeID",
        /// The home relay can be changed so, never cleared.
        [region] pub derp_region: Option<RegionId> => "DERPRegion",
        [omit] pub cap: CapabilityVersion => "Cap",
        [patch_caps] pub cap_map: Option<CapMap> => "CapMap",
        /// Replaces all; `Some([])` clears (a server in Go cannot say that).
        [maybe_endpoints] pub endpoints: Option<Vec<SocketAddr>> => "Endpoints",
        [key] pub key: Option<NodePublic> => "Key",
        [bytes] pub key_signature: Vec<u8> => "KeySignature",
        [key] pub disco_key: Option<DiscoPublic> => "DiscoKey",
        [omit] pub online: Option<bool> => "Online",
        [time] pub last_seen: Option<UnixTime> => "LastSeen",
        /// `Some(None)` clears the expiry.
        [patch_time] pub key_expiry: Option<Option<UnixTime>> => "KeyExpiry",
    }
}

wire_object! {
    /// The server asks the node to call back. §4.5.
    pub struct PingRequest {
        /// Absolute and unique: the same one twice is ignored.
        [omit] pub url: String => "URL",
        [omit] pub url_is_noise: bool => "URLIsNoise",
        [omit] pub log: bool => "Log",
        /// Comma list of `disco`, `TSMP`, `ICMP`, `peerapi`, or `c2n`; empty: a plain HEAD.
        [always] pub types: String => "Types",
        [omit] pub ip: Option<IpAddr> => "IP",
        /// For c2n: a whole HTTP/1 request.
        [bytes] pub payload: Vec<u8> => "Payload",
    }
}

wire_object! {
    /// What came of a ping.
    pub struct PingResponse {
        [always] pub kind: String => "Type",
        [omit] pub ip: String => "IP",
        [omit] pub node_ip: String => "NodeIP",
        [omit] pub node_name: String => "NodeName",
        [omit] pub err: String => "Err",
        [omit] pub latency_seconds: f64 => "LatencySeconds",
        [omit] pub endpoint: String => "Endpoint",
        [omit] pub peer_relay: String => "PeerRelay",
        [region] pub derp_region_id: Option<RegionId> => "DERPRegionID",
        [omit] pub derp_region_code: String => "DERPRegionCode",
        [omit] pub peer_api_port: u16 => "PeerAPIPort",
        [omit] pub is_local_ip: bool => "IsLocalIP",
    }
}

wire_object! {
    /// Something that a person should know. §7.8.
    pub struct DisplayMessage {
        [always] pub title: String => "Title",
        [always] pub text: String => "Text",
        /// `high`, `medium` or `low`; anything else counts as medium.
        [always] pub severity: String => "Severity",
        [omit] pub impacts_connectivity: bool => "ImpactsConnectivity",
        [omit] pub primary_action: Option<DisplayAction> => "PrimaryAction",
    }
}

wire_object! {
    /// Where a person can act on a [`DisplayMessage`].
    pub struct DisplayAction {
        [omit] pub url: String => "URL",
        [omit] pub label: String => "Label",
    }
}

wire_object! {
    /// State of tailnet lock at the server. `{}` means enabled, head unknown.
    pub struct TkaInfo {
        [omit] pub head: String => "Head",
        [omit] pub disabled: bool => "Disabled",
    }
}

wire_object! {
    /// Switches for clients. Our server only ever says `disable_log_tail`; our node obeys none of them. §7.7.
    pub struct Debug {
        [omit] pub sleep_seconds: f64 => "SleepSeconds",
        [omit] pub disable_log_tail: bool => "DisableLogTail",
        [omit] pub exit: Option<i64> => "Exit",
    }
}

wire_object! {
    /// Other addresses at which the control server can be reached.
    pub struct ControlDialPlan {
        [always] pub candidates: Vec<ControlIpCandidate> => "Candidates",
    }
}

wire_object! {
    /// One address of a [`ControlDialPlan`].
    pub struct ControlIpCandidate {
        [omit] pub ip: String => "IP",
        [omit] pub ace_host: String => "ACEHost",
        [omit] pub dial_start_delay_sec: f64 => "DialStartDelaySec",
        [omit] pub dial_timeout_sec: f64 => "DialTimeoutSec",
        [omit] pub priority: i64 => "Priority",
    }
}

wire_object! {
    /// Whether a newer client exists.
    pub struct ClientVersion {
        [omit] pub running_latest: bool => "RunningLatest",
        [omit] pub latest_version: String => "LatestVersion",
        [omit] pub urgent_security_update: bool => "UrgentSecurityUpdate",
        [omit] pub notify: bool => "Notify",
        [omit] pub notify_url: String => "NotifyURL",
        [omit] pub notify_text: String => "NotifyText",
    }
}
