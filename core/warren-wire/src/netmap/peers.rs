//! What a message says of peers, whoever keeps them.
//!
//! A node keeps its peers in its [`super::NetMap`]. Whoever folds thousands of maps that show the same peers (a
//! generator of load) can keep each record once: it keeps them in a [`PeerStore`] of its own, and the order of
//! application is the same because it is here.

use std::collections::BTreeMap;

use warren_crypto::UnixTime;

use crate::{Node, NodeId, PeerChange};

/// Where the peers of one map are kept. `P` is what it takes for a whole record.
pub trait PeerStore<P> {
    /// Forgets all.
    fn clear(&mut self);
    /// Adds a peer, or replaces the one with its id.
    fn put(&mut self, peer: P);
    /// Whether there was one.
    fn remove(&mut self, id: NodeId) -> bool;
    /// Changes one. Whether there is one.
    fn edit(&mut self, id: NodeId, edit: PeerEdit<'_>) -> bool;
}

/// What one message says of peers. Whole records are normalised ([`Node::normalise`]), and the map's own node is not
/// among them.
#[derive(Clone, Debug)]
pub struct PeerNews<'a, P> {
    /// `put` are all that there are, and nothing else is said.
    pub is_whole: bool,
    /// Whole records.
    pub put: Vec<P>,
    /// Removed before any is put.
    pub removed: &'a [NodeId],
    /// As in the message.
    pub seen: &'a BTreeMap<NodeId, bool>,
    /// As in the message.
    pub online: &'a BTreeMap<NodeId, bool>,
    /// As in the message.
    pub patches: Vec<&'a PeerChange>,
}

/// A change of one peer's record.
#[derive(Clone, Copy, Debug)]
pub enum PeerEdit<'a> {
    /// When it was last seen, or that this is unknown.
    Seen(Option<UnixTime>),
    /// Whether it is there.
    Online(bool),
    /// Several at once.
    Patch(&'a PeerChange),
}

/// Applies what a message says of peers, in the order that the protocol lays down (control-protocol.md §7.2). Whether
/// it said anything.
pub fn fold_peers<P>(peers: &mut impl PeerStore<P>, news: PeerNews<'_, P>, now: UnixTime) -> bool {
    let mut any = news.is_whole || !news.put.is_empty();
    if news.is_whole {
        peers.clear();
        news.put.into_iter().for_each(|peer| peers.put(peer));
        return true;
    }
    for id in news.removed {
        any |= peers.remove(*id);
    }
    news.put.into_iter().for_each(|peer| peers.put(peer));
    for (id, seen) in news.seen {
        any |= peers.edit(*id, PeerEdit::Seen(seen.then_some(now)));
    }
    for (id, online) in news.online {
        any |= peers.edit(*id, PeerEdit::Online(*online));
    }
    for patch in news.patches {
        any |= peers.edit(patch.node_id, PeerEdit::Patch(patch));
    }
    any
}

impl PeerStore<Node> for BTreeMap<NodeId, Node> {
    fn clear(&mut self) {
        BTreeMap::clear(self);
    }

    fn put(&mut self, peer: Node) {
        self.insert(peer.id, peer);
    }

    fn remove(&mut self, id: NodeId) -> bool {
        BTreeMap::remove(self, &id).is_some()
    }

    fn edit(&mut self, id: NodeId, edit: PeerEdit<'_>) -> bool {
        let node = self.get_mut(&id);
        node.map(|node| edit.apply(node)).is_some()
    }
}

impl PeerEdit<'_> {
    /// Makes the change to a record.
    pub fn apply(self, node: &mut Node) {
        match self {
            Self::Seen(at) => node.last_seen = at,
            Self::Online(is_online) => node.online = Some(is_online),
            Self::Patch(patch) => apply(node, patch),
        }
    }
}

fn apply(node: &mut Node, patch: &PeerChange) {
    let PeerChange {
        node_id: _,
        derp_region,
        cap,
        cap_map,
        endpoints,
        key,
        key_signature,
        disco_key,
        online,
        last_seen,
        key_expiry,
    } = patch;
    node.home_derp = derp_region.or(node.home_derp);
    if cap.0 != 0 {
        node.cap = *cap;
    }
    if let Some(cap_map) = cap_map {
        node.cap_map.clone_from(cap_map);
    }
    if let Some(endpoints) = endpoints {
        node.endpoints.clone_from(endpoints);
    }
    node.key = key.unwrap_or(node.key);
    if !key_signature.is_empty() {
        node.key_signature.clone_from(key_signature);
    }
    node.disco_key = disco_key.or(node.disco_key);
    node.online = online.or(node.online);
    node.last_seen = last_seen.or(node.last_seen);
    node.key_expiry = key_expiry.unwrap_or(node.key_expiry);
}
