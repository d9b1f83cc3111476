//! Records as they are shown, written once for all who see them.
//!
//! ```text
//! record ── written when it changes ──▶ text ──┬─▶ into a delta, or into a map that shows some of its page
//!                                              └─▶ page of 64 ── written when first asked for ──▶ whole maps
//! ```

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use warren_wire::{Node as WireNode, NodeId, UserId, Written};

use crate::node_set::members;
use crate::table::{Paged as _, Table};

/// A node as its peers see it.
#[derive(Debug)]
pub(crate) struct Shown {
    node: WireNode,
    pub(crate) text: Arc<Written>,
}

impl Shown {
    /// `None`: JSON cannot say it, so it is shown to nobody.
    pub(crate) fn new(mut node: WireNode) -> Option<Arc<Self>> {
        node.normalise();
        let text = Arc::new(Written::member(&node).ok()?);
        Some(Arc::new(Self { node, text }))
    }
}

impl Deref for Shown {
    type Target = WireNode;

    fn deref(&self) -> &WireNode {
        &self.node
    }
}

/// All records.
pub(crate) type Records = Table<NodeId, Arc<Shown>>;

/// The records of 64 nodes that follow each other.
#[derive(Debug)]
pub(crate) struct Page {
    /// A bit each.
    pub(crate) members: u64,
    /// Distinct, in order.
    pub(crate) owners: Vec<UserId>,
    records: Vec<Arc<Shown>>,
    text: OnceLock<Option<Arc<Written>>>,
}

impl Page {
    /// All of them, one after the other.
    pub(crate) fn text(&self) -> Option<&Arc<Written>> {
        let write = || Written::page(self.records.iter().map(|record| &*record.text)).map(Arc::new);
        self.text.get_or_init(write).as_ref()
    }
}

/// All pages that have records, by the number that is theirs in a set of nodes, too. Copies share what is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(Arc<BTreeMap<usize, Arc<Page>>>);

impl Pages {
    pub(crate) fn of(records: &Records) -> Self {
        let mut pages = Self::default();
        pages.renew(records, records.iter().map(|(node, _)| *node));
        pages
    }

    /// Takes the records of these nodes anew, with those beside them.
    pub(crate) fn renew(&mut self, records: &Records, nodes: impl Iterator<Item = NodeId>) {
        let mut numbers: Vec<u64> = nodes.map(|node| node.page()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let Ok(place) = usize::try_from(number) else { continue };
            let there: Vec<Arc<Shown>> = records.page(number).map(|(_, record)| Arc::clone(record)).collect();
            let pages = Arc::make_mut(&mut self.0);
            if there.is_empty() {
                pages.remove(&place);
                continue;
            }
            let mut owners: Vec<UserId> = there.iter().map(|record| record.user).collect();
            owners.sort_unstable();
            owners.dedup();
            let members = there.iter().fold(0, |bits, record| bits | 1_u64 << (record.id.0 & 63));
            pages.insert(place, Arc::new(Page { members, owners, records: there, text: OnceLock::new() }));
        }
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Arc<Page>> {
        self.0.get(&number)
    }
}

/// Some nodes of a page.
pub(crate) fn nodes_of(page: usize, bits: u64) -> impl Iterator<Item = NodeId> {
    members(page, bits)
}
