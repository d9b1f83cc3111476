//! What to write instead: for policies that were written for another server, or from memory.

use std::collections::BTreeMap;

use crate::diagnostics::Complaints;
use crate::document::Document;
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::selector::Selector;

/// The complaint about a field that the language does not have, with the one that was probably meant.
pub(crate) fn unknown_field(name: &str, known: &[&str]) -> String {
    let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == plain(name)).map(|(_, field)| *field);
    let meant = synonym.filter(|field| known.contains(field)).or_else(|| {
        let same = known.iter().find(|field| plain(field) == plain(name));
        same.or_else(|| known.iter().find(|field| are_close(&plain(field), &plain(name)))).copied()
    });
    match meant {
        Some(field) => format!("unknown field: {name:?}; write {field:?}"),
        None => format!("unknown field: {name:?}"),
    }
}

const SYNONYMS: [(&str, &str); 15] = [
    ("source", "src"),
    ("sources", "src"),
    ("from", "src"),
    ("destination", "dst"),
    ("destinations", "dst"),
    ("dest", "dst"),
    ("to", "dst"),
    ("protocol", "proto"),
    ("acl", "acls"),
    ("rules", "acls"),
    ("policies", "acls"),
    ("posture", "srcPosture"),
    ("capabilities", "app"),
    ("ipset", "ipsets"),
    ("tags", "tagOwners"),
];

/// At most one letter added, lost, changed, or two that stand side by side exchanged. Makes no lists: it is asked of every
/// name there is.
fn are_close(a: &str, b: &str) -> bool {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let (Some(a_rest), Some(b_rest)) = (a.get(same..), b.get(same..)) else { return false };
    let same_end = a_rest.chars().rev().zip(b_rest.chars().rev()).take_while(|(a, b)| a == b);
    let end: usize = same_end.map(|(c, _)| c.len_utf8()).sum();
    let middle = |rest: &str| {
        let mut letters = rest.get(..rest.len() - end).unwrap_or_default().chars();
        (letters.next(), letters.next(), letters.next())
    };
    let is_long_enough = a.chars().nth(2).is_some() && b.chars().nth(2).is_some();
    is_long_enough
        && match (middle(a_rest), middle(b_rest)) {
            ((_, None, None), (_, None, None)) => true,
            ((Some(a), Some(b), None), (Some(c), Some(d), None)) => (a, b) == (d, c),
            _ => false,
        }
}

impl Policy {
    /// What to do about a name that is not defined. Begins with a separator, or is empty.
    pub(crate) fn remedy(&self, selector: &Selector) -> String {
        let near = |start: &str, name: &str| {
            let mut names =
                self.groups.keys().chain(self.tag_owners.keys()).chain(self.hosts.keys()).chain(self.ip_sets.keys());
            let is_near = |known: &&String| known.starts_with(start) && are_close(known, name);
            names.find(is_near).map(|known| format!("; did you mean {known:?}?"))
        };
        match selector {
            Selector::Group(name) => near("group:", name).unwrap_or_else(|| {
                format!(
                    "; define it under \"groups\", or write {:?} if it is the identity provider's",
                    format!("{name}@oidc")
                )
            }),
            Selector::Tag(name) => near("tag:", name).unwrap_or_else(|| match name.rsplit_once(':') {
                Some((tag, port)) if self.knows_tag(tag) => format!("; write {tag:?}, and {port:?} under \"ip\""),
                _ => format!("; give it owners: \"tagOwners\": {{{name:?}: []}}, where [] leaves it to operators"),
            }),
            Selector::Host(name) => {
                let defined = ["group:", "tag:"].map(|start| format!("{start}{name}"));
                let defined = defined.iter().find(|name| self.groups.contains_key(*name) || self.knows_tag(name));
                match defined {
                    Some(name) => format!("; write {name:?}"),
                    None => {
                        near("", name).unwrap_or_else(|| format!("; if it is a user, write {:?}", format!("{name}@")))
                    }
                }
            }
            Selector::IpSet(name) => near("ipset:", name).unwrap_or_else(|| "; define it under \"ipsets\"".to_owned()),
            _ => String::new(),
        }
    }
}

