//! A policy over one tailnet.
//!
//! Each rule is resolved once, to sets. [`crate::filter`] reads from that what comes in at a node, [`crate::visibility`]
//! who sees whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use warren_ip::{IpRange, IpRanges};
use warren_wire::{NodeId, UserId};

use crate::node_attrs::AttrTable;
use crate::node_set::NodeSet;
use crate::policy::Policy;
use crate::resolved::{Destination, Resolved};
use crate::rule::Rule;
use crate::selector::Selector;
use crate::sources::{Resolver, Sources};
use crate::ssh_table::SshTable;
use crate::tailnet::{PolicyNode, Tailnet};

/// What a policy means for these users and nodes. Holds until either changes.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) places: BTreeMap<NodeId, usize>,
    /// As in the policy; if that says nothing of access, the one rule that this means.
    pub(crate) rules: Arc<[Rule]>,
    /// Distinct sources of rules.
    pub(crate) sources: Vec<Sources>,
    /// One for each of `sources`: the same number where their texts on the wire are the same.
    pub(crate) text_keys: Vec<usize>,
    /// `*` as sources, in texts.
    pub(crate) overlay: Vec<String>,
    /// In the order of the rules.
    pub(crate) resolved: Vec<Resolved>,
    /// One for each of `sources`: whom these may reach by rules without `via`.
    pub(crate) links: Vec<Link>,
    /// What `autogroup:self` means, by the owner of the devices.
    pub(crate) selves: BTreeMap<UserId, Own>,
    /// The section `ssh`.
    pub(crate) ssh: SshTable,
    /// The section `nodeAttrs`.
    pub(crate) attrs: AttrTable,
    problems: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) node: PolicyNode,
    pub(crate) is_routed: bool,
    pub(crate) is_exit: bool,
}

/// Whom the sources of the same place may reach.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) to: NodeSet,
    /// The networks among what is reached that are not just the addresses of nodes named.
    pub(crate) to_networks: IpRanges,
}

/// One person's devices, as rules about `autogroup:self` see them. Lists, not sets of bits: there is one of these for
/// every person.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// In order.
    pub(crate) devices: Vec<usize>,
    /// Their addresses.
    pub(crate) texts: Vec<String>,
    /// By the place of a rule in `resolved`: those of the devices that are among its sources.
    pub(crate) from: BTreeMap<usize, Arc<OwnSources>>,
}

/// The devices of one person among the sources of one rule.
#[derive(Clone, Debug)]
pub(crate) struct OwnSources {
    /// In order, never empty.
    pub(crate) places: Vec<usize>,
    pub(crate) texts: Vec<String>,
    /// As in `text_keys`.
    pub(crate) key: usize,
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
        let rules = self.rules.clone().unwrap_or_else(|| Arc::from([Rule::of_no_policy()]));
        let mut compiled = Compiled {
            nodes: tailnet.nodes.iter().map(facts).collect(),
            places: tailnet.nodes.iter().enumerate().map(|(index, node)| (node.id, index)).collect(),
            rules: Arc::clone(&rules),
            sources: Vec::new(),
            text_keys: Vec::new(),
            overlay: Vec::new(),
            resolved: Vec::new(),
            links: Vec::new(),
            selves: BTreeMap::new(),
            ssh: SshTable::default(),
            attrs: AttrTable::default(),
            problems: Vec::new(),
        };
        let mut resolver = Resolver::new(self, *tailnet);
        compiled.overlay = each_once(resolver.overlay_sources());
        let mut known = Known::default();
        for (place, rule) in rules.iter().enumerate() {
            compiled.add(place, rule, &mut known, &mut resolver);
        }
        compiled.ssh = SshTable::new(self, &self.extras.ssh, tailnet, &mut resolver);
        compiled.attrs = AttrTable::new(self, &self.extras.node_attrs, tailnet, &mut resolver);
        compiled.problems = resolver.problems.into_iter().collect();
        compiled
    }
}

