//! A relay on loopback, behind TLS, with clients that dial it as nodes do.

mod by_web_socket;
mod fast_start;
mod malformed;
mod party;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use party::{Guest, House, key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use warren_crypto::NodePublic;
use warren_io::relay_stream;
use warren_io::tls::Trust;
use warren_relay::client::Event;
use warren_relay::stun::{self, TxId};
use warren_relayd::admission;
use warren_relayd::service::Who;

const DISCO: &[u8] = &{
    let mut packet = [0; 80];
    let mut at = 0;
    while at < 6 {
        packet[at] = warren_relay::DISCO_MAGIC[at];
        at += 1;
    }
    packet
};

#[tokio::test]
async fn two_clients_exchange_packets_through_tls_and_the_relay_counts_them() {
    let house = House::open(Who::Everyone).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    a.send(2, b"hello");
    assert_eq!(b.next_packet().await, (key(1), b"hello".to_vec()));
    b.send(1, DISCO);
    assert_eq!(a.next_packet().await, (key(2), DISCO.to_vec()));
    let counters = house.relay().counters();
    assert_eq!((counters.other.sent.bytes, counters.disco.sent.bytes), (5, 80));
    assert_eq!((counters.connections, counters.clients), (2, 2));
    house.close().await;
}

#[tokio::test]
async fn a_megabyte_passes_whole_when_the_sender_waits_for_answers() {
    let house = House::open(Who::Everyone).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    for round in 0..64_u8 {
        // Fewer packets in flight than the relay queues.
        for _ in 0..16 {
            a.send(2, &[round; 1200]);
        }
        for _ in 0..16 {
            assert_eq!(b.next_packet().await, (key(1), vec![round; 1200]));
        }
    }
    assert_eq!(house.relay().counters().other.dropped_queue_head, 0);
    house.close().await;
}

#[tokio::test]
async fn a_key_that_is_not_admitted_is_closed_without_a_word() {
    let admitted = key(1);
    let house = House::open(Who::Decided(admission::by(move |asked, _| async move { asked == admitted }))).await;
    let _a = Guest::join(&house, 1).await;
    let mut stranger = Guest::dial(&house, 2).await;
    assert_eq!(stranger.next_event().await, None);
    assert_eq!(house.relay().counters().refused, 1);
    house.close().await;
}

#[tokio::test]
async fn a_revoked_key_is_cut_off() {
    let house = House::open(Who::Everyone).await;
    let mut a = Guest::join(&house, 1).await;
    house.relay().revoke(&key(1));
    assert_eq!(a.next_event().await, None);
    house.close().await;
}

#[tokio::test]
async fn a_thousand_garbage_connections_do_not_hurt() {
    let house = House::open(Who::Everyone).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    let garbage: [&[u8]; 4] =
        [b"\x16\x03\x01\xff\xffnot tls at all", b"GET /derp HTTP/1.1\r\n\r\n", &[0xff; 5000], b"POST /der"];
    let mut open = Vec::new();
    for round in 0..1000 {
        let mut stream = TcpStream::connect(house.address).await.expect("accepted");
        let _ = stream.write_all(garbage[round % garbage.len()]).await;
        open.push(stream);
        if round % 100 == 0 {
            a.send(2, b"still there");
            assert_eq!(b.next_packet().await.1, b"still there");
        }
    }
    // Behind TLS and the upgrade, too.
    for byte in 0..20_u8 {
        let mut stream = relay_stream::dial(&house.target()).await.expect("upgraded");
        let _ = stream.write_all(&[byte; 3000]).await;
        let _ = stream.flush().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    a.send(2, b"after all");
    assert_eq!(b.next_packet().await.1, b"after all");
    assert_eq!(house.relay().counters().clients, 2);
    assert_eq!(house.relay().counters().malformed, 20);
    house.close().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_delays_nobody() {
    let house = House::open(Who::Everyone).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    let deaf = Guest::join(&house, 3).await;
    for round in 0..500_u32 {
        a.send(3, &[7; 60_000]);
        a.send(2, &round.to_be_bytes());
        assert_eq!(b.next_packet().await.1, round.to_be_bytes());
    }
    assert!(house.relay().counters().other.dropped_queue_head > 0);
    drop(deaf);
    house.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_reported_to_those_who_heard_from_it() {
    let house = House::open(Who::Everyone).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    a.send(2, b"hello");
    b.next_packet().await;
    drop(a);
    assert!(matches!(b.next_event().await, Some(Event::PeerGone { key: gone, .. }) if gone == key(1)));
    house.close().await;
}

#[tokio::test]
async fn the_relay_answers_latency_checks_and_refuses_derp_without_tls() {
    let house = House::open(Who::Everyone).await;
    relay_stream::https_latency(&house.target()).await.expect("an answer");
    let mut plain = TcpStream::connect(house.address).await.expect("accepted");
    let ask = b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
    plain.write_all(ask).await.expect("sent");
    let mut answer = [0; 12];
    plain.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 426");
    let mut plain = TcpStream::connect(house.address).await.expect("accepted");
    plain.write_all(b"GET /generate_204 HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    plain.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 204");
    house.close().await;
}

#[tokio::test]
async fn a_wrong_fingerprint_is_refused_by_the_client() {
    let house = House::open(Who::Everyone).await;
    let mut target = house.target();
    target.trust = Trust::Pinned([1; 32]);
    assert!(relay_stream::dial(&target).await.is_err());
    house.close().await;
}

#[tokio::test]
async fn stun_tells_a_node_its_address_and_is_silent_to_others() {
    let house = House::open(Who::Everyone).await;
    let stun_address = house.stun_address;
    let node = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    node.send_to(b"garbage", stun_address).await.expect("sent");
    let id = TxId(*b"twelve bytes");
    node.send_to(&stun::encode_request(id), stun_address).await.expect("sent");
    let mut buffer = [0; 100];
    let count = node.recv(&mut buffer).await.expect("answered");
    assert_eq!(stun::decode_response(&buffer[..count]), Ok((id, node.local_addr().expect("bound"))));
    house.close().await;
}

#[tokio::test]
async fn a_control_server_is_asked_once_in_a_while_and_its_silence_is_a_no() {
    let control = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/verify", control.local_addr().expect("bound"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = control.accept().await.expect("a relay");
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).await.expect("a request");
                request.extend_from_slice(&piece[..read]);
            }
            let request = String::from_utf8(request).expect("text");
            assert!(request.starts_with("POST /verify HTTP/1.1"), "{request}");
            assert!(request.contains(r#""Source":"127.0.0.1"#), "{request}");
            count.fetch_add(1, Ordering::Relaxed);
            let body = if request.contains(&key(1).to_string()) { r#"{"Allow":true}"# } else { "{}" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    let every = Duration::from_secs(3600);
    let house = House::open(Who::VerifiedBy { url, trust: Trust::System, every }).await;
    let _a = Guest::join(&house, 1).await;
    let _again = Guest::join(&house, 1).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(Guest::dial(&house, 2).await.next_event().await, None);
    serving.abort();
    let _ = serving.await;
    assert_eq!(Guest::dial(&house, 3).await.next_event().await, None);
    house.close().await;
}

/// What a control server says, and how often it was asked.
#[derive(Default)]
struct Said {
    /// Whom it admits; with `None` it is out of order.
    allowed: Mutex<Option<Vec<NodePublic>>>,
    connections: AtomicUsize,
    questions: AtomicUsize,
}

impl Said {
    fn answer(&self, request: &str) -> String {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let (status, body) = match &*self.allowed.lock().expect("no panic") {
            Some(allowed) => {
                let allow = allowed.iter().any(|key| request.contains(&key.to_string()));
                ("200 OK", format!(r#"{{"Allow":{allow}}}"#))
            }
            None => ("500 Internal Server Error", String::new()),
        };
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}

/// A control server that keeps its connections open. It ends with the set.
async fn control(said: Arc<Said>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/verify", listener.local_addr().expect("bound"));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut lines = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a relay");
            said.connections.fetch_add(1, Ordering::Relaxed);
            let said = Arc::clone(&said);
            lines.spawn(async move {
                let mut request = Vec::new();
                loop {
                    let mut piece = [0; 1024];
                    let count = stream.read(&mut piece).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    request.extend_from_slice(&piece[..count]);
                    if !request.ends_with(b"}") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut request)).expect("text");
                    let _ = stream.write_all(said.answer(&text).as_bytes()).await;
                }
            });
        }
    });
    (url, serving)
}

#[tokio::test]
async fn whoever_loses_the_right_while_inside_is_cut_off_and_stays_out() {
    let said = Arc::new(Said { allowed: Mutex::new(Some(vec![key(1), key(2)])), ..Said::default() });
    let (url, _serving) = control(Arc::clone(&said)).await;
    let house = House::open(Who::VerifiedBy { url, trust: Trust::System, every: Duration::from_millis(100) }).await;
    let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
    *said.allowed.lock().expect("no panic") = Some(vec![key(2)]);
    assert_eq!(a.next_event().await, None);
    assert_eq!(Guest::dial(&house, 1).await.next_event().await, None, "the yes of before is forgotten");
    assert_eq!(house.relay().counters().revoked, 1);
    assert!(said.connections.load(Ordering::Relaxed) < 5, "connections to the control server are used again");

    // A control server that is out of order throws nobody out, and lets nobody in.
    *said.allowed.lock().expect("no panic") = None;
    let before = said.questions.load(Ordering::Relaxed);
    while said.questions.load(Ordering::Relaxed) < before + 3 {
        tokio::task::yield_now().await;
    }
    b.send(2, b"to myself");
    assert_eq!(b.next_packet().await.1, b"to myself");
    assert_eq!(Guest::dial(&house, 3).await.next_event().await, None);
    house.close().await;
}

#[tokio::test]
async fn a_relay_beside_its_control_server_learns_at_once_who_is_gone() {
    let (tell, told) = tokio::sync::watch::channel(vec![key(1), key(2)]);
    let seen = told.clone();
    let decided = admission::by(move |asked, _| std::future::ready(seen.borrow().contains(&asked)));
    let house = House::open(Who::Decided(decided)).await;
    let relay = house.relay().clone();
    let mut news = told.clone();
    let reviewing = relay.review_on(async || news.changed().await.is_ok());
    let script = async {
        let (mut a, mut b) = (Guest::join(&house, 1).await, Guest::join(&house, 2).await);
        let begun = std::time::Instant::now();
        tell.send_modify(|admitted| admitted.retain(|admitted| *admitted == key(2)));
        assert_eq!(a.next_event().await, None);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        b.send(2, b"to myself");
        assert_eq!(b.next_packet().await.1, b"to myself");
        drop(tell); // with which the news, and so the reviews, end
    };
    tokio::join!(reviewing, script);
    house.close().await;
}

#[tokio::test]
async fn a_decision_that_never_comes_is_a_no() {
    let house = House::open(Who::Decided(admission::by(|_, _: IpAddr| std::future::pending()))).await;
    let mut a = Guest::dial(&house, 1).await;
    tokio::time::timeout(Duration::from_secs(9), async { assert_eq!(a.next_event().await, None) })
        .await
        .expect("closed before the login deadline");
    house.close().await;
}
