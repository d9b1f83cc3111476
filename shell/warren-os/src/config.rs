//! The wanted state of the host, and the walls around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use warren_ip::Prefix;

/// Everything the host should hold for us, whole: applying it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsConfig {
    pub interface: String,
    /// Bytes in an inner packet, 1280–65535.
    pub mtu: u16,
    pub up: bool,
    /// This node's own addresses; each is set as a host address (/32, /128).
    pub addrs: Vec<IpAddr>,
    /// What leads into the interface.
    pub routes: Vec<Prefix>,
    /// Drop packets from the mesh's addresses that come by other interfaces ([`crate::guard`]).
    pub guard: bool,
}

/// What the one who started the helper allows; a request beyond it is refused whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub interface: String,
    /// Addresses and routes must lie inside one of these.
    pub prefixes: Vec<Prefix>,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    #[error("interface {0:?} is not the one this helper serves")]
    Interface(String),
    #[error("{0:?} is not a name for an interface")]
    Name(String),
    #[error("mtu {0} is outside 1280..=65535")]
    Mtu(u16),
    #[error("{0} is outside the allowed prefixes")]
    Outside(Prefix),
    #[error("{count} {what} are more than {most}")]
    TooMany { what: &'static str, count: usize, most: usize },
}

/// The smallest MTU that IPv6 allows (RFC 8200 §5).
const SMALLEST_MTU: u16 = 1280;

/// A node has one address of each family; twice that leaves room to move from one to another.
const MOST_ADDRS: usize = 16;

/// Two routes for each of ten thousand peers.
const MOST_ROUTES: usize = 20_000;

impl Limits {
    /// The mesh's own ranges (100.64.0.0/10 and fd7a:115c:a1e0::/48) for `interface`.
    ///
    /// # Errors
    /// [`ConfigProblem::Name`] when the kernel would not take the name.
    pub fn mesh(interface: &str) -> Result<Self, ConfigProblem> {
        if !is_interface_name(interface) {
            return Err(ConfigProblem::Name(interface.to_owned()));
        }
        Ok(Self { interface: interface.to_owned(), prefixes: mesh_ranges() })
    }

    /// Judges a configuration from outside.
    ///
    /// # Errors
    /// The first thing that goes beyond the limits.
    pub fn check(&self, config: &OsConfig) -> Result<(), ConfigProblem> {
        if config.interface != self.interface {
            return Err(ConfigProblem::Interface(config.interface.clone()));
        }
        self.check_mtu(config.mtu)?;
        cap("addresses", config.addrs.len(), MOST_ADDRS)?;
        cap("routes", config.routes.len(), MOST_ROUTES)?;
        let addrs = config.addrs.iter().map(|&addr| Prefix::host(addr));
        for wanted in addrs.chain(config.routes.iter().copied()) {
            if !self.prefixes.iter().any(|allowed| allowed.contains_prefix(&wanted)) {
                return Err(ConfigProblem::Outside(wanted));
            }
        }
        Ok(())
    }

    /// Judges an MTU from outside.
    ///
    /// # Errors
    /// [`ConfigProblem::Mtu`] below what IPv6 needs.
    pub fn check_mtu(&self, mtu: u16) -> Result<(), ConfigProblem> {
        if mtu < SMALLEST_MTU { Err(ConfigProblem::Mtu(mtu)) } else { Ok(()) }
    }
}

/// 100.64.0.0/10 and fd7a:115c:a1e0::/48.
pub(crate) fn mesh_ranges() -> Vec<Prefix> {
    let ranges = [
        Prefix::new(IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
        Prefix::new(IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0)), 48),
    ];
    ranges.into_iter().flatten().collect()
}

fn cap(what: &'static str, count: usize, most: usize) -> Result<(), ConfigProblem> {
    if count > most { Err(ConfigProblem::TooMany { what, count, most }) } else { Ok(()) }
}

/// Names the kernel takes as they stand: no `%` (it would number the name), no slash, at most 15 bytes.
fn is_interface_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len()) && name.bytes().all(letters) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OsConfig {
        OsConfig {
            interface: "warren0".into(),
            mtu: 1280,
            up: true,
            addrs: vec!["100.64.0.1".parse().unwrap(), "fd7a:115c:a1e0::1".parse().unwrap()],
            routes: vec!["100.64.0.2/32".parse().unwrap(), "fd7a:115c:a1e0::2/128".parse().unwrap()],
            guard: true,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut OsConfig), expect: Result<(), ConfigProblem>) {
        let mut config = config();
        change(&mut config);
        assert_eq!(Limits::mesh("warren0").unwrap().check(&config), expect);
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_one_interface_and_the_mesh_ranges_may_be_asked_for() {
        check(|_| {}, Ok(()));
        check(|config| config.interface = "eth0".into(), Err(ConfigProblem::Interface("eth0".into())));
        check(|config| config.mtu = 576, Err(ConfigProblem::Mtu(576)));
        check(|config| config.routes.push(prefix("0.0.0.0/0")), Err(ConfigProblem::Outside(prefix("0.0.0.0/0"))));
        check(|config| config.routes.push(prefix("100.0.0.0/8")), Err(ConfigProblem::Outside(prefix("100.0.0.0/8"))));
        check(
            |config| config.addrs.push("192.168.1.1".parse().unwrap()),
            Err(ConfigProblem::Outside(prefix("192.168.1.1/32"))),
        );
    }

    #[test]
    fn a_flood_of_addresses_or_routes_is_refused() {
        let too_many = |what, count, most| Err(ConfigProblem::TooMany { what, count, most });
        check(|config| config.addrs = vec![config.addrs[0]; 17], too_many("addresses", 17, 16));
        check(|config| config.routes = vec![config.routes[0]; 20_001], too_many("routes", 20_001, 20_000));
    }

    #[test]
    fn names_that_the_kernel_would_change_are_refused() {
        for name in ["", "warren%d", "a/b", "..", "name-of-16-bytes", "wärren"] {
            assert!(Limits::mesh(name).is_err(), "{name}");
        }
        assert!(Limits::mesh("warren12").is_ok());
    }
}
