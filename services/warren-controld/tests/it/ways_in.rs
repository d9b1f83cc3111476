//! How a control channel begins: by upgrade, by WebSocket, past a proxy that knows only one of them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;
use warren_controld::Overrides;
use warren_crypto::channel::Initiator;
use warren_crypto::{MachineSecret, Random};
use warren_io::http_upgrade::{self, UpgradeError, Wish};
use warren_io::listener::Caps;
use warren_io::{DialOptions, dial_control};

use crate::client::{Machine, peers};
use crate::world::{World, start, start_with};

#[tokio::test]
async fn a_channel_by_upgrade_begins_with_a_challenge() {
    let world = start().await;
    let mut random = Random::from_seed([1; 32]);
    let machine = MachineSecret::generate(&mut random);
    let options = DialOptions::default();
    let mut challenges = Vec::new();
    for _ in 0..2 {
        let dialled = dial_control(&world.url(), world.key, &machine, 113, &mut random, &options).await;
        let mut stream = dialled.expect("a channel");
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.expect("the server begins HTTP/2");
        assert_eq!(header[3], 4, "a SETTINGS frame");
        challenges.push(stream.early_payload().expect("an early payload").clone());
    }
    assert_ne!(challenges[0], challenges[1], "each channel has its own");
}

/// A proxy before the server that lets no upgrade through but WebSocket.
async fn proxy(server: SocketAddr, lines: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    lines.spawn(async move {
        let mut lines = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            lines.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                if text.contains("\r\nupgrade:") && !text.contains("\r\nupgrade: websocket\r\n") {
                    let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                    return;
                }
                let mut server = TcpStream::connect(server).await.expect("the server");
                server.write_all(&head).await.expect("sent");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn past_a_proxy_that_knows_only_web_sockets_a_node_joins_and_follows_its_map() {
    let world = start().await;
    let mut lines = JoinSet::new();
    let proxy = proxy(world.address, &mut lines).await;
    let key = world.join_key(true).await;
    let url = Url::parse(&format!("http://{proxy}")).expect("an address");
    let behind = Machine::at(&url, &world, 1, "behind").await;
    behind.join(&key).await;
    let mut maps = behind.stream().await;
    let other = Machine::new(&world, 2, "other").await;
    other.join(&key).await;
    let map = maps.until("the other node", |map| !map.peers.is_empty()).await;
    assert_eq!(peers(map), ["other"]);
}

/// Asks for a WebSocket at `target` with these headers; the first four bytes that come by it.
async fn ask(world: &World, target: &str, headers: &[(&str, &str)]) -> Result<[u8; 4], UpgradeError> {
    let stream = TcpStream::connect(world.address).await.expect("listening");
    let nonce = [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")];
    let all = [&nonce, headers].concat();
    let wish = Wish { method: "GET", target, host: "control", protocol: "websocket", headers: &all };
    let (mut stream, _) = http_upgrade::upgrade(stream, &wish).await?;
    let mut first = [0; 4];
    stream.read_exact(&mut first).await?;
    Ok(first)
}

#[tokio::test]
async fn a_web_socket_is_for_allowed_origins_and_needs_subprotocol_and_handshake() {
    let said = Overrides { websocket_origins: Some(vec!["https://pages.example".into()]), ..Overrides::default() };
    let world = start_with(said, Caps::default()).await;
    let mut random = Random::from_seed([1; 32]);
    let machine = MachineSecret::generate(&mut random);
    let (_, initiation) = Initiator::new(&machine, &world.key, 113, &mut random).expect("an initiation");
    let mut url = world.url().join("/ts2021").expect("a path");
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(initiation);
    url.query_pairs_mut().append_pair("X-Tailscale-Handshake", &text);
    let good = &url[url::Position::BeforePath..];
    let noise = ("Sec-WebSocket-Protocol", "tailscale-control-protocol");

    let own = world.url().origin().ascii_serialization();
    for headers in [&[noise][..], &[noise, ("Origin", "https://pages.example")], &[noise, ("Origin", &own)]] {
        let first = ask(&world, good, headers).await.expect("allowed");
        assert_eq!(first, [0x82, 51, 2, 0], "a binary message with the Noise response");
    }
    for origin in ["https://evil.example", "null", "http://pages.example"] {
        let refused = ask(&world, good, &[noise, ("Origin", origin)]).await.expect_err(origin);
        assert!(matches!(refused, UpgradeError::Refused { status: 403, .. }), "{origin}: {refused}");
    }
    let violation = 1008_u16.to_be_bytes();
    for (target, headers) in [(good, &[][..]), ("/ts2021", &[noise]), ("/ts2021?X-Tailscale-Handshake=%2f", &[noise])] {
        let first = ask(&world, target, headers).await.expect("upgraded");
        assert_eq!((first[0], [first[2], first[3]]), (0x88, violation), "{target}: a close with its reason");
    }
}
