//! Two nodes behind two routers: by which path they talk, how soon, and what they say of it.

use std::time::{Duration, Instant};

use serde_json::Value;
use warren_e2e::internet::Site;
use warren_e2e::service::{Control, Mode, Node, Relay, SOCKS_PORT};
use warren_e2e::{Families, Internet, Nat, hold, till};

const CONTROL: &str = "203.0.113.1:8080";
const CONTROL6: &str = "[2001:db8::1]:8080";

/// Three times the figures asked for, so that a loaded machine does not fail what works.
const FIRST_ANSWER: Duration = Duration::from_secs(3 * 2);
const DIRECT: Duration = Duration::from_secs(3 * 5);

/// A control server and two relays (two, so that a node can tell whether its mapping varies), each a process of its own.
pub struct Servers<'a> {
    pub control: Control<'a>,
    pub relay: Relay,
    pub second: Relay,
    /// File with both relays, as the control server was given it.
    pub map: String,
}

pub fn servers<'a>(net: &'a Internet, address: &str, families: Families) -> Servers<'a> {
    let url = format!("http://{address}");
    let (ip4, ip6) = (["203.0.113.1", "203.0.113.2"], ["2001:db8::1", "2001:db8::2"]);
    let [first, other] = if families == Families::V6 { ip6 } else { ip4 };
    let relay = Relay::start(&net.server, "relay", first, 900, &url);
    let second = Relay::start(&net.server, "relay2", other, 901, &url);
    let more: &[&str] = if families == Families::Both { &ip6 } else { &[] };
    let map = Relay::merge_maps(&[&relay, &second], more).display().to_string();
    let control = Control::start(&net.server, "control", address, &["--no-relay", "--relay-map", &map]);
    Servers { control, relay, second, map }
}

pub fn servers4(net: &Internet) -> Servers<'_> {
    servers(net, CONTROL, Families::V4)
}

/// Both nodes in the network, named a and b.
pub fn join<'a>(net: &'a Internet, servers: &Servers<'_>, modes: [Mode; 2]) -> [Node<'a>; 2] {
    let key = servers.control.key("ann");
    let a = Node::start(&net.left, "node", modes[0], &[]);
    let b = Node::start(&net.right, "node", modes[1], &[]);
    a.up(&servers.control.url, &key, &["--hostname", "a"]);
    b.up(&servers.control.url, &key, &["--hostname", "b"]);
    [a, b]
}

fn is_direct(pong: &Value) -> bool {
    pong["Endpoint"].as_str().is_some_and(|endpoint| !endpoint.is_empty())
}

pub fn first_answer(a: &Node<'_>, to: &str) -> Duration {
    till(FIRST_ANSWER, "a first answer by any path", || a.ping_once(to)).1
}

pub fn direct(a: &Node<'_>, to: &str) -> Duration {
    let ask = || a.ping_once(to).and_then(|pong| is_direct(&pong).then_some(()).ok_or_else(|| pong.to_string()));
    till(DIRECT, "a direct path", ask).1
}

/// What both relays have forwarded besides disco, in bytes.
fn relayed_bytes(net: &Internet, servers: &Servers<'_>) -> u64 {
    servers.relay.forwarded(&net.server).other_bytes + servers.second.forwarded(&net.server).other_bytes
}

/// Traffic goes on without a byte of it through a relay.
fn check_stays_direct(net: &Internet, servers: &Servers<'_>, a: &Node<'_>) {
    // What was on its way when the direct path was found has arrived after a second.
    std::thread::sleep(Duration::from_secs(1));
    let before = relayed_bytes(net, servers);
    hold(Duration::from_secs(5), "a direct path", || {
        let pong = a.ping_once("b")?;
        a.try_ask(&["ping", "--tsmp", "-c", "1", "b"])?;
        is_direct(&pong).then_some(()).ok_or_else(|| pong.to_string())
    });
    assert_eq!(relayed_bytes(net, servers), before, "frames besides disco went through a relay");
}

/// An HTTP server on B that serves one file of `bytes`, and its SHA-256.
fn serve_file(b: &Node<'_>, bytes: usize) -> (warren_e2e::Process, String) {
    let folder = b.machine.folder().join("www");
    std::fs::create_dir_all(&folder).expect("a folder");
    b.machine.sh(&format!("head -c {bytes} /dev/urandom > {}/blob", folder.display()));
    let sum = b.machine.sh(&format!("sha256sum < {}/blob", folder.display()));
    let folder = folder.display().to_string();
    // Not `-m http.server`, which asks for its own name first: that takes long where nobody answers for names.
    let program = "import functools, http.server, socketserver, sys\n\
                   files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])\n\
                   socketserver.ThreadingTCPServer(('127.0.0.1', 8000), files).serve_forever()";
    let server = b.machine.start("http", "python3", &["-c", program, &folder]);
    till(Duration::from_secs(10), "the web server", || {
        let out = b.machine.try_sh("curl -sf -o /dev/null http://127.0.0.1:8000/");
        out.status.success().then_some(()).ok_or_else(|| "not yet".to_string())
    });
    (server, sum)
}

