//! What a rule asks of a packet that is not so.

use warren_wire::PortRange;

use crate::analysis::explain::holder;
use crate::analysis::packet::Packet;
use crate::analysis::space::literal;
use crate::analysis::traffic::Traffic;
use crate::people::Directory;
use crate::policy::Policy;
use crate::rule::{Access, Rule};
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, PolicyUser, Tailnet};

/// What keeps one rule from letting one packet pass; each part is a sentence for a person.
#[derive(Clone, Debug)]
pub(crate) struct Missing<'r> {
    pub(crate) rule: &'r Rule,
    port: Option<String>,
    posture: Option<String>,
    way: Option<String>,
    source: Option<String>,
    destination: Option<String>,
}

impl Missing<'_> {
    /// Smaller is nearer: fewer things missing, and things that are easier to change.
    pub(crate) fn distance(&self) -> (usize, u32) {
        let parts = [&self.port, &self.posture, &self.way, &self.source, &self.destination];
        let weight = parts.iter().enumerate().filter(|(_, part)| part.is_some()).map(|(place, _)| 1 << place).sum();
        (parts.iter().filter(|part| part.is_some()).count(), weight)
    }

    pub(crate) fn reasons(self) -> Vec<String> {
        [self.source, self.destination, self.port, self.posture, self.way].into_iter().flatten().collect()
    }
}

/// Compares a rule with a packet on its way into `receiver`.
pub(crate) fn missing<'r>(
    policy: &Policy,
    tailnet: &Tailnet<'_>,
    rule: &'r Rule,
    packet: &Packet,
    receiver: &PolicyNode,
) -> Missing<'r> {
    let from = holder(tailnet, packet.src);
    let asking = Asking { policy, tailnet, rule, packet, receiver, from };
    Missing {
        rule,
        port: asking.port(),
        posture: asking.posture(),
        way: asking.way(),
        source: asking.source(),
        destination: asking.destination(),
    }
}

struct Asking<'a> {
    policy: &'a Policy,
    tailnet: &'a Tailnet<'a>,
    rule: &'a Rule,
    packet: &'a Packet,
    receiver: &'a PolicyNode,
    /// The node whose own address the source is.
    from: Option<&'a PolicyNode>,
}

