//! The section `ssh`: who may open a shell on which node, as which of its users. user-surface.md §4.9.

use std::time::Duration;

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::duration::SignedDuration;
use crate::logins::Logins;
use crate::place::Place;
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::selector::{Autogroup, Selector};

/// One entry of `ssh`, checked, independent of the nodes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SshRule {
    pub(crate) verb: Verb,
    pub(crate) sources: Vec<Selector>,
    /// Postures of which a source must meet at least one; empty asks nothing. The policy's default is filled in.
    pub(crate) postures: Vec<String>,
    pub(crate) destinations: Vec<Selector>,
    pub(crate) logins: Logins,
    /// Patterns of variables that the client may set.
    pub(crate) accept_env: Vec<String>,
    pub(crate) recorders: Vec<Selector>,
    /// Whether a session that cannot be recorded is refused.
    pub(crate) enforces_recorder: bool,
    /// E-mail domains that the entry names, as written; whether they are this network's is not known yet.
    pub(crate) domains: Vec<(Place, String)>,
}

/// What a rule does with a session that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    Accept,
    /// Only after the person signed in anew, or did so lately.
    Check(CheckPeriod),
}

/// For how long one check holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckPeriod {
    /// Every session is checked.
    Always,
    /// At most [`CheckPeriod::LONGEST`].
    For(Duration),
}

impl CheckPeriod {
    /// Where a rule says nothing.
    pub const DEFAULT: CheckPeriod = CheckPeriod::For(Duration::from_secs(12 * 3600));
    /// A week.
    pub const LONGEST: Duration = Duration::from_secs(168 * 3600);

    fn parse(text: &str) -> Result<CheckPeriod, String> {
        if text == "always" {
            return Ok(CheckPeriod::Always);
        }
        let length = SignedDuration::parse(text)?;
        if length > SignedDuration::hours(168) {
            return Err(format!("checkPeriod {length} is above the max (168h)"));
        }
        match u64::try_from(length.0) {
            Ok(nanos) => Ok(CheckPeriod::For(Duration::from_nanos(nanos))),
            Err(_) => Err(format!("checkPeriod {length} must be a positive duration")),
        }
    }
}

/// Reads the section. `policy` has its groups, hosts, tags and postures already.
pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> Vec<SshRule> {
    let entries = document.section("ssh").and_then(|value| document::list(value, "ssh", complaints));
    let entries = entries.unwrap_or_default().iter().enumerate();
    entries.filter_map(|(index, entry)| read_rule(policy, entry, &format!("ssh[{index}]"), complaints)).collect()
}

fn read_rule(policy: &Policy, entry: &Raw, path: &str, complaints: &mut Complaints) -> Option<SshRule> {
    if entry.is_null() {
        complaints.add(entry.at, path, "must be an object: { … }");
    }
    let fields = document::object(entry, Names::Fields, path, complaints)?;
    let mut action = None;
    let mut period = None;
    let mut postures = None;
    let mut has_users = false;
    let mut rule = SshRule {
        verb: Verb::Accept,
        sources: Vec::new(),
        postures: Vec::new(),
        destinations: Vec::new(),
        logins: Logins::default(),
        accept_env: Vec::new(),
        recorders: Vec::new(),
        enforces_recorder: false,
        domains: Vec::new(),
    };
    for field in fields {
        let value = &field.value;
        match field.name.to_ascii_lowercase().as_str() {
            // Notes that editors of policies leave in rules.
            _ if field.name.starts_with('#') => {}
            _ if value.is_null() => {}
            "action" => action = document::text(value, path, complaints).map(|text| (value.at, text.trim())),
            "src" => rule.sources = read_sources(policy, value, path, &mut rule.domains, complaints),
            "dst" => rule.destinations = read_destinations(policy, value, path, complaints),
            "users" => {
                has_users = !value.is_empty();
                rule.logins = read_logins(value, path, &mut rule.domains, complaints);
            }
            // Said and empty is not said, as for every text of the section.
            "checkperiod" if value.text().is_some_and(str::is_empty) => {}
            "checkperiod" => period = Some((value.at, read_period(value, path, complaints))),
            "acceptenv" => rule.accept_env = read_accept_env(value, path, complaints),
            "recorder" => rule.recorders = read_recorders(policy, value, path, complaints),
            "enforcerecorder" => match value.kind {
                Kind::Bool(enforces) => rule.enforces_recorder = enforces,
                _ => complaints.add(value.at, format!("{path}.enforceRecorder"), "must be true or false"),
            },
            "srcposture" => postures = Some(value),
            _ => complaints.add(field.at, path, format!("unknown field: {:?}", field.name)),
        }
    }
    rule.postures = match postures {
        Some(value) => policy.read_posture_names(value, &format!("{path}.srcPosture"), complaints),
        None => policy.default_postures.clone(),
    };
    match action {
        None | Some((_, "")) => complaints.add(entry.at, path, "action must be specified"),
        Some((_, "accept")) => {
            if let Some((at, _)) = period {
                complaints.add(at, format!("{path}.checkPeriod"), "checkPeriod is only valid with action \"check\"");
            }
        }
        Some((_, "check")) => {
            rule.verb = Verb::Check(period.and_then(|(_, period)| period).unwrap_or(CheckPeriod::DEFAULT));
        }
        Some((at, other)) => {
            complaints.add(at, format!("{path}.action"), format!("{other:?} is not a valid action"));
        }
    }
    if !has_users {
        complaints.add(entry.at, path, "users must be specified");
    }
    if let Err(error) = check_pairing(&rule.sources, &rule.destinations) {
        complaints.add(entry.at, path, error);
    }
    Some(rule)
}

