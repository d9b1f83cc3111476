//! Shell sessions that a rule lets in only after a check (control-protocol.md §4.4).
//!
//! ```text
//! node that is entered ─GET /machine/ssh/action/<from>/to/<to>?local_user=…─▶ message with a link, and "ask there again"
//!                      ─GET …&auth_id=<id>──────────────────────────────────▶ held … accept or reject
//! the person           ─opens <server>/auth/<id>, an operator decides───────┘
//! ```
//!
//! Soft: after a restart the node is given a new link. A check that was passed counts for the rule's period, for the same
//! two nodes and the same local user.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;
use warren_control::{AuthId, CheckPeriod, Snapshot};
use warren_io::answer::{self, Body};
use warren_wire::NodeId;
use warren_wire::ssh::SshAction;

use crate::noise_endpoint::Machine;
use crate::service::Shared;

/// How long a link is good.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// One request is held so long at most; the node asks again at once. Shorter than what proxies put up with.
const HELD_FOR: Duration = Duration::from_secs(55);

/// Checks that wait at once; the oldest goes first.
const MOST_WAITING: usize = 1024;

/// Passed checks that are remembered.
const MOST_PASSED: usize = 10_000;

/// The longest local user name that is looked at; Linux has 32.
const LONGEST_USER: usize = 256;

/// Who wants in where, as whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Session {
    from: NodeId,
    to: NodeId,
    user: String,
}

/// All checks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SshChecks {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<AuthId, Waiting>,
    passed: BTreeMap<Session, Instant>,
}

#[derive(Debug)]
struct Waiting {
    session: Session,
    since: Instant,
    verdict: watch::Sender<Option<bool>>,
}

impl SshChecks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_passed(&self, session: &Session, period: CheckPeriod) -> bool {
        let CheckPeriod::For(period) = period else { return false };
        self.lock().passed.get(session).is_some_and(|at| at.elapsed() < period)
    }

    fn begin(&self, id: AuthId, session: Session) -> watch::Receiver<Option<bool>> {
        let (verdict, told) = watch::channel(None);
        let mut inner = self.lock();
        inner.waiting.retain(|_, waiting| waiting.since.elapsed() < LIFETIME);
        while inner.waiting.len() >= MOST_WAITING {
            let Some(oldest) = inner.waiting.iter().min_by_key(|(_, waiting)| waiting.since).map(|(id, _)| *id) else {
                break;
            };
            inner.waiting.remove(&oldest);
        }
        inner.waiting.insert(id, Waiting { session, since: Instant::now(), verdict });
        told
    }

    fn find(&self, id: AuthId, session: &Session) -> Option<watch::Receiver<Option<bool>>> {
        let inner = self.lock();
        let waiting = inner.waiting.get(&id).filter(|waiting| waiting.session == *session)?;
        (waiting.since.elapsed() < LIFETIME).then(|| waiting.verdict.subscribe())
    }

    /// Somebody who may has decided. False: there is no such check (any more).
    pub(crate) fn decide(&self, id: AuthId, lets_in: bool) -> bool {
        let mut inner = self.lock();
        let Some(waiting) = inner.waiting.get(&id).filter(|waiting| waiting.since.elapsed() < LIFETIME) else {
            return false;
        };
        waiting.verdict.send_replace(Some(lets_in));
        let session = waiting.session.clone();
        if lets_in {
            while inner.passed.len() >= MOST_PASSED {
                let Some(oldest) = inner.passed.iter().min_by_key(|(_, at)| **at).map(|(s, _)| s.clone()) else {
                    break;
                };
                inner.passed.remove(&oldest);
            }
            inner.passed.insert(session, Instant::now());
        }
        true
    }

    /// Who wants in where, for the page.
    fn describe(&self, id: AuthId, snapshot: &Snapshot) -> Option<String> {
        let session = self.lock().waiting.get(&id).filter(|w| w.since.elapsed() < LIFETIME)?.session.clone();
        let name = |node| snapshot.registry().node(node).map_or_else(String::new, |node| node.name.clone());
        let user: String = session.user.chars().filter(|c| !c.is_control()).collect();
        Some(format!("{} wants a shell on {} as {user:?}.", name(session.from), name(session.to)))
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
    // Only the node that is entered asks for itself.
    if snapshot.registry().node(session.to).is_none_or(|node| node.machine_key != machine.key) {
        return answer::text(StatusCode::NOT_FOUND, "node not found");
    }
    let is_person = snapshot.registry().node(session.from).is_some_and(|node| node.owner.user().is_some());
    let Some(check) = snapshot.ssh_check(session.from, session.to, &session.user).filter(|_| is_person) else {
        return answer::json(&rejected(NOT_BY_POLICY));
    };
    if shared.ssh_checks.has_passed(&session, check.period) {
        return answer::json(&check.accept);
    }
    let known = id.and_then(|id| Some((id, shared.ssh_checks.find(id, &session)?)));
    match known {
        Some((id, verdict)) => answer::json(&wait(&shared, &session, id, verdict).await),
        None => {
            let id = AuthId::from_bytes(shared.seeds.fork().bytes());
            shared.ssh_checks.begin(id, session.clone());
            let link = format!("{}/auth/{id}", shared.server_url);
            let message = format!("# This session needs a check. To allow it, visit:\n#\n#\t{link}\n#\n");
            answer::json(&SshAction { message, ..ask_again(&shared, &session, id) })
        }
    }
}

