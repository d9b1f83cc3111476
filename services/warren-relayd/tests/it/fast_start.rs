//! Clients that learned the relay's key from the handshake get frames at once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use warren_io::certificates::Validity;
use warren_io::tls::{self, Trust};
use warren_relay::client::Event;
use warren_relayd::service::Who;

use crate::party::{Guest, House, key};

async fn connect(house: &House) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(house.address).await.expect("accepted");
    let connector = tokio_rustls::TlsConnector::from(tls::client_config(Trust::Anything).expect("a configuration"));
    connector.connect(tls::server_name("127.0.0.1").expect("a name"), tcp).await.expect("TLS")
}

#[tokio::test]
async fn the_last_certificate_names_the_relays_key() {
    let house = House::open(Who::Everyone).await;
    let stream = connect(&house).await;
    let chain = stream.get_ref().1.peer_certificates().expect("certificates");
    assert_eq!(chain.len(), 2);
    let name = format!("derpkey{}", hex::encode(house.relay().public().as_bytes()));
    assert!(chain[1].windows(name.len()).any(|window| window == name.as_bytes()));
    let validity = Validity::of(&chain[1]).expect("a certificate");
    assert_eq!(validity.life().as_secs(), 60 * 86400);
    house.close().await;
}

#[tokio::test]
async fn a_fast_start_has_no_http_answer_and_an_ordinary_one_has() {
    let house = House::open(Who::Everyone).await;
    for (header, expect) in [("Derp-Fast-Start: 1\r\n", &b"\x01\0\0\0\x28DERP"[..]), ("", b"HTTP/1.1 ")] {
        let mut stream = connect(&house).await;
        let ask = format!("GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n{header}\r\n");
        stream.write_all(ask.as_bytes()).await.expect("sent");
        let mut first = [0; 9];
        stream.read_exact(&mut first).await.expect("answered");
        assert_eq!(first, expect);
    }
    // Our own nodes start fast, too.
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    a.send(2, b"hello");
    assert!(matches!(b.next_event().await, Some(Event::Packet { src, .. }) if src == key(1)));
    house.close().await;
}
