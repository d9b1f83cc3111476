//! Our indices: random, so that they say nothing about us, and unique among handshakes and key pairs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use warren_crypto::Random;

/// Index to the slot of the peer that it belongs to.
#[derive(Debug, Default)]
pub(crate) struct IndexTable(BTreeMap<u32, usize>);

impl IndexTable {
    pub(crate) fn allocate(&mut self, peer: usize, random: &mut Random) -> u32 {
        loop {
            let index = random.u32();
            if let Entry::Vacant(free) = self.0.entry(index) {
                free.insert(peer);
                return index;
            }
        }
    }

    pub(crate) fn release(&mut self, index: u32) {
        self.0.remove(&index);
    }

    pub(crate) fn peer(&self, index: u32) -> Option<usize> {
        self.0.get(&index).copied()
    }
}
