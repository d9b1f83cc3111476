//! Our node, as the executable runs it, beside a client of the official `tailscale` crate: on our control server and our relay,
//! without an interface and without any privilege.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tailscale::Device;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use warren_control::What;
use warren_crypto::NodePublic;
use warren_wire::NodeId;

use crate::official::{Network, PATIENCE, PAYLOAD_BYTES, alone, run, sees, sees_at_home, till};

#[tokio::test(flavor = "multi_thread")]
async fn without_endpoints_our_node_and_an_official_client_talk_both_ways_through_our_relay() {
    if !warren_e2e::inside() {
        return;
    }
    run("ip link set lo up");
    let network = Network::start(true).await;
    let client = network.join("official").await;
    let ours = Ours::start(&network, "ours").await;
    assert_eq!(sees_at_home(&client, "ours").await.underlay_addresses, [], "the server was told to hide endpoints");
    for from_us in [true, false] {
        let before = network.relay.counters().other;
        exchange(&ours, &client, 80, from_us).await;
        let carried = network.relay.counters().other.sent.bytes - before.sent.bytes;
        assert!(carried >= 2 * PAYLOAD_BYTES as u64, "{carried} bytes came through the relay");
    }
    ours.stop().await;
    network.stop([client]).await;
}

#[test]
fn with_endpoints_our_node_and_an_official_client_leave_our_relay_for_a_direct_path() {
    if warren_e2e::inside() {
        let name = "beside::with_endpoints_our_node_and_an_official_client_leave_our_relay_for_a_direct_path";
        alone(name, leave_the_relay_for_a_direct_path());
    }
}

async fn leave_the_relay_for_a_direct_path() {
    run("ip link set lo up");
    let network = Network::start(false).await;
    let client = network.join("official").await;
    let ours = Ours::start(&network, "ours").await;
    sees_at_home(&client, "ours").await;
    // Only an address that appears later is one that the client tells.
    run("ip address add 10.77.0.1/32 dev lo");
    till("endpoints of the client", || async {
        let peer = ours.peer("official").await?;
        peer["Addrs"].as_array().is_some_and(|addrs| !addrs.is_empty()).then_some(())
    })
    .await;
    let end = Instant::now() + PATIENCE;
    for port in 80.. {
        let before = network.relay.counters().other.received;
        exchange(&ours, &client, port, true).await;
        exchange(&ours, &client, port, false).await;
        if network.relay.counters().other.received == before {
            break;
        }
        assert!(Instant::now() < end, "after {PATIENCE:?} packets still come by the relay");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let peer = ours.peer("official").await.expect("a peer");
    assert!(peer["CurAddr"].as_str().is_some_and(|addr| !addr.is_empty()), "{peer}");
    ours.stop().await;
    network.stop([client]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_node_and_an_official_client_follow_each_others_join_rename_and_removal_live() {
    if !warren_e2e::inside() {
        return;
    }
    run("ip link set lo up");
    let network = Network::start(false).await;
    let (client, companion) = (network.join("official").await, network.join("companion").await);
    let ours = Ours::start(&network, "ours").await;
    let seen = till("our node in the client's map", || sees(&client, "ours", |_| true)).await;
    assert_eq!(ours.ask(&["ip", "-4"]).await.expect("an address").trim(), seen.tailnet_address.ipv4.addr().to_string());
    till("the client in our map", || ours.peer("official")).await;

    network.command(What::RenameNode { node: NodeId(seen.id), name: "renamed".to_owned() }).await;
    let renamed = till("our new name", || sees(&client, "renamed", |_| true)).await;
    assert_eq!((renamed.id, renamed.node_key), (seen.id, seen.node_key));
    till("our node's own new name", || async {
        let own = ours.status().await?["Self"]["DNSName"].clone();
        own.as_str().is_some_and(|name| name.starts_with("renamed.")).then_some(())
    })
    .await;
    let theirs = client.self_node().await.expect("its own node");
    network.command(What::RenameNode { node: NodeId(theirs.id), name: "guest".to_owned() }).await;
    till("the client's new name", || ours.peer("guest")).await;
    assert!(ours.peer("official").await.is_none(), "the old name is gone");

    let gone = companion.self_node().await.expect("its own node");
    let removed = ours.peer("companion").await.expect("a peer");
    network.command(What::DeleteNode { node: NodeId(gone.id) }).await;
    // The client may come back by its key, as another node.
    till("a peer's removal", || async {
        let peer = ours.peer("companion").await;
        peer.is_none_or(|peer| peer["ID"] != removed["ID"]).then_some(())
    })
    .await;

    let key: NodePublic = seen.node_key.to_string().parse().expect("a node key");
    assert!(network.admits(&key), "the relay serves it");
    network.command(What::DeleteNode { node: NodeId(seen.id) }).await;
    till("our removal", || async { sees(&client, "renamed", |_| true).await.is_none().then_some(()) }).await;
    assert!(!network.admits(&key), "the relay serves it no longer");
    till("our node to notice", || async { (ours.status().await?["BackendState"] != "Running").then_some(()) }).await;
    ours.stop().await;
    network.stop([client, companion]).await;
}

/// Our daemon, a process of its own, and its command line.
struct Ours {
    daemon: Child,
    state: tempfile::TempDir,
}

impl Ours {
    async fn start(network: &Network, name: &str) -> Ours {
        let state = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(warren_e2e::executable("warren"));
        command.args(["node", "run", "--tun", "userspace-networking", "--port", "0", "--state"]).arg(state.path());
        command.arg("--socket").arg(state.path().join("node.sock")).kill_on_drop(true);
        let log = std::fs::File::create(state.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let ours = Ours { daemon: command.spawn().expect("warren starts"), state };
        till("our daemon", || ours.status()).await;
        let up = ["up", "--login-server", &network.url, "--auth-key", &network.key, "--hostname", name];
        ours.ask(&[&up[..], &["--timeout", "30s"]].concat())
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", ours.log()));
        ours
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(warren_e2e::executable("warren"));
        command.arg("--socket").arg(self.state.path().join("node.sock")).args(words).kill_on_drop(true);
        command
    }

    async fn ask(&self, words: &[&str]) -> Result<String, String> {
        let out = self.command(words).stdin(Stdio::null()).output().await.expect("warren starts");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&out.stderr)) }
    }

    async fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.ask(&["status", "--json"]).await.ok()?).ok()
    }

    /// The peer of this name as our node sees it.
    async fn peer(&self, name: &str) -> Option<Value> {
        let status = self.status().await?;
        let is_it = |peer: &&Value| peer["DNSName"].as_str().and_then(|dns| dns.split('.').next()) == Some(name);
        status["Peer"].as_object()?.values().find(is_it).cloned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }

    /// In order: its socket goes with it.
    async fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().expect("it runs").cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it hears");
        let ended = tokio::time::timeout(Duration::from_secs(10), self.daemon.wait()).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok_and(|status| status.success())), "{}", self.log());
        assert!(!self.state.path().join("node.sock").exists(), "its socket is left");
    }
}

