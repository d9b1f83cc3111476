//! A node as the server shows it, to itself or to a peer. control-protocol.md §8.1.

use std::net::{IpAddr, SocketAddr};

use warren_crypto::{DiscoPublic, MachinePublic, NodePublic, UnixTime};
use warren_ip::Prefix;

use crate::object::wire_object;
use crate::{CapMap, CapabilityVersion, Hostinfo, NodeId, RegionId, Resolver, StableId, UserId};

wire_object! {
    /// A node as the server shows it.
    pub struct Node {
        [always] pub id: NodeId => "ID",
        [always] pub stable_id: StableId => "StableID",
        /// Full name **with trailing dot**; the first label is the host, the rest the network's suffix.
        [always] pub name: String => "Name",
        [always] pub user: UserId => "User",
        /// Who shared the node into this network; 0 for none.
        [omit] pub sharer: UserId => "Sharer",
        [always] pub key: NodePublic => "Key",
        /// `None`: never expires.
        [time] pub key_expiry: Option<UnixTime> => "KeyExpiry",
        [bytes] pub key_signature: Vec<u8> => "KeySignature",
        [key] pub machine: Option<MachinePublic> => "Machine",
        /// A peer without one cannot be reached (unless `is_wireguard_only`).
        [key] pub disco_key: Option<DiscoPublic> => "DiscoKey",
        /// The node's own addresses, as host prefixes: IPv4 first, then IPv6.
        [always_prefixes] pub addresses: Vec<Prefix> => "Addresses",
        /// What to route to it. `None` means `addresses`; `Some([])` means nothing. See [`Node::routed`].
        [maybe_prefixes] pub allowed_ips: Option<Vec<Prefix>> => "AllowedIPs",
        [endpoints] pub endpoints: Vec<SocketAddr> => "Endpoints",
        /// The home relay as old clients read it: `127.3.3.40:<region>`.
        [omit] pub legacy_derp: String => "DERP",
        [region] pub home_derp: Option<RegionId> => "HomeDERP",
        [omit] pub hostinfo: Option<Box<Hostinfo>> => "Hostinfo",
        [time] pub created: Option<UnixTime> => "Created",
        [omit] pub cap: CapabilityVersion => "Cap",
        [omit] pub tags: Vec<String> => "Tags",
        /// Routes for which it is the active router, for display.
        [prefixes] pub primary_routes: Vec<Prefix> => "PrimaryRoutes",
        /// Only meaningful while offline.
        [time] pub last_seen: Option<UnixTime> => "LastSeen",
        /// `None`: unknown.
        [omit] pub online: Option<bool> => "Online",
        [omit] pub machine_authorized: bool => "MachineAuthorized",
        /// Deprecated; folded into `cap_map` on arrival, never sent.
        [omit] pub capabilities: Vec<String> => "Capabilities",
        [caps] pub cap_map: CapMap => "CapMap",
        [omit] pub unsigned_peer_api_only: bool => "UnsignedPeerAPIOnly",
        [omit] pub computed_name: String => "ComputedName",
        [omit] pub computed_name_with_host: String => "ComputedNameWithHost",
        [omit] pub data_plane_audit_log_id: String => "DataPlaneAuditLogID",
        /// The server's view that the key has expired.
        [omit] pub expired: bool => "Expired",
        [omit] pub self_node_v4_masq_addr: Option<IpAddr> => "SelfNodeV4MasqAddrForThisPeer",
        [omit] pub self_node_v6_masq_addr: Option<IpAddr> => "SelfNodeV6MasqAddrForThisPeer",
        [omit] pub is_wireguard_only: bool => "IsWireGuardOnly",
        [omit] pub is_jailed: bool => "IsJailed",
        [omit] pub exit_node_dns_resolvers: Vec<Resolver> => "ExitNodeDNSResolvers",
    }
}

impl Node {
    /// What to route to this node: its allowed prefixes, or its addresses where the server left them out.
    pub fn routed(&self) -> &[Prefix] {
        self.allowed_ips.as_deref().unwrap_or(&self.addresses)
    }

    /// The first label of its full name.
    pub fn short_name(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// The full name without the trailing dot.
    pub fn full_name(&self) -> &str {
        self.name.strip_suffix('.').unwrap_or(&self.name)
    }

    /// The first address of a family, as a host address.
    pub fn address_v4(&self) -> Option<IpAddr> {
        self.addresses.iter().map(Prefix::addr).find(IpAddr::is_ipv4)
    }

    /// See [`Node::address_v4`].
    pub fn address_v6(&self) -> Option<IpAddr> {
        self.addresses.iter().map(Prefix::addr).find(IpAddr::is_ipv6)
    }

    /// Brings old spellings into the present one: home relay, missing routes, list of capabilities. §7.6.
    pub fn normalise(&mut self) {
        let legacy = std::mem::take(&mut self.legacy_derp);
        if self.home_derp.is_none() {
            let region = legacy.strip_prefix("127.3.3.40:").and_then(|region| region.parse().ok());
            self.home_derp = region.filter(|region| *region != 0).map(RegionId);
        }
        if self.unsigned_peer_api_only || self.allowed_ips.is_none() {
            self.allowed_ips = Some(self.addresses.clone());
        }
        for capability in std::mem::take(&mut self.capabilities) {
            self.cap_map.entry(capability).or_default();
        }
    }
}
