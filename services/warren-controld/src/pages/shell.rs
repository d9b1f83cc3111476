//! `/auth/<id>`: where somebody who opens a shell is sent, and what became of it.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::rows::{LOCAL_ISSUER, Node};
use warren_control::{AuthId, CheckStep, CheckVerdict, Person, ShellSession, Snapshot};
use warren_io::answer::Body;
use warren_wire::NodeId;

use super::sign_in::{signed_in_as, verdict_form};
use super::{command, escape, page, page_that_waits, paragraph};
use crate::service::Shared;

const NEW_LINK: &str = "Open the shell again for a new one.";

/// What the person who was sent here, or their operator, does next.
pub(crate) async fn shell(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let id = request.uri().path().strip_prefix("/auth/").unwrap_or_default().parse::<AuthId>().ok();
    let snapshot = shared.registry.snapshot();
    let Some((id, check)) = id.and_then(|id| Some((id, shared.ssh_checks.check(id, &snapshot)?))) else {
        return page(StatusCode::NOT_FOUND, "This link is not good any more", &paragraph(NEW_LINK));
    };
    // People whom an operator made by hand have no provider to sign in at.
    let signs_in = snapshot.registry().user(check.owner).is_some_and(|user| user.issuer != LOCAL_ISSUER);
    let facts = facts(&snapshot, &check.session);
    match (check.step, &shared.sign_in) {
        (CheckStep::Open, Some(sign_in)) if signs_in => {
            page(StatusCode::OK, "Is this you?", &sign_in_body(id, &facts, &sign_in.provider_name()))
        }
        (CheckStep::Open, _) => page_that_waits("A shell waits to be let in", &waiting_body(id, &facts)),
        (CheckStep::Answered(verdict) | CheckStep::Taken(verdict), _) => done(verdict),
    }
}

fn done(verdict: CheckVerdict) -> Response<Body> {
    match verdict {
        CheckVerdict::LetIn => {
            let what = "The shell goes on by itself. You can close this page and go back to it.";
            page(StatusCode::OK, "The shell is let in", &paragraph(what))
        }
        CheckVerdict::TurnedAway => {
            let what = "The shell was refused. If that was a mistake, open it again.";
            page(StatusCode::OK, "The shell was turned away", &paragraph(what))
        }
    }
}

/// Asks before anybody is let in: whoever was sent a stranger's link sees here what it is about.
pub(crate) fn confirm_shell(
    snapshot: &Snapshot,
    session: &ShellSession,
    person: &Person,
    state: &str,
    form_token: &str,
) -> Response<Body> {
    let body = format!(
        "<p>You are signed in as {}. Somebody on a device of yours opens a shell:</p>{}\
         <p>Was it you, just now? If not, or if somebody sent you here, do not let it in.</p>{}",
        signed_in_as(person),
        facts(snapshot, session),
        verdict_form(state, form_token, "Let it in", "Turn it away")
    );
    page(StatusCode::OK, "Let this shell in?", &body)
}

fn facts(snapshot: &Snapshot, session: &ShellSession) -> String {
    let node = |id: NodeId| snapshot.registry().node(id).map_or_else(String::new, |node: &Arc<Node>| node.name.clone());
    let user: String = session.local_user.chars().take(64).collect();
    format!(
        "<dl><dt>From</dt><dd>{}</dd><dt>To</dt><dd>{}</dd><dt>As</dt><dd>{}</dd></dl>",
        escape(&node(session.from)),
        escape(&node(session.to)),
        escape(&user)
    )
}

fn sign_in_body(id: AuthId, facts: &str, provider: &str) -> String {
    format!(
        "<p>Somebody opens a shell from a device of yours, and the policy of this network wants to know that it is you. \
         Sign in as the person whose device it is. You will be asked once more before anybody is let in.</p>{facts}\
         <a class=\"main\" href=\"/oidc/start/{id}\">Sign in with {}</a>\
         <p class=\"small\">If you did not start this, close the page: nothing has happened.</p>",
        escape(provider)
    )
}

fn waiting_body(id: AuthId, facts: &str) -> String {
    format!(
        "<p>An operator of the control server lets it in with this command, run there:</p>{}{facts}\
         <p>The shell goes on by itself as soon as it is let in, and this page will say so.</p>\
         <p class=\"small\">If you did not start this, close the page: nothing has happened.</p>",
        command(&format!("warren control auth approve --auth-id {id}"))
    )
}
