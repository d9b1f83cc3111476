//! Who has which mesh address. Both families are handed out alike and apart: the lowest that is free, so that the same
//! history gives the same addresses, and a record keeps its own for life (control-protocol.md §11.1).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use warren_ip::Prefix;

/// The addresses of one range. Copies share until written.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    range: Prefix,
    /// 64 addresses a word, by offset from the start of the range; a set bit is taken or reserved. Words that are
    /// missing are free.
    words: Arc<BTreeMap<u64, u64>>,
}

/// Addresses that are never handed out: the resolver of the mesh in both families, and the block that ChromeOS uses
/// for its own virtual machines.
fn reserved() -> [(IpAddr, u32); 3] {
    [
        (Ipv4Addr::new(100, 100, 100, 100).into(), 1),
        (Ipv4Addr::new(100, 115, 92, 0).into(), 512),
        (Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53).into(), 1),
    ]
}

impl Pool {
    /// An empty pool; the first and, for IPv4, the last address of the range are never handed out.
    pub(crate) fn new(range: Prefix) -> Self {
        let mut pool = Self { range, words: Arc::default() };
        pool.set(0);
        if let (IpAddr::V4(_), Some(last)) = (range.addr(), pool.size().checked_sub(1)) {
            pool.set(last);
        }
        for (first, count) in reserved() {
            for offset in 0..count {
                if let Some(offset) = pool.offset_of(first).and_then(|first| first.checked_add(offset.into())) {
                    pool.set(offset);
                }
            }
        }
        pool
    }

    pub(crate) fn range(&self) -> Prefix {
        self.range
    }

    /// The lowest free address, taken.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let offset = self.lowest_free()?;
        self.set(offset);
        Some(self.address_at(offset))
    }

    /// The lowest free address of a part of the range, taken. `None` also where that lies outside of the range.
    pub(crate) fn take_within(&mut self, part: Prefix) -> Option<IpAddr> {
        let first = self.offset_of(part.addr()).filter(|_| self.range.contains_prefix(&part))?;
        let last = first + (size_of(part) - 1);
        let offset = (first / 64..=last / 64).find_map(|index| {
            let word = self.words.get(&index).copied().unwrap_or_default();
            let before = if index == first / 64 { (1 << (first % 64)) - 1 } else { 0 };
            let free = (word | before).trailing_ones();
            (free < 64).then(|| index * 64 + u64::from(free)).filter(|offset| *offset <= last)
        })?;
        self.set(offset);
        Some(self.address_at(offset))
    }

    /// Notes that `addr` is in use. Addresses outside the range (it was configured differently once) need no note.
    pub(crate) fn note(&mut self, addr: IpAddr) {
        if let Some(offset) = self.offset_of(addr) {
            self.set(offset);
        }
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, addr: IpAddr) {
        let Some(offset) = self.offset_of(addr) else { return };
        let words = Arc::make_mut(&mut self.words);
        if let Some(word) = words.get_mut(&(offset / 64)) {
            *word &= !(1 << (offset % 64));
            if *word == 0 {
                words.remove(&(offset / 64));
            }
        }
    }

    fn set(&mut self, offset: u64) {
        *Arc::make_mut(&mut self.words).entry(offset / 64).or_default() |= 1 << (offset % 64);
    }

    fn lowest_free(&self) -> Option<u64> {
        let mut expected = 0;
        for (&index, &word) in self.words.iter() {
            if index != expected {
                break; // a word without any taken address lies before this one
            }
            if word != u64::MAX {
                break;
            }
            expected += 1;
        }
        let word = self.words.get(&expected).copied().unwrap_or_default();
        let offset = expected * 64 + u64::from(word.trailing_ones());
        (offset < self.size()).then_some(offset)
    }

    fn size(&self) -> u64 {
        size_of(self.range)
    }

    fn offset_of(&self, addr: IpAddr) -> Option<u64> {
        if !self.range.contains(addr) {
            return None;
        }
        let offset = number(addr) - number(self.range.addr());
        u64::try_from(offset).ok().filter(|offset| *offset < self.size())
    }

    fn address_at(&self, offset: u64) -> IpAddr {
        match self.range.addr() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
        }
    }
}

