//! How a node reaches its control server (control-protocol.md §2, §3.1, §3.3).
//!
//! ```text
//! 0 ms     plain HTTP upgrade on the HTTP port
//! 500 ms   TLS upgrade on the HTTPS port, if there is one; at once if the first has failed
//!          the first to finish its Noise handshake wins, the other is dropped
//! then     if an upgrade was refused: both once more by WebSocket, which some proxies let through where they stop others
//! ```
//!
//! Plain HTTP is safe to prefer: whoever answers must prove the server's Noise key. The key itself is fetched over
//! verified TLS, or was told by a person (a join line with the key pinned).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use url::{Host, Url};
use warren_crypto::channel::Initiator;
use warren_crypto::{MachinePublic, MachineSecret, Random};

use crate::dialled_tcp;
use crate::http_upgrade::{self, Rewound, UpgradeError, Wish};
use crate::noise_stream::{NoiseStream, OpenError};
use crate::tls::{self, Trust};
use crate::web_socket;

/// Value of `Upgrade`, both ways.
pub const PROTOCOL: &str = "tailscale-control-protocol";

/// Header of the upgrade request that carries the Noise initiation in base64.
pub const HANDSHAKE_HEADER: &str = "X-Tailscale-Handshake";

/// Path of the upgrade.
pub const PATH: &str = "/ts2021";

/// Head start of plain HTTP.
const TLS_DELAY: Duration = Duration::from_millis(500);

/// For the whole dial: names, TCP, TLS, upgrade and Noise.
const DEADLINE: Duration = Duration::from_secs(10);

/// Head start of one address of a name over the next (RFC 8305 §5).
const ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// More addresses than a sane name has.
const MOST_ADDRESSES: usize = 8;

/// Largest answer to `GET /key`.
const LARGEST_KEY_ANSWER: usize = 64 << 10;

/// Any duplex byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A channel to a control server, over TCP or TLS.
pub type ControlStream = NoiseStream<Rewound<Box<dyn Duplex>>>;

/// How to dial.
#[derive(Clone, Debug, Default)]
pub struct DialOptions {
    /// Do not try plain HTTP first: it worked badly a moment ago (a middlebox).
    pub tls_only: bool,
    /// Trust for TLS; `None`: the system's roots.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The address of ours to connect from; `None`: the system's choice. Only destinations of its family are reached then.
    pub source: Option<IpAddr>,
}

/// Why the control server was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not a URL of a control server.
    #[error("{0:?} is not the address of a control server (http://… or https://…)")]
    Url(String),
    /// TCP or TLS.
    #[error("connect to {place}")]
    Connect {
        /// Host and port.
        place: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is reached but does not speak the protocol; a proxy in between is the usual reason.
    #[error("{place} does not answer as a control server")]
    Upgrade {
        /// Host and port.
        place: String,
        /// What it said.
        #[source]
        source: UpgradeError,
    },
    /// It speaks the protocol but is not the one whose key we know, or refuses.
    #[error("{place} is not the control server that it should be")]
    Handshake {
        /// Host and port.
        place: String,
        /// What went wrong.
        #[source]
        source: OpenError,
    },
    /// Nothing within the deadline.
    #[error("{0} did not answer within 10 s")]
    TimedOut(String),
}

