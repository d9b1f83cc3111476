//! What map sessions, relays and operators read: one immutable picture of registry and presence.
//!
//! The writer publishes one after each batch (or some tens a second); readers keep an `Arc` as long as they like. A
//! picture shares everything that did not change with the one before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use warren_crypto::{MachinePublic, NodePublic, UnixTime};
use warren_ip::Prefix;
use warren_policy::SshCheck;
use warren_wire::netmap::NetMap;
use warren_wire::ssh::{SshAction, SshPolicy};
use warren_wire::{DnsConfig, FilterRule, Node as WireNode, NodeId, RelayMap, UserId, UserProfile, cap};

use crate::attributes::AttributeValue;
use crate::command::Refusal;
use crate::dns;
use crate::extra::Extra;
use crate::gap::{Gap, Gaps};
use crate::health::{self, Messages};
use crate::node_set::NodeSet;
use crate::presence::{self, Present};
use crate::records;
use crate::registry::Registry;
use crate::routes::{Served, Serving};
use crate::rows::{Node, Service, ServiceId};
use crate::services;
use crate::settings::Settings;
use crate::shown::{Pages, Records, Shown};
use crate::table::Table;
use crate::visibility::{self, Reach};

/// See the module.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number of this picture, from 1 up without gaps while the process lives.
    pub(crate) seq: u64,
    pub(crate) settings: Arc<Settings>,
    pub(crate) registry: Registry,
    pub(crate) known: Table<NodeId, Arc<Present>>,
    /// Each node as its peers see it.
    pub(crate) records: Records,
    /// The same, for maps that show many of them.
    pub(crate) pages: Pages,
    pub(crate) reach: Reach,
    /// The picture in which who sees whom, or what filters say, may have changed last.
    pub(crate) reach_seq: u64,
    pub(crate) serving: Arc<Serving>,
    /// The picture in which that changed last.
    pub(crate) serving_seq: u64,
    pub(crate) relay_map: Arc<RelayMap>,
    pub(crate) dns: Arc<DnsConfig>,
    /// What the last pictures changed, oldest first, without gaps, the last being this one's.
    pub(crate) turns: VecDeque<Arc<Turn>>,
    /// What of them sessions have asked for.
    pub(crate) gaps: Gaps,
}

/// What one picture changed.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) seq: u64,
    pub(crate) nodes: Vec<Touched>,
    /// People whose profile may have changed.
    pub(crate) users: Vec<UserId>,
}

/// A node's record before; what it is now is in the picture.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) node: NodeId,
    pub(crate) before: Option<Arc<Shown>>,
}

/// Why a node's map cannot be made. Its session keeps the last good one and says so in health.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// There is no such node (any more).
    #[error("node {0} is gone")]
    Gone(NodeId),
    /// Its own full name does not fit into DNS.
    #[error("node {0}: its full name is too long")]
    NameTooLong(NodeId),
    /// JSON cannot say it.
    #[error("node {0}: its map cannot be written")]
    Unwritable(NodeId),
}

impl Snapshot {
    /// The registry as committed.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The settings that maps were made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of this picture.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether who sees whom, or what filters say, may be another than in the picture before.
    pub fn may_change_sight(&self) -> bool {
        self.reach_seq == self.seq
    }

    /// What a node last said, and whether it is there.
    pub fn present(&self, node: NodeId) -> Option<&Arc<Present>> {
        self.known.get(&node)
    }

    /// Whether a map stream of the node is open now (peers are told of its end only after a grace).
    pub fn is_connected(&self, node: NodeId) -> bool {
        presence::is_connected(&self.known, node)
    }

    /// The node of a request: `node_key` from the request, `machine` from the Noise handshake that carried it.
    /// `None` also when the key is another machine's: whoever merely knows a node key must not act for it.
    pub fn node_of(&self, machine: &MachinePublic, node_key: &NodePublic) -> Option<&Arc<Node>> {
        self.registry.node_by_key(node_key).filter(|node| node.machine_key == *machine)
    }

    /// Whether a relay should carry packets of `node_key`: it is a node's that was approved and has not expired.
    pub fn admits(&self, node_key: &NodePublic, now: UnixTime) -> bool {
        self.registry.node_by_key(node_key).is_some_and(|node| node.approved && !node.is_expired(now))
    }

    /// The nodes that `node` may see, itself perhaps among them.
    pub fn visible_to(&self, node: NodeId) -> Arc<NodeSet> {
        self.reach.visible_to(node)
    }

