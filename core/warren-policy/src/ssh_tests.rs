//! The section `sshTests`: who the author of a policy says may open a shell where. user-surface.md §4.11.

use std::collections::BTreeSet;

use crate::diagnostics::{Complaints, Diagnostic};
use crate::document::{self, Document, Names};
use crate::node_set::NodeSet;
use crate::place::Place;
use crate::policy::Policy;
use crate::policy_tests::FAILED;
use crate::raw::Raw;
use crate::selector::{Autogroup, Selector};
use crate::sources::Resolver;
use crate::ssh::Verb;
use crate::ssh_table::SshTable;
use crate::tailnet::Tailnet;

/// One entry of `sshTests`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SshTest {
    place: Place,
    /// As written.
    word: String,
    source: Selector,
    destinations: Vec<(Place, Selector)>,
    assertions: Vec<Assertion>,
}

/// What is said of one local user.
#[derive(Clone, PartialEq, Debug)]
struct Assertion {
    place: Place,
    user: String,
    expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// Reaches, checked or not.
    Accept,
    /// Reaches, and only after a check.
    Check,
    Deny,
}

/// Reads the section. `policy` has its groups, hosts and tags already.
pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> Vec<SshTest> {
    let entries = document.section("sshTests").and_then(|value| document::list(value, "sshTests", complaints));
    let entries = entries.unwrap_or_default().iter().enumerate();
    entries.filter_map(|(index, entry)| read_test(policy, entry, index, complaints)).collect()
}

fn read_test(policy: &Policy, entry: &Raw, index: usize, complaints: &mut Complaints) -> Option<SshTest> {
    let path = format!("sshTests[{index}]");
    if entry.is_null() {
        complaints.add(entry.at, &path, "must be an object: { … }");
    }
    let (mut source, mut destinations, mut assertions) = (None, Vec::new(), Vec::new());
    for field in document::object(entry, Names::Fields, &path, complaints)? {
        let value = &field.value;
        let expected = match field.name.to_ascii_lowercase().as_str() {
            _ if field.name.starts_with('#') || value.is_null() => continue,
            "src" => {
                source = document::text(value, &format!("{path}.src"), complaints).map(|word| (value.at, word.trim()));
                continue;
            }
            "dst" => {
                destinations = document::texts(value, &format!("{path}.dst"), complaints);
                continue;
            }
            "accept" => Expected::Accept,
            "check" => Expected::Check,
            "deny" => Expected::Deny,
            "srcpostureattrs" if value.is_empty() => continue,
            "srcpostureattrs" => {
                complaints.add(field.at, &path, "srcPostureAttrs is not built for sshTests");
                continue;
            }
            _ => {
                complaints.add(field.at, &path, format!("unknown field: {:?}", field.name));
                continue;
            }
        };
        let path = format!("{path}.{}", field.name);
        for (at, user) in document::texts(value, &path, complaints) {
            let user = user.trim();
            if user.is_empty() || user == "*" {
                complaints.add(at, &path, format!("{FAILED}: user {user:?} is not valid"));
            }
            let place = Place::new(at, &path, complaints);
            assertions.push(Assertion { place, user: user.to_owned(), expected });
        }
    }
    let mut fail = |at: usize, message: String| complaints.add(at, &path, format!("{FAILED}: {message}"));
    if assertions.is_empty() {
        fail(entry.at, format!("sshTest {index}: no accept, deny, or check assertions specified"));
    }
    if destinations.is_empty() {
        fail(entry.at, format!("sshTest {index}: SSH tests entry must have at least one dst"));
    }
    let mut known = Vec::new();
    for (at, word) in destinations {
        match read_destination(policy, word) {
            Ok(destination) => known.push((at, destination)),
            Err(error) => fail(at, format!("sshTest {index}: {error}")),
        }
    }
    let (at, word) = source.unwrap_or((entry.at, ""));
    if word.is_empty() {
        fail(at, format!("sshTest {index}: SSH tests entry must have a non-empty src"));
        return None;
    }
    let source = match read_source(policy, word) {
        Ok(source) => source,
        Err(error) => {
            fail(at, format!("{word}: failed to resolve source {word:?}: {error}"));
            return None;
        }
    };
    let destination = |(at, destination)| (Place::new(at, &format!("{path}.dst"), complaints), destination);
    Some(SshTest {
        destinations: known.into_iter().map(destination).collect(),
        place: Place::new(at, &path, complaints),
        word: word.to_owned(),
        source,
        assertions,
    })
}

fn read_source(policy: &Policy, word: &str) -> Result<Selector, String> {
    let source = Selector::parse(word)?;
    match source {
        Selector::Autogroup(Autogroup::Selves | Autogroup::Internet | Autogroup::DangerAll) | Selector::Service(_) => {
            Err(format!("{source} names no nodes"))
        }
        _ => policy.check_defined(&source).map(|()| source),
    }
}