impl Asking<'_> {
    fn port(&self) -> Option<String> {
        if Traffic::of_access(&self.rule.access).contains(self.packet.protocol, self.packet.port) {
            return None;
        }
        let allowed = self.rule.access.iter().map(describe_access).collect::<Vec<_>>().join("; ");
        let speaks = |entry: &Access| entry.protocol.is_none_or(|protocol| protocol == self.packet.protocol);
        Some(if self.packet.protocol.has_ports() && self.rule.access.iter().any(speaks) {
            format!("port {} is not in {allowed}", self.packet.port)
        } else {
            format!("{} is not in {allowed}", self.packet.protocol)
        })
    }

    fn posture(&self) -> Option<String> {
        let from = self.from?;
        let meets = self.policy.meets_any(&self.rule.postures, &from.attributes);
        (!meets).then(|| format!("src meets none of {}", self.rule.postures.join(", ")))
    }

    fn way(&self) -> Option<String> {
        let via = &self.rule.via;
        if via.is_empty() {
            return None;
        }
        if !via.iter().any(|tag| self.receiver.tags.contains(tag)) {
            return Some(format!(
                "the rule is for networks behind {}, and the node that receives has {}",
                via.join(" or "),
                tags(self.receiver)
            ));
        }
        let serves = self.receiver.routes.iter().any(|route| route.contains(self.packet.dst));
        (!serves).then(|| format!("the node that receives serves no network with {}", self.packet.dst))
    }

    fn source(&self) -> Option<String> {
        let words = &self.rule.sources;
        if words.iter().any(|word| self.is_source(word)) {
            return None;
        }
        Some(match self.from {
            None => format!("{} is not in {}", self.packet.src, list(words)),
            Some(node) => self.is_not(node, "src", words),
        })
    }

    fn is_source(&self, word: &Selector) -> bool {
        if let Some(set) = literal(self.policy, word) {
            return set.contains(self.packet.src);
        }
        match word {
            Selector::Everyone => {
                self.from.is_some()
                    || self
                        .tailnet
                        .nodes
                        .iter()
                        .any(|node| node.subnet_routes().any(|route| route.contains(self.packet.src)))
            }
            Selector::Autogroup(Autogroup::DangerAll) => true,
            _ => self.from.is_some_and(|node| self.names(word, node)),
        }
    }

    fn destination(&self) -> Option<String> {
        let words = &self.rule.destinations;
        if words.iter().any(|word| self.is_destination(word)) {
            return None;
        }
        let dst = holder(self.tailnet, self.packet.dst);
        if let ([Selector::Autogroup(Autogroup::Selves)], Some(to)) = (&words[..], dst) {
            return Some(format!(
                "autogroup:self is the source's own devices: src is {}, dst is {}",
                self.who(self.from),
                self.who(Some(to))
            ));
        }
        Some(match dst {
            None => format!("{} is not in {}", self.packet.dst, list(words)),
            Some(node) => self.is_not(node, "dst", words),
        })
    }

    fn is_destination(&self, word: &Selector) -> bool {
        let dst = holder(self.tailnet, self.packet.dst);
        if let Some(set) = literal(self.policy, word) {
            return set.contains(self.packet.dst);
        }
        match word {
            Selector::Everyone => self.rule.via.is_empty(),
            Selector::Autogroup(Autogroup::Selves) => match (self.from, dst) {
                (Some(from), Some(to)) => from.owner().is_some() && from.owner() == to.owner(),
                _ => false,
            },
            Selector::Service(name) => self
                .tailnet
                .services
                .iter()
                .any(|service| service.name == *name && service.addrs.contains(&self.packet.dst)),
            _ => dst.is_some_and(|node| self.names(word, node)),
        }
    }

    fn names(&self, word: &Selector, node: &PolicyNode) -> bool {
        match word {
            Selector::Tag(tag) => node.tags.contains(tag),
            Selector::Autogroup(Autogroup::Tagged) => !node.tags.is_empty(),
            Selector::Autogroup(Autogroup::Member) => node.tags.is_empty(),
            _ => {
                let directory = Directory::new(self.tailnet.users);
                self.owner(node).is_some_and(|owner| directory.is_named(self.policy, word, owner.id))
            }
        }
    }

    fn owner(&self, node: &PolicyNode) -> Option<&PolicyUser> {
        let owner = node.owner()?;
        self.tailnet.users.iter().find(|user| user.id == owner)
    }

    /// Why none of the words names the node.
    fn is_not(&self, node: &PolicyNode, end: &str, words: &[Selector]) -> String {
        if !node.tags.is_empty() {
            return format!("{end} has {}, the rule names {}", tags(node), list(words));
        }
        let who = self.who(Some(node));
        match words {
            [group @ Selector::Group(_)] => format!("{who} is not in {group}"),
            [tag @ Selector::Tag(_)] => format!("{end} is {who}'s and has no tags, the rule names {tag}"),
            _ => format!("{end} is {who}'s, the rule names {}", list(words)),
        }
    }

    fn who(&self, node: Option<&PolicyNode>) -> String {
        match node {
            None => "no node".to_owned(),
            Some(node) if !node.tags.is_empty() => tags(node),
            Some(node) => match self.owner(node) {
                Some(user) if user.email.is_empty() => user.name.clone(),
                Some(user) => user.email.clone(),
                None => "nobody".to_owned(),
            },
        }
    }
}

fn tags(node: &PolicyNode) -> String {
    if node.tags.is_empty() { "no tags".to_owned() } else { node.tags.join(", ") }
}

fn list(words: &[Selector]) -> String {
    if words.is_empty() {
        return "nothing".to_owned();
    }
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn describe_access(entry: &Access) -> String {
    let text = |range: &PortRange| match *range {
        PortRange::ANY => "*".to_owned(),
        PortRange { first, last } if first == last => first.to_string(),
        PortRange { first, last } => format!("{first}-{last}"),
    };
    let ports = entry.ports.iter().map(text).collect::<Vec<_>>().join(",");
    match entry.protocol {
        None => ports,
        Some(protocol) => format!("{protocol} {ports}"),
    }
}
