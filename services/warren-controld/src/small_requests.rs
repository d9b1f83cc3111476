//! Small things that clients tell or ask inside a channel (control-protocol.md §4.1, §4.3).
//!
//! Each speaks for a node, so its node key must be this machine's. Nothing here changes the registry: what a client says
//! of its own health or of what its user did goes to the log.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use warren_control::rows::Node;
use warren_crypto::NodePublic;
use warren_io::answer::{self, Body};

use crate::clock;
use crate::noise_endpoint::Machine;
use crate::register::BODY_DEADLINE;
use crate::service::Shared;

/// Each is some hundred bytes; an audit entry may carry a person's words.
const LARGEST: usize = 64 << 10;

/// Of a client's words, as many go to the log.
const LONGEST_WORDS: usize = 500;

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HealthChange {
    subsys: String,
    error: String,
    node_key: NodePublic,
}

impl Default for HealthChange {
    fn default() -> Self {
        Self { subsys: String::new(), error: String::new(), node_key: NodePublic::ZERO }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct AuditEntry {
    node_key: NodePublic,
    action: String,
    details: String,
}

impl Default for AuditEntry {
    fn default() -> Self {
        Self { node_key: NodePublic::ZERO, action: String::new(), details: String::new() }
    }
}

/// `POST /machine/update-health`: clients up to 2025 say what ails them.
pub(crate) async fn update_health(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let said: HealthChange = match read(request).await {
        Ok(said) => said,
        Err(response) => return *response,
    };
    let node = match node(&shared, &machine, &said.node_key) {
        Ok(node) => node,
        Err(response) => return *response,
    };
    let (subsystem, error) = (words(&said.subsys), words(&said.error));
    tracing::debug!(node = %node.id, %subsystem, %error, "a node speaks of its health");
    answer::empty(StatusCode::NO_CONTENT)
}

/// `POST /machine/audit-log`: what a person did on the node that their network wants to know of. A status other than 200
/// makes the client drop the entry, or send it again for ever.
pub(crate) async fn audit_log(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let said: AuditEntry = match read(request).await {
        Ok(said) => said,
        Err(response) => return *response,
    };
    let node = match node(&shared, &machine, &said.node_key) {
        Ok(node) => node,
        Err(response) => return *response,
    };
    let (action, details) = (words(&said.action), words(&said.details));
    tracing::info!(node = %node.id, %action, %details, "audit entry of a node");
    answer::empty(StatusCode::OK)
}

/// `GET /machine/whoami`: what the server knows of the machine that asks; for people who debug their connection.
pub(crate) async fn whoami(shared: Arc<Shared>, _request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let snapshot = shared.registry.snapshot();
    let nodes: Vec<&str> =
        snapshot.registry().nodes_of_machine(&machine.key).map(|node| node.stable_id.0.as_str()).collect();
    answer::json(&serde_json::json!({ "machine": machine.key.to_string(), "nodes": nodes }))
}

pub(crate) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Box<Response<Body>>> {
    read_by(Method::POST, request).await
}

pub(crate) async fn read_by<T: DeserializeOwned>(
    method: Method,
    request: Request<Incoming>,
) -> Result<T, Box<Response<Body>>> {
    if request.method() != method {
        return Err(Box::new(answer::text(StatusCode::METHOD_NOT_ALLOWED, &format!("use {method}"))));
    }
    let body = answer::read_body(request.into_body(), LARGEST, BODY_DEADLINE).await;
    let body = body.map_err(|error| Box::new(error.response()))?;
    serde_json::from_slice(&body)
        .map_err(|error| Box::new(answer::text(StatusCode::BAD_REQUEST, &format!("not understood: {error}"))))
}

pub(crate) fn node(shared: &Shared, machine: &Machine, key: &NodePublic) -> Result<Arc<Node>, Box<Response<Body>>> {
    let snapshot = shared.registry.snapshot();
    let found = snapshot.node_of(&machine.key, key).cloned();
    found.ok_or_else(|| Box::new(answer::text(StatusCode::NOT_FOUND, "node not found")))
}

/// The same for what only a node may have that is in the network: one that was let in, and whose key is good.
pub(crate) fn member(shared: &Shared, machine: &Machine, key: &NodePublic) -> Result<Arc<Node>, Box<Response<Body>>> {
    let node = node(shared, machine, key)?;
    if node.approved && !node.is_expired(clock::wall()) {
        return Ok(node);
    }
    let text = "this node is not in the network: its key has expired, or it waits for an operator";
    Err(Box::new(answer::text(StatusCode::FORBIDDEN, text)))
}

/// A client's words as they may stand in a log: short, on one line.
pub(crate) fn words(text: &str) -> String {
    text.chars().take(LONGEST_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
