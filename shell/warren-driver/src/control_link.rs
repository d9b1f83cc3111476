//! The conversation with the control server: one Noise connection, HTTP/2 on it, several requests at once.
//!
//! ```text
//! node ── Action::Control(id, request) ──▶ Link ──▶ Session (a task; dials when there is no live connection)
//!                                                     ├─ register: one answer, which may take a person's time
//!                                                     ├─ stream:   a message at a time, silent for at most 120 s
//!                                                     └─ update:   one empty answer
//! node ◀── handle_control(id, event) ──── inbox ◀─────┘
//! ```
//!
//! When to ask again is the node's to say; here every failure is reported once, in words for a person.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use warren_crypto::Random;
use warren_node::{ControlEvent, ControlRequest, ControlTarget, RequestId};
use warren_wire::{MapRequest, RegisterRequest, RegisterResponse};

use crate::control_dial::{Connection, connect};
use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::map_stream::{Compression, MapStream};

/// A stream that is silent for so long is dead: servers say "keep alive" every minute. (control-protocol.md §6.4)
const STREAM_PATIENCE: Duration = Duration::from_secs(120);

/// An answer that needs no person comes within this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A register response is a few hundred bytes; error pages of proxies are longer.
const MOST_ANSWER_BYTES: usize = 1 << 20;

/// What a person is shown of an error page.
const MOST_ERROR_CHARS: usize = 200;

/// Requests that wait for a dial. The node has one of each kind under way.
const WAITING_ASKS: usize = 16;

/// How long leaving may take: nobody waits for it.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);

/// One request with where it goes.
struct Ask {
    id: RequestId,
    request: ControlRequest,
    target: ControlTarget,
}

/// The link; owned by the task that carries out the node's actions.
pub(crate) struct Link {
    inbox: Inbox<Input>,
    random: Random,
    session: Option<(mpsc::Sender<Ask>, AbortHandle)>,
    /// The connection of the session, to be cut from outside.
    connection: Arc<Mutex<Option<Connection>>>,
    tasks: JoinSet<()>,
}

impl Link {
    pub(crate) fn new(inbox: Inbox<Input>, random: Random) -> Self {
        Self { inbox, random, session: None, connection: Arc::default(), tasks: JoinSet::new() }
    }

    /// Drops every request that is under way, and the connection.
    pub(crate) fn close(&mut self) {
        if let Some((_, session)) = self.session.take() {
            session.abort();
        }
        if let Ok(mut shared) = self.connection.lock() {
            *shared = None;
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Fails every request that is under way, so that the node asks again over a new connection.
    pub(crate) fn break_connection(&self) {
        if let Some(connection) = self.connection.lock().ok().and_then(|mut shared| shared.take()) {
            connection.cut();
        }
    }

    /// The connection of the session, if one stands.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.connection.lock().ok().and_then(|shared| shared.clone()).filter(Connection::is_live)
    }

    pub(crate) fn ask(&mut self, id: RequestId, request: ControlRequest, target: ControlTarget) {
        let ask = Ask { id, request, target };
        let asks = match &self.session {
            Some((asks, session)) if !session.is_finished() => asks.clone(),
            _ => self.open_session(),
        };
        if let Err(mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask)) = asks.try_send(ask) {
            let inbox = self.inbox.clone();
            self.tasks.spawn(async move {
                report(&inbox, ask.id, failure(&ask.request, Failed::here("too many requests wait"))).await;
            });
        }
    }

    fn open_session(&mut self) -> mpsc::Sender<Ask> {
        let (asks, waiting) = mpsc::channel(WAITING_ASKS);
        let session = self.tasks.spawn(run_session(
            waiting,
            self.inbox.clone(),
            self.random.fork(),
            Arc::clone(&self.connection),
        ));
        self.session = Some((asks.clone(), session));
        asks
    }

