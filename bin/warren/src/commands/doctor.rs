//! `warren doctor`: what is wrong, one line each, with what to do about it; what a killed daemon left is cleared away.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::{BackendState, Client, Status};
use warren_io::{DialOptions, fetch_server_key};
use warren_os::{DEFAULT_INTERFACE, Host, guard};

use crate::{places, safe, words};

#[derive(Args, Clone, Debug, Default)]
pub struct Doctor {
    /// Look only; leave what a killed daemon left
    #[arg(long)]
    dry_run: bool,
}

/// What a check found.
enum Finding {
    Well(String),
    /// What is wrong, and what to do.
    Wrong(String, String),
    /// What cannot be known now, and why.
    Unknown(String),
}

use Finding::{Unknown, Well, Wrong};

/// `named`: a person named the socket, so no other is looked at.
pub async fn run(client: &Client, command: &Doctor, named: bool) -> Result<()> {
    let mut wrong = 0;
    let mut say = |finding: Finding| match finding {
        Well(text) => println!("ok       {}", safe::line(&text)),
        Unknown(text) => println!("unknown  {}", safe::line(&text)),
        Wrong(text, advice) => {
            wrong += 1;
            println!("WRONG    {}\n         -> {}", safe::line(&text), safe::line(&advice));
        }
    };
    let sockets = if named { vec![client.socket().to_owned()] } else { usual_sockets(client.socket()) };
    for finding in leftovers(&sockets, command.dry_run) {
        say(finding);
    }
    match client.status(true).await {
        Err(error) => say(Wrong(
            format!("daemon: {error}"),
            "start it: warren node run, warren quickstart, or systemctl start warren-node".into(),
        )),
        Ok(status) => {
            say(Well(format!("daemon: version {} answers at {}", status.warren_version, client.socket().display())));
            for finding in [state(&status), control(&status).await, key(&status), interface(&status)] {
                say(finding);
            }
            for finding in network(client).await {
                say(finding);
            }
            for text in &status.health {
                say(Wrong(format!("the daemon says: {text}"), advice(text).into()));
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} thing{} to see to", if wrong == 1 { "" } else { "s" });
    }
    Ok(())
}

fn state(status: &Status) -> Finding {
    match BackendState::parse(&status.backend_state) {
        Some(BackendState::Running) => Well("state: running".into()),
        Some(BackendState::Starting) => Unknown("state: starting; ask again in a few seconds".into()),
        Some(BackendState::Stopped) => Wrong("state: stopped".into(), "warren up".into()),
        Some(BackendState::NeedsMachineAuth) => Wrong(
            "state: waits for an operator's approval".into(),
            "on the server: warren control nodes approve".into(),
        ),
        _ if status.auth_url.is_empty() => Wrong("state: logged out".into(), "warren up --login-server URL".into()),
        _ => Wrong("state: logged out".into(), format!("log in at {}", status.auth_url)),
    }
}

async fn control(status: &Status) -> Finding {
    let url = &status.warren_control_url;
    if url.is_empty() {
        return Unknown("control server: this node has none yet".into());
    }
    let Ok(parsed) = url.parse() else {
        return Wrong(
            format!("control server: {url} is not an address"),
            "warren up --login-server URL --force-reauth".into(),
        );
    };
    let options = DialOptions::default();
    let asked = fetch_server_key(&parsed, super::version::capability(), &options);
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(key)) => Well(format!("control server: {url} answers, key {key}")),
        Ok(Err(error)) => Wrong(
            format!("control server: {:#}", anyhow::Error::from(error)),
            "see whether it runs, and whether this machine reaches its port; peers stay reachable meanwhile".into(),
        ),
        Err(_) => Wrong(
            format!("control server: {url} does not answer within 10 s"),
            "see whether a firewall drops its port; peers stay reachable meanwhile".into(),
        ),
    }
}

fn key(status: &Status) -> Finding {
    if status.self_status.expired {
        return Wrong("key: expired, so this node is cut off".into(), "warren up --force-reauth".into());
    }
    match &status.self_status.key_expiry {
        Some(time) => Well(format!("key: good until {time}")),
        None => Well("key: does not expire".into()),
    }
}

fn interface(status: &Status) -> Finding {
    if status.tun {
        return Well("interface: packets go through the kernel".into());
    }
    let socks5 = status.warren_socks5.as_deref().unwrap_or("none");
    Well(format!("interface: none, by choice or for lack of rights; SOCKS5 proxy: {socks5}"))
}

