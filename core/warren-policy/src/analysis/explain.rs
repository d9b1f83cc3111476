//! Why a packet passes, or what it would take.

use std::fmt;
use std::net::IpAddr;

use warren_wire::NodeId;

use crate::analysis::missing::{self, Missing};
use crate::analysis::packet::Packet;
use crate::analysis::passages::ranges;
use crate::analysis::place::RulePlace;
use crate::analysis::traffic::Traffic;
use crate::compile::Compiled;
use crate::policy::Policy;
use crate::resolved::Resolved;
use crate::tailnet::{PolicyNode, Tailnet};

/// The answer for one packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    pub packet: Packet,
    /// The node that holds the source address, or else one that serves the network it is in.
    pub sender: Option<NodeId>,
    /// The node whose filter decides.
    pub receiver: Option<NodeId>,
    pub answer: Answer,
}

/// Whether the packet passes, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The first rule that lets it pass.
    Allowed(RulePlace),
    /// The policy says nothing of access, and so everything passes.
    NoPolicy,
    /// No rule lets it pass. The rule that comes nearest, and what it asks that is not so.
    Refused(Option<(RulePlace, Vec<String>)>),
    /// No node has the destination, serves a network that it is in, or is an exit to it.
    NoReceiver,
}

impl Answer {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Answer::Allowed(_) | Answer::NoPolicy)
    }
}

/// Explains what becomes of a packet. `text`: the document that `policy` was read from, for places and words in it.
///
/// Where several nodes serve the destination, the first is meant whose filter lets the packet in.
pub fn explain(policy: &Policy, text: &str, tailnet: &Tailnet<'_>, packet: Packet) -> Explanation {
    let sender = sender(tailnet, packet.src).map(|node| node.id);
    let receivers = receivers(tailnet, packet.dst);
    let compiled = policy.compile(tailnet);
    let mut refused = None;
    for receiver in &receivers {
        let answer = answer(policy, text, tailnet, &compiled, &packet, receiver);
        let explanation = Explanation { packet, sender, receiver: Some(receiver.id), answer };
        if explanation.answer.is_allowed() {
            return explanation;
        }
        refused.get_or_insert(explanation);
    }
    refused.unwrap_or(Explanation { packet, sender, receiver: None, answer: Answer::NoReceiver })
}

/// The same at one node, whether or not the packet would be sent there.
pub fn explain_at(policy: &Policy, text: &str, tailnet: &Tailnet<'_>, packet: Packet, receiver: NodeId) -> Explanation {
    let sender = sender(tailnet, packet.src).map(|node| node.id);
    let answer = match tailnet.nodes.iter().find(|node| node.id == receiver) {
        Some(node) => answer(policy, text, tailnet, &policy.compile(tailnet), &packet, node),
        None => Answer::NoReceiver,
    };
    Explanation { packet, sender, receiver: Some(receiver), answer }
}

fn answer(
    policy: &Policy,
    text: &str,
    tailnet: &Tailnet<'_>,
    compiled: &Compiled,
    packet: &Packet,
    receiver: &PolicyNode,
) -> Answer {
    let Some(place) = compiled.places.get(&receiver.id).copied() else { return Answer::NoReceiver };
    if policy.allows_all() {
        let mut rules = compiled.resolved.iter().enumerate();
        let is_let_in = rules.any(|(order, resolved)| lets(compiled, order, resolved, place, packet));
        return if is_let_in { Answer::NoPolicy } else { Answer::Refused(None) };
    }
    let mut nearest: Option<Missing<'_>> = None;
    for (order, resolved) in compiled.resolved.iter().enumerate() {
        let Some(rule) = compiled.rules.get(resolved.rule) else { continue };
        if lets(compiled, order, resolved, place, packet) {
            return Answer::Allowed(RulePlace::find(text, &rule.origin));
        }
        if rule.passes_packets() {
            let missing = missing::missing(policy, tailnet, rule, packet, receiver);
            if nearest.as_ref().is_none_or(|nearest| missing.distance() < nearest.distance()) {
                nearest = Some(missing);
            }
        }
    }
    let told = |missing: Missing<'_>| (RulePlace::find(text, &missing.rule.origin), missing.reasons());
    Answer::Refused(nearest.map(told))
}

