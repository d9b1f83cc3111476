//! One map stream: what it has sent, and what it must send next.
//!
//! A session does not keep a copy of the map. It keeps the number of the picture it has sent and the set of nodes that
//! were visible in it; what changed since is in the pictures' turns, which all sessions share. Law, tested: folding
//! what a session sends gives [`Snapshot::netmap_for`], as far as the protocol can say it.
//!
//! ```text
//! new ──next──▶ whole map ──next──▶ delta | nothing ──…──▶ Gone
//!                   ▲                    │
//!                   └── too far behind ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use warren_crypto::{NodePublic, UnixTime};
use warren_wire::netmap::{NetMap, diff, full};
use warren_wire::ssh::SshPolicy;
use warren_wire::{
    CapabilityVersion, Debug as WireDebug, DnsConfig, FilterRule, MapResponse, Node as WireNode, NodeId, RelayMap,
    UserId,
};

use crate::extra::Extra;
use crate::health::{self, Messages};
use crate::node_set::NodeSet;
use crate::snapshot::{MapError, Snapshot, Touched, filters};

/// See the module.
#[derive(Debug)]
pub struct Session {
    node: NodeId,
    key: NodePublic,
    version: CapabilityVersion,
    sent: Option<Sent>,
}

/// What the client holds, as far as it is needed to find what changed.
#[derive(Debug)]
struct Sent {
    seq: u64,
    reach_seq: u64,
    visible: Arc<NodeSet>,
    /// The record that `me` was made of.
    record: Option<Arc<WireNode>>,
    me: Arc<WireNode>,
    rules: Arc<Vec<FilterRule>>,
    relay_map: Arc<RelayMap>,
    /// What `dns` was made of.
    base_dns: Arc<DnsConfig>,
    dns: Arc<DnsConfig>,
    serving_seq: u64,
    /// What is shown of peers beside their records.
    extras: Arc<BTreeMap<NodeId, Extra>>,
    ssh: Option<SshPolicy>,
    messages: Messages,
}

/// What to do for a stream now.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Map(Box<MapResponse>),
    /// Nothing changed that this node sees.
    Nothing,
    /// Send this and end the stream: the node was removed, and is told that its key has ended.
    Last(Box<MapResponse>),
    /// End the stream: the node has another key now, or was gone before anything was sent. The client registers or polls
    /// again.
    Gone,
    /// The map cannot be made; the client keeps what it has, and may be told so. Someone should look.
    Failed(MapError, Option<Box<MapResponse>>),
}

impl Session {
    /// A stream that has sent nothing. `key` and `version` are those of its map request.
    pub fn new(node: NodeId, key: NodePublic, version: CapabilityVersion) -> Self {
        Self { node, key, version, sent: None }
    }

    /// Whose stream it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What to send so that the client holds what `snapshot` shows. A picture that is not newer than the last
    /// says nothing. Each call counts as sent, so a message that cannot be delivered ends the stream.
    pub fn next(&mut self, snapshot: &Snapshot, wall: UnixTime) -> Next {
        match snapshot.registry().node(self.node) {
            Some(node) if node.node_key == self.key => {}
            Some(_) => return Next::Gone,
            None => return self.sent.take().map_or(Next::Gone, |sent| Next::Last(Box::new(removed(&sent, wall)))),
        }
        let known = self.sent.as_ref().and_then(|sent| sent.same_me(snapshot, self.node));
        let me = match known.map_or_else(|| snapshot.self_record(self.node), Ok) {
            Ok(me) => me,
            Err(error) => return Next::Failed(error, self.say_that_it_failed()),
        };
        let response = match self.sent.take() {
            Some(sent) if sent.seq >= snapshot.seq => {
                self.sent = Some(sent);
                return Next::Nothing;
            }
            Some(sent) => match changes_since(snapshot, sent.seq) {
                Some(changes) => self.delta(snapshot, sent, me, &changes),
                None => self.whole(snapshot, Some(&sent), me),
            },
            None => self.whole(snapshot, None, me),
        };
        match response {
            Some(mut response) => {
                response.control_time = Some(wall);
                Next::Map(Box::new(response))
            }
            None => Next::Nothing,
        }
    }