    /// What may come in at `node`.
    pub fn filter_of(&self, node: NodeId) -> Arc<Vec<FilterRule>> {
        self.reach.filter_of(node)
    }

    /// What a node serves now, if anything.
    pub fn served_by(&self, node: NodeId) -> Option<&Served> {
        self.serving.of(node)
    }

    /// What `viewer` is shown of each of these peers beside its record; only peers of which there is something.
    pub(crate) fn extras_for(&self, viewer: NodeId, visible: &NodeSet) -> BTreeMap<NodeId, Extra> {
        let marks = self.reach.marks();
        let peers = self.serving.by_node.keys().chain(marks.keys()).copied();
        let shown = peers.filter(|peer| *peer != viewer && visible.contains(*peer));
        let extra = |peer: NodeId| {
            let served = self.serving.of(peer);
            let routes =
                served.map(|served| self.serving.used(peer, served, |route| self.reach.route_use(viewer, peer, route)));
            let answers_for = served.map(|served| &served.answers_for[..]).unwrap_or_default();
            let used = answers_for.iter().filter(|id| self.reach.may_visit(viewer, **id));
            let services = self.addresses_of(used);
            let extra = Extra::new(routes.unwrap_or_default(), services, marks.get(&peer));
            (!extra.is_empty()).then_some((peer, extra))
        };
        shown.filter_map(extra).collect()
    }

    /// The services that `node` may use.
    pub fn services_for(&self, node: NodeId) -> impl Iterator<Item = &Arc<Service>> {
        self.registry.services().filter(move |service| self.reach.may_visit(node, service.id))
    }

    /// Names and resolvers as one node is told them: none before it is let in, and none after its key expired.
    pub(crate) fn dns_for(&self, node: NodeId) -> Arc<DnsConfig> {
        let Some(row) = self.registry.node(node) else { return Arc::clone(&self.dns) };
        if !self.reach.is_member(node) {
            return Arc::default();
        }
        let present = self.present(node).map(|present| &**present);
        let names = self.services_for(node).flat_map(|service| services::records(service, &self.settings.base_domain));
        let mut dns = dns::for_node(&self.dns, row, present, || self.reach.attributes_of(node));
        let mut names = names.peekable();
        if names.peek().is_some() {
            Arc::make_mut(&mut dns).extra_records.extend(names);
        }
        if self.settings.dns.certificates {
            Arc::make_mut(&mut dns).cert_domains = self.names_of(node);
        }
        dns
    }

    /// Full names that are this node's own: its name, and those of the services that it hosts. Without dots at the end.
    pub fn names_of(&self, node: NodeId) -> Vec<String> {
        let own = self.records.get(&node).map(|record| record.name.trim_end_matches('.').to_owned());
        let hosted = self.serving.of(node).map(|served| &served.hosted[..]).unwrap_or_default();
        let hosted = hosted.iter().filter_map(|id| self.registry.service(*id));
        let base_domain = &self.settings.base_domain;
        own.into_iter().chain(hosted.map(|service| format!("{}.{base_domain}", service.name))).collect()
    }

