//! A tailnet that shows why a statement does not hold: a node that sends, a node that receives, a packet.

use std::fmt;
use std::net::IpAddr;

use warren_ip::{IpRanges, Prefix};
use warren_wire::NodeId;

use crate::analysis::devices::Attributes;
use crate::analysis::holders::{Cast, Holder, Person, Population, SOMEBODY};
use crate::analysis::packet::Packet;
use crate::analysis::passages::{lets, passages};
use crate::analysis::space::{Space, pick};
use crate::tailnet::{Attribute, PolicyNode, PolicyService, PolicyUser, Tailnet};

/// Nodes that the policy admits, and a packet between them that a statement says the opposite of.
#[derive(Clone, PartialEq, Debug)]
pub struct Counterexample {
    /// The owners, and everyone who was known.
    pub users: Vec<PolicyUser>,
    /// The first sends, the second receives.
    pub nodes: Vec<PolicyNode>,
    /// The one that the packet is for, if it is for one.
    pub services: Vec<PolicyService>,
    pub packet: Packet,
    /// Whether the receiving node's filter lets the packet in.
    pub is_allowed: bool,
}

/// How a packet leaves the node that sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// From its own address.
    Own,
    /// From a network behind it.
    Behind,
}

/// How a packet arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// At the node's own address.
    Own,
    /// At a network behind the node.
    Router,
    /// At a public address, and the node is the exit.
    Exit,
    /// At a service that the node hosts; at its name if that matters.
    Service(Option<String>),
}

/// Everything that a made-up tailnet depends on.
pub(crate) struct Scene<'a> {
    pub(crate) origin: Origin,
    pub(crate) sender: Option<Holder>,
    pub(crate) attributes: Attributes,
    pub(crate) arrival: Arrival,
    pub(crate) receiver: Option<Holder>,
    /// Whether the two nodes must be one person's.
    pub(crate) is_own: bool,
    pub(crate) packet: Packet,
    /// Where the receiver's own address must lie if it is not the packet's destination.
    pub(crate) receiver_lives: Option<&'a IpRanges>,
    /// A rule with `via` asks that the receiver serve the destination even where it is its own address.
    pub(crate) serves_own: bool,
}

impl Scene<'_> {
    /// Builds the tailnet and asks the receiving node's compiled filter; `None` if it cannot be built.
    pub(crate) fn play(&self, population: &Population<'_>, space: &Space) -> Option<Counterexample> {
        let nobody = Holder::Person(Person::nobody());
        let (sender, receiver) = (self.sender.as_ref().unwrap_or(&nobody), self.receiver.as_ref().unwrap_or(&nobody));
        let mut cast = Cast::new(population);
        let sender_owner = cast.owner(sender);
        let is_same = self.is_own || population.must_be_one(sender, receiver);
        let receiver_owner = if is_same { sender_owner } else { cast.owner(receiver) };
        let packet = self.packet;
        let mut taken = vec![packet.src, packet.dst];
        let own = (self.origin == Origin::Own).then_some(packet.src);
        let addrs = addresses(own, &space.overlay, &mut taken)?;
        let routes = if self.origin == Origin::Behind { vec![Prefix::host(packet.src)] } else { Vec::new() };
        cast.node(sender, sender_owner, addrs, routes);
        let own = (self.arrival == Arrival::Own).then_some(packet.dst);
        let addrs = addresses(own, self.receiver_lives.unwrap_or(&space.overlay), &mut taken)?;
        let routes = match &self.arrival {
            Arrival::Router => vec![Prefix::host(packet.dst)],
            Arrival::Exit => vec![Prefix::ALL_V4, Prefix::ALL_V6],
            Arrival::Own if self.serves_own => vec![Prefix::host(packet.dst)],
            Arrival::Own | Arrival::Service(_) => Vec::new(),
        };
        cast.node(receiver, receiver_owner, addrs, routes);
        let mut services = Vec::new();
        if let Arrival::Service(name) = &self.arrival {
            let name = name.clone().unwrap_or_else(|| "svc:some".to_owned());
            services.push(PolicyService { name, addrs: vec![packet.dst], hosts: vec![NodeId(2)] });
        }
        if let Some(node) = cast.nodes.first_mut() {
            node.attributes = self.attributes.clone();
        }
        let tailnet = Tailnet { users: &cast.users, nodes: &cast.nodes, services: &services };
        let is_allowed = lets(&passages(&population.policy.compile(&tailnet).filter_for(NodeId(2))), &packet);
        Some(Counterexample { users: cast.users, nodes: cast.nodes, services, packet, is_allowed })
    }
}

/// Both families, one of them given or none.
fn addresses(own: Option<IpAddr>, set: &IpRanges, taken: &mut Vec<IpAddr>) -> Option<Vec<IpAddr>> {
    let mut addrs = Vec::new();
    for is_ipv4 in [true, false] {
        match own.filter(|own| own.is_ipv4() == is_ipv4).or_else(|| pick(set, is_ipv4, taken)) {
            Some(addr) => {
                taken.push(addr);
                addrs.push(addr);
            }
            None => continue,
        }
    }
    (!addrs.is_empty()).then_some(addrs)
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_allowed { "passes" } else { "is refused" };
        writeln!(f, "{} {verb}", self.packet)?;
        for (node, role) in self.nodes.iter().zip(["from", "into"]) {
            writeln!(f, "  {role} a node {}", self.describe(node))?;
        }
        for service in &self.services {
            writeln!(f, "  for {} at {}", service.name, list(&service.addrs))?;
        }
        Ok(())
    }
}

impl Counterexample {
    fn describe(&self, node: &PolicyNode) -> String {
        let mut text = match self.users.iter().find(|user| Some(user.id) == node.user) {
            _ if !node.tags.is_empty() => format!("with {}", node.tags.join(" and ")),
            Some(user) => format!("of {}", describe_user(user)),
            None => "of nobody".to_owned(),
        };
        text.push_str(&format!(" at {}", list(&node.addrs)));
        if !node.routes.is_empty() {
            text.push_str(&format!(", serving {}", list(&node.routes)));
        }
        for (name, value) in &node.attributes {
            let value = match value {
                Attribute::Text(text) => format!("'{text}'"),
                Attribute::Number(number) => number.to_string(),
                Attribute::Bool(value) => value.to_string(),
            };
            text.push_str(&format!(", {name} = {value}"));
        }
        text
    }
}

/// A person with what policies can ask of one.
pub(crate) fn describe_user(user: &PolicyUser) -> String {
    let mut text = if user.email.is_empty() { user.name.clone() } else { user.email.clone() };
    let is_made_up = user.name.starts_with(SOMEBODY);
    if !user.email.is_empty() && !is_made_up && !user.name.is_empty() && !user.email.starts_with(&user.name) {
        text.push_str(&format!(" (login {})", user.name));
    }
    if !user.groups.is_empty() {
        text.push_str(&format!(", claimed for {}", user.groups.join(", ")));
    }
    for role in &user.roles {
        text.push_str(&format!(", {role:?}"));
    }
    text
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