/// How many addresses a range has; more than 2⁶² count as 2⁶².
fn size_of(range: Prefix) -> u64 {
    let bits = if range.is_ipv4() { 32 } else { 128 } - u32::from(range.bits());
    1 << bits.min(62)
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> Pool {
        Pool::new(range.parse().expect("a prefix"))
    }

    #[test]
    fn the_lowest_free_address_comes_first() {
        let mut pool = pool("100.64.0.0/10");
        let mut take = || pool.take().map(|addr| addr.to_string());
        assert_eq!(take().as_deref(), Some("100.64.0.1"));
        assert_eq!(take().as_deref(), Some("100.64.0.2"));
        pool.free("100.64.0.1".parse().expect("an address"));
        assert_eq!(pool.take().map(|addr| addr.to_string()).as_deref(), Some("100.64.0.1"));
    }

    #[test]
    fn reserved_addresses_are_never_handed_out() {
        for (range, reserved) in [
            ("100.100.100.96/29", vec!["100.100.100.96", "100.100.100.100", "100.100.100.103"]),
            ("fd7a:115c:a1e0::50/124", vec!["fd7a:115c:a1e0::50", "fd7a:115c:a1e0::53"]),
        ] {
            let mut pool = pool(range);
            let mut taken = BTreeSet::new();
            while let Some(addr) = pool.take() {
                assert!(taken.insert(addr));
            }
            let size = 1 << if range.contains(':') { 4 } else { 3 };
            assert_eq!(taken.len(), size - reserved.len());
            for addr in reserved {
                assert!(!taken.contains(&addr.parse().expect("an address")), "{addr}");
            }
        }
    }

    #[test]
    fn a_part_of_the_range_gives_its_own_lowest_until_it_is_full() {
        let mut pool = pool("100.64.0.0/10");
        let part = |text: &str| text.parse::<Prefix>().expect("a prefix");
        let mut take = |text: &str| pool.take_within(part(text)).map(|addr| addr.to_string());
        assert_eq!(take("100.80.0.0/16").as_deref(), Some("100.80.0.0"));
        assert_eq!(take("100.64.0.0/30").as_deref(), Some("100.64.0.1"), "the first of the range is not handed out");
        let taken: BTreeSet<_> = std::iter::from_fn(|| take("100.80.0.0/26")).collect();
        assert_eq!(taken.len(), 63, "one of them is taken already, and none twice");
        assert_eq!(take("100.80.0.77/32").as_deref(), Some("100.80.0.77"));
        assert_eq!((take("100.80.0.77/32"), take("10.0.0.0/24"), take("100.0.0.0/8")), (None, None, None));
    }

    #[test]
    fn the_chromeos_block_leaves_no_address() {
        assert_eq!(pool("100.115.92.0/23").take(), None);
        let mut around = pool("100.115.88.0/21");
        let taken: Vec<IpAddr> = std::iter::from_fn(|| around.take()).collect();
        assert_eq!(taken.len(), 2048 - 512 - 2);
    }

    proptest! {
        #[test]
        fn no_address_is_handed_out_twice(steps in prop::collection::vec(any::<(bool, usize)>(), 0..400)) {
            let mut pool = pool("100.64.0.0/24");
            let mut taken: Vec<IpAddr> = Vec::new();
            for (give_back, which) in steps {
                if give_back && !taken.is_empty() {
                    let addr = taken.swap_remove(which % taken.len());
                    pool.free(addr);
                } else if let Some(addr) = pool.take() {
                    prop_assert!(!taken.contains(&addr));
                    let below_free = (1..=254_u8).map(|n| IpAddr::from([100, 64, 0, n])).find(|a| !taken.contains(a));
                    prop_assert_eq!(Some(addr), below_free);
                    taken.push(addr);
                } else {
                    prop_assert_eq!(taken.len(), 254);
                }
            }
        }
    }
}
