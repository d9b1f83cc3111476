//! The figures that are asked for, as medians: `WARREN_E2E_RUNS=5` says how often each is measured.

use std::time::{Duration, Instant};

use warren_e2e::service::{Mode, Relay};
use warren_e2e::{Internet, Nat, till};

use crate::paths::{direct, first_answer, join, servers4};

/// How often each figure is measured: five times in the long run, and not at all where nobody asks.
fn runs() -> usize {
    let asked = std::env::var("WARREN_E2E_RUNS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if warren_e2e::long() { 5 } else { 0 })
}

/// Prints one line a figure; a median above three times what is asked for fails.
#[track_caller]
fn report(name: &str, asked: Duration, mut times: Vec<Duration>) {
    times.sort();
    let (Some(least), Some(most)) = (times.first(), times.last()) else { panic!("{name}: never measured") };
    let median = times[times.len() / 2];
    println!(
        "figure {name} median {:.2} min {:.2} max {:.2} runs {} (seconds; asked for: {})",
        median.as_secs_f64(),
        least.as_secs_f64(),
        most.as_secs_f64(),
        times.len(),
        asked.as_secs()
    );
    assert!(median <= asked * 3, "{name}: {median:?}, and {asked:?} is asked for");
}

/// Traffic inside the tunnel, asked for every 50 ms, each waited for briefly: the figure is not the ping's own patience.
fn resumes(a: &warren_e2e::service::Node<'_>) -> Duration {
    let begun = Instant::now();
    till(Duration::from_secs(60), "traffic", || {
        a.try_ask(&["ping", "--tsmp", "-c", "1", "--timeout", "500ms", "b"]).map(drop)
    });
    begun.elapsed()
}

#[test]
fn medians_of_first_answer_direct_path_and_recovery() {
    if !warren_e2e::inside() || runs() == 0 {
        return;
    }
    let mut first = Vec::new();
    let mut found = Vec::new();
    let (mut cut, mut cut_live) = (Vec::new(), Vec::new());
    let mut moved = Vec::new();
    let (mut restarted, mut restarted_live) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        let net = Internet::new(Nat::Easy, Nat::Easy);
        let servers = servers4(&net);
        let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
        let begun = Instant::now();
        first_answer(&a, "b");
        first.push(begun.elapsed());
        direct(&a, "b");
        found.push(begun.elapsed());

        // No data has flown yet: the first handshake falls into the cut. The second cut is one of a live session.
        for times in [&mut cut, &mut cut_live] {
            net.left.sh("ip link set eth0 down");
            std::thread::sleep(Duration::from_secs(3));
            net.left.sh("ip link set eth0 up && ip route replace default via 10.1.0.1");
            times.push(resumes(&a));
            direct(&a, "b");
        }
        net.left.sh("ip addr del 10.1.0.2/24 dev eth0 && ip addr add 10.1.0.77/24 dev eth0 && \
             ip route replace default via 10.1.0.1");
        moved.push(resumes(&a));
    }
    for _ in 0..runs() {
        let net = Internet::new(Nat::Hard, Nat::Hard);
        let servers = servers4(&net);
        let [a, _b] = join(&net, &servers, [Mode::Userspace; 2]);
        first_answer(&a, "b");
        let mut relays = [servers.relay, servers.second];
        for times in [&mut restarted, &mut restarted_live] {
            for relay in relays {
                relay.process.kill9();
            }
            relays = [("relay", "203.0.113.1", 900), ("relay2", "203.0.113.2", 901)]
                .map(|(name, ip, region)| Relay::start(&net.server, name, ip, region, "http://203.0.113.1:8080"));
            times.push(resumes(&a));
        }
    }
    report("first-answer", Duration::from_secs(2), first);
    report("direct", Duration::from_secs(5), found);
    report("resume-after-link-cut", Duration::from_secs(10), cut);
    report("resume-of-a-session-after-link-cut", Duration::from_secs(10), cut_live);
    report("resume-after-address-change", Duration::from_secs(10), moved);
    report("resume-after-relay-restart", Duration::from_secs(10), restarted);
    report("resume-of-a-session-after-relay-restart", Duration::from_secs(10), restarted_live);
}

#[test]
fn median_of_a_policy_change() {
    if !warren_e2e::inside() || runs() == 0 {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    let policy = |port: u16| format!(r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["*:{port}"]}}]}}"#);
    servers.control.set_policy(&policy(80));
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    let script = "import socketserver\n\
        class H(socketserver.BaseRequestHandler):\n def handle(self): self.request.sendall(b'xxx')\n\
        class S(socketserver.ThreadingTCPServer): allow_reuse_address=True; daemon_threads=True\n\
        S(('127.0.0.1',80),H).serve_forever()\n";
    std::fs::write(net.right.folder().join("talk.py"), script).expect("write the server");
    let _server = net.right.start("talk", "python3", &["talk.py"]);
    let node = a.state().join("node.sock").display().to_string();
    let warren = warren_e2e::executable("warren").display().to_string();
    let answers = || {
        let out = a.machine.try_sh(&format!("timeout 1 {warren} --socket {node} nc b 80 | head -c 3"));
        out.stdout == b"xxx"
    };
    till(Duration::from_secs(20), "the service", || answers().then_some(()).ok_or_else(|| "silence".to_string()));
    let (mut taken, mut given) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        for (port, is_open, times) in [(81, false, &mut taken), (80, true, &mut given)] {
            servers.control.set_policy(&policy(port));
            let begun = Instant::now();
            till(Duration::from_secs(20), "the policy's effect", || {
                (answers() == is_open).then_some(()).ok_or_else(|| "not yet".to_string())
            });
            times.push(begun.elapsed());
        }
    }
    drop(b);
    report("policy-takes-a-port", Duration::from_secs(2), taken);
    report("policy-gives-a-port", Duration::from_secs(2), given);
}
