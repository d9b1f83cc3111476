//! Facts about a device that somebody sets, for the policy's postures (user-surface.md §4.10, §6.2, §8.4): attributes whose
//! names begin with `custom:`. A device may set its own, an operator those of every device; what an operator set is not
//! the device's to change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warren_crypto::UnixTime;
use warren_policy::Attribute;
use warren_wire::NodeId;

use crate::command::{Actor, Answer, Refusal};
use crate::event::Event;
use crate::rows::Node;
use crate::staged::Staged;

/// How every name of these begins: the others are what the server itself knows of a device.
pub const PREFIX: &str = "custom:";

/// Bytes of a name, the beginning included.
const LONGEST_NAME: usize = 128;

/// Bytes of a text.
const LONGEST_TEXT: usize = 255;

/// For one device; each is read whenever postures are.
const MOST: usize = 64;

/// The value of an attribute. In JSON a text, a number or a truth value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// `true` or `false`.
    Bool(bool),
    /// Any number that is one.
    Number(Finite),
    /// At most 255 bytes, without controls.
    Text(String),
}

/// A floating-point number that equals itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Finite(f64);

impl Eq for Finite {}

/// Infinite, or no number at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a number that can be compared")]
pub struct NotFinite;

impl TryFrom<f64> for Finite {
    type Error = NotFinite;

    fn try_from(number: f64) -> Result<Self, NotFinite> {
        if number.is_finite() { Ok(Self(number)) } else { Err(NotFinite) }
    }
}

impl From<Finite> for f64 {
    fn from(number: Finite) -> Self {
        number.0
    }
}

impl AttributeValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }

    pub(crate) fn for_policy(&self) -> Attribute {
        match self {
            Self::Bool(is) => Attribute::Bool(*is),
            Self::Number(number) => Attribute::Number(number.0),
            Self::Text(text) => Attribute::Text(text.clone()),
        }
    }
}

impl TryFrom<&Attribute> for AttributeValue {
    type Error = NotFinite;

    fn try_from(attribute: &Attribute) -> Result<Self, NotFinite> {
        Ok(match attribute {
            Attribute::Bool(is) => Self::Bool(*is),
            Attribute::Number(number) => Self::Number(Finite::try_from(*number)?),
            Attribute::Text(text) => Self::Text(text.clone()),
        })
    }
}

/// Who set an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// The device may not change it.
    Operator,
    /// The device says so of itself, and nobody has looked whether it is true.
    Node,
}

/// One attribute of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomAttribute {
    /// What postures ask for.
    pub value: AttributeValue,
    /// Whose word it is.
    pub set_by: SetBy,
    /// When it goes by itself; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<UnixTime>,
}

/// What an attribute shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeWish {
    /// Of the kind that it has, if it has one.
    pub value: AttributeValue,
    /// In the future; `None` is never.
    pub expiry: Option<UnixTime>,
}

impl Staged {
    /// All of `changes` or none; `None` removes. `comment` goes to the audit table.
    pub(crate) fn set_attributes(
        &mut self,
        id: NodeId,
        changes: BTreeMap<String, Option<AttributeWish>>,
        comment: &str,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        let set_by = match self.asking() {
            // It was this machine's when it asked, and may be another's by now.
            Some(Actor::Machine { key, .. }) if *key != node.machine_key => {
                return Err(Refusal::NotFound { kind: "node", name: id.to_string() });
            }
            Some(Actor::Machine { .. }) => SetBy::Node,
            _ => SetBy::Operator,
        };
        if changes.len() > MOST {
            return Err(Refusal::Invalid(format!("at most {MOST} attributes are set at once")));
        }
        let mut attributes = node.attributes.clone();
        let names: Vec<&str> = changes.keys().map(String::as_str).collect();
        let names = names.join(" ");
        for (name, wish) in changes {
            check_name(&name)?;
            let before = find(&attributes, &name)?;
            if set_by == SetBy::Node && before.is_some_and(|before| before.set_by == SetBy::Operator) {
                return Err(Refusal::Conflict(format!("{name} was set by an operator, who alone can change it")));
            }
            match wish {
                None => drop(attributes.remove(&name)),
                Some(wish) => {
                    check_value(&name, &wish, before, now)?;
                    let AttributeWish { value, expiry } = wish;
                    attributes.insert(name, CustomAttribute { value, set_by, expiry });
                }
            }
        }
        if attributes.len() > MOST {
            return Err(Refusal::Invalid(format!("a device has at most {MOST} attributes")));
        }
        if attributes == node.attributes {
            return Ok(Answer::Node(node));
        }
        let detail = if comment.is_empty() { names } else { format!("{names}: {comment}") };
        self.note(now, format!("node:{id}"), detail);
        let node = self.put_node(Node { attributes, ..Node::clone(&node) });
        self.events.push(Event::NodeAttributesChanged(id));
        Ok(Answer::Node(node))
    }

