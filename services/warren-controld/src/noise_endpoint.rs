//! `/ts2021`: HTTP/1.1 becomes a Noise channel, and inside it HTTP/2 for one machine (control-protocol.md §3, §4).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use warren_control::ChannelId;
use warren_crypto::MachinePublic;
use warren_io::answer::{self, Body};
use warren_io::control_dial::{HANDSHAKE_HEADER, PROTOCOL};
use warren_io::http_upgrade;
use warren_io::listener::Peer;
use warren_io::noise_stream::NoiseStream;
use warren_io::routes::Routes;

use crate::service::Shared;
use crate::{ask_node, clock, map_stream, register, small_requests, ssh_checks};

/// From the 101 answer to an open channel. The handshake itself is one message of ours.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Streams of one machine at a time: a map poll, updates beside it, and room.
const STREAMS: u32 = 64;

/// A connection whose peer vanished is noticed within these two. Shorter than the map's own keep-alive would look like
/// a flapping node (control-protocol.md §12.1, trap 13), so it is not.
const PING: Duration = Duration::from_secs(60);
const PING_ANSWER: Duration = Duration::from_secs(30);

/// A channel on which nothing is asked or streamed for up to twice this long is closed: clients that are at work have a
/// stream open, and anybody can open channels.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of one stream that wait for a slow client in our memory.
const SEND_BUFFER: usize = 256 << 10;

/// Who speaks inside a channel.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Proven by the handshake.
    pub(crate) key: MachinePublic,
    /// Which connection of it this is: later ones have higher numbers.
    pub(crate) channel: ChannelId,
    /// Where the connection came from.
    pub(crate) from: IpAddr,
    /// Whoever works for this connection holds a clone, beyond the answer if need be; without any it is idle.
    pub(crate) busy: Arc<()>,
}

/// Answers the upgrade request and serves the channel in a task of its own.
pub(crate) async fn upgrade(shared: Arc<Shared>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    if request.method() != Method::POST {
        return answer::text(StatusCode::NOT_IMPLEMENTED, "control over WebSocket is not built yet; use POST");
    }
    let Some(protocol) = http_upgrade::wanted(request.headers()) else {
        let hint = "missing next protocol; a proxy on the way must forward POST requests that ask for an upgrade";
        return answer::text(StatusCode::BAD_REQUEST, hint);
    };
    if !protocol.eq_ignore_ascii_case(PROTOCOL) {
        return answer::text(StatusCode::BAD_REQUEST, "unknown next protocol");
    }
    let initiation = request.headers().get(HANDSHAKE_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    let Ok(initiation) = base64::engine::general_purpose::STANDARD.decode(initiation) else {
        return answer::text(StatusCode::BAD_REQUEST, "the handshake header is not base64");
    };
    if initiation.is_empty() {
        return answer::text(StatusCode::BAD_REQUEST, "missing handshake header");
    }
    let (response, upgrading) = http_upgrade::accept(request, PROTOCOL);
    let mut shutdown = shared.shutdown.clone();
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = serve(shared, upgrading, initiation, peer) => {}
            () = clock::told(&mut shutdown) => {}
        }
    });
    response
}

async fn serve(
    shared: Arc<Shared>,
    upgrading: impl Future<Output = Result<TokioIo<hyper::upgrade::Upgraded>, hyper::Error>>,
    initiation: Vec<u8>,
    peer: Peer,
) {
    let mut random = shared.seeds.fork();
    let opening = async {
        let io = upgrading.await.ok()?;
        // No early payload: it would offer a challenge that this server never asks anybody to answer.
        match NoiseStream::accept(io, &shared.noise_key, &initiation, None, &mut random).await {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::debug!(peer = %peer.address, %error, "no Noise channel");
                None
            }
        }
    };
    let Ok(Some((stream, key))) = tokio::time::timeout(HANDSHAKE, opening).await else { return };
    let busy = Arc::new(());
    let channel = ChannelId(shared.next_channel.fetch_add(1, Ordering::Relaxed));
    let machine = Machine { key, channel, from: peer.address.ip().to_canonical(), busy: Arc::clone(&busy) };
    let service = service_fn(move |request| {
        let (shared, machine) = (Arc::clone(&shared), machine.clone());
        async move {
            let routes = Arc::clone(&shared.noise_routes);
            Ok::<_, Infallible>(routes.answer(request, (shared, machine)).await)
        }
    });
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING_ANSWER);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = idle(&busy) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(IDLE, connection).await.unwrap_or(Ok(()))
        }
    };
    // How a client leaves is its own affair; what it asked is answered or dropped by the handlers.
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, %error, "a control channel ended");
    }
}

/// Returns when nobody has held `busy` at two looks in a row.
async fn idle(busy: &Arc<()>) {
    /// Ours and the service's.
    const NOBODY: usize = 2;
    let mut was_idle = false;
    loop {
        tokio::time::sleep(IDLE).await;
        let is_idle = Arc::strong_count(busy) <= NOBODY;
        if is_idle && was_idle {
            return;
        }
        was_idle = is_idle;
    }
}

/// What is answered inside a channel. What is not built says so; clients live with both 404 and 501 (§4.1).
pub(crate) fn routes() -> Routes<(Arc<Shared>, Machine)> {
    let mut routes = Routes::new()
        .at("/machine/register", |request, (shared, machine)| register::answer(shared, request, machine))
        .at("/machine/map", |request, (shared, machine)| map_stream::answer(shared, request, machine))
        .at("/machine/update-health", |request, (shared, machine)| {
            small_requests::update_health(shared, request, machine)
        })
        .at("/machine/audit-log", |request, (shared, machine)| small_requests::audit_log(shared, request, machine))
        .at("/machine/whoami", |request, (shared, machine)| small_requests::whoami(shared, request, machine))
        .below("/machine/ssh/action/", |request, (shared, machine)| ssh_checks::action(shared, request, machine))
        .below("/machine/c2n/", |request, (shared, machine)| ask_node::c2n_answer(shared, request, machine));
    for path in ["/machine/set-dns", "/machine/id-token", "/machine/set-device-attr", "/machine/feature/query"] {
        routes = routes.at(path, |_, _| async {
            answer::text(StatusCode::NOT_IMPLEMENTED, "this control server does not have this feature")
        });
    }
    routes
}
