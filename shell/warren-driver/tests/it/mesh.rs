use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use warren_driver::{DialError, Driver, DriverConfig, DriverHandle, Mode, StartError};
use warren_node::{BackendState, Command, Notice, PingKind, PrefsEdit, Reply};

use crate::control::Control;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn config(folder: &std::path::Path) -> DriverConfig {
    DriverConfig {
        state_file: folder.join("state.json"),
        mode: Mode::Userspace,
        listen_port: 0,
        socks5: Some("127.0.0.1:0".parse().unwrap()),
        http_proxy: Some("127.0.0.1:0".parse().unwrap()),
        mtu: 1280,
        version: "test".into(),
    }
}

pub async fn up(node: &DriverHandle, control: &Control) {
    let mut news = node.watch().await.unwrap();
    let prefs = PrefsEdit {
        control_url: Some(control.url.clone()),
        control_key: Some(control.key.to_string()),
        want_running: Some(true),
        ..PrefsEdit::default()
    };
    node.command(Command::Start { auth_key: None, prefs }).await.unwrap();
    let running = async {
        while node.status().await.unwrap().state != BackendState::Running {
            news.recv().await.expect("news until the node runs");
        }
    };
    timeout(PATIENCE, running).await.expect("the node comes up");
}

/// Waits until a node sees `count` peers with endpoints.
pub async fn sees_peers(node: &DriverHandle, count: usize) {
    let mut news = node.watch().await.unwrap();
    let seen = async {
        loop {
            let status = node.status().await.unwrap();
            if status.peers.iter().filter(|peer| !peer.node.endpoints.is_empty()).count() == count {
                return;
            }
            news.recv().await.expect("news until peers are seen");
        }
    };
    timeout(PATIENCE, seen).await.expect("peers with endpoints");
}