fn read_destination(policy: &Policy, word: &str) -> Result<Selector, String> {
    let word = word.trim();
    let disallowed = || format!("SSH tests dst contains disallowed element {word:?}");
    let destination = Selector::parse(word).map_err(|_| disallowed())?;
    match &destination {
        Selector::Tag(tag) if !policy.knows_tag(tag) => Err(format!("SSH tests dst contains unknown tag {tag:?}")),
        Selector::Autogroup(Autogroup::Internet | Autogroup::DangerAll | Autogroup::Shared)
        | Selector::Everyone
        | Selector::Group(_)
        | Selector::Domain(_)
        | Selector::IpSet(_)
        | Selector::Service(_) => Err(disallowed()),
        Selector::Address(prefix) if !prefix.is_host() => Err(disallowed()),
        Selector::Host(name) if policy.hosts.get(name).is_some_and(|prefix| !prefix.is_host()) => Err(disallowed()),
        _ => policy.check_defined(&destination).map(|()| destination),
    }
}

impl SshTest {
    /// Adds what of the test does not hold: for every source, every destination and every user named.
    pub(crate) fn run(
        &self,
        table: &SshTable,
        tailnet: &Tailnet<'_>,
        resolver: &mut Resolver<'_>,
        failures: &mut Vec<Diagnostic>,
    ) {
        let mut fail = |place: &Place, message: String| failures.push(place.complain(format!("{FAILED}: {message}")));
        let sources = resolver.nodes_meeting(std::slice::from_ref(&self.source), &[]);
        // An address is somebody even if no node has it: whoever that is gets in nowhere.
        let is_stranger =
            is_empty(&sources) && matches!(self.source, Selector::Address(_) | Selector::Host(_) | Selector::IpSet(_));
        if is_empty(&sources) && !is_stranger {
            return fail(&self.place, format!("{0}: source {0:?} resolved to no IP addresses", self.word));
        }
        let mut others = NodeSet::new(tailnet.nodes.len());
        let mut has_selves = false;
        for (place, destination) in &self.destinations {
            let nodes = match destination {
                Selector::Autogroup(Autogroup::Selves) => {
                    has_selves = true;
                    owned_among(&sources, tailnet)
                }
                _ => resolver.nodes_meeting(std::slice::from_ref(destination), &[]),
            };
            if is_empty(&nodes) {
                let name = destination.to_string();
                fail(place, format!("{}: dst alias {name:?} resolved to no nodes", self.word));
            }
            if !is_selves(destination) {
                others.union_with(&nodes);
            }
        }
        let everyone = has_selves.then(|| owned_among(&all(tailnet), tailnet));
        for assertion in &self.assertions {
            let user = &assertion.user;
            let mut pairs: BTreeSet<(Option<usize>, usize)> = BTreeSet::new();
            let known =
                table.pairs(&sources, &others, user).into_iter().chain(table.own_pairs(&sources, &others, user));
            pairs.extend(known.map(|(from, to)| (Some(from), to)));
            if let Some(everyone) = &everyone {
                let own = table.own_pairs(&sources, everyone, user).into_iter();
                pairs.extend(own.map(|(from, to)| (Some(from), to)));
            }
            if is_stranger {
                pairs.extend(others.clone().into_iter().next().map(|to| (None, to)));
            }
            for (from, to) in pairs {
                let verb = from.and_then(|from| table.verb(from, to, user));
                if let Some((wanted, found)) = assertion.expected.contradicted_by(verb) {
                    let to = tailnet.nodes.get(to).and_then(|node| node.addrs.first());
                    let to = to.map(ToString::to_string).unwrap_or_default();
                    fail(&assertion.place, format!("{}/{user} -> {to}: expected {wanted}, got {found}", self.word));
                }
            }
        }
    }
}

impl Expected {
    /// What was wanted and what was found, if they differ.
    fn contradicted_by(self, verb: Option<Verb>) -> Option<(&'static str, &'static str)> {
        match (self, verb) {
            (Expected::Accept, None) => Some(("ALLOWED", "DENIED")),
            (Expected::Check, None) => Some(("ALLOWED via check", "DENIED")),
            (Expected::Check, Some(Verb::Accept)) => Some(("ALLOWED via check", "ALLOWED via accept")),
            (Expected::Deny, Some(_)) => Some(("DENIED", "ALLOWED")),
            (Expected::Accept, Some(_)) | (Expected::Check, Some(Verb::Check(_))) | (Expected::Deny, None) => None,
        }
    }
}

fn is_selves(word: &Selector) -> bool {
    *word == Selector::Autogroup(Autogroup::Selves)
}

fn is_empty(nodes: &NodeSet) -> bool {
    nodes.clone().into_iter().next().is_none()
}

fn owned_among(nodes: &NodeSet, tailnet: &Tailnet<'_>) -> NodeSet {
    let mut owned = NodeSet::new(tailnet.nodes.len());
    let places = nodes.clone().into_iter();
    places.filter(|place| tailnet.nodes[*place].owner().is_some()).for_each(|place| owned.insert(place));
    owned
}

fn all(tailnet: &Tailnet<'_>) -> NodeSet {
    let mut all = NodeSet::new(tailnet.nodes.len());
    (0..tailnet.nodes.len()).for_each(|place| all.insert(place));
    all
}