/// Whether one rule lets the packet into the node at `place`.
fn lets(compiled: &Compiled, order: usize, resolved: &Resolved, place: usize, packet: &Packet) -> bool {
    let (Some(rule), Some(facts)) = (compiled.rules.get(resolved.rule), compiled.nodes.get(place)) else {
        return false;
    };
    if !Traffic::of_access(&rule.access).contains(packet.protocol, packet.port) {
        return false;
    }
    let is_in = |texts: Vec<String>| {
        texts.iter().filter_map(|text| ranges(text)).flatten().any(|range| range.contains(packet.dst))
    };
    let is_source = compiled.sources.get(resolved.sources).is_some_and(|sources| sources.ranges.contains(packet.src));
    if resolved.routers.is_some() {
        let is_way = compiled.is_way_of(resolved, place);
        return is_source && is_way && resolved.destinations.iter().any(|to| is_in(facts.steered(to)));
    }
    if is_source && resolved.destinations.iter().any(|to| is_in(facts.concerned_by(place, to))) {
        return true;
    }
    let own = compiled.own_of(place).and_then(|own| own.from.get(&order));
    let holds = |place: &usize| compiled.nodes.get(*place).is_some_and(|facts| facts.node.addrs.contains(&packet.src));
    own.is_some_and(|from| from.places.iter().any(holds)) && facts.node.addrs.contains(&packet.dst)
}

/// The node that a source address is held by, or lies behind.
fn sender<'t>(tailnet: &Tailnet<'t>, addr: IpAddr) -> Option<&'t PolicyNode> {
    holder(tailnet, addr)
        .or_else(|| tailnet.nodes.iter().find(|node| node.subnet_routes().any(|route| route.contains(addr))))
}

pub(crate) fn holder<'t>(tailnet: &Tailnet<'t>, addr: IpAddr) -> Option<&'t PolicyNode> {
    tailnet.nodes.iter().find(|node| node.addrs.contains(&addr))
}

/// The nodes that packets to an address may go to: its holder; or hosts of the service that has it; or routers, the
/// narrowest network first; or exit nodes.
fn receivers<'t>(tailnet: &Tailnet<'t>, addr: IpAddr) -> Vec<&'t PolicyNode> {
    if let Some(node) = holder(tailnet, addr) {
        return vec![node];
    }
    if let Some(service) = tailnet.services.iter().find(|service| service.addrs.contains(&addr)) {
        return tailnet.nodes.iter().filter(|node| service.hosts.contains(&node.id)).collect();
    }
    let width =
        |node: &&PolicyNode| node.routes.iter().filter(|route| route.contains(addr)).map(|route| route.bits()).max();
    let mut routers: Vec<&PolicyNode> = tailnet.nodes.iter().filter(|node| width(node).is_some()).collect();
    routers.sort_by_key(|node| std::cmp::Reverse(width(node)));
    let narrowest = routers.first().and_then(width);
    routers.retain(|node| width(node) == narrowest);
    routers
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            Answer::Allowed(rule) => write!(f, "{} passes\n  by {rule}", self.packet),
            Answer::NoPolicy => write!(f, "{} passes: the policy says nothing of access", self.packet),
            Answer::NoReceiver => write!(f, "{} goes nowhere: no node has or serves {}", self.packet, self.packet.dst),
            Answer::Refused(None) => write!(f, "{} is refused: no rule lets packets pass", self.packet),
            Answer::Refused(Some((rule, reasons))) => {
                write!(f, "{} is refused\n  nearest is {rule}", self.packet)?;
                reasons.iter().try_for_each(|reason| write!(f, "\n  missing: {reason}"))
            }
        }
    }
}
