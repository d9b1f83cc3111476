//! Clients of the official `tailscale` crate on our control server and our relay, on loopback, without any privilege.
//!
//! The servers run in this process, put together as the executable does it: one port for control (plain) and relay (TLS), STUN
//! beside it, SQLite below. The clients are user-space nodes with sockets of their own. Their relay connections cannot check a
//! self-made certificate, so the relay map says `InsecureForTests`; nothing else is special.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tailscale::{Config, Device, NodeInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_control::{Actor, Answer, What};
use warren_controld::{Overrides, Registry, Service};
use warren_crypto::{NodePublic, Random, RelaySecret};
use warren_io::{listener, tls};
use warren_relay::server::{Counters, ServerConfig};
use warren_relayd::{Relay, admission, stun};
use warren_wire::NodeId;

/// What must come is waited for so long; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Each way, in one exchange.
const PAYLOAD_BYTES: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn without_endpoints_two_official_clients_talk_both_ways_through_our_relay() {
    let network = Network::start(true).await;
    let (a, b) = (network.join("a").await, network.join("b").await);
    let (b_as_seen, a_as_seen) = (sees_at_home(&a, "b").await, sees_at_home(&b, "a").await);
    assert_eq!(b_as_seen.underlay_addresses, [], "the server was told to hide endpoints");
    assert_eq!(a_as_seen.underlay_addresses, []);
    for (from, to, port) in [(&a, &b, 80), (&b, &a, 81)] {
        let before = network.relay.counters();
        exchange(from, to, port).await;
        let carried = network.relay.counters().other.sent.bytes - before.other.sent.bytes;
        assert!(carried >= 2 * PAYLOAD_BYTES as u64, "{carried} bytes came through the relay");
    }
    network.stop([a, b]).await;
}

/// In a network namespace of its own, because the client tells its peers an address only when it sees it appear: at its start it
/// asks the kernel for links, addresses and routes at once on one socket, and for addresses it is told "busy".
#[test]
fn with_endpoints_two_official_clients_leave_our_relay_for_a_direct_path() {
    const NAME: &str = "official::with_endpoints_two_official_clients_leave_our_relay_for_a_direct_path";
    const ALONE: &str = "WARREN_E2E_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(leave_the_relay_for_a_direct_path());
    }
    let alone = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]);
        command
    };
    if !alone().args(["ip", "link", "set", "lo", "up"]).status().is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: {NAME} needs the programs unshare and ip, and the right to make a user namespace");
    }
    let program = std::env::current_exe().expect("this program");
    let status = alone().arg(program).args([NAME, "--exact", "--nocapture"]).env(ALONE, "1").status();
    assert!(status.expect("a second run").success(), "see above");
}

