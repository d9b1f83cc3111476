//! Asking the provider again about everybody who signed in, and logging out who is gone.
//!
//! Only the provider's own word ends a sign-in: a refused refresh token, another person in the answer, or a profile that
//! may not join any more. A provider that cannot be reached, or talks nonsense, says nothing about anybody: everything
//! stays, and it is asked again a little later.
//!
//! A provider that gives a new refresh token does not take the old one any more, and takes its use for a theft. So from
//! the question on, the new token is carried until the database has it, whatever else happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warren_control::rows::{SignIn as Row, User};
use warren_control::{Answer, Command, Person, What};
use warren_oidc::TokensError;
use warren_wire::UserId;

use super::SignIn;
use super::provider::{Tokened, VouchError};
use crate::clock;
use crate::registry::CommandError;
use crate::service::Shared;

/// Between two looks at who is due.
const LOOK: Duration = Duration::from_secs(60);

/// Between two tries to store an answer.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// Whose profile stays as it was, and why, as of the last time that they were asked about.
type Kept = BTreeMap<UserId, String>;

pub(super) async fn run(shared: Arc<Shared>, mut shutdown: watch::Receiver<bool>) {
    let Some(sign_in) = &shared.sign_in else { return };
    let Some(every) = sign_in.config.refresh else { return };
    let (concern, watched) = watch::channel(None);
    shared.concerns.add("sign-in", watched);
    let mut kept = Kept::new();
    // Short periods are for trials.
    let look = (every / 4).clamp(Duration::from_millis(100), LOOK);
    loop {
        tokio::select! {
            () = clock::told(&mut shutdown) => return,
            () = tokio::time::sleep(look) => {}
        }
        ask_about_all(&shared, sign_in, every, &shutdown, &mut kept).await;
        concern.send_replace(kept.values().next().cloned());
    }
}

/// Whoever was not asked yet when the server stops is asked after the next start.
async fn ask_about_all(
    shared: &Shared,
    sign_in: &SignIn,
    every: Duration,
    shutdown: &watch::Receiver<bool>,
    kept: &mut Kept,
) {
    let snapshot = shared.registry.snapshot();
    let now = clock::wall();
    let is_due = |row: &Row| !row.ended && row.checked.saturating_add(every) <= now;
    kept.retain(|user, _| snapshot.registry().sign_in(*user).is_some_and(|row| !row.ended));
    for due in snapshot.registry().sign_ins().filter(|row| is_due(row)).map(|row| row.user) {
        if *shutdown.borrow() {
            return;
        }
        // The ones before took their time.
        let latest = shared.registry.snapshot();
        let row = latest.registry().sign_in(due).filter(|row| is_due(row));
        let user = latest.registry().user(due).filter(|user| sign_in.vouches_for(user));
        let (Some(row), Some(user)) = (row, user) else { continue };
        match ask_about(shared, sign_in, row, user, shutdown.clone()).await {
            Ok(Some(reason)) => drop(kept.insert(due, reason)),
            Ok(None) => drop(kept.remove(&due)),
            // About this token, in words of its own (Dex says invalid_request of one that it has forgotten).
            Err(error @ VouchError::Tokens(TokensError::Refused(_))) => {
                tracing::warn!(user = %due, %error, "the identity provider says nothing of somebody; they stay as they are");
            }
            Err(error) => {
                // Whatever it is, the next would meet it too.
                tracing::warn!(%error, "the identity provider could not be asked again; sign-ins stay as they are");
                return;
            }
        }
    }
}

