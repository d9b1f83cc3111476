//! Selectors resolved against a tailnet: addresses, and the nodes that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use warren_ip::{IpRange, IpRanges, Prefix};
use warren_wire::UserId;

use crate::node_set::NodeSet;
use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, Tailnet, find_users};

/// Everything that resolving one rule after another needs, built once.
pub(crate) struct Resolver<'a> {
    policy: &'a Policy,
    tailnet: Tailnet<'a>,
    by_owner: BTreeMap<UserId, Vec<usize>>,
    by_tag: BTreeMap<&'a str, Vec<usize>>,
    /// Every address of every node, in order.
    by_addr: Vec<(IpAddr, usize)>,
    /// Nodes with networks behind them, the only ones whose reach is not their own addresses.
    routed: Vec<usize>,
    pub(crate) problems: Vec<String>,
}

/// Sources of a rule, as they stand on the wire and as nodes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sources {
    /// Addresses, networks, ranges or `*`, each once.
    pub(crate) texts: Vec<String>,
    /// Nodes that one of the addresses belongs to.
    pub(crate) nodes: NodeSet,
    /// The same and the nodes that a source may lie behind.
    pub(crate) reach: NodeSet,
    /// The networks among the sources that are not just the addresses of nodes named.
    pub(crate) networks: IpRanges,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(policy: &'a Policy, tailnet: Tailnet<'a>) -> Resolver<'a> {
        let mut resolver = Resolver {
            policy,
            tailnet,
            by_owner: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            by_addr: Vec::new(),
            routed: Vec::new(),
            problems: Vec::new(),
        };
        for (index, node) in tailnet.nodes.iter().enumerate() {
            if let Some(owner) = node.owner() {
                resolver.by_owner.entry(owner).or_default().push(index);
            }
            for tag in &node.tags {
                resolver.by_tag.entry(tag).or_default().push(index);
            }
            resolver.by_addr.extend(node.addrs.iter().map(|addr| (*addr, index)));
            if node.subnet_routes().next().is_some() {
                resolver.routed.push(index);
            }
        }
        resolver.by_addr.sort_unstable();
        resolver
    }

    pub(crate) fn owners(&self) -> &BTreeMap<UserId, Vec<usize>> {
        &self.by_owner
    }

    fn node(&self, index: usize) -> &'a PolicyNode {
        &self.tailnet.nodes[index]
    }

    /// The nodes that a selector names as such; `None` if it names addresses instead.
    pub(crate) fn named_nodes(&mut self, selector: &Selector) -> Option<Vec<usize>> {
        let nodes = 0..self.tailnet.nodes.len();
        Some(match selector {
            Selector::User(token) => self.nodes_of_user(token),
            Selector::Group(name) => {
                let members: Vec<String> = self.policy.members(name).map(str::to_owned).collect();
                members.iter().flat_map(|token| self.nodes_of_user(token)).collect()
            }
            Selector::Tag(tag) => self.by_tag.get(tag.as_str()).cloned().unwrap_or_default(),
            Selector::Autogroup(Autogroup::Member) => nodes.filter(|index| self.node(*index).tags.is_empty()).collect(),
            Selector::Autogroup(Autogroup::Tagged) => {
                nodes.filter(|index| !self.node(*index).tags.is_empty()).collect()
            }
            Selector::Autogroup(Autogroup::Selves | Autogroup::Internet | Autogroup::DangerAll)
            | Selector::Everyone
            | Selector::Host(_)
            | Selector::Address(_) => return None,
        })
    }

    /// A word that means nobody, or more than one person, means no node: access fails closed, and the problem is kept.
    fn nodes_of_user(&mut self, token: &str) -> Vec<usize> {
        match find_users(self.tailnet.users, token)[..] {
            [user] => self.by_owner.get(&user.id).cloned().unwrap_or_default(),
            [] => {
                self.problems.push(format!("no user found: token {token}"));
                Vec::new()
            }
            _ => {
                self.problems.push(format!("multiple users found: token {token}"));
                Vec::new()
            }
        }
    }

    /// The literal network of a host name or address selector.
    pub(crate) fn literal(&self, selector: &Selector) -> Option<Prefix> {
        match selector {
            Selector::Address(prefix) => Some(*prefix),
            Selector::Host(name) => self.policy.hosts.get(name).copied(),
            _ => None,
        }
    }

    pub(crate) fn addresses_of(&self, nodes: &[usize]) -> IpRanges {
        nodes.iter().flat_map(|index| &self.node(*index).addrs).map(|addr| IpRange::from(*addr)).collect()
    }

    /// Resolves the sources of a rule.
    pub(crate) fn sources(&mut self, selectors: &[Selector]) -> Sources {
        let mut ranges: Vec<IpRange> = Vec::new();
        let mut wildcard: Vec<IpRange> = Vec::new();
        let mut literals: Vec<IpRange> = Vec::new();
        for selector in selectors {
            match selector {
                Selector::Autogroup(Autogroup::DangerAll) => return self.every_source(),
                Selector::Everyone => wildcard = self.overlay_sources(),
                _ => match self.named_nodes(selector) {
                    Some(nodes) => ranges.extend(self.addresses_of(&nodes).iter()),
                    None => literals.extend(self.literal(selector).map(IpRange::from)),
                },
            }
        }
        let networks: IpRanges = wildcard.iter().chain(&literals).copied().collect();
        let explicit: IpRanges = ranges.into_iter().chain(literals).collect();
        let texts: BTreeSet<String> =
            wildcard.iter().copied().chain(explicit.iter()).map(|range| range.to_string()).collect();
        let all: IpRanges = wildcard.into_iter().chain(explicit.iter()).collect();
        let nodes = self.nodes_at(&all);
        let reach = self.with_routed(nodes.clone(), &all);
        Sources { texts: texts.into_iter().collect(), nodes, reach, networks }
    }

    fn every_source(&self) -> Sources {
        let mut nodes = NodeSet::new(self.tailnet.nodes.len());
        (0..self.tailnet.nodes.len()).for_each(|index| nodes.insert(index));
        Sources { texts: vec!["*".to_owned()], reach: nodes.clone(), nodes, networks: everywhere() }
    }

    /// `*` as a source: every address that an overlay node can have, and every network behind one.
    fn overlay_sources(&self) -> Vec<IpRange> {
        let mut overlay: IpRanges = [prefix("100.64.0.0/10"), prefix("fd7a:115c:a1e0::/48")].into_iter().collect();
        // Set aside for ChromeOS's own virtual machines, which stock nodes therefore never get.
        overlay.subtract(prefix("100.115.92.0/23").into());
        let routes = self.routed.iter().flat_map(|index| self.node(*index).subnet_routes());
        overlay.iter().chain(routes.map(IpRange::from)).collect()
    }

    /// Nodes with an address in the set. Costs what it finds, not what there is.
    pub(crate) fn nodes_at(&self, ranges: &IpRanges) -> NodeSet {
        let mut nodes = NodeSet::new(self.tailnet.nodes.len());
        for range in ranges.iter() {
            let from = self.by_addr.partition_point(|(addr, _)| *addr < range.first());
            let inside = self.by_addr[from..].iter().take_while(|(addr, _)| *addr <= range.last());
            inside.for_each(|(_, index)| nodes.insert(*index));
        }
        nodes
    }

    /// The same nodes and those with a network behind them that shares an address with the set.
    pub(crate) fn with_routed(&self, mut nodes: NodeSet, ranges: &IpRanges) -> NodeSet {
        for index in &self.routed {
            if self.node(*index).subnet_routes().any(|route| ranges.overlaps(route.into())) {
                nodes.insert(*index);
            }
        }
        nodes
    }
}

/// Every address of both families.
pub(crate) fn everywhere() -> IpRanges {
    [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect()
}

/// Public address space: what an exit node is for (user-surface.md §4.2).
pub(crate) fn internet() -> IpRanges {
    let mut public: IpRanges = [Prefix::ALL_V4, prefix("2000::/3")].into_iter().collect();
    for private in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"] {
        public.subtract(prefix(private).into());
    }
    public
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a constant network")
}
