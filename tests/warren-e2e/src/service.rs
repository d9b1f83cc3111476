//! Our services on the machines of the laboratory.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::{Machine, Process, executable, till};

/// Generous for a loaded machine; the figures asked for are checked where they are measured.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A control server process, and the commands that an operator gives it.
pub struct Control<'a> {
    machine: &'a Machine,
    pub process: Process,
    pub url: String,
    name: String,
}

impl<'a> Control<'a> {
    /// Starts a control server named `name` (its state survives a second start) listening on `address`.
    pub fn start(machine: &'a Machine, name: &str, address: &str, more: &[&str]) -> Control<'a> {
        let state = machine.folder().join(name);
        let socket = state.join("control.sock");
        let url = format!("http://{address}");
        let (state, shown) = (state.display().to_string(), socket.display().to_string());
        let mut args = vec!["control", "serve", "--state", &state, "--socket", &shown, "--listen", address];
        args.extend(["--server-url", &url]);
        args.extend(more);
        let process = machine.start(name, executable("warren"), &args);
        let control = Control { machine, process, url, name: name.to_string() };
        till(PATIENCE, "the control server", || control.try_ask(&["users", "list", "--json"]).map(drop));
        control
    }

    fn socket(&self) -> PathBuf {
        self.machine.folder().join(&self.name).join("control.sock")
    }

    pub fn try_ask(&self, words: &[&str]) -> Result<String, String> {
        let socket = self.socket().display().to_string();
        let mut args = vec!["control", "--socket", &socket];
        args.extend(words);
        text(self.machine.warren(&args))
    }

    /// `warren control <words>`; panics with what it said if it fails.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|error| panic!("warren control {}: {error}", words.join(" ")))
    }

    /// A fresh reusable key of user `user`, who is made if there is none.
    #[track_caller]
    pub fn key(&self, user: &str) -> String {
        let _ = self.try_ask(&["users", "create", user]);
        let answer: Value = json(&self.ask(&["keys", "create", "--user", user, "--reusable", "--json"]));
        answer["key"].as_str().expect("a key in the answer").to_string()
    }

    #[track_caller]
    pub fn set_policy(&self, policy: &str) {
        let file = self.machine.folder().join("policy.hujson");
        std::fs::write(&file, policy).expect("write the policy");
        self.ask(&["policy", "set", "--file", &file.display().to_string()]);
    }
}

/// A relay process of its own.
pub struct Relay {
    pub process: Process,
    state: PathBuf,
    debug: String,
}

/// What a relay has forwarded, disco and other frames apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub disco_frames: u64,
    pub other_frames: u64,
    pub other_bytes: u64,
}

impl Relay {
    /// Starts the relay of `region` that is known as `ip`, on TCP 3443 and UDP 3478 for region 900, one higher for each
    /// further region. It asks the control server at `control` whom to serve.
    pub fn start(machine: &Machine, name: &str, ip: &str, region: u16, control: &str) -> Relay {
        let state = machine.folder().join(name);
        let number = region - 900;
        let (listen, shown, port) = (format!("[::]:{}", 3443 + number), state.display().to_string(), 3443 + number);
        let (url, stun, region) = (format!("{control}/verify"), (3478 + number).to_string(), region.to_string());
        let _ = std::fs::remove_file(state.join("relay-map.json"));
        let args = [
            "relay",
            "serve",
            "--state",
            &shown,
            "--listen",
            &listen,
            "--region",
            &region,
            "--hostname",
            ip,
            "--stun",
            &stun,
        ];
        let all = [args.as_slice(), &["--verify-client-url", &url]].concat();
        let process = machine.start(name, executable("warren"), &all);
        let relay = Relay { process, state, debug: format!("https://127.0.0.1:{port}/debug/counters") };
        till(PATIENCE, "the relay's description of itself", || {
            relay.map_file().exists().then_some(()).ok_or_else(|| relay.process.log())
        });
        relay
    }

    /// The relay's entry for a control server's relay map, which it writes when it is ready.
    pub fn map_file(&self) -> PathBuf {
        self.state.join("relay-map.json")
    }

    /// One relay map of several relays; `ipv6` are their addresses of that family, where they have one.
    pub fn merge_maps(relays: &[&Relay], ipv6: &[&str]) -> PathBuf {
        let mut merged = serde_json::json!({"Regions": {}});
        for (at, relay) in relays.iter().enumerate() {
            let text = std::fs::read_to_string(relay.map_file()).expect("the relay's entry");
            let entry: Value = json(&text);
            for (id, region) in entry["Regions"].as_object().into_iter().flatten() {
                let mut region = region.clone();
                if let Some(ip) = ipv6.get(at) {
                    region["Nodes"][0]["IPv6"] = (*ip).into();
                }
                merged["Regions"][id] = region;
            }
        }
        let file = relays[0].state.with_extension("map.json");
        std::fs::write(&file, merged.to_string()).expect("write the relay map");
        file
    }

