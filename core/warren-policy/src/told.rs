//! What a node is told beside its filter and its peers: who may open a shell on it, and what it may do.

use warren_wire::ssh::{SshAction, SshPolicy};
use warren_wire::{CapMap, NodeId};

use crate::compile::Compiled;
use crate::node_set::NodeSet;
use crate::selector::Selector;
use crate::sources::Resolver;
use crate::ssh_table::SshCheck;

impl Compiled {
    /// The SSH policy of one node, in wire form; without rules for an unknown node, which refuses everybody.
    ///
    /// `server_url`: by which the nodes reach this control server, as in `https://control.example.com`. Sessions that are
    /// checked ask there, at `/machine/ssh/action/<source>/to/<destination>?local_user=<user>` with the ids of both nodes,
    /// and the answer comes from [`Compiled::ssh_check`].
    pub fn ssh_policy_for(&self, node: NodeId, server_url: &str) -> SshPolicy {
        self.places.get(&node).map_or_else(SshPolicy::default, |place| self.ssh.policy_for(*place, server_url))
    }

    /// Whether the policy has rules about SSH at all, so that it is worth a node's while to run a server.
    pub fn has_ssh(&self) -> bool {
        !self.ssh.is_empty()
    }

    /// How a session of `from` that wants to be the local user `user` on `to` is checked. `None`: it is not, because no
    /// rule lets it in or because the first that does asks for no check.
    pub fn ssh_check(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshCheck> {
        self.ssh.check(*self.places.get(&from)?, *self.places.get(&to)?, user)
    }

    /// What such a session is let in with, by a rule that asks for a check or by one that does not. `None`: it is not.
    pub fn ssh_accept(&self, from: NodeId, to: NodeId, user: &str) -> Option<SshAction> {
        self.ssh.accept(*self.places.get(&from)?, *self.places.get(&to)?, user)
    }

    /// What the policy says that a node may do or should do: `nodeAttrs` and `randomizeClientPort`, for the node's own
    /// record. What the server says to every node whatever the policy is not here.
    pub fn cap_map_for(&self, node: NodeId) -> CapMap {
        self.places.get(&node).map_or_else(CapMap::new, |place| self.attrs.own(*place))
    }

    /// The part of [`Compiled::cap_map_for`] that belongs into the records of this node that its peers get.
    pub fn peer_cap_map_for(&self, node: NodeId) -> CapMap {
        self.places.get(&node).map_or_else(CapMap::new, |place| self.attrs.shown(*place))
    }
}

impl Resolver<'_> {
    /// The nodes that any of the words means, by name or by address; of them those that meet one of the postures.
    pub(crate) fn nodes_meeting(&mut self, words: &[Selector], postures: &[String]) -> NodeSet {
        self.sources(words, postures).nodes
    }
}