/// Fetches B's file through A's SOCKS5 proxy; both nodes have no interface.
fn check_transfer_by_socks(a: &Node<'_>, b: &Node<'_>, bytes: usize) -> Duration {
    let (_server, sum) = serve_file(b, bytes);
    let begun = Instant::now();
    let url = format!("http://{}:8000/blob", b.ip4());
    let got =
        a.machine.sh(&format!("curl -sSf --max-time 600 --socks5-hostname 127.0.0.1:{SOCKS_PORT} {url} | sha256sum"));
    assert_eq!(got, sum, "the file changed on its way");
    begun.elapsed()
}

#[test]
fn user_space_nodes_behind_two_homes_answer_at_once_and_soon_directly() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    let first = first_answer(&a, "b");
    let direct = direct(&a, "b");
    println!("easy/easy: first answer after {first:?}, direct after {direct:?}");
    check_stays_direct(&net, &servers, &a);
    let bytes = if warren_e2e::long() { 1_000_000_000 } else { 100_000_000 };
    let took = check_transfer_by_socks(&a, &b, bytes);
    println!("easy/easy: {bytes} bytes by SOCKS5 in {took:?}");
    let status = a.ask(&["status"]);
    assert!(status.contains("direct 203.0.113.12:50002"), "{status}");
    let netcheck = a.ask(&["netcheck"]);
    for line in
        ["UDP: true", "IPv4: yes, 203.0.113.11:50001", "MappingVariesByDestIP: false", "PortMapping: not built yet"]
    {
        assert!(netcheck.contains(line), "{line} is not in:\n{netcheck}");
    }
}

#[test]
fn the_relay_answers_first_while_direct_udp_is_held_back() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    // Between the two homes no UDP passes for now; to the relays' STUN it does.
    let hold_back = |on: bool| {
        let rule = "nft add table ip held && nft add chain ip held f '{ type filter hook forward priority -10 ; }' && \
                    nft add rule ip held f ip saddr 10.0.0.0/8 udp dport 50000-50100 drop && \
                    nft add rule ip held f ip saddr 203.0.113.8/29 udp sport 50000-50100 drop";
        for router in [&net.left_router, &net.right_router] {
            router.sh(if on { rule } else { "nft delete table ip held" });
        }
    };
    hold_back(true);
    let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
    let (pong, took) = till(FIRST_ANSWER, "a first answer", || a.ping_once("b"));
    println!("held back: first answer after {took:?}");
    assert!(!is_direct(&pong), "{pong}");
    let before = relayed_bytes(&net, &servers);
    a.ask(&["ping", "--tsmp", "-c", "2", "b"]);
    assert!(relayed_bytes(&net, &servers) > before, "the answer did not come by a relay");
    hold_back(false);
    let direct = direct(&a, "b");
    println!("held back: direct {direct:?} after it was let go");
}

#[test]
fn a_home_that_blocks_udp_stays_relayed_works_and_says_why() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::UdpBlocked, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    first_answer(&a, "b");
    check_transfer_by_socks(&a, &b, 5_000_000);
    // It takes the look at the network a few seconds to give UDP up.
    till(Duration::from_secs(20), "a reason that speaks of UDP", || {
        let pong = a.ping_once("b")?;
        assert!(!is_direct(&pong), "{pong}");
        let why = pong["WarrenWhy"].as_str().unwrap_or_default().to_lowercase();
        why.contains("udp").then_some(()).ok_or_else(|| pong.to_string())
    });
    let netcheck = a.ask(&["netcheck"]);
    assert!(netcheck.contains("UDP: false"), "{netcheck}");
}

#[test]
fn two_routers_with_a_mapping_per_destination_stay_relayed_work_and_say_why() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Hard, Nat::Hard);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    first_answer(&a, "b");
    check_transfer_by_socks(&a, &b, 5_000_000);
    // Until both have seen two answers of STUN they cannot know.
    till(Duration::from_secs(20), "the reason", || {
        let pong = a.ping_once("b")?;
        assert!(!is_direct(&pong), "{pong}");
        let why = pong["WarrenWhy"].as_str().unwrap_or_default();
        why.contains("mapping").then_some(()).ok_or_else(|| pong.to_string())
    });
    let netcheck = a.ask(&["netcheck"]);
    assert!(netcheck.contains("MappingVariesByDestIP: true"), "{netcheck}");
}

#[test]
fn everything_works_with_ipv6_alone() {
    if !warren_e2e::inside() {
        return;
    }
    let only6 = || Site { nat: Nat::None, families: Families::V6 };
    let net = Internet::new(only6(), only6());
    let servers = servers(&net, CONTROL6, Families::V6);
    let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
    first_answer(&a, "b");
    let took = direct(&a, "b");
    println!("IPv6 only: direct after {took:?}");
}