async fn leave_the_relay_for_a_direct_path() {
    run("ip link set lo up");
    let network = Network::start(false).await;
    let (a, b) = (network.join("a").await, network.join("b").await);
    sees_at_home(&a, "b").await;
    sees_at_home(&b, "a").await;
    let before = network.relay.counters().other.sent.bytes;
    exchange(&a, &b, 79).await;
    let carried = network.relay.counters().other.sent.bytes - before;
    assert!(
        carried >= 2 * PAYLOAD_BYTES as u64,
        "without an address of their own the relay carries it: {carried} bytes"
    );

    run("ip address add 10.77.0.1/32 dev lo");
    for (device, peer) in [(&a, "b"), (&b, "a")] {
        till("endpoints of the peer", || sees(device, peer, |node| !node.underlay_addresses.is_empty())).await;
    }
    let end = Instant::now() + PATIENCE;
    for port in 80.. {
        let before = network.relay.counters().other.received;
        exchange(&a, &b, port).await;
        exchange(&b, &a, port).await;
        if network.relay.counters().other.received == before {
            break;
        }
        assert!(Instant::now() < end, "after {PATIENCE:?} packets still come by the relay");
        // The client looks for paths every five seconds, and only while there is traffic.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    network.stop([a, b]).await;
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    assert!(Command::new(program).args(words).status().expect(line).success(), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_official_client_follows_join_rename_and_removal_of_a_peer_live() {
    let network = Network::start(false).await;
    // The client answers no question about peers before it has had one.
    let (watcher, companion) = (network.join("watcher").await, network.join("companion").await);
    till("a first peer", || sees(&watcher, "companion", |_| true)).await;
    assert!(sees(&watcher, "late", |_| true).await.is_none());

    let late = network.join("late").await;
    let seen = till("late in the map", || sees(&watcher, "late", |_| true)).await;
    assert_eq!(seen.tailnet_address.ipv4.addr(), late.ipv4_addr().await.expect("its address"));
    assert_eq!(seen.tailnet_address.ipv6.addr(), late.ipv6_addr().await.expect("its address"));
    let node = NodeId(seen.id);
    let key: NodePublic = seen.node_key.to_string().parse().expect("a node key");
    assert!(network.admits(&key), "the relay serves it");

    network.command(What::RenameNode { node, name: "renamed".to_owned() }).await;
    let renamed = till("renamed in the map", || sees(&watcher, "renamed", |_| true)).await;
    assert_eq!((renamed.id, renamed.node_key), (seen.id, seen.node_key), "the same node");
    assert!(sees(&watcher, "late", |_| true).await.is_none(), "the old name is gone");
    let own_name = || async { late.self_node().await.ok().filter(|own| own.hostname == "renamed") };
    assert_eq!(till("its own new name", own_name).await.id, seen.id);

    let address = IpAddr::from(seen.tailnet_address.ipv4.addr());
    network.command(What::DeleteNode { node }).await;
    till("removal", || async {
        let by_name = watcher.peer_by_name("renamed").await.ok()?;
        let by_address = watcher.peer_by_tailnet_ip(address).await.ok()?;
        (by_name.is_none() && by_address.is_none()).then_some(())
    })
    .await;
    assert!(!network.admits(&key), "the relay serves it no longer");

    let third = network.join("third").await;
    till("news after the removal", || sees(&watcher, "third", |_| true)).await;
    network.stop([watcher, companion, late, third]).await;
}

/// Control server and relay of one test, and the key that lets clients in.
struct Network {
    url: String,
    key: String,
    registry: Registry,
    admission: warren_controld::Admission,
    relay: Relay,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    _state: tempfile::TempDir,
}

impl Network {
    async fn start(hide_endpoints: bool) -> Network {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let state = tempfile::tempdir().expect("a folder");
        let port = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = port.local_addr().expect("its number");
        let stun_socket = stun::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let stun_port = stun_socket.local_addr().expect("its number").port();
        let said = Overrides {
            listen: Some(address),
            server_url: Some(format!("http://{address}")),
            stun_port: Some(stun_port),
            hide_endpoints: Some(hide_endpoints),
            insecure_for_tests: Some(true),
            ..Overrides::default()
        };
        let config = warren_controld::Config::new(said, state.path()).expect("a configuration");
        let service = Service::open(&config).await.expect("a control server");
        let admission = service.admission();
        let may_enter = {
            let admission = admission.clone();
            admission::by(move |key, source| std::future::ready(admission.admits(&key, source)))
        };
        let mut random = Random::from_seed([1; 32]);
        let relay = Relay::new(RelaySecret::generate(&mut random), ServerConfig::default(), may_enter, random);
        let certificate = tls::Certificate::kept_in(state.path(), &["127.0.0.1".to_owned()]).expect("a certificate");
        let tls = certificate.into_server_config().expect("a usable one");
        let routes = Arc::new(service.routes().merge(relay.routes()));
        let registry = service.registry().clone();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(listener::serve(port, routes, Some(tls), listener::Caps::default(), stopped.clone()));
        tasks.spawn(stun::serve(stun_socket, Arc::default(), stopped.clone()));
        tasks.spawn(async move { service.run(stopped).await.expect("the control server ends as it is told") });
        let url = format!("http://{address}");
        let mut network = Network { url, key: String::new(), registry, admission, relay, stop, tasks, _state: state };
        network.key = network.make_key().await;
        network
    }

    async fn command(&self, what: What) -> Answer {
        let actor = Actor::Operator { name: "test".to_owned(), door: "test" };
        self.registry.command(warren_control::Command { actor, what }).await.expect("granted")
    }

    async fn make_key(&self) -> String {
        let empty = String::new;
        let user =
            What::CreateUser { name: "ann".to_owned(), display_name: empty(), email: empty(), picture_url: empty() };
        let Answer::User(user) = self.command(user).await else { panic!("a user was made") };
        let key = What::CreateKey {
            user: Some(user.id),
            tags: Default::default(),
            reusable: true,
            ephemeral: false,
            expiry: None,
        };
        match self.command(key).await {
            Answer::Key { secret: Some(secret), .. } => secret.reveal().to_owned(),
            other => panic!("not a key: {other:?}"),
        }
    }

    fn admits(&self, key: &NodePublic) -> bool {
        self.admission.admits(key, IpAddr::from([127, 0, 0, 1]))
    }

    /// A client that has joined and knows its own address.
    async fn join(&self, name: &str) -> Device {
        let config = Config {
            control_server_url: self.url.parse().expect("a URL"),
            requested_hostname: Some(name.to_owned()),
            ..Config::default()
        };
        let joining = async {
            let device = Device::new(&config, Some(self.key.clone())).await.expect("a client");
            let own = device.self_node().await.expect("its own node");
            assert_eq!(own.hostname, name);
            device
        };
        tokio::time::timeout(PATIENCE, joining)
            .await
            .unwrap_or_else(|_| panic!("{name} did not join within {PATIENCE:?}"))
    }

    /// Clients first, then the servers, each to its end.
    async fn stop<const N: usize>(mut self, devices: [Device; N]) -> Counters {
        for device in devices {
            device.shutdown(Some(Duration::from_secs(2))).await;
        }
        self.stop.send_replace(true);
        self.relay.close().await;
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no task of a server panics");
        }
        self.relay.counters()
    }
}

/// Asks until there is an answer.
async fn till<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn sees(device: &Device, name: &str, like: impl Fn(&NodeInfo) -> bool) -> Option<NodeInfo> {
    device.peer_by_name(name).await.expect("the client lives").filter(like)
}

/// The peer of that name, once it has told everybody which relay is its home.
async fn sees_at_home(device: &Device, name: &str) -> NodeInfo {
    till(&format!("the home relay of {name}"), || sees(device, name, |node| node.derp_region.is_some())).await
}

/// One TCP connection, a payload each way, both compared.
async fn exchange(from: &Device, to: &Device, port: u16) {
    let there: Vec<u8> = (0..PAYLOAD_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    let back: Vec<u8> = there.iter().rev().copied().collect();
    let talk = async {
        let address = SocketAddr::from((to.ipv4_addr().await.expect("an address"), port));
        let listener = to.tcp_listen(address).await.expect("a listener");
        let serve = async {
            let mut stream = listener.accept().await.expect("a connection");
            let mut got = vec![0; PAYLOAD_BYTES];
            stream.read_exact(&mut got).await.expect("the whole payload");
            stream.write_all(&back).await.expect("room");
            stream.flush().await.expect("room");
            (stream, got)
        };
        let call = async {
            let mut stream = from.tcp_connect(address).await.expect("a connection");
            stream.write_all(&there).await.expect("room");
            stream.flush().await.expect("room");
            let mut got = vec![0; PAYLOAD_BYTES];
            stream.read_exact(&mut got).await.expect("the whole payload");
            got
        };
        let ((_stream, arrived), returned) = tokio::join!(serve, call);
        assert!(arrived == there && returned == back, "payloads arrive as they were sent");
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| panic!("no exchange within {PATIENCE:?}"));
}
