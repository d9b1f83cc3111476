//! A connection to the control server: the server's key, Noise, and HTTP/2 on top.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use warren_crypto::Random;
use warren_io::{DialOptions, dial_control, fetch_server_key};
use warren_node::ControlTarget;
use warren_wire::CapabilityVersion;

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
    let stream =
        dial_control(&target.url, server, &target.machine, protocol_version(version), random, &options).await?;
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

/// The capability version as the handshake carries it.
fn protocol_version(version: u32) -> u16 {
    u16::try_from(version).unwrap_or(u16::MAX)
}