/// Why the server's key could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchKeyError {
    /// Not a URL of a control server.
    #[error("{0:?} is not the address of a control server (http://… or https://…)")]
    Url(String),
    /// TCP or TLS.
    #[error("connect to {place}")]
    Connect {
        /// Host and port.
        place: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The exchange broke.
    #[error("ask {place} for its key")]
    Http {
        /// Host and port.
        place: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered, but not with a key.
    #[error("{place} does not answer as a control server (HTTP status {status})")]
    NotAControlServer {
        /// Host and port.
        place: String,
        /// HTTP status.
        status: u16,
    },
    /// Nothing within the deadline.
    #[error("{0} did not answer within 10 s")]
    TimedOut(String),
}

/// Opens a channel to the server at `url`, which must prove `server`. `version` is our capability version.
/// Dropping the future closes whatever is open.
///
/// # Errors
/// [`DialError`]; where both ways failed, the plain one's unless it could not connect at all.
pub async fn dial_control(
    url: &Url,
    server: MachinePublic,
    machine: &MachineSecret,
    version: u16,
    random: &mut Random,
    options: &DialOptions,
) -> Result<ControlStream, DialError> {
    let plan = Plan::of(url).ok_or_else(|| DialError::Url(url.to_string()))?;
    let attempt = |port: u16, tls: bool, way: Way, mut random: Random| {
        let plan = &plan;
        async move {
            let place = plan.place(port);
            let io = connect(&plan.host, port, tls.then_some(options), options.source)
                .await
                .map_err(|source| DialError::Connect { place: place.clone(), source })?;
            let (initiator, initiation) = Initiator::new(machine, &server, version, &mut random)
                .map_err(|error| DialError::Handshake { place: place.clone(), source: error.into() })?;
            let handshake = base64::engine::general_purpose::STANDARD.encode(initiation);
            let usual = if tls { 443 } else { 80 };
            let host = if port == usual { plan.host.to_string() } else { place.clone() };
            let upgraded = way.upgrade(io, &host, &handshake).await;
            let io = upgraded.map_err(|source| DialError::Upgrade { place: place.clone(), source })?;
            NoiseStream::connect(io, initiator, version).await.map_err(|source| DialError::Handshake { place, source })
        }
    };
    let both = |way: Way, plain: Random, secure: Random| async move {
        match plan.https {
            None => attempt(plan.http, false, way, plain).await,
            Some(https) if options.tls_only => attempt(https, true, way, secure).await,
            Some(https) => race(attempt(plan.http, false, way, plain), attempt(https, true, way, secure)).await,
        }
    };
    let (plain, secure, plain_again, secure_again) = (random.fork(), random.fork(), random.fork(), random.fork());
    let dial = async {
        match both(Way::Upgrade, plain, secure).await {
            Err(refused @ DialError::Upgrade { .. }) => {
                // What was wrong with the usual way is what there is to mend.
                both(Way::WebSocket, plain_again, secure_again).await.map_err(|_| refused)
            }
            done => done,
        }
    };
    tokio::time::timeout(DEADLINE, dial).await.unwrap_or_else(|_| Err(DialError::TimedOut(plan.host.to_string())))
}

/// How HTTP becomes a byte stream.
#[derive(Clone, Copy, Debug)]
enum Way {
    Upgrade,
    WebSocket,
}

impl Way {
    async fn upgrade(
        self,
        io: Box<dyn Duplex>,
        host: &str,
        handshake: &str,
    ) -> Result<Rewound<Box<dyn Duplex>>, UpgradeError> {
        match self {
            Self::Upgrade => {
                let headers = [(HANDSHAKE_HEADER, handshake)];
                let wish = Wish { method: "POST", target: PATH, host, protocol: PROTOCOL, headers: &headers };
                http_upgrade::upgrade(io, &wish).await.map(|(io, _)| io)
            }
            Self::WebSocket => {
                let query = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair(HANDSHAKE_HEADER, handshake)
                    .finish();
                let stream = web_socket::connect(io, host, &format!("{PATH}?{query}"), PROTOCOL).await?;
                Ok(Rewound::new(Box::new(stream), Vec::new()))
            }
        }
    }
}

/// The first success of the two; `second` starts after [`TLS_DELAY`], or as soon as `first` has failed.
async fn race<T>(
    first: impl Future<Output = Result<T, DialError>>,
    second: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let first_error = tokio::select! {
        result = &mut first => match result {
            Ok(won) => return Ok(won),
            Err(error) => Some(error),
        },
        () = tokio::time::sleep(TLS_DELAY) => None,
    };
    if let Some(first_error) = first_error {
        return second.await.map_err(|error| more_telling(first_error, error));
    }
    tokio::select! {
        result = &mut first => match result {
            Ok(won) => Ok(won),
            Err(first_error) => second.await.map_err(|error| more_telling(first_error, error)),
        },
        result = &mut second => match result {
            Ok(won) => Ok(won),
            Err(error) => first.await.map_err(|first_error| more_telling(first_error, error)),
        },
    }
}

/// Something that was reached says more about what is wrong than something that was not.
fn more_telling(plain: DialError, secure: DialError) -> DialError {
    if matches!(plain, DialError::Connect { .. }) { secure } else { plain }
}

/// The key of the server at `url` (`GET /key`). Over `http://` anybody on the way can answer: only for servers on this
/// machine or network, or where the key is checked afterwards. Dropping the future closes the connection.
///
/// # Errors
/// [`FetchKeyError`].
pub async fn fetch_server_key(url: &Url, version: u16, options: &DialOptions) -> Result<MachinePublic, FetchKeyError> {
    let plan = Plan::of(url).ok_or_else(|| FetchKeyError::Url(url.to_string()))?;
    let tls = url.scheme() == "https";
    let port = url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 });
    let place = plan.place(port);
    let fetch = async {
        let io = connect(&plan.host, port, tls.then_some(options), options.source)
            .await
            .map_err(|source| FetchKeyError::Connect { place: place.clone(), source })?;
        let http =
            |source: Box<dyn std::error::Error + Send + Sync>| FetchKeyError::Http { place: place.clone(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| http(error.into()))?;
        let is_usual = port == if tls { 443 } else { 80 };
        let host = if is_usual { plan.host.to_string() } else { place.clone() };
        let request = http::Request::get(format!("/key?v={version}"))
            .header(http::header::HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(|error| http(error.into()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| http(error.into()))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST_KEY_ANSWER).collect().await.map_err(http)?;
            Ok((status, body.to_bytes()))
        };
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
        let (status, body) = tokio::select! {
            biased;
            answer = &mut exchange => answer?,
            _ = &mut connection => exchange.await?,
        };
        #[derive(serde::Deserialize)]
        struct Keys {
            #[serde(rename = "publicKey")]
            public_key: MachinePublic,
        }
        let wrong = || FetchKeyError::NotAControlServer { place: place.clone(), status };
        if status != 200 {
            return Err(wrong());
        }
        let key = serde_json::from_slice::<Keys>(&body).map_err(|_| wrong())?.public_key;
        if key.is_zero() { Err(wrong()) } else { Ok(key) }
    };
    tokio::time::timeout(DEADLINE, fetch).await.unwrap_or_else(|_| Err(FetchKeyError::TimedOut(place.clone())))
}

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    host: Host<String>,
    http: u16,
    https: Option<u16>,
}

