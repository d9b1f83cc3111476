//! The operators' REST API: the matching part of headscale's v1 (user-surface.md §5.2), and a little of ours.
//!
//! It is met at the admin socket and, with an API key, at the public port; [`scopes`] says what a key may.
//!
//! Reading answers from the last picture, which is never older than the last answered command. Writing goes to the
//! writer as a command that carries who asked.

mod api_keys;
mod asking;
mod attributes;
mod auth;
mod body;
mod keys;
mod nodes;
mod policy;
pub(crate) mod scopes;
mod services;
mod shapes;
mod users;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use warren_api::admin::{BASE_PATH, Health, Nothing, Problem};
use warren_control::{Actor, Answer, Command, Refusal, Snapshot, What};
use warren_io::answer::{self, Body};
use warren_io::routes::Routes;
use warren_wire::UserId;

use crate::admin_door::Operator;
use crate::ask_node::AskError;
use crate::clock;
use crate::registry::CommandError;
use crate::service::Shared;

/// Largest request: a policy for a large company is some hundred kilobytes.
const LARGEST_REQUEST: usize = 4 << 20;

/// For the whole of a request's body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// One path with the methods that it knows.
#[cfg(test)]
pub(crate) struct Row {
    pub(crate) example: &'static str,
    pub(crate) methods: &'static [&'static str],
}

/// All that [`Asked::answer`] answers, for the tests that walk it.
#[cfg(test)]
pub(crate) const TABLE: &[Row] = &[
    Row { example: "/api/v1/health", methods: &["GET"] },
    Row { example: "/api/v1/user", methods: &["GET", "POST"] },
    Row { example: "/api/v1/user/1", methods: &["DELETE"] },
    Row { example: "/api/v1/user/1/rename/ann", methods: &["POST"] },
    Row { example: "/api/v1/user/1/role", methods: &["POST"] },
    Row { example: "/api/v1/node", methods: &["GET"] },
    Row { example: "/api/v1/node/backfillips", methods: &["POST"] },
    Row { example: "/api/v1/node/1", methods: &["GET", "DELETE"] },
    Row { example: "/api/v1/node/1/expire", methods: &["POST"] },
    Row { example: "/api/v1/node/1/rename/laptop", methods: &["POST"] },
    Row { example: "/api/v1/node/1/tags", methods: &["POST"] },
    Row { example: "/api/v1/node/1/authorized", methods: &["POST"] },
    Row { example: "/api/v1/node/1/approve_routes", methods: &["POST"] },
    Row { example: "/api/v1/node/1/user", methods: &["POST"] },
    Row { example: "/api/v1/node/1/endpoints", methods: &["POST"] },
    Row { example: "/api/v1/node/1/attributes", methods: &["GET"] },
    Row { example: "/api/v1/node/1/attributes/custom:x", methods: &["POST", "DELETE"] },
    Row { example: "/api/v1/node/1/ping", methods: &["POST"] },
    Row { example: "/api/v1/node/1/c2n", methods: &["POST"] },
    Row { example: "/api/v1/preauthkey", methods: &["GET", "POST", "DELETE"] },
    Row { example: "/api/v1/preauthkey/expire", methods: &["POST"] },
    Row { example: "/api/v1/apikey", methods: &["GET", "POST"] },
    Row { example: "/api/v1/apikey/expire", methods: &["POST"] },
    Row { example: "/api/v1/apikey/0123456789ab", methods: &["DELETE"] },
    Row { example: "/api/v1/service", methods: &["GET", "POST"] },
    Row { example: "/api/v1/service/svc:web", methods: &["GET", "PUT", "DELETE"] },
    Row { example: "/api/v1/service/svc:web/hosts", methods: &["GET"] },
    Row { example: "/api/v1/service/svc:web/hosts/1", methods: &["POST"] },
    Row { example: "/api/v1/policy", methods: &["GET", "PUT"] },
    Row { example: "/api/v1/policy/check", methods: &["POST"] },
    Row { example: "/api/v1/auth", methods: &["GET"] },
    Row { example: "/api/v1/auth/register", methods: &["POST"] },
    Row { example: "/api/v1/auth/approve", methods: &["POST"] },
    Row { example: "/api/v1/auth/reject", methods: &["POST"] },
];

pub(crate) fn routes() -> Routes<(Arc<Shared>, Operator)> {
    Routes::new().below(BASE_PATH, |request, (shared, operator)| answer(request, shared, operator))
}

/// Answers a request of somebody whom a door let in.
pub(crate) async fn answer(request: Request<Incoming>, shared: Arc<Shared>, operator: Operator) -> Response<Body> {
    match Asked::read(request, shared, operator).await {
        Ok(asked) => asked.answer().await.unwrap_or_else(|error| error.response()),
        Err(error) => error.response(),
    }
}

