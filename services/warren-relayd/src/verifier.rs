//! Asks a control server who may use the relay: `POST` of the key and its address as JSON, answered with `{"Allow":true}`.
//!
//! Connections to it are kept for the next question, so that asking about ten thousand members again costs ten thousand
//! small exchanges and not as many handshakes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};
use warren_crypto::NodePublic;
use warren_io::answer::read_body;
use warren_io::tls::{self, Trust};

use crate::admission::{Admission, Verdict};

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 4 << 10;
const ASK_PATIENCE: Duration = Duration::from_secs(4);
/// A yes at the door holds this long, for clients that reconnect in a hurry. Shorter than anybody notices: a node that was
/// just deleted must not come back in on an old yes.
const YES_HOLDS: Duration = Duration::from_secs(2);
/// Remembered keys; when there are more, all are asked again.
const MAX_REMEMBERED: usize = 10_000;
/// Connections that are kept.
const MAX_IDLE: usize = 16;
/// Shorter than servers wait for the next request on a connection.
const IDLE_FOR: Duration = Duration::from_secs(15);

/// See the module.
pub struct Verifier {
    url: Url,
    trust: Trust,
    remembered: Mutex<BTreeMap<NodePublic, Instant>>,
    idle: Mutex<Vec<Line>>,
}

/// One connection to the control server. It ends when this is dropped.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
    used: Instant,
}

/// Why a verifying address is of no use.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not an http or https address that can be asked")]
pub struct NotAnAddress(String);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer in time")]
    TooSlow,
    #[error("connect")]
    Connect(#[source] std::io::Error),
    #[error("TLS")]
    Tls(#[from] tls::TlsError),
    #[error("HTTP")]
    Http(#[from] hyper::Error),
    #[error("HTTP request")]
    Request(#[from] http::Error),
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("the answer is not the JSON expected")]
    Answer,
}

#[derive(Serialize)]
struct Question {
    #[serde(rename = "NodePublic")]
    node: NodePublic,
    #[serde(rename = "Source")]
    source: IpAddr,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Allow", default)]
    allow: bool,
}

impl Verifier {
    /// # Errors
    /// [`NotAnAddress`]
    pub fn new(url: &str, trust: Trust) -> Result<Arc<Self>, NotAnAddress> {
        let parsed = Url::parse(url).map_err(|_| NotAnAddress(url.to_owned()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
            return Err(NotAnAddress(url.to_owned()));
        }
        Ok(Arc::new(Self { url: parsed, trust, remembered: Mutex::default(), idle: Mutex::default() }))
    }

    /// For the door: a yes of a moment ago is believed.
    pub fn at_the_door(self: &Arc<Self>) -> Admission {
        let verifier = Arc::clone(self);
        Arc::new(move |key, source| {
            let verifier = Arc::clone(&verifier);
            Box::pin(async move {
                if verifier.remembers(&key) {
                    return Verdict::Admitted;
                }
                verifier.verdict(key, source).await
            })
        })
    }

    /// For those inside: the control server is asked each time.
    pub fn afresh(self: &Arc<Self>) -> Admission {
        let verifier = Arc::clone(self);
        Arc::new(move |key, source| {
            let verifier = Arc::clone(&verifier);
            Box::pin(async move { verifier.verdict(key, source).await })
        })
    }

    async fn verdict(&self, key: NodePublic, source: IpAddr) -> Verdict {
        let asked = tokio::time::timeout(ASK_PATIENCE, self.ask(key, source)).await;
        match asked.unwrap_or(Err(AskError::TooSlow)) {
            Ok(true) => {
                self.remember(key);
                Verdict::Admitted
            }
            Ok(false) => {
                self.remembered().remove(&key);
                Verdict::Refused
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, %cause, "the control server cannot be asked who may use this relay");
                Verdict::Unknown
            }
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodePublic, Instant>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembers(&self, key: &NodePublic) -> bool {
        self.remembered().get(key).is_some_and(|since| since.elapsed() < YES_HOLDS)
    }

    fn remember(&self, key: NodePublic) {
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, since| since.elapsed() < YES_HOLDS);
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, Instant::now());
    }

    async fn ask(&self, node: NodePublic, source: IpAddr) -> Result<bool, AskError> {
        // The server may have closed a kept connection in this moment: that is no reason to have no answer.
        if let Some(line) = self.kept_line()
            && let Ok(answer) = self.exchange(line, node, source).await
        {
            return Ok(answer);
        }
        let line = self.dial().await?;
        self.exchange(line, node, source).await
    }

    fn kept_line(&self) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|line| !line.sender.is_closed() && line.used.elapsed() < IDLE_FOR);
        idle.pop()
    }

    async fn dial(&self) -> Result<Line, AskError> {
        let host = match self.url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(AskError::Answer),
        };
        let port = self.url.port_or_known_default().unwrap_or(443);
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(AskError::Connect)?;
        let _ = tcp.set_nodelay(true); // only costs time if refused
        if self.url.scheme() == "http" {
            return open(tcp).await;
        }
        let name = tls::server_name(&host).ok_or(AskError::Answer)?;
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(self.trust)?);
        open(connector.connect(name, tcp).await.map_err(AskError::Connect)?).await
    }

    async fn exchange(&self, mut line: Line, node: NodePublic, source: IpAddr) -> Result<bool, AskError> {
        let question = serde_json::to_vec(&Question { node, source }).map_err(|_| AskError::Answer)?;
        let request = Request::post(&self.url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(HOST, &self.url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question)))?;
        let response = line.sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(AskError::Status(response.status()));
        }
        let body = read_body(response.into_body(), MAX_ANSWER_BYTES, ASK_PATIENCE).await;
        let body = body.map_err(|_| AskError::Answer)?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| AskError::Answer)?;
        line.used = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(line);
        }
        Ok(answer.allow)
    }
}

async fn open<T>(stream: T) -> Result<Line, AskError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // How it ends shows at the sender.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    Ok(Line { sender, _connection: connection, used: Instant::now() })
}
