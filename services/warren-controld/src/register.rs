//! `POST /machine/register`: a machine asks to join, stay, renew or leave (control-protocol.md §5).
//!
//! The rules are [`warren_control`]'s. Here a body is read within its limits, and a refusal becomes the answer that
//! shows its text to the machine's user: status 200 with `Error`, since clients hide the text of any other.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::register::{only_used, refused, shown_tags};
use warren_control::{Actor, Answer, Command, RegisterAnswer, What};
use warren_io::answer::{self, Body};
use warren_wire::{CapabilityVersion, RegisterRequest};

use crate::noise_endpoint::Machine;
use crate::registry::CommandError;
use crate::service::Shared;

/// Largest request inside a channel (§0).
const LARGEST_REQUEST: usize = 1 << 20;

/// Largest request of a machine that nobody knows yet. Registrations in the field have two to four thousand bytes.
const LARGEST_OF_A_STRANGER: usize = 64 << 10;

/// For the whole of a request's body.
pub(crate) const BODY_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    if request.method() != Method::POST {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let body = match answer::read_body(request.into_body(), largest_of(&shared, &machine), BODY_DEADLINE).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let request: RegisterRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return not_understood("a registration", &error),
    };
    if let Some(too_old) = refuse_old(request.version) {
        return too_old;
    }
    let actor = Actor::Machine { key: machine.key, from: Some(machine.from) };
    let what = What::Register { machine: machine.key, request: Arc::new(only_used(request)) };
    // With a follow-up, the answer comes when an operator has decided; a client that leaves drops this future.
    match shared.registry.command(Command { actor, what }).await {
        Ok(Answer::Register(RegisterAnswer::Over)) => {
            answer::text(StatusCode::SERVICE_UNAVAILABLE, "the link has run out; ask for another")
        }
        Ok(Answer::Register(granted)) => {
            if let RegisterAnswer::TagsRefused(tags) = &granted {
                // A machine can say this as often as it likes, and as much.
                let tags = shown_tags(tags);
                tracing::debug!(machine = %machine.key.short(), tags, "a node asked for tags that it may not have");
            }
            match granted.response(&shared.server_url) {
                Some(response) => answer::json(&response),
                None => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
            }
        }
        Ok(_) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        Err(CommandError::Refused(refusal)) => {
            tracing::info!(machine = %machine.key.short(), %refusal, "a registration was refused");
            answer::json(&refused(&refusal))
        }
        // Not the machine's fault, so its client shall try again by itself.
        Err(error @ CommandError::Unavailable(_)) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// How long a request of this machine may be: routers may announce thousands of networks.
pub(crate) fn largest_of(shared: &Shared, machine: &Machine) -> usize {
    let is_known = shared.registry.snapshot().registry().nodes_of_machine(&machine.key).next().is_some();
    if is_known { LARGEST_REQUEST } else { LARGEST_OF_A_STRANGER }
}

/// Status 400, and where the JSON is wrong: not by its own words, which may be a join key's.
pub(crate) fn not_understood(what: &str, error: &serde_json::Error) -> Response<Body> {
    use serde_json::error::Category;
    let problem = match error.classify() {
        Category::Io | Category::Eof => "it ends too early",
        Category::Syntax => "it is not JSON",
        Category::Data => "a value is not of the kind that belongs there",
    };
    let (line, column) = (error.line(), error.column());
    answer::text(StatusCode::BAD_REQUEST, &format!("not {what}: {problem}, at line {line}, column {column}"))
}

/// Status 400 and the reason for clients that are too old (§4.2, §6.5).
pub(crate) fn refuse_old(version: CapabilityVersion) -> Option<Response<Body>> {
    let oldest = CapabilityVersion::OLDEST_SERVED;
    (version < oldest).then(|| {
        let text = format!(
            "this client is too old (capability version {version}): this network needs {oldest}, which is Tailscale 1.80 or newer"
        );
        answer::text(StatusCode::BAD_REQUEST, &text)
    })
}
