//! Relay connections: dialling a relay, and serving one accepted connection.
//!
//! A relay is always behind TLS. The connection begins as HTTP/1.1 `GET /derp` with `Upgrade: DERP`; after the 101 the two
//! sides exchange frames (`warren_relay`). Where something on the way refuses that, the same goes by WebSocket, which such
//! proxies often know.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::control_dial::Duplex;
use crate::dialled_tcp;
use crate::http_upgrade::{self, UpgradeError, Wish};
use crate::tls::{self, TlsError, Trust};
use crate::web_socket;

/// How long one relay of a region may take to accept the TCP connection.
const TCP_PATIENCE: Duration = Duration::from_millis(1500);
/// Head start of IPv6 over IPv4, where both are known (RFC 8305 calls it the connection attempt delay).
const HEAD_START: Duration = Duration::from_millis(200);
/// Most bytes that are read of the answer to a latency check.
const MAX_CHECK_BYTES: usize = 8 << 10;

/// Where a relay is and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTarget {
    /// Name for TLS and for `Host`; may be an address.
    pub host: String,
    /// Addresses to try, in any order. Empty: the name is looked up.
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
    /// How its certificate is trusted.
    pub trust: Trust,
}

/// The stream to a relay, ready for frames.
pub type RelayStream = Box<dyn Duplex>;

/// How the common name of a relay's meta certificate begins.
const META_PREFIX: &[u8] = b"derpkey";

/// Subprotocol of a WebSocket to a relay.
const SUBPROTOCOL: &str = "derp";

/// Why a relay is not reached.
#[derive(Debug, thiserror::Error)]
pub enum RelayDialError {
    /// The name cannot be looked up.
    #[error("find the address of relay {host}")]
    Resolve {
        /// The relay.
        host: String,
        #[source]
        source: std::io::Error,
    },
    /// No TCP connection.
    #[error("connect to relay {host} port {port}")]
    Connect {
        /// The relay.
        host: String,
        /// Its TCP port.
        port: u16,
        #[source]
        source: std::io::Error,
    },
    /// No TLS: an unknown certificate, most likely.
    #[error("speak TLS with relay {host}")]
    Handshake {
        /// The relay.
        host: String,
        #[source]
        source: std::io::Error,
    },
    /// No configuration for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It is no relay, or it refuses.
    #[error("become a client of relay {host}")]
    Upgrade {
        /// The relay.
        host: String,
        #[source]
        source: UpgradeError,
    },
    /// The relay's name is neither an address nor a DNS name.
    #[error("\"{0}\" cannot be a relay's name")]
    Name(String),
    /// Not a good answer to a latency check.
    #[error("relay {host} answered a latency check with: {answer}")]
    Check {
        /// The relay.
        host: String,
        /// First line of what it said.
        answer: String,
    },
}

/// Connects to a relay, up to the point where it sends its key. Dropping the future closes the connection; the caller sets
/// the deadline.
///
/// # Errors
/// [`RelayDialError`].
pub async fn dial(target: &RelayTarget) -> Result<RelayStream, RelayDialError> {
    let tls = tls_stream(target).await?;
    let host = host_header(target);
    if announces_itself(&tls) {
        // It is a relay, nothing is between us, and it needs no question: its first frame comes a round trip earlier.
        return fast(tls, &host)
            .await
            .map_err(|source| RelayDialError::Upgrade { host: target.host.clone(), source: source.into() });
    }
    let wish = Wish { method: "GET", target: "/derp", host: &host, protocol: "DERP", headers: &[] };
    let refused = match http_upgrade::upgrade(tls, &wish).await {
        Ok((stream, _)) => return Ok(Box::new(stream)),
        Err(refused) => refused,
    };
    // What was wrong with the usual way is what there is to mend.
    let refused = RelayDialError::Upgrade { host: target.host.clone(), source: refused };
    dial_by_web_socket(target).await.map_err(|_| refused)
}

/// Whether the other end of TLS is a relay that starts fast: its chain ends with a certificate that names its relay key.
fn announces_itself(tls: &TlsStream<TcpStream>) -> bool {
    let (_, session) = tls.get_ref();
    let is_newest = session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let chain = session.peer_certificates().unwrap_or_default();
    let meta = chain.split_first().and_then(|(_, rest)| rest.last());
    // The subject's common name is plain text in the certificate. What it says is not needed: the relay says its key again.
    is_newest && meta.is_some_and(|meta| meta.windows(META_PREFIX.len()).any(|window| window == META_PREFIX))
}

