//! The services: `control serve`, `node run`.

use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use warren_controld::{Overrides, Service};
use warren_crypto::Random;
use warren_io::certificates::{Shown, Source};
use warren_io::listener::{self, Caps};
use warren_relay::server::ServerConfig;
use warren_relayd::{Relay, admission, key_file, stun};
use warrend::config::USERSPACE;
use warrend::{Config, Settings};

use crate::rights::{self, StartedHelper};
use crate::{life, places};

/// Where the stock client's tools look.
const STOCK_SOCKET: &str = "/run/tailscale/tailscaled.sock";

/// The node's usual UDP port.
pub const NODE_PORT: u16 = 41641;

/// Runs a control server, with a relay beside it on the same port.
#[derive(Args, Clone, Debug, Default)]
pub struct ControlServe {
    /// Configuration file (/etc/warren/control.toml if it is there)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of its key and database
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The address that machines log in to, exactly
    #[arg(long, value_name = "URL")]
    server_url: Option<String>,
    /// Names are <node>.<base domain>
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<String>,
    /// No relay beside the control server
    #[arg(long)]
    no_relay: bool,
    /// UDP port of STUN; 0 for none
    #[arg(long, value_name = "PORT")]
    stun: Option<u16>,
    /// A relay map (JSON) whose regions are added to our own
    #[arg(long, value_name = "FILE")]
    relay_map: Option<PathBuf>,
    /// A policy file that takes the place of the policy in the database
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Do not tell nodes each other's addresses outside the network
    #[arg(long)]
    hide_endpoints: bool,
    /// Certificate chain (PEM), for https without a proxy
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// How long a machine's key is good, such as 180d; 0 for ever
    #[arg(long, value_name = "TIME")]
    key_lifetime: Option<String>,
    /// Clients do not check the relay's certificate: for tests with clients that cannot pin one
    #[arg(long, hide = true)]
    insecure_for_tests: bool,
}

impl ControlServe {
    fn overrides(&self, socket: Option<PathBuf>) -> Overrides {
        let yes = |flag: bool| flag.then_some(true);
        Overrides {
            listen: self.listen,
            server_url: self.server_url.clone(),
            base_domain: self.base_domain.clone(),
            state_dir: self.state.clone(),
            socket,
            key_lifetime: self.key_lifetime.clone(),
            hide_endpoints: yes(self.hide_endpoints),
            policy_file: self.policy.clone(),
            tls_certificate: self.tls_certificate.clone(),
            tls_key: self.tls_key.clone(),
            relay: self.no_relay.then_some(false),
            stun_port: self.stun,
            insecure_for_tests: yes(self.insecure_for_tests),
            relay_map_file: self.relay_map.clone(),
            ..Overrides::default()
        }
    }
}

/// `warren control serve`.
pub fn control(command: ControlServe, socket: Option<PathBuf>) -> Result<()> {
    life::enter("info")?;
    let file = command.config.clone().or_else(|| usual_file("control"));
    let variable = |name: &str| std::env::var(name).ok();
    let folder = places::state_dir("control");
    let mut config = warren_controld::Config::load(file.as_deref(), variable, command.overrides(socket), &folder)?;
    if config.socket == config.state_dir.join("run").join("control.sock") {
        config.socket = places::socket("control.sock", &config.state_dir);
    }
    config.executable = Some(rights::THIS_PROGRAM.into());
    life::run(worker_threads(), |shutdown| serve_control(config, shutdown))
}

