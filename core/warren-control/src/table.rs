//! A map whose copies share what they have in common.
//!
//! A snapshot of ten thousand nodes must not cost ten thousand copies, and a change to one node must cost about one
//! node. So a [`Table`] is a small map of pages, each behind an [`Arc`]: cloning a table clones one pointer, writing
//! copies the page written and the list of pages.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use warren_crypto::{MachinePublic, NodePublic};
use warren_wire::{NodeId, UserId};

/// A key that knows which page it lives on. Keys in order must have pages in order for [`Table::iter`] to be sorted.
pub trait Paged: Ord + Clone {
    /// The number of the page.
    fn page(&self) -> u64;
}

/// 64 numbered rows on a page: a page copies in well under a microsecond and 10,000 rows need 157 pages.
const ROWS_PER_PAGE_SHIFT: u32 = 6;

fn page_of_number(number: i64) -> u64 {
    // Ids are positive; a negative one (never made by us) still gets a page, only out of order.
    (number >> ROWS_PER_PAGE_SHIFT) as u64
}

impl Paged for NodeId {
    fn page(&self) -> u64 {
        page_of_number(self.0)
    }
}

impl Paged for UserId {
    fn page(&self) -> u64 {
        page_of_number(self.0)
    }
}

impl Paged for crate::rows::KeyId {
    fn page(&self) -> u64 {
        page_of_number(self.0)
    }
}

impl Paged for crate::rows::ServiceId {
    fn page(&self) -> u64 {
        page_of_number(self.0)
    }
}

impl Paged for crate::rows::ApiKeyId {
    fn page(&self) -> u64 {
        page_of_number(self.0)
    }
}

impl Paged for NodePublic {
    fn page(&self) -> u64 {
        u64::from(self.as_bytes()[0])
    }
}

impl Paged for MachinePublic {
    fn page(&self) -> u64 {
        u64::from(self.as_bytes()[0])
    }
}

/// Text is spread by a small hash (FNV-1a), because names of devices share their beginnings. A table over text is
/// therefore not iterated in the order of its keys.
impl Paged for String {
    fn page(&self) -> u64 {
        let hash = self
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (hash >> 32) & 0xff
    }
}

type Page<K, V> = Arc<BTreeMap<K, V>>;

/// An ordered map with cheap copies; see the module.
#[derive(Debug)]
pub struct Table<K, V> {
    pages: Arc<BTreeMap<u64, Page<K, V>>>,
    len: usize,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { pages: Arc::clone(&self.pages), len: self.len }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { pages: Arc::default(), len: 0 }
    }
}

impl<K: Paged, V: Clone> Table<K, V> {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.pages.get(&key.page())?.get::<K>(key.borrow())
    }

    /// Whether `key` has a row.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Writes a row and returns the one that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(pages.entry(key.page()).or_default());
        let old = page.insert(key, value);
        if old.is_none() {
            self.len += 1;
        }
        old
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if !self.contains(key) {
            return None;
        }
        let number = key.page();
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(pages.get_mut(&number)?);
        let old = page.remove(key)?;
        if page.is_empty() {
            pages.remove(&number);
        }
        self.len -= 1;
        Some(old)
    }

    /// The rows of one page, in order.
    pub(crate) fn page(&self, number: u64) -> impl Iterator<Item = (&K, &V)> {
        self.pages.get(&number).into_iter().flat_map(|page| page.iter())
    }

    /// All rows; in the order of their keys where pages are (ids and public keys).
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pages.values().flat_map(|page| page.iter())
    }

    /// All values, in the order of [`Table::iter`].
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_writes_and_shares_untouched_pages() {
        let mut table = Table::default();
        for id in 1..=1000 {
            table.insert(NodeId(id), id);
        }
        let copy = table.clone();
        table.insert(NodeId(5), -5);
        table.remove(&NodeId(6));
        assert_eq!((copy.get(&NodeId(5)), copy.get(&NodeId(6))), (Some(&5), Some(&6)));
        assert_eq!((table.get(&NodeId(5)), table.get(&NodeId(6)), table.len()), (Some(&-5), None, 999));
        let shared = copy.pages.iter().filter(|(n, page)| Arc::ptr_eq(page, &table.pages[n])).count();
        assert_eq!(shared, copy.pages.len() - 1);
    }

    #[test]
    fn rows_come_in_the_order_of_their_ids() {
        let mut table = Table::default();
        for id in [700, 3, 64, 63, 65, 1] {
            table.insert(NodeId(id), ());
        }
        let ids: Vec<i64> = table.iter().map(|(id, ())| id.0).collect();
        assert_eq!(ids, [1, 3, 63, 64, 65, 700]);
    }

    #[test]
    fn an_emptied_page_is_gone() {
        let mut table = Table::default();
        table.insert(NodeId(1), ());
        assert_eq!(table.insert(NodeId(1), ()), Some(()));
        table.remove(&NodeId(1));
        assert!(table.len() == 0 && table.pages.is_empty());
        assert_eq!(table.remove(&NodeId(1)), None);
    }
}
