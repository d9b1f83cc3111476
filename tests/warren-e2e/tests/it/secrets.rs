//! Nothing secret is in any log at any level, nor in anything that a service or a command says of itself.

use std::path::Path;

use warren_e2e::service::{Control, Mode, Node, PATIENCE, Relay};
use warren_e2e::{Machine, till};

/// Every run of at least 40 hex digits or base64 letters in a file that holds secrets, and their raw bytes.
fn secrets_in(file: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '_' | '-');
    text.split(|c| !is_word(c)).filter(|word| word.len() >= 40).map(str::to_owned).collect()
}

/// Every private key in a node's state file, without its label.
fn private_keys(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => fields.values().for_each(|value| private_keys(value, found)),
        serde_json::Value::Array(values) => values.iter().for_each(|value| private_keys(value, found)),
        serde_json::Value::String(text) => found.extend(text.strip_prefix("privkey:").map(str::to_owned)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn no_key_is_in_a_log_at_any_level_or_in_what_services_say_of_themselves() {
    if !warren_e2e::inside() {
        return;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let folder = std::env::temp_dir().join(format!("warren-secrets-{now}"));
    // All that is started below says everything that it can.
    let host = Machine::new("secrets", &folder).with_variable("WARREN_LOG", "trace");
    let relay = Relay::start(&host, "relay", "127.0.0.1", 901, "http://127.0.0.1:8080");
    let map = Relay::merge_maps(&[&relay], &[]).display().to_string();
    let control = Control::start(&host, "control", "127.0.0.1:8080", &["--no-relay", "--relay-map", &map]);
    let key = control.key("ann");
    let a = Node::start(&host, "a", Mode::Userspace, &[]);
    let b = Node::start(&host, "b", Mode::Userspace, &["--port", "0", "--socks5-server", "127.0.0.1:1056"]);
    let mut said = Vec::new();
    // A key that nobody made, one with a password before the host, and the right one.
    let foreign = format!("wkey-auth-0123456789ab-{}", "5ec7e75ec7e7".repeat(6));
    for (server, key) in [(control.url.as_str(), foreign.as_str()), ("http://ann:pl4nted-password@127.0.0.1:9", &key)] {
        let refused = a.run(&["up", "--login-server", server, "--auth-key", key, "--timeout", "3s"]);
        said.push(String::from_utf8_lossy(&refused.stderr).into_owned());
    }
    a.up(&control.url, &key, &["--hostname", "a"]);
    b.up(&control.url, &key, &["--hostname", "b"]);
    till(PATIENCE, "traffic", || a.try_ask(&["ping", "--tsmp", "-c", "1", "b"]));
    for words in [
        &["status", "--json"][..],
        &["bugreport", "--diagnose"],
        &["metrics", "print"],
        &["debug", "counters"],
        &["debug", "netmap"],
        &["debug", "prefs"],
        &["get"],
        &["netcheck"],
        &["whois", "b"],
    ] {
        let out = a.run(words);
        said.push(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)));
    }
    for words in [
        &["nodes", "list", "--json"][..],
        &["users", "list", "--json"],
        &["keys", "list", "--json"],
        &["auth", "list", "--json"],
        &["policy", "get"],
        &["health"],
    ] {
        said.push(control.try_ask(words).unwrap_or_else(|error| error));
    }
    for page in
        ["http://127.0.0.1:8080/debug/counters", "http://127.0.0.1:8080/join", "https://127.0.0.1:3444/debug/counters"]
    {
        said.push(host.sh(&format!("curl -ksS --noproxy '*' {page}")));
    }
    let mut secrets = vec![
        key.rsplit('-').next().expect("a secret part").to_owned(),
        foreign.rsplit('-').next().expect("a secret part").to_owned(),
        "pl4nted-password".to_owned(),
    ];
    for node in [&a, &b] {
        for file in files_in(&node.state()).iter().filter(|file| file.extension().is_some_and(|end| end == "json")) {
            let text = std::fs::read_to_string(file).expect("the state");
            let before = secrets.len();
            private_keys(&serde_json::from_str(&text).expect("JSON"), &mut secrets);
            assert!(secrets.len() > before, "no key was found in {}", file.display());
        }
    }
    for folder in ["control", "relay"] {
        let keys = files_in(&host.folder().join(folder));
        for file in keys.iter().filter(|file| file.extension().is_some_and(|end| end == "key" || end == "pem")) {
            if !file.to_string_lossy().contains("cert") {
                secrets.extend(secrets_in(file));
            }
        }
    }
    a.run(&["logout"]);
    till(PATIENCE, "the relay's word on it", || {
        let log = relay.process.log();
        if log.contains("DEBUG") { Ok(()) } else { Err(log) }
    });
    assert!(secrets.len() >= 8, "{}", secrets.len());
    // A relay has little to say.
    for (process, least) in [(control.process, 20), (relay.process, 1), (a.process, 20), (b.process, 20)] {
        let log = process.log();
        assert!(log.lines().count() >= least, "it was not asked to say everything: {log}");
        said.push(log);
    }
    assert!(said.iter().any(|text| text.contains("TRACE") || text.contains("DEBUG")));
    for text in &said {
        for secret in &secrets {
            let line = text.lines().find(|line| line.to_lowercase().contains(&secret.to_lowercase()));
            assert!(line.is_none(), "a secret is in: {}", line.unwrap_or_default());
        }
    }
}
