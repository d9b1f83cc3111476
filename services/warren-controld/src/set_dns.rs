//! `POST /machine/set-dns`: a node proves to a certificate authority that its name is its own, by a TXT record that the
//! server makes for it (control-protocol.md §4.3).
//!
//! Where names are kept is the operator's affair, so the record is made by a program of theirs:
//!
//! ```text
//! <set_dns_command> _acme-challenge.host.mesh.example.net <value>      exit status 0: the record is there
//! ```
//!
//! A node may only speak of its own name and of those of services that it hosts.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};
use tokio::sync::Semaphore;
use warren_crypto::NodePublic;
use warren_io::answer::{self, Body};
use warren_wire::NodeId;

use crate::noise_endpoint::Machine;
use crate::service::Shared;
use crate::small_requests::{member, read, words};

/// For the program. Clients wait for minutes, and people for less.
const DEADLINE: Duration = Duration::from_secs(60);

/// Programs at once; whoever comes later waits for its turn.
const MOST_AT_ONCE: usize = 4;

/// For what a program that has ended said last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Of what the program says, as much goes to the log.
const LARGEST_OUTPUT: u64 = 4096;

/// A key authorisation's digest is 43 bytes (RFC 8555 §8.4); a character string of DNS has at most 255.
const LONGEST_VALUE: usize = 255;

const PREFIX: &str = "_acme-challenge.";

/// The operator's program.
#[derive(Debug)]
pub(crate) struct Hook {
    program: std::path::PathBuf,
    turns: Semaphore,
    /// Nodes with a record that is being made: one at a time, so that none keeps others waiting.
    busy: Mutex<BTreeSet<NodeId>>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct SetDns {
    node_key: NodePublic,
    name: String,
    #[serde(rename = "Type")]
    kind: String,
    value: String,
}

impl Default for SetDns {
    fn default() -> Self {
        Self { node_key: NodePublic::ZERO, name: String::new(), kind: String::new(), value: String::new() }
    }
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("start it")]
    Start(#[source] std::io::Error),
    #[error("wait for it")]
    Wait(#[source] std::io::Error),
    #[error("it did not end within {} s", DEADLINE.as_secs())]
    Late,
    #[error("it ended with {status}: {output}")]
    Failed { status: std::process::ExitStatus, output: String },
}

impl Hook {
    pub(crate) fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), turns: Semaphore::new(MOST_AT_ONCE), busy: Mutex::default() }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it is held
    }

    /// `None`: this node waits for a record already.
    fn enter(&self, node: NodeId) -> Option<Busy<'_>> {
        self.busy().insert(node).then(|| Busy { hook: self, node })
    }

    /// Dropping the future ends the program.
    async fn set(&self, name: &str, value: &str) -> Result<(), HookError> {
        // The semaphore is never closed, so a turn always comes.
        let _turn = self.turns.acquire().await.ok();
        let running = async {
            let mut child = Command::new(&self.program)
                .args([name, value])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(HookError::Start)?;
            let said = child.stderr.take();
            let mut output = Vec::new();
            let mut listening = Box::pin(listen(said, &mut output));
            let (status, is_all) = tokio::select! {
                status = child.wait() => (status, false),
                () = &mut listening => (child.wait().await, true),
            };
            let status = status.map_err(HookError::Wait)?;
            if !is_all {
                // What it left running may hold its output open.
                let _ = tokio::time::timeout(LAST_WORDS, &mut listening).await;
            }
            drop(listening);
            let output = words(String::from_utf8_lossy(&output).trim());
            if status.success() { Ok(()) } else { Err(HookError::Failed { status, output }) }
        };
        tokio::time::timeout(DEADLINE, running).await.unwrap_or(Err(HookError::Late))
    }
}

/// Keeps the beginning of what a program says and lets it say the rest, until it has said all. Its words are no condition.
async fn listen(said: Option<ChildStderr>, output: &mut Vec<u8>) {
    let Some(mut said) = said else { return };
    let _ = (&mut said).take(LARGEST_OUTPUT).read_to_end(output).await;
    let _ = tokio::io::copy(&mut said, &mut tokio::io::sink()).await;
}

/// Takes a node off the list of those whose record is being made.
struct Busy<'a> {
    hook: &'a Hook,
    node: NodeId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.hook.busy().remove(&self.node);
    }
}

