//! Longest-prefix match: a path-compressed binary trie in one arena.
//!
//! Each entry is a node that holds a network; a node's children lie in its two halves, with every bit that they have in
//! common skipped. A lookup therefore touches at most as many nodes as there are nested or branching networks on its
//! way, about log2(n) for a table of hosts. Nodes without a value exist only where two branches part.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::prefix::{Prefix, width};

const NONE: u32 = u32::MAX;

/// Networks to values, asked by address for the longest network that contains it.
///
/// Iterates in the order of [`Prefix`]. The two families share nothing.
#[derive(Clone)]
pub struct PrefixMap<V> {
    v4: Trie<V>,
    v6: Trie<V>,
}

/// A set of networks, asked whether any contains an address.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PrefixSet {
    map: PrefixMap<()>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        PrefixMap::new()
    }
}

impl<V> PrefixMap<V> {
    pub const fn new() -> Self {
        PrefixMap { v4: Trie::new(), v6: Trie::new() }
    }

    /// How many networks have a value.
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the value of `prefix` and returns the one it had.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        self.trie_mut(prefix.addr()).insert(key_of(prefix.addr()), prefix.bits(), value)
    }

    /// Takes the value of exactly `prefix` away.
    pub fn remove(&mut self, prefix: &Prefix) -> Option<V> {
        self.trie_mut(prefix.addr()).remove(key_of(prefix.addr()), prefix.bits())
    }

    /// The value of exactly `prefix`.
    pub fn get(&self, prefix: &Prefix) -> Option<&V> {
        let trie = self.trie(prefix.addr());
        let at = trie.find(key_of(prefix.addr()), prefix.bits())?;
        trie.nodes[at as usize].value.as_ref()
    }

    /// The value of exactly `prefix`, to change.
    pub fn get_mut(&mut self, prefix: &Prefix) -> Option<&mut V> {
        let trie = self.trie_mut(prefix.addr());
        let at = trie.find(key_of(prefix.addr()), prefix.bits())?;
        trie.nodes[at as usize].value.as_mut()
    }

    /// The value of the longest network that contains `addr`.
    pub fn lookup(&self, addr: IpAddr) -> Option<&V> {
        let trie = self.trie(addr);
        let at = trie.longest(key_of(addr), width(addr))?;
        trie.nodes[at as usize].value.as_ref()
    }

    /// Like [`PrefixMap::lookup`], with the network that matched.
    pub fn lookup_entry(&self, addr: IpAddr) -> Option<(Prefix, &V)> {
        let trie = self.trie(addr);
        let node = &trie.nodes[trie.longest(key_of(addr), width(addr))? as usize];
        node.value.as_ref().map(|value| (prefix_of(addr.is_ipv4(), node), value))
    }

    /// All entries in the order of [`Prefix`].
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        let v4 = self.v4.walk().map(|node| (true, node));
        let v6 = self.v6.walk().map(|node| (false, node));
        v4.chain(v6).filter_map(|(is_v4, node)| node.value.as_ref().map(|value| (prefix_of(is_v4, node), value)))
    }

    fn trie(&self, addr: IpAddr) -> &Trie<V> {
        if addr.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn trie_mut(&mut self, addr: IpAddr) -> &mut Trie<V> {
        if addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

impl<V> FromIterator<(Prefix, V)> for PrefixMap<V> {
    /// A later value for the same network replaces an earlier one.
    fn from_iter<I: IntoIterator<Item = (Prefix, V)>>(entries: I) -> Self {
        let mut map = PrefixMap::new();
        for (prefix, value) in entries {
            map.insert(prefix, value);
        }
        map
    }
}

impl<V: PartialEq> PartialEq for PrefixMap<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for PrefixMap<V> {}

impl<V: fmt::Debug> fmt::Debug for PrefixMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PrefixSet {
    pub const fn new() -> Self {
        PrefixSet { map: PrefixMap::new() }
    }

    /// Whether the network was new.
    pub fn insert(&mut self, prefix: Prefix) -> bool {
        self.map.insert(prefix, ()).is_none()
    }

    /// Whether the network was there.
    pub fn remove(&mut self, prefix: &Prefix) -> bool {
        self.map.remove(prefix).is_some()
    }

    /// Whether some network of the set contains `addr`.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.map.lookup(addr).is_some()
    }

    /// Whether exactly this network is in the set.
    pub fn contains_prefix(&self, prefix: &Prefix) -> bool {
        self.map.get(prefix).is_some()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The networks in order.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.map.iter().map(|(prefix, ())| prefix)
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        PrefixSet { map: prefixes.into_iter().map(|prefix| (prefix, ())).collect() }
    }
}

impl fmt::Debug for PrefixSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The address with its first bit at the top of the word, whatever its family.
fn key_of(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn prefix_of<V>(is_v4: bool, node: &Node<V>) -> Prefix {
    let addr = if is_v4 {
        IpAddr::V4(Ipv4Addr::from_bits((node.key >> 96) as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(node.key))
    };
    Prefix::masked(addr, node.bits).expect("node lengths come from prefixes of this family")
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// Bit `at` of `key`, counted from the top; `at` is below 128.
fn bit(key: u128, at: u8) -> usize {
    ((key >> (127 - u32::from(at))) & 1) as usize
}

#[derive(Clone)]
struct Node<V> {
    key: u128,
    bits: u8,
    value: Option<V>,
    child: [u32; 2],
}

#[derive(Clone)]
struct Trie<V> {
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    root: u32,
    len: usize,
}

impl<V> Trie<V> {
    const fn new() -> Self {
        Trie { nodes: Vec::new(), free: Vec::new(), root: NONE, len: 0 }
    }

    fn longest(&self, key: u128, width: u8) -> Option<u32> {
        let mut best = None;
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if (key ^ node.key) & mask(node.bits) != 0 {
                break;
            }
            if node.value.is_some() {
                best = Some(at);
            }
            if node.bits == width {
                break;
            }
            at = node.child[bit(key, node.bits)];
        }
        best
    }

    fn find(&self, key: u128, bits: u8) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.bits > bits || (key ^ node.key) & mask(node.bits) != 0 {
                return None;
            }
            if node.bits == bits {
                return Some(at);
            }
            at = node.child[bit(key, node.bits)];
        }
        None
    }

    fn insert(&mut self, key: u128, bits: u8, value: V) -> Option<V> {
        // `link` names the edge that we came by: the parent and the side, or the root.
        let mut link: Option<(u32, usize)> = None;
        let mut at = self.root;
        loop {
            if at == NONE {
                let leaf = self.alloc(key, bits, Some(value));
                self.relink(link, leaf);
                self.len += 1;
                return None;
            }
            let node = &mut self.nodes[at as usize];
            let common = ((key ^ node.key).leading_zeros() as u8).min(bits).min(node.bits);
            if common == node.bits && common == bits {
                let old = node.value.replace(value);
                self.len += usize::from(old.is_none());
                return old;
            }
            if common == node.bits {
                let side = bit(key, node.bits);
                link = Some((at, side));
                at = node.child[side];
                continue;
            }
            let below = bit(node.key, common);
            let new = if common == bits {
                let new = self.alloc(key, bits, Some(value));
                self.nodes[new as usize].child[below] = at;
                new
            } else {
                let leaf = self.alloc(key, bits, Some(value));
                let fork = self.alloc(key & mask(common), common, None);
                self.nodes[fork as usize].child[below] = at;
                self.nodes[fork as usize].child[1 - below] = leaf;
                fork
            };
            self.relink(link, new);
            self.len += 1;
            return None;
        }
    }

    fn remove(&mut self, key: u128, bits: u8) -> Option<V> {
        let mut path: Vec<(u32, usize)> = Vec::new();
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.bits > bits || (key ^ node.key) & mask(node.bits) != 0 {
                return None;
            }
            if node.bits == bits {
                break;
            }
            let side = bit(key, node.bits);
            path.push((at, side));
            at = node.child[side];
        }
        let value = self.nodes.get_mut(at as usize)?.value.take()?;
        self.len -= 1;
        // A node without value stays only while two branches part at it.
        loop {
            let node = &self.nodes[at as usize];
            let only = match (node.value.is_some(), node.child) {
                (true, _) => break,
                (false, [NONE, child]) | (false, [child, NONE]) => child,
                (false, _) => break,
            };
            self.free.push(at);
            let up = path.pop();
            self.relink(up, only);
            match up {
                Some((parent, _)) => at = parent,
                None => break,
            }
        }
        Some(value)
    }

    fn relink(&mut self, link: Option<(u32, usize)>, to: u32) {
        match link {
            None => self.root = to,
            Some((parent, side)) => self.nodes[parent as usize].child[side] = to,
        }
    }

    fn alloc(&mut self, key: u128, bits: u8, value: Option<V>) -> u32 {
        let node = Node { key, bits, value, child: [NONE, NONE] };
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        let at = u32::try_from(self.nodes.len()).expect("fewer than four billion networks");
        self.nodes.push(node);
        at
    }

    /// Nodes in order: a network before its halves, the lower half first.
    fn walk(&self) -> impl Iterator<Item = &Node<V>> {
        let mut stack: Vec<u32> = Vec::new();
        if self.root != NONE {
            stack.push(self.root);
        }
        std::iter::from_fn(move || {
            let node = &self.nodes[stack.pop()? as usize];
            for child in [node.child[1], node.child[0]] {
                if child != NONE {
                    stack.push(child);
                }
            }
            Some(node)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_network_wins_and_its_absence_uncovers_the_shorter() {
        let mut map: PrefixMap<&str> =
            [(prefix("0.0.0.0/0"), "all"), (prefix("10.0.0.0/8"), "ten"), (prefix("10.1.0.0/16"), "ten-one")]
                .into_iter()
                .collect();
        assert_eq!(map.lookup(addr("10.1.2.3")), Some(&"ten-one"));
        assert_eq!(map.lookup(addr("10.2.2.3")), Some(&"ten"));
        assert_eq!(map.lookup(addr("11.2.2.3")), Some(&"all"));
        assert_eq!(map.lookup(addr("::1")), None);
        assert_eq!(map.remove(&prefix("10.1.0.0/16")), Some("ten-one"));
        assert_eq!(map.lookup(addr("10.1.2.3")), Some(&"ten"));
        assert_eq!(map.lookup_entry(addr("10.1.2.3")), Some((prefix("10.0.0.0/8"), &"ten")));
    }

    /// Few distinct bits, so that networks nest and collide often.
    fn some_prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (any::<[bool; 4]>(), 0u8..=32).prop_map(|(bits, len)| {
            let word = bits.iter().enumerate().fold(0u32, |word, (i, set)| word | (u32::from(*set) << (31 - i * 9)));
            Prefix::masked(IpAddr::V4(Ipv4Addr::from_bits(word)), len).expect("length fits")
        });
        let v6 = (any::<[bool; 4]>(), 0u8..=128).prop_map(|(bits, len)| {
            let word =
                bits.iter().enumerate().fold(0u128, |word, (i, set)| word | (u128::from(*set) << (127 - i * 40)));
            Prefix::masked(IpAddr::V6(Ipv6Addr::from_bits(word)), len).expect("length fits")
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_answers_as_a_plain_list_would(
            steps in proptest::collection::vec((any::<bool>(), some_prefix(), any::<u16>()), 0..80),
            asked in proptest::collection::vec(some_prefix(), 0..40),
        ) {
            let mut map = PrefixMap::new();
            let mut model = BTreeMap::new();
            for (add, prefix, value) in steps {
                if add {
                    prop_assert_eq!(map.insert(prefix, value), model.insert(prefix, value));
                } else {
                    prop_assert_eq!(map.remove(&prefix), model.remove(&prefix));
                }
                prop_assert_eq!(map.len(), model.len());
            }
            prop_assert!(map.iter().eq(model.iter().map(|(prefix, value)| (*prefix, value))));
            for prefix in asked {
                let expected = model.iter().filter(|(net, _)| net.contains(prefix.addr())).max_by_key(|(net, _)| net.bits());
                prop_assert_eq!(map.lookup(prefix.addr()), expected.map(|(_, value)| value));
                prop_assert_eq!(map.get(&prefix), model.get(&prefix));
            }
        }

        #[test]
        fn emptying_it_gives_every_node_back(prefixes in proptest::collection::vec(some_prefix(), 0..60)) {
            let mut map: PrefixMap<()> = prefixes.iter().map(|prefix| (*prefix, ())).collect();
            for prefix in &prefixes {
                map.remove(prefix);
            }
            for trie in [&map.v4, &map.v6] {
                prop_assert_eq!(trie.root, NONE);
                prop_assert_eq!(trie.free.len(), trie.nodes.len());
            }
        }
    }
}