async fn wait(shared: &Shared, session: &Session, id: AuthId, mut verdict: watch::Receiver<Option<bool>>) -> SshAction {
    let told = tokio::time::timeout(HELD_FOR, verdict.wait_for(Option::is_some)).await;
    match told {
        Ok(Ok(told)) if *told == Some(true) => {
            // One link lets in once; what else may follow is the period's to say.
            shared.ssh_checks.lock().waiting.remove(&id);
            // What was true when the person was asked need not be true any more.
            let now = shared.registry.snapshot().ssh_check(session.from, session.to, &session.user);
            now.map_or_else(|| rejected(NOT_BY_POLICY), |check| check.accept)
        }
        Ok(Ok(_)) => rejected("the check was refused"),
        // Pushed out by others: the node asks again and is given another link.
        Ok(Err(_)) | Err(_) => ask_again(shared, session, id),
    }
}

const NOT_BY_POLICY: &str = "the policy of this network does not let you in";

fn ask_again(shared: &Shared, session: &Session, id: AuthId) -> SshAction {
    let user: String = url::form_urlencoded::byte_serialize(session.user.as_bytes()).collect();
    let path = format!("/machine/ssh/action/{}/to/{}?local_user={user}&auth_id={id}", session.from, session.to);
    SshAction { hold_and_delegate: format!("{}{path}", shared.server_url), ..SshAction::default() }
}

fn rejected(why: &str) -> SshAction {
    SshAction { reject: true, message: format!("# {why}\n"), ..SshAction::default() }
}

fn read(request: &Request<Incoming>) -> Option<(Session, Option<AuthId>)> {
    let path = request.uri().path().strip_prefix("/machine/ssh/action/")?;
    let (from, to) = path.split_once("/to/")?;
    let query: BTreeMap<_, _> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let user = query.get("local_user").filter(|user| (1..=LONGEST_USER).contains(&user.len()))?.clone();
    let session = Session { from: NodeId(from.parse().ok()?), to: NodeId(to.parse().ok()?), user };
    Some((session, query.get("auth_id").and_then(|id| id.parse().ok())))
}

/// `/auth/<id>`: what the person who was sent here, or their operator, does next.
pub(crate) async fn page(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let id = request.uri().path().strip_prefix("/auth/").unwrap_or_default().parse::<AuthId>().ok();
    let about = id.and_then(|id| Some((id, shared.ssh_checks.describe(id, &shared.registry.snapshot())?)));
    match about {
        None => {
            answer::text(StatusCode::NOT_FOUND, "This link is not good any more. Open the shell again for a new one.")
        }
        Some((id, what)) => {
            let command = format!("warren control auth approve --auth-id {id}");
            answer::text(
                StatusCode::OK,
                &format!(
                    "{what}\n\nAn operator of the control server allows it with this command, run there:\n\n    {command}\n\nIf this is not you, close the page: nothing has happened."
                ),
            )
        }
    }
}
