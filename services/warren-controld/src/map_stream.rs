//! `POST /machine/map`: a node's map, once or as a stream of what changes (control-protocol.md §6, §7).
//!
//! ```text
//! stream, peers   ▶ full map, then deltas and keep-alives until either side ends it
//! no peers        ▶ what it says is taken in; 200 and nothing else, at once
//! neither         ▶ what it says is taken in; one full map
//! ```
//!
//! A stream's task owns its session and one slot for an outgoing frame. A client that does not read fills the slot and
//! then only its own task waits; when it reads again, it gets the difference to the newest picture.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use warren_control::{Next, Session};
use warren_crypto::Random;
use warren_io::answer::{self, Body};
use warren_wire::{Lists, MapRequest, MapResponse, Message, NodeId, Piece, framing};
use zstd::bulk::Compressor;

use crate::clock;
use crate::noise_endpoint::Machine;
use crate::register::{BODY_DEADLINE, largest_of, not_understood, refuse_old};
use crate::service::Shared;

/// A client that has not taken one frame in this time has given up on the stream itself.
const STALLED: Duration = Duration::from_secs(120);

/// Fast, and JSON is easy prey for any level.
const ZSTD_LEVEL: i32 = 1;

pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    if request.method() != Method::POST {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let body = match answer::read_body(request.into_body(), largest_of(&shared, &machine), BODY_DEADLINE).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let request: MapRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return not_understood("a map request", &error),
    };
    if let Some(too_old) = refuse_old(request.version) {
        return too_old;
    }
    let coding = match request.compress.as_str() {
        "" => Coding::Plain,
        "zstd" => Coding::Zstd,
        other => {
            return answer::text(StatusCode::BAD_REQUEST, &format!("unknown compression {other:?}: use zstd or none"));
        }
    };
    let snapshot = shared.registry.snapshot();
    let Some(node) = snapshot.node_of(&machine.key, &request.node_key).map(|node| node.id) else {
        return answer::text(StatusCode::NOT_FOUND, "node not found");
    };
    let session = Session::new(node, request.node_key, request.version);
    match (request.stream, request.omit_peers) {
        (true, _) => stream(shared, node, session, request, coding, machine).await,
        (false, true) => match shared.registry.heard(node, machine.channel, request).await {
            Ok(()) => answer::empty(StatusCode::OK),
            Err(error) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        },
        (false, false) => match shared.registry.heard(node, machine.channel, request).await {
            Ok(()) => once(&shared, session, coding).await,
            Err(error) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        },
    }
}

async fn once(shared: &Shared, mut session: Session, coding: Coding) -> Response<Body> {
    match first_frame(&mut session, shared, coding).await {
        Ok(frame) => Response::new(answer::full(frame.concat())),
        Err(response) => *response,
    }
}

async fn stream(
    shared: Arc<Shared>,
    node: NodeId,
    mut session: Session,
    request: MapRequest,
    coding: Coding,
    machine: Machine,
) -> Response<Body> {
    let guard = match shared.registry.begin_stream(node, machine.channel, request).await {
        Ok(guard) => guard,
        Err(error) => return answer::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    // An error must be a status: an empty 200 shows as "unexpected EOF" and is tried for ever (§12.3, trap 33).
    let first = match first_frame(&mut session, &shared, coding).await {
        Ok(frame) => frame,
        Err(response) => return *response,
    };
    let (frames, body) = mpsc::channel(1);
    if frames.try_send(first).is_err() {
        return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error"); // a new channel has room
    }
    let random = shared.seeds.fork();
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        feed(shared, session, frames, coding, random).await;
        drop((guard, machine.busy));
    });
    Response::new(Frames(VecDeque::new(), body).boxed_unsync())
}