fn read_period(value: &Raw, path: &str, complaints: &mut Complaints) -> Option<CheckPeriod> {
    let path = format!("{path}.checkPeriod");
    let period = match &value.kind {
        Kind::Text(text) => CheckPeriod::parse(text),
        Kind::Number(digits) => CheckPeriod::parse(digits),
        _ => Err("must be a duration, as in \"12h\", or \"always\"".to_owned()),
    };
    period.map_err(|error| complaints.add(value.at, path, error)).ok()
}

fn read_sources(
    policy: &Policy,
    value: &Raw,
    path: &str,
    domains: &mut Vec<(Place, String)>,
    complaints: &mut Complaints,
) -> Vec<Selector> {
    let mut sources = Vec::new();
    let path = format!("{path}.src");
    for (at, word) in document::texts(value, &path, complaints) {
        match read_source(policy, word) {
            Ok(source) => {
                if let Some(domain) = word.trim().strip_prefix("user:*@") {
                    domains.push((Place::new(at, &path, complaints), domain.to_owned()));
                }
                sources.push(source);
            }
            Err(error) => complaints.add(at, &path, error),
        }
    }
    sources
}

fn read_source(policy: &Policy, word: &str) -> Result<Selector, String> {
    let source = Selector::parse(word)?;
    match &source {
        Selector::Tag(tag) if !policy.knows_tag(tag) => Err(format!("src=tag not found: {tag:?}")),
        Selector::Autogroup(Autogroup::Selves | Autogroup::Internet | Autogroup::DangerAll) => Err(format!(
            "autogroup not supported for SSH sources: {:?}, can be [autogroup:member autogroup:tagged]",
            source.to_string()
        )),
        Selector::User(_) | Selector::Domain(_) | Selector::Group(_) | Selector::Tag(_) | Selector::Autogroup(_) => {
            policy.check_defined(&source).map(|()| source)
        }
        Selector::Everyone | Selector::Host(_) | Selector::Address(_) | Selector::IpSet(_) | Selector::Service(_) => {
            Err(format!(
                "alias not supported for SSH source: {word:?}; name people, groups, tags, autogroup:member or autogroup:tagged"
            ))
        }
    }
}