async fn serve_control(mut config: warren_controld::Config, shutdown: watch::Receiver<bool>) -> Result<()> {
    // The port first: what is most often wrong is found before anything is touched.
    let port = listener::bind(config.listen)?;
    warren_controld::state_dir::prepare(&config.state_dir)?;
    let plain = config.http_listen.map(listener::bind).transpose()?;
    let shown = certificate_source(&config).map(Shown::open).transpose()?;
    let tls = shown.as_ref().map(Shown::server_config).transpose()?;
    if let (Some(relay), Some(pin)) = (&mut config.relay, shown.as_ref().and_then(Shown::pin)) {
        relay.certificate = Some(format!("sha256-raw:{}", hex::encode(pin)));
    }
    let stun_port = config.relay.as_ref().and_then(|relay| relay.stun_port);
    let stun_socket = match stun_port.map(|port| SocketAddr::new(config.listen.ip(), port)) {
        Some(address) => Some(stun::bind(address).await.with_context(|| format!("listen for STUN on UDP {address}"))?),
        None => None,
    };
    let stun_counters = Arc::<stun::StunCounters>::default();
    let service = Service::open(&config).await?;
    let mut routes = service.routes();
    let mut relay = None;
    if config.relay.is_some() {
        let mut random = Random::from_seed(seed()?);
        let secret = key_file::load_or_make(&config.state_dir.join("relay.key"), &mut random)?;
        let may_enter = service.admission();
        let may_enter = admission::by(move |key, source| std::future::ready(may_enter.admits(&key, source)));
        let beside = Relay::new(secret, ServerConfig::default(), may_enter, random);
        let counters = service.counters();
        // Its `/debug/counters` has the control server's, too, and comes before the one without the relay's.
        let debug = beside.debug_routes(Arc::clone(&stun_counters), move || vec![("control", counters())]);
        routes = debug.merge(routes).merge(beside.routes(config.origins()?));
        relay = Some(beside);
    }
    if let Some(shown) = &shown {
        routes = routes.merge(shown.routes());
        service.add_concern("certificate", shown.problem());
    }
    info!(url = %config.server_url, listen = %config.listen, key = %service.server_key(), relay = relay.is_some(), "the control server is ready");

    let routes = Arc::new(routes);
    let serving = listener::serve(port, Arc::clone(&routes), tls, Caps::default(), shutdown.clone());
    // Clients prefer plain HTTP for the control channel, whose Noise needs no TLS.
    let serving_plain = async {
        if let Some(plain) = plain {
            listener::serve(plain, routes, None, Caps::default(), shutdown.clone()).await;
        }
    };
    let random = Random::from_seed(seed()?);
    let certificates = shown.as_ref().map(|shown| Arc::clone(shown.certificates()));
    let announcing = async {
        if let (Some(relay), Some(certificates)) = (&relay, certificates) {
            relay.announce(certificates).await;
        }
    };
    let keeping_certificate = async {
        match shown {
            Some(shown) => shown.keep(random).await,
            None => std::future::pending().await,
        }
    };
    let answering_stun = async {
        if let Some(socket) = stun_socket {
            stun::serve(socket, stun_counters, shutdown.clone()).await;
        }
    };
    let mut registry = service.admission();
    let reviewing = async {
        if let Some(relay) = &relay {
            relay.review_on(async || registry.changed().await).await;
        }
    };
    let reload = service.reload();
    let rereading = async {
        // Without a handler the signal would end the process; the certificate has one of its own.
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                while hangup.recv().await.is_some() {
                    info!("SIGHUP: files are read again");
                    reload.now();
                }
            }
            Err(error) => warn!(%error, "SIGHUP cannot be listened for"),
        }
    };
    // All end by the signal that ends the service, which takes longer; so their end is not the end.
    let open_ports = async {
        tokio::join!(serving, serving_plain, answering_stun, reviewing, announcing, keeping_certificate, rereading);
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = service.run(shutdown.clone()) => ended,
        () = open_ports => Ok(()),
    };
    if let Some(relay) = relay {
        relay.close().await;
    }
    Ok(ended?)
}

/// Where the certificate of a control server comes from; without a relay that needs TLS and without a word from the
/// operator there is none.
fn certificate_source(config: &warren_controld::Config) -> Option<Source> {
    if let Some(acme) = &config.acme {
        return Some(Source::Acme(acme.clone()));
    }
    if let Some(files) = &config.tls {
        return Some(Source::Files { chain: files.certificate.clone(), key: files.key.clone() });
    }
    let relay = config.relay.as_ref()?;
    Some(Source::SelfMade { folder: config.state_dir.clone(), names: vec![relay.host.clone()] })
}

/// Runs the node daemon.
#[derive(Args, Clone, Default)]
pub struct NodeRun {
    /// Configuration file (/etc/warren/node.toml if it is there)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of its state
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Listen at the stock client's socket as well
    #[arg(long)]
    stock_socket: bool,
    /// Name of the interface, or userspace-networking for none
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,
    /// Socket of the privileged helper
    #[arg(long, value_name = "PATH")]
    helper: Option<PathBuf>,
    /// A connection to a helper that the parent process made
    #[arg(long, hide = true)]
    helper_fd: Option<RawFd>,
    /// Where to open a SOCKS5 proxy into the network
    #[arg(long, value_name = "ADDRESS:PORT")]
    socks5_server: Option<String>,
    /// Where to open an HTTP proxy into the network
    #[arg(long, value_name = "ADDRESS:PORT")]
    outbound_http_proxy_listen: Option<String>,
    /// UDP port to try first
    #[arg(long)]
    port: Option<u16>,
    /// Bytes in a packet of the interface
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Join this network at the first start
    #[arg(long, value_name = "URL")]
    login_server: Option<String>,
    /// With this key; file:PATH reads it from a file
    #[arg(long, alias = "authkey", value_name = "KEY", hide_env_values = true)]
    auth_key: Option<String>,
    /// The control server's public key (mkey:…): nobody else can then answer the first contact
    #[arg(long, value_name = "KEY")]
    server_key: Option<String>,
    /// Name of this node instead of the machine's own
    #[arg(long)]
    hostname: Option<String>,
}

