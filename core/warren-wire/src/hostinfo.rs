//! What a node says about its host and its network. control-protocol.md §8.2–8.5.

use std::collections::BTreeMap;

use warren_ip::Prefix;

use crate::RegionId;
use crate::object::wire_object;

wire_object! {
    /// What a node says about the machine that it runs on. A server stores it whole and shows peers a part of it.
    pub struct Hostinfo {
        /// Version of the program, e.g. `1.80.0-warren`.
        [omit] pub ipn_version: String => "IPNVersion",
        [omit] pub frontend_log_id: String => "FrontendLogID",
        /// 64 hex digits; the vendor's service refuses a registration without it. Never relayed to peers.
        [omit] pub backend_log_id: String => "BackendLogID",
        [omit] pub os: String => "OS",
        [omit] pub os_version: String => "OSVersion",
        [omit] pub container: Option<bool> => "Container",
        [omit] pub env: String => "Env",
        [omit] pub distro: String => "Distro",
        [omit] pub distro_version: String => "DistroVersion",
        [omit] pub distro_code_name: String => "DistroCodeName",
        [omit] pub app: String => "App",
        [omit] pub desktop: Option<bool> => "Desktop",
        [omit] pub package: String => "Package",
        [omit] pub device_model: String => "DeviceModel",
        [omit] pub push_device_token: String => "PushDeviceToken",
        /// The host's own name, raw; the server makes a [`crate::NodeName`] of it.
        [omit] pub hostname: String => "Hostname",
        [omit] pub shields_up: bool => "ShieldsUp",
        [omit] pub sharee_node: bool => "ShareeNode",
        [omit] pub no_logs_no_support: bool => "NoLogsNoSupport",
        [omit] pub remote_config: bool => "RemoteConfig",
        [omit] pub wire_ingress: bool => "WireIngress",
        [omit] pub ingress_enabled: bool => "IngressEnabled",
        [omit] pub allows_update: bool => "AllowsUpdate",
        [omit] pub machine: String => "Machine",
        [omit] pub go_arch: String => "GoArch",
        [omit] pub go_arch_var: String => "GoArchVar",
        [omit] pub go_version: String => "GoVersion",
        /// Routes that this node offers to serve, default routes (exit node) included.
        [prefixes] pub routable_ips: Vec<Prefix> => "RoutableIPs",
        [omit] pub request_tags: Vec<String> => "RequestTags",
        [omit] pub wol_macs: Vec<String> => "WoLMACs",
        [omit] pub services: Vec<Service> => "Services",
        /// Absent means "as before": a server must not forget the home relay because of it.
        [omit] pub net_info: Option<Box<NetInfo>> => "NetInfo",
        [omit] pub ssh_host_keys: Vec<String> => "sshHostKeys",
        [omit] pub cloud: String => "Cloud",
        [omit] pub userspace: Option<bool> => "Userspace",
        [omit] pub userspace_router: Option<bool> => "UserspaceRouter",
        [omit] pub app_connector: Option<bool> => "AppConnector",
        [omit] pub services_hash: String => "ServicesHash",
        [omit] pub peer_relay: bool => "PeerRelay",
        [omit] pub exit_node_id: String => "ExitNodeID",
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
        [omit] pub link_type: String => "LinkType",
        /// `<region>-v4` or `<region>-v6` → seconds.
        [entries] pub derp_latency: BTreeMap<String, f64> => "DERPLatency",
        [omit] pub firewall_mode: String => "FirewallMode",
    }
}

wire_object! {
    /// Something that listens on the node.
    pub struct Service {
        /// `tcp`, `udp`, `peerapi4`, `peerapi6` or `peerapi-dns-proxy`.
        [always] pub proto: String => "Proto",
        [always] pub port: u16 => "Port",
        [omit] pub description: String => "Description",
    }
}

wire_object! {
    /// Where a node stands on earth, for choosing an exit.
    pub struct Location {
        [omit] pub country: String => "Country",
        [omit] pub country_code: String => "CountryCode",
        [omit] pub city: String => "City",
        [omit] pub city_code: String => "CityCode",
        [omit] pub latitude: f64 => "Latitude",
        [omit] pub longitude: f64 => "Longitude",
        [omit] pub priority: i64 => "Priority",
    }
}

wire_object! {
    /// The machine's trusted platform module.
    pub struct Tpm {
        [omit] pub manufacturer: String => "Manufacturer",
        [omit] pub vendor: String => "Vendor",
        [omit] pub model: i64 => "Model",
        [omit] pub firmware_version: u64 => "FirmwareVersion",
        [omit] pub spec_revision: i64 => "SpecRevision",
        [omit] pub family_indicator: String => "FamilyIndicator",
    }
}
