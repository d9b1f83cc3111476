//! Getting in while the server is not there yet.

use std::time::{Duration, Instant};

use warren_e2e::service::{Control, Mode, Node, PATIENCE};
use warren_e2e::{Internet, Nat, executable, till};

const ADDRESS: &str = "203.0.113.1:8080";

#[test]
fn up_waits_for_a_server_that_comes_later_and_says_so_meanwhile() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let control = Control::start(&net.server, "control", ADDRESS, &[]);
    let (key, url) = (control.key("ann"), control.url.clone());
    control.process.stop();

    let node = Node::start(&net.left, "node", Mode::Userspace, &[]);
    let socket = node.state().join("node.sock").display().to_string();
    let up = ["--socket", &socket, "up", "--login-server", &url, "--auth-key", &key];
    let begun = Instant::now();
    let out = node.run(&[&up[2..], &["--timeout", "2s"]].concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && begun.elapsed() >= Duration::from_secs(2), "{said}");
    assert!(said.contains("timeout"), "{said}");

    let waiting = net.left.start("up", executable("warren"), &up);
    till(PATIENCE, "word of what it waits for", || {
        let said = waiting.log();
        let has_all = ["cannot reach http://203.0.113.1:8080", "connection refused", "trying again"]
            .iter()
            .all(|word| said.contains(word));
        has_all.then_some(()).ok_or(said)
    });
    std::thread::sleep(Duration::from_secs(3));
    let _control = Control::start(&net.server, "control", ADDRESS, &[]);
    let there = Instant::now();
    assert!(waiting.ends_within(PATIENCE).success());
    println!("up: {:?} after the server was there", there.elapsed());
    assert_eq!(node.status()["BackendState"], "Running");

    // A refusal ends it at once, however long it may take.
    let other = Node::start(&net.right, "node", Mode::Userspace, &[]);
    let begun = Instant::now();
    let out = other.run(&["up", "--login-server", &url, "--auth-key", "wkey-auth-000000000000-0000"]);
    assert!(!out.status.success() && begun.elapsed() < Duration::from_secs(10));
}
