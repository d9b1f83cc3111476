//! A policy that was understood whole.

use std::collections::BTreeMap;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;
use warren_ip::{Prefix, Protocol};
use warren_wire::PortRange;

use crate::approve::AutoApprovers;
use crate::diagnostics::{Complaints, Diagnostics};
use crate::document;
use crate::ports;
use crate::selector::{Autogroup, Selector, parse_address, split_ports};

/// Longest text that is read, in bytes. The field's own service takes less.
pub const MAX_POLICY_LEN: usize = 4 << 20;

/// The rules of a tailnet, checked, independent of its nodes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Policy {
    pub(crate) groups: BTreeMap<String, Vec<String>>,
    pub(crate) hosts: BTreeMap<String, Prefix>,
    pub(crate) tag_owners: BTreeMap<String, Vec<Selector>>,
    /// `None`: the policy says nothing of access, and everyone reaches everything.
    pub(crate) rules: Option<Vec<Rule>>,
    pub(crate) approvers: AutoApprovers,
    randomizes_client_port: bool,
    not_built: Vec<String>,
}

/// One entry of `acls`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rule {
    pub(crate) sources: Vec<Selector>,
    pub(crate) destinations: Vec<(Selector, Vec<PortRange>)>,
    pub(crate) protocol: Option<Protocol>,
}

impl Policy {
    /// The policy of a network that has none: everyone reaches everything.
    pub fn allow_all() -> Policy {
        Policy::default()
    }

    /// Reads HuJSON: JSON with comments and trailing commas.
    ///
    /// # Errors
    /// Everything that is wrong with the text, each with its line and column. Parts of the language that this build does
    /// not have and that would change who reaches whom are errors too.
    pub fn parse(text: &str) -> Result<Policy, Diagnostics> {
        let mut complaints = Complaints::new(text);
        let mut policy = Policy::default();
        if text.len() > MAX_POLICY_LEN {
            complaints.add(0, "", format!("a policy is at most {MAX_POLICY_LEN} bytes long"));
        } else if let Some(root) = document::parse(text, &mut complaints) {
            policy.read(&root, &mut complaints);
        }
        complaints.finish().map(|()| policy)
    }

    /// Sections that the text fills and that this build accepts without acting on them. None of them gives access.
    pub fn not_built(&self) -> &[String] {
        &self.not_built
    }

    /// Whether the text says nothing of access, so that everyone reaches everything.
    pub fn allows_all(&self) -> bool {
        self.rules.is_none()
    }

    /// Whether nodes are to leave the fixed UDP port alone (`randomizeClientPort`).
    pub fn randomizes_client_port(&self) -> bool {
        self.randomizes_client_port
    }

    /// Whether the policy knows the tag, written with its `tag:`.
    pub fn knows_tag(&self, tag: &str) -> bool {
        self.tag_owners.contains_key(tag)
    }

    pub(crate) fn members(&self, group: &str) -> impl Iterator<Item = &str> {
        self.groups.get(group).into_iter().flatten().map(String::as_str)
    }

    fn read(&mut self, root: &Object<'_>, complaints: &mut Complaints<'_>) {
        let mut sections: BTreeMap<String, &Value<'_>> = BTreeMap::new();
        for (name, property) in document::properties(root, true, "", complaints) {
            let folded = name.to_ascii_lowercase();
            match SECTIONS.iter().find(|section| section.name.eq_ignore_ascii_case(name)) {
                None => complaints.add(property.range.start, "", format!("unknown field: {name:?}")),
                Some(Section { built: Built::Yes, .. }) => {}
                Some(_) if is_empty(&property.value) => {}
                Some(Section { built: Built::NoAndMatters, name }) => {
                    complaints.add(
                        property.range.start,
                        "",
                        format!("{name} is not built yet, and it would change who reaches whom"),
                    );
                }
                Some(Section { built: Built::No, name }) => self.not_built.push((*name).to_owned()),
            }
            sections.insert(folded, &property.value);
        }
        let present = |name: &str| sections.get(name).copied().filter(|value| !matches!(value, Value::NullKeyword(_)));
        if let Some(value) = present("groups") {
            self.read_groups(value, complaints);
        }
        if let Some(value) = present("hosts") {
            self.read_hosts(value, complaints);
        }
        if let Some(value) = present("tagowners") {
            self.read_tag_owners(value, complaints);
        }
        if let Some(value) = present("autoapprovers") {
            self.read_approvers(value, complaints);
        }
        match present("randomizeclientport") {
            None => {}
            Some(Value::BooleanLit(literal)) => self.randomizes_client_port = literal.value,
            Some(other) => complaints.add(other.start(), "randomizeClientPort", "must be true or false"),
        }
        if let Some(value) = present("acls") {
            let rules = self.read_rules(value, complaints);
            self.rules = Some(rules);
        } else if present("grants").is_some() {
            self.rules = Some(Vec::new());
        }
    }

