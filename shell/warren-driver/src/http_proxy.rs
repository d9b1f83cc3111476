//! An HTTP proxy into the mesh (RFC 9110 §7, §9.3.6): `CONNECT` for tunnels, absolute targets for plain requests.
//!
//! ```text
//! CONNECT peer:443 HTTP/1.1          ──▶   dial   ──▶  200, then bytes both ways
//! GET http://peer:8000/x HTTP/1.1    ──▶   dial   ──▶  GET /x HTTP/1.1, "Connection: close", then bytes both ways
//! ```
//!
//! One request a connection: a second one could be for somebody else. Whoever reaches the door acts as this node, so it
//! opens on loopback only unless a person says otherwise.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use crate::socks5::{Dial, DialError, Target};

/// Clients at once; the rest wait in the kernel's backlog.
const MOST_CLIENTS: usize = 512;
/// A client that has not finished asking after so long is not going to.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request head that is read.
const MOST_HEAD_BYTES: usize = 32 << 10;

/// Serves `listener` until the future is dropped, which closes every connection; counts who was no client.
pub(crate) async fn serve(listener: TcpListener, dial: impl Dial, refused: Arc<AtomicU64>) {
    let room = Arc::new(Semaphore::new(MOST_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (dial, refused) = (dial.clone(), Arc::clone(&refused));
                clients.spawn(async move {
                    let _permit = permit;
                    let _ = stream.set_nodelay(true);
                    let served = serve_client(stream, dial).await;
                    let is_garbage = served.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
                    refused.fetch_add(u64::from(is_garbage), Ordering::Relaxed);
                });
            }
            // Out of descriptors: let some clients go first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while clients.try_join_next().is_some() {}
    }
}

async fn serve_client(mut client: impl AsyncRead + AsyncWrite + Unpin, dial: impl Dial) -> io::Result<()> {
    let asked = timeout(PATIENCE, read_head(&mut client)).await;
    let Some((head, rest)) = asked.ok().and_then(Result::ok).ok_or(io::ErrorKind::InvalidData)? else {
        refuse(&mut client, 431, "the request's head is too long").await?;
        return Err(io::ErrorKind::InvalidData.into());
    };
    let Some(request) = Request::parse(&head) else {
        refuse(&mut client, 400, "this is an HTTP proxy: ask it for http://NAME/ or CONNECT NAME:PORT").await?;
        return Err(io::ErrorKind::InvalidData.into());
    };
    match dial.dial(request.target).await {
        Err(error) => refuse(&mut client, status_of(error), &error.to_string()).await,
        Ok(mut stream) => {
            match request.head {
                Some(head) => stream.write_all(&head).await?,
                None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
            }
            stream.write_all(&rest).await?;
            copy_bidirectional(&mut client, &mut stream).await.map(|_| ())
        }
    }
}

/// The head with its empty line, and what came behind it. `None`: too long.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok(Some((bytes, rest)));
        }
        if bytes.len() >= MOST_HEAD_BYTES {
            return Ok(None);
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    target: Target,
    /// What the server behind the target is asked; `None` for a tunnel.
    head: Option<Vec<u8>>,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(head).ok()?;
        let (line, fields) = text.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, asked, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !version.starts_with("HTTP/1.") || method.is_empty() {
            return None;
        }
        if method == "CONNECT" {
            let (host, port) = asked.rsplit_once(':')?;
            return Some(Self { target: target(host, port.parse().ok()?)?, head: None });
        }
        let url = Url::parse(asked).ok().filter(|url| url.scheme() == "http")?;
        let target = target(url.host_str()?, url.port_or_known_default()?)?;
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
        for field in fields.split("\r\n").filter(|field| !field.is_empty()) {
            let (name, _) = field.split_once(':')?;
            if !OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                head.push_str(field);
                head.push_str("\r\n");
            }
        }
        head.push_str("\r\n");
        Some(Self { target, head: Some(head.into_bytes()) })
    }
}

/// Fields that speak to this proxy, or that it writes itself.
const OURS: [&str; 5] = ["Host", "Connection", "Proxy-Connection", "Proxy-Authorization", "Keep-Alive"];

fn target(host: &str, port: u16) -> Option<Target> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse() {
        Ok(ip) => Some(Target::Address(ip, port)),
        Err(_) => {
            let is_name = (1..=255).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
            is_name.then(|| Target::Name(host.to_owned(), port))
        }
    }
}

async fn refuse(client: &mut (impl AsyncWrite + Unpin), status: u16, why: &str) -> io::Result<()> {
    let reason = match status {
        400 => "Bad Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Bad Gateway",
    };
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{why}\n"
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

fn status_of(error: DialError) -> u16 {
    match error {
        DialError::Refused | DialError::NoSuchHost | DialError::Unreachable => 502,
        DialError::TimedOut => 504,
        DialError::Busy | DialError::Stopped => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(Target, Option<String>)> {
        let request = Request::parse(text.as_bytes())?;
        Some((request.target, request.head.map(|head| String::from_utf8(head).unwrap())))
    }

    #[test]
    fn a_tunnel_goes_to_a_name_or_an_address() {
        let name = Target::Name("peer".into(), 443);
        assert_eq!(parse("CONNECT peer:443 HTTP/1.1\r\nHost: peer\r\n\r\n"), Some((name, None)));
        let v6 = Target::Address("fd7a:115c:a1e0::2".parse().unwrap(), 22);
        assert_eq!(parse("CONNECT [fd7a:115c:a1e0::2]:22 HTTP/1.1\r\n\r\n"), Some((v6, None)));
    }

    #[test]
    fn a_plain_request_reaches_its_server_as_if_it_had_been_asked_alone() {
        let asked = "GET http://peer:8000/a%20b?c=d HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\
                     Proxy-Authorization: Basic eA==\r\nAccept: */*\r\n\r\n";
        let head = "GET /a%20b?c=d HTTP/1.1\r\nHost: peer:8000\r\nConnection: close\r\nAccept: */*\r\n\r\n";
        assert_eq!(parse(asked), Some((Target::Name("peer".into(), 8000), Some(head.into()))));
        assert_eq!(
            parse("GET http://peer/ HTTP/1.0\r\n\r\n").map(|asked| asked.0),
            Some(Target::Name("peer".into(), 80))
        );
    }

    #[test]
    fn what_is_not_for_a_proxy_is_refused() {
        for asked in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET https://peer/ HTTP/1.1\r\n\r\n",
            "GET ftp://peer/ HTTP/1.1\r\n\r\n",
            "CONNECT peer HTTP/1.1\r\n\r\n",
            "CONNECT peer:99999 HTTP/1.1\r\n\r\n",
            "CONNECT :1 HTTP/1.1\r\n\r\n",
            "GET http://peer/ x HTTP/1.1\r\n\r\n",
            "GET http://peer/ HTTP/1.1\r\nno field\r\n\r\n",
            "\x05\x01\0\r\n\r\n",
        ] {
            assert_eq!(parse(asked), None, "{asked}");
        }
    }
}
