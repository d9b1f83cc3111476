//! An operator's commands, against a control server of this executable on loopback.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::text;

struct Server {
    process: Child,
    socket: PathBuf,
    port: std::net::SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    /// Returns when it is ready.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        command.args(["control", "serve", "--listen", &port.to_string(), "--server-url", "http://127.0.0.1:9"]);
        command.args(["--stun", "0", "--state"]).arg(folder.path().join("state")).arg("--socket").arg(&socket);
        command.env_remove("RUST_LOG").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("run warren");
        let said = BufReader::new(process.stderr.take().expect("piped"));
        let server = Self { process, socket, port, folder };
        let mut lines = said.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("the control server is ready")), "it ended without being ready");
        // Whoever writes into a closed pipe ends.
        std::thread::spawn(move || lines.count());
        server
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        command.args(["control", "--socket"]).arg(&self.socket).args(words).output().expect("run warren")
    }

    /// As from elsewhere, with the API key in a file.
    fn ask_afar(&self, key: &str, words: &[&str]) -> Output {
        let file = self.folder.path().join("key");
        std::fs::write(&file, key).expect("writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        command.args(["control", "--server", &format!("http://{}", self.port), "--api-key-file"]).arg(&file);
        command.args(words).env_remove("WARREN_API_KEY").output().expect("run warren")
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    fn refuses(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(!output.status.success(), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

#[test]
fn an_operator_makes_api_keys_and_ends_them() {
    let server = Server::start();
    let whole = server.says(&["apikeys", "create", "--scopes", "read,nodes", "--expiration", "1h"]);
    let prefix = whole.trim().strip_prefix("wkey-api-").and_then(|rest| rest.split('-').next()).expect("a key");
    let shown: serde_json::Value = serde_json::from_str(&server.says(&["apikeys", "list", "--json"])).expect("JSON");
    assert_eq!(shown[0]["prefix"], format!("wkey-api-{prefix}-***"));
    assert_eq!(shown[0]["scopes"], serde_json::json!(["read", "nodes"]));
    let before = shown[0]["expiration"].clone();
    server.says(&["apikey", "expire", whole.trim()]);
    let shown: serde_json::Value = serde_json::from_str(&server.says(&["apikeys", "list", "--json"])).expect("JSON");
    assert!(shown[0]["expiration"].as_str() < before.as_str(), "{shown}");
    assert!(server.says(&["apikeys", "list"]).contains(prefix));
    server.says(&["apikeys", "delete", "--id", "1"]);
    let refused = server.refuses(&["apikeys", "delete", "--prefix", prefix]);
    assert!(refused.contains(&format!("no such API key: {prefix}")), "{refused}");
    let refused = server.refuses(&["apikeys", "create", "--scopes", "nodes:write"]);
    assert!(refused.contains("say all, read, users"), "{refused}");
    server.refuses(&["apikeys", "expire"]);
}

#[test]
fn an_operator_far_away_does_what_the_key_may() {
    let server = Server::start();
    let all = server.says(&["apikeys", "create"]);
    let read = server.says(&["apikeys", "create", "--scopes", "read"]);
    let done = server.ask_afar(&all, &["users", "create", "ann"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let shown = server.ask_afar(&read, &["users", "list", "--json"]);
    assert!(text(&shown.stdout).contains("\"ann\""), "{}", text(&shown.stderr));
    let refused = server.ask_afar(&read, &["users", "delete", "ann"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("this API key may not do that"));
    server.says(&["apikeys", "expire", "--id", "2"]);
    let refused = server.ask_afar(&read, &["users", "list"]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("does not take this API key"), "{said}");
    assert!(!said.contains(read.trim().rsplit('-').next().expect("a secret part")), "{said}");
    assert!(server.refuses(&["serve", "--server", "https://vpn.example.net"]).contains("--server"));
}

#[test]
fn an_operator_gives_offices_and_sees_them() {
    let server = Server::start();
    for name in ["ann", "bob"] {
        server.says(&["users", "create", name]);
    }
    assert_eq!(server.says(&["users", "set-role", "ann", "owner"]).trim(), "ann has the role owner now.");
    let refused = server.refuses(&["users", "set-role", "bob", "owner"]);
    assert!(refused.contains("user ann is the owner, and there is only one; give that one another role"), "{refused}");
    let unknown = server.refuses(&["users", "set-role", "bob", "king"]);
    assert!(unknown.contains("network-admin"), "what there is: {unknown}");
    let nobody = server.refuses(&["users", "set-role", "zoe", "admin"]);
    assert!(nobody.contains("no such user: zoe"), "{nobody}");
    server.says(&["user", "set-role", "2", "network-admin"]);
    let shown = server.says(&["users", "list"]);
    let roles: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(roles, ["Role", "owner", "network-admin"], "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&server.says(&["users", "list", "--json"])).expect("JSON");
    assert_eq!((&shown[0]["role"], &shown[1]["role"]), (&"owner".into(), &"network-admin".into()));
}

#[test]
fn addresses_that_are_missing_are_given_by_either_name_of_the_command() {
    let server = Server::start();
    for words in [&["nodes", "backfill-ips"][..], &["nodes", "backfillips", "--force"]] {
        assert_eq!(server.says(words).trim(), "Every device has the addresses that it should have.");
    }
    assert_eq!(server.says(&["nodes", "backfillips", "--json"]).trim(), "[]");
}

#[test]
fn a_policy_that_names_nobody_is_taken_and_says_so() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.hujson");
    let policy = r#"{ "acls": [{ "action": "accept", "src": ["zoe@"], "dst": ["*:*"] }] }"#;
    std::fs::write(&file, policy).expect("written");
    let output = server.ask(&["policy", "set", "--file", file.to_str().expect("plain")]);
    assert!(output.status.success() && text(&output.stderr).contains("no user found: token zoe@"), "{output:?}");
}
