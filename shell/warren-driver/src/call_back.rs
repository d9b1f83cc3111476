//! What a control server asks a node to call back for: a sign of life, a question to this daemon (c2n), a ping of a peer.
//! control-protocol.md §4.5.
//!
//! ```text
//! map message ── PingRequest ──▶ no type:  HEAD its URL
//!                                c2n:      answer the HTTP request inside, POST the answer, always inside Noise
//!                                others:   ping the address, POST what came of it
//! ```

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;
use url::Url;
use warren_node::{Command, Notice, PingKind, PingResult, Reply};
use warren_wire::{PingRequest, PingResponse};

use crate::control_dial::Connection;
use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::outside;

/// Whatever was asked, it is answered within this or not at all.
const PATIENCE: Duration = Duration::from_secs(15);
/// News that are kept while a ping is under way.
const NEWS_ROOM: usize = 256;
/// Kinds of pings in one request; there are four.
const MOST_KINDS: usize = 4;

/// Answers one request. `connection` leads to the server that asked.
pub(crate) async fn answer(request: PingRequest, inbox: Inbox<Input>, connection: Option<Connection>) {
    let Ok(url) = Url::parse(&request.url) else { return };
    let inside = |wanted: bool| connection.clone().filter(|_| wanted);
    let answered = async {
        match request.types.as_str() {
            "" if request.url_is_noise => by_noise(inside(true), Method::HEAD, &url, Vec::new()).await,
            "" => outside::call("HEAD", &url, &[]).await,
            "c2n" => by_noise(inside(true), Method::POST, &url, answer_question(&request.payload)).await,
            kinds => {
                for kind in kinds.split(',').take(MOST_KINDS) {
                    let body = serde_json::to_vec(&ping(kind, request.ip, &inbox).await).unwrap_or_default();
                    if request.url_is_noise {
                        by_noise(inside(true), Method::POST, &url, body).await;
                    } else {
                        outside::call("POST", &url, &body).await;
                    }
                }
                Some(())
            }
        }
    };
    if timeout(PATIENCE, answered).await.ok().flatten().is_none() {
        debug!(types = %request.types, "a request of the control server could not be answered");
    }
}

/// Sends to the path of `url` on the control connection; whatever host it names, this is the server that asked.
async fn by_noise(connection: Option<Connection>, method: Method, url: &Url, body: Vec<u8>) -> Option<()> {
    let authority = url.host_str().unwrap_or("unused");
    let place = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::builder().method(method).uri(format!("https://{authority}{place}"));
    let request = request.body(Full::new(Bytes::from(body))).ok()?;
    connection?.send(request).await.ok().map(drop)
}

/// The answer to a whole HTTP/1 request, as a whole HTTP/1 response. Only `/echo` is built.
fn answer_question(request: &[u8]) -> Vec<u8> {
    let split = request.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = match split {
        Some(at) => (&request[..at], &request[at + 4..]),
        None => (&[][..], &[][..]),
    };
    let mut words = head.split(|byte| *byte == b'\r').next().unwrap_or_default().split(|byte| *byte == b' ');
    let (_, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, body) = match path {
        b"/echo" => ("200 OK", body),
        _ => ("400 Bad Request", &b"unknown c2n path\n"[..]),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Pings as a person would.
async fn ping(kind: &str, ip: Option<IpAddr>, inbox: &Inbox<Input>) -> PingResponse {
    let failed = |err: &str| PingResponse { kind: kind.to_owned(), err: err.to_owned(), ..PingResponse::default() };
    let asked = match kind {
        "disco" => PingKind::Disco,
        "TSMP" => PingKind::Tsmp,
        "ICMP" => PingKind::Icmp,
        _ => return failed("this kind of ping is not built"),
    };
    let Some(ip) = ip else { return failed("no address to ping") };
    match timeout(PATIENCE, ping_peer(asked, ip, inbox)).await.ok().flatten() {
        Some(result) => response(kind, &result),
        None => failed("no answer in time"),
    }
}

async fn ping_peer(kind: PingKind, ip: IpAddr, inbox: &Inbox<Input>) -> Option<PingResult> {
    let (news, mut heard) = mpsc::channel(NEWS_ROOM);
    inbox.send(Input::Watch(news)).await.ok()?;
    let (reply, answer) = oneshot::channel();
    let ask = Input::Ask(Box::new(move |node, now, wall| {
        let _ = reply.send(node.handle_command(Command::Ping { ip, kind, size: 0 }, now, wall));
    }));
    inbox.send(ask).await.ok()?;
    let wanted = match answer.await.ok()?.ok()? {
        Reply::Pinged(result) => return Some(result),
        Reply::Ping(number) => number,
        _ => return None,
    };
    loop {
        match heard.recv().await? {
            Notice::Ping { number, result } if number == wanted => return Some(result),
            _ => {}
        }
    }
}

fn response(kind: &str, result: &PingResult) -> PingResponse {
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    PingResponse {
        kind: kind.to_owned(),
        ip: text(result.ip),
        node_ip: text(result.node_ip),
        node_name: result.node_name.clone(),
        err: result.error.clone(),
        latency_seconds: result.latency.as_secs_f64(),
        endpoint: result.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        derp_region_id: result.region,
        derp_region_code: result.region_code.clone(),
        is_local_ip: result.is_local_ip,
        ..PingResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str) -> String {
        String::from_utf8(answer_question(request.as_bytes())).unwrap()
    }

    #[test]
    fn an_echo_says_the_body_back_and_nothing_else_is_answered() {
        let answer = asked("POST /echo?x=1 HTTP/1.1\r\nHost: unused\r\nContent-Length: 5\r\n\r\nhello");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n") && answer.ends_with("\r\n\r\nhello"));
        for request in ["GET /debug/prefs HTTP/1.1\r\n\r\n", "GET", "", "\r\n\r\n"] {
            let answer = asked(request);
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("unknown c2n path\n"), "{request}");
        }
    }

    #[test]
    fn what_came_of_a_ping_is_told_in_the_fields_of_the_protocol() {
        let result = PingResult {
            ip: "100.64.0.2".parse().ok(),
            endpoint: "192.0.2.1:41641".parse().ok(),
            latency: Duration::from_millis(20),
            ..PingResult::default()
        };
        let response = response("disco", &result);
        assert_eq!((response.kind.as_str(), response.ip.as_str()), ("disco", "100.64.0.2"));
        assert_eq!((response.endpoint.as_str(), response.latency_seconds), ("192.0.2.1:41641", 0.02));
    }
}