async fn first_frame(session: &mut Session, shared: &Shared, coding: Coding) -> Result<Packed, Box<Response<Body>>> {
    // A whole map is large until it is packed, and thousands may come at once: few are made at a time.
    let Ok(place) = Arc::clone(&shared.packers).acquire_owned().await else {
        return Err(Box::new(lost(&"the server is stopping")));
    };
    let snapshot = shared.registry.snapshot();
    let response = match session.next(&snapshot, clock::wall()) {
        Next::Map(map) => return encode_at(place, map, coding).await.map_err(|error| Box::new(lost(&error))),
        Next::Gone => answer::text(StatusCode::NOT_FOUND, "node not found"),
        Next::Failed(error, _) => lost(&error),
        Next::Last(_) | Next::Nothing => lost(&"a new session had nothing to say"),
    };
    Err(Box::new(response))
}

fn lost(error: &dyn std::fmt::Display) -> Response<Body> {
    tracing::error!(%error, "a map could not be made");
    answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the map of this node could not be made; see the server's log")
}

/// Sends what changes until the client leaves, the node is gone, or the server stops.
async fn feed(
    shared: Arc<Shared>,
    mut session: Session,
    frames: mpsc::Sender<Packed>,
    coding: Coding,
    mut random: Random,
) {
    let mut snapshots = shared.registry.snapshots();
    let mut shutdown = shared.shutdown.clone();
    // The first frame was of an older picture, perhaps.
    snapshots.mark_changed();
    let mut line = shared.bells.attach(session.node());
    // After the last frame, spread by a fifth so that thousands of clients do not march in step (§6.4).
    let keep_alive = shared.keep_alive;
    let mut next_keep_alive = move || Instant::now() + random.range_duration(keep_alive, keep_alive + keep_alive / 5);
    let mut keep_alive_at = next_keep_alive();
    loop {
        let mut is_last = false;
        let frame = tokio::select! {
            () = frames.closed() => break,
            () = clock::told(&mut shutdown) => break,
            changed = snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                match session.next(&snapshot, clock::wall()) {
                    Next::Nothing => continue,
                    Next::Map(map) => encode(&shared, map, coding).await,
                    Next::Last(map) => {
                        is_last = true;
                        encode(&shared, map, coding).await
                    }
                    Next::Gone => break,
                    Next::Failed(error, words) => {
                        // The client keeps the map that it has, and is told so once.
                        let Some(words) = words else { continue };
                        tracing::error!(node = %session.node(), %error, "a map could not be made");
                        encode(&shared, words, coding).await
                    }
                }
            }
            Some(question) = line.next() => {
                say(MapResponse { ping_request: Some(question), ..MapResponse::default() }, coding)
            }
            () = tokio::time::sleep_until(keep_alive_at) => {
                say(MapResponse { keep_alive: true, ..MapResponse::default() }, coding)
            }
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(node = %session.node(), %error, "a map could not be encoded");
                break;
            }
        };
        match tokio::time::timeout(STALLED, frames.send(frame)).await {
            Ok(Ok(())) if !is_last => keep_alive_at = next_keep_alive(),
            _ => break,
        }
    }
}

/// Whether frames are compressed: each on its own, without shared context (§6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Plain,
    Zstd,
}

