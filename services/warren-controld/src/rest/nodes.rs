//! Devices.

use std::collections::BTreeSet;

use http::Response;
use warren_api::admin::{
    ApproveRoutes, ChangesAnswer, ExpireNode, HideEndpoints, MoveNode, NodeAnswer, NodesAnswer, SetAuthorized, SetTags,
};
use warren_control::{Answer, Refusal, What};
use warren_crypto::UnixTime;
use warren_io::answer::{self, Body};
use warren_ip::Prefix;
use warren_wire::NodeId;

use super::{Asked, RestError, nothing, number, shapes, user_id};

pub(super) fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let user = asked.query("user").map(|user| user_id(&snapshot, user)).transpose()?;
    let nodes = snapshot
        .registry()
        .nodes()
        .filter(|node| user.is_none() || node.owner.user() == user)
        .map(|node| shapes::node(node, &snapshot))
        .collect();
    Ok(answer::json(&NodesAnswer { nodes }))
}

pub(super) fn show(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    match snapshot.registry().node(node_id(id)?) {
        Some(node) => Ok(answer::json(&NodeAnswer { node: shapes::node(node, &snapshot) })),
        None => Err(Refusal::NotFound { kind: "node", name: id.to_owned() }.into()),
    }
}

pub(super) async fn delete(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    asked.command(What::DeleteNode { node: node_id(id)? }).await?;
    Ok(nothing())
}

pub(super) async fn expire(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let node = node_id(id)?;
    let ExpireNode { expiry, disable_expiry } = asked.json()?;
    // Older scripts say it in the query, where a slip would let the key expire at once.
    asked.only_queries(&["expiry", "disableExpiry", "disable_expiry"])?;
    let in_query = asked.query("expiry").map(UnixTime::parse_rfc3339).transpose();
    let in_query = in_query.map_err(|error| RestError::Wrong(format!("expiry: {error}")))?;
    let at = expiry.or(in_query);
    let never = [asked.switch("disableExpiry")?, asked.switch("disable_expiry")?];
    if disable_expiry || never.contains(&Some(true)) {
        if at.is_some() {
            return Err(RestError::Wrong("a key either expires at a time or never".to_owned()));
        }
        return done(asked, What::DisableExpiry { node }).await;
    }
    done(asked, What::ExpireNode { node, at }).await
}

/// Gives addresses of a family that was enabled later to the nodes that have none of it.
pub(super) async fn backfill(asked: &Asked) -> Result<Response<Body>, RestError> {
    if asked.switch("confirmed")? != Some(true) {
        return Err(RestError::Wrong("this changes what nodes are called: say ?confirmed=true".to_owned()));
    }
    match asked.command(What::BackfillAddresses).await? {
        Answer::Changes(changes) => Ok(answer::json(&ChangesAnswer { changes })),
        _ => Err(RestError::Mixed),
    }
}

pub(super) async fn rename(asked: &Asked, id: &str, name: &str) -> Result<Response<Body>, RestError> {
    done(asked, What::RenameNode { node: node_id(id)?, name: name.to_owned() }).await
}

pub(super) async fn authorize(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let SetAuthorized { authorized } = asked.json()?;
    done(asked, What::ApproveNode { node: node_id(id)?, approved: authorized }).await
}

pub(super) async fn tag(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let SetTags { tags } = asked.json()?;
    done(asked, What::SetTags { node: node_id(id)?, tags: tags.into_iter().collect() }).await
}

pub(super) async fn approve_routes(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let ApproveRoutes { routes } = asked.json()?;
    let parse = |text: &String| {
        text.parse::<Prefix>().map_err(|_| RestError::Wrong(format!("{text:?} is not a prefix such as 10.0.0.0/24")))
    };
    let routes: BTreeSet<Prefix> = routes.iter().map(parse).collect::<Result<_, _>>()?;
    done(asked, What::SetRoutes { node: node_id(id)?, routes }).await
}

pub(super) async fn move_to(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let MoveNode { user } = asked.json()?;
    let user = user_id(&asked.snapshot(), &user)?;
    done(asked, What::MoveNode { node: node_id(id)?, user }).await
}

pub(super) async fn hide_endpoints(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let HideEndpoints { hide } = asked.json()?;
    done(asked, What::HideEndpoints { node: node_id(id)?, hide }).await
}

/// Has it done and shows the node as it is now.
pub(super) async fn done(asked: &Asked, what: What) -> Result<Response<Body>, RestError> {
    match asked.command(what).await? {
        Answer::Node(node) => Ok(answer::json(&NodeAnswer { node: shapes::node(&node, &asked.snapshot()) })),
        _ => Err(RestError::Mixed),
    }
}

pub(super) fn node_id(text: &str) -> Result<NodeId, RestError> {
    number(text, "node").map(NodeId)
}
