//! Clients of the official `tailscale` crate on our control server and our relay, on loopback, without any privilege.
//!
//! The servers run in this process, put together as the executable does it: one port for control (plain) and relay (TLS), STUN
//! beside it, SQLite below. The clients are user-space nodes with sockets of their own. Their relay connections cannot check a
//! self-made certificate, so the relay map says `InsecureForTests`; nothing else is special.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tailscale::{AuthState, Config, Device, NodeInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_api::admin::{AskNode, Client as Admin};
use warren_control::{Actor, Answer, AuthId, What};
use warren_controld::{Overrides, Registry, Service};
use warren_crypto::{NodePublic, Random, RelaySecret};
use warren_io::{listener, tls};
use warren_relay::server::{Counters, ServerConfig};
use warren_relayd::{Relay, admission, stun};
use warren_wire::{NodeId, UserId};

/// What must come is waited for so long; a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Each way, in one exchange.
pub const PAYLOAD_BYTES: usize = 64 * 1024;

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
    alone(NAME, leave_the_relay_for_a_direct_path());
}

/// Runs `test` in a second run of the test `name`, alone in a network namespace of its own.
pub fn alone(name: &str, test: impl Future<Output = ()>) {
    const ALONE: &str = "WARREN_E2E_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(test);
    }
    let alone = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]);
        command
    };
    if !alone().args(["ip", "link", "set", "lo", "up"]).status().is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: {name} needs the programs unshare and ip, and the right to make a user namespace");
    }
    let program = std::env::current_exe().expect("this program");
    let status = alone().arg(program).args([name, "--exact", "--nocapture"]).env(ALONE, "1").status();
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

