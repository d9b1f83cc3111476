//! From text to [`Raw`]: HuJSON, which is JSON with comments and trailing commas and nothing more, or YAML; and the small
//! steps by which sections read it.

use jsonc_parser::ast::{self, ObjectPropName};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::diagnostics::Complaints;
use crate::raw::{Field, Kind, Raw};
use crate::rewrites::{self, NamedPorts};
use crate::yaml;

/// The top level of a document: its sections by their canonical names, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Document {
    sections: Vec<(&'static str, Field)>,
    /// A block `services`, which is no section.
    pub(crate) named_ports: NamedPorts,
}

/// Every section that a policy may have, as the field writes them.
pub(crate) const SECTIONS: [&str; 18] = [
    "groups",
    "hosts",
    "tagOwners",
    "acls",
    "grants",
    "ssh",
    "autoApprovers",
    "nodeAttrs",
    "tests",
    "sshTests",
    "postures",
    "defaultSrcPosture",
    "ipsets",
    "randomizeClientPort",
    "attrConfig",
    "derpMap",
    "disableIPv4",
    "OneCGNATRoute",
];

impl Document {
    /// Reads a text. Complains of everything that is no section; `None` if it is no document at all.
    pub(crate) fn parse(text: &str, complaints: &mut Complaints) -> Option<Document> {
        let root = if is_hujson(text) { parse_hujson(text, complaints)? } else { yaml::parse(text, complaints)? };
        let Kind::Object(fields) = root.kind else {
            complaints.add(root.at, "", "a policy is an object: { … }");
            return None;
        };
        let mut document = Document::default();
        for field in fields {
            if field.name.eq_ignore_ascii_case("services") {
                complaints.add(
                    field.at,
                    "",
                    "unknown field: \"services\": a policy does not name ports; write them where they are opened",
                );
                document.named_ports = NamedPorts::read(&field.value);
                continue;
            }
            let Some(name) = SECTIONS.iter().copied().find(|name| name.eq_ignore_ascii_case(&field.name)) else {
                complaints.add(field.at, "", rewrites::unknown_field(&field.name, &SECTIONS));
                continue;
            };
            if document.sections.iter().any(|(known, _)| *known == name) {
                complaints.add(field.at, "", format!("{:?} appears twice", field.name));
                continue;
            }
            document.sections.push((name, field));
        }
        rewrites::note_aliases(&document, complaints);
        Some(document)
    }

    /// A section by its canonical name, as written. `None` if it is absent or `null`.
    pub(crate) fn section(&self, name: &str) -> Option<&Raw> {
        let (_, field) = self.sections.iter().find(|(known, _)| *known == name)?;
        Some(&field.value).filter(|value| !value.is_null())
    }

    /// Every section that is there, by its canonical name, in the order of the text.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&'static str, &Raw)> {
        self.sections.iter().map(|(name, field)| (*name, &field.value))
    }

    /// The canonical names of the sections that say something, in the order of the text.
    pub(crate) fn filled(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.sections.iter().filter(|(_, field)| !field.value.is_empty()).map(|(name, _)| *name)
    }
}

/// Only what HuJSON allows; the parser's own default is far more generous.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// YAML begins with a name; whatever begins with a bracket, or is empty, was meant as HuJSON.
fn is_hujson(text: &str) -> bool {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let after = if let Some(line) = rest.strip_prefix("//") {
            line.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(block) = rest.strip_prefix("/*") {
            block.split_once("*/").map_or("", |(_, after)| after)
        } else {
            return rest.is_empty() || rest.starts_with(['{', '[']);
        };
        rest = after.trim_start();
    }
}

fn parse_hujson(text: &str, complaints: &mut Complaints) -> Option<Raw> {
    match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Err(error) => complaints.add(error.range().start, "", format!("parsing HuJSON: {}", error.kind())),
        Ok(result) => match result.value {
            Some(value) => return Some(raw(value)),
            None => complaints.add(0, "", "the policy is empty; write {} to let everyone reach everything"),
        },
    }
    None
}

/// The parser bounds its own depth, so this recursion is bounded too.
fn raw(value: ast::Value<'_>) -> Raw {
    let at = value.start();
    let kind = match value {
        ast::Value::NullKeyword(_) => Kind::Null,
        ast::Value::BooleanLit(literal) => Kind::Bool(literal.value),
        ast::Value::NumberLit(literal) => Kind::Number(literal.value.to_owned()),
        ast::Value::StringLit(literal) => Kind::Text(literal.value.into_owned()),
        ast::Value::Array(array) => Kind::List(array.elements.into_iter().map(raw).collect()),
        ast::Value::Object(object) => Kind::Object(object.properties.into_iter().map(field).collect()),
    };
    Raw { at, kind }
}

fn field(property: ast::ObjectProp<'_>) -> Field {
    let at = property.start();
    let name = match property.name {
        ObjectPropName::String(text) => text.value.into_owned(),
        ObjectPropName::Word(word) => word.value.to_owned(),
    };
    Field { at, name, value: raw(property.value) }
}

/// How names of an object are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    /// Fields of the language: without regard to ASCII case.
    Fields,
    /// Names that people gave: exactly.
    Given,
}

/// The fields of an object, each name at most once; complains otherwise. A second one is refused, because which of the
/// two counts depends on the reader. `null` counts as absent, without complaint.
pub(crate) fn object<'r>(
    value: &'r Raw,
    names: Names,
    path: &str,
    complaints: &mut Complaints,
) -> Option<Vec<&'r Field>> {
    let fields = match &value.kind {
        Kind::Object(fields) => fields,
        Kind::Null => return None,
        _ => {
            complaints.add(value.at, path, "must be an object: { … }");
            return None;
        }
    };
    let mut seen = std::collections::BTreeSet::new();
    let mut list = Vec::with_capacity(fields.len());
    for field in fields {
        let key = match names {
            Names::Fields => field.name.to_ascii_lowercase(),
            Names::Given => field.name.clone(),
        };
        if seen.insert(key) {
            list.push(field);
        } else {
            complaints.add(field.at, path, format!("{:?} appears twice", field.name));
        }
    }
    Some(list)
}

/// The value as a list; complains otherwise. `null` counts as absent, without complaint.
pub(crate) fn list<'r>(value: &'r Raw, path: &str, complaints: &mut Complaints) -> Option<&'r [Raw]> {
    match &value.kind {
        Kind::List(elements) => return Some(elements),
        Kind::Null => {}
        Kind::Text(word) => complaints.add(value.at, path, format!("must be a list: write [{word:?}]")),
        _ => complaints.add(value.at, path, "must be a list: [ … ]"),
    }
    None
}

/// The value as text; complains otherwise.
pub(crate) fn text<'r>(value: &'r Raw, path: &str, complaints: &mut Complaints) -> Option<&'r str> {
    let text = value.text();
    if text.is_none() {
        complaints.add(value.at, path, "must be a string");
    }
    text
}

/// The texts of a list with their byte offsets; complains about anything else in it. A number is the word that it is
/// written as: YAML needs no quotes around a port.
pub(crate) fn texts<'r>(value: &'r Raw, path: &str, complaints: &mut Complaints) -> Vec<(usize, &'r str)> {
    let Some(elements) = list(value, path, complaints) else { return Vec::new() };
    let words = elements.iter().enumerate();
    words
        .filter_map(|(index, element)| match &element.kind {
            Kind::Number(number) => Some((element.at, number.as_str())),
            _ => text(element, &format!("{path}[{index}]"), complaints).map(|word| (element.at, word)),
        })
        .collect()
}