    fn whole(&mut self, snapshot: &Snapshot, before: Option<&Sent>, me: Arc<WireNode>) -> Option<MapResponse> {
        let map = snapshot.netmap_for(self.node).ok()?; // the one error was ruled out with `me`
        let mut response = full(&map, self.version);
        // Nothing of the client's goes to its vendor from a private server (trap 68).
        response.debug = Some(WireDebug { disable_log_tail: true, ..WireDebug::default() });
        if let Some(before) = before {
            self.take_back(before, &mut response);
        }
        self.sent = Some(Sent {
            seq: snapshot.seq,
            reach_seq: snapshot.reach_seq,
            visible: snapshot.visible_to(self.node),
            record: snapshot.records.get(&self.node).cloned(),
            me,
            rules: snapshot.filter_of(self.node),
            relay_map: Arc::clone(&snapshot.relay_map),
            base_dns: Arc::clone(&snapshot.dns),
            dns: snapshot.dns_for(self.node),
            ssh: snapshot.ssh_policy_for(self.node),
            serving_seq: snapshot.serving_seq,
            extras: Arc::new(snapshot.extras_for(self.node, &snapshot.visible_to(self.node))),
            messages: snapshot.messages_for(self.node),
        });
        Some(response)
    }

    /// A client that holds a map takes what a whole one leaves out as "unchanged": so what it must not keep is named.
    fn take_back(&self, before: &Sent, response: &mut MapResponse) {
        if response.peers.is_empty() {
            // Neither does an empty list of peers say anything (trap 32).
            response.peers_removed = before.visible.iter().filter(|peer| *peer != self.node).collect();
        }
        response.ssh_policy.get_or_insert_default();
        if self.version < CapabilityVersion::DISPLAY_MESSAGES {
            response.health.get_or_insert_default();
        } else {
            response.display_messages.insert("*".to_owned(), None);
        }
    }

    /// Cuts both maps down to what may differ and lets the protocol crate find the words.
    fn delta(&mut self, snapshot: &Snapshot, sent: Sent, me: Arc<WireNode>, changes: &Changes) -> Option<MapResponse> {
        // Beside the base it is made of what the node says of itself, and of what the policy gives it.
        let same_dns = Arc::ptr_eq(&sent.base_dns, &snapshot.dns)
            && sent.reach_seq == snapshot.reach_seq
            && Arc::ptr_eq(&sent.me, &me);
        let mut now = Sent {
            seq: snapshot.seq,
            reach_seq: snapshot.reach_seq,
            record: snapshot.records.get(&self.node).cloned(),
            me: if *me == *sent.me { Arc::clone(&sent.me) } else { me },
            relay_map: Arc::clone(&snapshot.relay_map),
            base_dns: Arc::clone(&snapshot.dns),
            dns: if same_dns { Arc::clone(&sent.dns) } else { snapshot.dns_for(self.node) },
            ssh: sent.ssh.clone(),
            visible: Arc::clone(&sent.visible),
            rules: Arc::clone(&sent.rules),
            serving_seq: snapshot.serving_seq,
            extras: Arc::clone(&sent.extras),
            messages: snapshot.messages_for(self.node),
        };
        if sent.reach_seq != snapshot.reach_seq {
            let (visible, rules) = (snapshot.visible_to(self.node), snapshot.filter_of(self.node));
            if visible != sent.visible {
                now.visible = visible;
            }
            if rules != sent.rules {
                now.rules = rules;
            }
            now.ssh = snapshot.ssh_policy_for(self.node);
        }
        if (sent.reach_seq, sent.serving_seq) != (snapshot.reach_seq, snapshot.serving_seq) {
            let extras = snapshot.extras_for(self.node, &now.visible);
            if extras != *sent.extras {
                now.extras = Arc::new(extras);
            }
        }
        let (mut old, mut new) = (NetMap::default(), NetMap::default());
        let mut fresh_owners = BTreeSet::new();
        for peer in self.may_differ(&sent, &now, changes) {
            let record = snapshot.records.get(&peer);
            let before = match changes.nodes.get(&peer) {
                Some(first) => first.before.as_ref(),
                None => record,
            };
            if let Some(before) = before.filter(|_| sent.visible.contains(peer)) {
                old.peers.insert(peer, sent.shown(peer, before));
            }
            if let Some(after) = record.filter(|_| now.visible.contains(peer)) {
                if old.peers.get(&peer).is_none_or(|before| before.user != after.user) {
                    fresh_owners.insert(after.user);
                }
                new.peers.insert(peer, now.shown(peer, after));
            }
        }
        if sent.me.user != now.me.user {
            fresh_owners.insert(now.me.user);
        }
        fresh_owners.extend(changes.users.iter().copied().filter(|user| self.sees_user(snapshot, &now, *user)));
        // A profile said twice is harmless, one not said shows a nameless owner (trap 37).
        new.profiles = snapshot.profiles(fresh_owners.into_iter());
        (old.self_node, new.self_node) = (WireNode::clone(&sent.me), WireNode::clone(&now.me));
        if !Arc::ptr_eq(&sent.rules, &now.rules) {
            (old.filters, new.filters) = (filters(&sent.rules), filters(&now.rules));
        }
        if !Arc::ptr_eq(&sent.relay_map, &now.relay_map) {
            (old.relay_map, new.relay_map) = (RelayMap::clone(&sent.relay_map), RelayMap::clone(&now.relay_map));
        }
        (old.ssh_policy, new.ssh_policy) = (sent.ssh.clone(), now.ssh.clone());
        if !Arc::ptr_eq(&sent.dns, &now.dns) {
            (old.dns, new.dns) = (DnsConfig::clone(&sent.dns), DnsConfig::clone(&now.dns));
        }
        (old.display_messages, new.display_messages) = (sent.messages, now.messages.clone());
        self.sent = Some(now);
        diff(Some(&old), &new, self.version)
    }

