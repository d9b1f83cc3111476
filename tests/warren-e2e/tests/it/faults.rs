//! Things that break while traffic flows.

use std::time::Duration;

use serde_json::Value;
use warren_e2e::service::{Control, Mode, Node, PATIENCE, Relay};
use warren_e2e::{Internet, Nat, hold, till};

use crate::paths::{direct, first_answer, join, servers4};

/// Three times the ten seconds asked for.
const RESUME: Duration = Duration::from_secs(30);

fn traffic(a: &Node<'_>) -> Result<(), String> {
    a.try_ask(&["ping", "--tsmp", "-c", "1", "--timeout", "2s", "b"]).map(drop)
}

#[test]
fn tunnels_outlive_a_killed_control_server_and_nothing_it_answered_is_lost() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    let before = (a.ip4(), b.ip4(), servers.control.ask(&["nodes", "list", "--json"]));
    let late_key = servers.control.key("bob");
    servers.control.process.kill9();
    hold(Duration::from_secs(5), "the tunnel without a control server", || traffic(&a));

    // A peer that starts again meanwhile has no control server to ask; its cached map must do.
    let ip = b.ip4();
    b.process.kill9();
    let b = Node::start(&net.right, "node", Mode::Userspace, &[]);
    assert_eq!(b.ip4(), ip);
    till(RESUME, "the tunnel to a peer that started from its cached map", || traffic(&a));
    let status = b.status();
    assert!(status["WarrenMapAgeSeconds"].is_u64(), "says nothing of the age of its map: {status}");

    let args = ["--no-relay", "--relay-map", &servers.map];
    let control = Control::start(&net.server, "control", "203.0.113.1:8080", &args);
    till(PATIENCE, "both nodes to return by themselves", || {
        let nodes: Value =
            serde_json::from_str(&control.try_ask(&["nodes", "list", "--json"])?).map_err(|e| e.to_string())?;
        let online = nodes.as_array().into_iter().flatten().filter(|node| node["online"] == true).count();
        (online == 2).then_some(()).ok_or_else(|| format!("{online} online"))
    });
    let after: Value = serde_json::from_str(&control.ask(&["nodes", "list", "--json"])).expect("JSON");
    let earlier: Value = serde_json::from_str(&before.2).expect("JSON");
    let facts = |nodes: &Value| {
        let list = nodes.as_array().cloned().unwrap_or_default();
        list.iter().map(|n| (n["id"].clone(), n["nodeKey"].clone(), n["ipAddresses"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(facts(&after), facts(&earlier));
    assert_eq!((a.ip4(), b.ip4()), (before.0, before.1));
    let keys = control.ask(&["keys", "list", "--json"]);
    let prefix = late_key.split('-').nth(2).expect("a prefix in the key").to_string();
    assert!(keys.contains(&prefix), "the key made last is gone: {keys}");
}

#[test]
fn a_flow_through_a_relay_resumes_when_the_relay_is_back() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Hard, Nat::Hard);
    let servers = servers4(&net);
    let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
    first_answer(&a, "b");
    servers.relay.process.kill9();
    servers.second.process.kill9();
    till(Duration::from_secs(20), "the loss to show", || match traffic(&a) {
        Ok(()) => Err("still answers".to_string()),
        Err(_) => Ok(()),
    });
    let _relays = [("relay", "203.0.113.1", 900), ("relay2", "203.0.113.2", 901)]
        .map(|(name, ip, region)| Relay::start(&net.server, name, ip, region, "http://203.0.113.1:8080"));
    let (_, took) = till(RESUME, "traffic through the relay", || traffic(&a));
    println!("relay killed and back: traffic after {took:?}");
}

#[test]
fn a_killed_node_comes_back_with_its_addresses_and_without_a_login() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    let (ip, key) = (b.ip4(), b.status()["Self"]["PublicKey"].clone());
    b.process.kill9();
    let b = Node::start(&net.right, "node", Mode::Userspace, &[]);
    let (_, took) = till(RESUME, "traffic to the node that was killed", || traffic(&a));
    println!("node killed and back: traffic after {took:?}");
    assert_eq!((b.ip4(), b.status()["Self"]["PublicKey"].clone()), (ip, key));
}

#[test]
fn a_cut_link_and_a_changed_address_do_not_end_a_flow() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    net.left.sh("ip link set eth0 down");
    std::thread::sleep(Duration::from_secs(3));
    net.left.sh("ip link set eth0 up && ip route replace default via 10.1.0.1");
    let (_, took) = till(RESUME, "traffic after the link was cut", || traffic(&a));
    println!("link cut: traffic after {took:?}");
    direct(&a, "b");

    net.left.sh("ip addr del 10.1.0.2/24 dev eth0 && ip addr add 10.1.0.77/24 dev eth0 && ip route replace default via 10.1.0.1");
    let (_, took) = till(RESUME, "traffic from the new address", || traffic(&a));
    println!("address changed: traffic after {took:?}");
}

