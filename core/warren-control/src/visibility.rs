//! Who may see and reach whom: the policy over the present users and nodes.
//!
//! Without a policy everyone reaches everyone, as in the field (control-protocol.md §11.8), and one set serves all.
//! Rules are resolved to sets once per change of policy, users or nodes; a session asks again only after that.

use std::collections::BTreeMap;
use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_ip::Prefix;
use warren_policy::{Attribute, Compiled, Policy, PolicyNode, PolicyUser, RouteUse, SshCheck, Tailnet};
use warren_wire::ssh::{SshAction, SshPolicy};
use warren_wire::{CapMap, FilterRule, Hostinfo, NodeId};

use crate::command::{Answer, Refusal};
use crate::event::Event;
use crate::extra::Marks;
use crate::node_set::NodeSet;
use crate::presence::Present;
use crate::registry::Registry;
use crate::rows::{LOCAL_ISSUER, Node, Owner, PolicyRow, RowChange, Service, ServiceId, User};
use crate::staged::Staged;
use crate::table::Table;
use crate::{routes, services};

/// A policy, compiled for the users and nodes of one picture.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// All that an operator has not kept out.
    everyone: Arc<NodeSet>,
    /// Those of them whose key is good. Only they are told anything of the network: peers, rules, names.
    members: Arc<NodeSet>,
    who: Who,
    /// What the policy says of each node, also where everyone reaches everyone.
    compiled: Arc<Compiled>,
    /// Of the nodes of which it says something that peers are shown.
    marks: Arc<BTreeMap<NodeId, Marks>>,
    /// Who may use each service.
    visitors: Arc<BTreeMap<ServiceId, NodeSet>>,
}

#[derive(Clone, Debug)]
enum Who {
    Everyone { rules: Arc<Vec<FilterRule>> },
    Some,
}

impl Reach {
    pub(crate) fn new(policy: &Policy, registry: &Registry, known: &Table<NodeId, Arc<Present>>) -> Self {
        let compiled = compile(policy, registry, known);
        // Every node is told the same then, so one answer does.
        let rules = || registry.nodes().find(|node| node.approved).map(|node| compiled.filter_for(node.id));
        let who = match policy.allows_all() {
            true => Who::Everyone { rules: Arc::new(rules().unwrap_or_default()) },
            false => Who::Some,
        };
        let marks = |node: &Arc<Node>| {
            let marks = Marks::new(&compiled.cap_map_for(node.id), compiled.peer_cap_map_for(node.id));
            (!marks.is_empty()).then_some((node.id, marks))
        };
        let marks = Arc::new(registry.nodes().filter_map(marks).collect());
        let all = || registry.nodes().filter(|node| node.approved);
        let visitors = |service: &Arc<Service>| (service.id, compiled.visitors_of(&service.full_name()).collect());
        let visitors = registry.services().map(visitors).collect();
        Self {
            visitors: Arc::new(visitors),
            everyone: Arc::new(all().map(|node| node.id).collect()),
            members: Arc::new(all().filter(|node| !node.expired).map(|node| node.id).collect()),
            marks,
            who,
            compiled: Arc::new(compiled),
        }
    }

