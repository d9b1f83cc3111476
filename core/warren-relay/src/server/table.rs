//! Which connections a key has, which of them is active, and who wants to know when the key leaves.

use std::collections::{BTreeMap, BTreeSet};

use warren_crypto::NodePublic;

use super::ConnId;

#[derive(Default)]
pub(super) struct KeyTable {
    keys: BTreeMap<NodePublic, Entry>,
    /// By key: the keys that got packets from it.
    watchers: BTreeMap<NodePublic, BTreeSet<NodePublic>>,
    connections: usize,
}

/// Connections of one key, in the order in which they were last heard of: the last one is active.
#[derive(Default)]
struct Entry {
    order: Vec<ConnId>,
}

impl KeyTable {
    /// A new connection is active at once: a node that dials again has lost the old one, whatever the old one thinks.
    pub(super) fn add(&mut self, key: NodePublic, conn: ConnId) {
        self.keys.entry(key).or_default().order.push(conn);
        self.connections += 1;
    }

    /// Of several connections of one key the one that sent last is active.
    pub(super) fn heard(&mut self, key: &NodePublic, conn: ConnId) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        if entry.order.len() > 1 && entry.order.last() != Some(&conn) {
            entry.order.retain(|other| *other != conn);
            entry.order.push(conn);
        }
    }

    pub(super) fn active(&self, key: &NodePublic) -> Option<ConnId> {
        self.keys.get(key)?.order.last().copied()
    }

    /// Whether it was the key's last connection.
    pub(super) fn remove(&mut self, key: &NodePublic, conn: ConnId) -> bool {
        let Some(entry) = self.keys.get_mut(key) else { return false };
        let before = entry.order.len();
        entry.order.retain(|other| *other != conn);
        self.connections -= before - entry.order.len();
        if entry.order.is_empty() {
            self.keys.remove(key);
            return true;
        }
        false
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// `watcher` got a packet from `sender`.
    pub(super) fn watch(&mut self, sender: NodePublic, watcher: NodePublic) {
        self.watchers.entry(sender).or_default().insert(watcher);
    }

    pub(super) fn unwatch(&mut self, sender: &NodePublic, watcher: &NodePublic) {
        if let Some(set) = self.watchers.get_mut(sender) {
            set.remove(watcher);
            if set.is_empty() {
                self.watchers.remove(sender);
            }
        }
    }

    pub(super) fn take_watchers(&mut self, sender: &NodePublic) -> BTreeSet<NodePublic> {
        self.watchers.remove(sender).unwrap_or_default()
    }
}