async fn network(client: &Client) -> Vec<Finding> {
    match client.netcheck().await {
        Err(error) => vec![Unknown(format!("network: {error}"))],
        Ok(report) => {
            let fastest = report.region_latency.iter().min_by_key(|(_, nanoseconds)| **nanoseconds);
            let relay = match fastest {
                Some((region, nanoseconds)) => {
                    Well(format!("relay: region {region} answers in {}", words::latency(*nanoseconds as f64 / 1e9)))
                }
                None => Wrong(
                    "relay: none answers".into(),
                    "see whether the relay runs and whether its TCP and STUN ports are let through".into(),
                ),
            };
            let udp = if report.udp {
                Well("udp: works, so direct paths are possible".into())
            } else {
                Wrong(
                    "udp: no answer from any relay's STUN port, so everything goes by relay".into(),
                    "let UDP out, and UDP 3478 in at the relay".into(),
                )
            };
            vec![relay, udp]
        }
    }
}

/// What to do about a health text of the daemon; where there is nothing better, the log.
fn advice(text: &str) -> &'static str {
    for (part, advice) in [
        ("clock", "set this machine's clock, or run an NTP client"),
        ("expire", "warren up --force-reauth"),
        ("logged out", "warren up --login-server URL"),
        ("relay", "see whether the relay runs and is reachable from here: warren netcheck"),
        ("no program nft", "install nftables, or do without the guard: warren set --netfilter-mode=off"),
        ("control server", "see whether the control server runs and is reachable from here"),
    ] {
        if text.to_ascii_lowercase().contains(part) {
            return advice;
        }
    }
    "the daemon's log says more (WARREN_LOG=debug)"
}

fn usual_sockets(first: &Path) -> Vec<PathBuf> {
    let mut paths = vec![first.to_owned()];
    for (name, what) in [("node.sock", "node"), ("control.sock", "control")] {
        paths.push(places::socket(name, &places::state_dir(what)));
        paths.push(places::user_state().join(what).join("run").join(name));
        paths.push(Path::new("/run/warren").join(name));
    }
    paths.push("/run/warren/helper.sock".into());
    paths.sort();
    paths.dedup();
    paths
}

/// Sockets, an interface and a table that nobody stands behind any more.
fn leftovers(sockets: &[PathBuf], dry_run: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A plain file refuses connections as well, and is nobody's leftover.
    let is_socket = |path: &&PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    for path in sockets.iter().filter(is_socket) {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                findings.push(clear(
                    format!("leftover: socket {} of a process that is gone", path.display()),
                    dry_run,
                    || std::fs::remove_file(path),
                ));
            }
            _ => {}
        }
    }
    // Tun devices vanish with their process, so what is here without one has an owner who hangs.
    let helper_lives = std::os::unix::net::UnixStream::connect(crate::rights::INSTALLED_HELPER).is_ok();
    let any_lives = helper_lives || sockets.iter().any(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    if !any_lives
        && let Ok(mut host) = Host::open()
        && let Ok(Some(true)) = host.interface(DEFAULT_INTERFACE)
    {
        let what = format!("leftover: interface {DEFAULT_INTERFACE} without a daemon");
        findings.push(clear(what, dry_run || !places::is_root(), || {
            host.remove(DEFAULT_INTERFACE).map_err(|error| std::io::Error::other(error.to_string()))
        }));
    }
    if !any_lives && places::is_root() && guard::stands(DEFAULT_INTERFACE) {
        let what = format!("leftover: nftables table {} without a daemon", guard::table(DEFAULT_INTERFACE));
        findings.push(clear(what, dry_run, || {
            guard::remove(DEFAULT_INTERFACE).map_err(|error| std::io::Error::other(error.to_string()))
        }));
    }
    if findings.is_empty() {
        findings.push(Well("leftovers: none".into()));
    }
    findings
}

fn clear(what: String, only_look: bool, clear: impl FnOnce() -> std::io::Result<()>) -> Finding {
    if only_look {
        return Wrong(what, "the next start clears it away; so does warren doctor with the rights to".into());
    }
    match clear() {
        Ok(()) => Well(format!("{what}: removed")),
        Err(error) => Wrong(what, format!("remove it as its owner or root ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_removed_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (stale, living, file) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        drop(std::os::unix::net::UnixListener::bind(&stale).expect("free"));
        let _listener = std::os::unix::net::UnixListener::bind(&living).expect("free");
        std::fs::write(&file, "keep me").expect("writable");
        let all = [stale.clone(), living.clone(), file.clone(), folder.path().join("none")];
        assert!(matches!(leftovers(&all, true)[0], Wrong(..)));
        assert!(stale.exists());
        assert!(matches!(leftovers(&all, false)[0], Well(_)));
        assert!(!stale.exists() && living.exists() && file.exists());
    }

    #[test]
    fn every_state_that_is_not_running_says_what_to_do() {
        let of = |state_name: &str| state(&Status { backend_state: state_name.into(), ..Status::default() });
        assert!(matches!(of("Running"), Well(_)));
        for name in ["Stopped", "NeedsLogin", "NeedsMachineAuth", "NoState"] {
            assert!(matches!(of(name), Wrong(..)), "{name}");
        }
    }
}