impl std::fmt::Debug for NodeRun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeRun").field("state", &self.state).field("tun", &self.tun).finish_non_exhaustive()
    }
}

/// `warren node run`.
pub fn node(command: NodeRun, socket: Option<PathBuf>) -> Result<()> {
    // Before anything could open a file by that number.
    let inherited = match command.helper_fd {
        Some(number) => {
            Some(warren_os::helper::inherited_fd(number).with_context(|| format!("descriptor {number} is not open"))?)
        }
        None => None,
    };
    life::enter("info")?;
    let (file, is_named) = match &command.config {
        Some(path) => (path.clone(), true),
        None => ("/etc/warren/node.toml".into(), false),
    };
    let flags = Settings {
        state: command.state,
        socket,
        stock_socket: command.stock_socket.then_some(true),
        tun: command.tun,
        helper: command.helper,
        port: command.port,
        mtu: command.mtu,
        socks5_server: command.socks5_server,
        outbound_http_proxy_listen: command.outbound_http_proxy_listen,
        login_server: command.login_server,
        auth_key: command.auth_key,
        server_key: command.server_key,
        hostname: command.hostname,
    };
    let settings = Settings::from_file(&file, is_named)?;
    let settings = settings.overlaid(Settings::from_environment(std::env::vars())?).overlaid(flags);
    let (door, started) = helper_door(&settings, inherited)?;
    let state = settings.state.clone().unwrap_or_else(|| places::state_dir("node"));
    let config = Config {
        socket: settings.socket.clone().unwrap_or_else(|| places::socket("node.sock", &state)),
        more_sockets: settings.stock_socket.unwrap_or(false).then(|| STOCK_SOCKET.into()).into_iter().collect(),
        helper: door,
        port: settings.port.unwrap_or(NODE_PORT),
        mtu: settings.mtu()?,
        socks5: settings.socks5()?,
        http_proxy: settings.http_proxy()?,
        login: settings.login()?,
        version: super::version::VERSION.to_owned(),
        state,
    };
    let ended = life::run(2, |shutdown| async { Ok(warrend::run(config, || {}, shutdown).await?) });
    if let Some(mut child) = started {
        // Its connection has ended with the node: it takes the interface away, and goes.
        child.wait().context("wait for the helper")?;
    }
    ended
}

type Door = (Option<warren_driver::HelperDoor>, Option<std::process::Child>);

/// How this node gets its interface, if it gets one.
fn helper_door(settings: &Settings, inherited: Option<OwnedFd>) -> Result<Door> {
    use warren_driver::HelperDoor::{Inherited, Socket};
    if let Some(fd) = inherited {
        return Ok((Some(Inherited(fd)), None));
    }
    if settings.tun.as_deref() == Some(USERSPACE) {
        return Ok((None, None));
    }
    if let Some(path) = &settings.helper {
        return Ok((Some(Socket(path.clone())), None));
    }
    if Path::new(rights::INSTALLED_HELPER).exists() {
        return Ok((Some(Socket(rights::INSTALLED_HELPER.into())), None));
    }
    if places::is_root() {
        let StartedHelper { child, door } = rights::start_helper(settings.tun.as_deref())?;
        return Ok((Some(Inherited(door)), Some(child)));
    }
    if let Some(name) = &settings.tun {
        bail!(
            "the interface {name} needs a helper (warren helper run, as root), and none is at {}",
            rights::INSTALLED_HELPER
        );
    }
    warn!("no helper and no rights: this node has no interface (user-space networking)");
    Ok((None, None))
}

pub(super) fn usual_file(service: &str) -> Option<PathBuf> {
    Some(Path::new("/etc/warren").join(format!("{service}.toml"))).filter(|path| path.exists())
}

pub(super) fn make_folder(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make the folder {}", path.display()))
}

/// After a crash there is the old file or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path));
    written.with_context(|| format!("write {}", path.display()))
}

pub(super) fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("this system gives no randomness: {error}"))?;
    Ok(seed)
}

pub(super) fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
}
