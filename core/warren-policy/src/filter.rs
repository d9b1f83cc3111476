//! What comes in at a node.
//!
//! The order of rules and what is merged follow the reference (user-surface.md §4.5), because stock clients show it and
//! tools compare it: rules in the order of the policy; those about packets with the same sources and protocol become one
//! at the place of the first; then each node keeps of it what concerns that node.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use warren_ip::{IpRange, IpRanges, Prefix, Protocol};
use warren_wire::{CapGrant, CapMap, FilterRule, NetPortRange, NodeId};

use crate::compile::{Compiled, NodeFacts, Own, OwnSources};
use crate::resolved::{Destination, Resolved};
use crate::rule::{Access, Rule};
use crate::sources::{Sources, internet};

/// Capabilities whose other end must know too: what the source is told of the destination.
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

impl Compiled {
    /// The packet filter of one node, in wire form. Empty means that nothing comes in, and so it is for an unknown node.
    pub fn filter_for(&self, node: NodeId) -> Vec<FilterRule> {
        let Some(place) = self.places.get(&node).copied() else { return Vec::new() };
        let own = self.own_of(place);
        let mut filter = Filter { compiled: self, place, facts: &self.nodes[place], merged: Merged::default() };
        for (order, resolved) in self.resolved.iter().enumerate() {
            let rule = &self.rules[resolved.rule];
            let own = own.and_then(|own| own.from.get(&order).map(|from| (own, from)));
            match own {
                _ if resolved.routers.is_some() => filter.add_steered(rule, resolved),
                None => filter.add(rule, resolved),
                Some((own, from)) if rule.has_own_first() => {
                    filter.add_own(rule, own, from);
                    filter.add(rule, resolved);
                }
                Some((own, from)) => {
                    filter.add(rule, resolved);
                    filter.add_own(rule, own, from);
                }
            }
        }
        filter.merged.finish()
    }
}

/// The filter of one node under construction.
struct Filter<'c> {
    compiled: &'c Compiled,
    place: usize,
    facts: &'c NodeFacts,
    merged: Merged<'c>,
}

impl<'c> Filter<'c> {
    /// All of a rule but `autogroup:self`.
    fn add(&mut self, rule: &Rule, resolved: &'c Resolved) {
        let sources = &self.compiled.sources[resolved.sources];
        let means_something = resolved.destinations.iter().any(Destination::is_something);
        if means_something && !sources.texts.is_empty() {
            let texts = |to: &Destination| self.facts.concerned_by(self.place, to);
            let texts: Vec<String> = resolved.destinations.iter().flat_map(texts).collect();
            let key = self.compiled.text_keys[resolved.sources];
            for access in &rule.access {
                self.merged.add_ports(key, &sources.texts, access, &texts);
            }
        }
        if rule.app.is_empty() {
            return;
        }
        let holders = resolved.destinations.iter().map(|to| self.facts.holds(self.place, to)).collect();
        self.merged.add_caps(Cow::Borrowed(&sources.texts), holders, rule.app.clone());
        for companion in companions(&rule.app) {
            let holder = self.facts.holds_as_source(sources);
            let from: Vec<String> = resolved.destinations.iter().flat_map(|to| self.sources_of(to)).collect();
            if !from.is_empty() {
                self.merged.add_caps(Cow::Owned(each_once(from)), vec![holder], companion);
            }
        }
    }

    /// `autogroup:self`: both ends are devices of this node's owner.
    fn add_own(&mut self, rule: &Rule, own: &'c Own, from: &'c OwnSources) {
        let addresses = own_addresses(self.facts);
        for access in &rule.access {
            self.merged.add_ports(from.key, &from.texts, access, &addresses);
        }
        if rule.app.is_empty() {
            return;
        }
        self.merged.add_caps(Cow::Borrowed(&from.texts), vec![own_hosts(self.facts)], rule.app.clone());
        if from.places.contains(&self.place) {
            for companion in companions(&rule.app) {
                self.merged.add_caps(Cow::Borrowed(&own.texts), vec![own_hosts(self.facts)], companion);
            }
        }
    }

