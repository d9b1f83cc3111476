//! WebSocket as one more way to a byte stream: for clients inside browsers, and for proxies that let nothing else through.
//!
//! ```text
//! client                                                    server
//! GET /derp · Upgrade: websocket · subprotocol, Origin ───▶
//!                                                       ◀── 101, the subprotocol repeated
//! binary messages ────────────────────────────────────────▶ binary messages
//! ```
//!
//! Where one message ends and the next begins means nothing. What cannot be served after all is closed with code 1008 and
//! a reason, which a page can read; a page of an [origin](Origins) that is not allowed is refused before anything else.
//! RFC 6455; no extensions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use bytes::{Buf, Bytes};
use futures_util::{Sink, SinkExt as _, Stream};
use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use url::Url;

use crate::answer::{self, Body};
use crate::http_upgrade::{self, Rewound, UpgradeError, Wish};

/// Value of `Upgrade`.
pub const PROTOCOL: &str = "websocket";

/// Largest message that is taken in: the largest relay frame, twice.
const LARGEST_MESSAGE: usize = 128 << 10;

/// Largest message that is sent, and what may wait for a slow peer before writing waits too.
const LARGEST_SENT: usize = 16 << 10;
const MOST_WAITING: usize = 64 << 10;

/// Length of the nonce in a request (RFC 6455 §4.1).
const NONCE_BYTES: usize = 16;

/// Whether a request asks for a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    http_upgrade::wanted(headers).is_some_and(|wanted| wanted.eq_ignore_ascii_case(PROTOCOL))
}

/// From which pages a WebSocket may be opened. Requests without `Origin` come from no browser and are always allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    allowed: Vec<String>,
    is_any: bool,
}

/// An origin that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an origin such as https://console.example.net, nor \"*\"")]
pub struct NotAnOrigin(String);

impl Origins {
    /// Each a scheme, host and port (`https://console.example.net`), or `*` for every page there is. A URL's path counts for
    /// nothing, so a server's own address serves as its own origin.
    ///
    /// # Errors
    /// [`NotAnOrigin`].
    pub fn new<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self, NotAnOrigin> {
        let mut origins = Self::default();
        for text in list {
            if text == "*" {
                origins.is_any = true;
                continue;
            }
            let origin = Url::parse(text).ok().map(|url| url.origin()).filter(url::Origin::is_tuple);
            let origin = origin.ok_or_else(|| NotAnOrigin(text.to_owned()))?;
            origins.allowed.push(origin.ascii_serialization());
        }
        Ok(origins)
    }

    /// Whether a request with this `Origin` is served.
    pub fn allow(&self, origin: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin else { return true };
        self.is_any || origin.to_str().is_ok_and(|origin| self.allowed.iter().any(|allowed| allowed == origin))
    }
}

/// A handshake that was agreed to.
pub struct Accepted<F> {
    /// To be given as the answer.
    pub response: Response<Body>,
    /// The stream that follows once the answer has left. Spawn it: it waits for the handler to return.
    pub opening: F,
    /// Whether the client offered our subprotocol. If not, [`WebSocket::refuse`] it: browsers tell a page nothing about an HTTP
    /// error.
    pub is_agreed: bool,
}

/// Agrees to a handshake whose client offers the subprotocol `protocol`, from a page of one of `origins`.
///
/// # Errors
/// The answer to give instead.
#[allow(clippy::result_large_err, clippy::type_complexity)]
pub fn accept(
    mut request: Request<Incoming>,
    protocol: &'static str,
    origins: &Origins,
) -> Result<
    Accepted<impl Future<Output = Result<WebSocket<TokioIo<hyper::upgrade::Upgraded>>, hyper::Error>> + Send + 'static>,
    Response<Body>,
