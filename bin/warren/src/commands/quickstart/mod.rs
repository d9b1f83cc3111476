//! `warren quickstart`: a network with nothing to configure, and how others get into it.
//!
//! ```text
//! quickstart ─┬─ control serve   control server, relay, STUN
//!             ├─ node run        this machine's node
//!             └─ helper          with root: it alone keeps root's rights
//! ```
//!
//! All are children of this process and end with it. State stays, so the next start carries on.

mod addresses;
mod children;
mod executable;
mod page;

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use warren_api::admin::{self, CreateKey, CreateUser, PreAuthKey};
use warren_api::local;
use warren_crypto::UnixTime;
use warren_io::{DialOptions, fetch_server_key};

use self::children::Child;
use super::up::Login;
use super::{join, serve};
use crate::life;
use crate::rights::{self, Helper, Standing};

/// How long the printed key lets machines in: a day of setting up, not a door for ever.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// This machine's own key is used at once.
const OWN_KEY_LIFETIME: Duration = Duration::from_secs(600);

/// For each of the steps; a loaded small machine makes keys and a database in it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long children have to end in order.
const FAREWELL: Duration = Duration::from_secs(10);

/// What makes a state folder one of ours to remove.
const MARK: &str = "quickstart.json";

/// Starts a network here.
#[derive(Args, Clone, Debug)]
pub struct Quickstart {
    /// The address or name that other machines reach this one at, if not the one found
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// TCP port of the control server and the relay
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// UDP port of STUN
    #[arg(long, default_value_t = 3478)]
    stun_port: u16,
    /// Forget everything that quickstart made on this machine
    #[arg(long)]
    remove: bool,
}

/// What is remembered from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    /// The address that machines were told.
    host: String,
    /// Number of the key that was printed last; a new start prints another, and this one ends.
    key: String,
}

/// Everything that the page says.
struct Facts {
    url: String,
    port: u16,
    stun_port: u16,
    /// Addresses of this machine, best first; the first is in `url`.
    hosts: Vec<String>,
    key: String,
    server_key: String,
    executable: executable::Facts,
    own: local::Status,
    why_userspace: String,
    state: PathBuf,
}

/// `warren quickstart`.
pub fn run(command: &Quickstart) -> Result<()> {
    if command.remove {
        return remove(&rights::state_folder());
    }
    let mut standing = rights::settle()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&standing.state)
        .with_context(|| format!("make the folder {}", standing.state.display()))?;
    let helper = standing.helper.take();
    life::run(1, async |shutdown| network(command, &standing, helper, shutdown).await)
}

async fn network(
    command: &Quickstart,
    standing: &Standing,
    helper: Option<Helper>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut children = Vec::new();
    let mut helper_process = None;
    let starting = start(command, standing, helper, &mut children, &mut helper_process);
    let started = tokio::select! {
        started = starting => started,
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
    };
    let ended = match started {
        Ok(()) if *shutdown.borrow() => Ok(()),
        Ok(()) => tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => Ok(()),
            error = children::first_to_end(&mut children) => Err(error),
        },
        // A child that has ended knows better why than whoever waited for it.
        Err(error) => Err(children::ended(&mut children).unwrap_or(error)),
    };
    // The node first, so that the server hears that it goes.
    for child in children.iter_mut().rev() {
        child.stop(FAREWELL).await;
    }
    if let Some(mut helper) = helper_process {
        tokio::task::spawn_blocking(move || helper.wait()).await.context("wait for the helper")??;
    }
    if ended.is_ok() {
        println!("\nStopped. Nothing of it runs; warren quickstart carries on, warren quickstart --remove forgets it.");
    }
    ended
}

