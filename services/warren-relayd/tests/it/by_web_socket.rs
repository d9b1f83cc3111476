//! The relay by WebSocket: for clients in browsers, and where something on the way refuses other upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use warren_crypto::{Random, RelaySecret};
use warren_io::answer;
use warren_io::http_upgrade::{self, UpgradeError, Wish};
use warren_io::listener::{self, Caps, Peer};
use warren_io::relay_stream::{self, RelayTarget};
use warren_io::routes::Routes;
use warren_io::tls::{self, Certificate, Trust};
use warren_io::web_socket::{self, Origins};
use warren_relay::client::Event;
use warren_relay::server::ServerConfig;
use warren_relayd::service::Who;
use warren_relayd::{Relay, admission};

use crate::party::{Guest, House, key};

#[tokio::test]
async fn one_client_by_web_socket_and_one_by_upgrade_talk_to_each_other() {
    let house = House::open(Who::Everyone).await;
    let mut a = Guest::over(relay_stream::dial_by_web_socket(&house.target()).await.expect("dialled"), 1);
    assert!(matches!(a.next_event().await, Some(Event::Connected { .. })));
    let mut b = Guest::join(&house, 2).await;
    a.send(2, &[7; 60_000]);
    assert_eq!(b.next_packet().await, (key(1), vec![7; 60_000]));
    b.send(1, b"hello");
    assert_eq!(a.next_packet().await, (key(2), b"hello".to_vec()));
    house.close().await;
}

/// Asks for a WebSocket with these headers: what a browser would, and what it would not.
async fn ask(house: &House, headers: &[(&str, &str)]) -> Result<(u16, Vec<u8>), UpgradeError> {
    let tcp = TcpStream::connect(house.address).await.expect("accepted");
    let connector = tokio_rustls::TlsConnector::from(tls::client_config(Trust::Anything).expect("a configuration"));
    let stream = connector.connect(tls::server_name("127.0.0.1").expect("a name"), tcp).await.expect("TLS");
    let nonce = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let all = [&[nonce, ("Sec-WebSocket-Version", "13")], headers].concat();
    let wish = Wish { method: "GET", target: "/derp", host: "relay", protocol: "websocket", headers: &all };
    let (mut stream, head) = http_upgrade::upgrade(stream, &wish).await?;
    // RFC 6455 \u{a7}1.3 has the answer to its sample nonce.
    assert_eq!(head.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let mut first = vec![0; 4];
    stream.read_exact(&mut first).await?;
    Ok((head.status, first))
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_unknown_subprotocols_closed_with_a_reason() {
    let house = House::open(Who::Everyone).await;
    let derp = ("Sec-WebSocket-Protocol", "something, derp");
    let (_, first) = ask(&house, &[derp, ("Origin", "https://pages.example")]).await.expect("its own page");
    assert_eq!(first[0], 0x82, "a binary message: the relay's key");
    assert_eq!(ask(&house, &[derp]).await.expect("no browser").1[0], 0x82);
    let refused = ask(&house, &[derp, ("Origin", "https://evil.example")]).await.expect_err("another page");
    assert!(matches!(refused, UpgradeError::Refused { status: 403, .. }), "{refused}");
    let (_, first) = ask(&house, &[]).await.expect("upgraded");
    assert_eq!((first[0], &first[2..]), (0x88, &1008_u16.to_be_bytes()[..]), "a close, policy violation");
    assert_eq!(house.relay().counters().accepted, 2);
    house.close().await;
}

#[tokio::test]
async fn a_proxy_that_lets_only_web_sockets_through_does_not_keep_a_node_out() {
    let relay = Relay::new(
        RelaySecret::from_seed([9; 32]),
        ServerConfig::default(),
        admission::by(|_, _| async { true }),
        Random::from_seed([9; 32]),
    );
    let refused = Arc::new(AtomicUsize::new(0));
    let (behind, count) = (Arc::new(relay.routes(Origins::default())), Arc::clone(&refused));
    let proxy = Routes::new().at("/derp", move |request, peer: Peer| {
        let (behind, count) = (Arc::clone(&behind), Arc::clone(&count));
        async move {
            if web_socket::is_wanted(request.headers()) {
                return behind.answer(request, peer).await;
            }
            count.fetch_add(1, Ordering::Relaxed);
            answer::text(StatusCode::BAD_REQUEST, "this proxy knows no such thing")
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::kept_in(folder.path(), &["127.0.0.1".to_owned()]).expect("a certificate");
    let trust = Trust::Pinned(certificate.fingerprint());
    let port = listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = port.local_addr().expect("bound");
    let (stop, stopped) = watch::channel(false);
    let tls = Some(certificate.into_server_config().expect("they belong together"));
    let serving = tokio::spawn(listener::serve(port, Arc::new(proxy), tls, Caps::default(), stopped));

    let target =
        RelayTarget { host: "127.0.0.1".to_owned(), addresses: vec![address.ip()], port: address.port(), trust };
    let mut guest = Guest::over(relay_stream::dial(&target).await.expect("by WebSocket"), 1);
    assert!(matches!(guest.next_event().await, Some(Event::Connected { .. })));
    assert_eq!(refused.load(Ordering::Relaxed), 1, "the usual way is tried first");
    stop.send_replace(true);
    serving.await.expect("an orderly end");
    relay.close().await;
}
