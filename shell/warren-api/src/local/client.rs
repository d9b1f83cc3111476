//! A client of LocalAPI over its Unix socket; works with our daemon and with a stock one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{BASE_PATH, HOST, LoginProfile, MaskedPrefs, NetcheckReport, Notify, PingKind, PingResult, Prefs};
use super::{StartOptions, Status, WhoIs};

/// Largest answer that a client reads whole; a map of ten thousand peers is well below.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Longest line of the bus.
const MAX_LINE_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no node daemon answers at {path} ({reason}); start one with: warren node run")]
    NotRunning { path: PathBuf, reason: String },
    #[error("the daemon refused: {text}")]
    Denied { text: String },
    #[error("{text}")]
    Daemon { status: u16, text: String },
    #[error("the daemon at {path} stopped answering: {reason}")]
    Broken { path: PathBuf, reason: String },
    #[error("the daemon's answer to {what} makes no sense: {reason}")]
    Nonsense { what: String, reason: String },
}

/// Talks to one daemon; a connection per request, so it can be cloned and shared.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Client { socket: socket.into() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn status(&self, with_peers: bool) -> Result<Status, ClientError> {
        self.get(if with_peers { "status" } else { "status?peers=false" }).await
    }

    pub async fn prefs(&self) -> Result<Prefs, ClientError> {
        self.get("prefs").await
    }

    pub async fn edit_prefs(&self, edit: &MaskedPrefs) -> Result<Prefs, ClientError> {
        self.json(Method::PATCH, "prefs", edit).await
    }

    /// Asks whether the daemon would accept these prefs.
    ///
    /// # Errors
    /// [`ClientError::Daemon`] with the daemon's reason if it would not.
    pub async fn check_prefs(&self, prefs: &Prefs) -> Result<(), ClientError> {
        #[derive(serde::Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Answer {
            error: String,
        }
        let answer: Answer = self.json(Method::POST, "check-prefs", prefs).await?;
        if answer.error.is_empty() { Ok(()) } else { Err(ClientError::Daemon { status: 400, text: answer.error }) }
    }

    pub async fn start(&self, options: &StartOptions) -> Result<(), ClientError> {
        self.send(Method::POST, "start", Some(encode("start", options)?)).await.map(drop)
    }

    pub async fn login_interactive(&self) -> Result<(), ClientError> {
        self.send(Method::POST, "login-interactive", None).await.map(drop)
    }

    pub async fn logout(&self) -> Result<(), ClientError> {
        self.send(Method::POST, "logout", None).await.map(drop)
    }

    pub async fn profiles(&self) -> Result<Vec<LoginProfile>, ClientError> {
        self.get("profiles/").await
    }

    pub async fn current_profile(&self) -> Result<LoginProfile, ClientError> {
        self.get("profiles/current").await
    }

    pub async fn new_profile(&self) -> Result<(), ClientError> {
        self.send(Method::PUT, "profiles/", None).await.map(drop)
    }

    pub async fn switch_profile(&self, id: &str) -> Result<(), ClientError> {
        self.send(Method::POST, &format!("profiles/{}", encode_query(id)), None).await.map(drop)
    }

    pub async fn delete_profile(&self, id: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, &format!("profiles/{}", encode_query(id)), None).await.map(drop)
    }

    /// One probe; the daemon answers within its own time-out.
    pub async fn ping(&self, ip: std::net::IpAddr, kind: PingKind, size: usize) -> Result<PingResult, ClientError> {
        let path = format!("ping?ip={}&type={}&size={size}", encode_query(&ip.to_string()), kind.as_str());
        self.parse("ping", self.send(Method::POST, &path, None).await?)
    }

    /// `None` when no node has that address.
    pub async fn whois(&self, addr: &str) -> Result<Option<WhoIs>, ClientError> {
        match self.get(&format!("whois?addr={}", encode_query(addr))).await {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::Daemon { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn derp_map(&self) -> Result<Option<warren_wire::RelayMap>, ClientError> {
        self.get("derpmap").await
    }

    /// Ours: a fresh report of the network from the daemon's own sockets.
    pub async fn netcheck(&self) -> Result<NetcheckReport, ClientError> {
        self.parse("warren/netcheck", self.send(Method::POST, "warren/netcheck", None).await?)
    }

    /// Ours: counters of the engine.
    pub async fn counters(&self) -> Result<serde_json::Value, ClientError> {
        self.get("warren/counters").await
    }

    /// Prometheus text, with the field's names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn user_metrics(&self) -> Result<String, ClientError> {
        let body = self.send(Method::GET, "usermetrics", None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Follows the bus; see [`super::watch`] for the bits of `mask`.
    pub async fn watch(&self, mask: u64) -> Result<Watcher, ClientError> {
        let path = format!("watch-ipn-bus?mask={mask}");
        let response = self.open(Method::GET, &path, None).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(Watcher { body: response.into_body(), buffer: BytesMut::new(), socket: self.socket.clone() })
    }

    /// A TCP stream to a node or name, through the daemon (what `nc` uses).
    ///
    /// Dropping the returned stream closes it.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TokioIo<hyper::upgrade::Upgraded>, ClientError> {
        let request = self
            .request(Method::POST, "dial")
            .header("Connection", "upgrade")
            .header("Upgrade", "ts-dial")
            .header("Dial-Host", host)
            .header("Dial-Port", port.to_string())
            .header("Dial-Network", "tcp")
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Nonsense { what: "dial".into(), reason: error.to_string() })?;
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.broken(&error))?;
        Ok(TokioIo::new(upgraded))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.parse(path, self.send(Method::GET, path, None).await?)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.parse(path, self.send(method, path, Some(encode(path, body)?)).await?)
    }

    fn parse<T: DeserializeOwned>(&self, what: &str, body: Bytes) -> Result<T, ClientError> {
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Nonsense { what: what.to_string(), reason: error.to_string() })
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ClientError> {
        let response = self.open(method, path, body).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.read(response.into_body()).await
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let request = self
            .request(method, path)
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ClientError::Nonsense { what: path.to_string(), reason: error.to_string() })?;
        self.exchange(request).await
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{BASE_PATH}{path}")).header("Host", HOST)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>, ClientError> {
        let not_running = |reason: String| ClientError::NotRunning { path: self.socket.clone(), reason };
        let dialing = tokio::time::timeout(Duration::from_secs(5), UnixStream::connect(&self.socket));
        let stream = match dialing.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_running(error.to_string())),
            Err(_) => return Err(not_running("it does not accept connections".into())),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Ends by itself when the exchange, the watch or the upgraded stream does.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
        let collected = limited
            .collect()
            .await
            .map_err(|error| ClientError::Broken { path: self.socket.clone(), reason: error.to_string() })?;
        Ok(collected.to_bytes())
    }

    async fn refusal(&self, response: http::Response<Incoming>) -> ClientError {
        let status = response.status();
        let text = match self.read(response.into_body()).await {
            Ok(body) => error_text(&body),
            Err(error) => return error,
        };
        let text = if text.is_empty() { format!("HTTP status {status}") } else { text };
        match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ClientError::Denied { text },
            _ => ClientError::Daemon { status: status.as_u16(), text },
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), reason: error.to_string() }
    }
}

/// A bus that is being followed. Dropping it ends the watch.
pub struct Watcher {
    body: Incoming,
    buffer: BytesMut,
    socket: PathBuf,
}

impl Watcher {
    /// The next message; `None` when the daemon ended the stream.
    pub async fn next(&mut self) -> Result<Option<Notify>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| ClientError::Nonsense {
                    what: "watch-ipn-bus".into(),
                    reason: error.to_string(),
                });
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(ClientError::Nonsense { what: "watch-ipn-bus".into(), reason: "line too long".into() });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::Broken { path: self.socket.clone(), reason: error.to_string() });
                }
            }
        }
    }
}

fn encode(what: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| ClientError::Nonsense { what: what.to_string(), reason: error.to_string() })
}

/// The text of an error body: plain, or the `error` or `Error` field of a JSON object.
fn error_text(body: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) {
        for key in ["error", "Error"] {
            if let Some(text) = value.get(key).and_then(|text| text.as_str()) {
                return text.to_string();
            }
        }
    }
    String::from_utf8_lossy(body).trim().to_string()
}

fn encode_query(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