    /// Asked on the relay's own machine: nobody else may look.
    #[track_caller]
    pub fn forwarded(&self, machine: &Machine) -> Forwarded {
        let answer: Value = json(&machine.sh(&format!("curl -ksS --noproxy '*' {}", self.debug)));
        let number = |kind: &str, what: &str| {
            answer[kind]["sent"][what].as_u64().unwrap_or_else(|| panic!("no {kind}.sent.{what} in {answer}"))
        };
        Forwarded {
            disco_frames: number("disco", "frames"),
            other_frames: number("other", "frames"),
            other_bytes: number("other", "bytes"),
        }
    }
}

/// A node daemon process and the commands of its owner.
pub struct Node<'a> {
    pub machine: &'a Machine,
    pub process: Process,
    helper: Option<Process>,
    name: String,
}

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No interface; SOCKS5 on 127.0.0.1:1055.
    Userspace,
    /// A kernel interface made by the helper.
    Kernel,
}

/// The SOCKS5 port of user-space nodes here.
pub const SOCKS_PORT: u16 = 1055;

impl<'a> Node<'a> {
    pub fn start(machine: &'a Machine, name: &str, mode: Mode, more: &[&str]) -> Node<'a> {
        let state = machine.folder().join(name);
        std::fs::create_dir_all(&state).expect("a state folder");
        let (shown, socket) = (state.display().to_string(), state.join("node.sock").display().to_string());
        let socks = format!("127.0.0.1:{SOCKS_PORT}");
        let helper_socket = state.join("helper.sock").display().to_string();
        let mut args = vec!["node", "run", "--state", &shown, "--socket", &socket];
        let helper = match mode {
            Mode::Userspace => {
                args.extend(["--tun", "userspace-networking"]);
                if !more.contains(&"--socks5-server") {
                    args.extend(["--socks5-server", &socks]);
                }
                None
            }
            Mode::Kernel => {
                let helper = start_helper(machine, name);
                args.extend(["--helper", &helper_socket]);
                Some(helper)
            }
        };
        args.extend(more);
        let process = machine.start(name, executable("warren"), &args);
        let node = Node { machine, process, helper, name: name.to_string() };
        till(PATIENCE, "the node daemon", || node.try_status().map(drop));
        node
    }

    pub fn helper(&mut self) -> Option<Process> {
        self.helper.take()
    }

    /// Starts the helper anew, as an upgrade of its package does; the node goes on meanwhile. `kill` leaves the old one no
    /// time to clear up.
    pub fn restart_helper(&mut self, kill: bool) {
        if let Some(old) = self.helper.take() {
            if kill {
                old.kill9();
            } else {
                old.stop();
            }
        }
        self.helper = Some(start_helper(self.machine, &self.name));
    }

    pub fn state(&self) -> PathBuf {
        self.machine.folder().join(&self.name)
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let socket = self.state().join("node.sock").display().to_string();
        let mut args = vec!["--socket", &socket];
        args.extend(words);
        self.machine.warren(&args)
    }

    pub fn try_ask(&self, words: &[&str]) -> Result<String, String> {
        text(self.run(words))
    }

    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|error| {
            panic!("warren {} on {}: {error}\n{}", words.join(" "), self.machine.name(), self.process.log())
        })
    }

    #[track_caller]
    pub fn up(&self, url: &str, key: &str, more: &[&str]) {
        let mut words = vec!["up", "--login-server", url, "--auth-key", key, "--timeout", "30s"];
        words.extend(more);
        self.ask(&words);
    }

    pub fn try_status(&self) -> Result<Value, String> {
        self.try_ask(&["status", "--json"]).map(|text| json(&text))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status().expect("status")
    }

    /// First IPv4 address of this node inside the network.
    #[track_caller]
    pub fn ip4(&self) -> String {
        self.ask(&["ip", "-4"]).trim().to_string()
    }

    #[track_caller]
    pub fn ip6(&self) -> String {
        self.ask(&["ip", "-6"]).trim().to_string()
    }

    /// The peer named `name` as this node sees it.
    pub fn peer(&self, name: &str) -> Result<Value, String> {
        let status = self.try_status()?;
        let peers = status["Peer"].as_object().ok_or("no peers")?;
        let found =
            peers.values().find(|peer| peer["DNSName"].as_str().is_some_and(|dns| dns.split('.').next() == Some(name)));
        found.cloned().ok_or_else(|| format!("no peer {name}"))
    }

    /// One disco ping, by any path; the result's JSON line.
    pub fn ping_once(&self, target: &str) -> Result<Value, String> {
        let text =
            self.try_ask(&["ping", "-c", "1", "--timeout", "500ms", "--until-direct=false", "--json", target])?;
        Ok(json(&text))
    }
}

/// Starts the helper of the node `name`.
fn start_helper(machine: &Machine, name: &str) -> Process {
    let socket = machine.folder().join(name).join("helper.sock");
    // What a killed one left would look like the new one's.
    let _ = std::fs::remove_file(&socket);
    let shown = socket.display().to_string();
    let args = ["run", "--socket", &shown, "--uid", "0"];
    let helper = machine.start(&format!("{name}-helper"), executable("warren-helper"), &args);
    till(PATIENCE, "the helper's socket", || socket.exists().then_some(()).ok_or_else(|| helper.log()));
    helper
}

fn text(output: Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(out)
    } else {
        Err(format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}
