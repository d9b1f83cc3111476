//! Selectors: the words that name sources and destinations.

use std::fmt;
use std::net::IpAddr;

use warren_ip::Prefix;

use crate::tailnet::Role;

/// What a word of a rule names. user-surface.md §4.2.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Selector {
    Everyone,
    /// A person, by what stands around an `@`.
    User(String),
    /// Everyone whose e-mail address is in this domain: `user:*@domain`, without what stands before the domain.
    Domain(String),
    /// With its `group:`. If the policy does not define it and its name has an `@`, it is the identity provider's.
    Group(String),
    /// With its `tag:`.
    Tag(String),
    Autogroup(Autogroup),
    /// A name of the `hosts` section.
    Host(String),
    /// A name of the `ipsets` section, with its `ipset:`.
    IpSet(String),
    /// A service of the network with addresses of its own, with its `svc:`.
    Service(String),
    Address(Prefix),
}

/// Groups that the policy need not list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Autogroup {
    /// Devices that belong to people.
    Member,
    /// Devices that carry tags.
    Tagged,
    /// The devices of whoever is the source.
    Selves,
    /// Every public address, through an exit node.
    Internet,
    /// Truly every source, the overlay's or not.
    DangerAll,
    /// Devices of people of other networks, to whom something was shared. There is no sharing yet, so nobody.
    Shared,
    /// Devices of people with this office.
    Role(Role),
}

const AUTOGROUPS: [(&str, Autogroup); 12] = [
    ("autogroup:member", Autogroup::Member),
    ("autogroup:tagged", Autogroup::Tagged),
    ("autogroup:self", Autogroup::Selves),
    ("autogroup:internet", Autogroup::Internet),
    ("autogroup:danger-all", Autogroup::DangerAll),
    ("autogroup:shared", Autogroup::Shared),
    ("autogroup:owner", Autogroup::Role(Role::Owner)),
    ("autogroup:admin", Autogroup::Role(Role::Admin)),
    ("autogroup:it-admin", Autogroup::Role(Role::ItAdmin)),
    ("autogroup:network-admin", Autogroup::Role(Role::NetworkAdmin)),
    ("autogroup:billing-admin", Autogroup::Role(Role::BillingAdmin)),
    ("autogroup:auditor", Autogroup::Role(Role::Auditor)),
];

impl Autogroup {
    fn parse(name: &str) -> Option<Autogroup> {
        // The field's own alias.
        let name = if name == "autogroup:members" { "autogroup:member" } else { name };
        AUTOGROUPS.iter().find(|(known, _)| *known == name).map(|(_, group)| *group)
    }
}

impl Selector {
    /// Reads one word. Whether what it names exists is not asked here.
    ///
    /// # Errors
    /// A text for the person who wrote the word.
    pub(crate) fn parse(word: &str) -> Result<Selector, String> {
        let word = word.trim();
        if let Some(prefix) = parse_address(word) {
            return Ok(Selector::Address(prefix));
        }
        if word == "*" {
            return Ok(Selector::Everyone);
        }
        if let Some(domain) = word.strip_prefix("user:*@") {
            return if domain.is_empty() || domain.contains(['@', ':', '*']) {
                Err(format!("invalid domain in {word:?}; write user:*@example.com"))
            } else {
                Ok(Selector::Domain(domain.to_ascii_lowercase()))
            };
        }
        for (start, make) in PREFIXED {
            if let Some(name) = word.strip_prefix(start) {
                return if name.is_empty() {
                    Err(format!("invalid alias format: {word:?}"))
                } else {
                    Ok(make(word.to_owned()))
                };
            }
        }
        if word.starts_with("autogroup:") {
            return Autogroup::parse(word).map(Selector::Autogroup).ok_or_else(|| {
                let known: Vec<&str> = AUTOGROUPS.iter().map(|(name, _)| *name).collect();
                format!("invalid autogroup: {word:?}, can be {}", known.join(", "))
            });
        }
        if word.contains('@') {
            return Ok(Selector::User(word.to_owned()));
        }
        let host = word.strip_prefix("host:").unwrap_or(word);
        if !host.is_empty() && !host.contains(':') {
            return Ok(Selector::Host(host.to_owned()));
        }
        Err(format!("invalid alias format: {word:?}"))
    }

    pub(crate) fn is_autogroup(&self) -> bool {
        matches!(self, Selector::Autogroup(_))
    }
}

type Make = fn(String) -> Selector;

const PREFIXED: [(&str, Make); 4] =
    [("group:", Selector::Group), ("tag:", Selector::Tag), ("ipset:", Selector::IpSet), ("svc:", Selector::Service)];

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Everyone => f.write_str("*"),
            Selector::User(name)
            | Selector::Group(name)
            | Selector::Tag(name)
            | Selector::Host(name)
            | Selector::IpSet(name)
            | Selector::Service(name) => f.write_str(name),
            Selector::Domain(domain) => write!(f, "user:*@{domain}"),
            Selector::Autogroup(group) => {
                f.write_str(AUTOGROUPS.iter().find(|(_, known)| known == group).map_or("autogroup:", |(name, _)| name))
            }
            Selector::Address(prefix) if prefix.is_host() => prefix.addr().fmt(f),
            Selector::Address(prefix) => prefix.fmt(f),
        }
    }
}

/// An address or a network; host bits of a network are cut off, as the field does.
pub(crate) fn parse_address(word: &str) -> Option<Prefix> {
    if let Ok(addr) = word.parse::<IpAddr>() {
        return Some(Prefix::host(addr));
    }
    let (addr, bits) = word.split_once('/')?;
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Prefix::masked(addr.parse().ok()?, bits.parse().ok()?)
}

/// Cuts `<selector>:<ports>` at its last colon; brackets around an IPv6 address are taken off.
///
/// # Errors
/// The field's own words for what is wrong with the form.
pub(crate) fn split_ports(word: &str) -> Result<(&str, &str), String> {
    let word = word.trim();
    let (host, ports) = word.rsplit_once(':').ok_or("hostport must contain a colon")?;
    if host.is_empty() {
        return Err("input cannot start with a colon character".into());
    }
    if ports.is_empty() {
        return Err("input cannot end with a colon character".into());
    }
    match host.strip_prefix('[') {
        None => Ok((host, ports)),
        Some(rest) => match rest.strip_suffix(']') {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => Ok((inner, ports)),
            _ => Err(format!("square brackets are only valid around IPv6 addresses: {host:?}")),
        },
    }
}
