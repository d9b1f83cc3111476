//! Who may use the relay. Every way to ask fails closed: what cannot be decided is refused.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::{Host, Url};
use warren_crypto::NodePublic;
use warren_io::answer::read_body;
use warren_io::tls::{self, Trust};

/// Answers whether a proven key may use the relay from that address. The relay waits 5 s for it and then refuses.
pub type Admission = Arc<dyn Fn(NodePublic, IpAddr) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 4 << 10;
const ASK_PATIENCE: Duration = Duration::from_secs(4);
/// A yes holds this long: clients that reconnect after a relay's restart do not flood the control server. Shorter than anybody
/// notices, longer than a storm.
const YES_HOLDS: Duration = Duration::from_secs(30);
/// Remembered keys; when there are more, all are asked again.
const MAX_REMEMBERED: usize = 10_000;

/// Makes an admission of a function in this process.
pub fn by<F, A>(decide: F) -> Admission
where
    F: Fn(NodePublic, IpAddr) -> A + Send + Sync + 'static,
    A: Future<Output = bool> + Send + 'static,
{
    Arc::new(move |key, source| Box::pin(decide(key, source)))
}

/// Asks a control server: `POST` of the key and its address as JSON, answered with `{"Allow":true}`.
pub struct Verifier {
    url: Url,
    trust: Trust,
    remembered: Mutex<BTreeMap<NodePublic, Instant>>,
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
    pub fn new(url: &str, trust: Trust) -> Result<Self, NotAnAddress> {
        let parsed = Url::parse(url).map_err(|_| NotAnAddress(url.to_owned()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
            return Err(NotAnAddress(url.to_owned()));
        }
        Ok(Self { url: parsed, trust, remembered: Mutex::default() })
    }

    pub fn admission(self) -> Admission {
        let verifier = Arc::new(self);
        by(move |key, source| {
            let verifier = Arc::clone(&verifier);
            async move { verifier.allows(key, source).await }
        })
    }

    async fn allows(&self, key: NodePublic, source: IpAddr) -> bool {
        if self.remembers(&key) {
            return true;
        }
        let asked = tokio::time::timeout(ASK_PATIENCE, self.ask(key, source)).await;
        match asked.unwrap_or(Err(AskError::TooSlow)) {
            Ok(is_allowed) => {
                if is_allowed {
                    self.remember(key);
                }
                is_allowed
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, %cause, "the control server cannot be asked who may use this relay; refused");
                false
            }
        }
    }

    fn remembers(&self, key: &NodePublic) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(key).is_some_and(|since| since.elapsed() < YES_HOLDS)
    }

    fn remember(&self, key: NodePublic) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, since| since.elapsed() < YES_HOLDS);
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, Instant::now());
    }

    async fn ask(&self, node: NodePublic, source: IpAddr) -> Result<bool, AskError> {
        let host = match self.url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(AskError::Answer),
        };
        let port = self.url.port_or_known_default().unwrap_or(443);
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(AskError::Connect)?;
        if self.url.scheme() == "http" {
            return self.exchange(tcp, node, source).await;
        }
        let name = tls::server_name(&host).ok_or(AskError::Answer)?;
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(self.trust)?);
        self.exchange(connector.connect(name, tcp).await.map_err(AskError::Connect)?, node, source).await
    }

    async fn exchange<T>(&self, stream: T, node: NodePublic, source: IpAddr) -> Result<bool, AskError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let question = serde_json::to_vec(&Question { node, source }).map_err(|_| AskError::Answer)?;
        let request = Request::post(&self.url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(HOST, &self.url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                return Err(AskError::Status(response.status()));
            }
            let body = read_body(response.into_body(), MAX_ANSWER_BYTES, ASK_PATIENCE).await;
            let body = body.map_err(|_| AskError::Answer)?;
            let answer: Answer = serde_json::from_slice(&body).map_err(|_| AskError::Answer)?;
            Ok(answer.allow)
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            result = &mut exchange => result,
            ended = &mut connection => match ended {
                // The connection may end before the answer is worked through; what it brought is still there.
                Ok(()) => exchange.await,
                Err(error) => Err(error.into()),
            },
        }
    }
}