    fn may_differ(&self, sent: &Sent, now: &Sent, changes: &Changes) -> BTreeSet<NodeId> {
        let (old, new) = (&sent.visible, &now.visible);
        let shown = |peer: &NodeId| old.contains(*peer) || new.contains(*peer);
        let mut peers: BTreeSet<NodeId> = changes.nodes.keys().copied().filter(shown).collect();
        peers.extend(new.without(old));
        peers.extend(old.without(new));
        if !Arc::ptr_eq(&sent.extras, &now.extras) {
            let marked = sent.extras.keys().chain(now.extras.keys());
            peers.extend(marked.filter(|peer| sent.extras.get(peer) != now.extras.get(peer)));
        }
        peers.remove(&self.node);
        peers
    }

    /// What the client is told once, if it has a map, while its map cannot be made.
    fn say_that_it_failed(&mut self) -> Option<Box<MapResponse>> {
        let sent = self.sent.as_mut()?;
        let messages = health::map_lost(sent.messages.clone());
        let before = std::mem::replace(&mut sent.messages, messages.clone());
        let old = NetMap { display_messages: before, ..NetMap::default() };
        let new = NetMap { display_messages: messages, ..NetMap::default() };
        diff(Some(&old), &new, self.version).map(Box::new)
    }

    fn sees_user(&self, snapshot: &Snapshot, now: &Sent, user: UserId) -> bool {
        let owns = |peer: NodeId| snapshot.records.get(&peer).is_some_and(|record| record.user == user);
        now.me.user == user || now.visible.iter().any(owns)
    }
}

impl Sent {
    /// The node's own record, if nothing of what it is made of has changed.
    fn same_me(&self, snapshot: &Snapshot, node: NodeId) -> Option<Arc<WireNode>> {
        let is_same = (self.reach_seq, self.serving_seq) == (snapshot.reach_seq, snapshot.serving_seq);
        let (made_of, record) = (self.record.as_ref()?, snapshot.records.get(&node)?);
        (is_same && Arc::ptr_eq(made_of, record)).then(|| Arc::clone(&self.me))
    }

    /// A peer's record with what is shown beside it.
    fn shown(&self, peer: NodeId, record: &WireNode) -> WireNode {
        self.extras.get(&peer).map_or_else(|| record.clone(), |extra| extra.on_peer(record.clone()))
    }
}

/// To a node that was removed: its key has ended and it has no peers, which a client takes as a logout (§7.9).
fn removed(sent: &Sent, wall: UnixTime) -> MapResponse {
    let ended = wall.saturating_sub(Duration::from_secs(1));
    let me =
        WireNode { key_expiry: Some(ended), expired: true, machine_authorized: false, ..WireNode::clone(&sent.me) };
    MapResponse {
        control_time: Some(wall),
        peers_removed: sent.visible.iter().filter(|peer| *peer != me.id).collect(),
        node: Some(Box::new(me)),
        ..MapResponse::default()
    }
}

/// What happened after one picture, up to another.
struct Changes<'a> {
    /// The first change of each node: its `before` is what the older picture showed.
    nodes: BTreeMap<NodeId, &'a Touched>,
    users: BTreeSet<UserId>,
}

/// `None`: the pictures in between are forgotten.
fn changes_since(snapshot: &Snapshot, seq: u64) -> Option<Changes<'_>> {
    let oldest = snapshot.turns.front()?.seq;
    if seq + 1 < oldest {
        return None;
    }
    let mut changes = Changes { nodes: BTreeMap::new(), users: BTreeSet::new() };
    let known = usize::try_from(seq + 1 - oldest).ok()?;
    for turn in snapshot.turns.iter().skip(known) {
        for touched in &turn.nodes {
            changes.nodes.entry(touched.node).or_insert(touched);
        }
        changes.users.extend(&turn.users);
    }
    Some(changes)
}