/// A request whose body has been read.
pub(crate) struct Asked {
    shared: Arc<Shared>,
    operator: Operator,
    method: Method,
    /// Segments of the path after the prefix, decoded.
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: bytes::Bytes,
}

impl Asked {
    async fn read(request: Request<Incoming>, shared: Arc<Shared>, operator: Operator) -> Result<Self, RestError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix(BASE_PATH).unwrap_or_default();
        let path: Option<Vec<String>> = path.trim_end_matches('/').split('/').map(decode).collect();
        let path = path.ok_or_else(|| RestError::Wrong("the path is not UTF-8".to_owned()))?;
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Some(need) = scopes::needed(head.method.as_str(), &words)
            && !operator.may(need)
        {
            tracing::warn!(by = %operator.actor(), %need, "an API request was refused: the key's scopes do not reach");
            return Err(RestError::OutOfScope);
        }
        let query = head.uri.query().unwrap_or_default();
        let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let body = match answer::read_body(body, LARGEST_REQUEST, BODY_DEADLINE).await {
            Ok(body) => body,
            Err(error) => return Err(RestError::Body(error)),
        };
        // A body may take its time, and an operator may have ended the key in it.
        if !operator.still_stands(shared.registry.snapshot().registry(), clock::wall()) {
            tracing::warn!(by = %operator.actor(), "an API request was refused: its key has ended");
            return Err(RestError::Ended);
        }
        Ok(Self { shared, operator, method: head.method, path, query, body })
    }

    /// The table of contents: each arm calls one function in the file of its noun.
    async fn answer(&self) -> Result<Response<Body>, RestError> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let unknown = || RestError::Unknown(format!("{} {BASE_PATH}{}", self.method, self.path.join("/")));
        scopes::needed(self.method.as_str(), &path).ok_or_else(unknown)?;
        match (self.method.as_str(), path.as_slice()) {
            ("GET", ["health"]) => {
                let database_connectivity = self.shared.registry.check().await;
                Ok(answer::json(&Health { database_connectivity, warnings: self.shared.concerns.list() }))
            }
            ("GET", ["user"]) => users::list(self),
            ("POST", ["user"]) => users::create(self).await,
            ("DELETE", ["user", id]) => users::delete(self, id).await,
            ("POST", ["user", id, "rename", name]) => users::rename(self, id, name).await,
            ("POST", ["user", id, "role"]) => users::set_role(self, id).await,
            ("GET", ["node"]) => nodes::list(self),
            ("POST", ["node", "backfillips"]) => nodes::backfill(self).await,
            ("GET", ["node", id]) => nodes::show(self, id),
            ("DELETE", ["node", id]) => nodes::delete(self, id).await,
            ("POST", ["node", id, "expire"]) => nodes::expire(self, id).await,
            ("POST", ["node", id, "rename", name]) => nodes::rename(self, id, name).await,
            ("POST", ["node", id, "tags"]) => nodes::tag(self, id).await,
            ("POST", ["node", id, "approve_routes"]) => nodes::approve_routes(self, id).await,
            ("POST", ["node", id, "user"]) => nodes::move_to(self, id).await,
            ("POST", ["node", id, "endpoints"]) => nodes::hide_endpoints(self, id).await,
            ("GET", ["node", id, "attributes"]) => attributes::list(self, id),
            ("POST", ["node", id, "attributes", name]) => attributes::set(self, id, name).await,
            ("DELETE", ["node", id, "attributes", name]) => attributes::remove(self, id, name).await,
            ("POST", ["node", id, "ping"]) => asking::ping(self, id).await,
            ("POST", ["node", id, "c2n"]) => asking::c2n(self, id).await,
            ("POST", ["node", id, "authorized"]) => nodes::authorize(self, id).await,
            ("GET", ["preauthkey"]) => keys::list(self),
            ("POST", ["preauthkey"]) => keys::create(self).await,
            ("DELETE", ["preauthkey"]) => keys::delete(self).await,
            ("POST", ["preauthkey", "expire"]) => keys::expire(self).await,
            ("GET", ["apikey"]) => api_keys::list(self),
            ("POST", ["apikey"]) => api_keys::create(self).await,
            ("POST", ["apikey", "expire"]) => api_keys::expire(self).await,
            ("DELETE", ["apikey", prefix]) => api_keys::delete(self, prefix).await,
            ("GET", ["service"]) => services::list(self),
            ("POST", ["service"]) => services::create(self).await,
            ("GET", ["service", name]) => services::show(self, name),
            ("PUT", ["service", name]) => services::change(self, name).await,
            ("DELETE", ["service", name]) => services::delete(self, name).await,
            ("GET", ["service", name, "hosts"]) => services::hosts(self, name),
            ("POST", ["service", name, "hosts", node]) => services::approve(self, name, node).await,
            ("GET", ["policy"]) => policy::show(self),
            ("PUT", ["policy"]) => policy::replace(self).await,
            ("POST", ["policy", "check"]) => policy::check(self).await,
            ("GET", ["auth"]) => auth::list(self).await,
            ("POST", ["auth", "register"]) => auth::register(self).await,
            ("POST", ["auth", "approve"]) => auth::approve(self).await,
            ("POST", ["auth", "reject"]) => auth::reject(self).await,
            _ => Err(unknown()),
        }
    }

    /// What a request needs beside what its path says.
    fn also_needs(&self, need: scopes::Need) -> Result<(), RestError> {
        if self.operator.may(need) { Ok(()) } else { Err(RestError::OutOfScope) }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.registry.snapshot()
    }

    /// The body; an empty one is `{}`.
    fn json<T: DeserializeOwned>(&self) -> Result<T, RestError> {
        body::read(&self.body).map_err(|error| RestError::Wrong(format!("the request's body: {error}")))
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// Refuses a query that says anything else, or one of these without a value: a script's variable was empty.
    fn only_queries(&self, known: &[&str]) -> Result<(), RestError> {
        for (name, value) in &self.query {
            if !known.contains(&name.as_str()) {
                return Err(RestError::Wrong(format!("the query says {name:?}; known here: {}", known.join(", "))));
            }
            if value.is_empty() {
                return Err(RestError::Wrong(format!("the query says {name} without a value")));
            }
        }
        Ok(())
    }

    /// A switch of the query; `None` if it is not there.
    fn switch(&self, name: &str) -> Result<Option<bool>, RestError> {
        match self.query(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(RestError::Wrong(format!("{name} is {other:?}: say true or false"))),
        }
    }

    fn actor(&self) -> Actor {
        self.operator.actor()
    }

    async fn command(&self, what: What) -> Result<Answer, RestError> {
        Ok(self.shared.registry.command(Command { actor: self.actor(), what }).await?)
    }
}

