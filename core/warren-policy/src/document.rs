//! HuJSON as a tree with positions: JSON, comments and trailing commas, and nothing more.

use jsonc_parser::ast::{Array, Object, ObjectProp, StringLit, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::diagnostics::Complaints;

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

/// The document's outermost object; complains and gives `None` if there is none.
pub(crate) fn parse<'a>(text: &'a str, complaints: &mut Complaints<'_>) -> Option<Object<'a>> {
    match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Err(error) => complaints.add(error.range().start, "", format!("parsing HuJSON: {}", error.kind())),
        Ok(result) => match result.value {
            Some(Value::Object(object)) => return Some(object),
            Some(other) => complaints.add(other.start(), "", "a policy is an object: { … }"),
            None => complaints.add(0, "", "the policy is empty; write {} to let everyone reach everything"),
        },
    }
    None
}

/// The properties of an object, each name at most once.
///
/// `is_folded`: names are compared without regard to ASCII case, as fields are; names of groups and tags are not. A second
/// one is refused, because which of the two counts depends on the reader.
pub(crate) fn properties<'o, 'a>(
    object: &'o Object<'a>,
    is_folded: bool,
    path: &str,
    complaints: &mut Complaints<'_>,
) -> Vec<(&'o str, &'o ObjectProp<'a>)> {
    let mut seen = std::collections::BTreeSet::new();
    let mut list = Vec::with_capacity(object.properties.len());
    for property in &object.properties {
        let name = property.name.as_str();
        let key = if is_folded { name.to_ascii_lowercase() } else { name.to_owned() };
        if seen.insert(key) {
            list.push((name, property));
        } else {
            complaints.add(property.start(), path, format!("{name:?} appears twice"));
        }
    }
    list
}

/// The value as an object; complains otherwise. `null` counts as absent, without complaint.
pub(crate) fn object<'o, 'a>(
    value: &'o Value<'a>,
    path: &str,
    complaints: &mut Complaints<'_>,
) -> Option<&'o Object<'a>> {
    match value {
        Value::Object(object) => return Some(object),
        Value::NullKeyword(_) => {}
        other => complaints.add(other.start(), path, "must be an object: { … }"),
    }
    None
}

/// The value as a list; complains otherwise. `null` counts as absent, without complaint.
pub(crate) fn array<'o, 'a>(
    value: &'o Value<'a>,
    path: &str,
    complaints: &mut Complaints<'_>,
) -> Option<&'o Array<'a>> {
    match value {
        Value::Array(array) => return Some(array),
        Value::NullKeyword(_) => {}
        other => complaints.add(other.start(), path, "must be a list: [ … ]"),
    }
    None
}

/// The value as text; complains otherwise.
pub(crate) fn string<'o, 'a>(
    value: &'o Value<'a>,
    path: &str,
    complaints: &mut Complaints<'_>,
) -> Option<&'o StringLit<'a>> {
    if let Value::StringLit(text) = value {
        return Some(text);
    }
    complaints.add(value.start(), path, "must be a string");
    None
}

/// The texts of a list with their byte offsets; complains about anything else in it.
pub(crate) fn strings<'o>(value: &'o Value<'_>, path: &str, complaints: &mut Complaints<'_>) -> Vec<(usize, &'o str)> {
    let Some(list) = array(value, path, complaints) else { return Vec::new() };
    let texts = list.elements.iter().enumerate();
    texts
        .filter_map(|(index, element)| {
            string(element, &format!("{path}[{index}]"), complaints).map(|text| (text.start(), text.value.as_ref()))
        })
        .collect()
}
