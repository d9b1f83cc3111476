//! Equal records of peers, kept once: a thousand maps that show the same thousand nodes are a million places, and as
//! many distinct records as there were changes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::value::RawValue;
use warren_wire::netmap::{PeerEdit, PeerStore};
use warren_wire::{Node, NodeId, PeerChange};

/// A peer's record as some map shows it.
#[derive(Debug)]
pub struct Peer {
    pub node: Node,
    /// Of all that it says but `last_seen`, which is the server's clock.
    pub hash: u64,
    /// Distinct while the shelf lives.
    number: u64,
}

/// See the module.
#[derive(Default)]
pub struct Shelf {
    records: RwLock<HashMap<Box<str>, Arc<Peer>>>,
    patches: RwLock<HashMap<Box<str>, Arc<PeerChange>>>,
    /// By the record before and what was changed.
    edited: RwLock<HashMap<(u64, Change), Arc<Peer>>>,
    next: std::sync::atomic::AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Change {
    Seen(bool),
    Online(bool),
    /// Where a patch of the shelf lies, which keeps it for ever.
    Patch(usize),
}

/// What of a record all who see it must agree on.
pub fn hash_of(node: &Node) -> u64 {
    let mut node = node.clone();
    node.last_seen = None;
    let mut hasher = DefaultHasher::new();
    // Plain data without maps of random order.
    serde_json::to_vec(&node).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

impl Shelf {
    /// A whole record, read when it is seen for the first time.
    pub fn record(&self, text: &RawValue) -> Result<Arc<Peer>, serde_json::Error> {
        if let Some(known) = read(&self.records).get(text.get()) {
            return Ok(Arc::clone(known));
        }
        let mut node: Node = serde_json::from_str(text.get())?;
        node.normalise();
        let peer = self.new_peer(node);
        Ok(Arc::clone(write(&self.records).entry(text.get().into()).or_insert(peer)))
    }

    /// A patch, likewise.
    pub fn patch(&self, text: &RawValue) -> Result<Arc<PeerChange>, serde_json::Error> {
        if let Some(known) = read(&self.patches).get(text.get()) {
            return Ok(Arc::clone(known));
        }
        let patch = Arc::new(serde_json::from_str(text.get())?);
        Ok(Arc::clone(write(&self.patches).entry(text.get().into()).or_insert(patch)))
    }

    fn edited(&self, before: &Peer, edit: PeerEdit<'_>) -> Arc<Peer> {
        let change = match edit {
            PeerEdit::Seen(at) => Change::Seen(at.is_some()),
            PeerEdit::Online(is_online) => Change::Online(is_online),
            PeerEdit::Patch(patch) => Change::Patch(std::ptr::from_ref(patch).addr()),
        };
        if let Some(known) = read(&self.edited).get(&(before.number, change)) {
            return Arc::clone(known);
        }
        let mut node = before.node.clone();
        edit.apply(&mut node);
        let peer = self.new_peer(node);
        Arc::clone(write(&self.edited).entry((before.number, change)).or_insert(peer))
    }

    fn new_peer(&self, node: Node) -> Arc<Peer> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(Peer { hash: hash_of(&node), node, number })
    }
}

/// The peers in one client's map.
pub struct Held {
    shelf: Arc<Shelf>,
    peers: BTreeMap<NodeId, Arc<Peer>>,
    /// Of the hashes of all peers, wrapping: equal for equal sets.
    pub sum: u64,
}

impl Held {
    pub fn new(shelf: &Arc<Shelf>) -> Self {
        Self { shelf: Arc::clone(shelf), peers: BTreeMap::new(), sum: 0 }
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// In order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.peers.values().map(|peer| &peer.node)
    }
}

impl PeerStore<Arc<Peer>> for Held {
    fn clear(&mut self) {
        self.peers.clear();
        self.sum = 0;
    }

    fn put(&mut self, peer: Arc<Peer>) {
        self.sum = self.sum.wrapping_add(peer.hash);
        if let Some(before) = self.peers.insert(peer.node.id, peer) {
            self.sum = self.sum.wrapping_sub(before.hash);
        }
    }

    fn remove(&mut self, id: NodeId) -> bool {
        let Some(before) = self.peers.remove(&id) else { return false };
        self.sum = self.sum.wrapping_sub(before.hash);
        true
    }

    fn edit(&mut self, id: NodeId, edit: PeerEdit<'_>) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let after = self.shelf.edited(peer, edit);
        self.sum = self.sum.wrapping_sub(peer.hash).wrapping_add(after.hash);
        *peer = after;
        true
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
