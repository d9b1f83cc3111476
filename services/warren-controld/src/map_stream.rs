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

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio::time::Instant;
use warren_control::{Next, Session};
use warren_crypto::Random;
use warren_io::answer::{self, Body};
use warren_wire::{MapRequest, MapResponse, NodeId, framing};

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
        Ok(frame) => Response::new(answer::full(frame)),
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
    Response::new(Frames(body).boxed_unsync())
}

async fn first_frame(session: &mut Session, shared: &Shared, coding: Coding) -> Result<Bytes, Box<Response<Body>>> {
    let snapshot = shared.registry.snapshot();
    let response = match session.next(&snapshot, clock::wall()) {
        Next::Map(map) => return encode(*map, coding).await.map_err(|error| Box::new(lost(&error))),
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
    frames: mpsc::Sender<Bytes>,
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
                    Next::Map(map) => encode(*map, coding).await,
                    Next::Last(map) => {
                        is_last = true;
                        encode(*map, coding).await
                    }
                    Next::Gone => break,
                    Next::Failed(error, words) => {
                        // The client keeps the map that it has, and is told so once.
                        let Some(words) = words else { continue };
                        tracing::error!(node = %session.node(), %error, "a map could not be made");
                        encode(*words, coding).await
                    }
                }
            }
            Some(question) = line.next() => {
                encode(MapResponse { ping_request: Some(question), ..MapResponse::default() }, coding).await
            }
            () = tokio::time::sleep_until(keep_alive_at) => {
                encode(MapResponse { keep_alive: true, ..MapResponse::default() }, coding).await
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

/// From here on, encoding is work for a thread that may be held up.
const LARGE: usize = 50;

async fn encode(map: MapResponse, coding: Coding) -> Result<Bytes, EncodeError> {
    if map.peers.len() + map.peers_changed.len() < LARGE {
        return encode_now(&map, coding);
    }
    match tokio::task::spawn_blocking(move || encode_now(&map, coding)).await {
        Ok(frame) => frame,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}

fn encode_now(map: &MapResponse, coding: Coding) -> Result<Bytes, EncodeError> {
    let json = serde_json::to_vec(map)?;
    let body = match coding {
        Coding::Plain => json,
        Coding::Zstd => zstd::bulk::compress(&json, ZSTD_LEVEL)?,
    };
    let header = framing::encode_len(body.len()).ok_or(EncodeError::Length(body.len()))?;
    let mut frame = BytesMut::with_capacity(header.len() + body.len());
    frame.put_slice(&header);
    frame.put_slice(&body);
    Ok(frame.freeze())
}

/// A response body that is fed by a task.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_their_length_and_hold_what_was_asked_for() {
        let map = MapResponse { keep_alive: true, ..MapResponse::default() };
        let plain = encode_now(&map, Coding::Plain).expect("small");
        assert_eq!(&plain[..], b"\x12\0\0\0{\"KeepAlive\":true}", "control-protocol.md A.2");
        let packed = encode_now(&map, Coding::Zstd).expect("small");
        let mut decoder = framing::Decoder::new(1000);
        decoder.push(&packed);
        let body = decoder.pull().expect("one frame").expect("whole");
        assert_eq!(zstd::bulk::decompress(&body, 100).expect("zstd"), br#"{"KeepAlive":true}"#);
    }
}
