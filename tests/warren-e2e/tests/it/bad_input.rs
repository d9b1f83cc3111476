//! Bad input of every kind: a clear refusal or a counted drop, nothing lost, nobody else hurt. The table of `docs/operators/bad-input.md`.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use warren_e2e::service::{Control, Mode, Node, PATIENCE, Relay};
use warren_e2e::{Machine, executable, till};

const LISTEN: &str = "127.0.0.1:8080";

fn machine(name: &str) -> Machine {
    let folder = std::env::temp_dir().join(format!("warren-bad-{name}-{}", nanos()));
    Machine::new(name, &folder)
}

fn nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// A refusal that a person can use: non-zero exit, one line, no backtrace, and the words that matter.
#[track_caller]
fn check_refusal(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it succeeded: {}", String::from_utf8_lossy(&output.stdout));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("warren")).collect();
    assert_eq!(lines.len(), 1, "not one line for a person:\n{text}");
    assert!(!text.contains("panicked") && !text.contains("stack backtrace"), "{text}");
    for word in words {
        assert!(lines[0].to_lowercase().contains(&word.to_lowercase()), "\"{word}\" is not in: {}", lines[0]);
    }
}

/// A service that must end by itself with a refusal.
fn start(machine: &Machine, args: &[&str]) -> Output {
    let program = executable("warren").display().to_string();
    let mut command = machine.command("timeout");
    command.arg("20").arg(program).args(args);
    command.output().expect("timeout starts")
}

fn control_args<'a>(state: &'a str, listen: &'a str) -> Vec<&'a str> {
    vec!["control", "serve", "--state", state, "--listen", listen, "--server-url", "http://127.0.0.1:8080"]
}

fn node_args(state: &str) -> Vec<&str> {
    vec!["node", "run", "--state", state, "--tun", "userspace-networking"]
}

#[test]
fn damaged_foreign_and_newer_state_is_refused_and_left_alone() {
    if !warren_e2e::inside() {
        return;
    }
    let host = machine("badstate");
    // A server and a node that have run once.
    let control = Control::start(&host, "control", LISTEN, &[]);
    let key = control.key("ann");
    let node = Node::start(&host, "node", Mode::Userspace, &[]);
    node.up(&control.url, &key, &[]);
    let (control_state, node_state) = (host.folder().join("control"), node.state());
    node.process.stop();
    control.process.stop();
    let file_in = |folder: &Path, ending: &str| {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
        let mut found: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
        found.sort();
        found.into_iter().next().unwrap_or_else(|| panic!("no *{ending} in {}", folder.display()))
    };
    let state_file = file_in(&node_state, ".json");
    let good = std::fs::read(&state_file).expect("the state");
    let mut newer: serde_json::Value = serde_json::from_slice(&good).expect("JSON");
    newer["format"] = 99.into();
    let newer = newer.to_string();
    for (bad, words) in [
        (&b"{\"form"[..], &["state"][..]),
        (&b"\x7fELF"[..], &["state"][..]),
        (newer.as_bytes(), &["format 99", "knows up to"][..]),
    ] {
        std::fs::write(&state_file, bad).expect("damage it");
        let shown = node_state.display().to_string();
        check_refusal(&start(&host, &node_args(&shown)), words);
        assert_eq!(std::fs::read(&state_file).expect("still there"), bad, "the damaged file was changed");
    }
    let database = file_in(&control_state, ".db");
    let good = std::fs::read(&database).expect("the database");
    let shown = control_state.display().to_string();
    let mut torn = good.clone();
    torn[100..2000].fill(0x5a);
    for (bad, words) in [
        (b"not a database at all, but long enough to be looked at".to_vec(), &["database"][..]),
        (torn, &["database"][..]),
    ] {
        std::fs::write(&database, &bad).expect("damage it");
        check_refusal(&start(&host, &control_args(&shown, LISTEN)), words);
        assert_eq!(std::fs::read(&database).expect("still there"), bad, "the damaged database was changed");
    }
    std::fs::write(&database, &good).expect("put it back");
    let control = Control::start(&host, "control", LISTEN, &[]);
    assert!(control.ask(&["nodes", "list", "--json"]).contains("100.64.0.1"), "something was lost");
}

