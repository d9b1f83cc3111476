//! The sections `acls` and `grants`, read into [`Rule`]s.

use warren_ip::Protocol;
use warren_wire::{CapMap, PortRange};

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::policy::Policy;
use crate::ports;
use crate::raw::{Field, Kind, Raw};
use crate::rewrites;
use crate::rule::{Access, Origin, Rule, Section};
use crate::selector::{Autogroup, Selector, split_ports};

impl Policy {
    /// The rules in the order in which they count: `grants`, then `acls`. `None` if the document has neither section.
    pub(crate) fn read_rules(&self, document: &Document, complaints: &mut Complaints) -> Option<Vec<Rule>> {
        let (grants, acls) = (document.section("grants"), document.section("acls"));
        if grants.is_none() && acls.is_none() {
            return None;
        }
        let mut rules = Vec::new();
        for (index, entry) in entries(grants, "grants", complaints) {
            let reading = Reading { policy: self, document, path: format!("grants[{index}]"), is_last: false };
            rules.extend(reading.grant(entry, index, complaints));
        }
        let acls = entries(acls, "acls", complaints);
        let count = acls.len();
        for (index, entry) in acls {
            let is_last = index + 1 == count;
            let reading = Reading { policy: self, document, path: format!("acls[{index}]"), is_last };
            rules.extend(reading.acl(entry, index, complaints));
        }
        Some(rules)
    }
}

/// What the field called them before.
const FORMER: [(&str, &str); 2] = [("users", "src"), ("ports", "dst")];

const ACL_FIELDS: [&str; 5] = ["action", "proto", "src", "dst", "srcPosture"];
const GRANT_FIELDS: [&str; 6] = ["src", "dst", "ip", "app", "via", "srcPosture"];

fn entries<'r>(section: Option<&'r Raw>, name: &str, complaints: &mut Complaints) -> Vec<(usize, &'r Raw)> {
    let elements = section.and_then(|value| document::list(value, name, complaints)).unwrap_or_default();
    elements.iter().enumerate().collect()
}

/// One entry under reading.
struct Reading<'p> {
    policy: &'p Policy,
    document: &'p Document,
    /// The way to the entry, as in `acls[2]`.
    path: String,
    is_last: bool,
}

