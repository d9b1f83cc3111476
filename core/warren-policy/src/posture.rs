//! Postures: what a device must be like for a rule to count it among its sources. user-surface.md §4.10.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::tailnet::Attribute;

/// Assertions that must all hold.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Posture {
    pub(crate) assertions: Vec<Assertion>,
}

/// One fact that is asked of a device.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Assertion {
    pub(crate) attribute: String,
    pub(crate) test: Test,
}

/// What is asked. Of an attribute that is not set only [`Test::IsNotSet`] holds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Test {
    IsSet,
    IsNotSet,
    /// In the order of numbers or versions where both sides are such, else only as the same or another.
    Compares(Comparison, Attribute),
    /// `false`: is none of them.
    IsAmong(bool, Vec<Attribute>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    Equal,
    Other,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Posture {
    /// Whether a device with these attributes meets the posture.
    pub(crate) fn is_met(&self, attributes: &BTreeMap<String, Attribute>) -> bool {
        self.assertions.iter().all(|assertion| assertion.holds(attributes.get(&assertion.attribute)))
    }
}

impl Assertion {
    fn holds(&self, value: Option<&Attribute>) -> bool {
        let Some(value) = value else { return self.test == Test::IsNotSet };
        match &self.test {
            Test::IsSet => true,
            Test::IsNotSet => false,
            Test::IsAmong(wanted, list) => list.iter().any(|one| is_same(value, one)) == *wanted,
            Test::Compares(Comparison::Equal, other) => is_same(value, other),
            Test::Compares(Comparison::Other, other) => !is_same(value, other),
            Test::Compares(comparison, other) => order(value, other).is_some_and(|order| match comparison {
                Comparison::Less => order == Ordering::Less,
                Comparison::AtMost => order != Ordering::Greater,
                Comparison::More => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }),
        }
    }
}

fn is_same(a: &Attribute, b: &Attribute) -> bool {
    a == b || matches!((a, b), (Attribute::Text(_), Attribute::Text(_))) && order(a, b) == Some(Ordering::Equal)
}

/// Numbers by size, versions part by part. `None` where there is no order.
fn order(a: &Attribute, b: &Attribute) -> Option<Ordering> {
    match (a, b) {
        (Attribute::Number(a), Attribute::Number(b)) => a.partial_cmp(b),
        (Attribute::Text(a), Attribute::Text(b)) => {
            let (a, b) = (version(a)?, version(b)?);
            let parts = a.len().max(b.len());
            let part = |parts: &[u64], at: usize| parts.get(at).copied().unwrap_or(0);
            (0..parts).map(|at| part(&a, at).cmp(&part(&b, at))).find(|order| order.is_ne()).or(Some(Ordering::Equal))
        }
        _ => None,
    }
}

/// `1.72.1`, and with what builds append after a `-` or `+` left off.
fn version(text: &str) -> Option<Vec<u64>> {
    let release = text.split(['-', '+', ' ']).next()?;
    release.split('.').map(|part| part.parse().ok()).collect()
}

impl Policy {
    pub(crate) fn read_postures(&mut self, document: &Document, complaints: &mut Complaints) {
        if let Some(value) = document.section("postures")
            && let Some(fields) = document::object(value, Names::Given, "postures", complaints)
        {
            for field in fields {
                let path = format!("postures[{:?}]", field.name);
                if !field.name.starts_with("posture:") || field.name.len() == "posture:".len() {
                    complaints.add(field.at, &path, "posture names start with 'posture:'");
                    continue;
                }
                let posture = read_posture(&field.value, &path, complaints);
                self.postures.insert(field.name.clone(), posture);
            }
        }
        if let Some(value) = document.section("defaultSrcPosture") {
            self.default_postures = self.read_posture_names(value, "defaultSrcPosture", complaints);
        }
    }

    /// A list of names of postures, each of which must be defined.
    pub(crate) fn read_posture_names(&self, value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<String> {
        let mut names = Vec::new();
        for (at, name) in document::texts(value, path, complaints) {
            if self.postures.contains_key(name) {
                names.push(name.to_owned());
            } else {
                complaints.add(at, path, format!("posture not defined in policy: {name:?}"));
            }
        }
        names
    }

    /// Whether a device with these attributes meets one of the postures, or none is asked for.
    pub(crate) fn meets_any(&self, postures: &[String], attributes: &BTreeMap<String, Attribute>) -> bool {
        let is_met = |name: &String| self.postures.get(name).is_some_and(|posture| posture.is_met(attributes));
        postures.is_empty() || postures.iter().any(is_met)
    }
}

/// A list of assertions, or an object that has them under `assertions` with what to tell a person under `onFailure`.
fn read_posture(value: &Raw, path: &str, complaints: &mut Complaints) -> Posture {
    let mut list = value;
    if matches!(value.kind, Kind::Object(_)) {
        for field in document::object(value, Names::Fields, path, complaints).unwrap_or_default() {
            match field.name.to_ascii_lowercase().as_str() {
                "assertions" => list = &field.value,
                "onfailure" => {}
                _ => complaints.add(field.at, path, format!("unknown field: {:?}", field.name)),
            }
        }
        if std::ptr::eq(list, value) {
            complaints.add(value.at, path, "has no assertions");
            return Posture { assertions: Vec::new() };
        }
    }
    let mut assertions = Vec::new();
    for (at, text) in document::texts(list, path, complaints) {
        match parse_assertion(text) {
            Ok(assertion) => assertions.push(assertion),
            Err(error) => complaints.add(at, path, format!("{text:?}: {error}")),
        }
    }
    // One without assertions would let everyone in who was meant to be kept out by it.
    if assertions.is_empty() {
        complaints.add(value.at, path, "a posture needs at least one assertion");
    }
    Posture { assertions }
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Other),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

/// `attribute`, `attribute == 'text'`, `attribute IN ['a', 'b']`, `attribute IS SET`, `attribute NOT SET` and their like.
fn parse_assertion(text: &str) -> Result<Assertion, String> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).unwrap_or(text.len());
    let (attribute, rest) = (&text[..end], text[end..].trim());
    let is_name = |c: char| c.is_ascii_alphanumeric() || ":_-.".contains(c);
    if !attribute.contains(':') || !attribute.chars().all(is_name) {
        return Err(format!("invalid attribute {attribute:?}, as in node:os or custom:tier"));
    }
    let made = |test: Test| Ok(Assertion { attribute: attribute.to_owned(), test });
    if rest.is_empty() {
        return made(Test::Compares(Comparison::Equal, Attribute::Bool(true)));
    }
    if let Some((sign, comparison)) = COMPARISONS.iter().find(|(sign, _)| rest.starts_with(sign)) {
        let value = parse_value(rest[sign.len()..].trim())?;
        let has_order = match &value {
            Attribute::Number(_) => true,
            Attribute::Text(text) => version(text).is_some(),
            Attribute::Bool(_) => false,
        };
        if !matches!(comparison, Comparison::Equal | Comparison::Other) && !has_order {
            return Err(format!("{sign} compares numbers and versions only"));
        }
        return made(Test::Compares(*comparison, value));
    }
    let words: Vec<&str> = rest.splitn(3, char::is_whitespace).collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    match upper.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["IS", "SET"] => return made(Test::IsSet),
        ["NOT", "SET"] | ["IS", "NOT", "SET"] => return made(Test::IsNotSet),
        _ => {}
    }
    let (is_wanted, list) = match upper[0].as_str() {
        "IN" => (true, rest[words[0].len()..].trim()),
        "NOT" if upper.get(1).is_some_and(|word| word == "IN") => {
            let after = rest[words[0].len()..].trim_start();
            (false, after[words[1].len()..].trim())
        }
        word => return Err(format!("unknown operator {word:?}: ==, !=, <, <=, >, >=, IN, NOT IN, IS SET or NOT SET")),
    };
    made(Test::IsAmong(is_wanted, parse_list(list)?))
}

fn parse_list(text: &str) -> Result<Vec<Attribute>, String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let mut rest = inner.ok_or("a list stands in square brackets: ['a', 'b']")?.trim();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(rest.len(), |end| end + 2),
            None => rest.find(',').unwrap_or(rest.len()),
        };
        values.push(parse_value(rest[..end].trim())?);
        rest = rest[end..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return Err("values of a list are separated by commas".to_owned()),
        };
    }
    Ok(values)
}

fn parse_value(text: &str) -> Result<Attribute, String> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return if inner.contains('\'') {
            Err(format!("invalid value {text}"))
        } else {
            Ok(Attribute::Text(inner.to_owned()))
        };
    }
    match text {
        "true" => Ok(Attribute::Bool(true)),
        "false" => Ok(Attribute::Bool(false)),
        _ => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Attribute::Number(number)),
            _ => Err(format!("invalid value {text:?}: texts stand in single quotes")),
        },
    }
}
