//! A policy that changes while traffic flows.

use std::time::Duration;

use warren_e2e::service::Mode;
use warren_e2e::{Internet, Nat, till};

use crate::paths::{direct, join, servers4};

/// Three times the two seconds asked for.
const EFFECT: Duration = Duration::from_secs(6);

const OPEN: &str = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}"#;
const ONLY_81: &str = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:81"]}]}"#;
const NOTHING: &str = r#"{"acls": []}"#;

#[test]
fn a_port_that_is_taken_away_cuts_running_flows_and_comes_back() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let servers = servers4(&net);
    servers.control.set_policy(OPEN);
    let [a, b] = join(&net, &servers, [Mode::Userspace; 2]);
    direct(&a, "b");
    // A server that says something every 100 ms, on two ports.
    let script = "import socketserver,time\n\
        class H(socketserver.BaseRequestHandler):\n def handle(self):\n  \n  while True:\n   self.request.sendall(b'x'); time.sleep(0.1)\n\
        class S(socketserver.ThreadingTCPServer): allow_reuse_address=True; daemon_threads=True\n\
        import threading\n\
        for p in (80,81): threading.Thread(target=S(('127.0.0.1',p),H).serve_forever).start()\n";
    std::fs::write(net.right.folder().join("talk.py"), script).expect("write the server");
    let _server = net.right.start("talk", "python3", &["talk.py"]);
    till(Duration::from_secs(10), "the two ports", || {
        let both = "import socket; [socket.create_connection(('127.0.0.1', p), 1).recv(1) for p in (80, 81)]";
        let out = net.right.try_sh(&format!("python3 -c \"{both}\""));
        out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
    });
    let out = net.left.folder().join("heard");
    let node = a.state().join("node.sock").display().to_string();
    let warren = warren_e2e::executable("warren").display().to_string();
    let listen = format!("exec {warren} --socket {node} nc b 80 > {}", out.display());
    let heard = || std::fs::metadata(&out).map(|meta| meta.len()).unwrap_or(0);
    let mut flow = net.left.start("nc", "sh", &["-c", &listen]);
    till(Duration::from_secs(10), "the flow", || {
        (heard() > 5).then_some(()).ok_or_else(|| format!("{} bytes; {}", heard(), flow.log()))
    });

    servers.control.set_policy(ONLY_81);
    let mut last = heard();
    let (_, took) = till(EFFECT, "silence on the running flow", || {
        std::thread::sleep(Duration::from_millis(600));
        let now = heard();
        let silent = now == last;
        last = now;
        silent.then_some(()).ok_or_else(|| format!("{now} bytes"))
    });
    println!("policy: a running flow was cut within {took:?}");
    let _ = flow.is_running();
    let refused = a.machine.try_sh(&format!("timeout 3 {warren} --socket {node} nc b 80 | head -c 3"));
    assert!(refused.stdout.is_empty(), "port 80 still answers");
    let allowed = a.machine.sh(&format!("timeout 5 {warren} --socket {node} nc b 81 | head -c 3"));
    assert_eq!(allowed, "xxx");

    servers.control.set_policy(OPEN);
    till(EFFECT, "a new flow on the port that was given back", || {
        let out = a.machine.try_sh(&format!("timeout 2 {warren} --socket {node} nc b 80 | head -c 3"));
        (out.stdout == b"xxx").then_some(()).ok_or_else(|| "nothing heard".to_string())
    });

    servers.control.set_policy(NOTHING);
    for node in [&a, &b] {
        till(EFFECT, "peers that no rule connects to disappear", || {
            let status = node.try_status()?;
            let peers = status["Peer"].as_object().map_or(0, serde_json::Map::len);
            (peers == 0).then_some(()).ok_or_else(|| format!("{peers} peers"))
        });
    }
}