    /// A rule with `via`: nothing but what its routers serve.
    fn add_steered(&mut self, rule: &Rule, resolved: &Resolved) {
        if !self.compiled.is_way_of(resolved, self.place) {
            return;
        }
        let texts: Vec<String> = resolved.destinations.iter().flat_map(|to| self.facts.steered(to)).collect();
        let key = self.compiled.text_keys[resolved.sources];
        for access in &rule.access {
            self.merged.add_ports(key, &self.compiled.sources[resolved.sources].texts, access, &texts);
        }
    }

    /// A destination as the sources of a companion.
    fn sources_of(&self, destination: &Destination) -> Vec<String> {
        let ranges = match destination {
            Destination::Everything => return self.compiled.overlay.clone(),
            Destination::Nodes { ranges, .. } | Destination::Service { ranges, .. } => ranges,
            Destination::Networks(ranges) => ranges,
            Destination::Internet | Destination::Selves | Destination::Nothing => return Vec::new(),
        };
        ranges.iter().map(|range| range.to_string()).collect()
    }
}

fn companions(app: &CapMap) -> impl Iterator<Item = CapMap> + '_ {
    let told = COMPANIONS.into_iter().filter(|(given, _)| app.contains_key(*given)).map(|(_, told)| told);
    told.map(|told| [(told.to_owned(), Vec::new())].into_iter().collect())
}

