//! Ways into the relay that are none, and what each is answered: rows of the table in `docs/operators/bad-input.md`, where the
//! control server's are too.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use warren_io::tls::{self, Trust};
use warren_relayd::service::Who;

use crate::party::House;

const DOCUMENT: &str = include_str!("../../../../docs/operators/bad-input.md");

type Header = (&'static str, &'static str);

const NONCE: Header = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
const VERSION: Header = ("Sec-WebSocket-Version", "13");
const DERP: Header = ("Sec-WebSocket-Protocol", "derp");
const SOCKET: Header = ("Upgrade", "websocket");

/// What is wrong, in the table's words, with which method and headers, and the answer.
type Row = (&'static str, &'static str, &'static [Header], u16, &'static str);

const ROWS: [Row; 9] = [
    ("no upgrade", "GET", &[], 426, "a relay speaks DERP after an upgrade"),
    ("wrong method", "DELETE", &[("Upgrade", "DERP")], 405, "GET or POST"),
    (
        "an upgrade to something else",
        "GET",
        &[("Upgrade", "tailscale-control-protocol")],
        426,
        "a relay speaks DERP after an upgrade",
    ),
    (
        "a WebSocket from a page of another origin",
        "GET",
        &[SOCKET, NONCE, VERSION, DERP, ("Origin", "https://evil.example")],
        403,
        "pages of this origin may not open a WebSocket here",
    ),
    (
        "a WebSocket from a page without an origin",
        "GET",
        &[SOCKET, NONCE, VERSION, DERP, ("Origin", "null")],
        403,
        "pages of this origin may not open a WebSocket here",
    ),
    (
        "a WebSocket of another version",
        "GET",
        &[SOCKET, NONCE, ("Sec-WebSocket-Version", "8"), DERP],
        426,
        "WebSocket version 13 is spoken here",
    ),
    ("a WebSocket without a key", "GET", &[SOCKET, VERSION, DERP], 400, "the WebSocket key is not 16 bytes in base64"),
    (
        "a WebSocket for something else",
        "GET",
        &[SOCKET, NONCE, VERSION, ("Sec-WebSocket-Protocol", "mqtt")],
        101,
        "closed: a relay speaks the subprotocol derp",
    ),
    ("a WebSocket for nothing", "GET", &[SOCKET, NONCE, VERSION], 101, "closed: a relay speaks the subprotocol derp"),
];

/// One request, and the status and text of its answer; of a WebSocket that is closed again the reason.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, method: &str, headers: &[Header]) -> (u16, String) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} /derp HTTP/1.1\r\nHost: relay\r\nConnection: upgrade, close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.expect("heard");
    let mut heard = Vec::new();
    let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await;
    let _ = whole.expect("the relay closes"); // it need not say farewell in TLS
    let end = heard.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head") + 4;
    let (head, body) = heard.split_at(end);
    let status = String::from_utf8_lossy(head).get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let said = match (status, body) {
        // RFC 6455 §5.5.1: a close, its length, its code, and the reason.
        (101, [0x88, _, _, _, reason @ ..]) => format!("closed: {}", String::from_utf8_lossy(reason)),
        _ => String::from_utf8_lossy(body).trim_end().to_owned(),
    };
    (status, said)
}

#[tokio::test]
async fn every_way_in_that_is_none_has_the_answer_that_the_table_says() {
    let house = House::open(Who::Everyone).await;
    let connector = tokio_rustls::TlsConnector::from(tls::client_config(Trust::Anything).expect("a configuration"));
    let mut wrong = Vec::new();
    let mut hold = |method: &str, what: &str, expect: (u16, &str), heard: (u16, String)| {
        let (status, answer) = expect;
        if heard != (status, answer.to_owned()) {
            wrong.push(format!("{method} {what}: {heard:?}"));
        }
        let line = format!("| relay | `{method} /derp` | {what} | {status} | {answer} |");
        if !DOCUMENT.contains(&line) {
            wrong.push(format!("not in the document: {line}"));
        }
    };
    for (what, method, headers, status, answer) in ROWS {
        let tcp = TcpStream::connect(house.address).await.expect("accepted");
        let stream = connector.connect(tls::server_name("127.0.0.1").expect("a name"), tcp).await.expect("TLS");
        hold(method, what, (status, answer), ask(stream, method, headers).await);
    }
    let plain = TcpStream::connect(house.address).await.expect("accepted");
    let expect = (426, "a relay is reached by TLS");
    hold("GET", "without TLS", expect, ask(plain, "GET", &[("Upgrade", "DERP")]).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(house.relay().counters().accepted, 0);
    house.close().await;
}
