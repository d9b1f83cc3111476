//! `/ts2021`: HTTP/1.1 becomes a Noise channel, and inside it HTTP/2 for one machine (control-protocol.md §3, §4).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use warren_control::ChannelId;
use warren_crypto::channel::early::EarlyPayload;
use warren_crypto::{ChallengePublic, MachinePublic, MachineSecret};
use warren_io::answer::{self, Body};
use warren_io::control_dial::{HANDSHAKE_HEADER, PROTOCOL};
use warren_io::debug_counters;
use warren_io::http_upgrade;
use warren_io::listener::Peer;
use warren_io::noise_stream::NoiseStream;
use warren_io::routes::Routes;
use warren_io::web_socket;

use crate::service::Shared;
use crate::{
    ask_node, clock, device_attributes, feature_query, id_token, map_stream, register, set_dns, small_requests,
    ssh_checks,
};

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

/// Control channels that came to nothing, by reason. Anybody can make them, so they are counted and not logged.
#[derive(Debug, Default)]
pub(crate) struct DroppedChannels {
    /// A request for `/ts2021` that is not one.
    requests: AtomicU64,
    /// Not a Noise handshake with this server, or none in time.
    handshakes: AtomicU64,
    /// Opened, and then something in it was not ours: a record that does not open, or no HTTP/2.
    contents: AtomicU64,
}

impl DroppedChannels {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let rows = [("request", &self.requests), ("handshake", &self.handshakes), ("content", &self.contents)];
        debug_counters::dropped(&rows.map(|(reason, count)| (reason, count.load(Ordering::Relaxed))))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

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
    if web_socket::is_wanted(request.headers()) {
        return by_web_socket(shared, request, peer);
    }
    let initiation = match initiation(&request) {
        Ok(initiation) => initiation,
        Err((status, why)) => {
            count(&shared.dropped.requests);
            return answer::text(status, why);
        }
    };
    let (response, upgrading) = http_upgrade::accept(request, PROTOCOL);
    // An error is the client's: it left before the answer.
    let opening = async { upgrading.await.ok() };
    spawn(Arc::clone(&shared), serve(shared, opening, initiation, First::Challenge, peer));
    response
}

/// The first message of the handshake, from a request that asks for the upgrade; or why it does not.
fn initiation<B>(request: &Request<B>) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "use POST, or GET for a WebSocket"));
    }
    let Some(protocol) = http_upgrade::wanted(request.headers()) else {
        let hint = "missing next protocol; a proxy on the way must forward POST requests that ask for an upgrade";
        return Err((StatusCode::BAD_REQUEST, hint));
    };
    if !protocol.eq_ignore_ascii_case(PROTOCOL) {
        return Err((StatusCode::BAD_REQUEST, "unknown next protocol"));
    }
    let initiation = request.headers().get(HANDSHAKE_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    let Ok(initiation) = base64::engine::general_purpose::STANDARD.decode(initiation) else {
        return Err((StatusCode::BAD_REQUEST, "the handshake header is not base64"));
    };
    if initiation.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "missing handshake header"));
    }
    Ok(initiation)
}

/// The same for clients in browsers (control-protocol.md §3.2): the initiation comes in the query.
fn by_web_socket(shared: Arc<Shared>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let initiation = url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name.eq_ignore_ascii_case(HANDSHAKE_HEADER))
        // A plus sign that was not escaped is read as a blank.
        .and_then(|(_, value)| base64::engine::general_purpose::STANDARD.decode(value.replace(' ', "+")).ok())
        .filter(|initiation| !initiation.is_empty());
    let accepted = match web_socket::accept(request, PROTOCOL, &shared.origins) {
        Ok(accepted) => accepted,
        Err(refused) => return refused,
    };
    let (opening, is_agreed) = (accepted.opening, accepted.is_agreed);
    let (tasks, dropped) = (Arc::clone(&shared), Arc::clone(&shared.dropped));
    spawn(tasks, async move {
        let stream = async {
            // An error is the client's: it left before the answer.
            let stream = opening.await.ok()?;
            if !is_agreed || initiation.is_none() {
                count(&dropped.requests);
            }
            match &initiation {
                _ if !is_agreed => stream.refuse("a control server speaks the subprotocol of its Noise channel").await,
                None => stream.refuse("missing or malformed handshake parameter").await,
                Some(_) => return Some(stream),
            }
            None
        };
        // The field's clients expect none here.
        serve(shared, stream, initiation.clone().unwrap_or_default(), First::Http2, peer).await;
    });
    accepted.response
}

