//! The section `tests`: what the author of a policy says that it allows and what not. user-surface.md §4.11.
//!
//! A test speaks of one connection: from one source, to one port of one destination. Everything that is wrong with a test
//! begins with the field's `test(s) failed`, also what shows while the text is read.

use std::collections::BTreeMap;

use warren_ip::Protocol;

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::place::Place;
use crate::policy::Policy;
use crate::ports;
use crate::raw::{Kind, Raw};
use crate::selector::{Autogroup, Selector, split_ports};
use crate::tailnet::Attribute;

/// One entry of `tests`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PolicyTest {
    pub(crate) place: Place,
    /// As written.
    pub(crate) word: String,
    pub(crate) source: Selector,
    /// What the device of the source is supposed to be like; `None`: as it is.
    pub(crate) attributes: Option<BTreeMap<String, Attribute>>,
    /// `None`: any that a client uses by default.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) accept: Vec<Target>,
    pub(crate) deny: Vec<Target>,
}

/// Where a test connects to.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Target {
    pub(crate) place: Place,
    /// As written.
    pub(crate) word: String,
    pub(crate) destination: Selector,
    /// 0 if the protocol has none.
    pub(crate) port: u16,
}

/// How every complaint about a test begins.
pub(crate) const FAILED: &str = "test(s) failed";

/// Reads the section. `policy` has its groups, hosts, sets, tags and postures already.
pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> Vec<PolicyTest> {
    let entries = document.section("tests").and_then(|value| document::list(value, "tests", complaints));
    let entries = entries.unwrap_or_default().iter().enumerate();
    entries.filter_map(|(index, entry)| read_test(policy, entry, &format!("tests[{index}]"), complaints)).collect()
}

fn read_test(policy: &Policy, entry: &Raw, path: &str, complaints: &mut Complaints) -> Option<PolicyTest> {
    if entry.is_null() {
        complaints.add(entry.at, path, "must be an object: { … }");
    }
    let (mut source, mut attributes, mut protocol, mut protocol_text) = (None, None, None, "");
    let (mut accept, mut deny) = (Vec::new(), Vec::new());
    for field in document::object(entry, Names::Fields, path, complaints)? {
        let value = &field.value;
        match field.name.to_ascii_lowercase().as_str() {
            _ if field.name.starts_with('#') || value.is_null() => {}
            // `user` and `allow` are what the field called them before.
            "src" | "user" => source = document::text(value, &format!("{path}.src"), complaints).map(|w| (value.at, w)),
            "proto" => {
                protocol_text = document::text(value, &format!("{path}.proto"), complaints).unwrap_or_default().trim();
                match ports::parse_protocol(protocol_text) {
                    Ok(found) => protocol = found,
                    Err(error) => complaints.add(value.at, format!("{path}.proto"), format!("{FAILED}: {error}")),
                }
            }
            "accept" | "allow" => accept.extend(document::texts(value, &format!("{path}.accept"), complaints)),
            "deny" => deny.extend(document::texts(value, &format!("{path}.deny"), complaints)),
            "srcpostureattrs" => attributes = read_attributes(value, path, complaints),
            _ => complaints.add(field.at, path, format!("unknown field: {:?}", field.name)),
        }
    }
    if accept.is_empty() && deny.is_empty() {
        let message = format!("{FAILED}: test entry must have at least one of \"accept\" or \"deny\"");
        complaints.add(entry.at, path, message);
    }
    let targets = |words: Vec<(usize, &str)>, name: &str, complaints: &mut Complaints| {
        let mut targets = Vec::new();
        for (index, (at, word)) in words.into_iter().enumerate() {
            let path = format!("{path}.{name}[{index}]");
            match read_target(policy, word, protocol, protocol_text) {
                Ok((destination, port)) => {
                    let place = Place::new(at, &path, complaints);
                    targets.push(Target { place, word: word.to_owned(), destination, port });
                }
                Err(error) => complaints.add(at, path, format!("{FAILED}: {word:?}: {error}")),
            }
        }
        targets
    };
    let accept = targets(accept, "accept", complaints);
    let deny = targets(deny, "deny", complaints);
    let (at, word) = source.unwrap_or((entry.at, ""));
    match read_source(policy, word) {
        Ok(source) => {
            let place = Place::new(at, path, complaints);
            Some(PolicyTest { place, word: word.to_owned(), source, attributes, protocol, accept, deny })
        }
        Err(error) => {
            let message = format!("{FAILED}: {word}: failed to resolve source {word:?}: {error}");
            complaints.add(at, format!("{path}.src"), message);
            None
        }
    }
}

fn read_source(policy: &Policy, word: &str) -> Result<Selector, String> {
    if word.trim().is_empty() {
        return Err("a test has a src".to_owned());
    }
    let source = Selector::parse(word)?;
    match source {
        Selector::Autogroup(Autogroup::Selves | Autogroup::Internet) => {
            Err(format!("{source} is no source: it does not say whose packets these are"))
        }
        Selector::Service(_) => Err("a service sends nothing of its own".to_owned()),
        _ => policy.check_defined(&source).map(|()| source),
    }
}

fn read_target(
    policy: &Policy,
    word: &str,
    protocol: Option<Protocol>,
    protocol_text: &str,
) -> Result<(Selector, u16), String> {
    let (host, port_text) = split_ports(word)?;
    let destination = Selector::parse(host)?;
    match &destination {
        Selector::Autogroup(Autogroup::Internet) => {
            return Err("autogroup:internet not valid as a test destination".to_owned());
        }
        Selector::Autogroup(Autogroup::Selves | Autogroup::DangerAll) => {
            return Err(format!("{destination} not valid as a test destination"));
        }
        // Also `10.0.0.1/32`: the field looks at how it is written.
        Selector::Address(_) if host.contains('/') => return Err(NOT_ONE_HOST.to_owned()),
        Selector::Host(name) if policy.hosts.get(name).is_some_and(|prefix| !prefix.is_host()) => {
            return Err(NOT_ONE_HOST.to_owned());
        }
        _ => policy.check_defined(&destination)?,
    }
    if let Some(protocol) = protocol
        && !ports::takes_ports(protocol)
    {
        return match port_text {
            "0" => Ok((destination, 0)),
            _ => Err(format!(
                "test protocol must be tcp, udp, sctp, or empty: {protocol_text:?} has no ports, which is written as port 0"
            )),
        };
    }
    match ports::parse_ports(port_text)?[..] {
        [range] if range.first == range.last => Ok((destination, range.first)),
        _ => Err("test destination port must be a single port".to_owned()),
    }
}

const NOT_ONE_HOST: &str = "test destination must be a single host, not a CIDR range";

fn read_attributes(value: &Raw, path: &str, complaints: &mut Complaints) -> Option<BTreeMap<String, Attribute>> {
    let path = format!("{path}.srcPostureAttrs");
    let mut attributes = BTreeMap::new();
    for field in document::object(value, Names::Given, &path, complaints)? {
        let attribute = match &field.value.kind {
            Kind::Text(text) => Some(Attribute::Text(text.clone())),
            Kind::Bool(value) => Some(Attribute::Bool(*value)),
            Kind::Number(digits) => digits.parse().ok().map(Attribute::Number),
            _ => None,
        };
        match attribute {
            Some(attribute) => {
                attributes.insert(field.name.clone(), attribute);
            }
            None => complaints.add(field.value.at, &path, "an attribute is a text, a number, true or false"),
        }
    }
    Some(attributes)
}