#[test]
fn an_ipv4_node_reaches_a_dual_one_directly_and_an_ipv6_one_by_the_relay() {
    if !warren_e2e::inside() {
        return;
    }
    let both = Site { nat: Nat::Easy, families: Families::Both };
    let net = Internet::new(Nat::Easy, both);
    let servers = servers(&net, CONTROL, Families::Both);
    let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    drop((a, _b, servers));

    let net = Internet::new(Nat::Easy, Site { nat: Nat::None, families: Families::V6 });
    // Relays that both families reach.
    let servers = self::servers(&net, "[::]:8080", Families::Both);
    let key = servers.control.key("ann");
    let a = Node::start(&net.left, "node", Mode::Userspace, &[]);
    let b = Node::start(&net.right, "node", Mode::Userspace, &[]);
    a.up("http://203.0.113.1:8080", &key, &["--hostname", "a"]);
    b.up("http://[2001:db8::1]:8080", &key, &["--hostname", "b"]);
    first_answer(&a, "b");
    let pong = a.ping_once("b").expect("an answer");
    assert!(!is_direct(&pong), "{pong}");
    let why = pong["WarrenWhy"].as_str().unwrap_or_default();
    assert!(why.contains("IPv4") && why.contains("IPv6"), "the reason does not speak of families: {pong}");
}

/// What iperf3 measured. Where its server does not listen yet it says so in JSON and ends well.
fn iperf_answer(printed: &[u8]) -> Result<Value, String> {
    let answer: Value = serde_json::from_slice(printed).map_err(|error| error.to_string())?;
    if answer["error"].is_null() { Ok(answer) } else { Err(answer.to_string()) }
}

#[test]
fn kernel_interfaces_carry_both_families_and_iperf_both_ways() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Kernel; 2]);
    direct(&a, "b");
    let (ip4, ip6) = (b.ip4(), b.ip6());
    net.left.sh(&format!("ping -c 3 -i 0.2 -W 2 {ip4}"));
    net.left.sh(&format!("ping -c 3 -i 0.2 -W 2 {ip6}"));
    let _server = net.right.start("iperf3", "iperf3", &["-s"]);
    for (target, way) in [(&ip4, ""), (&ip4, "-R"), (&ip6, "")] {
        let (answer, _) = till(Duration::from_secs(20), "iperf3", || {
            let out = net.left.try_sh(&format!("iperf3 -c {target} -t 3 -J {way}"));
            iperf_answer(&out.stdout)
        });
        let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        println!("kernel to kernel, {target} {way}: {:.0} Mbit/s", bits / 1e6);
        assert!(bits > 10e6, "only {bits} bit/s: {answer}");
    }
}

#[test]
fn a_kernel_node_and_a_user_space_node_exchange_data_both_ways() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Kernel, Mode::Userspace]);
    direct(&a, "b");
    let ip = b.ip4();
    // Inbound flows of a user-space node end at its loopback.
    let _server = net.right.start("iperf3", "iperf3", &["-s", "-B", "127.0.0.1"]);
    for way in ["", "-R"] {
        let (answer, _) = till(Duration::from_secs(20), "iperf3", || {
            let out = net.left.try_sh(&format!("iperf3 -c {ip} -t 3 -J {way}"));
            iperf_answer(&out.stdout)
        });
        let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        println!("kernel to user space {way}: {:.0} Mbit/s", bits / 1e6);
        assert!(bits > 10e6, "only {bits} bit/s: {answer}");
    }
}

/// Ten cells of the table NAT × NAT (`core/warren-path/tests/nat_matrix.txt`), built as namespaces, for the long run. The usual run has
/// three of them in tests of their own: easy/easy, hard/hard, blocked/easy.
#[test]
fn ten_pairs_of_routers_are_direct_or_relayed_as_the_table_says() {
    if !warren_e2e::inside() || !warren_e2e::long() {
        return;
    }
    use Nat::{Easy, Full, Hard, Keep, None, UdpBlocked};
    let pairs = [
        (None, Easy),
        (Easy, Easy),
        (Easy, Full),
        (Full, Full),
        (Keep, Easy),
        (Keep, Keep),
        (Full, Hard),
        (Easy, Hard),
        (Hard, Hard),
        (UdpBlocked, Full),
    ];
    for (left, right) in pairs {
        let net = Internet::new(left, right);
        let servers = servers4(&net);
        let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
        first_answer(&a, "b");
        if left.direct_with(right) {
            let took = direct(&a, "b");
            println!("{left:?}/{right:?}: direct after {took:?}");
        } else {
            // Twenty seconds hold several rounds of the search from both sides.
            hold(Duration::from_secs(20), "the relay", || {
                for (node, to) in [(&a, "b"), (&b, "a")] {
                    let pong = till(FIRST_ANSWER, "an answer", || node.ping_once(to)).0;
                    if is_direct(&pong) {
                        return Err(pong.to_string());
                    }
                }
                Ok(())
            });
            println!(
                "{left:?}/{right:?}: relayed, {}",
                a.ping_once("b").map_or(String::new(), |pong| pong["WarrenWhy"].to_string())
            );
        }
    }
}