    /// The addresses of these services, in order.
    fn addresses_of<'a>(&self, services: impl Iterator<Item = &'a ServiceId>) -> Vec<Prefix> {
        let found = services.filter_map(|id| self.registry.service(*id));
        let mut addresses: Vec<Prefix> = found.flat_map(|service| service.addresses()).collect();
        addresses.sort_unstable();
        addresses
    }

    /// All facts about a node that postures may ask for, by name. Empty for one that is not here.
    pub fn facts_of(&self, node: NodeId) -> BTreeMap<String, AttributeValue> {
        let Some(row) = self.registry.node(node) else { return BTreeMap::new() };
        let facts = visibility::attributes_of(row, self.present(node).map(|present| &**present));
        facts.iter().filter_map(|(name, value)| Some((name.clone(), value.try_into().ok()?))).collect()
    }

    /// Who may open a shell on a node; `None` where the policy says nothing of shells.
    pub fn ssh_policy_for(&self, node: NodeId) -> Option<SshPolicy> {
        self.reach.ssh_policy_for(node, &self.settings.server_url)
    }

    /// How a session of `from` as the local user `user` on `to` is to be checked. `None`: not by a check.
    pub fn ssh_check(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshCheck> {
        self.reach.ssh_check(from, to, user)
    }

    /// What such a session is let in with, after a check or without. `None`: refuse it.
    pub fn ssh_accept(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshAction> {
        self.reach.ssh_accept(from, to, user)
    }

    /// What the node's person should know of it.
    pub(crate) fn messages_for(&self, node: NodeId) -> Messages {
        let row = self.registry.node(node).map(|node| &**node);
        health::messages(row, self.present(node).map(|present| &**present))
    }

    /// The whole map of one node, computed from nothing but this picture: the oracle for [`crate::Session`].
    ///
    /// # Errors
    /// [`MapError`]; nothing about other nodes can fail a map.
    pub fn netmap_for(&self, node: NodeId) -> Result<NetMap, MapError> {
        let me = self.self_record(node)?;
        let visible = self.visible_to(node);
        let extras = self.extras_for(node, &visible);
        let shown = |peer: NodeId| {
            let record = WireNode::clone(self.records.get(&peer)?);
            Some((peer, extras.get(&peer).map_or_else(|| record.clone(), |extra| extra.on_peer(record.clone()))))
        };
        let peers: BTreeMap<NodeId, WireNode> = visible.iter().filter(|peer| *peer != node).filter_map(shown).collect();
        let owners = peers.values().map(|peer| peer.user).chain([me.user]);
        let profiles = self.profiles(owners);
        Ok(NetMap { profiles, peers, ..self.map_without_peers(node, &me, &self.filter_of(node)) })
    }

    /// What a node is told beside its peers and their owners.
    pub(crate) fn map_without_peers(&self, node: NodeId, me: &WireNode, rules: &[FilterRule]) -> NetMap {
        NetMap {
            self_node: me.clone(),
            relay_map: RelayMap::clone(&self.relay_map),
            dns: DnsConfig::clone(&self.dns_for(node)),
            ssh_policy: self.ssh_policy_for(node),
            domain: self.settings.domain.clone(),
            filters: filters(rules),
            display_messages: self.messages_for(node),
            ..NetMap::default()
        }
    }

    /// What happened after the picture `seq`; `None`: that is forgotten.
    pub(crate) fn gap_since(&self, seq: u64) -> Option<Arc<Gap>> {
        self.gaps.since(self, seq)
    }

    /// What is wrong with a policy (the error: why it would be refused), without putting it in force.
    ///
    /// # Errors
    /// The complaints, one a line, with line and column.
    pub fn check_policy(&self, text: &str) -> Result<Vec<String>, Refusal> {
        let policy = visibility::parse_new(text, &self.registry)?;
        visibility::admit(&policy, &self.registry, &self.known).map_err(Refusal::Policy)
    }

    pub(crate) fn self_record(&self, node: NodeId) -> Result<Arc<WireNode>, MapError> {
        if self.registry.node(node).is_none() {
            return Err(MapError::Gone(node));
        }
        let record = self.records.get(&node).ok_or(MapError::NameTooLong(node))?;
        let attributes = self.reach.attributes_of(node);
        let mut me = records::self_record(record, attributes, self.reach.has_ssh());
        if self.settings.dns.certificates {
            me.cap_map.insert(cap::HTTPS.to_owned(), Vec::new());
        }
        for service in self.services_for(node) {
            services::tell_client(service, &mut me.cap_map);
        }
        let serving = self.serving.of(node);
        // Whoever stands by is told as well, so that it can take over at once.
        let hosted = serving.map(|served| &served.hosted[..]).unwrap_or_default();
        if let Some(told) = services::host_capability(hosted.iter().filter_map(|id| self.registry.service(*id))) {
            me.cap_map.insert(cap::SERVICE_HOST.to_owned(), vec![told]);
        }
        let served: Vec<Prefix> = serving.into_iter().flat_map(Served::active).collect();
        let extra = Extra::new(served, self.addresses_of(hosted.iter()), self.reach.marks().get(&node));
        Ok(Arc::new(extra.on_self(me)))
    }

    pub(crate) fn profiles(&self, users: impl Iterator<Item = UserId>) -> BTreeMap<UserId, UserProfile> {
        let mut profiles = BTreeMap::new();
        for user in users {
            profiles.entry(user).or_insert_with(|| self.profile(user));
        }
        profiles
    }

    fn profile(&self, user: UserId) -> UserProfile {
        match self.registry.user(user) {
            Some(user) => records::profile(user),
            None => records::tagged_profile(),
        }
    }
}

/// Rules as the one named chunk that the field uses.
pub(crate) fn filters(rules: &[FilterRule]) -> BTreeMap<String, Vec<FilterRule>> {
    BTreeMap::from([("base".to_owned(), rules.to_vec())])
}
