//! One map stream: what it has sent, and what it must send next.
//!
//! A session does not keep a copy of the map. It keeps the number of the picture it has sent and the set of nodes that
//! were visible in it; what changed since is in the pictures' turns, which all sessions share. Law, tested: folding
//! what a session sends gives [`Snapshot::netmap_for`], as far as the protocol can say it.
//!
//! What sessions have in common is found and written once: records, pages of them, what lies between two pictures
//! ([`crate::gap`]), and the whole message where many are told the same.
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
    CapabilityVersion, Debug as WireDebug, DnsConfig, FilterRule, Lists, MapResponse, Message, Node as WireNode,
    NodeId, RelayMap, UserId, Written,
};

use crate::extra::Extra;
use crate::gap::{Change, Gap};
use crate::health::{self, Messages};
use crate::node_set::NodeSet;
use crate::shown::{Shown, nodes_of};
use crate::snapshot::{MapError, Snapshot, filters};

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
    record: Option<Arc<Shown>>,
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
    Map(Message),
    /// Nothing changed that this node sees.
    Nothing,
    /// Send this and end the stream: the node was removed, and is told that its key has ended.
    Last(Message),
    /// End the stream: the node has another key now, or was gone before anything was sent. The client registers or polls
    /// again.
    Gone,
    /// The map cannot be made; the client keeps what it has, and may be told so. Someone should look.
    Failed(MapError, Option<Message>),
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
            None => return self.sent.take().map_or(Next::Gone, |sent| self.last(&sent, wall)),
        }
        if self.sent.as_ref().is_some_and(|sent| sent.seq >= snapshot.seq) {
            return Next::Nothing;
        }
        let known = self.sent.as_ref().and_then(|sent| sent.same_me(snapshot, self.node));
        let me = match known.map_or_else(|| snapshot.self_record(self.node), Ok) {
            Ok(me) => me,
            Err(error) => return Next::Failed(error, self.say_that_it_failed()),
        };
        let told = match self.sent.take() {
            Some(sent) => match snapshot.gap_since(sent.seq) {
                Some(gap) => self.delta(snapshot, sent, me, &gap, wall),
                None => self.whole(snapshot, Some(&sent), me, wall).map(Some),
            },
            None => self.whole(snapshot, None, me, wall).map(Some),
        };
        match told {
            Ok(Some(message)) => Next::Map(message),
            Ok(None) => Next::Nothing,
            // It is begun anew at the next picture.
            Err(_) => Next::Failed(MapError::Unwritable(self.node), None),
        }
    }

    fn whole(
        &mut self,
        snapshot: &Snapshot,
        before: Option<&Sent>,
        me: Arc<WireNode>,
        wall: UnixTime,
    ) -> Result<Message, serde_json::Error> {
        let (visible, rules) = (snapshot.visible_to(self.node), snapshot.filter_of(self.node));
        let extras = snapshot.extras_for(self.node, &visible);
        let (peers, mut owners) = self.all_peers(snapshot, &visible, &extras)?;
        owners.insert(me.user);
        let mut map = snapshot.map_without_peers(self.node, &me, &rules);
        map.profiles = snapshot.profiles(owners.into_iter());
        let mut response = full(&map, self.version);
        // Nothing of the client's goes to its vendor from a private server (trap 68).
        response.debug = Some(WireDebug { disable_log_tail: true, ..WireDebug::default() });
        response.control_time = Some(wall);
        if let Some(before) = before {
            self.take_back(before, peers.is_empty(), &mut response);
        }
        self.sent = Some(Sent {
            seq: snapshot.seq,
            reach_seq: snapshot.reach_seq,
            visible,
            record: snapshot.records.get(&self.node).cloned(),
            me,
            rules,
            relay_map: Arc::clone(&snapshot.relay_map),
            base_dns: Arc::clone(&snapshot.dns),
            dns: snapshot.dns_for(self.node),
            ssh: snapshot.ssh_policy_for(self.node),
            serving_seq: snapshot.serving_seq,
            extras: Arc::new(extras),
            messages: snapshot.messages_for(self.node),
        });
        Message::new(response, &Lists { peers, ..Lists::default() })
    }

    /// The records of all peers, whole pages where they are shown as they are, and their owners.
    fn all_peers(
        &self,
        snapshot: &Snapshot,
        visible: &NodeSet,
        extras: &BTreeMap<NodeId, Extra>,
    ) -> Result<(Vec<Arc<Written>>, BTreeSet<UserId>), serde_json::Error> {
        let apart: NodeSet = extras.keys().copied().chain([self.node]).collect();
        let (mut peers, mut owners) = (Vec::new(), BTreeSet::new());
        for number in 0..visible.pages() {
            let Some(page) = snapshot.pages.get(number) else { continue };
            let shown = page.members & visible.page(number);
            if shown == page.members && shown & apart.page(number) == 0 {
                peers.extend(page.text().cloned());
                owners.extend(&page.owners);
                continue;
            }
            for peer in nodes_of(number, shown).filter(|peer| *peer != self.node) {
                let Some(record) = snapshot.records.get(&peer) else { continue };
                owners.insert(record.user);
                peers.push(match extras.get(&peer) {
                    None => Arc::clone(&record.text),
                    Some(extra) => Arc::new(Written::member(&normal(extra.on_peer((***record).clone())))?),
                });
            }
        }
        Ok((peers, owners))
    }

    /// A client that holds a map takes what a whole one leaves out as "unchanged": so what it must not keep is named.
    fn take_back(&self, before: &Sent, has_no_peers: bool, response: &mut MapResponse) {
        if has_no_peers {
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

    /// What differs from what the client holds; `None`: nothing.
    fn delta(
        &mut self,
        snapshot: &Snapshot,
        sent: Sent,
        me: Arc<WireNode>,
        gap: &Gap,
        wall: UnixTime,
    ) -> Result<Option<Message>, serde_json::Error> {
        let now = self.now(snapshot, &sent, me);
        let mut own = self.of_itself(&sent, &now);
        if own.is_none() && self.is_standard(&sent, &now, gap) {
            let standard = (!gap.nodes.is_empty()).then(|| gap.standard(snapshot, wall)).flatten();
            if standard.is_some() || gap.nodes.is_empty() {
                self.sent = Some(now);
                return Ok(standard);
            }
        }
        let mut lists = Lists::default();
        let mut fresh_owners = BTreeSet::new();
        let mut response = own.take().unwrap_or_default();
        for peer in self.may_differ(&sent, &now, gap) {
            self.tell_of(peer, snapshot, (&sent, &now), gap, (&mut response, &mut lists, &mut fresh_owners))?;
        }
        if sent.me.user != now.me.user {
            fresh_owners.insert(now.me.user);
        }
        fresh_owners.extend(gap.users.iter().copied().filter(|user| self.sees_user(snapshot, &now, *user)));
        // A profile said twice is harmless, one not said shows a nameless owner (trap 37).
        response.user_profiles = snapshot.profiles(fresh_owners.into_iter()).into_values().collect();
        self.sent = Some(now);
        if response == MapResponse::default() && lists.peers_changed.is_empty() && lists.patches.is_empty() {
            return Ok(None);
        }
        response.control_time = Some(wall);
        Message::new(response, &lists).map(Some)
    }

    /// What the client is to hold; what did not change is the same value.
    fn now(&self, snapshot: &Snapshot, sent: &Sent, me: Arc<WireNode>) -> Sent {
        // Beside the base it is made of what the node says of itself, and of what the policy gives it.
        let same_dns = Arc::ptr_eq(&sent.base_dns, &snapshot.dns)
            && sent.reach_seq == snapshot.reach_seq
            && Arc::ptr_eq(&sent.me, &me);
        let mut now = Sent {
            seq: snapshot.seq,
            reach_seq: snapshot.reach_seq,
            record: snapshot.records.get(&self.node).cloned(),
            me: same(&sent.me, me),
            relay_map: same(&sent.relay_map, Arc::clone(&snapshot.relay_map)),
            base_dns: Arc::clone(&snapshot.dns),
            dns: if same_dns { Arc::clone(&sent.dns) } else { same(&sent.dns, snapshot.dns_for(self.node)) },
            ssh: sent.ssh.clone(),
            visible: Arc::clone(&sent.visible),
            rules: Arc::clone(&sent.rules),
            serving_seq: snapshot.serving_seq,
            extras: Arc::clone(&sent.extras),
            messages: snapshot.messages_for(self.node),
        };
        if sent.reach_seq != snapshot.reach_seq {
            now.visible = same(&sent.visible, snapshot.visible_to(self.node));
            now.rules = same(&sent.rules, snapshot.filter_of(self.node));
            now.ssh = snapshot.ssh_policy_for(self.node);
        }
        if (sent.reach_seq, sent.serving_seq) != (snapshot.reach_seq, snapshot.serving_seq) {
            now.extras = same(&sent.extras, Arc::new(snapshot.extras_for(self.node, &now.visible)));
        }
        now
    }

    /// What changed for the node beside its peers; `None`: nothing.
    fn of_itself(&self, sent: &Sent, now: &Sent) -> Option<MapResponse> {
        let is_same = Arc::ptr_eq(&sent.me, &now.me)
            && Arc::ptr_eq(&sent.rules, &now.rules)
            && Arc::ptr_eq(&sent.relay_map, &now.relay_map)
            && Arc::ptr_eq(&sent.dns, &now.dns)
            && sent.ssh == now.ssh
            && sent.messages == now.messages;
        if is_same {
            return None;
        }
        let (mut old, mut new) = (NetMap::default(), NetMap::default());
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
        (old.display_messages, new.display_messages) = (sent.messages.clone(), now.messages.clone());
        diff(Some(&old), &new, self.version)
    }

    /// Whether it is to be told of the whole gap and of nothing else, as all who see everybody in it are.
    fn is_standard(&self, sent: &Sent, now: &Sent, gap: &Gap) -> bool {
        let is_shown = |(peer, change): (&NodeId, &Change)| {
            let was = change.before.is_none() || sent.visible.contains(*peer);
            *peer != self.node && was && (change.after.is_none() || now.visible.contains(*peer))
        };
        let (old, new) = (&sent.visible, &now.visible);
        let others_came_or_went = || {
            !Arc::ptr_eq(old, new)
                && new.without(old).chain(old.without(new)).any(|peer| !gap.nodes.contains_key(&peer))
        };
        sent.extras.is_empty()
            && now.extras.is_empty()
            && gap.users.is_empty()
            && gap.nodes.iter().all(is_shown)
            && !others_came_or_went()
    }

    fn may_differ(&self, sent: &Sent, now: &Sent, gap: &Gap) -> BTreeSet<NodeId> {
        let (old, new) = (&sent.visible, &now.visible);
        let shown = |peer: &NodeId| old.contains(*peer) || new.contains(*peer);
        let mut peers: BTreeSet<NodeId> = gap.nodes.keys().copied().filter(shown).collect();
        if !Arc::ptr_eq(old, new) {
            peers.extend(new.without(old));
            peers.extend(old.without(new));
        }
        if !Arc::ptr_eq(&sent.extras, &now.extras) {
            let marked = sent.extras.keys().chain(now.extras.keys());
            peers.extend(marked.filter(|peer| sent.extras.get(peer) != now.extras.get(peer)));
        }
        peers.remove(&self.node);
        peers
    }

    /// Adds what is to be said of one peer that may differ.
    fn tell_of(
        &self,
        peer: NodeId,
        snapshot: &Snapshot,
        (sent, now): (&Sent, &Sent),
        gap: &Gap,
        (response, lists, fresh_owners): (&mut MapResponse, &mut Lists, &mut BTreeSet<UserId>),
    ) -> Result<(), serde_json::Error> {
        let change = gap.nodes.get(&peer);
        let after = snapshot.records.get(&peer);
        let before = match change {
            Some(change) => change.before.as_ref(),
            None => after,
        };
        let before = before.filter(|_| sent.visible.contains(peer));
        let after = after.filter(|_| now.visible.contains(peer));
        if let Some(after) = after.filter(|after| before.is_none_or(|before| before.user != after.user)) {
            fresh_owners.insert(after.user);
        }
        let (was, is) = (sent.extras.get(&peer), now.extras.get(&peer));
        match (before, after) {
            (None, None) => {}
            (Some(_), None) => response.peers_removed.push(peer),
            (None, Some(after)) => lists.peers_changed.push(match is {
                None => Arc::clone(&after.text),
                Some(extra) => Arc::new(Written::member(&normal(extra.on_peer((***after).clone())))?),
            }),
            (Some(_), Some(_)) if was.is_none() && is.is_none() => {
                if let Some(change) = change {
                    gap.tell(peer, change, response, lists);
                }
            }
            (Some(before), Some(after)) => {
                let alone = |record: &Shown, extra: Option<&Extra>| {
                    let record = (**record).clone();
                    let shown = extra.map_or_else(|| record.clone(), |extra| extra.on_peer(record.clone()));
                    NetMap { peers: BTreeMap::from([(peer, shown)]), ..NetMap::default() }
                };
                let said = diff(Some(&alone(before, was)), &alone(after, is), self.version).unwrap_or_default();
                // Among the others, so that the list stays in the order of ids (trap 36).
                for peer in &said.peers_changed {
                    lists.peers_changed.push(Arc::new(Written::member(peer)?));
                }
                for patch in &said.peers_changed_patch {
                    lists.patches.push(Arc::new(Written::member(patch)?));
                }
                response.peer_seen_change.extend(said.peer_seen_change);
            }
        }
        Ok(())
    }

    /// What the client is told once, if it has a map, while its map cannot be made.
    fn say_that_it_failed(&mut self) -> Option<Message> {
        let sent = self.sent.as_mut()?;
        let messages = health::map_lost(sent.messages.clone());
        let before = std::mem::replace(&mut sent.messages, messages.clone());
        let old = NetMap { display_messages: before, ..NetMap::default() };
        let new = NetMap { display_messages: messages, ..NetMap::default() };
        Message::new(diff(Some(&old), &new, self.version)?, &Lists::default()).ok()
    }

    fn last(&self, sent: &Sent, wall: UnixTime) -> Next {
        match Message::new(removed(sent, wall), &Lists::default()) {
            Ok(message) => Next::Last(message),
            Err(_) => Next::Gone,
        }
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
}

/// The old value where the new one is equal, so that one look tells.
fn same<T: PartialEq>(old: &Arc<T>, new: Arc<T>) -> Arc<T> {
    if Arc::ptr_eq(old, &new) || **old == *new { Arc::clone(old) } else { new }
}

fn normal(mut node: WireNode) -> WireNode {
    node.normalise();
    node
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
