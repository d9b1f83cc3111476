//! `cargo xtask lab <nat> <nat>`: builds two routers and leaves two shells open. Started inside namespaces of its own.

use std::process::{Command, ExitCode};

use warren_e2e::service::{Control, Mode, Node, Relay};
use warren_e2e::{Internet, Nat, can_make_tun};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let kinds: Vec<Option<Nat>> = words.iter().map(|word| Nat::parse(word)).collect();
    let [Some(left), Some(right)] = kinds.as_slice() else {
        eprintln!("two kinds of router: none easy keep full cone hard symmetric blocked");
        return ExitCode::from(2);
    };
    let net = Internet::new(*left, *right);
    let url = "http://203.0.113.1:8080";
    let relay = Relay::start(&net.server, "relay", "203.0.113.1", 900, url);
    let second = Relay::start(&net.server, "relay2", "203.0.113.2", 901, url);
    let map = Relay::merge_maps(&[&relay, &second], &[]).display().to_string();
    let control = Control::start(&net.server, "control", "203.0.113.1:8080", &["--no-relay", "--relay-map", &map]);
    let key = control.key("you");
    let mode = if can_make_tun() { Mode::Kernel } else { Mode::Userspace };
    let nodes = [("a", &net.left), ("b", &net.right)].map(|(name, machine)| Node::start(machine, name, mode, &[]));
    for (node, name) in nodes.iter().zip(["a", "b"]) {
        node.up(&control.url, &key, &["--hostname", name]);
        println!("{name}: {} behind {:?}", node.ip4(), if name == "a" { left } else { right });
    }
    println!("A shell on a; leave it (exit) for one on b; leave that to end the laboratory.");
    println!("Try: warren status, warren ping b, warren netcheck");
    for node in &nodes {
        let mut shell: Command = node.machine.command("sh");
        shell.stdin(std::process::Stdio::inherit()).env("WARREN_SOCKET", node.state().join("node.sock"));
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = std::env::var("WARREN_BIN_DIR").unwrap_or_default();
        let _ = shell.env("PATH", format!("{bin}:{path}")).env("PS1", format!("{} $ ", node.machine.name())).status();
    }
    ExitCode::SUCCESS
}
