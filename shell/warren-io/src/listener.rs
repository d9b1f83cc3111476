//! The one public port: TLS and plain HTTP/1.1 side by side, with caps and deadlines.
//!
//! ```text
//! accept ── first byte ──┬── 0x16 ──▶ TLS handshake ──┐
//!                        └── other ───────────────────┴──▶ HTTP/1.1 request ──▶ routes ──▶ answer, or an upgrade
//! ```
//!
//! A TLS record of type handshake begins with 0x16, which no HTTP method does. So plain control and a relay that is
//! always TLS live on one port, without rights to more.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::answer::{self, Body};
use crate::certificates::ACME_PROTOCOL;
use crate::debug_counters::{ListenerCounters, count};
use crate::door::Door;
pub use crate::door::{Caps, Ticket};
use crate::mute::Mutable;
pub use crate::mute::Mute;
use crate::routes::Routes;

/// Until the first byte has come and, with TLS, the handshake is done. Clients that open a connection before they need
/// it (the official Rust client does) need it within a second.
const OPENING: Duration = Duration::from_secs(20);

/// For the head of one request, from the end of the one before: an idle connection is closed after it too.
const HEAD: Duration = Duration::from_secs(30);

/// Largest head of a request, and so the memory that one unfinished head can hold.
const LARGEST_HEAD: usize = 16 << 10;

/// Young connections that are shut out at once when the process is out of file descriptors.
const ROOM: usize = 64;

/// A peer that vanished without a word is noticed when this has passed without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Who made a request on a public port.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that the connection came from. Headers that claim another are not believed.
    pub address: SocketAddr,
    /// Whether it came by TLS.
    pub is_tls: bool,
    /// Keep it as long as an upgraded stream lives, so that it goes on counting.
    pub ticket: Arc<Ticket>,
    /// What came to nothing at this listener.
    pub counters: Arc<ListenerCounters>,
    /// Leaves the head of an answer unsaid, for protocols that begin without one.
    pub mute: Mute,
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has it.
    #[error("{address} is taken: another program listens there; stop it or choose another port")]
    InUse {
        /// As asked for.
        address: SocketAddr,
    },
    /// Low ports need rights.
    #[error("{address}: listening on a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE")]
    NotAllowed {
        /// As asked for.
        address: SocketAddr,
    },
    /// No interface has the address.
    #[error("{address}: this machine has no such address")]
    NotHere {
        /// As asked for.
        address: SocketAddr,
    },
    /// The operating system's own words.
    #[error("listen on {address}")]
    Os {
        /// As asked for.
        address: SocketAddr,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// Listens on `address`; port 0 is any. `[::]` also takes IPv4. Needs a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?; // cut down by net.core.somaxconn
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::NotAllowed { address },
        io::ErrorKind::AddrNotAvailable => BindError::NotHere { address },
        _ => BindError::Os { address, source },
    })
}

/// Answers connections by `routes` until `shutdown` turns true, then drops those that are still in HTTP. Upgraded
/// streams belong to whoever took them over.
///
/// Without `tls`, a connection that begins TLS is closed. Dropping the future drops everything, as shutdown does.
pub async fn serve(
    listener: TcpListener,
    routes: Arc<Routes<Peer>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    caps: Caps,
    mut shutdown: watch::Receiver<bool>,
) {
    allow_many_files();
    let door = Door::new(caps);
    let counters = Arc::new(ListenerCounters::default());
    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let (ticket, evicted) = door.enter(address.ip());
                let caller = Caller { address, ticket, counters: Arc::clone(&counters) };
                let attended = attend(stream, caller, Arc::clone(&routes), acceptor.clone());
                connections.spawn(until_evicted(attended, evicted, Arc::clone(&counters)));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely: the oldest idlers pay, and others will come free.
                tracing::warn!(%error, "a connection could not be accepted");
                door.make_room(ROOM);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    connections.shutdown().await;
}

async fn until_evicted(
    attended: impl Future<Output = ()>,
    evicted: oneshot::Receiver<()>,
    counters: Arc<ListenerCounters>,
) {
    let evicted = async {
        if evicted.await.is_err() {
            std::future::pending::<()>().await; // grown up: nobody sends it away any more
        }
    };
    tokio::select! {
        () = attended => {}
        () = evicted => count(&counters.too_many),
    }
}

/// Whose connection it is, before anything was asked.
struct Caller {
    address: SocketAddr,
    ticket: Arc<Ticket>,
    counters: Arc<ListenerCounters>,
}