#[test]
fn a_folder_that_cannot_be_used_a_full_disk_and_a_taken_port_are_named() {
    if !warren_e2e::inside() {
        return;
    }
    let host = machine("badhost");
    let locked = host.folder().join("locked");
    std::fs::create_dir_all(&locked).expect("a folder");
    let shown = locked.display().to_string();
    host.sh(&format!("chmod 0 {shown} && chmod 755 {}", host.folder().display()));
    let program = warren_e2e::executable_for_anybody("warren", &host).display().to_string();
    let inner = [program.as_str()].into_iter().chain(node_args(&shown)).collect::<Vec<_>>().join(" ");
    let as_nobody = host.try_sh(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups timeout 20 {inner}"));
    if String::from_utf8_lossy(&as_nobody.stderr).contains("setpriv:") {
        println!("SKIPPED unreadable folder as an ordinary user: no other user here");
    } else {
        check_refusal(&as_nobody, &["locked"]);
    }

    let small = host.folder().join("small");
    std::fs::create_dir_all(&small).expect("a folder");
    let shown = small.display().to_string();
    // `ip netns exec` has a mount namespace of its own each time, so the mount is made and used in one go.
    let line = |args: Vec<&str>| {
        format!(
            "mount -t tmpfs -o size=1m tmpfs {shown} && head -c 2000000 /dev/zero > {shown}/filler 2>/dev/null; timeout 20 {program} {}",
            args.join(" ")
        )
    };
    for args in [control_args(&shown, LISTEN), node_args(&shown)] {
        check_refusal(&host.try_sh(&line(args)), &["space"]);
    }

    let _first = Control::start(&host, "control", LISTEN, &[]);
    let other = host.folder().join("other").display().to_string();
    check_refusal(&start(&host, &control_args(&other, LISTEN)), &["8080"]);
}

#[test]
fn wrong_used_and_expired_keys_a_malformed_policy_and_a_wrong_server_are_refused_with_a_reason() {
    if !warren_e2e::inside() {
        return;
    }
    let host = machine("badkeys");
    let control = Control::start(&host, "control", LISTEN, &[]);
    control.ask(&["users", "create", "ann"]);
    let key = |more: &[&str]| {
        let mut args = vec!["keys", "create", "--user", "ann", "--json"];
        args.extend(more);
        let answer: serde_json::Value = serde_json::from_str(&control.ask(&args)).expect("JSON");
        answer["key"].as_str().expect("a key").to_string()
    };
    let (once, short) = (key(&[]), key(&["--expiration", "1s"]));
    let good = Node::start(&host, "good", Mode::Userspace, &[]);
    good.up(&control.url, &once, &[]);
    drop(good);
    std::thread::sleep(Duration::from_secs(1));
    for (name, key, words) in [
        ("used", once.as_str(), &["used"][..]),
        ("expired", short.as_str(), &["expired"]),
        ("wrong", "wkey-auth-000000000000-0000", &["key"]),
    ] {
        let node = Node::start(&host, name, Mode::Userspace, &["--port", "0"]);
        let out = node.run(&["up", "--login-server", &control.url, "--auth-key", key, "--timeout", "15s"]);
        check_refusal(&out, words);
    }
    let node = Node::start(&host, "pinned", Mode::Userspace, &["--port", "0"]);
    let other = format!("mkey:{}", "ab".repeat(32));
    let fresh = key(&[]);
    let out = node.run(&[
        "up",
        "--login-server",
        &control.url,
        "--auth-key",
        &fresh,
        "--server-key",
        &other,
        "--timeout",
        "15s",
    ]);
    check_refusal(&out, &["not the control server that it should be"]);

    let before = control.try_ask(&["policy", "get"]);
    for (policy, words) in [
        ("{\"acls\": [", &["line"][..]),
        ("{\"acls\": [{\"action\": \"accept\", \"src\": [\"group:nobody\"], \"dst\": [\"*:*\"]}]}", &["group:nobody"]),
    ] {
        let file = host.folder().join("bad.hujson");
        std::fs::write(&file, policy).expect("write");
        let refused = control.try_ask(&["policy", "set", "--file", &file.display().to_string()]);
        let text = refused.expect_err("a malformed policy was taken");
        for word in words {
            assert!(text.contains(word), "\"{word}\" is not in: {text}");
        }
    }
    assert_eq!(control.try_ask(&["policy", "get"]), before, "a refused policy changed the one in force");
}

#[test]
fn a_clock_that_is_a_day_off_is_named_and_harms_nobody() {
    if !warren_e2e::inside() {
        return;
    }
    let host = machine("badclock");
    if host.try_sh("command -v faketime").stdout.is_empty() {
        println!("SKIPPED a clock off by a day: faketime is not installed");
        return;
    }
    let control = Control::start(&host, "control", LISTEN, &[]);
    let key = control.key("ann");
    let a = Node::start(&host, "a", Mode::Userspace, &[]);
    a.up(&control.url, &key, &["--hostname", "a"]);
    let state = host.folder().join("b");
    std::fs::create_dir_all(&state).expect("a folder");
    let (shown, socket) = (state.display().to_string(), state.join("node.sock").display().to_string());
    let program = executable("warren").display().to_string();
    let args = [
        "-f",
        "+1d",
        &program,
        "node",
        "run",
        "--state",
        &shown,
        "--socket",
        &socket,
        "--tun",
        "userspace-networking",
        "--port",
        "0",
    ];
    let _b = host.start("b", "faketime", &args);
    let ask = |words: &[&str]| {
        let mut args = vec!["--socket", &socket];
        args.extend(words);
        let out = host.warren(&args);
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
            .ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
    };
    till(PATIENCE, "the daemon with the wrong clock", || ask(&["status", "--json"]));
    ask(&["up", "--login-server", &control.url, "--auth-key", &key, "--hostname", "b", "--timeout", "20s"])
        .expect("it joins");
    till(PATIENCE, "traffic", || a.try_ask(&["ping", "--tsmp", "-c", "1", "b"]));
    till(PATIENCE, "a word about the clock", || {
        let status = ask(&["status", "--json"])?;
        status.to_lowercase().contains("clock").then_some(()).ok_or(status)
    });
}

/// Resident memory of a process, bytes.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn p99(a: &Node<'_>, samples: usize) -> Duration {
    let mut times: Vec<Duration> = (0..samples)
        .map(|_| {
            let pong = till(Duration::from_secs(10), "an answer", || a.ping_once("b")).0;
            Duration::from_secs_f64(pong["LatencySeconds"].as_f64().unwrap_or(1.0))
        })
        .collect();
    times.sort();
    times[samples * 99 / 100]
}

