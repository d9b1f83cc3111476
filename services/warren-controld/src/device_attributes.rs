//! `PATCH /machine/set-device-attr`: facts that a node sets about itself, for the policy's postures (control-protocol.md
//! §4.3, user-surface.md §8.4). Which it may set is the registry's to say.
//!
//! `Update` has a text, a number or a truth value by name, or null to remove one. All of it is done or nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use warren_control::rows::Node;
use warren_control::{Actor, AttributeValue, AttributeWish, Command, Refusal, SetBy, What};
use warren_crypto::NodePublic;
use warren_io::answer::{self, Body};
use warren_wire::NodeId;

use crate::clock;
use crate::noise_endpoint::Machine;
use crate::registry::CommandError;
use crate::service::Shared;
use crate::small_requests::{node, read_by, words};

/// Changes of one node within [`WHILE`]: each is a commit, a line of the audit table and a look at the whole policy.
const MOST_IN_A_WHILE: usize = 10;
const WHILE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct SetDeviceAttributes {
    node_key: NodePublic,
    update: BTreeMap<String, Value>,
}

impl Default for SetDeviceAttributes {
    fn default() -> Self {
        Self { node_key: NodePublic::ZERO, update: BTreeMap::new() }
    }
}

/// When nodes changed something about themselves.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_node: Mutex<BTreeMap<NodeId, Vec<Instant>>>,
}

impl Turns {
    /// Whether the node may change something now; it counts as a change then.
    fn take(&self, node: NodeId, now: Instant) -> bool {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.retain(|_, turns| {
            turns.retain(|turn| now.saturating_duration_since(*turn) < WHILE);
            !turns.is_empty()
        });
        let turns = by_node.entry(node).or_default();
        let has_room = turns.len() < MOST_IN_A_WHILE;
        if has_room {
            turns.push(now);
        }
        has_room
    }
}

/// See the module.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let asked: SetDeviceAttributes = match read_by(Method::PATCH, request).await {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let node = match node(&shared, &machine, &asked.node_key) {
        Ok(node) => node,
        Err(response) => return *response,
    };
    if !node.approved || node.is_expired(clock::wall()) {
        let text = "this node is not in the network: its key has expired, or it waits for an operator";
        return answer::text(StatusCode::FORBIDDEN, text);
    }
    let changes = match changes(asked.update) {
        Ok(changes) => changes,
        Err(reason) => return answer::text(StatusCode::BAD_REQUEST, &reason),
    };
    if changes.iter().all(|(name, wish)| is_so(&node, name, wish.as_ref())) {
        return answer::json(&serde_json::json!({}));
    }
    if !shared.attribute_turns.take(node.id, clock::now()) {
        let text = format!("a node changes its attributes {MOST_IN_A_WHILE} times a minute at most; try again later");
        return answer::text(StatusCode::TOO_MANY_REQUESTS, &text);
    }
    let actor = Actor::Machine { key: machine.key, from: Some(machine.from) };
    let what = What::SetAttributes { node: node.id, changes, comment: String::new() };
    match shared.registry.command(Command { actor, what }).await {
        Ok(_) => answer::json(&serde_json::json!({})),
        Err(error) => {
            let status = match &error {
                CommandError::Refused(Refusal::NotFound { .. }) => StatusCode::NOT_FOUND,
                CommandError::Refused(Refusal::Conflict(_)) => StatusCode::CONFLICT,
                CommandError::Refused(_) => StatusCode::BAD_REQUEST,
                CommandError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            answer::text(status, &error.to_string())
        }
    }
}

fn changes(update: BTreeMap<String, Value>) -> Result<BTreeMap<String, Option<AttributeWish>>, String> {
    let change = |(name, value): (String, Value)| {
        let wish = match value {
            Value::Null => None,
            value => Some(AttributeWish {
                value: serde_json::from_value::<AttributeValue>(value)
                    .map_err(|_| format!("{:?} is set to a text, a number or a truth value", words(&name)))?,
                expiry: None,
            }),
        };
        Ok((name, wish))
    };
    update.into_iter().map(change).collect()
}

/// Whether the node has said this before.
fn is_so(node: &Node, name: &str, wish: Option<&AttributeWish>) -> bool {
    match (node.attributes.get(name), wish) {
        (None, None) => true,
        (Some(set), Some(wish)) => {
            set.set_by == SetBy::Node && (&set.value, &set.expiry) == (&wish.value, &wish.expiry)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_ten_turns_a_minute_and_takes_none_from_others() {
        let (turns, start) = (Turns::default(), Instant::now());
        for second in 0..10 {
            assert!(turns.take(NodeId(1), start + Duration::from_secs(second)));
        }
        let late = start + Duration::from_secs(59);
        assert!(!turns.take(NodeId(1), late) && turns.take(NodeId(2), late));
        assert!(turns.take(NodeId(1), start + WHILE));
        assert!(!turns.take(NodeId(1), start + WHILE), "one turn has come back");
        turns.take(NodeId(3), start + WHILE * 3);
        assert_eq!(turns.by_node.lock().expect("no panic").len(), 1, "who is silent is forgotten");
    }
}
