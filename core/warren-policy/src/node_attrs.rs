//! The section `nodeAttrs`: what nodes are told that they may do or should do. user-surface.md §4.8.

use warren_ip::Prefix;
use warren_wire::{CapMap, cap};

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::node_set::NodeSet;
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::selector::{Autogroup, Selector, parse_address};
use crate::sources::Resolver;
use crate::tailnet::Tailnet;

/// One entry of `nodeAttrs`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct NodeAttrs {
    pub(crate) targets: Vec<Selector>,
    /// Attributes and application capabilities with their arguments; an attribute has none.
    pub(crate) caps: CapMap,
    /// Where new nodes get their IPv4 addresses from.
    pub(crate) ip_pool: Vec<Prefix>,
}

/// From where nodes have addresses at all.
const OVERLAY_V4: &str = "100.64.0.0/10";
/// Parts of it with another use: the network's own services, and ChromeOS's virtual machines.
const RESERVED: [&str; 2] = ["100.100.100.0/24", "100.115.92.0/23"];

/// Reads the section. `policy` has its groups, hosts and tags already.
pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> Vec<NodeAttrs> {
    let entries = document.section("nodeAttrs").and_then(|value| document::list(value, "nodeAttrs", complaints));
    let entries = entries.unwrap_or_default().iter().enumerate();
    entries.filter_map(|(index, entry)| read_entry(policy, entry, &format!("nodeAttrs[{index}]"), complaints)).collect()
}

fn read_entry(policy: &Policy, entry: &Raw, path: &str, complaints: &mut Complaints) -> Option<NodeAttrs> {
    let mut attrs = NodeAttrs { targets: Vec::new(), caps: CapMap::new(), ip_pool: Vec::new() };
    for field in document::object(entry, Names::Fields, path, complaints)? {
        let value = &field.value;
        match field.name.to_ascii_lowercase().as_str() {
            _ if field.name.starts_with('#') || value.is_null() => {}
            "target" => {
                for (at, word) in document::texts(value, &format!("{path}.target"), complaints) {
                    match read_target(policy, word) {
                        Ok(target) => attrs.targets.push(target),
                        Err(error) => complaints.add(at, format!("{path}.target"), error),
                    }
                }
            }
            "attr" => {
                for (at, attr) in document::texts(value, &format!("{path}.attr"), complaints) {
                    if attr.trim().is_empty() {
                        complaints.note(at, format!("{path}.attr"), "an attribute without a name gives nothing");
                        continue;
                    }
                    attrs.caps.entry(attr.trim().to_owned()).or_default();
                }
            }
            "app" => read_app(value, &format!("{path}.app"), &mut attrs.caps, complaints),
            "ippool" => {
                for (at, word) in document::texts(value, &format!("{path}.ipPool"), complaints) {
                    match read_pool(word) {
                        Ok(pool) => attrs.ip_pool.push(pool),
                        Err(error) => complaints.add(at, format!("{path}.ipPool"), error),
                    }
                }
            }
            _ => complaints.add(field.at, path, format!("unknown field: {:?}", field.name)),
        }
    }
    Some(attrs)
}

fn read_target(policy: &Policy, word: &str) -> Result<Selector, String> {
    let target = Selector::parse(word)?;
    match &target {
        Selector::Tag(tag) if !policy.knows_tag(tag) => Err(format!("tag not found: {tag:?}")),
        // The field takes what is neither a known name nor a form of its own for an address.
        Selector::Host(name) if !policy.hosts.contains_key(name) => Err(format!("{word:?}: invalid address")),
        Selector::Autogroup(Autogroup::Selves | Autogroup::Internet | Autogroup::DangerAll | Autogroup::Shared) => {
            Err(format!(
                "nodeAttrs target does not support this autogroup: {:?}, can be [autogroup:member autogroup:tagged]",
                target.to_string()
            ))
        }
        Selector::Service(name) => Err(format!("nodeAttrs targets are nodes, and {name:?} is a service")),
        _ => policy.check_defined(&target).map(|()| target),
    }
}

fn read_app(value: &Raw, path: &str, caps: &mut CapMap, complaints: &mut Complaints) {
    for field in document::object(value, Names::Given, path, complaints).unwrap_or_default() {
        let arguments = match &field.value.kind {
            Kind::Null => Some(Vec::new()),
            Kind::List(elements) => elements.iter().map(Raw::to_json).collect(),
            _ => {
                complaints.add(field.value.at, path, "must be a list: [ … ]");
                continue;
            }
        };
        match arguments {
            Some(arguments) => caps.entry(field.name.clone()).or_default().extend(arguments),
            None => complaints.add(field.value.at, path, "has a number that JSON cannot hold"),
        }
    }
}

fn read_pool(word: &str) -> Result<Prefix, String> {
    let pool = parse_address(word.trim()).ok_or_else(|| format!("{word:?}: invalid address"))?;
    if !constant(OVERLAY_V4).contains_prefix(&pool) {
        return Err(format!("nodeAttrs ipPool must be within {OVERLAY_V4}: {word:?}"));
    }
    if RESERVED.iter().any(|reserved| constant(reserved).overlaps(&pool)) {
        return Err(format!("IPPool({pool}): network within reserved range"));
    }
    Ok(pool)
}

fn constant(text: &str) -> Prefix {
    text.parse().expect("a constant network")
}

/// The section over one tailnet.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttrTable {
    /// By distinct targets.
    entries: Vec<(NodeSet, CapMap)>,
    everyones: CapMap,
    exits: NodeSet,
}

impl AttrTable {
    pub(crate) fn new(
        policy: &Policy,
        attrs: &[NodeAttrs],
        tailnet: &Tailnet<'_>,
        resolver: &mut Resolver<'_>,
    ) -> AttrTable {
        let mut table = AttrTable { exits: NodeSet::new(tailnet.nodes.len()), ..AttrTable::default() };
        let exits = tailnet.nodes.iter().enumerate().filter(|(_, node)| node.is_exit());
        exits.for_each(|(place, _)| table.exits.insert(place));
        if policy.randomizes_client_port() {
            table.everyones.insert(cap::RANDOMIZE_CLIENT_PORT.to_owned(), Vec::new());
        }
        for entry in attrs.iter().filter(|entry| !entry.caps.is_empty()) {
            if entry.targets.contains(&Selector::Everyone) {
                add(&mut table.everyones, &entry.caps);
            } else {
                table.entries.push((resolver.nodes_meeting(&entry.targets, &[]), entry.caps.clone()));
            }
        }
        table
    }

    /// What the node at `place` is told of itself.
    pub(crate) fn own(&self, place: usize) -> CapMap {
        let mut caps = self.everyones.clone();
        for (_, more) in self.entries.iter().filter(|(targets, _)| targets.contains(place)) {
            add(&mut caps, more);
        }
        caps
    }

    /// What others are told of it. Every exit may be suggested as one, whatever the policy says, and nothing else may.
    pub(crate) fn shown(&self, place: usize) -> CapMap {
        let mut caps = self.own(place);
        caps.retain(|name, _| name == cap::DNS_SUBDOMAIN_RESOLVE);
        if self.exits.contains(place) {
            caps.insert(cap::SUGGEST_EXIT_NODE.to_owned(), Vec::new());
        }
        caps
    }
}

/// An attribute that is there twice is there; arguments of the same capability follow each other.
fn add(caps: &mut CapMap, more: &CapMap) {
    for (name, arguments) in more {
        caps.entry(name.clone()).or_default().extend(arguments.iter().cloned());
    }
}