pub fn run(line: &str) {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lets_an_official_client_in_at_the_page_that_it_names() {
    let network = Network::start(false).await;
    let companion = network.join("companion").await;
    let waiting = Device::new(&network.config("browser"), None).await.expect("a client");
    let state = tokio::time::timeout(PATIENCE, waiting.is_authorized()).await.expect("in time").expect("an answer");
    let AuthState::NotAuthorized(page) = state else { panic!("it was let in without a key or a person") };
    let id = AuthId::from_link(page.as_str()).expect("our page");
    let known = || network.registry.snapshot().registry().node_count();
    assert_eq!(known(), 1, "nothing is registered before a person said so");
    // Its follow-up is held by now, or will be: both get the same answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    network.command(What::ApproveRegistration { id, user: network.ann }).await;
    let own = tokio::time::timeout(PATIENCE, waiting.self_node()).await.expect("its poll ends by itself");
    assert_eq!((own.expect("its own node").hostname.as_str(), known()), ("browser", 2));
    sees_at_home(&companion, "browser").await;
    sees_at_home(&waiting, "companion").await;
    exchange(&companion, &waiting, 80).await;
    network.stop([companion, waiting]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_official_client_whose_key_has_ended_is_out_until_an_operator_lets_it_be() {
    let network = Network::start(false).await;
    let keys = network.config("b");
    let (a, b) = (network.join("a").await, network.join_as(&keys).await);
    let seen = sees_at_home(&a, "b").await;
    assert!(seen.node_key_expiry.is_none());
    let (node, key) = (NodeId(seen.id), seen.node_key.to_string().parse().expect("a node key"));
    network.command(What::ExpireNode { node, at: None }).await;
    till("the end of its key", || sees(&a, "b", |peer| peer.node_key_expiry.is_some())).await;
    assert!(!network.admits(&key), "relays serve it no longer");
    b.shutdown(Some(Duration::from_secs(2))).await;
    // With what it has it does not come in again: no map, no address.
    if let Ok(out) = Device::new(&keys, None).await {
        let own = tokio::time::timeout(Duration::from_secs(3), out.self_node()).await;
        assert!(!matches!(own, Ok(Ok(_))), "an expired key was good for a map");
        out.shutdown(Some(Duration::from_secs(2))).await;
    }
    network.command(What::DisableExpiry { node }).await;
    assert!(network.admits(&key));
    let again = tokio::time::timeout(PATIENCE, Device::new(&keys, None)).await.expect("in time").expect("a client");
    let own = tokio::time::timeout(PATIENCE, again.self_node()).await.expect("in time").expect("its own node");
    assert_eq!(NodeId(own.id), node, "the same node, with the key that it has");
    sees_at_home(&again, "a").await;
    sees_at_home(&a, "b").await;
    let mut port = 80;
    till("traffic", || {
        port += 1;
        let port = port;
        let (a, again) = (&a, &again);
        async move { reaches(again, a, port).await.then_some(()) }
    })
    .await;
    network.stop([a, again]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_under_traffic_is_followed_by_official_clients() {
    let network = Network::start(false).await;
    let (a, b) = (network.join("a").await, network.join("b").await);
    sees_at_home(&a, "b").await;
    sees_at_home(&b, "a").await;
    let only = |first: u16| {
        // This client lets answers in by rules alone, so the ports that it calls from are open too.
        let ports = format!("{first}-{},49152-65535", first + 999);
        let rule = format!(r#"{{ "action": "accept", "src": ["ann@"], "dst": ["ann@:{ports}"] }}"#);
        What::ReplacePolicy { text: format!(r#"{{ "acls": [{rule}] }}"#) }
    };
    exchange(&a, &b, 80).await;
    // The client does not give a port back soon after it was listened on: each try has its own.
    let mut fresh = 0;
    for (open, shut) in [(1000, 2000), (2000, 1000)] {
        network.command(only(open)).await;
        for (first, is_open) in [(open, true), (shut, false)] {
            let end = Instant::now() + PATIENCE;
            while reaches(&a, &b, first + fresh).await != is_open {
                assert!(Instant::now() < end, "ports from {first} on: open should be {is_open}");
                fresh += 1;
            }
            fresh += 1;
        }
    }
    network.command(What::ReplacePolicy { text: r#"{ "acls": [] }"#.to_owned() }).await;
    till("nobody in sight", || async { sees(&a, "b", |_| true).await.is_none().then_some(()) }).await;
    assert!(!reaches(&a, &b, 81).await);
    network.command(What::ReplacePolicy { text: "{}".to_owned() }).await;
    till("each other again", || sees(&a, "b", |_| true)).await;
    exchange(&a, &b, 90).await;
    network.stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_asks_an_official_client_and_is_answered_in_its_channel() {
    let network = Network::start(false).await;
    let device = network.join("asked").await;
    let id = device.self_node().await.expect("its own node").id.to_string();
    let admin = Admin::new(&network.socket);
    let ask = |path: &str| AskNode { method: "POST".into(), path: path.into(), body: "ping=hello".into() };
    let said = admin.ask_node(&id, &ask("/echo")).await.expect("an answer").answer;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("ping=hello"), "{said}");
    let said = admin.ask_node(&id, &ask("/unheard-of")).await.expect("an answer").answer;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    network.stop([device]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_again_finds_its_official_clients_as_they_were() {
    let mut network = Network::start(false).await;
    let keys = [network.config("a"), network.config("b")];
    let [a, b] = [network.join_as(&keys[0]).await, network.join_as(&keys[1]).await];
    sees_at_home(&a, "b").await;
    sees_at_home(&b, "a").await;
    let before = [a.self_node().await.expect("a node"), b.self_node().await.expect("a node")];
    exchange(&a, &b, 80).await;
    network.restart_control().await;
    // This client ends its conversation with a server that goes away and does not begin another, so the same machines come
    // again: the same nodes, with nothing but their own keys.
    for device in [a, b] {
        device.shutdown(Some(Duration::from_secs(2))).await;
    }
    network.key = String::new();
    let [a, b] = [network.join_as(&keys[0]).await, network.join_as(&keys[1]).await];
    for (device, before) in [(&a, &before[0]), (&b, &before[1])] {
        let after = device.self_node().await.expect("a node");
        assert_eq!((after.id, after.tailnet_address), (before.id, before.tailnet_address.clone()));
    }
    assert_eq!(network.registry.snapshot().registry().node_count(), 2);
    sees_at_home(&a, "b").await;
    sees_at_home(&b, "a").await;
    let mut port = 83;
    till("traffic", || {
        port += 1;
        let port = port;
        let (a, b) = (&a, &b);
        async move { reaches(b, a, port).await.then_some(()) }
    })
    .await;
    network.stop([a, b]).await;
}

/// Control server and relay of one test, and the key that lets clients in.
pub struct Network {
    pub url: String,
    /// Empty: clients come without one.
    pub key: String,
    ann: UserId,
    settings: warren_controld::Config,
    socket: std::path::PathBuf,
    registry: Registry,
    admission: warren_controld::Admission,
    pub relay: Relay,
    control: JoinSet<()>,
    stop_control: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    _state: tempfile::TempDir,
}

impl Network {
    pub async fn start(hide_endpoints: bool) -> Network {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let state = tempfile::tempdir().expect("a folder");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (port, relay_port) = (listener::bind(any).expect("a port"), listener::bind(any).expect("a port"));
        let address = port.local_addr().expect("its number");
        let stun_socket = stun::bind(any).await.expect("a port");
        let said = Overrides {
            listen: Some(address),
            server_url: Some(format!("http://{address}")),
            relay_port: Some(relay_port.local_addr().expect("its number").port()),
            stun_port: Some(stun_socket.local_addr().expect("its number").port()),
            hide_endpoints: Some(hide_endpoints),
            insecure_for_tests: Some(true),
            ..Overrides::default()
        };
        let settings = warren_controld::Config::new(said, state.path()).expect("a configuration");
        let service = Service::open(&settings).await.expect("a control server");
        let admission = service.admission();
        let may_enter = {
            let admission = admission.clone();
            admission::by(move |key, source| std::future::ready(admission.admits(&key, source)))
        };
        let mut random = Random::from_seed([1; 32]);
        let relay = Relay::new(RelaySecret::generate(&mut random), ServerConfig::default(), may_enter, random);
        let certificate = tls::Certificate::kept_in(state.path(), &["127.0.0.1".to_owned()]).expect("a certificate");
        let tls = certificate.into_server_config().expect("a usable one");
        let registry = service.registry().clone();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let relays = Arc::new(relay.routes(Default::default()));
        tasks.spawn(listener::serve(relay_port, relays, Some(tls), listener::Caps::default(), stopped.clone()));
        tasks.spawn(stun::serve(stun_socket, Arc::default(), stopped));
        let (control, stop_control) = run_control(port, service);
        let mut network = Network {
            url: format!("http://{address}"),
            key: String::new(),
            ann: UserId(0),
            socket: settings.socket.clone(),
            settings,
            registry,
            admission,
            relay,
            control,
            stop_control,
            stop,
            tasks,
            _state: state,
        };
        network.key = network.make_key().await;
        network
    }

    /// Ends the control server as a signal does and starts it again in its place; the relay goes on.
    async fn restart_control(&mut self) {
        self.stop_control.send_replace(true);
        while let Some(ended) = self.control.join_next().await {
            ended.expect("no task of a server panics");
        }
        let port = till("its port", || async { listener::bind(self.settings.listen).ok() }).await;
        let service = Service::open(&self.settings).await.expect("a control server");
        self.registry = service.registry().clone();
        self.admission = service.admission();
        (self.control, self.stop_control) = run_control(port, service);
    }

    pub async fn command(&self, what: What) -> Answer {
        let actor = Actor::Operator { name: "test".to_owned(), door: "test" };
        self.registry.command(warren_control::Command { actor, what }).await.expect("granted")
    }

    async fn make_key(&mut self) -> String {
        let empty = String::new;
        let user =
            What::CreateUser { name: "ann".to_owned(), display_name: empty(), email: empty(), picture_url: empty() };
        let Answer::User(user) = self.command(user).await else { panic!("a user was made") };
        self.ann = user.id;
        let key = What::CreateKey {
            user: Some(user.id),
            tags: Default::default(),
            reusable: true,
            ephemeral: false,
            preapproved: false,
            expiry: None,
        };
        match self.command(key).await {
            Answer::Key { secret: Some(secret), .. } => secret.reveal().to_owned(),
            other => panic!("not a key: {other:?}"),
        }
    }

    pub fn admits(&self, key: &NodePublic) -> bool {
        self.admission.admits(key, IpAddr::from([127, 0, 0, 1]))
    }

    /// A client of this name with keys of its own.
    fn config(&self, name: &str) -> Config {
        Config {
            control_server_url: self.url.parse().expect("a URL"),
            requested_hostname: Some(name.to_owned()),
            ..Config::default()
        }
    }

    /// A client that has joined and knows its own address.
    pub async fn join(&self, name: &str) -> Device {
        self.join_as(&self.config(name)).await
    }

    async fn join_as(&self, config: &Config) -> Device {
        let joining = async {
            let key = Some(self.key.clone()).filter(|key| !key.is_empty());
            let device = Device::new(config, key).await.expect("a client");
            let own = device.self_node().await.expect("its own node");
            assert_eq!(Some(own.hostname), config.requested_hostname);
            device
        };
        let name = config.requested_hostname.as_deref().unwrap_or_default();
        tokio::time::timeout(PATIENCE, joining)
            .await
            .unwrap_or_else(|_| panic!("{name} did not join within {PATIENCE:?}"))
    }

    /// Clients first, then the servers, each to its end.
    pub async fn stop<const N: usize>(mut self, devices: [Device; N]) -> Counters {
        for device in devices {
            device.shutdown(Some(Duration::from_secs(2))).await;
        }
        self.stop_control.send_replace(true);
        while let Some(ended) = self.control.join_next().await {
            ended.expect("no task of a server panics");
        }
        self.stop.send_replace(true);
        self.relay.close().await;
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no task of a server panics");
        }
        self.relay.counters()
    }
}

/// A control server at work on its port, and the word that ends it.
fn run_control(port: tokio::net::TcpListener, service: Service) -> (JoinSet<()>, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let routes = Arc::new(service.routes());
    tasks.spawn(listener::serve(port, routes, None, listener::Caps::default(), stopped.clone()));
    tasks.spawn(async move { service.run(stopped).await.expect("the control server ends as it is told") });
    (tasks, stop)
}

/// Whether a connection and one byte each way come through now. What is refused gets a moment to come through after all.
async fn reaches(from: &Device, to: &Device, port: u16) -> bool {
    let talk = async {
        let address = SocketAddr::from((to.ipv4_addr().await.ok()?, port));
        let listener = to.tcp_listen(address).await.ok()?;
        let serve = async {
            let mut stream = listener.accept().await.ok()?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.ok()?;
            stream.write_all(&byte).await.ok()?;
            stream.flush().await.ok()?;
            Some(stream)
        };
        let call = async {
            let mut stream = from.tcp_connect(address).await.ok()?;
            stream.write_all(b"x").await.ok()?;
            stream.flush().await.ok()?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.ok()?;
            Some(byte)
        };
        let (served, answer) = tokio::join!(serve, call);
        (served?, answer?).1.eq(b"x").then_some(())
    };
    tokio::time::timeout(Duration::from_secs(3), talk).await.ok().flatten().is_some()
}

/// Asks until there is an answer.
pub async fn till<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn sees(device: &Device, name: &str, like: impl Fn(&NodeInfo) -> bool) -> Option<NodeInfo> {
    device.peer_by_name(name).await.expect("the client lives").filter(like)
}

/// The peer of that name, once it has told everybody which relay is its home.
pub async fn sees_at_home(device: &Device, name: &str) -> NodeInfo {
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
