//! What was decided, and who must hear of it.

use std::sync::Arc;

use warren_wire::{NodeId, UserId};

use crate::pending::AuthId;
use crate::rows::{KeyId, Node, ServiceId};

/// One thing that changed in the registry (or, for the last two, in the soft list of waiting registrations).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node that was not there before.
    NodeAdded(Arc<Node>),
    /// A known node has a new node key, or came back after its key had expired.
    NodeRekeyed(Arc<Node>),
    /// Its name, host name or key expiry changed.
    NodeChanged(NodeId),
    /// It belongs to somebody else now, or to other tags.
    NodeOwnerChanged(NodeId),
    /// It has an address that it did not have before.
    NodeAddressed(NodeId),
    /// Its approved routes changed.
    NodeRoutesChanged(NodeId),
    /// Facts about it that postures ask for were set or removed.
    NodeAttributesChanged(NodeId),
    /// Its key has expired, or it logged out.
    NodeExpired(NodeId),
    /// A key that had expired is good again.
    NodeRenewed(NodeId),
    /// An operator let it into the network, or took that back.
    NodeApproved(NodeId),
    /// It is gone.
    NodeRemoved(NodeId),
    /// A person who was not there before.
    UserAdded(UserId),
    /// Somebody's names, groups or role changed.
    UserChanged(UserId),
    /// Somebody is gone. They had no nodes.
    UserRemoved(UserId),
    /// A join key was made, used, expired or deleted.
    KeyChanged(KeyId),
    /// A service was made, changed or deleted, or may be hosted by other nodes.
    ServiceChanged {
        /// Which.
        service: ServiceId,
        /// The nodes that could be its hosts before or can be now.
        hosts: Vec<NodeId>,
    },
    /// Another policy is in force.
    PolicyReplaced,
    /// A machine waits for an operator.
    RegistrationWaiting(AuthId),
    /// An operator has decided; whoever waits for it asks again.
    RegistrationSettled(AuthId),
}

/// The smallest set of map sessions that an event can matter to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impact {
    /// No map shows it.
    Nobody,
    /// The node's own session and everyone who sees it; who sees whom stays.
    PeersOf(NodeId),
    /// Who sees the node may have changed, and so may filters that speak of it.
    Reach(NodeId),
    /// Everyone who sees a node of this user.
    WhoSees(UserId),
    /// All sessions.
    Everyone,
}

/// Who must hear of an event. Exhaustive on purpose: a new event does not compile until someone has thought about it.
pub fn impact(event: &Event) -> Impact {
    match event {
        Event::NodeAdded(node) => Impact::Reach(node.id),
        // A new key changes nothing about who may reach the node: addresses and owner stay.
        Event::NodeRekeyed(node) => Impact::PeersOf(node.id),
        Event::NodeChanged(node) => Impact::PeersOf(*node),
        Event::NodeOwnerChanged(node)
        | Event::NodeAddressed(node)
        | Event::NodeRoutesChanged(node)
        | Event::NodeAttributesChanged(node)
        | Event::NodeApproved(node)
        // Its own map is empty as long as its key cannot be used.
        | Event::NodeExpired(node)
        | Event::NodeRenewed(node)
        | Event::NodeRemoved(node) => Impact::Reach(*node),
        // A policy may have named the person before they existed.
        Event::UserAdded(_) | Event::UserRemoved(_) => Impact::Everyone,
        // Names, groups and roles are what policies match by, so reach may change with them.
        Event::UserChanged(user) => Impact::WhoSees(*user),
        Event::KeyChanged(_) => Impact::Nobody,
        // Its hosts' own affairs are `Control`'s to look after.
        Event::ServiceChanged { .. } | Event::PolicyReplaced => Impact::Everyone,
        Event::RegistrationWaiting(_) | Event::RegistrationSettled(_) => Impact::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_waiting_registrations_disturb_no_session() {
        for event in [
            Event::KeyChanged(KeyId(1)),
            Event::RegistrationWaiting(AuthId::from_bytes([1; 16])),
            Event::RegistrationSettled(AuthId::from_bytes([1; 16])),
        ] {
            assert_eq!(impact(&event), Impact::Nobody, "{event:?}");
        }
    }

    #[test]
    fn a_policy_reaches_everyone_and_a_rename_only_those_who_see_the_node() {
        assert_eq!(impact(&Event::PolicyReplaced), Impact::Everyone);
        assert_eq!(impact(&Event::NodeChanged(NodeId(4))), Impact::PeersOf(NodeId(4)));
        assert_eq!(impact(&Event::NodeRemoved(NodeId(4))), Impact::Reach(NodeId(4)));
    }
}