impl Reading<'_> {
    /// Those that say something: a field that is known and `null` is as good as absent.
    fn fields<'r>(&self, entry: &'r Raw, known: &[&str], complaints: &mut Complaints) -> Option<Vec<&'r Field>> {
        if !matches!(entry.kind, Kind::Object(_)) {
            complaints.add(entry.at, &self.path, "must be an object: { … }");
            return None;
        }
        let fields = document::object(entry, Names::Fields, &self.path, complaints)?;
        // Notes that editors of policies leave in rules.
        let is_note = |field: &Field| field.name.starts_with('#');
        let is_known = |field: &Field| {
            let former = FORMER.iter().map(|(former, _)| former);
            known.iter().chain(former).any(|name| name.eq_ignore_ascii_case(&field.name))
        };
        let says_nothing = |field: &Field| is_note(field) || (field.value.is_null() && is_known(field));
        Some(fields.into_iter().filter(|field| !says_nothing(field)).collect())
    }

    fn acl(&self, entry: &Raw, index: usize, complaints: &mut Complaints) -> Vec<Rule> {
        let Some(fields) = self.fields(entry, &ACL_FIELDS, complaints) else { return Vec::new() };
        let mut has_action = false;
        let mut protocol = None;
        let (mut sources, mut destinations, mut postures) = (None, None, None);
        for field in fields {
            let value = &field.value;
            let name = field.name.to_ascii_lowercase();
            if let Some((_, now)) = FORMER.iter().find(|(former, _)| *former == name) {
                complaints.note(field.at, &self.path, format!("{:?} is read as {now:?}", field.name));
            }
            match name.as_str() {
                "action" => {
                    has_action = true;
                    let Some(action) = document::text(value, &self.path, complaints) else { continue };
                    let denies = matches!(action, "deny" | "drop" | "reject" | "block");
                    let rewrite = if denies { rewrites::deny(self.is_last) } else { "write \"accept\"" };
                    if action != "accept" {
                        complaints.add(value.at, &self.path, format!("action={action:?} is not supported; {rewrite}"));
                    }
                    // The rest of an entry that is to be left out is not worth a remark.
                    if denies {
                        return Vec::new();
                    }
                }
                "proto" => {
                    let Some(text) = document::text(value, &self.path, complaints) else { continue };
                    match ports::parse_protocol(text.trim()) {
                        Ok(found) => protocol = found,
                        Err(error) => complaints.add(value.at, &self.path, error),
                    }
                }
                "src" | "users" if sources.is_none() => sources = Some(value),
                "dst" | "ports" if destinations.is_none() => destinations = Some(value),
                "src" | "users" | "dst" | "ports" => {
                    complaints.add(
                        field.at,
                        &self.path,
                        format!("{:?} says again what another field says", field.name),
                    );
                }
                "srcposture" => postures = Some(value),
                "services" | "service" => {
                    let grant = self.document.named_ports.grant(entry, value);
                    let rewrite = grant.map(|grant| format!("; write under \"grants\": {grant}")).unwrap_or_default();
                    complaints.add(field.at, &self.path, format!("unknown field: {:?}{rewrite}", field.name));
                    return Vec::new();
                }
                _ => complaints.add(field.at, &self.path, rewrites::unknown_field(&field.name, &ACL_FIELDS)),
            }
        }
        if !has_action {
            complaints.add(entry.at, &self.path, "action=\"\" is not supported; write \"action\": \"accept\"");
        }
        let sources = self.sources(sources, complaints);
        let postures = self.postures(postures, complaints);
        let mut rules = Vec::new();
        let path = format!("{}.dst", self.path);
        let words = destinations.map(|value| document::texts(value, &path, complaints)).unwrap_or_default();
        for (place, (at, word)) in words.into_iter().enumerate() {
            match self.acl_destination(word, &sources, protocol) {
                Ok((destination, ports)) => rules.push(Rule {
                    origin: Origin {
                        section: Section::Acls,
                        entry: index,
                        destination: Some(place),
                        line: complaints.line_of(entry.at),
                    },
                    sources: sources.clone(),
                    postures: postures.clone(),
                    destinations: vec![destination],
                    access: vec![Access { protocol, ports }],
                    app: CapMap::new(),
                    via: Vec::new(),
                }),
                Err(error) => complaints.add(at, &path, error),
            }
        }
        in_reference_order(rules)
    }

    fn acl_destination(
        &self,
        word: &str,
        sources: &[Selector],
        protocol: Option<Protocol>,
    ) -> Result<(Selector, Vec<PortRange>), String> {
        let place = |error: String| format!("dst={word:?}: {error}");
        // A word that names something by itself lacks its ports.
        let lacks_ports = Selector::parse(word).is_ok_and(|selector| {
            !matches!(selector, Selector::Address(_)) && self.policy.check_defined(&selector).is_ok()
        });
        let place_ports = |error: String| match lacks_ports {
            true => format!("dst={word:?}: {error}; write {:?} for every port", format!("{word}:*")),
            false => place(error),
        };
        let (host, port_text) = split_ports(word).map_err(place_ports)?;
        let ports = ports::parse_ports(port_text).map_err(place_ports)?;
        let selector = Selector::parse(host).map_err(place)?;
        self.check_destination(&selector, sources, |error| match &selector {
            Selector::Tag(tag) => format!("dst={tag:?}: {error}"),
            _ => place(error),
        })?;
        if let Some(protocol) = protocol.filter(|protocol| !ports::takes_ports(*protocol))
            && ports.iter().any(|range| *range != PortRange::ANY)
        {
            return Err(place(ports::only_any(protocol)));
        }
        Ok((selector, ports))
    }

    fn grant(&self, entry: &Raw, index: usize, complaints: &mut Complaints) -> Option<Rule> {
        let fields = self.fields(entry, &GRANT_FIELDS, complaints)?;
        let mut rule = Rule {
            origin: Origin {
                section: Section::Grants,
                entry: index,
                destination: None,
                line: complaints.line_of(entry.at),
            },
            sources: Vec::new(),
            postures: Vec::new(),
            destinations: Vec::new(),
            access: Vec::new(),
            app: CapMap::new(),
            via: Vec::new(),
        };
        let (mut sources, mut destinations, mut postures) = (None, None, None);
        let mut is_empty = true;
        for field in fields {
            let value = &field.value;
            match field.name.to_ascii_lowercase().as_str() {
                "src" => sources = Some(value),
                "dst" => destinations = Some(value),
                "ip" => {
                    is_empty &= value.is_empty();
                    let path = format!("{}.ip", self.path);
                    for (at, word) in document::texts(value, &path, complaints) {
                        match ports::parse_access(word) {
                            Ok(access) => rule.access.push(access),
                            Err(error) => complaints.add(at, &path, error),
                        }
                    }
                }
                "app" => {
                    is_empty &= value.is_empty();
                    rule.app = self.app(value, complaints);
                }
                "via" => rule.via = self.via(value, complaints),
                "srcposture" => postures = Some(value),
                _ => complaints.add(field.at, &self.path, rewrites::unknown_field(&field.name, &GRANT_FIELDS)),
            }
        }
        if is_empty {
            complaints.add(entry.at, &self.path, "ip and app can not both be empty");
        }
        rule.sources = self.sources(sources, complaints);
        rule.postures = self.postures(postures, complaints);
        let path = format!("{}.dst", self.path);
        for (at, word) in destinations.map(|value| document::texts(value, &path, complaints)).unwrap_or_default() {
            match self.grant_destination(word, &rule) {
                Ok(destination) => rule.destinations.push(destination),
                Err(error) => complaints.add(at, &path, error),
            }
        }
        Some(rule)
    }

    fn grant_destination(&self, word: &str, rule: &Rule) -> Result<Selector, String> {
        let place = |error: String| format!("dst={word:?}: {error}");
        let selector = Selector::parse(word).map_err(place)?;
        self.check_destination(&selector, &rule.sources, place)?;
        match &selector {
            Selector::Address(prefix) if prefix.is_default_route() => {
                Err(format!("dst {word:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\""))
            }
            Selector::Autogroup(Autogroup::Internet) if !rule.app.is_empty() => {
                Err("cannot use app grants with autogroup:internet".to_owned())
            }
            _ => Ok(selector),
        }
    }

    fn app(&self, value: &Raw, complaints: &mut Complaints) -> CapMap {
        let path = format!("{}.app", self.path);
        let mut app = CapMap::new();
        for field in document::object(value, Names::Given, &path, complaints).unwrap_or_default() {
            if let Err(error) = check_capability(&field.name) {
                complaints.add(field.at, &path, error);
                continue;
            }
            let arguments = document::list(&field.value, &path, complaints).unwrap_or_default();
            let mut values = Vec::with_capacity(arguments.len());
            for argument in arguments {
                match argument.to_json() {
                    Some(json) => values.push(json),
                    None => complaints.add(argument.at, &path, "holds a number that JSON has no room for"),
                }
            }
            app.insert(field.name.clone(), values);
        }
        app
    }

    fn via(&self, value: &Raw, complaints: &mut Complaints) -> Vec<String> {
        let path = format!("{}.via", self.path);
        let mut via = Vec::new();
        for (at, word) in document::texts(value, &path, complaints) {
            match Selector::parse(word) {
                Ok(Selector::Tag(tag)) if self.policy.knows_tag(&tag) => via.push(tag),
                Ok(Selector::Tag(tag)) => complaints.add(at, &path, format!("tag {tag:?} not found")),
                _ => complaints.add(at, &path, "via can only be a tag"),
            }
        }
        via
    }

    fn sources(&self, value: Option<&Raw>, complaints: &mut Complaints) -> Vec<Selector> {
        let path = format!("{}.src", self.path);
        let mut sources = Vec::new();
        for (at, word) in value.map(|value| document::texts(value, &path, complaints)).unwrap_or_default() {
            match self.source(word) {
                Ok(selector) => sources.push(selector),
                Err(error) => complaints.add(at, &path, error),
            }
        }
        sources
    }

    fn source(&self, word: &str) -> Result<Selector, String> {
        let selector = Selector::parse(word)?;
        match &selector {
            Selector::Autogroup(Autogroup::Internet) => {
                Err("autogroup:internet can only be used in ACL destinations".to_owned())
            }
            Selector::Autogroup(Autogroup::Selves) => {
                Err("\"autogroup:self\" not valid on the src side of a rule".to_owned())
            }
            Selector::Service(name) => {
                Err(format!("{name:?} not valid on the src side of a rule: a service only answers"))
            }
            Selector::Tag(_) => self.policy.check_defined(&selector).map_err(|error| format!("src={error}")),
            _ => self.policy.check_defined(&selector),
        }?;
        Ok(selector)
    }

    /// `place`: puts the word before what is wrong with it.
    fn check_destination(
        &self,
        selector: &Selector,
        sources: &[Selector],
        place: impl Fn(String) -> String,
    ) -> Result<(), String> {
        match selector {
            Selector::Autogroup(Autogroup::DangerAll) => {
                Err(place("cannot use autogroup:danger-all as a dst".to_owned()))
            }
            Selector::Autogroup(Autogroup::Shared) => Err(place("cannot use autogroup:shared as a dst".to_owned())),
            Selector::Autogroup(Autogroup::Selves) if !sources.iter().all(|source| self.may_have_selves(source)) => {
                Err("autogroup:self can only be used with users, groups, or supported autogroups".to_owned())
            }
            _ => self.policy.check_defined(selector).map_err(place),
        }
    }

    /// Sources whose own devices `autogroup:self` can mean. `*` is one in `acls` alone.
    fn may_have_selves(&self, source: &Selector) -> bool {
        match source {
            Selector::Everyone => self.path.starts_with("acls"),
            Selector::User(_)
            | Selector::Domain(_)
            | Selector::Group(_)
            | Selector::Autogroup(Autogroup::Member | Autogroup::Role(_)) => true,
            _ => false,
        }
    }

    fn postures(&self, value: Option<&Raw>, complaints: &mut Complaints) -> Vec<String> {
        match value.filter(|value| !value.is_empty()) {
            None => self.policy.default_postures.clone(),
            Some(value) => self.policy.read_posture_names(value, &format!("{}.srcPosture", self.path), complaints),
        }
    }
}

