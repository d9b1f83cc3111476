//! The sections that give things names: `groups`, `hosts`, `ipsets`, `tagOwners`.

use std::collections::{BTreeMap, BTreeSet};

use warren_ip::{IpRange, IpRanges};

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::rewrites;
use crate::selector::{Autogroup, Selector, parse_address};
use crate::sources::internet;

/// What all sets of a policy may hold together. Sets that build on each other grow with the square of their lines.
const MOST_RANGES: usize = 1_000_000;

impl Policy {
    pub(crate) fn read_groups(&mut self, document: &Document, complaints: &mut Complaints) {
        let Some(value) = document.section("groups") else { return };
        if let Kind::List(elements) = &value.kind {
            complaints.note(value.at, "groups", "a list of groups is read as {\"group:NAME\": [MEMBERS], …}");
            elements.iter().enumerate().for_each(|(index, element)| self.read_listed_group(element, index, complaints));
            return;
        }
        let Some(fields) = document::object(value, Names::Given, "groups", complaints) else { return };
        for field in fields {
            let name = &field.name;
            let path = format!("groups[{name:?}]");
            if !name.starts_with("group:") || name.len() == "group:".len() {
                complaints.add(
                    field.at,
                    &path,
                    format!("group names start with 'group:'; write {:?}", format!("group:{name}")),
                );
                continue;
            }
            if !matches!(field.value.kind, Kind::List(_)) {
                let members = match &field.value.kind {
                    Kind::Object(fields) => fields.iter().find(|field| field.name.eq_ignore_ascii_case("members")),
                    _ => None,
                };
                let words = members.and_then(|members| members.value.to_json()).filter(|value| value.is_array());
                let rewrite = words.map(|words| format!("; write {name:?}: {words}")).unwrap_or_default();
                complaints.add(field.value.at, &path, format!("group value must be an array of users{rewrite}"));
                continue;
            }
            let members = read_members(&field.value, &path, complaints);
            self.groups.insert(name.to_owned(), members);
        }
    }

    /// `{name: web, members: [ann@example.com]}`.
    fn read_listed_group(&mut self, element: &Raw, index: usize, complaints: &mut Complaints) {
        let path = format!("groups[{index}]");
        let (mut name, mut members) = (None, None);
        for field in document::object(element, Names::Fields, &path, complaints).unwrap_or_default() {
            match field.name.to_ascii_lowercase().as_str() {
                "name" => name = document::text(&field.value, &path, complaints),
                "members" => members = Some(&field.value),
                _ => complaints.add(field.at, &path, rewrites::unknown_field(&field.name, &["name", "members"])),
            }
        }
        let (Some(name), Some(members)) = (name, members) else {
            complaints.add(element.at, &path, "a group in a list has a name and members");
            return;
        };
        let name = if name.starts_with("group:") { name.to_owned() } else { format!("group:{name}") };
        let members = read_members(members, &path, complaints);
        if self.groups.insert(name.clone(), members).is_some() {
            complaints.add(element.at, &path, format!("{name:?} appears twice"));
        }
    }

    pub(crate) fn read_hosts(&mut self, document: &Document, complaints: &mut Complaints) {
        let Some(value) = document.section("hosts") else { return };
        let Some(fields) = document::object(value, Names::Given, "hosts", complaints) else { return };
        for field in fields {
            let name = &field.name;
            let path = format!("hosts[{name:?}]");
            let Some(text) = document::text(&field.value, &path, complaints) else { continue };
            match parse_address(text.trim()) {
                Some(prefix) => {
                    self.hosts.insert(name.to_owned(), prefix);
                }
                None => complaints.add(
                    field.value.at,
                    &path,
                    format!("hostname contains invalid IP address: hostname {name:?} address {text:?}"),
                ),
            }
        }
    }