const MIB: u64 = 1 << 20;

/// What was counted while an attack ran.
struct Counted {
    /// `warren debug counters` of both.
    nodes: [Value; 2],
    relay: Value,
    control: Value,
}

/// Runs `attack` on the machine's own loopback while two nodes talk; memory and the bystander's latency are bounded. What
/// was counted meanwhile is `check`'s to judge.
fn check_attack(name: &str, attack: &str, check: impl FnOnce(Counted)) {
    let host = machine(name);
    let control = Control::start(&host, "control", LISTEN, &[]);
    let key = control.key("ann");
    let _relay = Relay::start(&host, "relay", "127.0.0.1", 901, &control.url);
    let a = Node::start(&host, "a", Mode::Userspace, &[]);
    let b = Node::start(&host, "b", Mode::Userspace, &["--port", "41642", "--socks5-server", "127.0.0.1:1056"]);
    a.up(&control.url, &key, &["--hostname", "a"]);
    b.up(&control.url, &key, &["--hostname", "b"]);
    let processes = [control.process.pid(), a.process.pid(), b.process.pid()];
    let quiet = p99(&a, 30);
    let before = processes.map(memory);
    std::fs::write(host.folder().join("attack.py"), attack).expect("write the attack");
    let mut attacker =
        host.start("attack", "python3", &["attack.py", &a.state().join("node.sock").display().to_string()]);
    let loud = p99(&a, 30);
    let mut most = before;
    let end = Instant::now() + Duration::from_secs(60);
    while attacker.is_running() && Instant::now() < end {
        for (most, pid) in most.iter_mut().zip(processes) {
            *most = (*most).max(memory(pid));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(attacker.log().contains("done"), "the attack did not run to its end: {}", attacker.log());
    let more: Vec<u64> = most.iter().zip(before).map(|(most, before)| most.saturating_sub(before) / MIB).collect();
    println!("{name}: bystander p99 {quiet:?} quiet, {loud:?} attacked; MiB more: {more:?}");
    assert!(more.iter().all(|mib| *mib <= 64), "memory grew by {more:?} MiB");
    // Two cores carry attacker, victims and bystander: three times the quiet figure, three times for the machine.
    assert!(loud <= quiet.max(Duration::from_millis(5)) * 9, "{quiet:?} became {loud:?}");
    a.ask(&["ping", "-c", "1", "--until-direct=false", "b"]);
    control.ask(&["nodes", "list"]);
    let counted = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let nodes = [&a, &b].map(|node| counted(&node.ask(&["debug", "counters"])));
    let relay = counted(&host.sh("curl -ksS --noproxy '*' https://127.0.0.1:3444/debug/counters"));
    let control = counted(&host.sh("curl -sS --noproxy '*' http://127.0.0.1:8080/debug/counters"));
    check(Counted { nodes, relay, control });
}

/// The sum of the drops of these reasons; all that there are where none is named.
#[track_caller]
fn dropped(counters: &Value, reasons: &[&str]) -> u64 {
    let drops = counters["dropped"].as_object().unwrap_or_else(|| panic!("no drops in {counters}"));
    let all: Vec<&str> = drops.keys().map(String::as_str).collect();
    let reasons = if reasons.is_empty() { &all } else { reasons };
    reasons.iter().map(|reason| drops[*reason].as_u64().unwrap_or_else(|| panic!("no {reason} in {counters}"))).sum()
}

#[test]
fn ten_thousand_half_open_connections_and_slow_clients_hurt_nobody() {
    if !warren_e2e::inside() {
        return;
    }
    check_attack(
        "halfopen",
        "import socket,resource,time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE,(12000,12000))\n\
         s=[]\n\
         for i in range(10000):\n\
         \x20try:\n\
         \x20 c=socket.create_connection(('127.0.0.1',8080),2)\n\
         \x20 if i%3==1: c.send(b'GET /key?v=1')\n\
         \x20 if i%3==2: c.send(b'\\x16\\x03\\x01')\n\
         \x20 s.append(c)\n\
         \x20except OSError: pass\n\
         time.sleep(3)\n\
         print('done',len(s))\n",
        |counted| {
            // Of one source's unfinished connections 512 are kept, and of those that ended some said nothing.
            assert!(dropped(&counted.control["listener"], &["too-many"]) > 5000, "{}", counted.control);
        },
    );
}

#[test]
fn a_hundred_thousand_garbage_datagrams_and_frames_hurt_nobody() {
    if !warren_e2e::inside() {
        return;
    }
    check_attack(
        "garbage",
        "import socket,os,sys,random,ssl\n\
         u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         disco=bytes.fromhex('5453f09f92ac'); stun=bytes.fromhex('000100142112a442')\n\
         heads=[b'\\x01\\0\\0\\0',b'\\x02\\0\\0\\0',b'\\x03\\0\\0\\0',b'\\x04\\0\\0\\0',disco,stun,b'']\n\
         for i in range(100000):\n\
         \x20h=heads[i%len(heads)]; n={0:148,1:92,2:64,3:96,4:120,5:40,6:random.randrange(1,1400)}[i%7]\n\
         \x20u.sendto((h+os.urandom(n))[:max(n,1)],('127.0.0.1',[41641,41642,3479][i%3]))\n\
         def tcp(data,n):\n\
         \x20for _ in range(n):\n\
         \x20 try:\n\
         \x20  c=socket.create_connection(('127.0.0.1',8080),2); c.settimeout(0.5); c.sendall(data())\n\
         \x20  c.recv(10); c.close()\n\
         \x20 except OSError: pass\n\
         tcp(lambda: os.urandom(4000),300)\n\
         tcp(lambda: b'GET / HTTP/1.1\\r\\nHost: x\\r\\nX: '+b'a'*200000,20)\n\
         tcp(lambda: b'POST /ts2021 HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: tailscale-control-protocol\\r\\nConnection: upgrade\\r\\nX-Tailscale-Handshake: '+os.urandom(60).hex().encode()+b'\\r\\n\\r\\n'+os.urandom(3000),200)\n\
         ctx=ssl.create_default_context(); ctx.check_hostname=False; ctx.verify_mode=ssl.CERT_NONE\n\
         for i in range(100):\n\
         \x20try:\n\
         \x20 c=ctx.wrap_socket(socket.create_connection(('127.0.0.1',[8080,3444][i%2]),2)); c.settimeout(0.5)\n\
         \x20 c.sendall(b'GET /derp HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: DERP\\r\\nConnection: Upgrade\\r\\n\\r\\n'); c.recv(500)\n\
         \x20 c.sendall(bytes([random.randrange(32)])+b'\\xff\\xff\\xff\\xff'+os.urandom(3000)); c.recv(10); c.close()\n\
         \x20except OSError: pass\n\
         for port in (1055,1056):\n\
         \x20for _ in range(200):\n\
         \x20 try:\n\
         \x20  c=socket.create_connection(('127.0.0.1',port),2); c.settimeout(0.2); c.sendall(os.urandom(300)); c.recv(10); c.close()\n\
         \x20 except OSError: pass\n\
         for _ in range(200):\n\
         \x20try:\n\
         \x20 c=socket.socket(socket.AF_UNIX); c.settimeout(0.2); c.connect(sys.argv[1]); c.sendall(os.urandom(5000)); c.recv(10); c.close()\n\
         \x20except OSError: pass\n\
         print('done')\n",
        |Counted { nodes, relay, control }| {
            // Sent to the control server: 300 bursts of garbage, 20 heads without an end, 200 handshakes that are none,
            // 50 logins at its own relay. A client that reset its connection before we read was not heard.
            assert!(dropped(&control["listener"], &["not-http", "not-tls"]) >= 200, "{control}");
            assert!(dropped(&control["control"], &["handshake", "request"]) >= 150, "{control}");
            assert!(control["malformed"].as_u64().is_some_and(|count| count >= 40), "{control}");
            // A third of 100,000 datagrams went to the port of the relay's STUN server.
            assert!(dropped(&relay["stun"], &["not-a-request"]) > 15_000, "{relay}");
            for node in &nodes {
                // A seventh of 33,000 datagrams each; some may be lost before we read them.
                assert!(dropped(&node["handshakes"], &["malformed", "bad-mac1", "rate-limited"]) > 5000, "{node}");
                assert!(dropped(node, &["bad-handshake"]) > 5000, "{node}");
                assert!(dropped(node, &["unknown-keys"]) > 2000, "{node}");
                assert!(dropped(node, &["not-a-message"]) > 2000, "{node}");
                assert!(dropped(&node["disco"], &["unknown-sender", "malformed"]) > 2000, "{node}");
                assert!(dropped(&node["disco"], &[]) > 4000, "STUN's are among these: {node}");
                assert!(dropped(node, &["socks5"]) >= 150, "{node}");
            }
            assert!(dropped(&nodes[0], &["local-api"]) >= 150, "{}", nodes[0]);
            assert!(relay["malformed"].as_u64().is_some_and(|count| count >= 40), "{relay}");
        },
    );
}

#[test]
fn local_api_refuses_pages_and_foreign_hosts() {
    if !warren_e2e::inside() {
        return;
    }
    let host = machine("badpage");
    let node = Node::start(&host, "node", Mode::Userspace, &[]);
    let socket = node.state().join("node.sock").display().to_string();
    let code = |more: &str| {
        host.sh(&format!("curl -s -o /dev/null -w '%{{http_code}}' --unix-socket {socket} {more} http://local-tailscaled.sock/localapi/v0/status"))
    };
    assert_eq!(code(""), "200");
    assert_eq!(code("-H 'Origin: http://evil.example'"), "403");
    assert_eq!(code("-H 'Referer: http://evil.example/'"), "403");
    assert_eq!(code("-H 'Host: evil.example'"), "403");
}