    fn read_groups(&mut self, value: &Value<'_>, complaints: &mut Complaints<'_>) {
        let Some(object) = document::object(value, "groups", complaints) else { return };
        for (name, property) in document::properties(object, false, "groups", complaints) {
            let path = format!("groups[{name:?}]");
            if !name.starts_with("group:") || name.len() == "group:".len() {
                complaints.add(property.range.start, &path, "group names start with 'group:'");
                continue;
            }
            if !matches!(property.value, Value::Array(_)) {
                complaints.add(property.value.start(), &path, "group value must be an array of users");
                continue;
            }
            let mut members = Vec::new();
            for (at, member) in document::strings(&property.value, &path, complaints) {
                match Selector::parse(member) {
                    Ok(Selector::User(token)) => members.push(token),
                    Ok(Selector::Group(_)) => {
                        complaints.add(at, "", format!("{path}: {member:?}: group members cannot be recursive"));
                    }
                    _ => complaints.add(at, &path, format!("username must contain @, got: {member:?}")),
                }
            }
            self.groups.insert(name.to_owned(), members);
        }
    }

    fn read_hosts(&mut self, value: &Value<'_>, complaints: &mut Complaints<'_>) {
        let Some(object) = document::object(value, "hosts", complaints) else { return };
        for (name, property) in document::properties(object, false, "hosts", complaints) {
            let path = format!("hosts[{name:?}]");
            let Some(text) = document::string(&property.value, &path, complaints) else { continue };
            match parse_address(text.value.trim()) {
                Some(prefix) => {
                    self.hosts.insert(name.to_owned(), prefix);
                }
                None => complaints.add(
                    text.range.start,
                    &path,
                    format!("hostname contains invalid IP address: hostname {name:?} address {:?}", text.value),
                ),
            }
        }
    }