fn read_destinations(policy: &Policy, value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<Selector> {
    let mut destinations = Vec::new();
    let path = format!("{path}.dst");
    for (at, word) in document::texts(value, &path, complaints) {
        match read_destination(policy, word) {
            Ok(destination) => destinations.push(destination),
            Err(error) => complaints.add(at, &path, error),
        }
    }
    destinations
}

fn read_destination(policy: &Policy, word: &str) -> Result<Selector, String> {
    let destination = Selector::parse(word)?;
    match &destination {
        Selector::Tag(tag) if !policy.knows_tag(tag) => Err(format!("dst={tag:?}: tag not found: {tag:?}")),
        Selector::User(_) | Selector::Tag(_) => Ok(destination),
        Selector::Autogroup(Autogroup::Internet | Autogroup::DangerAll | Autogroup::Shared) => Err(format!(
            "autogroup not supported for SSH destinations: {:?}, can be [autogroup:member autogroup:tagged autogroup:self]",
            destination.to_string()
        )),
        Selector::Autogroup(_) => Ok(destination),
        Selector::Everyone => Err("wildcard (*) is not supported as SSH destination; use 'autogroup:member' for \
                                   user-owned devices, 'autogroup:tagged' for tagged devices, or specific tags/users"
            .to_owned()),
        // Whether `hosts` defines it or not: shells are opened on nodes, and nodes have owners and tags.
        Selector::Host(name) => Err(format!("invalid dst {name:?}")),
        Selector::Domain(_) | Selector::Group(_) | Selector::Address(_) | Selector::IpSet(_) | Selector::Service(_) => {
            Err(format!(
                "alias not supported for SSH destination: {word:?}; name tags, autogroup:self or the source's own user"
            ))
        }
    }
}

fn read_logins(value: &Raw, path: &str, domains: &mut Vec<(Place, String)>, complaints: &mut Complaints) -> Logins {
    let path = format!("{path}.users");
    let mut logins = Logins::default();
    for (at, word) in document::texts(value, &path, complaints) {
        match logins.add(word) {
            Ok(None) => {}
            Ok(Some(domain)) => domains.push((Place::new(at, &path, complaints), domain)),
            Err(error) => complaints.add(at, &path, error),
        }
    }
    logins
}

fn read_accept_env(value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<String> {
    let path = format!("{path}.acceptEnv");
    let mut patterns = Vec::new();
    for (at, pattern) in document::texts(value, &path, complaints) {
        if pattern.is_empty() {
            complaints.add(at, &path, "acceptEnv values cannot be empty");
        }
        patterns.push(pattern.to_owned());
    }
    patterns
}

fn read_recorders(policy: &Policy, value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<Selector> {
    let path = format!("{path}.recorder");
    let mut recorders = Vec::new();
    for (at, word) in document::texts(value, &path, complaints) {
        match Selector::parse(word) {
            Ok(Selector::Tag(tag)) if !policy.knows_tag(&tag) => {
                complaints.add(at, &path, format!("tag not found: {tag:?}"));
            }
            Ok(Selector::Address(prefix)) if !prefix.is_host() => {
                complaints.add(at, &path, format!("a recorder is one address, not the network {word:?}"));
            }
            Ok(Selector::Host(name)) if !policy.hosts.get(&name).is_some_and(warren_ip::Prefix::is_host) => {
                complaints.add(at, &path, format!("host not defined in policy, or not one address: {name:?}"));
            }
            Ok(recorder @ (Selector::Tag(_) | Selector::Host(_) | Selector::Address(_))) => recorders.push(recorder),
            _ => complaints.add(at, &path, format!("a recorder is a tag, a host or an address, not {word:?}")),
        }
    }
    recorders
}

/// Which sources may be given which destinations at all: a tagged node has no person behind it, so it opens no shell on
/// people's devices; and nobody's device is opened to another person by naming its owner.
fn check_pairing(sources: &[Selector], destinations: &[Selector]) -> Result<(), String> {
    let is_tagged = |source: &Selector| matches!(source, Selector::Tag(_) | Selector::Autogroup(Autogroup::Tagged));
    let has_tagged = sources.iter().any(is_tagged);
    for destination in destinations {
        match destination {
            Selector::User(owner) if has_tagged => {
                return Err(format!(
                    "tags in SSH source cannot access user-owned devices ({owner}); use autogroup:tagged or specific tags \
                     as destinations instead"
                ));
            }
            Selector::User(owner) if sources.is_empty() || sources.iter().any(|source| source != destination) => {
                return Err(format!(
                    "user destination requires source to contain only that same user {owner:?}; use autogroup:self instead \
                     for same-user SSH access"
                ));
            }
            Selector::Autogroup(Autogroup::Selves) if has_tagged => {
                return Err("autogroup:self destination requires source to contain only users or groups, not tags or \
                            autogroup:tagged"
                    .to_owned());
            }
            Selector::Autogroup(Autogroup::Member | Autogroup::Role(_)) if has_tagged => {
                return Err(format!("tags in SSH source cannot access {destination} (user-owned devices)"));
            }
            _ => {}
        }
    }
    Ok(())
}