/// What to write in place of an entry that denies. `is_last`: no other entry follows it.
pub(crate) fn deny(is_last: bool) -> &'static str {
    if is_last {
        "leave the entry out: what no rule accepts is denied already"
    } else {
        "what no rule accepts is denied already, and nothing takes away what a rule accepts: leave the entry out, and let the entries after it accept only what it was not to stop"
    }
}

/// Words that are read as others.
pub(crate) fn note_aliases(document: &Document, complaints: &mut Complaints) {
    document.sections().for_each(|(name, value)| note_in(value, name, complaints));
}

fn note_in(value: &Raw, path: &str, complaints: &mut Complaints) {
    match &value.kind {
        Kind::Text(word) if word == "autogroup:members" || word.starts_with("autogroup:members:") => {
            let rest = &word["autogroup:members".len()..];
            complaints.note(value.at, path, format!("{word:?} is read as {:?}", format!("autogroup:member{rest}")));
        }
        Kind::List(elements) => elements.iter().enumerate().for_each(|(index, element)| {
            note_in(element, &format!("{path}[{index}]"), complaints);
        }),
        Kind::Object(fields) => {
            fields.iter().for_each(|field| note_in(&field.value, &format!("{path}.{}", field.name), complaints));
        }
        _ => {}
    }
}

/// A block of named ports, which the language does not have: read only to say what to write in place of its names.
#[derive(Debug, Default)]
pub(crate) struct NamedPorts {
    /// As they stand in a grant's `ip`.
    by_name: BTreeMap<String, Vec<String>>,
}

impl NamedPorts {
    /// Reads `{"web": {"proto": "tcp", "ports": [80]}}`, `{"web": "tcp:80"}` and lists of either with a `name`.
    pub(crate) fn read(block: &Raw) -> NamedPorts {
        let mut named = NamedPorts::default();
        match &block.kind {
            Kind::Object(fields) => {
                for field in fields {
                    named.by_name.insert(field.name.clone(), ports_of(&field.value));
                }
            }
            Kind::List(elements) => {
                for element in elements {
                    if let Some(name) = child(element, &["name"]).and_then(Raw::text) {
                        named.by_name.insert(name.to_owned(), ports_of(element));
                    }
                }
            }
            _ => {}
        }
        named
    }

    /// The grant that says what an entry with names of ports means, on one line. `None` if that is not certain.
    pub(crate) fn grant(&self, entry: &Raw, names: &Raw) -> Option<String> {
        let words = |value: &Raw| -> Option<Vec<String>> {
            match &value.kind {
                Kind::List(elements) => elements.iter().map(|element| element.text().map(str::to_owned)).collect(),
                Kind::Text(word) => Some(vec![word.clone()]),
                _ => None,
            }
        };
        let mut ip = Vec::new();
        for name in words(names)? {
            let ports = self.by_name.get(&name).filter(|ports| !ports.is_empty())?;
            ip.extend(ports.iter().cloned());
        }
        let (src, dst) = (
            words(child(entry, &["src", "sources", "source"])?)?,
            words(child(entry, &["dst", "destinations", "destination"])?)?,
        );
        Some(format!("{{\"src\": {src:?}, \"dst\": {dst:?}, \"ip\": {ip:?}}}"))
    }
}

fn child<'r>(value: &'r Raw, names: &[&str]) -> Option<&'r Raw> {
    let Kind::Object(fields) = &value.kind else { return None };
    let is_meant = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    fields.iter().find(|field| is_meant(&field.name)).map(|field| &field.value)
}

/// Empty if the block says it in a way that is not known.
fn ports_of(value: &Raw) -> Vec<String> {
    match &value.kind {
        Kind::Text(word) => vec![word.replace('/', ":")],
        Kind::Number(number) => vec![number.clone()],
        Kind::List(elements) => elements.iter().flat_map(ports_of).collect(),
        Kind::Object(_) => {
            let protocol = child(value, &["proto", "protocol"]).and_then(Raw::text).unwrap_or_default();
            let ports = child(value, &["ports", "port"]).map(ports_of).unwrap_or_default();
            let written = |port: String| if protocol.is_empty() { port } else { format!("{protocol}:{port}") };
            ports.into_iter().map(written).collect()
        }
        _ => Vec::new(),
    }
}
