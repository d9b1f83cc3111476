//! What nodes say about themselves and whether they are there: the soft half of the truth.
//!
//! It lies beside the registry and never moves its revision. A node's facts belong to the server that holds its map
//! session; they reach the store in batches ([`crate::Control::take_soft`]) and are said again after a crash.
//!
//! ```text
//!              first stream                      last stream ended              10 s later
//!   offline ──────────────────▶ online ──────────────────────────▶ online, leaving ─────────▶ offline (peers hear)
//!                                  ▲                                      │
//!                                  └────────── a stream comes back ───────┘   (peers hear nothing)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, UnixTime};
use warren_wire::{CapabilityVersion, Endpoint, Hostinfo, MapRequest, NodeId, RegionId};

use crate::clones::{ChannelId, Clones};
use crate::offers::Offered;
use crate::rows::SoftRow;
use crate::staged::Said;
use crate::table::Table;

/// Phones drop and resume their stream within seconds; peers should not see that (control-protocol.md §11.3).
const GRACE: Duration = Duration::from_secs(10);

/// How often streams are looked at for doubles ([`crate::clones`]).
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// More endpoints than any host has; bounds what one node can make all others read.
const MOST_ENDPOINTS: usize = 64;

/// The largest number that every client can read: a stock one on a 32-bit machine discards a whole map for a larger one.
const LARGEST_NUMBER: u32 = i32::MAX as u32;

/// What is known of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Present {
    /// Disco key; `None` before it was said.
    pub disco: Option<DiscoPublic>,
    /// Underlay addresses, best first.
    pub endpoints: Vec<Endpoint>,
    /// Host facts as said, with the last known network facts.
    pub hostinfo: Arc<Hostinfo>,
    /// What the node understands.
    pub capability: CapabilityVersion,
    /// When its last stream ended.
    pub last_seen: Option<UnixTime>,
    /// Whether peers are told that it is there. Stays for the grace after the last stream ended.
    pub online: bool,
    /// The services that it offers, as of the last time that it was asked.
    pub offered: Arc<Offered>,
    /// Two machines use the node's keys at once ([`crate::clones`]).
    pub doubled: bool,
    /// Of the tags that it asks for, those that it was refused. Until it asks for others, or the server starts again.
    pub refused_tags: BTreeSet<String>,
    /// Streams open now.
    sessions: u32,
}

impl Present {
    /// The home relay that the node chose.
    pub fn home(&self) -> Option<RegionId> {
        self.hostinfo.net_info.as_ref()?.preferred_derp
    }
}

/// What is known of all nodes.
#[derive(Debug, Default)]
pub struct Presence {
    known: Table<NodeId, Arc<Present>>,
    /// Whose facts are newer than the store's.
    unsaved: BTreeSet<NodeId>,
    /// Whose facts peers have not been told yet.
    untold: BTreeSet<NodeId>,
    leaving: Deadlines,
    away: Deadlines,
    clones: Clones,
    doubled: BTreeSet<NodeId>,
    /// When streams are next looked at for doubles.
    next_look: Option<Instant>,
}

impl Presence {
    pub(crate) fn from_rows(rows: &[SoftRow]) -> Self {
        let mut presence = Self::default();
        for row in rows {
            let present = Present {
                disco: row.disco,
                endpoints: row.endpoints.clone(),
                hostinfo: Arc::new(readable(Hostinfo::clone(&row.hostinfo))),
                capability: row.capability.min(CapabilityVersion(LARGEST_NUMBER)),
                last_seen: row.last_seen,
                offered: Arc::clone(&row.offered),
                ..Present::default()
            };
            presence.known.insert(row.node, Arc::new(present));
        }
        presence
    }

    /// What is known of a node.
    pub fn get(&self, node: NodeId) -> Option<&Arc<Present>> {
        self.known.get(&node)
    }

    /// A copy to look things up in.
    pub(crate) fn known(&self) -> Table<NodeId, Arc<Present>> {
        self.known.clone()
    }

    /// Takes in what a map request says. Returns whether anything is new; `None` if it is not believed.
    ///
    /// The rules are control-protocol.md §6.2: a missing disco key, host or network facts keep what was; endpoints
    /// replace.
    pub(crate) fn hear_request(
        &mut self,
        node: NodeId,
        channel: ChannelId,
        request: &MapRequest,
        now: Instant,
    ) -> Option<bool> {
        let is_believed = self.clones.hear(node, channel, request.disco_key, now);
        if !is_believed && self.doubled.insert(node) {
            self.change(node, |present| present.doubled = true);
        }
        if !is_believed {
            return None;
        }
        let mut endpoints = request.typed_endpoints();
        endpoints.truncate(MOST_ENDPOINTS);
        let is_new = self.change(node, |present| {
            present.disco = request.disco_key.or(present.disco);
            present.endpoints = endpoints;
            present.capability = request.version.min(CapabilityVersion(LARGEST_NUMBER));
            if let Some(hostinfo) = &request.hostinfo {
                hear_hostinfo(present, hostinfo);
            }
        });
        Some(is_new)
    }

    /// Takes in what a registration says.
    pub(crate) fn hear_registration(&mut self, said: &Said) -> bool {
        self.change(said.node, |present| {
            present.capability = said.capability.min(CapabilityVersion(LARGEST_NUMBER));
            hear_hostinfo(present, &said.hostinfo);
            present.refused_tags.clone_from(&said.refused_tags);
        })
    }

    /// Takes in what a node answered about services. Returns whether anything is new.
    pub(crate) fn hear_offered(&mut self, node: NodeId, offered: Offered) -> bool {
        self.known.contains(&node) && self.change(node, |present| present.offered = Arc::new(offered))
    }