/// See the module.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let asked: SetDns = match read(request).await {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let node = match member(&shared, &machine, &asked.node_key) {
        Ok(node) => node,
        Err(response) => return *response,
    };
    let Some(hook) = &shared.set_dns else {
        let text = "this control server makes no DNS records for certificates; its operator can set set_dns_command";
        return answer::text(StatusCode::NOT_IMPLEMENTED, text);
    };
    let names = shared.registry.snapshot().names_of(node.id);
    if let Err(reason) = check(&asked, &names) {
        return answer::text(StatusCode::BAD_REQUEST, &reason);
    }
    let name = asked.name.trim_end_matches('.').to_ascii_lowercase();
    let Some(_busy) = hook.enter(node.id) else {
        return answer::text(StatusCode::TOO_MANY_REQUESTS, "a record for this node is being made; ask again after it");
    };
    match hook.set(&name, &asked.value).await {
        Ok(()) => {
            tracing::info!(node = %node.id, %name, "a DNS record was made for a node's certificate");
            answer::json(&serde_json::json!({}))
        }
        Err(error) => {
            tracing::error!(node = %node.id, %name, program = %hook.program.display(),
                error = &error as &dyn std::error::Error, "set_dns_command made no DNS record");
            let text = "the control server could not make the DNS record; its operator finds the reason in its log";
            answer::text(StatusCode::BAD_GATEWAY, text)
        }
    }
}

/// Whether this may be asked for by a node with these names.
fn check(asked: &SetDns, names: &[String]) -> Result<(), String> {
    if asked.kind != "TXT" {
        return Err(format!("a record of type {:?} is not made, only TXT", words(&asked.kind)));
    }
    let name = asked.name.trim_end_matches('.').to_ascii_lowercase();
    let is_own = name.strip_prefix(PREFIX).is_some_and(|name| names.iter().any(|own| own == name));
    if !is_own {
        let own: Vec<String> = names.iter().map(|name| format!("{PREFIX}{name}")).collect();
        return Err(format!("{:?} is not this node's to set, only {}", words(&asked.name), own.join(" and ")));
    }
    let is_digest = asked.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'='));
    if asked.value.is_empty() || asked.value.len() > LONGEST_VALUE || !is_digest {
        return Err("the value is no digest in base64".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, kind: &str, value: &str) -> SetDns {
        SetDns { name: name.to_owned(), kind: kind.to_owned(), value: value.to_owned(), ..SetDns::default() }
    }

    #[test]
    fn only_a_digest_for_a_name_of_its_own_is_set() {
        let names = ["a.mesh.test".to_owned(), "web.mesh.test".to_owned()];
        for good in ["_acme-challenge.a.mesh.test", "_ACME-challenge.Web.mesh.test."] {
            assert_eq!(check(&asked(good, "TXT", "x_Y-9"), &names), Ok(()), "{good}");
        }
        for (name, kind, value, expect) in [
            (
                "_acme-challenge.b.mesh.test",
                "TXT",
                "x",
                "is not this node's to set, only _acme-challenge.a.mesh.test and",
            ),
            ("a.mesh.test", "TXT", "x", "is not this node's to set"),
            ("x._acme-challenge.a.mesh.test", "TXT", "x", "is not this node's to set"),
            ("_acme-challenge.a.mesh.test", "A", "x", "only TXT"),
            ("_acme-challenge.a.mesh.test", "TXT", "", "no digest"),
            ("_acme-challenge.a.mesh.test", "TXT", "$(reboot)", "no digest"),
            ("_acme-challenge.a.mesh.test", "TXT", &"x".repeat(256), "no digest"),
        ] {
            let error = check(&asked(name, kind, value), &names).expect_err(name);
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn a_node_waits_for_one_record_at_a_time() {
        let hook = Hook::new(Path::new("/bin/true"));
        let first = hook.enter(NodeId(1)).expect("nobody is");
        assert!(hook.enter(NodeId(1)).is_none() && hook.enter(NodeId(2)).is_some());
        drop(first);
        assert!(hook.enter(NodeId(1)).is_some());
    }

    #[tokio::test]
    async fn a_program_that_fails_says_why_and_one_that_succeeds_has_both_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\ncd {:?}\n{text}\n", folder.path())).expect("writable");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mine");
            Hook::new(&path)
        };
        program("good", r#"printf "%s|%s" "$1" "$2" > out"#).set("a b", "-c").await.expect("made");
        assert_eq!(std::fs::read_to_string(folder.path().join("out")).expect("written"), "a b|-c");
        let error =
            program("bad", "echo no such zone >&2; exit 3").set("a", "b").await.expect_err("failed").to_string();
        assert_eq!(error, "it ended with exit status: 3: no such zone");
        // Neither many words nor what it leaves running is in its way.
        let talks = "head -c 100000 /dev/zero >&2; touch made; sleep 30 & exit 0";
        let begun = std::time::Instant::now();
        program("talks", talks).set("a", "b").await.expect("made");
        assert!(folder.path().join("made").exists() && begun.elapsed() < DEADLINE / 4);
        assert!(matches!(Hook::new(Path::new("/does/not/exist")).set("a", "b").await, Err(HookError::Start(_))));
    }
}
