//! A policy over one tailnet: filters and visibility.
//!
//! The order of rules and what is merged follow the reference (user-surface.md §4.5), because stock clients show it and
//! tools compare it: each destination of each rule is an item; items with the same sources and protocol become one rule
//! at the place of the first; then each node keeps of it what concerns that node.

use std::collections::BTreeMap;

use warren_ip::{IpRange, IpRanges, Prefix, Protocol};
use warren_wire::{FilterRule, NetPortRange, NodeId, PortRange, UserId};

use crate::node_set::NodeSet;
use crate::policy::{Policy, Rule};
use crate::selector::{Autogroup, Selector};
use crate::sources::{Resolver, Sources, everywhere, internet};
use crate::tailnet::{PolicyNode, Tailnet};

/// What a policy means for these users and nodes. Holds until either changes.
#[derive(Clone, Debug)]
pub struct Compiled {
    nodes: Vec<NodeFacts>,
    places: BTreeMap<NodeId, usize>,
    allows_all: bool,
    /// Distinct lists of sources as they stand on the wire.
    source_texts: Vec<Vec<String>>,
    items: Vec<Item>,
    links: Vec<Link>,
    /// What `autogroup:self` gives, by the owner of the devices.
    selves: BTreeMap<UserId, Vec<SelfItem>>,
    problems: Vec<String>,
}

#[derive(Clone, Debug)]
struct NodeFacts {
    node: PolicyNode,
    is_routed: bool,
    is_exit: bool,
}

/// One destination of one rule, in the order of the policy.
#[derive(Clone, Debug)]
struct Item {
    order: usize,
    /// Place in `source_texts`.
    sources: usize,
    destination: Destination,
    ports: Vec<PortRange>,
    protocol: Option<Protocol>,
}

#[derive(Clone, Debug)]
enum Destination {
    Everything,
    /// Nodes by name: each is told of its own addresses only.
    Nodes(NodeSet, IpRanges),
    Literal(Prefix),
    Internet,
}

impl Destination {
    fn networks(&self) -> IpRanges {
        match self {
            Destination::Everything => everywhere(),
            Destination::Nodes(..) => IpRanges::new(),
            Destination::Literal(prefix) => [*prefix].into_iter().collect(),
            Destination::Internet => internet(),
        }
    }
}

/// Whoever is in `from` may reach whoever is in `to`.
#[derive(Clone, Debug)]
struct Link {
    from: NodeSet,
    to: NodeSet,
    /// The networks among either end that are not just the addresses of nodes named.
    from_networks: IpRanges,
    to_networks: IpRanges,
}

/// `autogroup:self` of one rule for one owner.
#[derive(Clone, Debug)]
struct SelfItem {
    order: usize,
    sources: usize,
    /// In order. Lists, not sets of bits: there is one of these for every person.
    from: Vec<usize>,
    devices: Vec<usize>,
    ports: Vec<PortRange>,
    protocol: Option<Protocol>,
}

impl Policy {
    /// Resolves the policy against users and nodes.
    ///
    /// Cannot fail: a word that means nobody gives nothing (see [`Compiled::problems`]), so that a map can always be made.
    pub fn compile(&self, tailnet: &Tailnet<'_>) -> Compiled {
        let facts = |node: &PolicyNode| NodeFacts {
            is_routed: node.subnet_routes().next().is_some(),
            is_exit: node.is_exit(),
            node: node.clone(),
        };
        let mut compiled = Compiled {
            nodes: tailnet.nodes.iter().map(facts).collect(),
            places: tailnet.nodes.iter().enumerate().map(|(index, node)| (node.id, index)).collect(),
            allows_all: self.rules.is_none(),
            source_texts: Vec::new(),
            items: Vec::new(),
            links: Vec::new(),
            selves: BTreeMap::new(),
            problems: Vec::new(),
        };
        let mut resolver = Resolver::new(self, *tailnet);
        let mut building = Building {
            compiled: &mut compiled,
            known_texts: BTreeMap::new(),
            known_sources: BTreeMap::new(),
            order: 0,
        };
        for rule in self.rules.iter().flatten() {
            building.add(rule, &mut resolver);
        }
        compiled.problems = resolver.problems;
        compiled.problems.sort();
        compiled.problems.dedup();
        compiled
    }
}

