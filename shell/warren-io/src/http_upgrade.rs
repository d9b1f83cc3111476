//! HTTP/1.1 connections that become something else: both ends.
//!
//! ```text
//! client                                            server
//! POST /ts2021 HTTP/1.1 · Upgrade: <protocol> ───▶
//!                                               ◀── HTTP/1.1 101 · Upgrade: <protocol> · blank line · first bytes…
//! ```
//!
//! The first bytes of the new protocol may arrive in the same segment as the blank line; both ends keep them. The
//! client is written by hand because a general HTTP client would read ahead into them, and because nothing but this
//! one exchange is ever said in HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::answer::{self, Body};

/// Most bytes of an answer's head. Load balancers add headers; none needs this many.
pub const LARGEST_HEAD: usize = 16 << 10;

/// Most header lines of an answer.
const MOST_HEADERS: usize = 100;

/// The protocol that a request asks to switch to, if it does.
pub fn wanted(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(UPGRADE)?.to_str().ok()?.trim();
    Some(value).filter(|value| !value.is_empty())
}

/// Agrees to switch: the 101 answer to give, and the stream that follows once it has been sent.
///
/// Awaiting the stream inside the handler would wait for ever, as the answer leaves only after the handler returns:
/// spawn it. Bytes that came right behind the request's head are the stream's first.
pub fn accept(
    mut request: Request<Incoming>,
    protocol: &'static str,
) -> (Response<Body>, impl Future<Output = Result<TokioIo<hyper::upgrade::Upgraded>, hyper::Error>> + Send + 'static) {
    let upgrading = hyper::upgrade::on(&mut request);
    let mut response = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    (response, async move { upgrading.await.map(TokioIo::new) })
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path, and query if any.
    pub target: &'a str,
    /// Value of `Host`.
    pub host: &'a str,
    /// Value of `Upgrade`; the answer must repeat it.
    pub protocol: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Why the other side did not switch.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection failed.
    #[error("the connection broke while switching protocols")]
    Io(#[from] io::Error),
    /// What we were to send cannot be sent: a mistake of the caller.
    #[error("a header of the request has a line break")]
    Wish,
    /// The answer is no HTTP.
    #[error("the server's answer is not HTTP")]
    Malformed,
    /// The head goes on and on.
    #[error("the head of the server's answer is longer than {LARGEST_HEAD} bytes")]
    TooLong,
    /// It answered with something else than 101.
    #[error("the server refused with HTTP status {status}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// HTTP status.
        status: u16,
        /// What came of the body, shortened; empty if nothing did.
        text: String,
    },
    /// It switched to something else.
    #[error("the server switched to another protocol ({0:?})")]
    OtherProtocol(String),
}

/// Head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case, values without blanks around them, in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that (lower-case) name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Asks `io` to switch and returns the stream after the answer's head. Dropping the future closes `io`; the caller
/// sets the deadline.
///
/// # Errors
/// [`UpgradeError`].
pub async fn upgrade<T>(mut io: T, wish: &Wish<'_>) -> Result<(Rewound<T>, Head), UpgradeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(encode(wish)?.as_bytes()).await?;
    io.flush().await?;
    let mut bytes = Vec::with_capacity(1024);
    let (head, end) = loop {
        if let Some(end) = end_of_head(&bytes) {
            break (parse_head(&bytes[..end]).ok_or(UpgradeError::Malformed)?, end);
        }
        if bytes.len() >= LARGEST_HEAD {
            return Err(UpgradeError::TooLong);
        }
        let mut piece = [0; 2048];
        let room = piece.len().min(LARGEST_HEAD - bytes.len());
        let count = io.read(&mut piece[..room]).await?;
        if count == 0 {
            let early = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before it answered");
            return Err(if bytes.is_empty() { early.into() } else { UpgradeError::Malformed });
        }
        bytes.extend_from_slice(&piece[..count]);
    };
    let rest = bytes.split_off(end);
    if head.status != 101 {
        return Err(UpgradeError::Refused { status: head.status, text: hint(&rest) });
    }
    let protocol = head.get("upgrade").unwrap_or_default();
    if !protocol.eq_ignore_ascii_case(wish.protocol) {
        return Err(UpgradeError::OtherProtocol(protocol.to_owned()));
    }
    Ok((Rewound::new(io, rest), head))
}

