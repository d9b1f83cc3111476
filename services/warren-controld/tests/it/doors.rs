//! The public port and the admin socket, met by strangers.

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use warren_controld::Overrides;
use warren_io::listener::Caps;
use warren_io::{DialOptions, fetch_server_key};

use crate::client::Machine;
use crate::world::{PATIENCE, World, start, start_with};

/// One request on a connection of its own: status and body.
pub async fn request(world: &World, method: Method, path: &str, body: Bytes) -> (u16, String) {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = raw(world, &[head.as_bytes(), &body].concat()).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub async fn get(world: &World, path: &str) -> (u16, String) {
    request(world, Method::GET, path, Bytes::new()).await
}

/// Says `bytes`, which ask for the connection to be closed, and returns everything that comes back.
pub async fn raw(world: &World, bytes: &[u8]) -> Vec<u8> {
    converse(world, bytes, false).await
}

/// `is_all`: says also that nothing more will come, which no whole request needs.
pub async fn converse(world: &World, bytes: &[u8], is_all: bool) -> Vec<u8> {
    let talk = async {
        let mut stream = TcpStream::connect(world.address).await.expect("listening");
        // A server that has heard enough may close while we still speak.
        let _ = stream.write_all(bytes).await;
        if is_all {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("the server closes")
}

#[tokio::test]
async fn the_public_port_answers_what_clients_and_people_ask() {
    let world = start().await;
    let options = DialOptions::default();
    assert_eq!(fetch_server_key(&world.url(), 113, &options).await.expect("a key"), world.key);
    assert_eq!(get(&world, "/key").await.0, 400);
    let (status, keys) = get(&world, "/key?v=145").await;
    let keys: serde_json::Value = serde_json::from_str(&keys).expect("JSON");
    let zero = format!("mkey:{}", "0".repeat(64));
    assert_eq!(
        (status, &keys["publicKey"], &keys["legacyPublicKey"]),
        (200, &world.key.to_string().into(), &zero.into())
    );
    let head = raw(&world, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&head).to_lowercase().contains("\r\ncontent-type: application/health+json\r\n"));
    assert_eq!(get(&world, "/health").await, (200, "{\"status\":\"pass\"}".into()));
    assert!(get(&world, "/version").await.1.contains("warren"));
    let (status, page) = get(&world, "/join").await;
    assert!(status == 200 && page.contains("Android") && page.contains(&world.address.to_string()));
    for (path, expect) in [("/register/nonsense", 404), ("/get/plan9-mips", 404), ("/api/v1/node", 404), ("/x", 404)] {
        assert_eq!(get(&world, path).await.0, expect, "{path}");
    }
    for (method, path) in [(Method::POST, "/key"), (Method::GET, "/verify")] {
        assert_eq!(request(&world, method, path, Bytes::new()).await.0, 405, "{path}");
    }
    assert_eq!(get(&world, "/ts2021").await.0, 405);
    assert_eq!(request(&world, Method::POST, "/ts2021", Bytes::new()).await.0, 400);
}

#[tokio::test]
async fn absolute_targets_and_a_host_without_port_are_understood() {
    let world = start().await;
    let head =
        format!("GET http://{}/key?v=130 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", world.address);
    let answer = String::from_utf8_lossy(&raw(&world, head.as_bytes()).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&world.key.to_string()), "{answer}");
    assert!(answer.contains("legacyPublicKey"));
}

#[tokio::test]
async fn the_program_is_handed_out_with_its_checksum() {
    use sha2::Digest as _;
    let world = start().await;
    let name = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let head = format!("GET /get/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = raw(&world, head.as_bytes()).await;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
    assert!(answer[end..] == own);
    assert!(head.contains(&format!("x-sha256: {}", hex::encode(sha2::Sha256::digest(&own)))), "{head}");
}

#[tokio::test]
async fn garbage_gets_an_error_or_nothing_and_a_bystander_notices_nothing() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(true).await).await;
    let mut maps = machine.stream().await;
    maps.until("the first map", |_| true).await;
    let upgrade = |handshake: &str| {
        format!(
            "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\
             X-Tailscale-Handshake: {handshake}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    };
    let attacks: Vec<Vec<u8>> = vec![
        vec![0x16, 3, 1, 0, 200, 1, 2, 3],
        vec![0xff; 100_000],
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 100_000]].concat(),
        b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}".to_vec(),
        upgrade("not base64"),
        upgrade(""),
        upgrade("AAAA"),
        upgrade(&"A".repeat(136)),
    ];
    for attack in attacks {
        converse(&world, &attack, true).await;
    }
    world.admin.rename_node("1", "renamed").await.expect("still at work");
    maps.until("the new name", |map| map.self_node.full_name() == "renamed.mesh.test").await;
}

#[tokio::test]
async fn idlers_make_room_for_those_who_ask() {
    let caps = Caps { young: 16, young_per_source: 8, grown: 100, grown_per_source: 100 };
    let world = start_with(Overrides::default(), caps).await;
    let mut idlers = Vec::new();
    for n in 0..60 {
        let mut idler = TcpStream::connect(world.address).await.expect("listening");
        if n % 2 == 0 {
            let _ = idler.write_all(b"GET / HTT").await; // may be shut out already
        }
        idlers.push(idler);
    }
    assert_eq!(get(&world, "/health").await.0, 200);
    let shut_out = async {
        let mut nothing = [0];
        let _ = idlers[0].read(&mut nothing).await;
    };
    tokio::time::timeout(PATIENCE, shut_out).await.expect("the oldest idler is shut out");
}

#[tokio::test]
async fn past_its_cap_the_port_says_so_and_recovers() {
    let caps = Caps { young: 16, young_per_source: 16, grown: 2, grown_per_source: 2 };
    let world = start_with(Overrides::default(), caps).await;
    let hold = async || {
        let mut stream = TcpStream::connect(world.address).await.expect("listening");
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("open");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("an answer");
        (stream, String::from_utf8_lossy(&first).into_owned())
    };
    let (first, second, third) = (hold().await, hold().await, hold().await);
    assert_eq!([&first.1, &second.1, &third.1], ["HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 503"]);
    drop((first, second, third));
    let recovered = async { while get(&world, "/version").await.0 != 200 {} };
    tokio::time::timeout(PATIENCE, recovered).await.expect("places come free");
}

#[tokio::test]
async fn the_admin_socket_refuses_web_pages_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = start().await;
    let path = world.admin.socket().expect("a socket").to_owned();
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a folder")), mode(world.folder())), (0o600, 0o700, 0o700));
    for (header, expect) in
        [("Host: localhost", "200"), ("Host: evil.example", "403"), ("Host: localhost\r\nOrigin: http://x", "403")]
    {
        let mut stream = UnixStream::connect(&path).await.expect("listening");
        let head = format!("GET /api/v1/user HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {expect}")), "{header}: {answer}");
    }
}
