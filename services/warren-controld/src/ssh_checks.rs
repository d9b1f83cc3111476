//! Shell sessions that a rule lets in only after a check (control-protocol.md §4.4).
//!
//! ```text
//! node that is entered ─GET /machine/ssh/action/<from>/to/<to>?local_user=…─▶ message with a link, and "ask there again"
//!                      ─GET …&auth_id=<id>──────────────────────────────────▶ held … accept or reject
//! the person           ─opens <server>/auth/<id>, signs in, says yes─────────┘   (or an operator decides)
//! ```
//!
//! Who may answer, once, and how long it counts is [`ShellChecks`]' to know; here is what waits. Soft: after a restart the
//! node is given a new link.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use warren_control::shell_checks::Taken;
use warren_control::{
    Actor, AuthId, CheckRefusal, CheckVerdict, Command, ShellCheck, ShellChecks, ShellSession, Snapshot, What,
};
use warren_io::answer::{self, Body};
use warren_wire::NodeId;
use warren_wire::ssh::SshAction;

use crate::clock;
use crate::noise_endpoint::Machine;
use crate::registry::{CommandError, Registry};
use crate::service::Shared;

/// One request is held so long at most; the node asks again at once. Shorter than what proxies put up with.
const HELD_FOR: Duration = Duration::from_secs(55);

/// The longest local user name that is looked at; Linux has 32.
const LONGEST_USER: usize = 256;

const NOT_BY_POLICY: &str = "the policy of this network does not let you in";

/// Of a device that belongs to its tags there is nobody who could sign in.
const NOBODY: &str =
    "this session needs a check, and the device you come from has tags and no person who could answer it";

