//! A document as it was written: a tree with positions, the same whatever the syntax.

/// One value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Raw {
    /// Byte offset into the text.
    pub(crate) at: usize,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Raw>),
    Object(Vec<Field>),
}

/// A name of an object and its value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Field {
    /// Byte offset of the name.
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) value: Raw,
}

impl Raw {
    pub(crate) fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// What leaving the value out would mean as well: `null`, `false`, `""`, `[]`, `{}`.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Null => true,
            Kind::Bool(value) => !value,
            Kind::Text(text) => text.is_empty(),
            Kind::List(elements) => elements.is_empty(),
            Kind::Object(fields) => fields.is_empty(),
            Kind::Number(_) => false,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON, for what the policy only passes on. Of a name that appears twice the last counts, as it does
    /// for the field's readers. `None` for a number that JSON cannot hold.
    pub(crate) fn to_json(&self) -> Option<serde_json::Value> {
        use serde_json::Value;
        Some(match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(digits) => Value::Number(digits.parse().ok()?),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(elements) => Value::Array(elements.iter().map(Raw::to_json).collect::<Option<_>>()?),
            Kind::Object(fields) => {
                let json = |field: &Field| Some((field.name.clone(), field.value.to_json()?));
                Value::Object(fields.iter().map(json).collect::<Option<_>>()?)
            }
        })
    }
}
