//! Whose disco keys we know, and the shared key with each, worked out once.

use std::collections::{BTreeMap, BTreeSet};

use warren_crypto::{DiscoPublic, DiscoSecret, NodePublic, SharedBox};

/// Disco key → the nodes that use it (several: a shared node, a switched account) and the box that we share with it.
#[derive(Default)]
pub(crate) struct DiscoKeys {
    owners: BTreeMap<DiscoPublic, BTreeSet<NodePublic>>,
    /// `None` for a hostile key. Only for keys that have an owner, so it is as bounded as the map.
    boxes: BTreeMap<DiscoPublic, Option<SharedBox>>,
}

impl DiscoKeys {
    pub fn add(&mut self, key: DiscoPublic, owner: NodePublic) {
        self.owners.entry(key).or_default().insert(owner);
    }

    pub fn remove(&mut self, key: &DiscoPublic, owner: &NodePublic) {
        if let Some(owners) = self.owners.get_mut(key) {
            owners.remove(owner);
            if owners.is_empty() {
                self.owners.remove(key);
                self.boxes.remove(key);
            }
        }
    }

    /// The nodes that use this key.
    pub fn owners(&self, key: &DiscoPublic) -> Vec<NodePublic> {
        self.owners.get(key).map(|owners| owners.iter().copied().collect()).unwrap_or_default()
    }

    /// The box shared with a key that has an owner; `None` also for a hostile key.
    pub fn shared(&mut self, own: &DiscoSecret, key: &DiscoPublic) -> Option<&SharedBox> {
        if !self.owners.contains_key(key) {
            return None;
        }
        self.boxes.entry(*key).or_insert_with(|| SharedBox::disco(own, key)).as_ref()
    }

    /// Our own key is another one: every shared key is stale.
    pub fn forget_boxes(&mut self) {
        self.boxes.clear();
    }
}
