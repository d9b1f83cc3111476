//! Facts about devices that make postures hold or fail, for nodes that are made up.

use std::collections::BTreeMap;

use crate::policy::Policy;
use crate::posture::{Posture, Test};
use crate::tailnet::Attribute;

pub(crate) type Attributes = BTreeMap<String, Attribute>;

/// Facts with which a device meets one of the postures; `None` if none were found, which does not mean that there are none.
pub(crate) fn meeting_one(policy: &Policy, postures: &[String]) -> Option<Attributes> {
    if postures.is_empty() {
        return Some(Attributes::new());
    }
    postures.iter().filter_map(|name| policy.postures.get(name)).find_map(meeting)
}

fn meeting(posture: &Posture) -> Option<Attributes> {
    let mut attributes = Attributes::new();
    for assertion in &posture.assertions {
        let name = &assertion.attribute;
        let same = posture.assertions.iter().filter(|other| other.attribute == *name).cloned().collect();
        let alone = Posture { assertions: same };
        let holds = |value: &Option<Attribute>| {
            alone.is_met(&value.iter().map(|value| (name.clone(), value.clone())).collect())
        };
        if let Some(value) = values(&alone).into_iter().find(holds)? {
            attributes.insert(name.clone(), value);
        }
    }
    posture.is_met(&attributes).then_some(attributes)
}

/// Kinds of device that differ in which postures they meet: one of which nothing is known, one with odd facts.
pub(crate) fn awkward(policy: &Policy) -> Vec<Attributes> {
    let assertions = policy.postures.values().flat_map(|posture| &posture.assertions);
    let odd = assertions.map(|assertion| (assertion.attribute.clone(), Attribute::Text("something else".to_owned())));
    vec![Attributes::new(), odd.collect()]
}

/// Values worth trying: those that the tests name, and some on either side of them.
fn values(posture: &Posture) -> Vec<Option<Attribute>> {
    let mut named: Vec<Attribute> = Vec::new();
    for assertion in &posture.assertions {
        match &assertion.test {
            Test::IsSet | Test::IsNotSet => {}
            Test::Compares(_, value) => named.push(value.clone()),
            Test::IsAmong(_, list) => named.extend(list.iter().cloned()),
        }
    }
    let mut values: Vec<Option<Attribute>> = named.iter().cloned().map(Some).collect();
    for value in &named {
        values.extend(beside(value).into_iter().map(Some));
    }
    let numbers: Vec<f64> =
        named.iter().filter_map(|value| if let Attribute::Number(n) = value { Some(*n) } else { None }).collect();
    for a in &numbers {
        values.extend(numbers.iter().map(|b| Some(Attribute::Number((a + b) / 2.0))));
    }
    values.push(Some(Attribute::Text("something else".to_owned())));
    values.push(None);
    values
}

fn beside(value: &Attribute) -> Vec<Attribute> {
    match value {
        Attribute::Bool(value) => vec![Attribute::Bool(!value)],
        Attribute::Number(value) => [-1.0, -0.5, 0.5, 1.0].map(|by| Attribute::Number(value + by)).into(),
        Attribute::Text(text) => [format!("{text}.1"), "0".to_owned(), "999999".to_owned()].map(Attribute::Text).into(),
    }
}