    pub(crate) fn session_started(&mut self, node: NodeId, channel: ChannelId, now: Instant) {
        self.clones.stream_started(node, channel, now);
        self.next_look.get_or_insert(now + LOOK_EVERY);
        self.leaving.cancel(node);
        self.away.cancel(node);
        self.change(node, |present| {
            present.sessions += 1;
            present.online = true;
        });
    }

    /// `remove_after`: how long an ephemeral node may stay away.
    pub(crate) fn session_ended(
        &mut self,
        node: NodeId,
        channel: ChannelId,
        remove_after: Option<Duration>,
        now: Instant,
        wall: UnixTime,
    ) {
        self.clones.stream_ended(node, channel);
        match self.known.get(&node).map_or(0, |present| present.sessions) {
            0 => return, // it began before the node was forgotten, or never did
            1 => {}
            _ => {
                self.change(node, |present| present.sessions -= 1);
                return;
            }
        }
        self.change(node, |present| {
            present.sessions = 0;
            present.last_seen = Some(wall);
        });
        self.leaving.set(node, now + GRACE);
        if let Some(after) = remove_after {
            self.away.set(node, now + GRACE + after);
        }
    }

    /// An ephemeral node that has no stream yet: it was just registered, or the server just started.
    pub(crate) fn watch_away(&mut self, node: NodeId, after: Duration, now: Instant) {
        if !is_connected(&self.known, node) {
            self.away.set(node, now + GRACE + after);
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.leaving.cancel(node);
        self.away.cancel(node);
        self.clones.forget(node);
        self.unsaved.remove(&node);
        self.known.remove(&node);
        self.untold.insert(node);
    }

    /// Ends graces that are over and names the ephemeral nodes that have been away for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<NodeId> {
        for node in self.leaving.take_due(now) {
            self.change(node, |present| present.online = false);
        }
        if self.next_look.is_some_and(|at| at <= now) {
            self.look_for_doubles(now);
            self.next_look = (!self.clones.is_empty()).then_some(now + LOOK_EVERY);
        }
        self.away.take_due(now)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.leaving.first().into_iter().chain(self.away.first()).chain(self.next_look).min()
    }

    fn look_for_doubles(&mut self, now: Instant) {
        let doubled: BTreeSet<NodeId> = self.clones.doubled(now).into_iter().collect();
        let other_now: Vec<NodeId> = doubled.symmetric_difference(&self.doubled).copied().collect();
        for node in other_now {
            let is_doubled = doubled.contains(&node);
            if self.known.contains(&node) {
                self.change(node, |present| present.doubled = is_doubled);
            }
        }
        self.doubled = doubled;
    }

    /// The facts that changed since the last call, to be stored.
    pub(crate) fn take_unsaved(&mut self) -> Vec<SoftRow> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let row = |node: NodeId| {
            let present = self.known.get(&node)?;
            Some(SoftRow {
                node,
                disco: present.disco,
                endpoints: present.endpoints.clone(),
                hostinfo: Arc::clone(&present.hostinfo),
                capability: present.capability,
                last_seen: present.last_seen,
                offered: Arc::clone(&present.offered),
            })
        };
        unsaved.into_iter().filter_map(row).collect()
    }

    /// The nodes whose facts changed since the last call, to be shown.
    pub(crate) fn take_untold(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.untold)
    }

    fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Present)) -> bool {
        let old = self.known.get(&node).cloned().unwrap_or_default();
        let mut new = Present::clone(&old);
        change(&mut new);
        if new == *old && self.known.contains(&node) {
            return false; // lite updates that say nothing new are the normal case (trap 42)
        }
        self.known.insert(node, Arc::new(new));
        self.unsaved.insert(node);
        self.untold.insert(node);
        true
    }
}

/// Whether a node has a stream open.
pub(crate) fn is_connected(known: &Table<NodeId, Arc<Present>>, node: NodeId) -> bool {
    known.get(&node).is_some_and(|present| present.sessions > 0)
}

fn hear_hostinfo(present: &mut Present, hostinfo: &Hostinfo) {
    let mut new = readable(hostinfo.clone());
    if new.net_info.is_none() {
        new.net_info = present.hostinfo.net_info.clone(); // absent is "as before" (trap 40)
    }
    if new.request_tags != present.hostinfo.request_tags {
        present.refused_tags.clear();
    }
    if new != *present.hostinfo {
        present.hostinfo = Arc::new(new);
    }
}

/// Host facts without what would keep others from reading their maps.
fn readable(mut hostinfo: Hostinfo) -> Hostinfo {
    if let Some(net_info) = &mut hostinfo.net_info {
        net_info.preferred_derp.take_if(|region| region.0 > LARGEST_NUMBER);
    }
    hostinfo
}

/// One deadline a node.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_node: BTreeMap<NodeId, Instant>,
    in_order: BTreeSet<(Instant, NodeId)>,
}

impl Deadlines {
    pub(crate) fn set(&mut self, node: NodeId, at: Instant) {
        self.cancel(node);
        self.by_node.insert(node, at);
        self.in_order.insert((at, node));
    }

    fn cancel(&mut self, node: NodeId) {
        if let Some(at) = self.by_node.remove(&node) {
            self.in_order.remove(&(at, node));
        }
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.by_node.contains_key(&node)
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<NodeId> {
        let mut due = Vec::new();
        while let Some((at, node)) = self.in_order.first().copied()
            && at <= now
        {
            self.cancel(node);
            due.push(node);
        }
        due
    }
}