    /// Attributes whose time is over go, as if they had been removed.
    pub(crate) fn expire_attributes(&mut self, now: UnixTime) {
        let due: Vec<Arc<Node>> =
            self.state.registry.nodes().filter(|node| has_due_attribute(node, now)).cloned().collect();
        for node in due {
            let (over, attributes): (BTreeMap<_, _>, BTreeMap<_, _>) =
                node.attributes.clone().into_iter().partition(|(_, attribute)| is_over(attribute, now));
            let names: Vec<String> = over.into_keys().collect();
            self.note(now, format!("node:{}", node.id), format!("attributes expired: {}", names.join(" ")));
            self.put_node(Node { attributes, ..Node::clone(&node) });
            self.events.push(Event::NodeAttributesChanged(node.id));
        }
    }
}

/// Whether the time of one of its attributes is over.
pub(crate) fn has_due_attribute(node: &Node, now: UnixTime) -> bool {
    node.attributes.values().any(|attribute| is_over(attribute, now))
}

fn is_over(attribute: &CustomAttribute, now: UnixTime) -> bool {
    attribute.expiry.is_some_and(|expiry| expiry <= now)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_word = |rest: &str| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    if name.len() <= LONGEST_NAME && name.strip_prefix(PREFIX).is_some_and(is_word) {
        return Ok(());
    }
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    let rule = "custom: and letters, digits, _ and :, 128 characters in all";
    Err(Refusal::Invalid(format!("{shown:?} cannot be set as an attribute: a name is {rule}")))
}

/// The attribute of this name, which no other may have in capitals: postures would not find the one that was meant.
fn find<'a>(
    attributes: &'a BTreeMap<String, CustomAttribute>,
    name: &str,
) -> Result<Option<&'a CustomAttribute>, Refusal> {
    match attributes.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
        Some((found, _)) if found != name => {
            Err(Refusal::Conflict(format!("{name} is here already, and written {found}")))
        }
        found => Ok(found.map(|(_, attribute)| attribute)),
    }
}

fn check_value(
    name: &str,
    wish: &AttributeWish,
    before: Option<&CustomAttribute>,
    now: UnixTime,
) -> Result<(), Refusal> {
    if let AttributeValue::Text(text) = &wish.value
        && (text.len() > LONGEST_TEXT || text.chars().any(char::is_control))
    {
        return Err(Refusal::Invalid(format!("{name}: a text has at most {LONGEST_TEXT} bytes and no controls")));
    }
    if let Some(before) = before
        && before.value.kind() != wish.value.kind()
    {
        let (is, was) = (wish.value.kind(), before.value.kind());
        return Err(Refusal::Conflict(format!("{name} is {was}, and {is} cannot take its place: remove it first")));
    }
    if wish.expiry.is_some_and(|expiry| expiry <= now) {
        return Err(Refusal::Invalid(format!("{name} would expire in the past")));
    }
    Ok(())
}