fn each_once(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

impl NodeFacts {
    /// What of a destination concerns this node, as it stands on the wire.
    pub(crate) fn concerned_by(&self, place: usize, destination: &Destination) -> Vec<String> {
        match destination {
            Destination::Everything => vec!["*".to_owned()],
            Destination::Networks(ranges) => {
                let is_concerned = |range: &IpRange| {
                    self.node.addrs.iter().any(|addr| range.contains(*addr))
                        || self.serves(*range)
                        || (self.is_exit && internet().covers(*range))
                };
                ranges.iter().filter(is_concerned).map(|range| range.to_string()).collect()
            }
            Destination::Nodes { nodes, ranges } => {
                let mut texts = if nodes.contains(place) { own_addresses(self) } else { Vec::new() };
                texts.extend(self.served_of(ranges).iter().map(ToString::to_string));
                texts
            }
            Destination::Service { hosts, ranges } => {
                if hosts.contains(place) {
                    ranges.iter().map(|range| range.to_string()).collect()
                } else {
                    Vec::new()
                }
            }
            Destination::Internet => {
                let concerned = |range: &IpRange| self.is_exit || self.serves(*range);
                internet().iter().filter(concerned).map(|range| range.to_string()).collect()
            }
            Destination::Selves | Destination::Nothing => Vec::new(),
        }
    }

    /// The addresses of this node, and the networks behind it, at which a destination gives capabilities.
    fn holds(&self, place: usize, destination: &Destination) -> Vec<Prefix> {
        match destination {
            Destination::Everything => own_hosts(self),
            Destination::Nodes { nodes, ranges } => {
                let mut hosts = if nodes.contains(place) { own_hosts(self) } else { Vec::new() };
                hosts.extend(self.served(ranges));
                hosts
            }
            Destination::Networks(ranges) => self.within(ranges).chain(self.served(ranges)).collect(),
            Destination::Service { hosts, ranges } => {
                if hosts.contains(place) {
                    ranges.prefixes().collect()
                } else {
                    Vec::new()
                }
            }
            Destination::Internet | Destination::Selves | Destination::Nothing => Vec::new(),
        }
    }

    /// The same for the sources of a rule, when a companion turns it round.
    fn holds_as_source(&self, sources: &Sources) -> Vec<Prefix> {
        self.within(&sources.ranges).chain(self.served(&sources.literals)).collect()
    }

    fn within<'a>(&'a self, ranges: &'a IpRanges) -> impl Iterator<Item = Prefix> + 'a {
        self.node.addrs.iter().filter(|addr| ranges.contains(**addr)).map(|addr| Prefix::host(*addr))
    }

    fn served<'a>(&'a self, ranges: &'a IpRanges) -> impl Iterator<Item = Prefix> + 'a {
        let prefixes = self.is_routed.then(|| ranges.prefixes()).into_iter().flatten();
        prefixes.filter(|prefix| self.serves((*prefix).into()))
    }

    /// What of a destination a rule with `via` opens at this node.
    pub(crate) fn steered(&self, destination: &Destination) -> Vec<String> {
        match destination {
            Destination::Internet if self.is_exit => internet().iter().map(|range| range.to_string()).collect(),
            Destination::Networks(ranges) | Destination::Nodes { ranges, .. } => {
                self.served_of(ranges).iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Those of the ranges that share an address with a network behind this node, in order.
    fn served_of(&self, ranges: &IpRanges) -> Vec<IpRange> {
        if !self.is_routed {
            return Vec::new();
        }
        let mut served: Vec<IpRange> =
            self.node.subnet_routes().flat_map(|route| ranges.overlapping(route.into())).collect();
        served.sort_unstable();
        served.dedup();
        served
    }

    fn serves(&self, range: IpRange) -> bool {
        self.is_routed && self.node.subnet_routes().any(|route| IpRange::from(route).overlaps(&range))
    }
}

fn own_addresses(facts: &NodeFacts) -> Vec<String> {
    facts.node.addrs.iter().map(IpAddr::to_string).collect()
}

fn own_hosts(facts: &NodeFacts) -> Vec<Prefix> {
    facts.node.addrs.iter().map(|addr| Prefix::host(*addr)).collect()
}

/// Rules in the order in which their sources first appear in the policy.
#[derive(Default)]
struct Merged<'c> {
    places: BTreeMap<(usize, Option<Protocol>), usize>,
    rules: Vec<Merging<'c>>,
}

/// A rule without its sources, which are many, and copied only if it stays.
struct Merging<'c> {
    sources: Cow<'c, [String]>,
    rule: FilterRule,
}

impl<'c> Merged<'c> {
    /// Also where nothing concerns this node: the reference merges before it reduces, so the place counts.
    fn add_ports(&mut self, key: usize, sources: &'c [String], access: &Access, destinations: &[String]) {
        let place = *self.places.entry((key, access.protocol)).or_insert_with(|| {
            let ip_proto = access.protocol.iter().map(|protocol| i64::from(protocol.0)).collect();
            let rule = FilterRule { ip_proto, ..FilterRule::default() };
            self.rules.push(Merging { sources: Cow::Borrowed(sources), rule });
            self.rules.len() - 1
        });
        for ip in destinations {
            let entries = access.ports.iter().map(|range| NetPortRange { ip: ip.clone(), bits: None, ports: *range });
            self.rules[place].rule.dst_ports.extend(entries);
        }
    }

    /// Never merged. `holders`: for each destination the prefixes of this node at which it gives the capabilities.
    fn add_caps(&mut self, sources: Cow<'c, [String]>, holders: Vec<Vec<Prefix>>, caps: CapMap) {
        let grant = |mut dsts: Vec<Prefix>| {
            dsts.sort_unstable();
            dsts.dedup();
            CapGrant { dsts, caps: Vec::new(), cap_map: caps.clone() }
        };
        let cap_grant = holders.into_iter().filter(|holder| !holder.is_empty()).map(grant).collect();
        self.rules.push(Merging { sources, rule: FilterRule { cap_grant, ..FilterRule::default() } });
    }

    /// The rules that do something at this node.
    fn finish(self) -> Vec<FilterRule> {
        let stays = |merging: &Merging<'_>| !merging.rule.dst_ports.is_empty() || !merging.rule.cap_grant.is_empty();
        let whole = |merging: Merging<'_>| FilterRule { src_ips: merging.sources.into_owned(), ..merging.rule };
        self.rules.into_iter().filter(stays).map(whole).collect()
    }
}
