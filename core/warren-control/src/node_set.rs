//! A set of nodes, small enough to have one per map session: a bit a node.

use warren_wire::NodeId;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet {
    words: Vec<u64>,
}

impl NodeSet {
    /// Whether `node` is in it.
    pub fn contains(&self, node: NodeId) -> bool {
        let (word, bit) = place(node);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Puts `node` into it.
    pub fn insert(&mut self, node: NodeId) {
        let (word, bit) = place(node);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// The members among the 64 nodes from `64 * page` on, a bit each.
    pub(crate) fn page(&self, page: usize) -> u64 {
        self.words.get(page).copied().unwrap_or_default()
    }

    /// How many pages ([`NodeSet::page`]) have members at most.
    pub(crate) fn pages(&self) -> usize {
        self.words.len()
    }

    /// All members in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.words.iter().enumerate().flat_map(|(index, word)| members(index, *word))
    }

    /// Members of this set that are not in `other`, in order.
    pub fn without<'a>(&'a self, other: &'a NodeSet) -> impl Iterator<Item = NodeId> + 'a {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(index, word)| members(index, word & !other.words.get(index).copied().unwrap_or_default()))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = NodeSet::default();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

/// Ids are positive; anything else shares the place of 0, which no node has.
fn place(node: NodeId) -> (usize, u64) {
    let number = usize::try_from(node.0).unwrap_or_default();
    (number / 64, 1 << (number % 64))
}

pub(crate) fn members(index: usize, word: u64) -> impl Iterator<Item = NodeId> {
    (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| NodeId((index * 64 + bit) as i64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(a in prop::collection::btree_set(1_i64..300, 0..40), b in prop::collection::btree_set(1_i64..300, 0..40)) {
            let set = |ids: &BTreeSet<i64>| ids.iter().map(|id| NodeId(*id)).collect::<NodeSet>();
            let ids = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|node| node.0).collect::<Vec<_>>();
            prop_assert_eq!(ids(&mut set(&a).iter()), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ids(&mut set(&a).without(&set(&b))), a.difference(&b).copied().collect::<Vec<_>>());
            prop_assert!((1..300).all(|id| set(&a).contains(NodeId(id)) == a.contains(&id)));
        }
    }
}
