//! Facts about devices for the policy's postures, in the shape of the hosted API's `device/{id}/attributes`.

use http::Response;
use warren_api::admin::{NodeAttributes, SetAttribute};
use warren_control::rows::Node;
use warren_control::{AttributeValue, AttributeWish, Refusal, SetBy, Snapshot, What};
use warren_io::answer::{self, Body};

use super::nodes::node_id;
use super::{Asked, RestError};

pub(super) fn list(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    match snapshot.registry().node(node_id(id)?) {
        Some(node) => Ok(answer::json(&shape(node, &snapshot))),
        None => Err(Refusal::NotFound { kind: "node", name: id.to_owned() }.into()),
    }
}

pub(super) async fn set(asked: &Asked, id: &str, name: &str) -> Result<Response<Body>, RestError> {
    let SetAttribute { value, expiry, comment } = asked.json()?;
    let wrong = |_| RestError::Wrong(format!("say the value of {name:?}: a text, a number or a truth value"));
    let value: AttributeValue = serde_json::from_value(value).map_err(wrong)?;
    change(asked, id, name, Some(AttributeWish { value, expiry }), comment).await
}

pub(super) async fn remove(asked: &Asked, id: &str, name: &str) -> Result<Response<Body>, RestError> {
    change(asked, id, name, None, String::new()).await
}

async fn change(
    asked: &Asked,
    id: &str,
    name: &str,
    wish: Option<AttributeWish>,
    comment: String,
) -> Result<Response<Body>, RestError> {
    let changes = [(name.to_owned(), wish)].into();
    asked.command(What::SetAttributes { node: node_id(id)?, changes, comment }).await?;
    list(asked, id)
}

fn shape(node: &Node, snapshot: &Snapshot) -> NodeAttributes {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Bool(is) => (*is).into(),
        AttributeValue::Number(number) => number_of(f64::from(*number)),
        AttributeValue::Text(text) => text.as_str().into(),
    };
    let by = |by| match by {
        SetBy::Operator => "operator".to_owned(),
        SetBy::Node => "node".to_owned(),
    };
    let expiry = |(name, set): (&String, &warren_control::CustomAttribute)| Some((name.clone(), set.expiry?));
    NodeAttributes {
        attributes: snapshot.facts_of(node.id).iter().map(|(name, fact)| (name.clone(), value(fact))).collect(),
        expiries: node.attributes.iter().filter_map(expiry).collect(),
        set_by: node.attributes.iter().map(|(name, set)| (name.clone(), by(set.set_by))).collect(),
    }
}

/// Whole numbers without a point, as people write them.
fn number_of(number: f64) -> serde_json::Value {
    /// Above it not every whole number is one of these.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT { (number as i64).into() } else { number.into() }
}