/// Capabilities of the field's own domain that a policy may give.
const FIELD_CAPABILITIES: [&str; 6] = [
    "tailscale.com/cap/drive",
    "tailscale.com/cap/relay",
    "tailscale.com/cap/webui",
    "tailscale.com/cap/kubernetes",
    "tailscale.com/cap/tsidp",
    "tailscale.com/cap/secrets",
];

fn check_capability(name: &str) -> Result<(), String> {
    let Some((domain, path)) = name.split_once('/') else {
        return Err(format!("capability name must have the form {{domain}}/{{path}}: {name:?}"));
    };
    if name.contains("://") || domain.is_empty() || path.is_empty() {
        return Err(format!("capability name must have the form {{domain}}/{{path}}: {name:?}"));
    }
    let is_fields_own = domain.eq_ignore_ascii_case("tailscale.com");
    if is_fields_own && !FIELD_CAPABILITIES.contains(&name) {
        return Err(format!("capability name must not be in the tailscale.com domain: {name:?}"));
    }
    Ok(())
}

/// Inside one entry of `acls`, `autogroup:self` comes last, unless all destinations are autogroups.
fn in_reference_order(mut rules: Vec<Rule>) -> Vec<Rule> {
    let is_selves = |rule: &Rule| rule.destinations == [Selector::Autogroup(Autogroup::Selves)];
    if rules.iter().any(|rule| !rule.destinations.iter().all(Selector::is_autogroup)) {
        rules.sort_by_key(is_selves);
    }
    rules
}
