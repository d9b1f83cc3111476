//! Who sees whom, and which networks behind a peer. user-surface.md §4.6.

use warren_ip::{IpRange, IpRanges, Prefix};
use warren_wire::NodeId;

use crate::compile::Compiled;
use crate::node_set::NodeSet;
use crate::resolved::{Destination, Resolved};
use crate::selector::Selector;
use crate::sources::{everywhere, internet, is_whole};

/// Whether a network behind a peer belongs among the addresses that a viewer sends to that peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteUse {
    /// Not this viewer.
    Never,
    /// If the peer is the one that serves the network at present; of default routes, always.
    IfPrimary,
    /// The policy steers this viewer: of these nodes, in order, the first that is online serves it, whoever is primary.
    FirstOf(Vec<NodeId>),
}

impl Compiled {
    /// Whether the two nodes are in each other's map: one of them may reach the other.
    pub fn visible(&self, a: NodeId, b: NodeId) -> bool {
        self.may_reach(a, b) || self.may_reach(b, a)
    }

    /// Whether some rule lets `from` (or what lies behind it) reach `to` (or what lies behind it), on any port.
    pub fn may_reach(&self, from: NodeId, to: NodeId) -> bool {
        let (Some(from), Some(to)) = (self.places.get(&from).copied(), self.places.get(&to).copied()) else {
            return false;
        };
        if from == to {
            return false;
        }
        let is_source = |sources: usize| self.sources[sources].reach.contains(from);
        self.links.iter().enumerate().any(|(sources, link)| link.to.contains(to) && is_source(sources))
            || self.steering().any(|rule| is_source(rule.sources) && self.is_way_of(rule, to))
            || self.own_of(from).is_some_and(|own| {
                own.devices.contains(&to) && own.from.values().any(|sources| sources.places.contains(&from))
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

    /// The nodes that some rule lets reach a service (with its `svc:`), in the order of the tailnet. An address in a rule
    /// names no service.
    pub fn visitors_of(&self, service: &str) -> impl Iterator<Item = NodeId> + '_ {
        let mut visitors = NodeSet::new(self.nodes.len());
        for resolved in self.resolved.iter().filter(|resolved| resolved.routers.is_none()) {
            let is_meant = |(selector, to): (&Selector, &Destination)| {
                matches!(to, Destination::Everything)
                    || (matches!(to, Destination::Service { .. })
                        && matches!(selector, Selector::Service(name) if name == service))
            };
            let written = self.rules[resolved.rule].destinations.iter();
            if written.zip(&resolved.destinations).any(is_meant) {
                visitors.union_with(&self.sources[resolved.sources].reach);
            }
        }
        visitors.into_iter().map(|place| self.nodes[place].node.id)
    }

    /// Whether `viewer` uses `route`, a network behind `peer` that was approved.
    ///
    /// A network counts whichever end of a rule it is, because answers travel too. A default route counts where a rule
    /// lets the viewer reach the whole public internet. Rules with `via` steer: a network that such a rule gives the
    /// viewer is reached through its routers alone, unless a rule without `via` gives it as well.
    pub fn route_use(&self, viewer: NodeId, peer: NodeId, route: Prefix) -> RouteUse {
        let (Some(viewer), Some(peer)) = (self.places.get(&viewer).copied(), self.places.get(&peer).copied()) else {
            return RouteUse::Never;
        };
        if self.may_use(viewer, route) || self.serves_too(viewer, route) {
            return RouteUse::IfPrimary;
        }
        let meant = |rule: &&Resolved| {
            self.sources[rule.sources].reach.contains(viewer) && rule.destinations.iter().any(|to| to.is_about(route))
        };
        let mut routers = NodeSet::new(self.nodes.len());
        for rule in self.steering().filter(meant) {
            rule.routers.iter().for_each(|more| routers.union_with(more));
        }
        if route.is_default_route() {
            return if routers.contains(peer) { RouteUse::IfPrimary } else { RouteUse::Never };
        }
        let serves = |place: &usize| self.nodes[*place].node.routes.contains(&route);
        let mut ids: Vec<NodeId> = routers.into_iter().filter(serves).map(|place| self.nodes[place].node.id).collect();
        ids.sort_unstable();
        if ids.contains(&self.nodes[peer].node.id) { RouteUse::FirstOf(ids) } else { RouteUse::Never }
    }

    /// A node that stands by for the primary of a network is told of it, whatever rules say: when it takes over or hands
    /// back, what it forwards must find the way.
    fn serves_too(&self, viewer: usize, route: Prefix) -> bool {
        !route.is_default_route() && self.nodes[viewer].node.routes.contains(&route)
    }

    /// By the rules without `via`.
    fn may_use(&self, viewer: usize, route: Prefix) -> bool {
        let mut links = self.sources.iter().zip(&self.links);
        if route.is_default_route() {
            return links.any(|(sources, link)| sources.reach.contains(viewer) && is_whole(&link.to_networks));
        }
        let route = IpRange::from(route);
        links.any(|(sources, link)| {
            (sources.reach.contains(viewer) && link.to_networks.overlaps(route))
                || (link.to.contains(viewer) && sources.networks.overlaps(route))
        })
    }

    fn steering(&self) -> impl Iterator<Item = &Resolved> {
        self.resolved.iter().filter(|rule| rule.routers.is_some())
    }

    /// Whether a node is a way that a rule with `via` opens: it has the tag, and serves what the rule is about. Also for a
    /// rule about capabilities alone, whose filter is empty: the reference shows the routers all the same.
    pub(crate) fn is_way_of(&self, rule: &Resolved, place: usize) -> bool {
        let facts = &self.nodes[place];
        !self.sources[rule.sources].texts.is_empty()
            && rule.routers.as_ref().is_some_and(|routers| routers.contains(place))
            && rule.destinations.iter().any(|to| !facts.steered(to).is_empty())
    }

    fn peer_places(&self, place: usize) -> NodeSet {
        let mut peers = NodeSet::new(self.nodes.len());
        for (sources, link) in self.sources.iter().zip(&self.links) {
            if sources.reach.contains(place) {
                peers.union_with(&link.to);
            }
            if link.to.contains(place) {
                peers.union_with(&sources.reach);
            }
        }
        for rule in self.steering() {
            let sources = &self.sources[rule.sources].reach;
            if sources.contains(place) {
                let routers = rule.routers.clone().unwrap_or_default();
                routers.into_iter().filter(|way| self.is_way_of(rule, *way)).for_each(|way| peers.insert(way));
            }
            if self.is_way_of(rule, place) {
                peers.union_with(sources);
            }
        }
        if let Some(own) = self.own_of(place) {
            for from in own.from.values() {
                let others = if from.places.contains(&place) { &own.devices } else { &from.places };
                others.iter().for_each(|other| peers.insert(*other));
            }
        }
        peers.remove(place);
        peers
    }
}

impl Destination {
    /// The networks that are meant beyond the addresses of nodes named.
    pub(crate) fn networks(&self) -> IpRanges {
        match self {
            Destination::Everything => everywhere(),
            Destination::Networks(ranges) => IpRanges::clone(ranges),
            Destination::Internet => internet(),
            Destination::Nodes { .. } | Destination::Selves | Destination::Service { .. } | Destination::Nothing => {
                IpRanges::new()
            }
        }
    }

    fn is_about(&self, route: Prefix) -> bool {
        match self {
            Destination::Internet => route.is_default_route(),
            _ => !route.is_default_route() && self.networks().overlaps(route.into()),
        }
    }
}