/// One TCP connection, a payload each way, both compared. `from_us`: by `warren nc`; else to a service on our loopback.
async fn exchange(ours: &Ours, client: &Device, port: u16, from_us: bool) {
    let there: Vec<u8> = (0..PAYLOAD_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    let back: Vec<u8> = there.iter().rev().copied().collect();
    let talk = async {
        let (arrived, returned) = if from_us {
            let target = SocketAddr::from((client.ipv4_addr().await.expect("an address"), port));
            let listener = client.tcp_listen(target).await.expect("a listener");
            let words = [target.ip().to_string(), port.to_string()];
            let mut nc = ours.command(&["nc", &words[0], &words[1]]);
            let mut nc = nc.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("warren starts");
            let (mut input, mut output) = (nc.stdin.take().expect("piped"), nc.stdout.take().expect("piped"));
            let serve = async {
                let mut stream = listener.accept().await.expect("a connection");
                let mut got = vec![0; PAYLOAD_BYTES];
                stream.read_exact(&mut got).await.expect("the whole payload");
                stream.write_all(&back).await.expect("room");
                stream.flush().await.expect("room");
                (stream, got)
            };
            let call = async {
                input.write_all(&there).await.expect("room");
                input.flush().await.expect("room");
                let mut got = vec![0; PAYLOAD_BYTES];
                output.read_exact(&mut got).await.expect("the whole payload");
                got
            };
            let ((_stream, arrived), returned) = tokio::join!(serve, call);
            nc.kill().await.expect("it ends");
            (arrived, returned)
        } else {
            let service = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = service.local_addr().expect("its number").port();
            let ip = ours.ask(&["ip", "-4"]).await.expect("an address");
            let target = SocketAddr::new(ip.trim().parse().expect("an address"), port);
            let serve = async {
                let (mut stream, _) = service.accept().await.expect("a connection");
                let mut got = vec![0; PAYLOAD_BYTES];
                stream.read_exact(&mut got).await.expect("the whole payload");
                stream.write_all(&back).await.expect("room");
                (stream, got)
            };
            let call = async {
                let mut stream = client.tcp_connect(target).await.expect("a connection");
                stream.write_all(&there).await.expect("room");
                stream.flush().await.expect("room");
                let mut got = vec![0; PAYLOAD_BYTES];
                stream.read_exact(&mut got).await.expect("the whole payload");
                got
            };
            let ((_stream, arrived), returned) = tokio::join!(serve, call);
            (arrived, returned)
        };
        assert!(arrived == there && returned == back, "payloads arrive as they were sent");
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .unwrap_or_else(|_| panic!("no exchange within {PATIENCE:?}\n{}", ours.log()));
}
