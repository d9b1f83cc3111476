//! Who counts as one, where strangers are given so much and no more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// What counts as one source: an IPv4 address, or the IPv6 network of /64 that one household has.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Who of these is there most often, and so gives way when there is no room: the first of several. `None` of none.
pub fn heaviest<S: Ord>(sources: impl IntoIterator<Item = S>) -> Option<S> {
    let mut counts: BTreeMap<S, usize> = BTreeMap::new();
    for source in sources {
        *counts.entry(source).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(source, _)| source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_household_is_one_source() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(source_of(ip("2001:db8:1:2::1")), source_of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(source_of(ip("2001:db8:1:2::1")), source_of(ip("2001:db8:1:3::1")));
        assert_eq!(source_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_ne!(source_of(ip("192.0.2.1")), source_of(ip("192.0.2.2")));
    }

    #[test]
    fn whoever_has_most_gives_way() {
        assert_eq!(heaviest([3, 1, 2, 1, 2, 1]), Some(1));
        assert_eq!(heaviest([2, 1, 2, 1]), Some(1));
        assert_eq!(heaviest::<u8>([]), None);
    }
}