/// Why a request was not granted.
#[derive(Debug)]
pub(crate) enum RestError {
    Wrong(String),
    Unknown(String),
    Body(answer::BodyError),
    /// An API key that may do other things.
    OutOfScope,
    /// An API key that ended while the request was read.
    Ended,
    Command(CommandError),
    /// A node did not answer.
    Node(AskError),
    /// An answer that does not belong to its command: a mistake of ours.
    Mixed,
}

impl From<CommandError> for RestError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<Refusal> for RestError {
    fn from(refusal: Refusal) -> Self {
        Self::Command(refusal.into())
    }
}

impl RestError {
    fn response(&self) -> Response<Body> {
        match self {
            Self::Wrong(detail) => problem(StatusCode::BAD_REQUEST, detail),
            Self::Unknown(what) => problem(StatusCode::NOT_FOUND, &format!("this API has no {what}")),
            Self::Body(error) => error.response(),
            Self::Ended => problem(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::OutOfScope => problem(StatusCode::FORBIDDEN, "this API key may not do that"),
            Self::Command(error @ CommandError::Unavailable(_)) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
            }
            Self::Command(CommandError::Refused(refusal)) => problem(status(refusal), &refusal.to_string()),
            Self::Node(error) => {
                let status = match error {
                    AskError::NotConnected => StatusCode::CONFLICT,
                    AskError::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
                    AskError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
                };
                problem(status, &error.to_string())
            }
            Self::Mixed => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        }
    }
}

fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
        Refusal::Taken { .. } | Refusal::Conflict(_) | Refusal::NoAddress(_) => StatusCode::CONFLICT,
        Refusal::Invalid(_) | Refusal::Policy(_) | Refusal::Register(_) => StatusCode::BAD_REQUEST,
    }
}

/// An error as `application/problem+json`.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default().to_owned();
    let mut response = answer::json(&Problem { title, status: status.as_u16(), detail: detail.to_owned() });
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn nothing() -> Response<Body> {
    answer::json(&Nothing {})
}

/// A decimal id from a path or a body.
fn number(text: &str, what: &str) -> Result<i64, RestError> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| RestError::Wrong(format!("{text:?} is not the number of a {what}")))
}

/// A person by decimal id or by a name that they did not choose themselves.
fn user_id(snapshot: &Snapshot, name_or_id: &str) -> Result<UserId, RestError> {
    let registry = snapshot.registry();
    let by_name = registry.user_by_name(name_or_id);
    let by_id = || registry.user(UserId(name_or_id.parse().ok()?));
    match by_name.or_else(by_id) {
        Some(user) => match shapes::user(user).not_meant_by_name().filter(|_| by_name.is_some()) {
            Some(reason) => Err(Refusal::Conflict(reason).into()),
            None => Ok(user.id),
        },
        None => Err(Refusal::NotFound { kind: "user", name: name_or_id.to_owned() }.into()),
    }
}

/// Undoes percent-encoding; `None` if what comes out is not UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_strictly() {
        assert_eq!(decode("a%20b%C3%A4").as_deref(), Some("a bä"));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