/// A service on the own host that answers every connection with what it got, doubled.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn two_user_space_nodes_join_and_carry_tcp_directly() {
    let (control, folder_a, folder_b) =
        (Control::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Driver::start(config(folder_a.path())).await.unwrap();
    let b = Driver::start(config(folder_b.path())).await.unwrap();
    up(&a, &control).await;
    up(&b, &control).await;
    assert_eq!(control.registered(), 2);
    sees_peers(&a, 1).await;
    sees_peers(&b, 1).await;
    let peer = a.status().await.unwrap().peers[0].node.clone();
    let b_addr = peer.addresses[0].addr();

    // A ping that a person asks for names the direct path.
    let mut news = a.watch().await.unwrap();
    let asked = a.command(Command::Ping { ip: b_addr, kind: PingKind::Disco, size: 0 }).await.unwrap();
    let Reply::Ping(number) = asked else { panic!("{asked:?}") };
    let answered = async {
        loop {
            if let Notice::Ping { number: found, result } = news.recv().await.expect("news")
                && found == number
            {
                return result;
            }
        }
    };
    let result = timeout(PATIENCE, answered).await.expect("a ping's answer");
    assert!(result.endpoint.is_some(), "{result:?}");

    // A megabyte there and back through `dial`, by the peer's name.
    let service = echo().await;
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7) as u8).collect();
    let stream = timeout(PATIENCE, a.dial(peer.name.trim_end_matches('.'), service.port())).await.unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, there_and_back(stream, &data)).await.unwrap(), data);

    // The same through the SOCKS5 door, by IPv6 address.
    let mut door = TcpStream::connect(a.socks5().unwrap()).await.unwrap();
    let std::net::IpAddr::V6(v6) = peer.addresses[1].addr() else { panic!("{peer:?}") };
    let request = [&[5, 1, 0, 5, 1, 0, 4][..], &v6.octets(), &service.port().to_be_bytes()].concat();
    door.write_all(&request).await.unwrap();
    let mut reply = [0; 12];
    timeout(PATIENCE, door.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(reply[..4], [5, 0, 5, 0]);
    assert_eq!(timeout(PATIENCE, there_and_back(door, &data)).await.unwrap(), data);

    // A tunnel through the HTTP proxy, by name.
    let mut door = TcpStream::connect(a.http_proxy().unwrap()).await.unwrap();
    let request = format!("CONNECT {}:{} HTTP/1.1\r\n\r\n", peer.name.trim_end_matches('.'), service.port());
    door.write_all(request.as_bytes()).await.unwrap();
    let mut reply = [0; 39];
    timeout(PATIENCE, door.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(&reply, b"HTTP/1.1 200 Connection established\r\n\r\n");
    assert_eq!(timeout(PATIENCE, there_and_back(door, &data)).await.unwrap(), data);

    datagrams_go_there_and_back(&a, &peer).await;

    // A port without a service is refused, not accepted and dropped.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = timeout(PATIENCE, a.dial(&b_addr.to_string(), closed.port())).await.unwrap();
    assert_eq!(refused.err(), Some(DialError::Refused));
    // Nor are the peer's own proxies services: they act as the peer for whoever reaches them.
    for door in [b.socks5(), b.http_proxy()] {
        TcpStream::connect(door.unwrap()).await.expect("programs of the host reach it");
        let refused = timeout(PATIENCE, a.dial(&b_addr.to_string(), door.unwrap().port())).await.unwrap();
        assert_eq!(refused.err(), Some(DialError::Refused));
    }

    a.shutdown().await;
    b.shutdown().await;
    assert!(a.status().await.is_err());
}

/// By UDP ASSOCIATE on one side, to a service on the loopback of the other: by name, by both families.
async fn datagrams_go_there_and_back(a: &DriverHandle, peer: &warren_wire::Node) {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = service.recv_from(&mut buffer).await {
            let answer: Vec<u8> = buffer[..length].iter().rev().copied().collect();
            service.send_to(&answer, from).await.unwrap();
        }
    });
    let mut control = TcpStream::connect(a.socks5().unwrap()).await.unwrap();
    control.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").await.unwrap();
    let mut reply = [0; 12];
    timeout(PATIENCE, control.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(reply[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    let door = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[10], reply[11]])));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let name = peer.name.trim_end_matches('.');
    let (v4, v6) = (peer.addresses[0].addr(), peer.addresses[1].addr());
    let [std::net::IpAddr::V4(v4), std::net::IpAddr::V6(v6)] = [v4, v6] else { panic!("{peer:?}") };
    let targets = [
        [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat(),
        [&[1][..], &v4.octets()].concat(),
        [&[4][..], &v6.octets()].concat(),
    ];
    for (target, payload) in targets.iter().zip([&b"hello"[..], &[7; 1200], b"x"]) {
        let sent = [&[0, 0, 0], target.as_slice(), &port.to_be_bytes(), payload].concat();
        client.send_to(&sent, door).await.unwrap();
        let mut buffer = [0; 2000];
        let (length, from) = timeout(PATIENCE, client.recv_from(&mut buffer)).await.expect("an answer").unwrap();
        assert_eq!(from, door);
        let back: Vec<u8> = payload.iter().rev().copied().collect();
        assert!(buffer[..length].ends_with(&[&port.to_be_bytes()[..], &back].concat()), "{:?}", &buffer[..length]);
    }
    drop(control);
    let gone = async {
        while UdpSocket::bind(door).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    timeout(PATIENCE, gone).await.expect("the association ends with its connection");
}

pub async fn there_and_back(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, data: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut back = Vec::new();
    let send = async {
        write.write_all(data).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, received) = tokio::join!(send, read.read_to_end(&mut back));
    received.unwrap();
    back
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_keeps_its_key_and_its_address() {
    let (control, folder) = (Control::start().await, tempfile::tempdir().unwrap());
    let mut keys = Vec::new();
    for round in 0..2 {
        let node = Driver::start(config(folder.path())).await.unwrap();
        if round == 0 {
            up(&node, &control).await;
        }
        let status = node.status().await.unwrap();
        assert_eq!(status.state, BackendState::Running, "with the map it knows, before any server is reached");
        keys.push((status.node_key, status.addresses));
        node.shutdown().await;
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(control.registered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_foreign_state_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    for text in ["{", "{\"kind\":\"other\",\"format\":1}", "{\"kind\":\"warren-node-state\",\"format\":99}"] {
        std::fs::write(&path, text).unwrap();
        let error = Driver::start(config(folder.path())).await.err().expect("refused");
        assert!(matches!(error, StartError::Unusable { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_do_not_share_one_state() {
    let folder = tempfile::tempdir().unwrap();
    let first = Driver::start(config(folder.path())).await.unwrap();
    assert!(matches!(Driver::start(config(folder.path())).await, Err(StartError::State(_))));
    first.shutdown().await;
    Driver::start(config(folder.path())).await.unwrap().shutdown().await;
}