async fn fast(mut tls: TlsStream<TcpStream>, host: &str) -> std::io::Result<RelayStream> {
    let request = format!(
        "GET /derp HTTP/1.1\r\nHost: {host}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
    );
    tls.write_all(request.as_bytes()).await?;
    tls.flush().await?;
    Ok(Box::new(tls))
}

/// The same by WebSocket at once.
///
/// # Errors
/// [`RelayDialError`].
pub async fn dial_by_web_socket(target: &RelayTarget) -> Result<RelayStream, RelayDialError> {
    let tls = tls_stream(target).await?;
    let connected = web_socket::connect(tls, &host_header(target), "/derp", SUBPROTOCOL).await;
    let stream = connected.map_err(|source| RelayDialError::Upgrade { host: target.host.clone(), source })?;
    Ok(Box::new(stream))
}

/// Time for one HTTP exchange with a relay over a connection that stands: what stands in for STUN where UDP is blocked.
///
/// # Errors
/// [`RelayDialError`].
pub async fn https_latency(target: &RelayTarget) -> Result<Duration, RelayDialError> {
    let mut tls = tls_stream(target).await?;
    let host = target.host.clone();
    let broken = |source| RelayDialError::Handshake { host: target.host.clone(), source };
    let request =
        format!("GET /derp/latency-check HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host_header(target));
    let begun = Instant::now();
    tls.write_all(request.as_bytes()).await.map_err(broken)?;
    tls.flush().await.map_err(broken)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    let head = loop {
        let count = tls.read(&mut piece).await.map_err(broken)?;
        answer.extend_from_slice(&piece[..count]);
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break http_upgrade::parse_head(&answer[..end + 4]);
        }
        if count == 0 || answer.len() > MAX_CHECK_BYTES {
            break None;
        }
    };
    let took = begun.elapsed();
    match head {
        Some(head) if (200..300).contains(&head.status) => Ok(took),
        Some(head) => Err(RelayDialError::Check { host, answer: format!("HTTP status {}", head.status) }),
        None => Err(RelayDialError::Check { host, answer: "no HTTP".to_owned() }),
    }
}

fn host_header(target: &RelayTarget) -> String {
    let host = match target.host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => target.host.clone(),
    };
    if target.port == 443 { host } else { format!("{host}:{}", target.port) }
}

async fn tls_stream(target: &RelayTarget) -> Result<TlsStream<TcpStream>, RelayDialError> {
    let name = tls::server_name(&target.host).ok_or_else(|| RelayDialError::Name(target.host.clone()))?;
    let tcp = tcp_stream(target).await?;
    dialled_tcp::prepare(&tcp);
    let connector = TlsConnector::from(tls::client_config(target.trust)?);
    connector.connect(name, tcp).await.map_err(|source| RelayDialError::Handshake { host: target.host.clone(), source })
}

async fn tcp_stream(target: &RelayTarget) -> Result<TcpStream, RelayDialError> {
    let failed = |source| RelayDialError::Connect { host: target.host.clone(), port: target.port, source };
    let addresses: Vec<SocketAddr> = if target.addresses.is_empty() {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        found.map_err(|source| RelayDialError::Resolve { host: target.host.clone(), source })?.collect()
    } else {
        target.addresses.iter().map(|ip| SocketAddr::new(*ip, target.port)).collect()
    };
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let first = !v6.is_empty();
    let slow = async {
        if first {
            tokio::time::sleep(HEAD_START).await;
        }
        connect_any(&v4).await
    };
    let quick = connect_any(&v6);
    tokio::pin!(slow, quick);
    // Whichever family connects first; the other one's error matters only if both fail.
    let winner = tokio::select! {
        stream = &mut quick, if first => match stream {
            Ok(stream) => Ok(stream),
            Err(_) if !v4.is_empty() => slow.await,
            Err(error) => Err(error),
        },
        stream = &mut slow, if !v4.is_empty() => match stream {
            Ok(stream) => Ok(stream),
            Err(_) if first => quick.await,
            Err(error) => Err(error),
        },
        else => Err(std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the relay has no address")),
    };
    winner.map_err(failed)
}

async fn connect_any(addresses: &[SocketAddr]) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "no address of this family");
    for address in addresses {
        match tokio::time::timeout(TCP_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{address} did not answer")),
        }
    }
    Err(last)
}