    /// Sets are lists of `add` and `remove` in order, and may build on each other in any order of the text.
    pub(crate) fn read_ip_sets(&mut self, document: &Document, complaints: &mut Complaints) {
        let Some(value) = document.section("ipsets") else { return };
        let Some(fields) = document::object(value, Names::Given, "ipsets", complaints) else { return };
        let mut waiting: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for field in fields {
            let path = format!("ipsets[{:?}]", field.name);
            if !field.name.starts_with("ipset:") || field.name.len() == "ipset:".len() {
                complaints.add(field.at, &path, "names of sets start with 'ipset:'");
                continue;
            }
            let mut steps = Vec::new();
            for (at, text) in document::texts(&field.value, &path, complaints) {
                match Step::parse(text, self) {
                    Ok(step) => steps.push(step.at(at)),
                    Err(error) => complaints.add(at, &path, error),
                }
            }
            waiting.insert(field.name.clone(), steps);
        }
        for (name, steps) in &waiting {
            for step in steps {
                if let Target::Set(other) = &step.target
                    && !waiting.contains_key(other)
                {
                    complaints.add(
                        step.at,
                        format!("ipsets[{name:?}]"),
                        format!("ipset not defined in policy: {other:?}"),
                    );
                }
            }
        }
        self.fold_ready(&mut waiting, complaints);
        // What is left waits for itself or for something unknown; the latter was complained of.
        for (name, steps) in waiting {
            if let Some(step) = steps.iter().find(|step| matches!(&step.target, Target::Set(_))) {
                complaints.add(step.at, format!("ipsets[{name:?}]"), "the set is made of itself");
            }
            self.ip_sets.insert(name, IpRanges::new());
        }
    }

    /// Makes every set whose parts are there, and takes it from those that wait.
    fn fold_ready(&mut self, waiting: &mut BTreeMap<String, Vec<Step>>, complaints: &mut Complaints) {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for (name, steps) in waiting.iter() {
            let parts: BTreeSet<&String> = steps.iter().filter_map(Step::set).collect();
            missing.insert(name.clone(), parts.len());
            parts.into_iter().for_each(|part| users.entry(part.clone()).or_default().push(name.clone()));
        }
        let mut ready: Vec<String> =
            missing.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.clone()).collect();
        let mut held = 0;
        while let Some(name) = ready.pop() {
            let steps = waiting.remove(&name).unwrap_or_default();
            let set = self.fold_steps(&steps);
            held += set.iter().count();
            if held > MOST_RANGES {
                let at = steps.first().map_or(0, |step| step.at);
                complaints.add(
                    at,
                    format!("ipsets[{name:?}]"),
                    format!("the sets hold more than {MOST_RANGES} ranges together"),
                );
                return;
            }
            self.ip_sets.insert(name.clone(), set);
            for user in users.get(&name).into_iter().flatten() {
                if let Some(count) = missing.get_mut(user) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(user.clone());
                    }
                }
            }
        }
    }

    fn fold_steps(&self, steps: &[Step]) -> IpRanges {
        let mut set = IpRanges::new();
        for step in steps {
            let ranges = match &step.target {
                Target::Ranges(ranges) => ranges,
                Target::Set(name) => match self.ip_sets.get(name) {
                    Some(ranges) => ranges,
                    None => continue,
                },
            };
            if step.removes {
                set = set.intersection(&ranges.complement());
            } else {
                set.extend(ranges.iter());
            }
        }
        set
    }

    pub(crate) fn read_tag_owners(&mut self, document: &Document, complaints: &mut Complaints) {
        let Some(value) = document.section("tagOwners") else { return };
        let Some(fields) = document::object(value, Names::Given, "tagOwners", complaints) else { return };
        let mut owned_by_tags = Vec::new();
        for field in fields {
            let name = &field.name;
            let path = format!("tagOwners[{name:?}]");
            if let Err(error) = check_tag(name) {
                complaints.add(field.at, "", format!("{path}: {error}"));
            }
            let mut owners = Vec::new();
            for (at, word) in document::texts(&field.value, &path, complaints) {
                match Selector::parse(word) {
                    Ok(Selector::Tag(tag)) => {
                        owned_by_tags.push((at, path.clone(), tag.clone()));
                        owners.push(Selector::Tag(tag));
                    }
                    Ok(
                        owner @ (Selector::User(_)
                        | Selector::Domain(_)
                        | Selector::Group(_)
                        | Selector::Autogroup(Autogroup::Member | Autogroup::Role(_))),
                    ) => match self.check_defined(&owner) {
                        Ok(()) => owners.push(owner),
                        Err(error) => complaints.add(at, &path, error),
                    },
                    Ok(Selector::Host(name)) => {
                        complaints.add(
                            at,
                            &path,
                            format!("invalid owner format: {word:?}; if it is a user, write {:?}", format!("{name}@")),
                        );
                    }
                    _ => complaints.add(at, &path, format!("invalid owner format: {word:?}")),
                }
            }
            self.tag_owners.insert(name.to_owned(), owners);
        }
        for (at, path, tag) in owned_by_tags {
            if !self.knows_tag(&tag) {
                complaints.add(at, path, format!("tag not found: {tag:?}"));
            }
        }
    }
}

