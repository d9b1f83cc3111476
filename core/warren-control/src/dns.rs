//! What nodes are told about names (control-protocol.md §9.3).

use std::net::IpAddr;
use std::sync::Arc;

use warren_ip::Prefix;
use warren_wire::{CapMap, DnsConfig, Resolver};

use crate::presence::Present;
use crate::rows::Node;
use crate::settings::Settings;

/// The same for every node.
pub(crate) fn config(settings: &Settings) -> DnsConfig {
    let dns = &settings.dns;
    let mut config = DnsConfig { proxied: dns.magic_dns, ..DnsConfig::default() };
    let resolvers = dns.resolvers.iter().map(|address| resolver(address)).collect();
    if dns.override_local {
        config.resolvers = resolvers;
    } else {
        config.fallback_resolvers = resolvers;
    }
    for (domain, addresses) in &dns.split {
        config.routes.insert(domain.clone(), addresses.iter().map(|address| resolver(address)).collect());
    }
    if dns.magic_dns {
        let zones = settings.v4_range.into_iter().chain(settings.v6_range).flat_map(reverse_zones);
        // An empty list says "answered from the map"; it must be there and not null (trap 59).
        config.routes.extend(zones.map(|zone| (zone, Vec::new())));
        config.routes.insert(settings.base_domain.clone(), Vec::new());
    }
    config.domains.push(settings.base_domain.clone());
    config.domains.extend(dns.search_domains.iter().cloned());
    config.extra_records = dns.extra_records.clone();
    config
}

/// The same for one node: a resolver of NextDNS is told which device asks, and may have another profile for it. The
/// policy's attributes `nextdns:<profile>` and `nextdns:no-device-info` say so.
pub(crate) fn for_node(
    base: &Arc<DnsConfig>,
    node: &Node,
    present: Option<&Present>,
    attributes: impl FnOnce() -> CapMap,
) -> Arc<DnsConfig> {
    let is_nextdns = |resolver: &Resolver| resolver.addr.starts_with(NEXTDNS);
    if !lists(base).flatten().any(is_nextdns) {
        return Arc::clone(base);
    }
    let (attributes, mut own) = (attributes(), DnsConfig::clone(base));
    let words = attributes.keys().filter_map(|name| name.strip_prefix("nextdns:"));
    let profile = words.clone().find(|word| *word != NO_DEVICE_INFO);
    let mut about = url_query(&[
        ("device_name", &node.hostname),
        ("device_model", present.map_or("", |present| &present.hostinfo.os)),
        ("device_ip", &node.addresses().first().map(|address| address.addr().to_string()).unwrap_or_default()),
    ]);
    if words.clone().any(|word| word == NO_DEVICE_INFO) {
        about.clear();
    }
    let routed = own.routes.values_mut();
    for resolver in [&mut own.resolvers, &mut own.fallback_resolvers].into_iter().chain(routed).flatten() {
        if is_nextdns(resolver) {
            if let Some(profile) = profile {
                resolver.addr = format!("{NEXTDNS}{profile}");
            }
            resolver.addr.push_str(&about);
        }
    }
    Arc::new(own)
}

const NEXTDNS: &str = "https://dns.nextdns.io/";
const NO_DEVICE_INFO: &str = "no-device-info";

fn lists(config: &DnsConfig) -> impl Iterator<Item = &Vec<Resolver>> {
    [&config.resolvers, &config.fallback_resolvers].into_iter().chain(config.routes.values())
}

/// `?name=value&…`, with everything but letters, digits and `-._~` as `%XX`; nothing for empty values.
fn url_query(pairs: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
                other => query.push_str(&format!("%{other:02X}")),
            }
        }
    }
    query
}

fn resolver(address: &str) -> Resolver {
    Resolver { addr: address.to_owned(), ..Resolver::default() }
}

/// The zones that hold the names of addresses in `range`: whole octets of IPv4, nibbles of IPv6 (RFC 1035 §3.5,
/// RFC 3596 §2.5), without a dot at the end.
fn reverse_zones(range: Prefix) -> Vec<String> {
    let bits = u32::from(range.bits());
    let (step, total, first) = match range.addr() {
        IpAddr::V4(v4) => (8, 32, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (4, 128, v6.into()),
    };
    let labels = bits.div_ceil(step).max(1);
    let low = total - labels * step; // bits below the last label of the zone
    (0..1_u128 << (labels * step - bits))
        .map(|nth| {
            let number = (first >> low) + nth;
            let mut zone = String::new();
            for label in 0..labels {
                let part = number >> (label * step) & ((1 << step) - 1);
                zone += &if step == 8 { format!("{part}.") } else { format!("{part:x}.") };
            }
            zone + if step == 8 { "in-addr.arpa" } else { "ip6.arpa" }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_zones_cover_the_range() {
        let zones = |range: &str| reverse_zones(range.parse().expect("a prefix"));
        let v4 = zones("100.64.0.0/10");
        assert_eq!((v4.len(), v4[0].as_str(), v4[63].as_str()), (64, "64.100.in-addr.arpa", "127.100.in-addr.arpa"));
        assert_eq!(zones("fd7a:115c:a1e0::/48"), ["0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"]);
        assert_eq!(zones("10.0.0.0/24"), ["0.0.10.in-addr.arpa"]);
    }

    #[test]
    fn overriding_resolvers_are_global_and_others_only_stand_in() {
        let mut settings = Settings::new("https://c.example", "c.example", "mesh.test");
        settings.dns.resolvers = vec!["1.1.1.1".to_owned()];
        let config_of = config(&settings);
        assert_eq!((config_of.resolvers.len(), config_of.fallback_resolvers.len()), (0, 1));
        settings.dns.override_local = true;
        let config_of = config(&settings);
        assert_eq!((config_of.resolvers.len(), config_of.fallback_resolvers.len()), (1, 0));
        assert_eq!(config_of.domains, ["mesh.test"]);
        assert!(config_of.proxied && config_of.routes.contains_key("mesh.test"));
    }
}
