//! What the operator configured, as far as decisions and maps depend on it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use warren_ip::Prefix;
use warren_wire::{DnsRecord, RelayMap};

use crate::names;
use crate::routers::Probing;

/// Settings of one server. Not in the database: they come with the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What clients were told to log in to, without a slash at the end: `https://vpn.example.net`.
    pub server_url: String,
    /// The network's name, shown to people (the host of `server_url` by convention).
    pub domain: String,
    /// Names of nodes are `<name>.<base_domain>`; no dot at either end. Not the server's own host or above it.
    pub base_domain: String,
    /// Where IPv4 addresses come from; `None` hands out none.
    pub v4_range: Option<Prefix>,
    /// Where IPv6 addresses come from; `None` hands out none.
    pub v6_range: Option<Prefix>,
    /// How long a node key is good after a login; `None` is for ever. Tagged nodes never expire.
    pub key_lifetime: Option<Duration>,
    /// How long an ephemeral node may be away.
    pub ephemeral_timeout: Duration,
    /// A new node is kept out until an operator approves it, unless its join key was made to spare that.
    pub device_approval: bool,
    /// Peers are not told each other's underlay addresses: nodes meet through relays, and whatever direct path they
    /// find by the relay's call-me-maybe is theirs to tell.
    pub hide_endpoints: bool,
    /// How routers are asked for signs of life where several serve one network.
    pub probing: Probing,
    /// Where relays are.
    pub relay_map: RelayMap,
    /// What nodes do about names.
    pub dns: DnsSettings,
}

/// Names and resolvers.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    /// Nodes answer the mesh's names themselves.
    pub magic_dns: bool,
    /// Resolvers for everything else (`1.1.1.1`, `https://…`).
    pub resolvers: Vec<String>,
    /// `resolvers` replace the host's own, instead of only standing in for them.
    pub override_local: bool,
    /// Resolvers for some domains only.
    pub split: BTreeMap<String, Vec<String>>,
    /// Searched after the base domain.
    pub search_domains: Vec<String>,
    /// Names beside those of nodes, with an address each. They may change while the server runs
    /// ([`crate::Control::set_extra_records`]).
    pub extra_records: Vec<DnsRecord>,
    /// Nodes may get certificates for their names: the server makes the records that prove them.
    pub certificates: bool,
}

impl Settings {
    /// The field's ranges, endpoints shown, keys without end, ephemeral nodes gone after half an hour
    /// (control-protocol.md §11.1, §11.4, §11.5).
    pub fn new(server_url: &str, domain: &str, base_domain: &str) -> Self {
        Self {
            server_url: server_url.trim_end_matches('/').to_owned(),
            domain: domain.to_owned(),
            base_domain: base_domain.trim_matches('.').to_ascii_lowercase(),
            v4_range: Prefix::masked(Ipv4Addr::new(100, 64, 0, 0).into(), 10),
            v6_range: Prefix::masked(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0).into(), 48),
            key_lifetime: None,
            ephemeral_timeout: Duration::from_secs(30 * 60),
            device_approval: false,
            hide_endpoints: false,
            probing: Probing::default(),
            relay_map: RelayMap::default(),
            dns: DnsSettings { magic_dns: true, ..DnsSettings::default() },
        }
    }

    /// What is wrong with these settings, if anything.
    ///
    /// # Errors
    /// One line for the operator, naming the setting.
    pub fn check(&self) -> Result<(), SettingsError> {
        let host = host_of(&self.server_url).to_ascii_lowercase();
        if !names::is_domain(&self.base_domain) {
            return Err(SettingsError::BaseDomain(self.base_domain.clone()));
        }
        // A base domain at or above the server's own name would make clients ask the mesh for the server's address
        // (control-protocol.md §12.3, trap 61).
        if host == self.base_domain || host.ends_with(&format!(".{}", self.base_domain)) {
            return Err(SettingsError::ServerInsideBaseDomain { host, base_domain: self.base_domain.clone() });
        }
        if self.v4_range.is_none() && self.v6_range.is_none() {
            return Err(SettingsError::NoRange);
        }
        if self.v4_range.is_some_and(|range| !range.addr().is_ipv4() || range.bits() > 30) {
            return Err(SettingsError::V4Range);
        }
        if self.v6_range.is_some_and(|range| !range.addr().is_ipv6() || range.bits() > 120) {
            return Err(SettingsError::V6Range);
        }
        if self.dns.override_local && self.dns.resolvers.is_empty() {
            return Err(SettingsError::NoResolvers);
        }
        Ok(())
    }
}

/// The host of `scheme://host[:port][/…]`, brackets of an IPv6 literal taken off.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Labels of letters, digits and hyphens.
    #[error("base domain {0:?} is not a domain name")]
    BaseDomain(String),
    /// Clients would look for the server inside the mesh.
    #[error("base domain {base_domain} contains the server's own host {host}; choose another")]
    ServerInsideBaseDomain {
        /// Of the server's URL.
        host: String,
        /// As configured.
        base_domain: String,
    },
    /// Neither family.
    #[error("no address range: give an IPv4 range, an IPv6 range or both")]
    NoRange,
    /// Wrong family or too small.
    #[error("the IPv4 range must be an IPv4 prefix of at most 30 bits")]
    V4Range,
    /// Wrong family or too small.
    #[error("the IPv6 range must be an IPv6 prefix of at most 120 bits")]
    V6Range,
    /// Clients would have no resolver at all (trap 60).
    #[error("overriding local DNS needs at least one resolver")]
    NoResolvers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Settings), expect: Result<(), SettingsError>) {
        let mut settings = Settings::new("https://vpn.example.net:8443/", "vpn.example.net", "mesh.test");
        change(&mut settings);
        assert_eq!(settings.check(), expect);
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        check(|_| {}, Ok(()));
        check(|s| s.base_domain = "a_b".into(), Err(SettingsError::BaseDomain("a_b".into())));
        for base in ["example.net", "vpn.example.net"] {
            let expect =
                SettingsError::ServerInsideBaseDomain { host: "vpn.example.net".into(), base_domain: base.into() };
            check(|s| s.base_domain = base.into(), Err(expect));
        }
        check(|s| (s.v4_range, s.v6_range) = (None, None), Err(SettingsError::NoRange));
        check(|s| s.v4_range = s.v6_range, Err(SettingsError::V4Range));
        check(|s| s.v6_range = s.v4_range, Err(SettingsError::V6Range));
        check(|s| s.dns.override_local = true, Err(SettingsError::NoResolvers));
        check(|s| s.v4_range = None, Ok(()));
    }

    #[test]
    fn the_host_of_a_url_has_no_port_and_no_brackets() {
        for (url, host) in [
            ("http://10.0.0.1:8080", "10.0.0.1"),
            ("https://[2001:db8::1]:8080/x", "2001:db8::1"),
            ("https://a.b", "a.b"),
        ] {
            assert_eq!(host_of(url), host);
        }
    }
}