/// Why an answer does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    #[error(transparent)]
    Check(#[from] CheckRefusal),
    /// Nobody is let in of whom the audit table could not be told.
    #[error(transparent)]
    Audit(#[from] CommandError),
}

/// All checks, and a bell for those who wait for an answer.
#[derive(Debug)]
pub(crate) struct SshChecks {
    checks: Mutex<ShellChecks>,
    answered: watch::Sender<()>,
}

impl Default for SshChecks {
    fn default() -> Self {
        Self { checks: Mutex::default(), answered: watch::Sender::new(()) }
    }
}

impl SshChecks {
    fn lock(&self) -> MutexGuard<'_, ShellChecks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody answers, this once.
    ///
    /// # Errors
    /// [`CheckRefusal`]: nothing has changed.
    fn answer(&self, id: AuthId, verdict: CheckVerdict, by: &Actor, snapshot: &Snapshot) -> Result<(), CheckRefusal> {
        let session = self.lock().answer(id, verdict, by, snapshot.registry(), clock::now())?;
        self.answered.send_replace(());
        let (node, peer) = (session.to, session.from);
        tracing::info!(check = %id, %node, %peer, %by, ?verdict, "the check of a shell session was answered");
        Ok(())
    }

    /// The same with a line in the audit table before it counts.
    ///
    /// # Errors
    /// [`SettleError`]; the check is as before.
    pub(crate) async fn settle(
        &self,
        registry: &Registry,
        id: AuthId,
        verdict: CheckVerdict,
        by: Actor,
    ) -> Result<(), SettleError> {
        let session = self.may_answer(id, &by, &registry.snapshot())?.session;
        let verb = match verdict {
            CheckVerdict::LetIn => "lets in",
            CheckVerdict::TurnedAway => "turns away",
        };
        let detail = format!("{verb} {:?} from node:{}", session.local_user, session.from);
        let what = What::Note { action: "answer_check", node: session.to, detail };
        registry.command(Command { actor: by.clone(), what }).await?;
        Ok(self.answer(id, verdict, &by, &registry.snapshot())?)
    }

    /// Whether an answer of theirs would count now.
    ///
    /// # Errors
    /// [`CheckRefusal`].
    pub(crate) fn may_answer(&self, id: AuthId, by: &Actor, snapshot: &Snapshot) -> Result<ShellCheck, CheckRefusal> {
        self.lock().may_answer(id, by, snapshot.registry(), clock::now()).cloned()
    }

    /// The check, as long as its link is good or was.
    pub(crate) fn check(&self, id: AuthId, snapshot: &Snapshot) -> Option<ShellCheck> {
        self.lock().check(id, snapshot.registry(), clock::now()).cloned()
    }
}

/// `GET /machine/ssh/action/<from>/to/<to>?local_user=…`, from the node that is entered.
pub(crate) async fn action(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    if request.method() != Method::GET {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    let Some((session, id)) = read(&request) else {
        return answer::text(StatusCode::BAD_REQUEST, "not the link of a shell session");
    };
    let snapshot = shared.registry.snapshot();
    let registry = snapshot.registry();
    // Only the node that is entered asks for itself.
    if registry.node(session.to).is_none_or(|node| node.machine_key != machine.key) {
        return answer::text(StatusCode::NOT_FOUND, "node not found");
    }
    let Some(check) = snapshot.ssh_check(session.from, session.to, &session.local_user) else {
        return answer::json(&accepted(&snapshot, &session));
    };
    let Some(owner) = registry.node(session.from).and_then(|node| node.owner.user()) else {
        return answer::json(&rejected(NOBODY));
    };
    if shared.ssh_checks.lock().has_passed(&session, check.period, registry, clock::now()) {
        return answer::json(&check.accept);
    }
    if let Some(id) = id
        && let Some(action) = wait(&shared, &session, id).await
    {
        return answer::json(&action);
    }
    let id = AuthId::from_bytes(shared.seeds.fork().bytes());
    shared.ssh_checks.lock().begin(id, session.clone(), owner, clock::now());
    let link = format!("{}/auth/{id}", shared.server_url);
    let message = format!("# This session needs a check. To allow it, visit:\n#\n#\t{link}\n#\n");
    answer::json(&SshAction { message, ..ask_again(&shared, &session, id) })
}

/// The verdict, or the request to ask again. `None`: there is no such check (any more). Dropping the future takes nothing.
async fn wait(shared: &Shared, session: &ShellSession, id: AuthId) -> Option<SshAction> {
    let mut answered = shared.ssh_checks.answered.subscribe();
    let end = tokio::time::Instant::now() + HELD_FOR;
    loop {
        let snapshot = shared.registry.snapshot();
        let taken = shared.ssh_checks.lock().take(id, session, snapshot.registry(), clock::now());
        match taken {
            Taken::Unknown => return None,
            Taken::Open => {}
            Taken::Verdict(CheckVerdict::TurnedAway) => return Some(rejected("the check was refused")),
            Taken::Verdict(CheckVerdict::LetIn) => {
                // What was true when the person was asked need not be true any more.
                return Some(accepted(&snapshot, session));
            }
        }
        // The bell rings for every check; the sender lives as long as `shared`.
        if tokio::time::timeout_at(end, answered.changed()).await.is_err() {
            return Some(ask_again(shared, session, id));
        }
    }
}

/// Where no check is wanted (any more): a rule may have changed since the node that is entered heard of it.
fn accepted(snapshot: &Snapshot, session: &ShellSession) -> SshAction {
    let action = snapshot.ssh_accept(session.from, session.to, &session.local_user);
    action.unwrap_or_else(|| rejected(NOT_BY_POLICY))
}

fn ask_again(shared: &Shared, session: &ShellSession, id: AuthId) -> SshAction {
    let user: String = url::form_urlencoded::byte_serialize(session.local_user.as_bytes()).collect();
    let path = format!("/machine/ssh/action/{}/to/{}?local_user={user}&auth_id={id}", session.from, session.to);
    SshAction { hold_and_delegate: format!("{}{path}", shared.server_url), ..SshAction::default() }
}

fn rejected(why: &str) -> SshAction {
    SshAction { reject: true, message: format!("# {why}\n"), ..SshAction::default() }
}

fn read(request: &Request<Incoming>) -> Option<(ShellSession, Option<AuthId>)> {
    let path = request.uri().path().strip_prefix("/machine/ssh/action/")?;
    let (from, to) = path.split_once("/to/")?;
    let query: BTreeMap<_, _> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let local_user = query.get("local_user").filter(|user| (1..=LONGEST_USER).contains(&user.len()))?.clone();
    let session = ShellSession { from: NodeId(from.parse().ok()?), to: NodeId(to.parse().ok()?), local_user };
    Some((session, query.get("auth_id").and_then(|id| id.parse().ok())))
}
