//! Questions to a node that is connected.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use warren_api::admin::{AskNode, NodeSaid, SignOfLife};
use warren_control::rows::Node;
use warren_control::{Refusal, What};
use warren_io::answer::{self, Body};

use super::{Asked, RestError, nodes};
use crate::ask_node;

/// A node on a bad line answers within this, or it is as good as gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Less than what our own client waits for us.
const C2N: Duration = Duration::from_secs(25);

pub(super) async fn ping(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let node = find(asked, id)?;
    let took = ask_node::sign_of_life(&asked.shared, node.id, SIGN_OF_LIFE).await.map_err(RestError::Node)?;
    Ok(answer::json(&SignOfLife { seconds: took.as_secs_f64() }))
}

pub(super) async fn c2n(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let node = find(asked, id)?;
    let AskNode { method, path, body } = asked.json()?;
    let method = if method.is_empty() { "GET" } else { &method };
    let is_word = method.bytes().all(|b| b.is_ascii_uppercase());
    let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
    if !is_word || !is_path {
        return Err(RestError::Wrong("say a method in capitals and a path such as /echo".to_owned()));
    }
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: c2n\r\nContent-Length: {length}\r\n\r\n{body}");
    let what = What::Note { action: "ask_node", node: node.id, detail: format!("{method} {path}") };
    asked.command(what).await?;
    let said = ask_node::c2n(&asked.shared, node.id, node.machine_key, request.into_bytes(), C2N).await;
    let said = said.map_err(RestError::Node)?;
    Ok(answer::json(&NodeSaid { answer: String::from_utf8_lossy(&said).into_owned() }))
}

fn find(asked: &Asked, id: &str) -> Result<Arc<Node>, RestError> {
    let node = asked.snapshot().registry().node(nodes::node_id(id)?).cloned();
    node.ok_or_else(|| Refusal::NotFound { kind: "node", name: id.to_owned() }.into())
}
