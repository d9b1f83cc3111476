//! A control server that is told by SIGHUP to read its files again, and the questions that `warren policy` puts to it.

use nix::sys::signal::Signal;
use warren_e2e::service::{Control, Mode, Node, PATIENCE};
use warren_e2e::{Machine, till};

const ADDRESS: &str = "127.0.0.1:8443";
const PLAIN: &str = "127.0.0.1:8080";
const OPEN: &str = r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }"#;
const ONLY_81: &str = r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:81"] }] }"#;

/// A certificate for the server, signed by itself, in the two files that it reads.
fn certificate(machine: &Machine, name: &str) {
    machine.sh(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
         -addext subjectAltName=IP:127.0.0.1 -keyout new.key -out new.pem 2>/dev/null; mv new.key tls.key; mv new.pem tls.pem"
    ));
}

/// The name in the certificate that the server shows.
fn shown(machine: &Machine) -> Result<String, String> {
    let command = format!("openssl s_client -connect {ADDRESS} </dev/null 2>/dev/null | openssl x509 -noout -subject");
    let out = machine.try_sh(&command);
    Ok(String::from_utf8_lossy(&out.stdout).trim().replace("subject=", "").replace(' ', ""))
}

/// `warren policy <words>` asked of the running server: whether it succeeded, and what it printed.
fn policy(machine: &Machine, socket: &str, words: &[&str]) -> (bool, String) {
    let out = machine.warren(&[&["--socket", socket, "policy"], words].concat());
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn sighup_takes_policy_and_certificate_without_a_restart_and_policy_is_explained_by_the_server() {
    if !warren_e2e::inside() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new("reload", folder.path());
    let file = |name: &str| machine.folder().join(name).display().to_string();
    let (path, chain, key) = (file("policy-in-force.hujson"), file("tls.pem"), file("tls.key"));
    certificate(&machine, "first");
    std::fs::write(&path, OPEN).expect("write the policy");
    // A door without TLS for the nodes, which do not know this certificate.
    let settings = file("control.toml");
    std::fs::write(&settings, format!("http_listen = \"{PLAIN}\"\n")).expect("write the settings");
    let more = ["--config", &settings, "--policy", &path, "--tls-certificate", &chain, "--tls-key", &key, "--no-relay"];
    let mut control = Control::start(&machine, "control", ADDRESS, &more);
    let socket = file("control/control.sock");
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let node = Node::start(&machine, name, Mode::Userspace, &["--socks5-server", "127.0.0.1:0"]);
        node.up(&format!("http://{PLAIN}"), &control.key("ann"), &["--hostname", name]);
        nodes.push(node);
    }

    let explained = |port: &str| policy(&machine, &socket, &["explain", "a", "b", port]);
    assert!(explained("80").0, "{}", explained("80").1);
    std::fs::write(&path, ONLY_81).expect("write the policy");
    let (is_same, text) = policy(&machine, &socket, &["diff", &path]);
    assert!(!is_same && text.contains("- a -> b: tcp and udp 0-80, 82-65535"), "{text}");
    assert_eq!(shown(&machine), Ok("CN=first".to_owned()));
    certificate(&machine, "second");

    let pid = control.process.pid();
    control.process.signal(Signal::SIGHUP);
    till(PATIENCE, "the other policy", || {
        let (is_allowed, text) = explained("80");
        (!is_allowed).then_some(()).ok_or(text)
    });
    assert!(explained("81").0, "{}", explained("81").1);
    let (is_same, text) = policy(&machine, &socket, &["diff", &path]);
    assert!(is_same, "what is in force is what the file says: {text}");
    till(PATIENCE, "the other certificate", || {
        let name = shown(&machine)?;
        (name == "CN=second").then_some(()).ok_or(name)
    });

    // Nothing that is wrong takes the place of what is right, and the operator hears of both.
    std::fs::write(&path, ONLY_81.replace(']', "")).expect("write what is no policy");
    std::fs::write(&chain, "no certificate").expect("write what is no certificate");
    control.process.signal(Signal::SIGHUP);
    till(PATIENCE, "two complaints", || {
        let text = control.ask(&["health", "--json"]);
        let told = ["the last good policy stays in force", "the last good certificate stays in force"];
        told.iter().all(|words| text.contains(words)).then_some(()).ok_or(text)
    });
    assert!(explained("81").0 && !explained("80").0, "{}", explained("80").1);
    assert_eq!(shown(&machine), Ok("CN=second".to_owned()));
    assert!(control.process.is_running() && control.process.pid() == pid);
}