impl Plan {
    /// The table of control-protocol.md §3.3. `None` if there is no host or another scheme.
    fn of(url: &Url) -> Option<Plan> {
        let host = url.host()?.to_owned();
        let (http, https) = match (url.scheme(), url.port()) {
            ("https", port) => (80, Some(port.unwrap_or(443))),
            ("http", port) => (port.unwrap_or(80), (!is_private(&host)).then_some(443)),
            _ => return None,
        };
        Some(Plan { host, http, https })
    }

    fn place(&self, port: u16) -> String {
        format!("{}:{port}", self.host)
    }
}

/// Whether a host is this machine or on a network of its own, where nobody serves HTTPS for it.
fn is_private(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        Host::Ipv6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

pub(crate) async fn connect(
    host: &Host<String>,
    port: u16,
    by_tls: Option<&DialOptions>,
    source: Option<IpAddr>,
) -> io::Result<Box<dyn Duplex>> {
    let tcp = connect_tcp(host, port, source).await?;
    dialled_tcp::prepare(&tcp);
    let Some(options) = by_tls else { return Ok(Box::new(tcp)) };
    let config = match &options.tls {
        Some(config) => Arc::clone(config),
        None => tls::client_config(Trust::System).map_err(io::Error::other)?,
    };
    let name = tls::server_name(&host.to_string()).ok_or_else(|| io::Error::other("no name for TLS"))?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    Ok(Box::new(stream))
}

/// Tries the addresses of a name one after the other, each a little later than the one before, families in turn.
async fn connect_tcp(host: &Host<String>, port: u16, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match host {
        Host::Ipv4(v4) => vec![(*v4, port).into()],
        Host::Ipv6(v6) => vec![(*v6, port).into()],
        Host::Domain(name) => in_turn(tokio::net::lookup_host((name.as_str(), port)).await?.collect()),
    };
    let mut waiting = addresses.into_iter().take(MOST_ADDRESSES);
    let mut trying = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.next() {
            Some(address) => trying.push(connect_from(source, address)),
            None if trying.is_empty() => return Err(last_error),
            None => {}
        }
        let pause = async {
            if waiting.len() == 0 { std::future::pending().await } else { tokio::time::sleep(ADDRESS_DELAY).await }
        };
        tokio::select! {
            Some(result) = trying.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = error,
            },
            () = pause => {}
        }
    }
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address).await };
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// The resolver's order, with families taking turns (RFC 8305 §4).
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let longest = first.len().max(second.len());
    let pairs = (0..longest).flat_map(|at| [first.get(at), second.get(at)]);
    pairs.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, http: u16, https: Option<u16>) {
        let plan = Plan::of(&Url::parse(url).expect("a URL")).expect("a plan");
        assert_eq!((plan.http, plan.https), (http, https), "{url}");
    }

    #[test]
    fn ports_follow_the_fields_table() {
        check("https://vpn.example.net", 80, Some(443));
        check("https://vpn.example.net:8443", 80, Some(8443));
        check("http://vpn.example.net", 80, Some(443));
        check("http://vpn.example.net:8080", 8080, Some(443));
        for host in ["localhost", "127.0.0.1", "10.1.2.3", "[::1]", "[fd00::1]"] {
            check(&format!("http://{host}"), 80, None);
            check(&format!("http://{host}:8080"), 8080, None);
        }
        assert_eq!(Plan::of(&Url::parse("ftp://x").expect("a URL")), None);
    }

    #[test]
    fn families_take_turns_and_the_resolvers_first_stays_first() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<_>>();
        let given = all(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(in_turn(given), all(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }

    fn failed(place: &str) -> DialError {
        DialError::Connect { place: place.into(), source: io::ErrorKind::ConnectionRefused.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn tls_starts_late_or_as_soon_as_plain_has_failed() {
        let start = tokio::time::Instant::now();
        let slow = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok("plain")
        };
        assert_eq!(race(slow, async { Ok("tls") }).await.expect("tls"), "tls");
        assert_eq!(start.elapsed(), TLS_DELAY);
        let start = tokio::time::Instant::now();
        assert_eq!(race(async { Err(failed("plain")) }, async { Ok("tls") }).await.expect("tls"), "tls");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn of_two_failures_the_more_telling_is_told() {
        let refused = DialError::Upgrade {
            place: "plain".into(),
            source: UpgradeError::Refused { status: 502, text: String::new() },
        };
        let told = race::<()>(async { Err(refused) }, async { Err(failed("tls")) }).await.expect_err("both failed");
        assert!(matches!(told, DialError::Upgrade { .. }));
    }
}
