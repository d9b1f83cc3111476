//! Networks behind nodes: what is announced, what is approved, and what each peer is told of it.
//!
//! ```text
//! announced (the node says so)  ∩  approved (an operator or the policy)  =  served
//! served, not a default route, and this node was elected for it          =  primary    → one node a network
//! served default routes                                                  =  exit       → every exit node offers them
//! primary and exit, as far as the policy lets the viewer use them        →  AllowedIPs of the peer
//! where the policy steers a viewer (`via`), the first healthy of its list serves that viewer, elected or not
//! ```
//!
//! control-protocol.md §11.7.

use std::collections::{BTreeMap, BTreeSet};

use warren_ip::Prefix;
use warren_policy::RouteUse;
use warren_wire::NodeId;

use crate::presence::Present;
use crate::rows::{Node, ServiceId};

/// More than anybody announces by hand; bounds what one node can make all others read.
pub(crate) const MOST_ROUTES: usize = 1024;

/// What a node says that it can reach.
pub(crate) fn announced(present: Option<&Present>) -> &[Prefix] {
    let all = present.map_or(&[][..], |present| &present.hostinfo.routable_ips);
    &all[..all.len().min(MOST_ROUTES)]
}

/// What it announces and is approved for, in order. A node that has expired, or waits for an operator, serves
/// nothing.
pub(crate) fn served(node: &Node, present: Option<&Present>) -> Vec<Prefix> {
    if node.approved_routes.is_empty() || node.expired || !node.approved {
        return Vec::new();
    }
    let served: BTreeSet<Prefix> =
        announced(present).iter().filter(|route| node.approved_routes.contains(route)).copied().collect();
    served.into_iter().collect()
}

/// Who serves what now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) by_node: BTreeMap<NodeId, Served>,
}

/// What one node serves now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Networks for which it was elected, in order.
    pub primary: Vec<Prefix>,
    /// Default routes: it is an exit node.
    pub exits: Vec<Prefix>,
    /// Networks for which another was elected, or nobody.
    pub(crate) standby: Vec<Prefix>,
    /// Services that it hosts, in order.
    pub hosted: Vec<ServiceId>,
    /// Those of them for which it was elected.
    pub answers_for: Vec<ServiceId>,
    /// It is there.
    pub(crate) is_online: bool,
    /// It is there, and shows signs of life where it is asked for them.
    pub(crate) is_healthy: bool,
}

impl Served {
    /// What it is elected for and its default routes, in order.
    pub fn active(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.primary.iter().chain(&self.exits).copied()
    }
}

impl Serving {
    pub(crate) fn of(&self, node: NodeId) -> Option<&Served> {
        self.by_node.get(&node)
    }

    /// The networks behind `peer` that a viewer sends to it, by how it may use each.
    pub(crate) fn used(&self, peer: NodeId, served: &Served, way: impl Fn(Prefix) -> RouteUse) -> Vec<Prefix> {
        let is_healthy = |node: &&NodeId| self.of(**node).is_some_and(|served| served.is_healthy);
        let is_online = |node: &&NodeId| self.of(**node).is_some_and(|served| served.is_online);
        let first_of = |nodes: &[NodeId]| {
            // As in an election: one that fell silent is better than nobody.
            nodes.iter().find(is_healthy).or_else(|| nodes.iter().find(is_online)) == Some(&peer)
        };
        let active = served.active().map(|route| (route, true));
        let all = active.chain(served.standby.iter().map(|route| (*route, false)));
        let is_used = |(route, is_active): (Prefix, bool)| match way(route) {
            RouteUse::Never => false,
            RouteUse::IfPrimary => is_active,
            RouteUse::FirstOf(nodes) => first_of(&nodes),
        };
        let mut used: Vec<Prefix> = all.filter(|one| is_used(*one)).map(|(route, _)| route).collect();
        used.sort_unstable();
        used
    }
}