    fn read_tag_owners(&mut self, value: &Value<'_>, complaints: &mut Complaints<'_>) {
        let Some(object) = document::object(value, "tagOwners", complaints) else { return };
        let mut owned_by_tags = Vec::new();
        for (name, property) in document::properties(object, false, "tagOwners", complaints) {
            let path = format!("tagOwners[{name:?}]");
            match name.strip_prefix("tag:") {
                None => complaints.add(property.range.start, &path, "tag names start with 'tag:'"),
                Some(rest) if !rest.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                    complaints.add(
                        property.range.start,
                        "",
                        format!("{path}: tag names must start with a letter, after 'tag:'"),
                    );
                }
                Some(_) => {}
            }
            let mut owners = Vec::new();
            for (at, word) in document::strings(&property.value, &path, complaints) {
                match Selector::parse(word) {
                    Ok(Selector::Group(group)) if !self.groups.contains_key(&group) => {
                        complaints.add(at, &path, format!("group not defined in policy: {group:?}"));
                    }
                    Ok(Selector::Tag(tag)) => {
                        owned_by_tags.push((at, path.clone(), tag.clone()));
                        owners.push(Selector::Tag(tag));
                    }
                    Ok(owner @ (Selector::User(_) | Selector::Group(_) | Selector::Autogroup(Autogroup::Member))) => {
                        owners.push(owner)
                    }
                    _ => complaints.add(at, &path, format!("invalid owner format: {word:?}")),
                }
            }
            self.tag_owners.insert(name.to_owned(), owners);
        }
        for (at, path, tag) in owned_by_tags {
            if !self.tag_owners.contains_key(&tag) {
                complaints.add(at, path, format!("tag not found: {tag:?}"));
            }
        }
    }

    fn read_approvers(&mut self, value: &Value<'_>, complaints: &mut Complaints<'_>) {
        let path = "autoApprovers";
        let Some(object) = document::object(value, path, complaints) else { return };
        for (name, property) in document::properties(object, true, path, complaints) {
            let value = &property.value;
            match name.to_ascii_lowercase().as_str() {
                "exitnode" => {
                    self.approvers.exit_node = self.read_approver_list(value, "autoApprovers.exitNode", complaints)
                }
                "services" if is_empty(value) => {}
                "services" => self.not_built.push("autoApprovers.services".to_owned()),
                "routes" => {
                    let Some(routes) = document::object(value, "autoApprovers.routes", complaints) else { continue };
                    for (text, property) in document::properties(routes, false, "autoApprovers.routes", complaints) {
                        let path = format!("autoApprovers.routes[{text:?}]");
                        let approvers = self.read_approver_list(&property.value, &path, complaints);
                        match parse_address(text) {
                            Some(prefix) => self.approvers.routes.push((prefix, approvers)),
                            None => complaints.add(property.range.start, &path, "must be a network, as in 10.0.0.0/8"),
                        }
                    }
                }
                _ => complaints.add(property.range.start, path, format!("unknown field: {name:?}")),
            }
        }
    }

    fn read_approver_list(&self, value: &Value<'_>, path: &str, complaints: &mut Complaints<'_>) -> Vec<Selector> {
        let mut approvers = Vec::new();
        for (at, word) in document::strings(value, path, complaints) {
            let checked = Selector::parse(word).and_then(|selector| {
                match &selector {
                    Selector::User(_) | Selector::Autogroup(Autogroup::Member | Autogroup::Tagged) => {}
                    Selector::Tag(tag) if !self.knows_tag(tag) => return Err(format!("tag not found: {tag:?}")),
                    Selector::Tag(_) | Selector::Group(_) => self.check_defined(&selector)?,
                    _ => return Err(format!("invalid auto approver format: {word:?}")),
                }
                Ok(selector)
            });
            match checked {
                Ok(selector) => approvers.push(selector),
                Err(error) => complaints.add(at, path, error),
            }
        }
        approvers
    }

    fn read_rules(&self, value: &Value<'_>, complaints: &mut Complaints<'_>) -> Vec<Rule> {
        let Some(list) = document::array(value, "acls", complaints) else { return Vec::new() };
        let entries = list.elements.iter().enumerate();
        entries.filter_map(|(index, entry)| self.read_rule(entry, &format!("acls[{index}]"), complaints)).collect()
    }

    fn read_rule(&self, entry: &Value<'_>, path: &str, complaints: &mut Complaints<'_>) -> Option<Rule> {
        let Value::Object(object) = entry else {
            complaints.add(entry.start(), path, "must be an object: { … }");
            return None;
        };
        let mut rule = Rule { sources: Vec::new(), destinations: Vec::new(), protocol: None };
        let mut has_action = false;
        let mut destinations: Option<&Value<'_>> = None;
        for (name, property) in document::properties(object, true, path, complaints) {
            let (value, at) = (&property.value, property.value.start());
            match name.to_ascii_lowercase().as_str() {
                // Notes that editors of policies leave in rules.
                _ if name.starts_with('#') => {}
                "action" => {
                    has_action = true;
                    let action = document::string(value, path, complaints)?;
                    if action.value != "accept" {
                        complaints.add(at, path, format!("action={:?} is not supported", action.value));
                    }
                }
                "proto" => {
                    let text = document::string(value, path, complaints)?;
                    match ports::parse_protocol(text.value.trim()) {
                        Ok(protocol) => rule.protocol = protocol,
                        Err(error) => complaints.add(at, path, error),
                    }
                }
                "src" => rule.sources = self.read_sources(value, path, complaints),
                "dst" => destinations = Some(value),
                "srcposture" if is_empty(value) => {}
                "srcposture" | "users" | "ports" => complaints.add(
                    property.range.start,
                    path,
                    format!("{name} is not built yet, and it would change who reaches whom"),
                ),
                _ => complaints.add(property.range.start, path, format!("unknown field: {name:?}")),
            }
        }
        if !has_action {
            complaints.add(entry.start(), path, "action=\"\" is not supported");
        }
        if let Some(value) = destinations {
            rule.destinations = self.read_destinations(value, path, &rule, complaints);
        }
        Some(rule)
    }

    fn read_sources(&self, value: &Value<'_>, path: &str, complaints: &mut Complaints<'_>) -> Vec<Selector> {
        let mut sources = Vec::new();
        for (at, word) in document::strings(value, &format!("{path}.src"), complaints) {
            let checked = Selector::parse(word).and_then(|selector| {
                match &selector {
                    Selector::Autogroup(Autogroup::Internet) => {
                        return Err("autogroup:internet can only be used in ACL destinations".to_owned());
                    }
                    Selector::Autogroup(Autogroup::Selves) => {
                        return Err("\"autogroup:self\" not valid on the src side of a rule".to_owned());
                    }
                    Selector::Tag(tag) if !self.knows_tag(tag) => return Err(format!("src=tag not found: {tag:?}")),
                    _ => self.check_defined(&selector)?,
                }
                Ok(selector)
            });
            match checked {
                Ok(selector) => sources.push(selector),
                Err(error) => complaints.add(at, format!("{path}.src"), error),
            }
        }
        sources
    }

    fn read_destinations(
        &self,
        value: &Value<'_>,
        path: &str,
        rule: &Rule,
        complaints: &mut Complaints<'_>,
    ) -> Vec<(Selector, Vec<PortRange>)> {
        let mut destinations = Vec::new();
        for (at, word) in document::strings(value, &format!("{path}.dst"), complaints) {
            match self.read_destination(word, rule) {
                Ok(destination) => destinations.push(destination),
                Err(error) => complaints.add(at, format!("{path}.dst"), error),
            }
        }
        destinations
    }

    fn read_destination(&self, word: &str, rule: &Rule) -> Result<(Selector, Vec<PortRange>), String> {
        let place = |error: String| format!("dst={word:?}: {error}");
        let (host, port_text) = split_ports(word).map_err(place)?;
        let ports = ports::parse_ports(port_text).map_err(place)?;
        let selector = Selector::parse(host).map_err(place)?;
        match &selector {
            Selector::Autogroup(Autogroup::DangerAll) => {
                return Err(place("cannot use autogroup:danger-all as a dst".to_owned()));
            }
            Selector::Autogroup(Autogroup::Selves) if !rule.sources.iter().all(may_have_selves) => {
                return Err("autogroup:self can only be used with users, groups, or supported autogroups".to_owned());
            }
            Selector::Tag(tag) if !self.knows_tag(tag) => return Err(format!("dst={tag:?}: tag not found: {tag:?}")),
            _ => self.check_defined(&selector).map_err(place)?,
        }
        if !ports::takes_ports(rule.protocol) && ports.iter().any(|range| *range != PortRange::ANY) {
            let protocol = rule.protocol.map(|protocol| protocol.to_string()).unwrap_or_default();
            return Err(place(format!(
                "protocol does not support specific ports: {protocol:?}, only \"*\" is allowed"
            )));
        }
        Ok((selector, ports))
    }

    fn check_defined(&self, selector: &Selector) -> Result<(), String> {
        match selector {
            Selector::Group(group) if !self.groups.contains_key(group) => {
                Err(format!("group not defined in policy: {group:?}"))
            }
            Selector::Host(host) if !self.hosts.contains_key(host) => {
                Err(format!("host not defined in policy: {host:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// Sources whose own devices `autogroup:self` can mean.
fn may_have_selves(source: &Selector) -> bool {
    matches!(
        source,
        Selector::Everyone | Selector::User(_) | Selector::Group(_) | Selector::Autogroup(Autogroup::Member)
    )
}

/// Whether a value says nothing: null, false, "", [], {}.
fn is_empty(value: &Value<'_>) -> bool {
    match value {
        Value::NullKeyword(_) => true,
        Value::BooleanLit(literal) => !literal.value,
        Value::StringLit(literal) => literal.value.is_empty(),
        Value::Array(array) => array.elements.is_empty(),
        Value::Object(object) => object.properties.is_empty(),
        Value::NumberLit(_) => false,
    }
}

struct Section {
    name: &'static str,
    built: Built,
}

enum Built {
    Yes,
    /// Gives nobody access, so leaving it out is safe.
    No,
    /// Leaving it out would let in what it keeps out, or keep out what it lets in.
    NoAndMatters,
}

const SECTIONS: [Section; 18] = [
    Section { name: "groups", built: Built::Yes },
    Section { name: "hosts", built: Built::Yes },
    Section { name: "tagOwners", built: Built::Yes },
    Section { name: "acls", built: Built::Yes },
    Section { name: "randomizeClientPort", built: Built::Yes },
    Section { name: "grants", built: Built::NoAndMatters },
    Section { name: "defaultSrcPosture", built: Built::NoAndMatters },
    Section { name: "ssh", built: Built::No },
    Section { name: "autoApprovers", built: Built::Yes },
    Section { name: "nodeAttrs", built: Built::No },
    Section { name: "tests", built: Built::No },
    Section { name: "sshTests", built: Built::No },
    // Definitions alone do nothing; using one in a rule is refused there.
    Section { name: "postures", built: Built::No },
    Section { name: "ipsets", built: Built::No },
    Section { name: "attrConfig", built: Built::No },
    Section { name: "derpMap", built: Built::No },
    Section { name: "disableIPv4", built: Built::No },
    Section { name: "OneCGNATRoute", built: Built::No },
];
