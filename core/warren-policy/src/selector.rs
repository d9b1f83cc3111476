//! Selectors: the words that name sources and destinations.

use std::fmt;
use std::net::IpAddr;

use warren_ip::Prefix;

/// What a word of a rule names. user-surface.md §4.2.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Selector {
    Everyone,
    /// A person, by what stands around an `@`.
    User(String),
    /// With its `group:`.
    Group(String),
    /// With its `tag:`.
    Tag(String),
    Autogroup(Autogroup),
    /// A name of the `hosts` section.
    Host(String),
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
}

impl Autogroup {
    fn parse(name: &str) -> Option<Autogroup> {
        Some(match name {
            "autogroup:member" => Autogroup::Member,
            "autogroup:tagged" => Autogroup::Tagged,
            "autogroup:self" => Autogroup::Selves,
            "autogroup:internet" => Autogroup::Internet,
            "autogroup:danger-all" => Autogroup::DangerAll,
            _ => return None,
        })
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
        if word.starts_with("group:") {
            return Ok(Selector::Group(word.to_owned()));
        }
        if word.starts_with("tag:") {
            return Ok(Selector::Tag(word.to_owned()));
        }
        if word.starts_with("autogroup:") {
            return Autogroup::parse(word)
                .map(Selector::Autogroup)
                .ok_or_else(|| format!("autogroup is not built: {word:?}"));
        }
        for (start, what) in [("ipset:", "ipsets"), ("svc:", "services"), ("user:*@", "users by domain")] {
            if word.starts_with(start) {
                return Err(format!("{what} are not built: {word:?}"));
            }
        }
        if word.contains('@') {
            return Ok(Selector::User(word.to_owned()));
        }
        if !word.is_empty() && !word.contains(':') {
            return Ok(Selector::Host(word.to_owned()));
        }
        Err(format!("invalid alias format: {word:?}"))
    }

    pub(crate) fn is_autogroup(&self) -> bool {
        matches!(self, Selector::Autogroup(_))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Everyone => f.write_str("*"),
            Selector::User(name) | Selector::Group(name) | Selector::Tag(name) | Selector::Host(name) => {
                f.write_str(name)
            }
            Selector::Autogroup(group) => f.write_str(match group {
                Autogroup::Member => "autogroup:member",
                Autogroup::Tagged => "autogroup:tagged",
                Autogroup::Selves => "autogroup:self",
                Autogroup::Internet => "autogroup:internet",
                Autogroup::DangerAll => "autogroup:danger-all",
            }),
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