async fn start(
    command: &Quickstart,
    standing: &Standing,
    helper: Option<Helper>,
    children: &mut Vec<Child>,
    helper_process: &mut Option<std::process::Child>,
) -> Result<()> {
    let mark = standing.state.join(MARK);
    let before = read_mark(&mark);
    let hosts = addresses::choose(command.address.as_deref(), &before.host)?;
    let host = hosts.first().context("this machine has no address")?.clone();
    let mut remembered = Mark { host: host.clone(), key: before.key.clone() };
    serve::write_whole(&mark, &serde_json::to_vec_pretty(&remembered)?)?;
    let url = format!("http://{}:{}", addresses::in_url(&host), command.port);

    println!("Starting the control server …");
    let control_socket = standing.socket("control.sock", "control");
    children.push(Child::start("control", &control_words(command, standing, &control_socket, &url), None)?);
    let operator = admin::Client::new(&control_socket);
    children::until(PATIENCE, children, "the control server answers", async || operator.health().await.is_ok()).await?;
    let user = user(&operator, &standing.user).await?;
    let printed = key(&operator, &user, true, KEY_LIFETIME).await?;
    remembered.key.clone_from(&printed.id);
    serve::write_whole(&mark, &serde_json::to_vec_pretty(&remembered)?)?;
    if !before.key.is_empty() {
        // One that has ended by itself, or was deleted by the operator, is no trouble.
        let _ = operator.expire_key(&before.key).await;
    }
    let loopback = if has_ipv6() { "[::1]" } else { "127.0.0.1" };
    let here = format!("http://{loopback}:{}", command.port).parse()?;
    let server_key = fetch_server_key(&here, super::version::capability(), &DialOptions::default()).await?;

    println!("Starting this machine's node …");
    let node_socket = standing.socket("node.sock", "node");
    let is_userspace = helper.is_none();
    let mut words = node_words(standing, &node_socket, is_userspace).await?;
    let door = match helper {
        Some(Helper::Installed(path)) => {
            words.extend(["--helper".into(), path.display().to_string()]);
            None
        }
        Some(Helper::Started(started)) => {
            *helper_process = Some(started.child);
            Some(started.door)
        }
        None => None,
    };
    children.push(Child::start("node", &words, door)?);
    let node = local::Client::new(&node_socket);
    children::until(PATIENCE, children, "the node answers", async || node.status(false).await.is_ok()).await?;
    let own = own_node(&node, &operator, &user, &url, &server_key.to_string()).await?;

    let facts = Facts {
        url,
        port: command.port,
        stun_port: command.stun_port,
        hosts,
        key: printed.key,
        server_key: server_key.to_string(),
        executable: tokio::task::spawn_blocking(|| executable::look(Path::new(rights::THIS_PROGRAM))).await??,
        own,
        why_userspace: if is_userspace { standing.why_userspace.clone() } else { String::new() },
        state: standing.state.clone(),
    };
    println!("{}", page::text(&facts));
    Ok(())
}

fn control_words(command: &Quickstart, standing: &Standing, socket: &Path, url: &str) -> Vec<String> {
    let every = if has_ipv6() { "[::]" } else { "0.0.0.0" };
    let words = [
        "control".to_owned(),
        "serve".to_owned(),
        format!("--state={}", standing.state.join("control").display()),
        format!("--socket={}", socket.display()),
        format!("--listen={every}:{}", command.port),
        format!("--server-url={url}"),
        format!("--stun={}", command.stun_port),
    ];
    words.into()
}

async fn node_words(standing: &Standing, socket: &Path, is_userspace: bool) -> Result<Vec<String>> {
    let mut words = vec![
        "node".to_owned(),
        "run".to_owned(),
        format!("--state={}", standing.state.join("node").display()),
        format!("--socket={}", socket.display()),
    ];
    if is_userspace {
        words.push(format!("--tun={}", warrend::config::USERSPACE));
        words.push(format!("--socks5-server={}", join::free_socks_address().await?));
    }
    Ok(words)
}

/// The number of the network's first person, made its owner if there is nobody yet.
async fn user(operator: &admin::Client, wanted: &str) -> Result<String> {
    let users = operator.users().await?;
    if let Some(first) = users.first() {
        if is_half_made(&users) && operator.keys().await?.is_empty() {
            operator.set_role(&first.id, "owner").await?;
        }
        return Ok(first.id.clone());
    }
    let is_plain = !wanted.is_empty() && wanted.chars().all(|letter| letter.is_ascii_alphanumeric());
    let name = if is_plain { wanted } else { "me" };
    let made = operator.create_user(&CreateUser { name: name.to_owned(), ..CreateUser::default() }).await?;
    Ok(operator.set_role(&made.id, "owner").await?.id)
}

