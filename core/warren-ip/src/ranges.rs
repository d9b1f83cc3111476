//! Sets of addresses that need not be prefixes: sorted ranges that never touch.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::prefix::Prefix;

/// All addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not an address, network or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address, a network or a range of addresses")]
pub struct ParseRangeError(String);

impl IpRange {
    /// `None` if the families differ or `first` comes after `last`.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<IpRange> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(IpRange { first, last })
    }

    pub fn first(&self) -> IpAddr {
        self.first
    }

    pub fn last(&self) -> IpAddr {
        self.last
    }

    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        // `IpAddr` orders every IPv4 address before every IPv6 one, so the families cannot mix here.
        self.first <= addr && addr <= self.last
    }

    pub fn overlaps(&self, other: &IpRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The one network that is exactly this range, if there is one.
    pub fn as_prefix(&self) -> Option<Prefix> {
        let (first, last, width) = match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return None,
        };
        let host_bits = 128 - (first ^ last).leading_zeros();
        let prefix = Prefix::masked(self.first, (width - host_bits) as u8)?;
        (prefix.addr() == self.first && prefix.last() == self.last).then_some(prefix)
    }

    /// The fewest networks that make up this range, in order.
    pub fn prefixes(&self) -> Vec<Prefix> {
        let (mut first, last, width) = match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32u32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return Vec::new(),
        };
        let mut prefixes = Vec::new();
        loop {
            // The largest aligned block that starts here and does not pass the end.
            let aligned = first.trailing_zeros().min(width);
            let span = last - first;
            let fitting = if span == u128::MAX { 128 } else { 127 - (span + 1).leading_zeros() };
            let host_bits = aligned.min(fitting);
            let addr = match self.first {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(first as u32)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first)),
            };
            prefixes.push(Prefix::masked(addr, (width - host_bits) as u8).expect("at most the address's width"));
            let block_last = first | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            if block_last >= last {
                return prefixes;
            }
            first = block_last + 1;
        }
    }
}

impl From<Prefix> for IpRange {
    fn from(prefix: Prefix) -> IpRange {
        IpRange { first: prefix.addr(), last: prefix.last() }
    }
}

impl From<IpAddr> for IpRange {
    fn from(addr: IpAddr) -> IpRange {
        IpRange { first: addr, last: addr }
    }
}

/// One address bare, one network as such, anything else as `first-last`: the forms of the control protocol's filter rules.
impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        match self.as_prefix() {
            Some(prefix) => write!(f, "{prefix}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for IpRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<IpRange, ParseRangeError> {
        let error = || ParseRangeError(text.chars().take(96).collect());
        if let Some((first, last)) = text.split_once('-') {
            let first = first.parse().map_err(|_| error())?;
            let last = last.parse().map_err(|_| error())?;
            return IpRange::new(first, last).ok_or_else(error);
        }
        if text.contains('/') {
            return text.parse::<Prefix>().map(IpRange::from).map_err(|_| error());
        }
        text.parse::<IpAddr>().map(IpRange::from).map_err(|_| error())
    }
}

/// A set of addresses of both families. Ranges that overlap or touch are one.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRanges {
    ranges: Vec<IpRange>,
}

impl IpRanges {
    pub const fn new() -> IpRanges {
        IpRanges { ranges: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges in order, none touching the next.
    pub fn iter(&self) -> impl Iterator<Item = IpRange> + '_ {
        self.ranges.iter().copied()
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        self.covers(IpRange::from(addr))
    }

    /// Whether every address of `range` is in the set.
    pub fn covers(&self, range: IpRange) -> bool {
        let at = self.ranges.partition_point(|have| have.last < range.first);
        self.ranges.get(at).is_some_and(|have| have.first <= range.first && range.last <= have.last)
    }

    /// Whether some address of `range` is in the set.
    pub fn overlaps(&self, range: IpRange) -> bool {
        let at = self.ranges.partition_point(|have| have.last < range.first);
        self.ranges.get(at).is_some_and(|have| have.overlaps(&range))
    }

    /// The whole ranges of the set that share an address with `range`. Costs what it finds, not what there is.
    pub fn overlapping(&self, range: IpRange) -> impl Iterator<Item = IpRange> + '_ {
        let at = self.ranges.partition_point(|have| have.last < range.first);
        self.ranges[at..].iter().copied().take_while(move |have| have.overlaps(&range))
    }

    /// Whether every address of `other` is in this set.
    pub fn covers_all(&self, other: &IpRanges) -> bool {
        other.iter().all(|range| self.covers(range))
    }

    /// Whether the two sets share an address.
    pub fn overlaps_any(&self, other: &IpRanges) -> bool {
        other.iter().any(|range| self.overlaps(range))
    }

    /// Adds one range.
    pub fn insert(&mut self, range: IpRange) {
        self.extend([range]);
    }

    /// Takes every address of `range` away.
    pub fn subtract(&mut self, range: IpRange) {
        let mut left = Vec::with_capacity(self.ranges.len() + 1);
        for have in self.ranges.drain(..) {
            if !have.overlaps(&range) {
                left.push(have);
                continue;
            }
            if let Some(before) = previous(range.first).and_then(|last| IpRange::new(have.first, last)) {
                left.push(before);
            }
            if let Some(after) = next(range.last).and_then(|first| IpRange::new(first, have.last)) {
                left.push(after);
            }
        }
        self.ranges = left;
    }