    /// Whether `node` was let in and its key has not expired.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(node)
    }

    /// Whom `node` sees; it may or may not be among them itself.
    pub(crate) fn visible_to(&self, node: NodeId) -> Arc<NodeSet> {
        if !self.is_member(node) {
            return Arc::default(); // it waits for an operator, or for its person to log in
        }
        match &self.who {
            Who::Everyone { .. } => Arc::clone(&self.everyone),
            Who::Some => Arc::new(self.compiled.peers_of(node).collect()),
        }
    }

    /// What may come in at `node`.
    pub(crate) fn filter_of(&self, node: NodeId) -> Arc<Vec<FilterRule>> {
        if !self.is_member(node) {
            return Arc::default();
        }
        match &self.who {
            Who::Everyone { rules } => Arc::clone(rules),
            Who::Some => Arc::new(self.compiled.filter_for(node)),
        }
    }

    /// Whether and how `viewer` may send to this network behind `peer`.
    pub(crate) fn route_use(&self, viewer: NodeId, peer: NodeId, route: Prefix) -> RouteUse {
        match &self.who {
            Who::Everyone { .. } => RouteUse::IfPrimary,
            Who::Some => self.compiled.route_use(viewer, peer, route),
        }
    }

    /// Whether `node` may use a service.
    pub(crate) fn may_visit(&self, node: NodeId, service: ServiceId) -> bool {
        self.is_member(node) && self.visitors.get(&service).is_some_and(|visitors| visitors.contains(node))
    }

    /// What the policy lets a node do, or wants it to do (`nodeAttrs`).
    pub(crate) fn attributes_of(&self, node: NodeId) -> CapMap {
        self.compiled.cap_map_for(node)
    }

    /// What peers are shown of it, by node; nodes without are not in it.
    pub(crate) fn marks(&self) -> &BTreeMap<NodeId, Marks> {
        &self.marks
    }

    /// Who may open a shell on a node. `None`: the policy says nothing about shells.
    pub(crate) fn ssh_policy_for(&self, node: NodeId, server_url: &str) -> Option<SshPolicy> {
        let policy = || match self.is_member(node) {
            true => self.compiled.ssh_policy_for(node, server_url),
            false => SshPolicy::default(), // lets nobody in
        };
        self.compiled.has_ssh().then(policy)
    }

    /// Whether the policy says anything about shells.
    pub(crate) fn has_ssh(&self) -> bool {
        self.compiled.has_ssh()
    }

    /// How a shell session is to be checked; `None`: not by a check.
    pub(crate) fn ssh_check(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshCheck> {
        let both = self.is_member(from) && self.is_member(to);
        both.then(|| self.compiled.ssh_check(from, to, user)).flatten()
    }

    /// What a shell session is let in with, after a check or without.
    pub(crate) fn ssh_accept(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshAction> {
        let both = self.is_member(from) && self.is_member(to);
        both.then(|| self.compiled.ssh_accept(from, to, user)).flatten()
    }
}

/// Reads a stored or new policy; none is the one that allows all.
pub(crate) fn parse(text: Option<&str>) -> Result<Arc<Policy>, String> {
    let policy = text.map_or_else(|| Ok(Policy::allow_all()), Policy::parse);
    policy.map(Arc::new).map_err(|diagnostics| diagnostics.to_string())
}

/// Reads a policy that somebody writes now: unlike a stored one it may not name people by words that fit two of them.
pub(crate) fn parse_new(text: &str, registry: &Registry) -> Result<Arc<Policy>, Refusal> {
    let policy = parse(Some(text)).map_err(Refusal::Policy)?;
    let users: Vec<PolicyUser> = registry.users().map(|user| policy_user(user, registry)).collect();
    Policy::check_people(text, &users).map_err(|ambiguous| Refusal::Policy(ambiguous.to_string()))?;
    Ok(policy)
}

/// Holds a policy that an operator wants to put in force against the present users and nodes: what it says of itself in
/// `tests` and `sshTests` must hold. Gives what the operator should know of it all the same: sections that have no effect
/// yet, words that mean nobody.
///
/// # Errors
/// What does not hold, one a line.
pub(crate) fn admit(
    policy: &Policy,
    registry: &Registry,
    known: &Table<NodeId, Arc<Present>>,
) -> Result<Vec<String>, String> {
    // Which e-mail domains are this network's is not configured anywhere yet, so any will do.
    let checked = with_tailnet(registry, known, |tailnet| policy.admit(tailnet, &[]));
    let compiled = checked.map_err(|failures| failures.to_string())?;
    let not_built = policy.not_built().iter().map(|section| format!("{section:?} is not built yet and has no effect"));
    let notes = policy.notes().iter().map(ToString::to_string);
    Ok(not_built.chain(notes).chain(compiled.problems().iter().cloned()).collect())
}

/// Whether a person may give their own device this tag when they log in on it.
pub(crate) fn may_own_tag(policy: &Policy, registry: &Registry, user: &User, tag: &str) -> bool {
    let users: Vec<PolicyUser> = registry.users().map(|user| policy_user(user, registry)).collect();
    policy.owns_tag(&users, &policy_user(user, registry), tag)
}

/// Where a new node of this owner gets its IPv4 address from; empty: from anywhere.
pub(crate) fn ip_pools(policy: &Policy, registry: &Registry, owner: &Owner) -> Vec<Prefix> {
    let users: Vec<PolicyUser> = registry.users().map(|user| policy_user(user, registry)).collect();
    let tags = owner.tags().into_iter().flatten().cloned().collect();
    policy.ip_pools(&users, &PolicyNode { user: owner.user(), tags, ..PolicyNode::default() })
}

fn compile(policy: &Policy, registry: &Registry, known: &Table<NodeId, Arc<Present>>) -> Compiled {
    with_tailnet(registry, known, |tailnet| policy.compile(tailnet))
}

fn with_tailnet<T>(registry: &Registry, known: &Table<NodeId, Arc<Present>>, ask: impl FnOnce(&Tailnet<'_>) -> T) -> T {
    let users: Vec<PolicyUser> = registry.users().map(|user| policy_user(user, registry)).collect();
    let node = |node: &Arc<Node>| policy_node(node, known.get(&node.id).map(|present| &**present));
    let nodes: Vec<PolicyNode> = registry.nodes().filter(|node| node.approved).map(node).collect();
    let services = services::of_policy(registry, known);
    ask(&Tailnet { users: &users, nodes: &nodes, services: &services })
}

fn policy_user(user: &User, registry: &Registry) -> PolicyUser {
    PolicyUser {
        id: user.id,
        name: user.name.clone(),
        self_named: user.self_named,
        email: user.email.clone(),
        provider_id: (user.issuer != LOCAL_ISSUER).then(|| format!("{}/{}", user.issuer, user.subject)),
        groups: registry.sign_in(user.id).into_iter().flat_map(|sign_in| sign_in.groups.iter().cloned()).collect(),
        roles: user.role.office().into_iter().collect(),
    }
}

/// What postures ask of a device, as far as it says it of itself (user-surface.md §4.10).
pub(crate) fn attributes(said: &Hostinfo) -> BTreeMap<String, Attribute> {
    // A version such as 1.80.0-t1234 counts as the release that it was made from; odd minor versions are unstable ones.
    let version = said.ipn_version.split(['-', '+']).next().unwrap_or_default();
    let minor: Option<u32> = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    let track = minor.map_or("", |minor| if minor % 2 == 0 { "stable" } else { "unstable" });
    let texts = [
        ("node:os", said.os.to_ascii_lowercase()),
        ("node:osVersion", said.os_version.clone()),
        ("node:tsVersion", version.to_owned()),
        ("node:tsReleaseTrack", track.to_owned()),
    ];
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    let texts = texts.map(|(name, value)| (name, Attribute::Text(value)));
    let is_encrypted = said.state_encrypted.map(|is| ("node:tsStateEncrypted", Attribute::Bool(is)));
    let updates = (!version.is_empty()).then_some(("node:tsAutoUpdate", Attribute::Bool(said.allows_update)));
    texts.chain(is_encrypted).chain(updates).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The section `autoApprovers` for one node.
pub(crate) struct Approver<'a> {
    policy: &'a Policy,
    users: Vec<PolicyUser>,
    node: PolicyNode,
}

impl<'a> Approver<'a> {
    pub(crate) fn new(policy: &'a Policy, registry: &Registry, node: &Node) -> Self {
        let users = registry.users().map(|user| policy_user(user, registry)).collect();
        Self { policy, users, node: policy_node(node, None) }
    }

    /// Whether this route needs no operator.
    pub(crate) fn approves(&self, route: Prefix) -> bool {
        self.policy.approves_route(&self.users, &self.node, route)
    }

    /// Whether it may be a host of this service without an operator.
    pub(crate) fn approves_service(&self, service: &Service) -> bool {
        let tags: Vec<String> = service.tags.iter().cloned().collect();
        self.policy.approves_service(&self.users, &self.node, &service.full_name(), &tags)
    }
}

fn policy_node(node: &Node, present: Option<&Present>) -> PolicyNode {
    PolicyNode {
        id: node.id,
        user: node.owner.user(),
        tags: node.owner.tags().into_iter().flatten().cloned().collect(),
        addrs: node.addresses().iter().map(Prefix::addr).collect(),
        // Whether or not it is there now, or was elected: filters shall not change with the weather.
        routes: routes::served(node, present),
        attributes: attributes_of(node, present),
    }
}

/// All that postures may ask of a device: what it says of itself, and what was set.
pub(crate) fn attributes_of(node: &Node, present: Option<&Present>) -> BTreeMap<String, Attribute> {
    let mut all = present.map(|present| attributes(&present.hostinfo)).unwrap_or_default();
    all.extend(node.attributes.iter().map(|(name, set)| (name.clone(), set.value.for_policy())));
    all
}

impl Staged {
    pub(crate) fn replace_policy(&mut self, text: String, now: UnixTime) -> Result<Answer, Refusal> {
        let policy = parse_new(&text, &self.state.registry)?;
        let warnings = admit(&policy, &self.state.registry, &self.presence).map_err(Refusal::Policy)?;
        self.note(now, "policy", format!("{} bytes", text.len()));
        let row = Arc::new(PolicyRow { text, updated: now });
        self.state.policy = policy;
        self.state.registry.policy = Some(Arc::clone(&row));
        self.rows.push(RowChange::PutPolicy(Arc::clone(&row)));
        self.events.push(Event::PolicyReplaced);
        self.approve_all_announced(now);
        Ok(Answer::Policy { row, warnings })
    }
}
