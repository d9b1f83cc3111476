//! A connection to the control server: the server's key, Noise, and HTTP/2 on top.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use warren_crypto::{MachinePublic, Random};
use warren_io::noise_stream::OpenError;
use warren_io::{DialError, DialOptions, FetchKeyError, dial_control, fetch_server_key};
use warren_node::ControlTarget;
use warren_wire::CapabilityVersion;

use crate::control_link::with_causes;

/// How often the connection itself is checked while requests wait on it.
const PING_EVERY: Duration = Duration::from_secs(25);

/// An unanswered check ends the connection, and every request on it fails.
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// What the server may send ahead of our reading: a map of ten thousand peers comes in a few round trips.
const WINDOW_BYTES: u32 = 4 << 20;

/// A live HTTP/2 connection; clones share it, and it closes with the last.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    task: Arc<Task>,
}

/// The task that moves the connection's bytes.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Key(#[from] warren_io::FetchKeyError),
    #[error(transparent)]
    Dial(#[from] warren_io::DialError),
    #[error("begin HTTP/2 with the control server")]
    Http(#[source] hyper::Error),
    /// It is another server than the one whose key was pinned.
    #[error(
        "{url} is not the control server that it should be: it has another key than {pinned}, so the address or the pinned key is wrong"
    )]
    OtherKey { url: url::Url, pinned: MachinePublic },
}

impl ConnectError {
    /// Whether only a person can mend this.
    pub(crate) fn is_lasting(&self) -> bool {
        // TLS says "invalid data" of certificates that it does not accept.
        let is_certificate = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
        match self {
            ConnectError::OtherKey { .. }
            | ConnectError::Key(FetchKeyError::Url(_))
            | ConnectError::Dial(DialError::Url(_) | DialError::Handshake { source: OpenError::Handshake(_), .. }) => {
                true
            }
            ConnectError::Key(FetchKeyError::Connect { source, .. })
            | ConnectError::Dial(DialError::Connect { source, .. }) => is_certificate(source),
            ConnectError::Key(_) | ConnectError::Dial(_) | ConnectError::Http(_) => false,
        }
    }

    /// One line: what was tried, and why it did not work.
    pub(crate) fn for_a_person(&self, url: &url::Url) -> String {
        let url = url.as_str().trim_end_matches('/');
        match self {
            ConnectError::Key(FetchKeyError::Connect { source, .. })
            | ConnectError::Dial(DialError::Connect { source, .. }) => {
                format!("cannot reach {url}: {}", in_words(source))
            }
            ConnectError::OtherKey { .. } => with_causes(self),
            other => format!("cannot reach {url}: {}", with_causes(other)),
        }
    }
}

/// The system's reason without its number.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

impl Connection {
    /// Ends it for all who share it; their requests fail.
    pub(crate) fn cut(&self) {
        self.task.0.abort();
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }
}

/// Opens a connection; a server that was not pinned is asked for its key first. Dropping the future gives it up.
pub(crate) async fn connect(target: &ControlTarget, random: &mut Random) -> Result<Connection, ConnectError> {
    let version = CapabilityVersion::OUR_NODE.0;
    let options = DialOptions::default();
    let server = match target.server_key {
        Some(pinned) => pinned,
        None => fetch_server_key(&target.url, protocol_version(version), &options).await?,
    };
    let dialled = dial_control(&target.url, server, &target.machine, protocol_version(version), random, &options).await;
    let stream = match dialled {
        Ok(stream) => stream,
        Err(error) => return Err(explained(error, target, protocol_version(version), &options).await),
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    let task = tokio::spawn(async move {
        // Its end shows in every request that is under way.
        let _ = connection.await;
    });
    Ok(Connection { sender, task: Arc::new(Task(task.abort_handle())) })
}

/// A server does not answer who takes it for another: then its own key, if it tells one, is the explanation. Nothing but
/// words follow from that key.
async fn explained(error: DialError, target: &ControlTarget, version: u16, options: &DialOptions) -> ConnectError {
    if let (DialError::Handshake { .. }, Some(pinned)) = (&error, target.server_key)
        && let Ok(told) = fetch_server_key(&target.url, version, options).await
        && told != pinned
    {
        return ConnectError::OtherKey { url: target.url.clone(), pinned };
    }
    error.into()
}

/// The capability version as the handshake carries it.
fn protocol_version(version: u32) -> u16 {
    u16::try_from(version).unwrap_or(u16::MAX)
}