async fn attend(
    stream: TcpStream,
    caller: Caller,
    routes: Arc<Routes<Peer>>,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
) {
    prepare(&stream);
    let opened = tokio::time::timeout(OPENING, async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        match (first[0], acceptor) {
            (0x16, Some(acceptor)) => {
                let stream = acceptor.accept(stream).await?;
                // An authority has seen what it came for.
                let is_challenge = stream.get_ref().1.alpn_protocol() == Some(ACME_PROTOCOL);
                if is_challenge {
                    Err(io::ErrorKind::ConnectionAborted.into())
                } else {
                    Ok(Opened::Tls(Box::new(stream)))
                }
            }
            (0x16, None) => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(Opened::Plain(stream)),
        }
    });
    // Whatever goes wrong here is the other side's doing, and everybody may do it: not a line in the log.
    match opened.await {
        Ok(Ok(Opened::Plain(stream))) => speak(stream, caller, false, routes).await,
        Ok(Ok(Opened::Tls(stream))) => speak(*stream, caller, true, routes).await,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => count(&caller.counters.silent),
            io::ErrorKind::ConnectionAborted => {} // an authority's look
            _ => count(&caller.counters.not_tls),
        },
        Err(_) => count(&caller.counters.silent),
    }
}

enum Opened {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

async fn speak<T>(stream: T, caller: Caller, is_tls: bool, routes: Arc<Routes<Peer>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mute = Mute::default();
    let stream = Mutable::new(stream, mute.clone());
    let Caller { address, ticket, counters } = caller;
    let peer = Peer { address, is_tls, ticket, counters: Arc::clone(&counters), mute };
    let service = service_fn(move |request| {
        let (peer, routes) = (peer.clone(), Arc::clone(&routes));
        async move { Ok::<_, Infallible>(answer(request, peer, &routes).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    // An error is the client's: it left, or sent something that is not HTTP.
    match http.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        Err(error) if error.is_parse() => count(&counters.not_http),
        Err(error) if error.is_timeout() => count(&counters.slow),
        Ok(()) | Err(_) => {}
    }
}

async fn answer(request: Request<Incoming>, peer: Peer, routes: &Routes<Peer>) -> Response<Body> {
    let counters = Arc::clone(&peer.counters);
    let mut response = if peer.ticket.grow() {
        routes.answer(request, peer).await
    } else {
        count(&counters.too_many);
        let mut full = answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many connections; try again later");
        full.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        full
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            (
                "content-security-policy",
                "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
            ),
        ] {
            response.headers_mut().entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
        }
    }
    response
}

/// Takes all file descriptors that the system lets this process have: the usual 1024 are a limit for programs that use
/// `select`, which this one does not. What is refused shows when descriptors run out.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Options that make no difference to correctness, so a refusal is not an error.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// Errors of `accept` that speak of the connection which was about to be accepted, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Certificate, Trust, client_config};
    use crate::{DialOptions, FetchKeyError, fetch_server_key};
    use url::Url;

    #[tokio::test]
    async fn tls_and_plain_http_are_answered_on_one_port() {
        let key = warren_crypto::MachinePublic::from_bytes([7; 32]);
        let routes = Routes::new().at("/key", move |_, peer: Peer| async move {
            assert!(peer.address.ip().is_loopback());
            answer::json(&serde_json::json!({ "publicKey": key, "tls": peer.is_tls }))
        });
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = Certificate::kept_in(folder.path(), &["localhost".to_owned()]).expect("a certificate");
        let fingerprint = certificate.fingerprint();
        let tls = certificate.into_server_config().expect("they belong together");
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (stop, shutdown) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, Arc::new(routes), Some(tls), Caps::default(), shutdown));

        let fetch = async |scheme: &str, trust| {
            let url = Url::parse(&format!("{scheme}://127.0.0.1:{port}")).expect("a URL");
            let options = DialOptions { tls: Some(client_config(trust).expect("usable")), ..DialOptions::default() };
            fetch_server_key(&url, 113, &options).await
        };
        assert_eq!(fetch("http", Trust::Anything).await.expect("plain"), key);
        assert_eq!(fetch("https", Trust::Pinned(fingerprint)).await.expect("TLS"), key);
        let other = fetch("https", Trust::Pinned([1; 32])).await;
        assert!(matches!(other, Err(FetchKeyError::Connect { .. })), "{other:?}");
        stop.send_replace(true);
        serving.await.expect("it ends when told");
    }
}
