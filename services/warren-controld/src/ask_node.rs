//! The server asks a node: for a sign of life, or something of its own (control-protocol.md §4.5).
//!
//! ```text
//! server ──PingRequest over the map stream──▶ node
//!        ◀──HEAD /machine/ping-response?id=…── (a sign of life, on the public port)
//!        ◀──POST /machine/c2n/<id>──────────── (an HTTP answer in full, inside the node's own channel)
//! ```
//!
//! An answer counts once, while somebody waits for it, and for a c2n answer only from the machine that was asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use warren_crypto::MachinePublic;
use warren_io::answer::{self, Body};
use warren_wire::{NodeId, PingRequest};

use crate::noise_endpoint::Machine;
use crate::service::Shared;

/// Questions that wait in front of one slow stream; more are not asked of it.
const QUEUE: usize = 4;

/// Largest answer of a node.
const LARGEST_ANSWER: usize = 1 << 20;

/// For an answer's whole body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Questions that are open at once. Only operators and the server itself ask.
const MOST_OPEN: usize = 16 << 10;

/// And of them, at one node: a silent one shall not use up what others need.
const MOST_OPEN_AT_ONE: usize = 8;

/// Open map streams by node, and the questions that wait for answers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bells {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    next_stream: u64,
    streams: BTreeMap<NodeId, BTreeMap<u64, mpsc::Sender<PingRequest>>>,
    open: BTreeMap<String, Open>,
    /// How many of them are at each node; none is no entry.
    open_at: BTreeMap<NodeId, usize>,
}

impl Inner {
    fn close(&mut self, id: &str) -> Option<Open> {
        let open = self.open.remove(id)?;
        if let Some(count) = self.open_at.get_mut(&open.node) {
            *count -= 1;
            if *count == 0 {
                self.open_at.remove(&open.node);
            }
        }
        Some(open)
    }
}

#[derive(Debug)]
struct Open {
    node: NodeId,
    /// Who may answer; `None`: whoever knows the id (a sign of life comes without a channel).
    machine: Option<MachinePublic>,
    reply: oneshot::Sender<Bytes>,
}

/// Why a node did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It has no map stream, or does not read it.
    #[error("the node is not connected")]
    NotConnected,
    /// It is connected and silent.
    #[error("the node did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Somebody asks far too much.
    #[error("too many questions to nodes are open; try again later")]
    TooMany,
}

/// One stream's end of the line; dropping it takes the stream off.
#[derive(Debug)]
pub(crate) struct Line {
    bells: Bells,
    node: NodeId,
    stream: u64,
    questions: mpsc::Receiver<PingRequest>,
}

impl Line {
    /// The next question for the node. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Option<PingRequest> {
        self.questions.recv().await
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut inner = self.bells.lock();
        if let Some(streams) = inner.streams.get_mut(&self.node) {
            streams.remove(&self.stream);
            if streams.is_empty() {
                inner.streams.remove(&self.node);
            }
        }
    }
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; and if it did, the maps would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map stream of `node` is there to carry questions.
    pub(crate) fn attach(&self, node: NodeId) -> Line {
        let (sender, questions) = mpsc::channel(QUEUE);
        let mut inner = self.lock();
        inner.next_stream += 1;
        let stream = inner.next_stream;
        inner.streams.entry(node).or_default().insert(stream, sender);
        drop(inner);
        Line { bells: self.clone(), node, stream, questions }
    }

    /// Puts a question to the node's newest stream.
    fn ring(&self, node: NodeId, question: PingRequest) -> Result<(), AskError> {
        let inner = self.lock();
        let newest = inner.streams.get(&node).and_then(|streams| streams.values().next_back());
        let newest = newest.ok_or(AskError::NotConnected)?;
        newest.try_send(question).map_err(|_| AskError::NotConnected)
    }

    fn open(&self, id: &str, node: NodeId, machine: Option<MachinePublic>) -> Result<Question, AskError> {
        let (reply, answer) = oneshot::channel();
        let mut inner = self.lock();
        let at_it = inner.open_at.get(&node).copied().unwrap_or_default();
        if inner.open.len() >= MOST_OPEN || at_it >= MOST_OPEN_AT_ONE {
            return Err(AskError::TooMany);
        }
        inner.open_at.insert(node, at_it + 1);
        inner.open.insert(id.to_owned(), Open { node, machine, reply });
        drop(inner);
        Ok(Question { bells: self.clone(), id: id.to_owned(), answer })
    }

    /// Takes an answer in; whether somebody waits for it from there.
    fn answered(&self, id: &str, machine: Option<MachinePublic>, answer: Bytes) -> bool {
        let mut inner = self.lock();
        if inner.open.get(id).is_none_or(|open| open.machine != machine) {
            return false;
        }
        inner.close(id).is_some_and(|open| open.reply.send(answer).is_ok())
    }
}

/// A question that is open; dropping it closes it, also where whoever asked has left.
#[derive(Debug)]
struct Question {
    bells: Bells,
    id: String,
    answer: oneshot::Receiver<Bytes>,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.bells.lock().close(&self.id);
    }
}

