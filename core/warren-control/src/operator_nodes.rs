//! Nodes, as an operator changes them, and what the server's own clock does to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_ip::Prefix;
use warren_wire::{NodeId, UserId};

use crate::command::{Answer, Refusal};
use crate::event::Event;
use crate::names;
use crate::operator_keys::check_tags;
use crate::presence::is_connected;
use crate::register::cut;
use crate::routes::MOST_ROUTES;
use crate::rows::{NameOrigin, Node, Owner};
use crate::staged::Staged;

impl Staged {
    pub(crate) fn expire_node(&mut self, id: NodeId, at: Option<UnixTime>, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        let wanted = at.unwrap_or(now).max(now);
        let expired = wanted <= now;
        // A key that time has ended already did not end now.
        let expiry = node.expiry.filter(|expiry| expired && *expiry <= now).unwrap_or(wanted);
        if node.logged_out && expired {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), expiry.to_rfc3339());
        let was_expired = node.expired;
        let node = self.put_node(Node { expiry: Some(expiry), expired, logged_out: expired, ..Node::clone(&node) });
        self.events.push(match (was_expired, expired) {
            (_, true) => Event::NodeExpired(id),
            (true, false) => Event::NodeRenewed(id),
            (false, false) => Event::NodeChanged(id),
        });
        Ok(Answer::Node(node))
    }

    pub(crate) fn disable_expiry(&mut self, id: NodeId, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        if node.expiry.is_none() {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), "");
        let was_expired = node.expired;
        let node = self.put_node(Node { expiry: None, expired: false, logged_out: false, ..Node::clone(&node) });
        self.events.push(if was_expired { Event::NodeRenewed(id) } else { Event::NodeChanged(id) });
        Ok(Answer::Node(node))
    }

    pub(crate) fn rename_node(&mut self, id: NodeId, name: String, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        if !names::is_label(&name) {
            let rule = "1 to 63 of a-z, 0-9 and -, no hyphen at either end";
            return Err(Refusal::Invalid(format!("{name:?} cannot be a node's name: {rule}")));
        }
        if names::is_reserved(&name) {
            return Err(Refusal::Invalid(format!(
                "{name:?} cannot be a node's name: programs ask for it and mean no node"
            )));
        }
        if node.name != name && self.state.registry.is_name_taken(&name) {
            return Err(Refusal::Taken { what: "node name", value: name });
        }
        if node.name == name && node.name_origin == NameOrigin::Chosen {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), format!("{} to {name}", node.name));
        let node = self.put_node(Node { name, name_origin: NameOrigin::Chosen, ..Node::clone(&node) });
        self.events.push(Event::NodeChanged(id));
        Ok(Answer::Node(node))
    }

    pub(crate) fn delete_node(&mut self, id: NodeId, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        self.note(now, format!("node:{}", id.0), node.name.clone());
        self.remove_node(id);
        Ok(Answer::Done)
    }

    pub(crate) fn set_tags(&mut self, id: NodeId, tags: BTreeSet<String>, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        check_tags(&tags)?;
        if tags.is_empty() {
            let way_back = "a person gets it back by logging in on it";
            return Err(Refusal::Invalid(format!("a node cannot be left without an owner; {way_back}")));
        }
        let owner = Owner::Tags(tags);
        if node.owner == owner {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), format!("{owner:?}"));
        // Tagged nodes never expire; one whose key had expired is back (control-protocol.md §11.10).
        self.put_node(Node { owner, expiry: None, expired: false, logged_out: false, ..Node::clone(&node) });
        self.events.push(Event::NodeOwnerChanged(id));
        self.approve_announced(id, now)
    }

    /// The person's key rule holds from now on; a node that was theirs or another's keeps its time.
    pub(crate) fn move_node(&mut self, id: NodeId, user: UserId, now: UnixTime) -> Result<Answer, Refusal> {
        let (node, user) = (self.node(id)?, self.user(user)?);
        let owner = Owner::User(user.id);
        if node.owner == owner {
            return Ok(Answer::Node(node));
        }
        // A machine has one node a person; a login would not know which of two is meant.
        let has_one = |other: &Arc<Node>| other.id != id && other.owner == owner;
        if let Some(other) = self.state.registry.nodes_of_machine(&node.machine_key).find(|node| has_one(node)) {
            let (name, other) = (&user.name, &other.name);
            return Err(Refusal::Conflict(format!("{name} has a node on the same machine already: {other}")));
        }
        self.note(now, format!("node:{}", id.0), format!("to user:{}", user.id.0));
        // Whoever was put out stays out: only a login or an operator's word on expiry lets it in again.
        let expiry = match node.owner {
            Owner::Tags(_) if !node.is_expired(now) => self.fresh_expiry(&owner, None, now),
            Owner::Tags(_) | Owner::User(_) => node.expiry,
        };
        self.put_node(Node { owner, expiry, ..Node::clone(&node) });
        self.events.push(Event::NodeOwnerChanged(id));
        self.approve_announced(id, now)
    }

    pub(crate) fn hide_endpoints(&mut self, id: NodeId, hide: bool, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        if node.hides_endpoints == hide {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), if hide { "hidden" } else { "shown" });
        let node = self.put_node(Node { hides_endpoints: hide, ..Node::clone(&node) });
        self.events.push(Event::NodeChanged(id));
        Ok(Answer::Node(node))
    }

    pub(crate) fn set_routes(
        &mut self,
        id: NodeId,
        mut routes: BTreeSet<Prefix>,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        if routes.len() > MOST_ROUTES {
            return Err(Refusal::Invalid(format!("more than {MOST_ROUTES} routes")));
        }
        // Half an exit node would leak the other family: both default routes or neither (§12.3, trap 72).
        if routes.contains(&Prefix::ALL_V4) || routes.contains(&Prefix::ALL_V6) {
            routes.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
        }
        if node.approved_routes == routes {
            return Ok(Answer::Node(node));
        }
        let text: Vec<String> = routes.iter().map(Prefix::to_string).collect();
        self.note(now, format!("node:{}", id.0), text.join(","));
        let node = self.put_node(Node { approved_routes: routes, ..Node::clone(&node) });
        self.events.push(Event::NodeRoutesChanged(id));
        Ok(Answer::Node(node))
    }

    /// Addresses that a node has are left alone, also those outside of the ranges of today.
    pub(crate) fn backfill_addresses(&mut self, now: UnixTime) -> Result<Answer, Refusal> {
        let nodes: Vec<Arc<Node>> = self.state.registry.nodes().cloned().collect();
        let mut changes = Vec::new();
        for node in nodes {
            let v4 = node.v4.map_or_else(|| self.take_v4(), |v4| Ok(Some(v4)))?;
            let v6 = node.v6.map_or_else(|| self.take_v6(), |v6| Ok(Some(v6)))?;
            if (v4, v6) == (node.v4, node.v6) {
                continue;
            }
            let node = self.put_node(Node { v4, v6, ..Node::clone(&node) });
            let addresses: Vec<String> = node.addresses().iter().map(|address| address.addr().to_string()).collect();
            let addresses = addresses.join(", ");
            self.note(now, format!("node:{}", node.id.0), addresses.clone());
            changes.push(format!("node {} ({}): {addresses}", node.id, node.name));
            self.events.push(Event::NodeAddressed(node.id));
        }
        Ok(Answer::Changes(changes))
    }

    pub(crate) fn follow_hostname(&mut self, id: NodeId, hostname: &str, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        let hostname = cut(hostname, 255);
        if node.hostname == hostname {
            return Ok(Answer::Node(node));
        }
        let name = self.following_name(&node, hostname);
        if name != node.name {
            self.note(now, format!("node:{}", id.0), format!("{} to {name}", node.name));
        }
        let node = self.put_node(Node { name, hostname: hostname.to_owned(), ..Node::clone(&node) });
        self.events.push(Event::NodeChanged(id));
        Ok(Answer::Node(node))
    }

    /// Time does not write rows; this does, once per node, so that sessions hear of it like of any other change.
    pub(crate) fn expire_due(&mut self, now: UnixTime) -> Result<Answer, Refusal> {
        let due: Vec<Arc<Node>> = self.state.registry.nodes().filter(|node| is_due(node, now)).cloned().collect();
        for node in due {
            let expired = !node.expired;
            let detail = if expired { "key expired" } else { "the clock was wrong: key has not expired" };
            self.note(now, format!("node:{}", node.id.0), detail);
            self.events.push(if expired { Event::NodeExpired(node.id) } else { Event::NodeRenewed(node.id) });
            self.put_node(Node { expired, ..Node::clone(&node) });
        }
        self.expire_attributes(now);
        Ok(Answer::Done)
    }

    pub(crate) fn remove_away(&mut self, id: NodeId, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        if !node.ephemeral || is_connected(&self.presence, id) {
            return Err(Refusal::Conflict(format!("node {} is not an ephemeral node that is away", id.0)));
        }
        if node.kept_out {
            // Forgotten, it would be a new device the next time, which nobody keeps out.
            return Err(Refusal::Conflict(format!("node {} is kept out, which must not be forgotten", id.0)));
        }
        self.note(now, format!("node:{}", id.0), node.name.clone());
        self.remove_node(id);
        Ok(Answer::Done)
    }
}

/// Whether the clock says otherwise of this key than its row. It may have been ahead for a while: what it alone expired is
/// good again when it is right.
pub(crate) fn is_due(node: &Node, now: UnixTime) -> bool {
    !node.logged_out && node.expired != node.expiry.is_some_and(|expiry| expiry <= now)
}
