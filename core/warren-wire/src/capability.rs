//! Capability versions (what a client understands) and the names of capabilities.
//!
//! A client states one number, and it promises every meaning up to it. control-protocol.md §6.5.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client understands, as one growing number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapabilityVersion(pub u32);

impl CapabilityVersion {
    /// 2022-03: control is spoken inside Noise.
    pub const NOISE: Self = Self(28);
    /// 2025-01 (stock 1.80): the oldest client that our server serves, and what our node announces.
    pub const OLDEST_SERVED: Self = Self(113);
    /// What our node announces until more of the later duties are met.
    pub const OUR_NODE: Self = Self(113);
    /// 2025-05 (stock 1.84): `DisplayMessages` replace the `Health` list.
    pub const DISPLAY_MESSAGES: Self = Self(117);
    /// 2025-07 (stock 1.88): `Resolver.UseWithExitNode`.
    pub const RESOLVER_WITH_EXIT_NODE: Self = Self(125);
    /// 2026: registration answers 429 are understood.
    pub const RATE_LIMITED_REGISTER: Self = Self(137);
    /// The newest that this reference knows.
    pub const NEWEST_KNOWN: Self = Self(145);
}

impl fmt::Display for CapabilityVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Capability name → its arguments; an empty list means "present without arguments".
pub type CapMap = BTreeMap<String, Vec<serde_json::Value>>;

/// Names of capabilities that this product reads or writes. control-protocol.md §8.13–8.15.
pub mod cap {
    /// Self: this person administers the network (display only).
    pub const IS_ADMIN: &str = "https://tailscale.com/cap/is-admin";
    /// Self: files may be sent and received.
    pub const FILE_SHARING: &str = "https://tailscale.com/cap/file-sharing";
    /// Self: the SSH server may be switched on.
    pub const SSH: &str = "https://tailscale.com/cap/ssh";
    /// Self: `[true]` or `[false]`.
    pub const DEFAULT_AUTO_UPDATE: &str = "default-auto-update";
    /// Self: ignore the fixed UDP port and bind any.
    pub const RANDOMIZE_CLIENT_PORT: &str = "randomize-client-port";
    /// Self: name answers include IPv6 addresses.
    pub const MAGIC_DNS_AAAA: &str = "magicdns-aaaa";
    /// Self: never ask for upgrades of the network map in place.
    pub const DISABLE_DELTA_UPDATES: &str = "disable-delta-updates";
    /// Self: the network's display name, one string.
    pub const NETWORK_DISPLAY_NAME: &str = "tailnet-display-name";
    /// Self: longest key life, in seconds.
    pub const MAX_KEY_DURATION: &str = "tailnet.maxKeyDuration";
    /// Peer: may be recommended as an exit node.
    pub const SUGGEST_EXIT_NODE: &str = "suggest-exit-node";
    /// Self: certificates for the names of [`crate::DnsConfig::cert_domains`] can be had.
    pub const HTTPS: &str = "https";
    /// Self: the addresses of the services that this node hosts, by service.
    pub const SERVICE_HOST: &str = "service-host";
    /// Self: begins the capability of a service that this node may use ([`crate::ServiceDetails`]).
    pub const SERVICES_PREFIX: &str = "services/";
    /// Peer: every name below its own resolves to it.
    pub const DNS_SUBDOMAIN_RESOLVE: &str = "dns-subdomain-resolve";
    /// Filter: self may send files to that peer.
    pub const FILE_SHARING_TARGET: &str = "https://tailscale.com/cap/file-sharing-target";
    /// Filter: that peer may send files to self.
    pub const FILE_SEND: &str = "https://tailscale.com/cap/file-send";
}