fn spawn(shared: Arc<Shared>, serving: impl Future<Output = ()> + Send + 'static) {
    let mut shutdown = shared.shutdown.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = serving => {}
            () = clock::told(&mut shutdown) => {}
        }
    });
}

/// What the server says first inside a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// An early payload: a key to which a client could prove that it holds its node key. Nobody does so far, and nothing
    /// here waits for it; clients of the field expect one.
    Challenge,
    Http2,
}

async fn serve<T>(
    shared: Arc<Shared>,
    io: impl Future<Output = Option<T>>,
    initiation: Vec<u8>,
    first: First,
    peer: Peer,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut random = shared.seeds.fork();
    let challenge = EarlyPayload {
        node_key_challenge: ChallengePublic::from_bytes(*MachineSecret::generate(&mut random).public().as_bytes()),
    };
    let early = (first == First::Challenge).then_some(&challenge);
    let opening = async {
        let io = io.await?;
        match NoiseStream::accept(io, &shared.noise_key, &initiation, early, &mut random).await {
            Ok(opened) => Some(opened),
            Err(error) => {
                count(&shared.dropped.handshakes);
                tracing::debug!(peer = %peer.address, %error, "no Noise channel");
                None
            }
        }
    };
    let Ok(opened) = tokio::time::timeout(HANDSHAKE, opening).await else {
        count(&shared.dropped.handshakes);
        return;
    };
    let Some((stream, key)) = opened else { return };
    let busy = Arc::new(());
    let channel = ChannelId(shared.next_channel.fetch_add(1, Ordering::Relaxed));
    let machine = Machine { key, channel, from: peer.address.ip().to_canonical(), busy: Arc::clone(&busy) };
    let dropped = Arc::clone(&shared.dropped);
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
        if !has_left(&error) {
            count(&dropped.contents);
        }
        tracing::debug!(peer = %peer.address, %error, "a control channel ended");
    }
}

/// Whether a connection ended because the client left, as opposed to said something that cannot be.
fn has_left(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref::<std::io::Error>() {
            let gone = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
            return gone.contains(&error.kind());
        }
        cause = found.source();
    }
    error.is_timeout() || error.is_closed() || error.is_canceled()
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

/// What is answered inside a channel. Of the rest clients hear that there is nothing, and live with it (§4.1).
pub(crate) fn routes() -> Routes<(Arc<Shared>, Machine)> {
    Routes::new()
        .at("/machine/register", |request, (shared, machine)| register::answer(shared, request, machine))
        .at("/machine/map", |request, (shared, machine)| map_stream::answer(shared, request, machine))
        .at("/machine/update-health", |request, (shared, machine)| {
            small_requests::update_health(shared, request, machine)
        })
        .at("/machine/audit-log", |request, (shared, machine)| small_requests::audit_log(shared, request, machine))
        .at("/machine/id-token", |request, (shared, machine)| id_token::answer(shared, request, machine))
        .at("/machine/set-dns", |request, (shared, machine)| set_dns::answer(shared, request, machine))
        .at("/machine/whoami", |request, (shared, machine)| small_requests::whoami(shared, request, machine))
        .below("/machine/ssh/action/", |request, (shared, machine)| ssh_checks::action(shared, request, machine))
        .below("/machine/c2n/", |request, (shared, machine)| ask_node::c2n_answer(shared, request, machine))
        .at("/machine/set-device-attr", |request, (shared, machine)| {
            device_attributes::answer(shared, request, machine)
        })
        .at("/machine/feature/query", |request, (shared, machine)| feature_query::answer(shared, request, machine))
}