> {
    let headers = request.headers();
    if !origins.allow(headers.get(ORIGIN)) {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
        tracing::debug!(host, origin, "a WebSocket from a page of another origin was refused");
        return Err(answer::text(StatusCode::FORBIDDEN, "pages of this origin may not open a WebSocket here"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response = answer::text(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(response);
    }
    let nonce = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_nonce = base64::engine::general_purpose::STANDARD.decode(nonce).is_ok_and(|raw| raw.len() == NONCE_BYTES);
    let Ok(proof) = HeaderValue::from_str(&derive_accept_key(nonce)) else {
        return Err(answer::text(StatusCode::BAD_REQUEST, "the WebSocket key cannot be answered"));
    };
    if !is_nonce {
        return Err(answer::text(StatusCode::BAD_REQUEST, "the WebSocket key is not 16 bytes in base64"));
    }
    let is_agreed = offers(headers, protocol);
    let upgrading = hyper::upgrade::on(&mut request);
    let mut response = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    let head = response.headers_mut();
    head.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    head.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.insert(SEC_WEBSOCKET_ACCEPT, proof);
    if is_agreed {
        head.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let opening = async move { Ok(WebSocket::over(TokioIo::new(upgrading.await?), Role::Server).await) };
    Ok(Accepted { response, opening, is_agreed })
}

fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|offered| offered.trim() == protocol)
}

/// Asks `io` for a WebSocket at `target` (path and query) that speaks `protocol`. Dropping the future closes `io`; the caller
/// sets the deadline.
///
/// # Errors
/// [`UpgradeError`].
pub async fn connect<T>(io: T, host: &str, target: &str, protocol: &str) -> Result<WebSocket<Rewound<T>>, UpgradeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let nonce = generate_key();
    let headers =
        [("Sec-WebSocket-Key", nonce.as_str()), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Protocol", protocol)];
    let wish = Wish { method: "GET", target, host, protocol: PROTOCOL, headers: &headers };
    let (io, head) = http_upgrade::upgrade(io, &wish).await?;
    if head.get("sec-websocket-accept") != Some(derive_accept_key(nonce.as_bytes()).as_str()) {
        return Err(UpgradeError::OtherProtocol("a WebSocket of somebody else".to_owned()));
    }
    if head.get("sec-websocket-protocol") != Some(protocol) {
        return Err(UpgradeError::OtherProtocol(head.get("sec-websocket-protocol").unwrap_or_default().to_owned()));
    }
    Ok(WebSocket::over(io, Role::Client).await)
}

/// The bytes of a WebSocket's binary messages. A text message is an error; a close is an end.
pub struct WebSocket<T> {
    messages: WebSocketStream<T>,
    unread: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocket<T> {
    async fn over(io: T, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(MOST_WAITING)
            .max_message_size(Some(LARGEST_MESSAGE))
            .max_frame_size(Some(LARGEST_MESSAGE));
        Self { messages: WebSocketStream::from_raw_socket(io, role, Some(config)).await, unread: Bytes::new() }
    }

    /// Closes with code 1008 and a reason of at most 123 bytes, for the page on the other side.
    pub async fn refuse(mut self, reason: &'static str) {
        let farewell = CloseFrame { code: CloseCode::Policy, reason: reason.into() };
        // Whoever has left needs no reason.
        let _ = self.messages.send(Message::Close(Some(farewell))).await;
        let _ = self.messages.close(None).await;
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.messages).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(invalid("a text message where bytes belong"))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(ended(error)),
            }
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.messages).poll_ready(cx)).map_err(broken)?;
        let piece = &buf[..buf.len().min(LARGEST_SENT)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.messages).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.messages).poll_close(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(ended(error)),
        }
    }
}

fn ended(error: Error) -> io::Result<()> {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => Ok(()),
        error => Err(broken(error)),
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        error => invalid(error),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn pair() -> (WebSocket<tokio::io::DuplexStream>, WebSocket<tokio::io::DuplexStream>) {
        let (near, far) = tokio::io::duplex(8 << 10);
        (WebSocket::over(near, Role::Client).await, WebSocket::over(far, Role::Server).await)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_whatever_the_messages_are() {
        let (mut client, mut server) = pair().await;
        let sent: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        let talk = async {
            client.write_all(&sent).await.expect("sent");
            client.flush().await.expect("flushed");
            let mut answer = [0; 5];
            client.read_exact(&mut answer).await.expect("answered");
            client.shutdown().await.expect("closed");
            answer
        };
        let listen = async {
            let mut heard = vec![0; 100_000];
            server.read_exact(&mut heard).await.expect("heard");
            server.write_all(b"hello").await.expect("sent");
            server.flush().await.expect("flushed");
            assert_eq!(server.read(&mut [0; 10]).await.expect("an end"), 0);
            heard
        };
        let (answer, heard) = tokio::join!(talk, listen);
        assert_eq!((&answer, heard == sent), (b"hello", true));
    }

    #[tokio::test]
    async fn text_and_endless_messages_are_errors() {
        let (mut client, mut server) = pair().await;
        client.messages.send(Message::text("hello")).await.expect("sent");
        let error = server.read(&mut [0; 10]).await.expect_err("text");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut server = WebSocket::over(near, Role::Server).await;
        // A masked binary frame that announces a terabyte.
        far.write_all(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await.expect("sent");
        let error = server.read(&mut [0; 10]).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_and_nothing_else() {
        let value = |text: &'static str| HeaderValue::from_static(text);
        let origins = Origins::new(["https://vpn.example.net/path", "http://localhost:8080"]).expect("origins");
        for (origin, expect) in [
            ("https://vpn.example.net", true),
            ("http://vpn.example.net", false),
            ("https://vpn.example.net:8443", false),
            ("https://vpn.example.net.evil.example", false),
            ("http://localhost:8080", true),
            ("null", false),
        ] {
            assert_eq!(origins.allow(Some(&value(origin))), expect, "{origin}");
        }
        assert!(origins.allow(None), "no browser");
        assert!(Origins::new(["*"]).expect("any").allow(Some(&value("https://anywhere.example"))));
        for bad in ["vpn.example.net", "data:text", ""] {
            assert!(Origins::new([bad]).is_err(), "{bad:?}");
        }
    }
}