impl Compiled {
    /// The packet filter of one node, in wire form. Empty means that nothing comes in, and so it is for an unknown node.
    pub fn filter_for(&self, node: NodeId) -> Vec<FilterRule> {
        let Some(place) = self.places.get(&node).copied() else { return Vec::new() };
        if self.allows_all {
            return vec![FilterRule::allow_all()];
        }
        let facts = &self.nodes[place];
        let selves = self.selves_of(place);
        let mut selves = selves.iter().peekable();
        let mut merged = Merged::default();
        for item in &self.items {
            while let Some(own) = selves.next_if(|own| own.order < item.order) {
                merged.add(own.sources, own.protocol, own_addresses(facts), &own.ports);
            }
            merged.add(item.sources, item.protocol, facts.concerned_by(place, &item.destination), &item.ports);
        }
        for own in selves {
            merged.add(own.sources, own.protocol, own_addresses(facts), &own.ports);
        }
        merged.finish(&self.source_texts)
    }

    /// Whether the two nodes are in each other's map: one of them may reach the other.
    pub fn visible(&self, a: NodeId, b: NodeId) -> bool {
        self.may_reach(a, b) || self.may_reach(b, a)
    }

    /// Whether some rule lets `from` (or what lies behind it) reach `to` (or what lies behind it), on any port.
    pub fn may_reach(&self, from: NodeId, to: NodeId) -> bool {
        let (Some(from), Some(to)) = (self.places.get(&from).copied(), self.places.get(&to).copied()) else {
            return false;
        };
        if from == to || self.allows_all {
            return from != to;
        }
        self.links.iter().any(|link| link.from.contains(from) && link.to.contains(to))
            || self.selves_of(from).iter().any(|item| item.from.contains(&from) && item.devices.contains(&to))
    }

    /// Whether a network behind a peer belongs among the addresses that `viewer` sends to that peer. Which of several peers
    /// serves a network is not a matter of policy.
    ///
    /// A network counts whichever end of a rule it is, because answers travel too. A default route counts where a rule
    /// lets the viewer reach the whole public internet.
    pub fn may_use_route(&self, viewer: NodeId, route: Prefix) -> bool {
        let Some(place) = self.places.get(&viewer).copied() else { return false };
        if self.allows_all {
            return true;
        }
        if route.is_default_route() {
            let public = internet();
            let is_whole = |to: &IpRanges| {
                to.covers(Prefix::ALL_V4.into()) || to.covers(Prefix::ALL_V6.into()) || to.covers_all(&public)
            };
            return self.links.iter().any(|link| link.from.contains(place) && is_whole(&link.to_networks));
        }
        let route = IpRange::from(route);
        self.links.iter().any(|link| {
            (link.from.contains(place) && link.to_networks.overlaps(route))
                || (link.to.contains(place) && link.from_networks.overlaps(route))
        })
    }

    /// Every node that is in this node's map, in the order of the tailnet.
    pub fn peers_of(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let peers = match self.places.get(&node).copied() {
            None => NodeSet::default(),
            Some(place) => self.peer_places(place),
        };
        peers.into_iter().map(|place| self.nodes[place].node.id)
    }

    /// Words that mean nobody, or more than one person. A person who writes a policy wants to hear of them.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn selves_of(&self, place: usize) -> &[SelfItem] {
        let owner = self.nodes[place].node.owner();
        owner.and_then(|owner| self.selves.get(&owner)).map_or(&[], Vec::as_slice)
    }

    fn peer_places(&self, place: usize) -> NodeSet {
        let mut peers = NodeSet::new(self.nodes.len());
        if self.allows_all {
            (0..self.nodes.len()).for_each(|other| peers.insert(other));
        }
        for link in &self.links {
            if link.from.contains(place) {
                peers.union_with(&link.to);
            }
            if link.to.contains(place) {
                peers.union_with(&link.from);
            }
        }
        for item in self.selves_of(place) {
            let others = if item.from.contains(&place) { &item.devices } else { &item.from };
            others.iter().for_each(|other| peers.insert(*other));
        }
        peers.remove(place);
        peers
    }
}

