//! Selectors resolved against a tailnet: addresses, and the nodes that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use warren_ip::{IpRange, IpRanges, Prefix};
use warren_wire::UserId;

use crate::node_set::NodeSet;
use crate::people::Directory;
use crate::policy::Policy;
use crate::resolved::Destination;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, Tailnet};

/// Everything that resolving one rule after another needs, built once.
pub(crate) struct Resolver<'a> {
    policy: &'a Policy,
    tailnet: Tailnet<'a>,
    directory: Directory<'a>,
    by_owner: BTreeMap<UserId, Vec<usize>>,
    by_tag: BTreeMap<&'a str, Vec<usize>>,
    /// Every address of every node, in order.
    by_addr: Vec<(IpAddr, usize)>,
    /// Nodes with networks behind them, the only ones whose reach is not their own addresses.
    routed: Vec<usize>,
    exits: NodeSet,
    /// People's nodes by the selectors that name them.
    known: BTreeMap<Selector, Vec<usize>>,
    destinations: BTreeMap<Selector, (Destination, Arc<NodeSet>)>,
    /// Addresses that may be sources, by the postures that are asked for.
    admitted: BTreeMap<Vec<String>, IpRanges>,
    pub(crate) problems: BTreeSet<String>,
}

/// Sources of a rule, as they stand on the wire and as nodes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sources {
    /// Addresses, networks, ranges or `*`, each once.
    pub(crate) texts: Vec<String>,
    /// Every address that counts as a source.
    pub(crate) ranges: IpRanges,
    /// Nodes that one of the addresses belongs to.
    pub(crate) nodes: NodeSet,
    /// The same and the nodes that a source may lie behind.
    pub(crate) reach: NodeSet,
    /// The networks among the sources that are not just the addresses of nodes named.
    pub(crate) networks: IpRanges,
    /// Those of the networks that the policy names itself: hosts, addresses, sets.
    pub(crate) literals: IpRanges,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(policy: &'a Policy, tailnet: Tailnet<'a>) -> Resolver<'a> {
        let mut resolver = Resolver {
            policy,
            tailnet,
            directory: Directory::new(tailnet.users),
            known: BTreeMap::new(),
            destinations: BTreeMap::new(),
            admitted: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            by_addr: Vec::new(),
            routed: Vec::new(),
            exits: NodeSet::new(tailnet.nodes.len()),
            problems: BTreeSet::new(),
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
            if node.is_exit() {
                resolver.exits.insert(index);
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

    fn no_nodes(&self) -> NodeSet {
        NodeSet::new(self.tailnet.nodes.len())
    }

    /// The nodes that a selector names as such, in order; `None` if it names addresses instead.
    pub(crate) fn named_nodes(&mut self, selector: &Selector) -> Option<Vec<usize>> {
        let nodes = 0..self.tailnet.nodes.len();
        Some(match selector {
            Selector::Tag(tag) => self.by_tag.get(tag.as_str()).cloned().unwrap_or_default(),
            Selector::Autogroup(Autogroup::Member) => nodes.filter(|index| self.node(*index).tags.is_empty()).collect(),
            Selector::Autogroup(Autogroup::Tagged) => {
                nodes.filter(|index| !self.node(*index).tags.is_empty()).collect()
            }
            Selector::Autogroup(Autogroup::Shared) => Vec::new(),
            Selector::User(_) | Selector::Domain(_) | Selector::Group(_) | Selector::Autogroup(Autogroup::Role(_)) => {
                // A word that means nobody, or more than one person, means no node: access fails closed, and the
                // problem is kept.
                if let Some(nodes) = self.known.get(selector) {
                    return Some(nodes.clone());
                }
                let named = self.directory.named(self.policy, selector)?;
                self.problems.extend(named.problems);
                let owned = named.users.iter().filter_map(|user| self.by_owner.get(user));
                let mut nodes: Vec<usize> = owned.flatten().copied().collect();
                nodes.sort_unstable();
                self.known.insert(selector.clone(), nodes.clone());
                nodes
            }
            Selector::Autogroup(Autogroup::Selves | Autogroup::Internet | Autogroup::DangerAll)
            | Selector::Everyone
            | Selector::Host(_)
            | Selector::IpSet(_)
            | Selector::Service(_)
            | Selector::Address(_) => return None,
        })
    }

    /// The networks that a selector names by themselves.
    pub(crate) fn literal(&self, selector: &Selector) -> Option<IpRanges> {
        match selector {
            Selector::Address(prefix) => Some([*prefix].into_iter().collect()),
            Selector::Host(name) => self.policy.hosts.get(name).map(|prefix| [*prefix].into_iter().collect()),
            Selector::IpSet(name) => self.policy.ip_sets.get(name).cloned(),
            _ => None,
        }
    }

    pub(crate) fn addresses_of(&self, nodes: &[usize]) -> IpRanges {
        nodes.iter().flat_map(|index| &self.node(*index).addrs).map(|addr| IpRange::from(*addr)).collect()
    }

    /// Resolves the sources of a rule.
    pub(crate) fn sources(&mut self, selectors: &[Selector], postures: &[String]) -> Sources {
        let mut named: Vec<IpRange> = Vec::new();
        let mut wildcard: Vec<IpRange> = Vec::new();
        let mut literals = IpRanges::new();
        let mut is_every_source = false;
        for selector in selectors {
            match selector {
                Selector::Autogroup(Autogroup::DangerAll) => is_every_source = true,
                Selector::Everyone => wildcard = self.overlay_sources(),
                _ => match self.named_nodes(selector) {
                    Some(nodes) => named.extend(self.addresses_of(&nodes).iter()),
                    None => literals.extend(self.literal(selector).iter().flat_map(|ranges| ranges.iter())),
                },
            }
        }
        let admitted = self.addresses_meeting(postures);
        if is_every_source {
            let ranges = admitted.clone().unwrap_or_else(everywhere);
            let texts = match admitted {
                None => vec!["*".to_owned()],
                Some(admitted) => admitted.iter().map(|range| range.to_string()).collect(),
            };
            let nodes = self.nodes_at(&ranges);
            let networks = ranges.clone();
            return Sources {
                texts,
                reach: self.with_routed(nodes.clone(), &ranges),
                nodes,
                ranges,
                networks,
                literals,
            };
        }
        let mut explicit: IpRanges = named.into_iter().chain(literals.iter()).collect();
        let mut networks: IpRanges = wildcard.iter().copied().chain(literals.iter()).collect();
        let mut ranges: IpRanges = wildcard.iter().copied().chain(explicit.iter()).collect();
        if let Some(admitted) = admitted {
            for set in [&mut explicit, &mut networks, &mut ranges, &mut literals] {
                *set = set.intersection(&admitted);
            }
            let within = |range: IpRange| [range].into_iter().collect::<IpRanges>().intersection(&admitted);
            wildcard = wildcard.into_iter().flat_map(|range| within(range).iter().collect::<Vec<_>>()).collect();
        }
        let texts: BTreeSet<String> =
            wildcard.into_iter().chain(explicit.iter()).map(|range| range.to_string()).collect();
        let nodes = self.nodes_at(&ranges);
        let reach = self.with_routed(nodes.clone(), &ranges);
        Sources { texts: texts.into_iter().collect(), ranges, nodes, reach, networks, literals }
    }

    /// Every address but those of the nodes that meet none of the postures. `None` if none is asked for.
    fn addresses_meeting(&mut self, postures: &[String]) -> Option<IpRanges> {
        if postures.is_empty() {
            return None;
        }
        if let Some(admitted) = self.admitted.get(postures) {
            return Some(admitted.clone());
        }
        let refused = self.tailnet.nodes.iter().filter(|node| !self.policy.meets_any(postures, &node.attributes));
        let refused: IpRanges = refused.flat_map(|node| &node.addrs).map(|addr| IpRange::from(*addr)).collect();
        let admitted = refused.complement();
        self.admitted.insert(postures.to_vec(), admitted.clone());
        Some(admitted)
    }

    /// `*` as a source: every address that an overlay node can have, and every network behind one.
    pub(crate) fn overlay_sources(&self) -> Vec<IpRange> {
        let mut overlay: IpRanges = [prefix("100.64.0.0/10"), prefix("fd7a:115c:a1e0::/48")].into_iter().collect();
        // Set aside for ChromeOS's own virtual machines, which stock nodes therefore never get.
        overlay.subtract(prefix("100.115.92.0/23").into());
        // An operator may give out other addresses.
        overlay.extend(self.by_addr.iter().map(|(addr, _)| IpRange::from(*addr)));
        let routes = self.routed.iter().flat_map(|index| self.node(*index).subnet_routes());
        overlay.iter().chain(routes.map(IpRange::from)).collect()
    }

    /// What one destination means here, and the nodes that whoever may reach it must see.
    pub(crate) fn destination(&mut self, selector: &Selector) -> (Destination, Arc<NodeSet>) {
        if let Some(known) = self.destinations.get(selector) {
            return known.clone();
        }
        let (destination, reach) = self.new_destination(selector);
        let new = (destination, Arc::new(reach));
        self.destinations.insert(selector.clone(), new.clone());
        new
    }

    fn new_destination(&mut self, selector: &Selector) -> (Destination, NodeSet) {
        match selector {
            Selector::Everyone => {
                let mut everyone = self.no_nodes();
                (0..self.tailnet.nodes.len()).for_each(|place| everyone.insert(place));
                (Destination::Everything, everyone)
            }
            Selector::Autogroup(Autogroup::Selves) => (Destination::Selves, self.no_nodes()),
            Selector::Autogroup(Autogroup::Internet) => {
                let public = internet();
                let mut reach = self.with_routed(self.nodes_at(&public), &public);
                reach.union_with(&self.exits);
                (Destination::Internet, reach)
            }
            Selector::Service(name) => self.service(name),
            _ => match self.named_nodes(selector) {
                Some(nodes) => {
                    let ranges = self.addresses_of(&nodes);
                    if ranges.is_empty() {
                        return (Destination::Nothing, self.no_nodes());
                    }
                    let nodes = self.nodes_at(&ranges);
                    let reach = self.with_routed(nodes.clone(), &ranges);
                    (Destination::Nodes { nodes: Arc::new(nodes), ranges: Arc::new(ranges) }, reach)
                }
                None => {
                    let Some(ranges) = self.literal(selector).filter(|ranges| !ranges.is_empty()) else {
                        return (Destination::Nothing, self.no_nodes());
                    };
                    let mut reach = self.with_routed(self.nodes_at(&ranges), &ranges);
                    if is_whole(&ranges) {
                        reach.union_with(&self.exits);
                    }
                    (Destination::Networks(Arc::new(ranges)), reach)
                }
            },
        }
    }

    fn service(&mut self, name: &str) -> (Destination, NodeSet) {
        let Some(service) = self.tailnet.services.iter().find(|service| service.name == name) else {
            self.problems.insert(format!("no service found: {name}"));
            return (Destination::Nothing, self.no_nodes());
        };
        let mut hosts = self.no_nodes();
        for (place, node) in self.tailnet.nodes.iter().enumerate() {
            if service.hosts.contains(&node.id) {
                hosts.insert(place);
            }
        }
        let ranges: IpRanges = service.addrs.iter().map(|addr| IpRange::from(*addr)).collect();
        (Destination::Service { hosts: Arc::new(hosts.clone()), ranges: Arc::new(ranges) }, hosts)
    }

    /// Nodes with one of the tags.
    pub(crate) fn tagged(&self, tags: &[String]) -> NodeSet {
        let mut nodes = self.no_nodes();
        for tag in tags {
            self.by_tag.get(tag.as_str()).into_iter().flatten().for_each(|place| nodes.insert(*place));
        }
        nodes
    }

    /// Nodes with an address in the set. Costs what it finds, not what there is.
    pub(crate) fn nodes_at(&self, ranges: &IpRanges) -> NodeSet {
        let mut nodes = self.no_nodes();
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

/// Whether these networks hold all of one family or all of the public internet, which is what an exit node is for.
pub(crate) fn is_whole(ranges: &IpRanges) -> bool {
    ranges.covers(Prefix::ALL_V4.into()) || ranges.covers(Prefix::ALL_V6.into()) || ranges.covers_all(&internet())
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