    /// Tells a server that we left, over a connection of its own.
    pub(crate) fn say_goodbye(&mut self, target: ControlTarget, request: RegisterRequest) {
        let mut random = self.random.fork();
        self.tasks.spawn(async move {
            let goodbye = async {
                let connection = connect(&target, &mut random).await.ok()?;
                let answer = post(&connection, &target, REGISTER, &request).await.ok()?;
                answer.into_body().collect().await.ok()
            };
            // Whether or not the server heard it, the key is gone from here.
            let _ = timeout(GOODBYE_PATIENCE, goodbye).await;
        });
    }
}

/// One generation of the link, until it is closed: dials when needed and starts each request as a task of its own.
///
/// Dropping it (abort) drops every request and the connection; servers see the stream end.
async fn run_session(
    mut asks: mpsc::Receiver<Ask>,
    inbox: Inbox<Input>,
    mut random: Random,
    shared: Arc<Mutex<Option<Connection>>>,
) {
    let mut requests = JoinSet::new();
    let mut stream: Option<AbortHandle> = None;
    let mut connection: Option<Connection> = None;
    while let Some(ask) = asks.recv().await {
        while requests.try_join_next().is_some() {}
        let live = match connection.take().filter(Connection::is_live) {
            Some(live) => live,
            None => match connect(&ask.target, &mut random).await {
                Ok(fresh) => fresh,
                Err(error) => {
                    let text = error.for_a_person(&ask.target.url);
                    let failed = Failed { is_lasting: error.is_lasting(), ..Failed::here(text) };
                    report(&inbox, ask.id, failure(&ask.request, failed)).await;
                    continue;
                }
            },
        };
        connection = Some(live.clone());
        if let Ok(mut shared) = shared.lock() {
            *shared = Some(live.clone());
        }
        let is_stream = matches!(ask.request, ControlRequest::Stream(_));
        let task = requests.spawn(carry_out(live, ask, inbox.clone()));
        if is_stream && let Some(old) = stream.replace(task) {
            old.abort();
        }
    }
}

async fn carry_out(connection: Connection, ask: Ask, inbox: Inbox<Input>) {
    let Ask { id, request, target } = ask;
    let event = match &request {
        ControlRequest::Register(body) => register(&connection, &target, body).await,
        ControlRequest::Stream(body) => stream(&connection, &target, body, id, &inbox).await,
        ControlRequest::Update(body) => update(&connection, &target, body).await,
    };
    let event = event.unwrap_or_else(|failed| failure(&request, failed));
    report(&inbox, id, event).await;
}

async fn report(inbox: &Inbox<Input>, id: RequestId, event: ControlEvent) {
    // A stopped node has nobody to tell.
    let _ = inbox.send(Input::Control(id, event)).await;
}

/// Why a request brought no answer of use.
struct Failed {
    status: Option<u16>,
    text: String,
    retry_after: Option<Duration>,
    is_lasting: bool,
}

impl Failed {
    fn here(text: impl Into<String>) -> Self {
        Self { status: None, text: text.into(), retry_after: None, is_lasting: false }
    }
}

/// The event that says that `request` failed.
fn failure(request: &ControlRequest, failed: Failed) -> ControlEvent {
    let Failed { status, text, retry_after, is_lasting } = failed;
    match request {
        ControlRequest::Register(_) => ControlEvent::RegisterFailed { status, text, retry_after, is_lasting },
        ControlRequest::Stream(_) => ControlEvent::StreamEnded { status, reason: text },
        ControlRequest::Update(_) => ControlEvent::UpdateFailed { reason: text },
    }
}