/// What was resolved already is not resolved again.
#[derive(Default)]
struct Known<'r> {
    /// Places of sources by the selectors and postures that they were written with.
    sources: BTreeMap<(&'r [Selector], &'r [String]), usize>,
    keys: BTreeMap<Vec<String>, usize>,
    /// By the place of the sources.
    own: BTreeMap<(usize, UserId), Option<Arc<OwnSources>>>,
}

impl Known<'_> {
    fn key(&mut self, texts: &[String]) -> usize {
        if let Some(key) = self.keys.get(texts) {
            return *key;
        }
        let key = self.keys.len();
        self.keys.insert(texts.to_vec(), key);
        key
    }
}

impl Compiled {
    /// Words that mean nobody, or more than one person. A person who writes a policy wants to hear of them.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn add<'r>(&mut self, place: usize, rule: &'r Rule, known: &mut Known<'r>, resolver: &mut Resolver<'_>) {
        let written = (&rule.sources[..], &rule.postures[..]);
        let sources = match known.sources.get(&written) {
            Some(sources) => *sources,
            None => {
                let sources = resolver.sources(&rule.sources, &rule.postures);
                self.text_keys.push(known.key(&sources.texts));
                self.sources.push(sources);
                self.links.push(Link { to: NodeSet::new(self.nodes.len()), to_networks: IpRanges::new() });
                known.sources.insert(written, self.sources.len() - 1);
                self.sources.len() - 1
            }
        };
        let mut destinations = Vec::with_capacity(rule.destinations.len());
        let mut has_selves = false;
        for selector in &rule.destinations {
            let (destination, reach) = resolver.destination(selector);
            if rule.via.is_empty() && !self.sources[sources].texts.is_empty() {
                let link = &mut self.links[sources];
                link.to.union_with(&reach);
                link.to_networks.extend(destination.networks().iter());
            }
            has_selves |= matches!(destination, Destination::Selves);
            destinations.push(destination);
        }
        if has_selves && rule.via.is_empty() {
            self.add_selves(sources, known, resolver);
        }
        let routers = (!rule.via.is_empty()).then(|| resolver.tagged(&rule.via));
        self.resolved.push(Resolved { rule: place, sources, destinations, routers });
    }

    fn add_selves(&mut self, sources: usize, known: &mut Known<'_>, resolver: &Resolver<'_>) {
        let order = self.resolved.len();
        for (owner, devices) in resolver.owners() {
            let from = match known.own.get(&(sources, *owner)) {
                Some(from) => from.clone(),
                None => {
                    let from = self.own_sources(sources, devices, known, resolver).map(Arc::new);
                    known.own.insert((sources, *owner), from.clone());
                    from
                }
            };
            let Some(from) = from else { continue };
            let own = self.selves.entry(*owner).or_insert_with(|| Own {
                devices: devices.clone(),
                texts: each_once(resolver.addresses_of(devices).iter()),
                from: BTreeMap::new(),
            });
            own.from.insert(order, from);
        }
    }

    /// `None`: none of these devices is among the sources.
    fn own_sources(
        &self,
        sources: usize,
        devices: &[usize],
        known: &mut Known<'_>,
        resolver: &Resolver<'_>,
    ) -> Option<OwnSources> {
        let is_source = |place: &usize| self.sources[sources].nodes.contains(*place);
        let places: Vec<usize> = devices.iter().copied().filter(is_source).collect();
        if places.is_empty() {
            return None;
        }
        let texts = each_once(resolver.addresses_of(&places).iter());
        let key = known.key(&texts);
        Some(OwnSources { places, texts, key })
    }

    /// The devices of whoever owns this node, if rules speak of them.
    pub(crate) fn own_of(&self, place: usize) -> Option<&Own> {
        self.nodes[place].node.owner().and_then(|owner| self.selves.get(&owner))
    }
}

fn each_once(ranges: impl IntoIterator<Item = IpRange>) -> Vec<String> {
    let texts: BTreeSet<String> = ranges.into_iter().map(|range| range.to_string()).collect();
    texts.into_iter().collect()
}
