//! Machines that wait to be let in.

use http::Response;
use warren_api::admin::{AuthRequest, RegisterMachine, WaitingAnswer, WaitingMachine};
use warren_control::{AuthId, CheckRefusal, CheckVerdict, Refusal, Waiting, What};
use warren_io::answer::{self, Body};

use super::scopes::{Need, Noun};
use super::{Asked, RestError, nodes, nothing, user_id};
use crate::ssh_checks::SettleError;

pub(super) async fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let waiting = asked.shared.registry.all_waiting();
    let mut waiting: Vec<_> = waiting.iter().map(|(id, waiting)| shape(*id, waiting)).collect();
    if asked.also_needs(Need::Write(Noun::Auth)).is_err() {
        // Whoever has the id can open its page, sign in there and call the device theirs.
        waiting.iter_mut().for_each(|machine| machine.auth_id = "***".to_owned());
    }
    Ok(answer::json(&WaitingAnswer { waiting }))
}

fn shape(id: AuthId, waiting: &Waiting) -> WaitingMachine {
    let host = waiting.request.hostinfo.as_deref();
    WaitingMachine {
        auth_id: id.to_string(),
        hostname: host.map(|host| host.hostname.clone()).unwrap_or_default(),
        os: host.map(|host| host.os.clone()).unwrap_or_default(),
        machine_key: waiting.machine.to_string(),
        since: Some(waiting.since),
    }
}

pub(super) async fn register(asked: &Asked) -> Result<Response<Body>, RestError> {
    let RegisterMachine { user, auth_id } = asked.json()?;
    let id = auth(&auth_id)?;
    let user = user_id(&asked.snapshot(), &user)?;
    nodes::done(asked, What::ApproveRegistration { id, user }).await
}

/// The request does not say whose device it is, so there must be only one person whose it can be.
pub(super) async fn approve(asked: &Asked) -> Result<Response<Body>, RestError> {
    let AuthRequest { auth_id } = asked.json()?;
    let id = auth(&auth_id)?;
    if answers_check(asked, id, CheckVerdict::LetIn).await? {
        return Ok(nothing());
    }
    let snapshot = asked.snapshot();
    let mut users = snapshot.registry().users();
    let (Some(only), None) = (users.next(), users.next()) else {
        return Err(RestError::Wrong("say whose device it is: POST auth/register with user and authId".to_owned()));
    };
    asked.command(What::ApproveRegistration { id, user: only.id }).await?;
    Ok(nothing())
}

pub(super) async fn reject(asked: &Asked) -> Result<Response<Body>, RestError> {
    let AuthRequest { auth_id } = asked.json()?;
    let id = auth(&auth_id)?;
    if !answers_check(asked, id, CheckVerdict::TurnedAway).await? {
        asked.command(What::RejectRegistration { id }).await?;
    }
    Ok(nothing())
}

/// Whether the id is that of a shell session's check, which is answered then.
async fn answers_check(asked: &Asked, id: AuthId, verdict: CheckVerdict) -> Result<bool, RestError> {
    match asked.shared.ssh_checks.settle(&asked.shared.registry, id, verdict, asked.actor()).await {
        Ok(()) => Ok(true),
        Err(SettleError::Check(CheckRefusal::Unknown)) => Ok(false),
        Err(SettleError::Check(refusal)) => Err(Refusal::Conflict(refusal.to_string()).into()),
        Err(SettleError::Audit(error)) => Err(error.into()),
    }
}

/// The id alone, or the whole link that a person copied.
fn auth(text: &str) -> Result<AuthId, RestError> {
    let of_check = || text.rsplit_once("/auth/")?.1.parse().ok();
    let id = text.parse().ok().or_else(|| AuthId::from_link(text)).or_else(of_check);
    id.ok_or_else(|| RestError::Wrong(format!("{text:?} is neither the id of a waiting device nor its link")))
}