async fn register(
    connection: &Connection,
    target: &ControlTarget,
    request: &RegisterRequest,
) -> Result<ControlEvent, Failed> {
    let exchange = async {
        let answer = accepted(post(connection, target, REGISTER, request).await?, "register request").await?;
        let body = Limited::new(answer.into_body(), MOST_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Failed::here(format!("register answer: {error}")))?.to_bytes();
        let response: RegisterResponse =
            serde_json::from_slice(&body).map_err(|error| Failed::here(format!("register answer: {error}")))?;
        Ok(ControlEvent::Registered(Box::new(response)))
    };
    if request.followup.is_empty() {
        timeout(ANSWER_PATIENCE, exchange).await.unwrap_or_else(|_| Err(Failed::here("register request: no answer")))
    } else {
        // A person is signing in somewhere; the connection's own pings notice a dead server.
        exchange.await
    }
}

async fn update(connection: &Connection, target: &ControlTarget, request: &MapRequest) -> Result<ControlEvent, Failed> {
    let exchange = async {
        let answer = accepted(post(connection, target, MAP, request).await?, "map update").await?;
        let body = Limited::new(answer.into_body(), MOST_ANSWER_BYTES).collect().await;
        body.map_err(|error| Failed::here(format!("map update: {error}")))?;
        Ok(ControlEvent::UpdateDone)
    };
    timeout(ANSWER_PATIENCE, exchange).await.unwrap_or_else(|_| Err(Failed::here("map update: no answer")))
}

/// Reads the stream to its end, which is always a failure of some kind.
async fn stream(
    connection: &Connection,
    target: &ControlTarget,
    request: &MapRequest,
    id: RequestId,
    inbox: &Inbox<Input>,
) -> Result<ControlEvent, Failed> {
    let silence = || Failed::here("the control server has been silent for two minutes");
    let opening = async { accepted(post(connection, target, MAP, request).await?, "map request").await };
    let answer = timeout(STREAM_PATIENCE, opening).await.map_err(|_| silence())??;
    report(inbox, id, ControlEvent::StreamOpened).await;
    let mut body = answer.into_body();
    let mut messages = MapStream::new(Compression::asked_by(request));
    loop {
        // Only a whole message counts as a sign of life: a server that drips bytes is not one.
        let message =
            timeout(STREAM_PATIENCE, next_message(&mut body, &mut messages)).await.map_err(|_| silence())??;
        let Some(message) = message else { return Err(Failed::here("the control server ended the stream")) };
        report(inbox, id, ControlEvent::Map(Box::new(message))).await;
    }
}

async fn next_message(
    body: &mut Incoming,
    messages: &mut MapStream,
) -> Result<Option<warren_wire::MapResponse>, Failed> {
    loop {
        if let Some(message) = messages.pull().map_err(|error| Failed::here(with_causes(&error)))? {
            return Ok(Some(message));
        }
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Failed::here(format!("map stream: {}", with_causes(&error)))),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    messages.push(&bytes);
                }
            }
        }
    }
}

const REGISTER: &str = "/machine/register";
const MAP: &str = "/machine/map";

async fn post(
    connection: &Connection,
    target: &ControlTarget,
    path: &str,
    body: &impl Serialize,
) -> Result<Response<Incoming>, Failed> {
    let text = serde_json::to_vec(body).map_err(|error| Failed::here(error.to_string()))?;
    // The scheme is always https inside Noise, whatever carried it. (control-protocol.md §3.8)
    let authority = target.url.host_str().unwrap_or("unused");
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{authority}{path}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| Failed::here(error.to_string()))?;
    connection.send(request).await.map_err(|error| Failed::here(format!("control server: {}", with_causes(&error))))
}

/// Lets 200 pass; anything else becomes words.
async fn accepted(answer: Response<Incoming>, what: &str) -> Result<Response<Incoming>, Failed> {
    if answer.status() == StatusCode::OK {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let retry_after = answer
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let body = Limited::new(answer.into_body(), MOST_ANSWER_BYTES).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let page: String = String::from_utf8_lossy(&bytes).trim().chars().take(MOST_ERROR_CHARS).collect();
    Err(Failed { status: Some(status), text: format!("{what}: http {status}: {page}"), retry_after, is_lasting: false })
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Libraries repeat themselves down the chain.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
