//! Who may use a relay, and until when.
//!
//! The node whose rights end is stopped first (SIGSTOP), so that it is the relay that ends the connection and not the node.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use warren_e2e::service::{Control, Mode, Node, PATIENCE, Relay};
use warren_e2e::{Machine, hold, till};

const URL: &str = "127.0.0.1:8080";

fn counters(machine: &Machine, port: u16) -> Result<Value, String> {
    let asked = machine.try_sh(&format!("curl -ksS --noproxy '*' https://127.0.0.1:{port}/debug/counters"));
    serde_json::from_slice(&asked.stdout).map_err(|error| error.to_string())
}

fn clients(machine: &Machine, port: u16, wanted: u64) -> Result<(), String> {
    let counters = counters(machine, port)?;
    if counters["clients"] == wanted { Ok(()) } else { Err(counters.to_string()) }
}

/// Ends the right of a node that is at the relay on `port` by `words`, and expects its connection to end within `limit`.
fn cut(control: &Control<'_>, machine: &Machine, port: u16, name: &str, words: &[&str], limit: Duration) {
    let node = Node::start(machine, name, Mode::Userspace, &["--socks5-server", "127.0.0.1:0"]);
    node.up(&format!("http://{URL}"), &control.key("ann"), &["--hostname", name]);
    till(PATIENCE, "the node at the relay", || clients(machine, port, 1));
    let before = counters(machine, port).expect("counters")["revoked"].as_u64().unwrap_or(0);
    node.process.signal(Signal::SIGSTOP);
    control.ask(&[&["nodes"], words, &[name]].concat());
    let (_, took) = till(limit, "the end of the connection", || clients(machine, port, 0));
    println!("admission: after nodes {} the relay on {port} cut it off within {took:?}", words.join(" "));
    assert_eq!(counters(machine, port).expect("counters")["revoked"], before + 1);
    node.process.signal(Signal::SIGCONT);
    hold(Duration::from_secs(3), "the door closed", || clients(machine, port, 0));
}

#[test]
fn a_relay_beside_its_control_server_cuts_off_within_a_second() {
    if !warren_e2e::inside() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new("adm-one", folder.path());
    let control = Control::start(&machine, "control", URL, &[]);
    // The figure asked for is one second; asking takes some of it.
    let limit = Duration::from_millis(1500);
    cut(&control, &machine, 8080, "deleted", &["delete"], limit);
    cut(&control, &machine, 8080, "expired", &["expire"], limit);
}

#[test]
fn a_relay_of_its_own_asks_again_and_cuts_off() {
    if !warren_e2e::inside() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new("adm-two", folder.path());
    let relay = Relay::start(&machine, "relay", "127.0.0.1", 900, &format!("http://{URL}"));
    let map = relay.map_file().display().to_string();
    let control = Control::start(&machine, "control", URL, &["--no-relay", "--relay-map", &map]);
    cut(&control, &machine, 3443, "deleted", &["delete"], Duration::from_secs(15));
}