#[test]
fn a_key_that_expires_during_an_outage_cuts_its_node_then_and_a_restart_does_not_help() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    servers.control.ask(&["nodes", "expire", "b", "--after", "12s"]);
    till(Duration::from_secs(6), "a to hear of it", || {
        let peer = a.peer("b")?;
        peer["KeyExpiry"].is_string().then_some(()).ok_or_else(|| peer.to_string())
    });
    servers.control.process.kill9();
    traffic(&a).expect("the key is still good");
    till(Duration::from_secs(25), "the cut", || match traffic(&a) {
        Ok(()) => Err("still answers".to_string()),
        Err(_) => Ok(()),
    });
    b.process.kill9();
    let _b = Node::start(&net.right, "node", Mode::Userspace, &[]);
    hold(Duration::from_secs(5), "the cut after a restart", || match traffic(&a) {
        Ok(()) => Err("answers again".to_string()),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_killed_helper_leaves_nothing_that_the_next_start_does_not_sweep() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let before = host(&net.left);
    let [mut a, b] = join(&net, &servers, [Mode::Kernel; 2]);
    let ip = b.ip4();
    till(PATIENCE, "packets through the interface", || ping(&a, &ip));
    if let Some(helper) = a.helper() {
        helper.kill9();
    }
    a.process.kill9();
    let mut a = Node::start(&net.left, "node", Mode::Kernel, &[]);
    till(PATIENCE, "packets after the next start", || ping(&a, &ip));
    let helper = a.helper();
    a.process.stop();
    drop(helper);
    till(PATIENCE, "the host as before", || {
        let now = host(&net.left);
        (now == before).then_some(()).ok_or(now)
    });
    drop(b);
}

#[test]
fn a_helper_that_starts_anew_alone_interrupts_the_traffic_only() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [mut a, b] = join(&net, &servers, [Mode::Kernel; 2]);
    let ip = b.ip4();
    till(PATIENCE, "packets through the interface", || ping(&a, &ip));
    let stream = net.left.start("flood", "ping", &["-f", "-q", &ip]);
    for kill in [true, false, true] {
        a.restart_helper(kill);
        let (_, took) = till(RESUME, "packets after the helper's next start", || ping(&a, &ip));
        println!("helper restarted: packets after {took:?}");
    }
    stream.stop();
    a.try_status().expect("the node still answers");
}

#[test]
fn an_interface_that_others_change_or_take_away_is_set_up_again() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Kernel; 2]);
    let (own, ip) = (a.ip4(), b.ip4());
    till(PATIENCE, "packets through the interface", || ping(&a, &ip));
    let before = host(&net.left);
    let down = "ip link set warren0 down";
    for line in [
        down,
        &format!("ip addr del {own}/32 dev warren0"),
        &format!("ip route del {ip}"),
        "ip link del warren0",
        // Once more, when the last news of the new interface is over.
        "nft flush ruleset",
        "nft flush ruleset",
    ] {
        net.left.sh(line);
        let (_, took) = till(RESUME, line, || ping(&a, &ip));
        let (_, mended) = till(PATIENCE, "the host as it was while the node ran", || {
            let now = host(&net.left);
            (now == before).then_some(()).ok_or(now)
        });
        println!("{line}: packets after {took:?}, all as before {mended:?} later");
    }
}

#[test]
fn everything_killed_at_once_leaves_nothing_that_doctor_or_the_next_start_does_not_clear() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let before = [&net.left, &net.right, &net.server].map(host);
    for round in ["doctor", "the next start"] {
        let servers = servers4(&net);
        let [mut a, mut b] = join(&net, &servers, [Mode::Kernel; 2]);
        let ip = b.ip4();
        till(PATIENCE, "packets through the interface", || ping(&a, &ip));
        let helpers = [a.helper(), b.helper()].into_iter().flatten();
        let services = [servers.control.process, servers.relay.process, servers.second.process];
        warren_e2e::kill9_all(services.into_iter().chain([a.process, b.process]).chain(helpers));
        if round == "doctor" {
            for machine in [&net.left, &net.right, &net.server] {
                assert!(machine.sockets().len() <= 2);
                for socket in machine.sockets() {
                    let out = machine.warren(&["--socket", &socket, "doctor"]);
                    assert!(String::from_utf8_lossy(&out.stdout).contains("leftover: socket"), "{out:?}");
                }
            }
        } else {
            let servers = servers4(&net);
            let [a, b] = ["a", "b"].map(|name| {
                let machine = if name == "a" { &net.left } else { &net.right };
                Node::start(machine, "node", Mode::Kernel, &[])
            });
            assert_eq!(b.ip4(), ip, "the same addresses, without a login");
            till(PATIENCE, "packets after the next start", || ping(&a, &ip));
            drop((a, b, servers));
        }
        for (machine, before) in [&net.left, &net.right, &net.server].into_iter().zip(&before) {
            assert_eq!(machine.sockets(), Vec::<String>::new(), "after {round}");
            till(PATIENCE, "the host as before", || {
                let now = host(machine);
                (now == *before).then_some(()).ok_or(now)
            });
        }
    }
}

fn ping(node: &Node<'_>, ip: &str) -> Result<(), String> {
    let out = node.machine.try_sh(&format!("ping -c 1 -W 1 {ip}"));
    out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What a host would notice of us: interfaces, routes, rules.
fn host(machine: &warren_e2e::Machine) -> String {
    machine.sh("ip -o link show | sed 's/@.*//' | awk '{print $2}' | sort; ip route show table all | grep -v 'expires' | sort; ip rule show; nft list ruleset")
}
