//! Routes and services that need no operator: the policy's `autoApprovers` over what nodes announce and offer
//! (user-surface.md §4.7).
//!
//! Looked at when a node registers, when it announces or offers something else, when it changes hands, and when the policy changes.
//! Nothing is ever taken back by it: what was approved once, an operator takes away.

use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_ip::Prefix;
use warren_policy::Policy;
use warren_wire::NodeId;

use crate::command::{Answer, Refusal};
use crate::event::Event;
use crate::offers::Offered;
use crate::registry::Registry;
use crate::routes;
use crate::rows::{Node, ServiceId};
use crate::staged::Staged;
use crate::visibility::Approver;

/// What of `announced` the policy approves for `node` and is not approved yet.
pub(crate) fn fresh(policy: &Policy, registry: &Registry, node: &Node, announced: &[Prefix]) -> Vec<Prefix> {
    let open: Vec<Prefix> = announced.iter().filter(|route| !node.approved_routes.contains(route)).copied().collect();
    if open.is_empty() {
        return Vec::new();
    }
    let approver = Approver::new(policy, registry, node);
    open.into_iter().filter(|route| approver.approves(*route)).collect()
}

/// The services among those that the node offers for which the policy approves it and nobody has yet.
pub(crate) fn fresh_services(policy: &Policy, registry: &Registry, node: &Node, offered: &Offered) -> Vec<ServiceId> {
    let offered = offered.active().filter_map(|name| registry.service_by_name(name));
    let open: Vec<_> = offered.filter(|service| !service.approved.contains(&node.id)).collect();
    if open.is_empty() {
        return Vec::new();
    }
    let approver = Approver::new(policy, registry, node);
    open.into_iter().filter(|service| approver.approves_service(service)).map(|service| service.id).collect()
}

impl Staged {
    /// Approves what the policy approves of what the node announced and offered last.
    pub(crate) fn approve_announced(&mut self, id: NodeId, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        self.approve_offered(&node, now);
        let present = self.presence.get(&id).cloned();
        Ok(Answer::Node(self.approve(node, routes::announced(present.as_deref()), now)))
    }

    /// The same for all nodes: another policy is in force.
    pub(crate) fn approve_all_announced(&mut self, now: UnixTime) {
        let nodes: Vec<Arc<Node>> = self.state.registry.nodes().cloned().collect();
        for node in nodes {
            if let Some(present) = self.presence.get(&node.id).cloned() {
                self.approve_offered(&node, now);
                self.approve(node, routes::announced(Some(&present)), now);
            }
        }
    }

    /// The node as it is then.
    pub(crate) fn approve(&mut self, node: Arc<Node>, announced: &[Prefix], now: UnixTime) -> Arc<Node> {
        let fresh = fresh(&self.state.policy, &self.state.registry, &node, announced);
        if fresh.is_empty() {
            return node;
        }
        let texts: Vec<String> = fresh.iter().map(Prefix::to_string).collect();
        self.note(now, format!("node:{}", node.id.0), format!("approved by the policy: {}", texts.join(",")));
        let approved_routes = node.approved_routes.iter().copied().chain(fresh).collect();
        self.events.push(Event::NodeRoutesChanged(node.id));
        self.put_node(Node { approved_routes, ..Node::clone(&node) })
    }
}
