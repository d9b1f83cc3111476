//! `warren join`: this machine's node in the foreground, in a network at once, with nothing installed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use warren_api::local::{Client, MaskedPrefs, Prefs, Status};
use warren_driver::HelperDoor;
use warrend::Config;

use super::up::{self, Login};
use super::version::VERSION;
use crate::life;
use crate::rights::{self, Helper, Standing};

/// Where the SOCKS5 proxy of a node without an interface is, if that is free.
const SOCKS_PORT: u16 = 1055;

/// Joins a network from this machine, in the foreground, without installing anything.
#[derive(Args, Clone, Default)]
pub struct Join {
    /// The control server's address
    url: String,
    /// The key that was printed there; file:PATH reads it from a file
    #[arg(long, alias = "authkey", value_name = "KEY")]
    auth_key: Option<String>,
    /// The control server's public key (mkey:…): nobody else can then answer the first contact
    #[arg(long, value_name = "KEY")]
    server_key: Option<String>,
    /// Name of this node instead of the machine's own
    #[arg(long)]
    hostname: Option<String>,
    /// Folder of its state
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where to open a SOCKS5 proxy into the network
    #[arg(long, value_name = "ADDRESS:PORT")]
    socks5_server: Option<String>,
    /// Without an interface, also where there could be one
    #[arg(long)]
    userspace: bool,
    /// Give up after this long (0: never)
    #[arg(long, default_value = "0", value_parser = crate::words::parse_duration)]
    timeout: Duration,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Join").field("url", &self.url).finish_non_exhaustive()
    }
}

/// `warren join`.
pub fn run(command: Join, socket: Option<PathBuf>) -> Result<()> {
    let login = Login {
        login_server: Some(command.url.trim_end_matches('/').to_owned()),
        auth_key: command.auth_key.clone(),
        server_key: command.server_key.clone(),
        timeout: command.timeout,
        ..Login::default()
    };
    // Read before rights are given up: the file may be root's.
    let login = Login { auth_key: login.key()?, ..login };
    let mut standing = rights::settle()?;
    // Its own news are for the person in front of it; more of the log is for those who ask for it.
    life::enter("warn")?;
    let state = command.state.clone().unwrap_or_else(|| standing.state.join("node"));
    let socket = socket.unwrap_or_else(|| standing.socket("node.sock", "node"));
    let mut helper = standing.helper.take().filter(|_| !command.userspace);
    let mut started = None;
    let door = match helper.take() {
        Some(Helper::Installed(path)) => Some(HelperDoor::Socket(path)),
        Some(Helper::Started(rights::StartedHelper { child, door })) => {
            started = Some(child);
            Some(HelperDoor::Inherited(door))
        }
        None => None,
    };
    let is_userspace = door.is_none();
    let ended = life::run(2, async |shutdown| {
        let socks5 = match &command.socks5_server {
            Some(text) => warrend::Settings { socks5_server: Some(text.clone()), ..Default::default() }.socks5()?,
            None if is_userspace => Some(free_socks_address().await?),
            None => None,
        };
        let config = Config {
            state: state.clone(),
            socket: socket.clone(),
            more_sockets: Vec::new(),
            helper: door,
            port: super::serve::NODE_PORT,
            mtu: warren_node::DEFAULT_MTU,
            socks5,
            http_proxy: None,
            login: None,
            version: VERSION.to_owned(),
        };
        in_network(config, &command, &login, &standing, shutdown).await
    });
    if let Some(mut child) = started {
        child.wait().context("wait for the helper")?;
    }
    ended
}

async fn in_network(
    config: Config,
    command: &Join,
    login: &Login,
    standing: &Standing,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let client = Client::new(&config.socket);
    let (stop, stopping) = watch::channel(false);
    let (ready, is_ready) = oneshot::channel();
    let mut told = shutdown.clone();
    let mut running = tokio::spawn(warrend::run(
        config,
        move || {
            let _ = ready.send(());
        },
        stopping,
    ));
    let entering = async {
        // An end before that is the daemon's to explain.
        is_ready.await.ok()?;
        let entered = enter(&client, login, command.hostname.as_deref()).await;
        Some(match entered {
            Ok(status) => {
                println!("{}", crate::safe::lines(&greeting(&status, command, standing)));
                Ok(())
            }
            Err(error) => Err(error),
        })
    };
    let entered = tokio::select! {
        entered = entering => entered,
        _ = told.wait_for(|stop| *stop) => Some(Ok(())),
    };
    if let Some(Ok(())) = &entered {
        tokio::select! {
            ended = &mut running => return Ok(ended.context("the node's daemon panicked")??),
            _ = told.wait_for(|stop| *stop) => {}
        }
    }
    stop.send_replace(true);
    let ended = running.await.context("the node's daemon panicked")?;
    entered.unwrap_or(Ok(()))?;
    Ok(ended?)
}