/// Says why a profile was not taken over, if it was not.
async fn ask_about(
    shared: &Shared,
    sign_in: &SignIn,
    row: &Arc<Row>,
    user: &User,
    mut shutdown: watch::Receiver<bool>,
) -> Result<Option<String>, VouchError> {
    let Some(sealed) = &row.refresh else { return Ok(None) };
    let Some(refresh) = sign_in.sealer.open(sealed, &user.issuer, &user.subject) else {
        let reason = "what the provider gave for asking again cannot be read with this server's key";
        return end(shared, row, user, reason).await;
    };
    let asked = match sign_in.provider.ask_again(&refresh).await {
        Ok(asked) => asked,
        Err(VouchError::Tokens(error @ TokensError::InvalidGrant(_))) => {
            return end(shared, row, user, &error.to_string()).await;
        }
        Err(error) => return Err(error),
    };
    let token = asked.refresh().and_then(|token| sign_in.sealer.seal(token, &user.issuer, &user.subject));
    // A server that stops leaves the profile for the next time, but not the token.
    let vouched = tokio::select! {
        vouched = vouch(sign_in, &asked, user) => vouched,
        () = clock::told(&mut shutdown) => Ok(None),
    };
    let (person, problem) = match vouched {
        Ok(Some(person)) => (person, None),
        Ok(None) => (as_before(row, user), None),
        Err(error) if error.is_about_the_person() => return end(shared, row, user, &error.to_string()).await,
        Err(error) => (as_before(row, user), Some(error)),
    };
    let kept = store(shared, row, user, person, token, &mut shutdown).await;
    problem.map_or(Ok(kept), Err)
}

async fn vouch(sign_in: &SignIn, asked: &Tokened, user: &User) -> Result<Option<Person>, VouchError> {
    sign_in.provider.vouch_again(asked, &user.subject).await
}

/// Tries until the database has it, or the server stops.
async fn store(
    shared: &Shared,
    row: &Arc<Row>,
    user: &User,
    person: Person,
    refresh: Option<warren_control::rows::Sealed>,
    shutdown: &mut watch::Receiver<bool>,
) -> Option<String> {
    let asked = Arc::clone(row);
    let what = What::RefreshPerson { user: user.id, person: Box::new(person), refresh, asked };
    let command = Command::by_server(what);
    loop {
        match shared.registry.command(command.clone()).await {
            Ok(Answer::Kept(reason)) => {
                tracing::warn!(user = %user.id, %reason, "somebody's new profile was not taken over");
                return Some(format!("the new profile of user {} was not taken over: {reason}", user.name));
            }
            Ok(_) => return None,
            Err(error @ CommandError::Refused(_)) => {
                tracing::info!(user = %user.id, %error, "what the identity provider said was too late");
                return None;
            }
            Err(error @ CommandError::Unavailable(_)) => {
                tracing::warn!(user = %user.id, %error, "what the identity provider said was not kept yet");
                if *shutdown.borrow() {
                    return None;
                }
            }
        }
        tokio::select! {
            () = clock::told(shutdown) => {} // and once more
            () = tokio::time::sleep(STORE_AGAIN) => {}
        }
    }
}

/// What we know of somebody of whom the provider said nothing new.
fn as_before(row: &Row, user: &User) -> Person {
    Person {
        issuer: user.issuer.clone(),
        subject: user.subject.clone(),
        login: user.name.clone(),
        email: user.email.clone(),
        display_name: user.display_name.clone(),
        picture_url: user.picture_url.clone(),
        groups: row.groups.clone(),
    }
}

async fn end(shared: &Shared, row: &Arc<Row>, user: &User, reason: &str) -> Result<Option<String>, VouchError> {
    let what = What::EndSignIn { user: user.id, reason: reason.to_owned(), asked: Arc::clone(row) };
    match shared.registry.command(Command::by_server(what)).await {
        Ok(_) => tracing::warn!(user = %user.id, reason, "somebody's sign-in has ended; their nodes are logged out"),
        Err(CommandError::Refused(refusal)) => {
            tracing::info!(user = %user.id, reason, %refusal, "a sign-in goes on");
        }
        Err(error) => {
            tracing::warn!(user = %user.id, reason, %error, "a sign-in was not ended; it will be tried again");
        }
    }
    Ok(None)
}
