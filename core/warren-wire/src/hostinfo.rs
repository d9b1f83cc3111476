//! What a node says about its host and its network. control-protocol.md §8.2–8.5.

use std::collections::BTreeMap;

use warren_ip::Prefix;

use crate::RegionId;
use crate::object::wire_object;

wire_object! {
    /// What a node says about the machine that it runs on. A server stores it whole and shows peers a part of it, so it is
    /// capped while it is read: anybody may send one.
    pub struct Hostinfo {
        /// Version of the program, e.g. `1.80.0-warren`.
        [text] pub ipn_version: String => "IPNVersion",
        [text] pub frontend_log_id: String => "FrontendLogID",
        /// 64 hex digits; the vendor's service refuses a registration without it. Never relayed to peers.
        [text] pub backend_log_id: String => "BackendLogID",
        [text] pub os: String => "OS",
        [text] pub os_version: String => "OSVersion",
        [omit] pub container: Option<bool> => "Container",
        [text] pub env: String => "Env",
        [text] pub distro: String => "Distro",
        [text] pub distro_version: String => "DistroVersion",
        [text] pub distro_code_name: String => "DistroCodeName",
        [text] pub app: String => "App",
        [omit] pub desktop: Option<bool> => "Desktop",
        [text] pub package: String => "Package",
        [text] pub device_model: String => "DeviceModel",
        [text] pub push_device_token: String => "PushDeviceToken",
        /// The host's own name, raw; the server makes a [`crate::NodeName`] of it.
        [text] pub hostname: String => "Hostname",
        [omit] pub shields_up: bool => "ShieldsUp",
        [omit] pub sharee_node: bool => "ShareeNode",
        [omit] pub no_logs_no_support: bool => "NoLogsNoSupport",
        [omit] pub remote_config: bool => "RemoteConfig",
        [omit] pub wire_ingress: bool => "WireIngress",
        [omit] pub ingress_enabled: bool => "IngressEnabled",
        [omit] pub allows_update: bool => "AllowsUpdate",
        [text] pub machine: String => "Machine",
        [text] pub go_arch: String => "GoArch",
        [text] pub go_arch_var: String => "GoArchVar",
        [text] pub go_version: String => "GoVersion",
        /// Routes that this node offers to serve, default routes (exit node) included.
        [few_prefixes] pub routable_ips: Vec<Prefix> => "RoutableIPs",
        [few_texts] pub request_tags: Vec<String> => "RequestTags",
        [few_texts] pub wol_macs: Vec<String> => "WoLMACs",
        [few] pub services: Vec<Service> => "Services",
        /// Absent means "as before": a server must not forget the home relay because of it.
        [omit] pub net_info: Option<Box<NetInfo>> => "NetInfo",
        [few_texts] pub ssh_host_keys: Vec<String> => "sshHostKeys",
        [text] pub cloud: String => "Cloud",
        [omit] pub userspace: Option<bool> => "Userspace",
        [omit] pub userspace_router: Option<bool> => "UserspaceRouter",
        [omit] pub app_connector: Option<bool> => "AppConnector",
        [text] pub services_hash: String => "ServicesHash",
        [omit] pub peer_relay: bool => "PeerRelay",
        [text] pub exit_node_id: String => "ExitNodeID",
        [omit] pub location: Option<Box<Location>> => "Location",
        [omit] pub tpm: Option<Box<Tpm>> => "TPM",
        [omit] pub state_encrypted: Option<bool> => "StateEncrypted",
    }
}

wire_object! {
    /// How a node sees the internet around it.
    pub struct NetInfo {
        [omit] pub mapping_varies_by_dest_ip: Option<bool> => "MappingVariesByDestIP",
        [omit] pub working_ipv6: Option<bool> => "WorkingIPv6",
        [omit] pub os_has_ipv6: Option<bool> => "OSHasIPv6",
        [omit] pub working_udp: Option<bool> => "WorkingUDP",
        [omit] pub working_icmp_v4: Option<bool> => "WorkingICMPv4",
        [omit] pub have_port_map: bool => "HavePortMap",
        [omit] pub upnp: Option<bool> => "UPnP",
        [omit] pub pmp: Option<bool> => "PMP",
        [omit] pub pcp: Option<bool> => "PCP",
        /// The home relay that this node chose; peers see it as [`crate::Node::home_derp`].
        [region] pub preferred_derp: Option<RegionId> => "PreferredDERP",
        /// `wired`, `wifi`, `mobile` or empty.
        [text] pub link_type: String => "LinkType",
        /// `<region>-v4` or `<region>-v6` → seconds.
        [few_entries] pub derp_latency: BTreeMap<String, f64> => "DERPLatency",
        [text] pub firewall_mode: String => "FirewallMode",
    }
}

wire_object! {
    /// Something that listens on the node.
    pub struct Service {
        /// `tcp`, `udp`, `peerapi4`, `peerapi6` or `peerapi-dns-proxy`.
        [always_text] pub proto: String => "Proto",
        [always] pub port: u16 => "Port",
        [text] pub description: String => "Description",
    }
}

wire_object! {
    /// Where a node stands on earth, for choosing an exit.
    pub struct Location {
        [text] pub country: String => "Country",
        [text] pub country_code: String => "CountryCode",
        [text] pub city: String => "City",
        [text] pub city_code: String => "CityCode",
        [omit] pub latitude: f64 => "Latitude",
        [omit] pub longitude: f64 => "Longitude",
        [omit] pub priority: i64 => "Priority",
    }
}

wire_object! {
    /// The machine's trusted platform module.
    pub struct Tpm {
        [text] pub manufacturer: String => "Manufacturer",
        [text] pub vendor: String => "Vendor",
        [omit] pub model: i64 => "Model",
        [omit] pub firmware_version: u64 => "FirmwareVersion",
        [omit] pub spec_revision: i64 => "SpecRevision",
        [text] pub family_indicator: String => "FamilyIndicator",
    }
}