/// Brings the node behind `client` into the network of `login`, with the key only if it is not in it yet.
///
/// # Errors
/// When it is not there in `login.timeout`, with the control server's reason if it gave one.
pub async fn enter(client: &Client, login: &Login, hostname: Option<&str>) -> Result<Status> {
    let status = client.status(false).await?;
    let current = client.prefs().await?;
    let url = login.login_server.clone().unwrap_or_default();
    let is_member =
        status.have_node_key && current.control_url == url && !current.logged_out && !status.self_status.expired;
    let mut entered = false;
    if is_member {
        let mut bus = client.watch(0).await?;
        client.edit_prefs(&named(MaskedPrefs::new().set("WantRunning", true), hostname)).await?;
        let without_key = Login { auth_key: None, ..login.clone() };
        match up::wait(client, &mut bus, &without_key).await {
            Ok(()) => entered = true,
            // The server may have forgotten this node; the key is for that.
            Err(error) if login.auth_key.is_none() => return Err(error),
            Err(_) => {}
        }
    }
    if !entered {
        let base = Prefs { profile_name: current.profile_name.clone(), ..Prefs::default() };
        let mut wanted = named(MaskedPrefs::new(), hostname).apply_to(&base)?;
        wanted.control_url = url;
        wanted.want_running = true;
        up::start(client, &status, login, wanted, false).await?;
    }
    let status = client.status(true).await?;
    if status.tailscale_ips.iter().flatten().next().is_none() {
        bail!("the network gave this node no address; look at: warren status");
    }
    Ok(status)
}

fn named(edit: MaskedPrefs, hostname: Option<&str>) -> MaskedPrefs {
    match hostname {
        Some(name) => edit.set("Hostname", name),
        None => edit,
    }
}

/// What a person reads who has just joined.
fn greeting(status: &Status, command: &Join, standing: &Standing) -> String {
    let own = &status.self_status;
    let name = own.dns_name.split('.').next().unwrap_or_default();
    let addresses = status.tailscale_ips.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let peers = status.peer.as_ref().map_or(0, |peers| peers.len());
    let mut text = format!(
        "This machine is in the network as {name} ({addresses}), beside {peers} other{}. Ctrl-C takes it out of reach.\n",
        if peers == 1 { "" } else { "s" }
    );
    if let Some(socks5) = &status.warren_socks5 {
        text.push_str(&userspace_hints(socks5, &standing.why_userspace));
    }
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_else(|_| "warren".into());
    text.push_str(&format!("\nTo keep it running as a service:\n{}", service_lines(&executable, &command.url)));
    text
}

/// What works without an interface, and what would give the whole system access.
pub fn userspace_hints(socks5: &str, why: &str) -> String {
    let why = if why.is_empty() { "no interface was wanted".to_owned() } else { why.to_owned() };
    format!(
        "There is no network interface here: {why}. What works:\n\
         \x20 warren status                       who is in the network\n\
         \x20 warren ping NAME                    by which path, how fast\n\
         \x20 warren nc NAME PORT                 a connection; for ssh: -o ProxyCommand='warren nc %h %p'\n\
         \x20 curl -x socks5h://{socks5} http://NAME/    any program that knows SOCKS5, names included\n\
         Others reach what listens on 127.0.0.1 here. For the whole system, run the same line as root (sudo).\n"
    )
}

/// Lines that install a node as a service of systemd.
fn service_lines(executable: &str, url: &str) -> String {
    let unit = "[Unit]\\nDescription=Warren node\\nAfter=network-online.target\\n[Service]\\nExecStart=/usr/local/bin/warren node run\\n\
                StateDirectory=warren\\nRuntimeDirectory=warren\\nRestart=on-failure\\n[Install]\\nWantedBy=multi-user.target\\n";
    format!(
        "  sudo install -m 755 {executable} /usr/local/bin/warren\n\
         \x20 printf '{unit}' | sudo tee /etc/systemd/system/warren-node.service\n\
         \x20 sudo systemctl enable --now warren-node && sudo warren up --login-server {url}\n"
    )
}

/// The usual proxy address if it is free, else any.
pub async fn free_socks_address() -> Result<std::net::SocketAddr> {
    for port in [SOCKS_PORT, 0] {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port of 127.0.0.1 is free for a SOCKS5 proxy")
}