fn encode(wish: &Wish<'_>) -> Result<String, UpgradeError> {
    let Wish { method, target, host, protocol, headers } = wish;
    let mut text = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: {protocol}\r\nConnection: upgrade\r\nContent-Length: 0\r\n"
    );
    let mut parts = vec![*method, *target, *host, *protocol];
    for (name, value) in *headers {
        text.push_str(&format!("{name}: {value}\r\n"));
        parts.extend([*name, *value]);
    }
    if parts.iter().any(|part| part.bytes().any(|byte| byte < b' ' || byte == 0x7f)) {
        return Err(UpgradeError::Wish);
    }
    text.push_str("\r\n");
    Ok(text)
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads the head of an HTTP/1 answer, blank line included. `None` if it is not one. Never panics.
pub fn parse_head(bytes: &[u8]) -> Option<Head> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.splitn(3, ' ');
    if !matches!(first.next()?, "HTTP/1.1" | "HTTP/1.0") {
        return None;
    }
    let digits = first.next()?;
    let status = digits.parse().ok().filter(|status| digits.len() == 3 && (100..1000).contains(status))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        if !is_name || headers.len() == MOST_HEADERS || value.bytes().any(|b| b < b' ' && b != b'\t') {
            return None;
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Head { status, headers })
}

/// The beginning of an error's body, fit to be shown.
fn hint(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// A stream that first gives back bytes which were read too early.
#[derive(Debug)]
pub struct Rewound<T> {
    early: Vec<u8>,
    given: usize,
    io: T,
}

impl<T> Rewound<T> {
    /// `early` comes first, then what `io` has.
    pub fn new(io: T, early: Vec<u8>) -> Self {
        Self { early, given: 0, io }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.early[this.given..];
        if left.is_empty() {
            this.early = Vec::new();
            this.given = 0;
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish<'_> =
        Wish { method: "POST", target: "/ts2021", host: "h", protocol: "noise", headers: &[("X-A", "b")] };

    /// Lets a client meet a server that says exactly `answer`.
    async fn meet(answer: &[u8]) -> Result<Vec<u8>, UpgradeError> {
        let (client, mut server) = tokio::io::duplex(64 << 10);
        let answer = answer.to_vec();
        let server = async move {
            let mut asked = Vec::new();
            while end_of_head(&asked).is_none() {
                let mut byte = [0];
                server.read_exact(&mut byte).await.expect("a whole head");
                asked.push(byte[0]);
            }
            server.write_all(&answer).await.expect("room");
            asked
        };
        let client = async {
            let (mut stream, _) = upgrade(client, &WISH).await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            Ok(rest)
        };
        let (result, asked) = tokio::join!(client, server);
        assert!(asked.starts_with(b"POST /ts2021 HTTP/1.1\r\nHost: h\r\n"));
        assert!(String::from_utf8_lossy(&asked).contains("\r\nX-A: b\r\n"));
        result
    }

    #[tokio::test]
    async fn bytes_right_behind_the_head_are_kept() {
        let rest = meet(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: Noise\r\n\r\nhello").await;
        assert_eq!(rest.expect("switched"), b"hello");
    }

    #[tokio::test]
    async fn whatever_is_no_switch_is_an_error_that_says_what_it_was() {
        assert!(matches!(
            meet(b"HTTP/1.1 502 Bad Gateway\r\nx: y\r\n\r\nno upstream\n").await,
            Err(UpgradeError::Refused { status: 502, text }) if text == "no upstream"
        ));
        assert!(matches!(meet(b"HTTP/1.1 101 x\r\nupgrade: h2c\r\n\r\n").await, Err(UpgradeError::OtherProtocol(_))));
        assert!(matches!(meet(b"\x15\x03\x01\0\x02\x02\x28").await, Err(UpgradeError::Malformed)));
        assert!(matches!(meet(b"").await, Err(UpgradeError::Io(_))));
        assert!(matches!(meet(&[b'a'; LARGEST_HEAD]).await, Err(UpgradeError::TooLong)));
    }

    #[test]
    fn a_head_is_read_strictly_and_never_panics() {
        let head = parse_head(b"HTTP/1.1 200 OK\r\nA:  b \r\nC:\r\n\r\n").expect("well formed");
        assert_eq!((head.status, head.get("a"), head.get("c"), head.get("d")), (200, Some("b"), Some(""), None));
        for bad in ["HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 x\r\n\r\n", "HTTP/1.1 200 x\r\nnocolon\r\n\r\n", "HTTP/1.1"] {
            assert_eq!(parse_head(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_line_break_in_a_header_is_not_sent() {
        assert!(matches!(encode(&Wish { host: "a\r\nb: c", ..WISH }), Err(UpgradeError::Wish)));
    }
}