impl NodeFacts {
    /// What of a destination concerns this node, as it stands on the wire.
    fn concerned_by(&self, place: usize, destination: &Destination) -> Vec<String> {
        match destination {
            Destination::Everything => vec!["*".to_owned()],
            Destination::Literal(prefix) => {
                let range = IpRange::from(*prefix);
                let is_concerned = self.node.addrs.iter().any(|addr| prefix.contains(*addr))
                    || self.serves(range)
                    || (self.is_exit && internet().covers(range));
                if is_concerned { vec![range.to_string()] } else { Vec::new() }
            }
            Destination::Nodes(nodes, ranges) => {
                let mut texts = if nodes.contains(place) { own_addresses(self) } else { Vec::new() };
                if self.is_routed {
                    texts.extend(ranges.iter().filter(|range| self.serves(*range)).map(|range| range.to_string()));
                }
                texts
            }
            Destination::Internet => {
                let concerned = |range: &IpRange| self.is_exit || self.serves(*range);
                internet().iter().filter(concerned).map(|range| range.to_string()).collect()
            }
        }
    }

    fn serves(&self, range: IpRange) -> bool {
        self.is_routed && self.node.subnet_routes().any(|route| IpRange::from(route).overlaps(&range))
    }
}

fn own_addresses(facts: &NodeFacts) -> Vec<String> {
    facts.node.addrs.iter().map(ToString::to_string).collect()
}

/// Rules of one node under construction, in the order in which their sources first appear in the policy.
#[derive(Default)]
struct Merged {
    places: BTreeMap<(usize, Option<Protocol>), usize>,
    rules: Vec<(usize, Option<Protocol>, Vec<NetPortRange>)>,
}

impl Merged {
    /// Also where nothing concerns this node: the reference merges before it reduces, so the place counts.
    fn add(&mut self, sources: usize, protocol: Option<Protocol>, destinations: Vec<String>, ports: &[PortRange]) {
        let place = *self.places.entry((sources, protocol)).or_insert_with(|| {
            self.rules.push((sources, protocol, Vec::new()));
            self.rules.len() - 1
        });
        for ip in destinations {
            let entries = ports.iter().map(|range| NetPortRange { ip: ip.clone(), bits: None, ports: *range });
            self.rules[place].2.extend(entries);
        }
    }

    fn finish(self, source_texts: &[Vec<String>]) -> Vec<FilterRule> {
        let concerned = self.rules.into_iter().filter(|(_, _, destinations)| !destinations.is_empty());
        concerned
            .map(|(sources, protocol, dst_ports)| FilterRule {
                src_ips: source_texts[sources].clone(),
                dst_ports,
                ip_proto: protocol.iter().map(|protocol| i64::from(protocol.0)).collect(),
                ..FilterRule::default()
            })
            .collect()
    }
}

/// The state of one compilation: what was resolved already is not resolved again.
struct Building<'c> {
    compiled: &'c mut Compiled,
    known_texts: BTreeMap<Vec<String>, usize>,
    /// By selectors: the resolved sources, and the place of the link that they share.
    known_sources: BTreeMap<Vec<Selector>, (Sources, usize)>,
    order: usize,
}