/// Whether the only person may be one whom a run made that was ended before it gave them their role: then no key was made
/// either.
fn is_half_made(users: &[admin::User]) -> bool {
    matches!(users, [only] if only.provider.is_empty() && only.role == "member")
}

async fn key(operator: &admin::Client, user: &str, reusable: bool, lifetime: Duration) -> Result<PreAuthKey> {
    let now = UnixTime::from_duration(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let expiration = Some(now.saturating_add(lifetime));
    Ok(operator.create_key(&CreateKey { user: user.to_owned(), reusable, expiration, ..CreateKey::default() }).await?)
}

/// Brings this machine's node into its own network; a key is made only where it needs one.
async fn own_node(
    node: &local::Client,
    operator: &admin::Client,
    user: &str,
    url: &str,
    server_key: &str,
) -> Result<local::Status> {
    let login = Login {
        login_server: Some(url.to_owned()),
        server_key: Some(server_key.to_owned()),
        timeout: PATIENCE,
        ..Login::default()
    };
    let status = node.status(false).await?;
    if status.have_node_key
        && status.warren_control_url == url
        && let Ok(status) = join::enter(node, &login, None).await
    {
        return Ok(status);
    }
    let auth_key = key(operator, user, false, OWN_KEY_LIFETIME).await?.key;
    join::enter(node, &Login { auth_key: Some(auth_key), ..login }, None).await
}

fn read_mark(path: &Path) -> Mark {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn remove(state: &Path) -> Result<()> {
    if !state.join(MARK).exists() {
        bail!("there is nothing of quickstart in {}", state.display());
    }
    for (name, what) in [("control.sock", "control"), ("node.sock", "node")] {
        for path in [crate::places::socket(name, &state.join(what)), Path::new("/run/warren").join(name)] {
            if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                bail!("it is running (somebody answers at {}); stop it first", path.display());
            }
        }
    }
    for what in ["control", "node"] {
        match fs::remove_dir_all(state.join(what)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", state.join(what).display()));
            }
            _ => {}
        }
    }
    // Last, so that a removal that broke off can be done again.
    fs::remove_file(state.join(MARK)).with_context(|| format!("remove {}", state.join(MARK).display()))?;
    // Only if nothing else is in it.
    let _ = fs::remove_dir(state);
    if rights::remove_service_user()? {
        println!("The system user that ran it is gone as well.");
    }
    println!(
        "Everything that quickstart kept in {} is gone. Other machines still have their own state.",
        state.display()
    );
    Ok(())
}

fn has_ipv6() -> bool {
    TcpListener::bind((IpAddr::from([0_u16, 0, 0, 0, 0, 0, 0, 1]), 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remove_takes_only_what_quickstart_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("warren");
        fs::create_dir_all(state.join("node")).expect("writable");
        fs::create_dir_all(state.join("relay")).expect("writable");
        assert!(remove(&state).is_err());
        assert!(state.join("node").exists());
        serve::write_whole(&state.join(MARK), b"{}").expect("writable");
        remove(&state).expect("marked");
        assert!(!state.join("node").exists() && !state.join(MARK).exists() && state.join("relay").exists());
    }

    #[test]
    fn only_a_person_whom_a_run_may_have_left_without_a_role_is_given_one() {
        let made = admin::User { role: "member".into(), ..admin::User::default() };
        assert!(is_half_made(std::slice::from_ref(&made)));
        let owner = admin::User { role: "owner".into(), ..made.clone() };
        let signed_in = admin::User { provider: "oidc".into(), ..made.clone() };
        for users in [vec![], vec![owner], vec![signed_in], vec![made.clone(), made]] {
            assert!(!is_half_made(&users), "{users:?}");
        }
    }

    #[test]
    fn a_mark_of_another_format_is_as_good_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(MARK);
        assert_eq!(read_mark(&path), Mark::default());
        fs::write(&path, "not JSON").expect("writable");
        assert_eq!(read_mark(&path), Mark::default());
        serve::write_whole(&path, &serde_json::to_vec(&Mark { host: "a".into(), ..Mark::default() }).expect("JSON"))
            .expect("writable");
        assert_eq!(read_mark(&path).host, "a");
    }
}