/// Asks for a sign of life and tells how long it took.
///
/// # Errors
/// [`AskError`].
pub(crate) async fn sign_of_life(shared: &Shared, node: NodeId, within: Duration) -> Result<Duration, AskError> {
    let begun = Instant::now();
    let ask = |id: &str| PingRequest {
        url: format!("{}/machine/ping-response?id={id}", shared.server_url),
        ..PingRequest::default()
    };
    put(shared, node, None, within, ask).await.map(|_| begun.elapsed())
}

/// Has the node answer an HTTP/1 request to its own c2n service.
///
/// # Errors
/// [`AskError`].
pub(crate) async fn c2n(
    shared: &Shared,
    node: NodeId,
    machine: MachinePublic,
    request: Vec<u8>,
    within: Duration,
) -> Result<Bytes, AskError> {
    let ask = |id: &str| PingRequest {
        url: format!("{}/machine/c2n/{id}", shared.server_url),
        url_is_noise: true,
        types: "c2n".to_owned(),
        payload: request,
        ..PingRequest::default()
    };
    put(shared, node, Some(machine), within, ask).await
}

async fn put(
    shared: &Shared,
    node: NodeId,
    machine: Option<MachinePublic>,
    within: Duration,
    ask: impl FnOnce(&str) -> PingRequest,
) -> Result<Bytes, AskError> {
    let id = hex(&shared.seeds.fork().bytes::<16>());
    let mut question = shared.bells.open(&id, node, machine)?;
    shared.bells.ring(node, ask(&id))?;
    match tokio::time::timeout(within, &mut question.answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(AskError::Silent(within)),
    }
}

/// `HEAD /machine/ping-response?id=…` on the public port: 200 for an id that is waited for, 404 for any other.
pub(crate) async fn ping_response(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::HEAD | Method::GET | Method::POST) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use HEAD");
    }
    let query = request.uri().query().unwrap_or_default();
    let id = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "id").map(|(_, id)| id);
    match id {
        None => answer::text(StatusCode::BAD_REQUEST, "missing id"),
        Some(id) if shared.bells.answered(&id, None, Bytes::new()) => answer::empty(StatusCode::OK),
        Some(_) => answer::text(StatusCode::NOT_FOUND, "nobody waits for this answer"),
    }
}

/// `POST /machine/c2n/<id>` inside the channel of the machine that was asked.
pub(crate) async fn c2n_answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    if request.method() != Method::POST {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let id = request.uri().path().strip_prefix("/machine/c2n/").unwrap_or_default().to_owned();
    let body = match answer::read_body(request.into_body(), LARGEST_ANSWER, BODY_DEADLINE).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    if shared.bells.answered(&id, Some(machine.key), body) {
        answer::empty(StatusCode::OK)
    } else {
        answer::text(StatusCode::NOT_FOUND, "nobody waits for this answer")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot go wrong
        text
    })
}

#[cfg(test)]
mod tests {
    use warren_crypto::MachineSecret;

    use super::*;

    #[test]
    fn an_answer_counts_once_and_only_from_the_machine_that_was_asked() {
        let bells = Bells::default();
        let [asked, other] = [1, 2].map(|seed| Some(MachineSecret::from_seed([seed; 32]).public()));
        let mut question = bells.open("a", NodeId(1), asked).expect("room");
        assert!(!bells.answered("a", other, Bytes::new()) && !bells.answered("a", None, Bytes::new()));
        assert!(!bells.answered("b", asked, Bytes::new()));
        assert!(bells.answered("a", asked, Bytes::from_static(b"x")));
        assert_eq!(question.answer.try_recv().expect("there"), "x");
        assert!(!bells.answered("a", asked, Bytes::new()));
    }

    #[test]
    fn a_question_whose_asker_left_is_closed() {
        let bells = Bells::default();
        for _ in 0..=MOST_OPEN {
            drop(bells.open("a", NodeId(1), None).expect("room"));
        }
        assert!(bells.lock().open.is_empty() && bells.lock().open_at.is_empty());
    }

    #[test]
    fn a_silent_node_takes_no_room_from_others() {
        let bells = Bells::default();
        let ask = |id: usize, node| bells.open(&id.to_string(), NodeId(node), None);
        let held: Vec<_> = (0..MOST_OPEN_AT_ONE).map(|id| ask(id, 1).expect("room")).collect();
        assert!(matches!(ask(100, 1), Err(AskError::TooMany)));
        ask(101, 2).expect("another node");
        drop(held);
        ask(102, 1).expect("room again");
    }

    #[test]
    fn a_node_without_a_stream_cannot_be_asked_and_the_newest_stream_is() {
        let bells = Bells::default();
        let node = NodeId(1);
        assert!(matches!(bells.ring(node, PingRequest::default()), Err(AskError::NotConnected)));
        let mut first = bells.attach(node);
        let second = bells.attach(node);
        drop(second);
        bells.ring(node, PingRequest::default()).expect("the one that is left");
        assert!(first.questions.try_recv().is_ok());
        drop(first);
        assert!(bells.lock().streams.is_empty());
    }
}