impl Building<'_> {
    fn add(&mut self, rule: &Rule, resolver: &mut Resolver<'_>) {
        let (sources, link) = match self.known_sources.get(&rule.sources) {
            Some(known) => known.clone(),
            None => {
                let sources = resolver.sources(&rule.sources);
                let to = NodeSet::new(self.compiled.nodes.len());
                self.compiled.links.push(Link {
                    from: sources.reach.clone(),
                    to,
                    from_networks: sources.networks.clone(),
                    to_networks: IpRanges::new(),
                });
                let known = (sources, self.compiled.links.len() - 1);
                self.known_sources.insert(rule.sources.clone(), known.clone());
                known
            }
        };
        for (selector, ports) in in_reference_order(&rule.destinations) {
            self.order += 1;
            if *selector == Selector::Autogroup(Autogroup::Selves) {
                self.add_selves(&sources, ports, rule.protocol, resolver);
                continue;
            }
            let Some((destination, reach)) = self.destination(selector, resolver) else { continue };
            if sources.texts.is_empty() {
                continue;
            }
            let link = &mut self.compiled.links[link];
            link.to.union_with(&reach);
            link.to_networks.extend(destination.networks().iter());
            let item = Item {
                order: self.order,
                sources: self.intern(sources.texts.clone()),
                destination,
                ports: ports.clone(),
                protocol: rule.protocol,
            };
            self.compiled.items.push(item);
        }
    }

    /// What a destination selector means, and the nodes that whoever may reach it must see. `None`: nothing.
    fn destination(&self, selector: &Selector, resolver: &mut Resolver<'_>) -> Option<(Destination, NodeSet)> {
        let mut exits = NodeSet::new(self.compiled.nodes.len());
        let all_exits = self.compiled.nodes.iter().enumerate().filter(|(_, facts)| facts.is_exit);
        all_exits.for_each(|(place, _)| exits.insert(place));
        if *selector == Selector::Everyone {
            let mut everyone = exits;
            (0..self.compiled.nodes.len()).for_each(|place| everyone.insert(place));
            return Some((Destination::Everything, everyone));
        }
        if *selector == Selector::Autogroup(Autogroup::Internet) {
            let public = internet();
            let mut reach = resolver.with_routed(resolver.nodes_at(&public), &public);
            reach.union_with(&exits);
            return Some((Destination::Internet, reach));
        }
        if let Some(nodes) = resolver.named_nodes(selector) {
            let ranges = resolver.addresses_of(&nodes);
            if ranges.is_empty() {
                return None;
            }
            let named = resolver.nodes_at(&ranges);
            let reach = resolver.with_routed(named.clone(), &ranges);
            return Some((Destination::Nodes(named, ranges), reach));
        }
        let prefix = resolver.literal(selector)?;
        let ranges: IpRanges = [prefix].into_iter().collect();
        let mut reach = resolver.with_routed(resolver.nodes_at(&ranges), &ranges);
        if prefix.is_default_route() {
            reach.union_with(&exits);
        }
        Some((Destination::Literal(prefix), reach))
    }

    fn add_selves(
        &mut self,
        sources: &Sources,
        ports: &[PortRange],
        protocol: Option<Protocol>,
        resolver: &Resolver<'_>,
    ) {
        for (owner, places) in resolver.owners() {
            let from: Vec<usize> = places.iter().copied().filter(|place| sources.nodes.contains(*place)).collect();
            if from.is_empty() {
                continue;
            }
            let mut texts: Vec<String> = resolver.addresses_of(&from).iter().map(|range| range.to_string()).collect();
            texts.sort();
            let item = SelfItem {
                order: self.order,
                sources: self.intern(texts),
                from,
                devices: places.clone(),
                ports: ports.to_vec(),
                protocol,
            };
            self.compiled.selves.entry(*owner).or_default().push(item);
        }
    }

    fn intern(&mut self, texts: Vec<String>) -> usize {
        if let Some(place) = self.known_texts.get(&texts) {
            return *place;
        }
        let place = self.compiled.source_texts.len();
        self.compiled.source_texts.push(texts.clone());
        self.known_texts.insert(texts, place);
        place
    }
}

/// Inside one rule `autogroup:self` comes last, unless all destinations are autogroups.
fn in_reference_order(destinations: &[(Selector, Vec<PortRange>)]) -> Vec<&(Selector, Vec<PortRange>)> {
    let mut ordered: Vec<_> = destinations.iter().collect();
    if destinations.iter().any(|(selector, _)| !selector.is_autogroup()) {
        ordered.sort_by_key(|(selector, _)| *selector == Selector::Autogroup(Autogroup::Selves));
    }
    ordered
}
