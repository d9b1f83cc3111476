//! Asking the provider again about everybody who signed in, and logging out who is gone.
//!
//! Only the provider's own word ends a sign-in: a refused refresh token, another person in the answer, or a profile that
//! may not join any more. A provider that cannot be reached, or talks nonsense, says nothing about anybody: everything
//! stays, and it is asked again a little later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warren_control::rows::{SignIn as Row, User};
use warren_control::{Command, Person, What};
use warren_oidc::TokensError;

use super::SignIn;
use super::provider::{Asked, VouchError};
use crate::clock;
use crate::registry::CommandError;
use crate::service::Shared;

/// Between two looks at who is due.
const LOOK: Duration = Duration::from_secs(60);

pub(super) async fn run(shared: Arc<Shared>, mut shutdown: watch::Receiver<bool>) {
    let Some(sign_in) = &shared.sign_in else { return };
    let Some(every) = sign_in.config.refresh else { return };
    // Short periods are for trials.
    let look = (every / 4).clamp(Duration::from_millis(100), LOOK);
    loop {
        tokio::select! {
            () = clock::told(&mut shutdown) => return,
            () = tokio::time::sleep(look) => {}
        }
        // Left half done when the server stops: whoever was not asked yet is asked after the next start.
        tokio::select! {
            () = clock::told(&mut shutdown) => return,
            () = ask_about_all(&shared, sign_in, every) => {}
        }
    }
}

async fn ask_about_all(shared: &Shared, sign_in: &SignIn, every: Duration) {
    let snapshot = shared.registry.snapshot();
    let registry = snapshot.registry();
    let now = clock::wall();
    let is_due = |row: &&Arc<Row>| !row.ended && row.checked.saturating_add(every) <= now;
    for row in registry.sign_ins().filter(is_due) {
        let Some(user) = registry.user(row.user).filter(|user| user.issuer == sign_in.config.issuer) else { continue };
        if let Err(error) = ask_about(shared, sign_in, row, user).await {
            // Whatever it is, the next would meet it too.
            tracing::warn!(%error, "the identity provider could not be asked again; sign-ins stay as they are");
            return;
        }
    }
}

async fn ask_about(shared: &Shared, sign_in: &SignIn, row: &Row, user: &User) -> Result<(), VouchError> {
    let Some(sealed) = &row.refresh else { return Ok(()) };
    let Some(refresh) = sign_in.sealer.open(sealed, &user.issuer, &user.subject) else {
        let reason = "what the provider gave for asking again cannot be read with this server's key";
        return end(shared, user, reason).await;
    };
    let Asked { refresh, vouched } = match sign_in.provider.ask_again(&refresh, &user.subject).await {
        Ok(asked) => asked,
        Err(VouchError::Tokens(error @ TokensError::InvalidGrant(_))) => {
            return end(shared, user, &error.to_string()).await;
        }
        Err(error) => return Err(error),
    };
    let refresh = refresh.and_then(|token| sign_in.sealer.seal(&token, &user.issuer, &user.subject));
    let (person, problem) = match vouched {
        Ok(Some(person)) => (person, None),
        Ok(None) => (as_before(row, user), None),
        Err(error) if error.is_about_the_person() => return end(shared, user, &error.to_string()).await,
        Err(error) => (as_before(row, user), Some(error)),
    };
    let what = What::RefreshPerson { user: user.id, person: Box::new(person), refresh };
    match shared.registry.command(Command::by_server(what)).await {
        Ok(_) => {}
        Err(CommandError::Refused(refusal)) => return end(shared, user, &refusal.to_string()).await,
        Err(error @ CommandError::Unavailable(_)) => {
            tracing::warn!(user = %user.id, %error, "what the identity provider said was not kept");
        }
    }
    problem.map_or(Ok(()), Err)
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

async fn end(shared: &Shared, user: &User, reason: &str) -> Result<(), VouchError> {
    tracing::warn!(user = %user.id, reason, "somebody's sign-in has ended; their nodes are logged out");
    let what = What::EndSignIn { user: user.id, reason: reason.to_owned() };
    if let Err(error) = shared.registry.command(Command::by_server(what)).await {
        tracing::warn!(user = %user.id, %error, "a sign-in was not ended; it will be tried again");
    }
    Ok(())
}