    /// The addresses that both sets hold.
    pub fn intersection(&self, other: &IpRanges) -> IpRanges {
        let (mut a, mut b) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if let Some(shared) = IpRange::new(x.first.max(y.first), x.last.min(y.last)) {
                ranges.push(shared);
            }
            if x.last < y.last {
                a.next()
            } else {
                b.next()
            };
        }
        IpRanges { ranges }
    }

    /// Every address of both families that the set does not hold.
    pub fn complement(&self) -> IpRanges {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 2);
        for whole in [IpRange::from(Prefix::ALL_V4), IpRange::from(Prefix::ALL_V6)] {
            let mut first = Some(whole.first);
            for have in self.ranges.iter().filter(|have| have.is_ipv4() == whole.is_ipv4()) {
                let before = first.and_then(|first| IpRange::new(first, previous(have.first)?));
                ranges.extend(before);
                first = next(have.last);
            }
            ranges.extend(first.and_then(|first| IpRange::new(first, whole.last)));
        }
        IpRanges { ranges }
    }

    /// The fewest networks that make up the set, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.ranges.iter().flat_map(IpRange::prefixes)
    }

    fn normalise(&mut self) {
        self.ranges.sort_unstable();
        let mut merged: Vec<IpRange> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges.drain(..) {
            match merged.last_mut() {
                Some(have)
                    if have.is_ipv4() == range.is_ipv4()
                        && (range.first <= have.last || next(have.last) == Some(range.first)) =>
                {
                    have.last = have.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        self.ranges = merged;
    }
}

impl Extend<IpRange> for IpRanges {
    fn extend<I: IntoIterator<Item = IpRange>>(&mut self, ranges: I) {
        self.ranges.extend(ranges);
        self.normalise();
    }
}

impl FromIterator<IpRange> for IpRanges {
    fn from_iter<I: IntoIterator<Item = IpRange>>(ranges: I) -> IpRanges {
        let mut set = IpRanges::new();
        set.extend(ranges);
        set
    }
}

impl FromIterator<Prefix> for IpRanges {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> IpRanges {
        prefixes.into_iter().map(IpRange::from).collect()
    }
}

impl fmt::Debug for IpRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|range| range.to_string())).finish()
    }
}

fn next(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

fn previous(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> IpRanges {
        texts.iter().map(|text| text.parse::<IpRange>().expect("a range")).collect()
    }

    fn check(set: &IpRanges, expect: &[&str]) {
        let shown: Vec<String> = set.iter().map(|range| range.to_string()).collect();
        assert_eq!(shown, expect);
    }

    #[test]
    fn touching_ranges_become_one_and_print_as_the_shortest_form() {
        check(&set(&["10.0.0.1", "10.0.0.0", "10.0.0.2"]), &["10.0.0.0-10.0.0.2"]);
        check(&set(&["10.0.0.0", "10.0.0.1"]), &["10.0.0.0/31"]);
        check(&set(&["255.255.255.255", "::"]), &["255.255.255.255", "::"]);
        check(&set(&["::/1", "8000::/1"]), &["::/0"]);
    }

    #[test]
    fn taking_away_the_middle_leaves_both_ends() {
        let mut cgnat = set(&["100.64.0.0/10"]);
        cgnat.subtract("100.115.92.0/23".parse().unwrap());
        check(&cgnat, &["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255"]);
        let mut all = set(&["0.0.0.0/0"]);
        all.subtract("0.0.0.0/1".parse().unwrap());
        check(&all, &["128.0.0.0/1"]);
        all.subtract("128.0.0.0/1".parse().unwrap());
        assert!(all.is_empty());
    }

    #[test]
    fn whole_families_split_into_one_network_each() {
        let all = set(&["0.0.0.0/0", "::/0"]);
        assert_eq!(all.prefixes().collect::<Vec<_>>(), [Prefix::ALL_V4, Prefix::ALL_V6]);
    }

    #[test]
    fn text_that_is_not_a_range_is_refused() {
        for text in
            ["", "-", "10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.1/8", "*", "10.0.0.1-", "1.2.3.4-1.2.3.5-1.2.3.6"]
        {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }

    fn small_range() -> impl Strategy<Value = IpRange> {
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| {
            let at = |last: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
            IpRange::new(at(a.min(b)), at(a.max(b))).expect("in order")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_answers_as_a_plain_set_would(
            added in proptest::collection::vec(small_range(), 0..8),
            taken in proptest::collection::vec(small_range(), 0..4),
            other in proptest::collection::vec(small_range(), 0..4),
        ) {
            let mut set: IpRanges = added.iter().copied().collect();
            for range in &taken {
                set.subtract(*range);
            }
            let other_set: IpRanges = other.iter().copied().collect();
            let both = set.intersection(&other_set);
            let rest = set.complement();
            for range in &other {
                let found: Vec<IpRange> = set.overlapping(*range).collect();
                prop_assert_eq!(found, set.iter().filter(|have| have.overlaps(range)).collect::<Vec<_>>());
            }
            prop_assert_eq!(&rest.complement(), &set);
            prop_assert!(rest.contains("10.1.0.0".parse().unwrap()) && rest.contains("::1".parse().unwrap()));
            let networks: Vec<Prefix> = set.prefixes().collect();
            for last in 0..=255u8 {
                let addr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
                let expected = added.iter().any(|r| r.contains(addr)) && !taken.iter().any(|r| r.contains(addr));
                prop_assert_eq!(set.contains(addr), expected);
                prop_assert_eq!(networks.iter().filter(|net| net.contains(addr)).count(), usize::from(expected));
                prop_assert_eq!(both.contains(addr), expected && other_set.contains(addr));
                prop_assert_eq!(rest.contains(addr), !expected);
            }
            prop_assert_eq!(set.overlaps_any(&other_set), !both.is_empty());
            prop_assert!(set.covers_all(&both));
            for range in set.iter() {
                prop_assert_eq!(range.to_string().parse::<IpRange>().unwrap(), range);
            }
        }
    }
}