/// The grammar of tags, in the field's words: `tailcfg.CheckTag` of the stock client refuses the same.
fn check_tag(tag: &str) -> Result<(), String> {
    let Some(name) = tag.strip_prefix("tag:") else {
        return Err(format!("tags must start with 'tag:'; write {:?}", format!("tag:{tag}")));
    };
    if name.is_empty() {
        return Err("tag names must not be empty".to_owned());
    }
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err("tag names must start with a letter, after 'tag:'".to_owned());
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("tag names can only contain numbers, letters, or dashes".to_owned());
    }
    Ok(())
}

fn read_members(value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<String> {
    let mut members = Vec::new();
    for (at, member) in document::texts(value, path, complaints) {
        match Selector::parse(member) {
            Ok(Selector::User(token)) => members.push(token),
            Ok(Selector::Group(_)) => {
                complaints.add(at, "", format!("{path}: {member:?}: group members cannot be recursive"));
            }
            Ok(Selector::Host(name)) => {
                complaints.add(
                    at,
                    path,
                    format!("username must contain @, got: {member:?}; write {:?}", format!("{name}@")),
                );
            }
            _ => complaints.add(at, path, format!("username must contain @, got: {member:?}")),
        }
    }
    members
}

/// One line of a set.
struct Step {
    at: usize,
    removes: bool,
    target: Target,
}

enum Target {
    Ranges(IpRanges),
    Set(String),
}

impl Step {
    /// The set that it adds or removes.
    fn set(&self) -> Option<&String> {
        match &self.target {
            Target::Set(name) => Some(name),
            Target::Ranges(_) => None,
        }
    }

    fn parse(text: &str, policy: &Policy) -> Result<Step, String> {
        let (removes, word) = match text.trim().split_once(char::is_whitespace) {
            None => (false, text.trim()),
            Some(("add", word)) => (false, word.trim()),
            Some(("remove", word)) => (true, word.trim()),
            Some((verb, _)) => {
                return Err(format!(
                    "invalid operation {verb:?}: a line of a set is a target, or add or remove before one"
                ));
            }
        };
        let ranges = |ranges: IpRanges| Target::Ranges(ranges);
        if let Ok(range) = word.parse::<IpRange>() {
            return Ok(Step { at: 0, removes, target: ranges([range].into_iter().collect()) });
        }
        let target = match Selector::parse(word)? {
            Selector::Address(prefix) => ranges([prefix].into_iter().collect()),
            Selector::Autogroup(Autogroup::Internet) => ranges(internet()),
            Selector::IpSet(name) => Target::Set(name),
            Selector::Host(name) => match policy.hosts.get(&name) {
                Some(prefix) => ranges([*prefix].into_iter().collect()),
                None => return Err(format!("host not defined in policy: {name:?}")),
            },
            _ => {
                return Err(format!(
                    "invalid target {word:?}: a set is made of addresses, networks, hosts, other sets and autogroup:internet"
                ));
            }
        };
        Ok(Step { at: 0, removes, target })
    }

    fn at(self, at: usize) -> Step {
        Step { at, ..self }
    }
}
