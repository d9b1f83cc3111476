//! `/auth/<id>`: where somebody who opens a shell is sent, and what became of it.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::rows::Node;
use warren_control::{AuthId, CheckPeriod, CheckStep, CheckVerdict, Person, ShellSession, Snapshot};
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
    // People whom an operator made by hand, or another provider vouched for, have none here to sign in at.
    let sign_in = shared.sign_in.as_ref();
    let owner = snapshot.registry().user(check.owner);
    let sign_in = sign_in.filter(|sign_in| owner.is_some_and(|owner| sign_in.vouches_for(owner)));
    let facts = facts(&snapshot, &check.session);
    match (check.step, sign_in) {
        (CheckStep::Open, Some(sign_in)) => {
            page(StatusCode::OK, "Is this you?", &sign_in_body(id, &facts, &sign_in.provider_name()))
        }
        (CheckStep::Open, None) => page_that_waits("A shell waits to be let in", &waiting_body(id, &facts)),
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
         <p>Was it you, just now? If not, or if somebody sent you here, do not let it in.</p>{}{}",
        signed_in_as(person),
        facts(snapshot, session),
        counts_for(snapshot, session),
        verdict_form(state, form_token, "Let it in", "Turn it away")
    );
    page(StatusCode::OK, "Let this shell in?", &body)
}

/// What else a yes lets in ([`warren_control::ShellChecks::has_passed`]).
fn counts_for(snapshot: &Snapshot, session: &ShellSession) -> String {
    let check = snapshot.ssh_check(session.from, session.to, &session.local_user);
    let Some(CheckPeriod::For(period)) = check.map(|check| check.period) else { return String::new() };
    let what = format!(
        "If you let it in, nobody is asked for {} about other shells from this device to that one, as whichever account \
         there the policy allows.",
        span(period)
    );
    paragraph(&what)
}

/// In the largest unit that says it whole.
fn span(period: Duration) -> String {
    let seconds = period.as_secs();
    let units = [(86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| seconds >= *size && seconds.is_multiple_of(*size)).unwrap_or((1, "second"));
    let count = seconds / size;
    if count == 1 { format!("one {unit}") } else { format!("{count} {unit}s") }
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