/// A map that cannot be sent.
#[derive(Debug, thiserror::Error)]
enum EncodeError {
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
    #[error("compress")]
    Zstd(#[from] std::io::Error),
    #[error("a frame of {0} bytes")]
    Length(usize),
}

/// From here on, encoding is work for a thread that may be held up. Bytes of JSON.
const LARGE: usize = 64 << 10;

/// One message as it lies in the stream, in parts that other streams may share.
struct Packed(VecDeque<Bytes>);

impl Packed {
    fn concat(self) -> Bytes {
        Vec::from(self.0).concat().into()
    }
}

/// A small message that no session makes.
fn say(response: MapResponse, coding: Coding) -> Result<Packed, EncodeError> {
    encode_now(&Message::new(response, &Lists::default())?, coding)
}

async fn encode(shared: &Shared, message: Message, coding: Coding) -> Result<Packed, EncodeError> {
    if message.unpacked_bytes() < LARGE {
        return encode_now(&message, coding);
    }
    let place = Arc::clone(&shared.packers).acquire_owned().await.map_err(std::io::Error::other)?;
    encode_at(place, message, coding).await
}

/// The same for whoever has a place among those who compress much: each such thread has a compressor of its own.
async fn encode_at(place: OwnedSemaphorePermit, message: Message, coding: Coding) -> Result<Packed, EncodeError> {
    if message.unpacked_bytes() < LARGE {
        return encode_now(&message, coding);
    }
    let encoded = tokio::task::spawn_blocking(move || {
        let encoded = encode_now(&message, coding);
        drop(place);
        encoded
    });
    match encoded.await {
        Ok(frame) => frame,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}

fn encode_now(message: &Message, coding: Coding) -> Result<Packed, EncodeError> {
    let mut parts = VecDeque::with_capacity(message.pieces().len() + 1);
    match coding {
        Coding::Plain => parts.push_back(message.text().into()),
        Coding::Zstd => {
            for piece in message.pieces() {
                parts.push_back(match piece {
                    Piece::Own(text) => pack(text)?.into(),
                    Piece::Shared { written, after_comma } => Bytes::from_owner(written.packed(*after_comma, pack)?),
                });
            }
        }
    }
    let length = parts.iter().map(Bytes::len).sum();
    let header = framing::encode_len(length).ok_or(EncodeError::Length(length))?;
    // Mostly the first part is small and this message's own.
    match parts.front_mut().filter(|first| first.len() < LARGE) {
        Some(first) => *first = [&header, &first[..]].concat().into(),
        None => parts.push_front(Bytes::copy_from_slice(&header)),
    }
    Ok(Packed(parts))
}

/// A zstd frame of its own; a message may be several (control-protocol.md §6.3).
fn pack(text: &[u8]) -> std::io::Result<Vec<u8>> {
    thread_local! {
        // To make one costs as much as to compress some hundred kilobytes.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(ZSTD_LEVEL)?,
        };
        let packed = compressor.compress(text);
        *kept = Some(compressor);
        packed.map(|mut packed| {
            // It was given room for the worst case, and may wait for a slow client.
            packed.shrink_to_fit();
            packed
        })
    })
}

/// A response body that is fed by a task: what is left of one message, and those after it.
struct Frames(VecDeque<Bytes>, mpsc::Receiver<Packed>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if let Some(part) = self.0.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            match ready!(self.1.poll_recv(cx)) {
                Some(Packed(parts)) => self.0 = parts,
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_wire::{Node, Written};

    use super::*;

    fn read(packed: Packed) -> Vec<u8> {
        let mut decoder = framing::Decoder::new(1 << 20);
        decoder.push(&packed.concat());
        let body = decoder.pull().expect("one frame").expect("whole");
        assert!(decoder.pull().expect("nothing more").is_none());
        body
    }

    #[test]
    fn frames_say_their_length_and_hold_what_was_asked_for() {
        let alive = || MapResponse { keep_alive: true, ..MapResponse::default() };
        let plain = say(alive(), Coding::Plain).expect("small");
        assert_eq!(&plain.concat()[..], b"\x12\0\0\0{\"KeepAlive\":true}", "control-protocol.md A.2");
        let body = read(say(alive(), Coding::Zstd).expect("small"));
        assert_eq!(zstd::bulk::decompress(&body, 100).expect("zstd"), br#"{"KeepAlive":true}"#);
    }

    #[test]
    fn a_message_of_shared_pages_is_one_frame_that_reads_as_its_text() {
        let peer = |id| Node { id: NodeId(id), name: format!("n{id}.mesh."), ..Node::default() };
        let records: Vec<Written> = (1..=300).map(|id| Written::member(&peer(id)).expect("plain data")).collect();
        let pages = records.chunks(64).filter_map(Written::page).map(Arc::new).collect();
        let own = MapResponse { domain: "mesh".to_owned(), ..MapResponse::default() };
        let message = Message::new(own, &Lists { peers: pages, ..Lists::default() }).expect("plain data");
        assert_eq!(read(encode_now(&message, Coding::Plain).expect("plain")), message.text());
        for _ in 0..2 {
            let body = read(encode_now(&message, Coding::Zstd).expect("zstd"));
            assert_eq!(zstd::stream::decode_all(&body[..]).expect("several frames"), message.text());
        }
        assert!(message.unpacked_bytes() < 100, "pages are packed once");
        assert_eq!(message.response().expect("JSON").peers.len(), 300);
    }
}
