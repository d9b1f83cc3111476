//! `warren status`: this node, its peers, and by which path each is reached.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::status::ZERO_TIME;
use warren_api::local::{BackendState, Client, PeerStatus, Status, watch};

use crate::{safe, table};

#[derive(Args, Clone, Debug, Default)]
pub struct StatusCommand {
    /// Everything, as JSON
    #[arg(long)]
    json: bool,
    /// Show it again at every change, until interrupted
    #[arg(long)]
    watch: bool,
    /// Only peers with traffic
    #[arg(long)]
    active: bool,
    /// Show this node too
    #[arg(long = "self", num_args = 0..=1, default_missing_value = "true", default_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    own: bool,
    /// Show peers
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    peers: bool,
    /// Name the columns
    #[arg(long)]
    header: bool,
}

pub async fn run(client: &Client, command: &StatusCommand) -> Result<()> {
    if !command.watch {
        return once(client, command).await;
    }
    let mut bus = client.watch(watch::INITIAL_STATE | watch::NO_NETMAP).await?;
    loop {
        if !command.json {
            print!("\x1b[2J\x1b[H");
        }
        // A stopped node is a state to show here, not an error.
        if let Err(error) = once(client, command).await {
            println!("{}", safe::lines(&format!("{error:#}")));
        }
        // Paths change without a message on the bus, so it is looked at every two seconds as well.
        match tokio::time::timeout(Duration::from_secs(2), bus.next()).await {
            Ok(Ok(None)) => bail!("the daemon has stopped"),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(Some(_))) | Err(_) => {}
        }
    }
}

/// What the daemon's health says of every node that is out.
const LOGGED_OUT: &str = "You are logged out.";

async fn once(client: &Client, command: &StatusCommand) -> Result<()> {
    let mut status = client.status(command.peers).await?;
    if let (true, Some(peers)) = (command.active, status.peer.as_mut()) {
        peers.retain(|_, peer| peer.active);
    }
    if command.json {
        // Scripts poll BackendState, so this succeeds in every state.
        println!("{}", crate::safe::json(&status)?);
        return Ok(());
    }
    match BackendState::parse(&status.backend_state) {
        Some(BackendState::Running | BackendState::Starting) => {}
        Some(BackendState::Stopped) => bail!("Warren is stopped. Start it with: warren up"),
        Some(BackendState::NeedsLogin | BackendState::NoState) => {
            let visit =
                if status.auth_url.is_empty() { String::new() } else { format!(" Log in at: {}", status.auth_url) };
            // Why, where there is more to say than that.
            let why: String =
                status.health.iter().filter(|text| *text != LOGGED_OUT).map(|text| format!(" {text}")).collect();
            bail!("Logged out.{why}{visit}");
        }
        Some(BackendState::NeedsMachineAuth) => bail!("Machine is not yet approved by the network's operator."),
        _ => bail!("unexpected state: {}", status.backend_state),
    }
    println!("{}", render(&status, command));
    Ok(())
}

fn render(status: &Status, command: &StatusCommand) -> String {
    let mut peers: Vec<&PeerStatus> = status.peer.iter().flatten().map(|(_, peer)| peer).collect();
    peers.sort_by(|a, b| (&a.dns_name, &a.host_name, &a.public_key).cmp(&(&b.dns_name, &b.host_name, &b.public_key)));
    let own = command.own.then_some(&status.self_status);
    let rows =
        own.into_iter().map(|node| row(status, node, true)).chain(peers.iter().map(|peer| row(status, peer, false)));
    let header: &[&str] = if command.header { &["IP", "Hostname", "Owner", "OS", "Status"] } else { &[] };
    let mut text = table::plain(header, rows);
    let mut tail = status.health.clone();
    for peer in peers {
        if let Some(path) =
            peer.warren_path.as_ref().filter(|path| peer.active && path.kind != "direct" && !path.why.is_empty())
        {
            tail.push(format!("{} is reached by {}: {}", short_name(status, peer), path.kind, path.why));
        }
    }
    if !tail.is_empty() {
        text.push_str("\n\n# Health check:");
        for line in tail {
            text.push_str(&format!("\n#     - {}", safe::line(&line)));
        }
    }
    text
}

fn row(status: &Status, node: &PeerStatus, own: bool) -> Vec<String> {
    let ip = node.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
    vec![ip, short_name(status, node), owner(status, node), node.os.clone(), state(node, own)]
}

fn short_name(status: &Status, node: &PeerStatus) -> String {
    let suffix = format!(".{}.", status.magic_dns_suffix);
    match node.dns_name.strip_suffix(&suffix).or(node.dns_name.strip_suffix('.')) {
        Some(name) if !name.is_empty() => name.to_string(),
        _ => format!("(\"{}\")", node.host_name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-")),
    }
}

fn owner(status: &Status, node: &PeerStatus) -> String {
    if node.user_id == 0 {
        return "-".into();
    }
    let id = node.user_id.to_string();
    let login = status.user.as_ref().and_then(|users| users.get(&id)).map(|user| user.login_name.clone());
    match login {
        Some(login) if login.contains('@') => {
            login.split('@').next().map(|name| format!("{name}@")).unwrap_or_default()
        }
        Some(login) => login,
        None => id,
    }
}

fn state(node: &PeerStatus, own: bool) -> String {
    let mut text = if !node.active {
        if own || node.online { "-".to_string() } else { offline(node) }
    } else if !node.cur_addr.is_empty() {
        format!("active; direct {}", node.cur_addr)
    } else if node.relay.is_empty() {
        "active; no path".to_string()
    } else {
        format!("active; relay \"{}\"", node.relay)
    };
    if node.active && !own && !node.online {
        text.push_str("; offline");
    }
    if node.expired {
        text.push_str("; key expired");
    }
    if node.tx_bytes > 0 || node.rx_bytes > 0 {
        text.push_str(&format!(", tx {} rx {}", node.tx_bytes, node.rx_bytes));
    }
    text
}

fn offline(node: &PeerStatus) -> String {
    if node.last_seen == ZERO_TIME || node.last_seen.is_empty() {
        "offline".into()
    } else {
        format!("offline, last seen {}", node.last_seen)
    }
}
