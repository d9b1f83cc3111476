//! A stranger's first minute: one command here, one line there, and nothing left behind.

use std::time::Duration;

use nix::sys::signal::Signal;
use warren_crypto::UnixTime;
use warren_e2e::service::PATIENCE;
use warren_e2e::{Internet, Machine, Nat, Process, executable_for_anybody, till};

/// Words that run a program as an ordinary user with a home of its own.
fn as_nobody(machine: &Machine) -> Vec<String> {
    let home = machine.folder().join("home").display().to_string();
    machine.sh(&format!("mkdir -p {home} && chmod 777 {home} {}", machine.folder().display()));
    let words = "setpriv --reuid 65534 --regid 65534 --clear-groups env -u XDG_STATE_HOME";
    words.split(' ').map(str::to_string).chain([format!("HOME={home}")]).collect()
}

fn start(machine: &Machine, name: &str, line: &str) -> Process {
    let words = as_nobody(machine);
    let args: Vec<&str> = words[1..].iter().map(String::as_str).chain(["sh", "-c", line]).collect();
    machine.start(name, &words[0], &args)
}

fn warren(machine: &Machine, words: &str) -> Result<String, String> {
    let line =
        format!("{} {} {words}", as_nobody(machine).join(" "), executable_for_anybody("warren", machine).display());
    let out = machine.try_sh(&line);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status.success().then(|| text.clone()).ok_or_else(|| text + &String::from_utf8_lossy(&out.stderr))
}

fn quickstart(machine: &Machine, name: &str) -> Process {
    let line = format!("exec {} quickstart --address 203.0.113.1", executable_for_anybody("warren", machine).display());
    let process = start(machine, name, &line);
    till(PATIENCE, "quickstart to say how to join", || {
        let said = process.log();
        said.contains("Ctrl-C stops everything").then_some(()).ok_or(said)
    });
    process
}

/// Whether a listed key still lets machines in.
fn is_good(key: &serde_json::Value) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let end = key["expiration"].as_str().expect("an end");
    UnixTime::parse_rfc3339(end).expect("a time") > UnixTime::from_duration(now)
}

/// The line for a machine that has nothing yet.
fn joining_line(said: &str) -> String {
    let line = said.lines().map(str::trim).find(|line| line.starts_with("(curl"));
    line.unwrap_or_else(|| panic!("no joining line in:\n{said}")).to_string()
}

#[test]
fn a_network_stands_after_one_command_and_another_machine_joins_by_the_printed_line() {
    if !warren_e2e::inside() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    if !net.server.try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups true").status.success() {
        println!("SKIPPED quickstart as an ordinary user: there is no other user in this namespace");
        return;
    }
    let first = quickstart(&net.server, "quickstart");
    let said = first.log();
    for word in ["203.0.113.1:8080", "TCP 8080 and UDP 3478", "tailscale up --login-server", "/join", "socks5h://"] {
        assert!(said.contains(word), "{word} is not in:\n{said}");
    }
    let line = joining_line(&said);
    // A terminal's Ctrl-C reaches the program; here the shell makes way for it.
    let line = line.replace("&& ./warren", "&& exec ./warren");
    let joined = start(&net.left, "join", &format!("cd $HOME && {line} --hostname laptop"));
    till(PATIENCE, "the ping of the machine that joined", || {
        warren(&net.server, "ping -c 1 --timeout 1s --until-direct=false laptop").map_err(|error| error + &joined.log())
    });
    let page = net.left.sh("curl -sSf http://203.0.113.1:8080/join");
    for system in ["iOS", "Android", "macOS", "Windows"] {
        assert!(page.contains(system), "the page has no steps for {system}");
    }
    let own = warren(&net.server, "ip -4").expect("addresses");

    joined.stop_by(Signal::SIGINT);
    first.stop_by(Signal::SIGINT);
    let gone = |machine: &Machine| {
        till(Duration::from_secs(15), "everything to end", || {
            let left = machine.sh("for p in $(ip netns pids $(ip netns identify $$)); do cat /proc/$p/comm; done | grep -c warren || true");
            let sockets = machine.sh(&format!("find {} -name '*.sock' | wc -l", machine.folder().display()));
            (left.trim() == "0" && sockets.trim() == "0")
                .then_some(())
                .ok_or_else(|| format!("{left} processes, {sockets} sockets"))
        });
    };
    gone(&net.server);
    gone(&net.left);

    let again = quickstart(&net.server, "again");
    assert_eq!(warren(&net.server, "ip -4").expect("addresses"), own, "it did not carry on");
    let keys = warren(&net.server, "control keys list --json").expect("keys");
    let keys: serde_json::Value = serde_json::from_str(&keys).expect("JSON");
    let good = keys.as_array().into_iter().flatten().filter(|key| key["reusable"] == true && is_good(key)).count();
    assert_eq!(good, 1, "the key of the first start has ended: {keys}");
    again.stop_by(Signal::SIGINT);
    gone(&net.server);
    warren(&net.server, "quickstart --remove").expect("removed");
    let left = net.server.sh(&format!("find {}/home -type f | wc -l", net.server.folder().display()));
    assert_eq!(left.trim(), "0", "files were left");
}
