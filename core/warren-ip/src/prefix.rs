//! One network: an address and how many of its leading bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network such as `10.33.0.0/16`, its host bits all zero.
///
/// Ordered by family (IPv4 first), then address, then length, so that a network comes just before what it contains.
/// An IPv4-mapped IPv6 address is an IPv6 address here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    bits: u8,
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    #[error("{0:?} is not an address with a prefix length, as in 10.0.0.0/8")]
    Form(String),
    #[error("{0} is longer than its address")]
    TooLong(String),
    #[error("{0} has bits set beyond its length")]
    HostBits(String),
}

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Prefix = Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bits: 0 };
    /// Every IPv6 address.
    pub const ALL_V6: Prefix = Prefix { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits: 0 };

    /// The network `addr/bits`; `None` if `bits` is too long or bits of `addr` beyond it are set.
    pub fn new(addr: IpAddr, bits: u8) -> Option<Prefix> {
        Prefix::masked(addr, bits).filter(|prefix| prefix.addr == addr)
    }

    /// Like [`Prefix::new`], saying what is wrong.
    ///
    /// # Errors
    /// [`ParsePrefixError::TooLong`] and [`ParsePrefixError::HostBits`].
    pub fn strict(addr: IpAddr, bits: u8) -> Result<Prefix, ParsePrefixError> {
        match Prefix::masked(addr, bits) {
            None => Err(ParsePrefixError::TooLong(format!("{addr}/{bits}"))),
            Some(prefix) if prefix.addr != addr => Err(ParsePrefixError::HostBits(format!("{addr}/{bits}"))),
            Some(prefix) => Ok(prefix),
        }
    }

    /// The network that `addr` lies in; `None` only if `bits` is longer than the address.
    pub fn masked(addr: IpAddr, bits: u8) -> Option<Prefix> {
        if bits > width(addr) {
            return None;
        }
        let addr = match addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Some(Prefix { addr, bits })
    }

    /// The network that holds `addr` alone: `/32` or `/128`.
    pub fn host(addr: IpAddr) -> Prefix {
        Prefix { addr, bits: width(addr) }
    }

    /// First address, its host bits zero.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length in bits, 0–32 or 0–128.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Last address, its host bits all ones.
    pub fn last(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0)))
            }
            IpAddr::V6(v6) => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | u128::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0)))
            }
        }
    }

    pub fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }

    /// A single address.
    pub fn is_host(&self) -> bool {
        self.bits == width(self.addr)
    }

    /// `0.0.0.0/0` or `::/0`.
    pub fn is_default_route(&self) -> bool {
        self.bits == 0
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        Prefix::masked(addr, self.bits).is_some_and(|prefix| prefix.addr == self.addr)
    }

    /// Whether every address of `other` lies in this network.
    pub fn contains_prefix(&self, other: &Prefix) -> bool {
        self.bits <= other.bits && self.contains(other.addr)
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains_prefix(other) || other.contains_prefix(self)
    }
}

/// Length in bits of an address of this family.
pub(crate) fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Prefix, ParsePrefixError> {
        let form = || ParsePrefixError::Form(text.chars().take(64).collect());
        let (addr, bits) = text.split_once('/').ok_or_else(form)?;
        let addr: IpAddr = addr.parse().map_err(|_| form())?;
        // `u8::from_str` would take "+8" and "08".
        if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) || (bits.len() > 1 && bits.starts_with('0')) {
            return Err(form());
        }
        match bits.parse::<u8>() {
            Ok(bits) => Prefix::strict(addr, bits),
            Err(_) => Err(ParsePrefixError::TooLong(text.chars().take(64).collect())),
        }
    }
}

impl From<IpAddr> for Prefix {
    fn from(addr: IpAddr) -> Prefix {
        Prefix::host(addr)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn text_that_is_not_exactly_a_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "::1/64",
            "10.0.0.0/999",
            "a/8",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_contains_its_first_and_last_address_and_no_neighbour() {
        let net = prefix("10.33.0.0/16");
        assert!(net.contains("10.33.0.0".parse().unwrap()));
        assert!(net.contains("10.33.255.255".parse().unwrap()));
        assert!(!net.contains("10.34.0.0".parse().unwrap()));
        assert!(!net.contains("10.32.255.255".parse().unwrap()));
        assert_eq!(net.last(), "10.33.255.255".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn families_never_contain_each_other() {
        assert!(!Prefix::ALL_V4.contains("::1".parse().unwrap()));
        assert!(!Prefix::ALL_V6.contains("1.2.3.4".parse().unwrap()));
        assert!(!Prefix::ALL_V6.contains_prefix(&Prefix::ALL_V4));
        assert!(Prefix::ALL_V6.contains_prefix(&prefix("fd7a:115c:a1e0::/48")));
    }

    #[test]
    fn json_form_is_the_text_form() {
        let net = prefix("fd7a:115c:a1e0::/48");
        assert_eq!(serde_json::to_string(&net).unwrap(), "\"fd7a:115c:a1e0::/48\"");
        assert_eq!(serde_json::from_str::<Prefix>("\"fd7a:115c:a1e0::/48\"").unwrap(), net);
        assert!(serde_json::from_str::<Prefix>("\"10.0.0.1/8\"").is_err());
    }

    #[test]
    fn masking_keeps_the_network_and_new_refuses_what_masking_would_change() {
        let addr: IpAddr = "192.168.7.9".parse().unwrap();
        assert_eq!(Prefix::masked(addr, 24), Some(prefix("192.168.7.0/24")));
        assert_eq!(Prefix::new(addr, 24), None);
        assert_eq!(Prefix::new(addr, 32), Some(Prefix::host(addr)));
        assert_eq!(Prefix::masked(addr, 33), None);
        assert_eq!(Prefix::masked(addr, 0), Some(Prefix::ALL_V4));
    }
}
