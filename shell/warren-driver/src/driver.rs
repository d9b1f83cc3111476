//! Starting a node on real sockets, and the handle to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, warn};
use warren_crypto::{Random, UnixTime};
use warren_engine::Delivery;
use warren_io::udp::{Udp, UdpPair};
use warren_netstack::Stack;
use warren_node::{
    Command, CommandError, LoadStateError, Node, NodeSetup, NodeState, Notice, OsFacts, Reply, Status, WhoIs,
};
use warren_os::DEFAULT_INTERFACE;
use warren_os::helper::{Client, ClientError};

use crate::clock::Clock;
use crate::control_link::Link;
use crate::datagrams::{self, Datagrams, FORWARD_ROOM};
use crate::dialer::{Dialer, MeshStream};
use crate::event_loop::{DriverFacts, EventLoop, Input, Parts};
use crate::host::{self, HelperDoor, HostKeeper};
use crate::http_proxy;
use crate::inbox::{Inbox, Stopped, inbox};
use crate::own_ports::{Kind, OwnPorts};
use crate::packets::{Packets, Plane};
use crate::relays::Relays;
use crate::socks5::{self, DialError, Target};
use crate::state_file::{OpenStateError, StateFile};
use crate::streams::Streams;
use crate::supervisor::Supervisor;

/// How a node is to be run.
#[derive(Debug)]
pub struct DriverConfig {
    /// Where its state lives; the folder is made.
    pub state_file: PathBuf,
    pub mode: Mode,
    /// The UDP port to try first; any other if it is taken.
    pub listen_port: u16,
    /// Where to open a SOCKS5 door, if at all.
    pub socks5: Option<SocketAddr>,
    /// Where to open an HTTP proxy, if at all.
    pub http_proxy: Option<SocketAddr>,
    /// Bytes in an inner packet; [`warren_node::DEFAULT_MTU`] unless configured.
    pub mtu: u16,
    /// The program's version as others shall see it.
    pub version: String,
}

/// Where the node's inner packets go.
#[derive(Debug)]
pub enum Mode {
    /// A stack inside this process; needs no rights.
    Userspace,
    /// The host's interface, by a privileged helper.
    Interface(HelperDoor),
}

/// Why a node could not be started. What had been started is undone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] OpenStateError),
    #[error("use node state {path}")]
    Unusable {
        path: PathBuf,
        #[source]
        source: LoadStateError,
    },
    #[error("reach the helper")]
    Helper(#[from] ClientError),
    #[error("open UDP sockets")]
    Udp(#[source] io::Error),
    #[error("open the {what} at {address}")]
    Door {
        what: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("ask the kernel for what the packet thread needs")]
    Kernel(#[source] io::Error),
}

/// Why a command brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Refused(#[from] CommandError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Starts nodes.
pub struct Driver;

/// A running node. Clones speak to the same one; it stops when [`DriverHandle::shutdown`] is called or the last clone goes.
#[derive(Clone)]
pub struct DriverHandle {
    running: Arc<Running>,
}

struct Running {
    inbox: Inbox<Input>,
    dialer: Dialer,
    socks5: Option<SocketAddr>,
    http_proxy: Option<SocketAddr>,
    refused: Refused,
    parts: Mutex<Option<RunningParts>>,
}

/// Who knocked at the proxies and was no client.
#[derive(Default)]
struct Refused {
    socks5: Arc<AtomicU64>,
    http_proxy: Arc<AtomicU64>,
}

struct RunningParts {
    thread: JoinHandle<()>,
    /// Ends by itself once the packet thread has, with everything written that was to be written.
    supervisor: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
}

/// Inputs that wait for the packet thread: a relay's burst of packets is one.
const INBOX_ROOM: usize = 512;

/// Orders on their way to tokio's side; more wait in the packet thread.
const ORDER_ROOM: usize = 64;

/// Runs on their way to the relay links; a burst more is dropped.
const RELAY_ROOM: usize = 256;

/// News that a watcher may be behind.
const WATCHER_ROOM: usize = 256;

/// How long the last write of state may take before a stop goes on without it.
const LAST_ORDERS_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    /// Starts a node from its state file, or as a new device. Call it inside a tokio runtime, which carries the slow part.
    ///
    /// # Errors
    /// See [`StartError`]; then nothing runs and nothing stays.
    pub async fn start(config: DriverConfig) -> Result<DriverHandle, StartError> {
        let (state_file, state) = load_state(&config.state_file)?;
        let mut random = Random::from_seed(seed().map_err(StartError::Kernel)?);
        let clock = Clock::start();
        let (inbox, outlet) = inbox(INBOX_ROOM).map_err(StartError::Kernel)?;
        let socks5 = open_door("SOCKS5 proxy", config.socks5).await?;
        let http_proxy = open_door("HTTP proxy", config.http_proxy).await?;
        let mut base = Base::open(config.mode, config.listen_port)?;

        let userspace = base.helper.is_none();
        let setup = NodeSetup {
            state,
            seed: random.bytes(),
            facts: facts(config.version),
            userspace,
            mtu: config.mtu,
            delivery: if userspace { Delivery::Single } else { Delivery::Joined { udp: true } },
        };
        let node = Node::new(setup, clock.now(), Clock::wall());

        let (orders, waiting_orders) = mpsc::channel(ORDER_ROOM);
        let (runs, waiting_runs) = mpsc::channel(RELAY_ROOM);
        let (wanted_relays, latest_relays) = watch::channel(None);
        let relay_drops = Arc::new(AtomicU64::new(0));
        let interface = base.helper.as_ref().map_or(DEFAULT_INTERFACE, |(client, _)| client.interface()).to_owned();
        let plane = match userspace {
            true => Plane::Stack(Box::new(Stack::new(&[], usize::from(config.mtu), random.fork(), clock.now()))),
            false => Plane::Tun(None),
        };
        let keeper = match base.helper.take() {
            Some((client, door)) => Some(HostKeeper::start(client, door, inbox.clone()).map_err(StartError::Kernel)?),
            None => None,
        };
        let packets = Packets::new(base.sockets, plane, runs, Arc::clone(&relay_drops));
        let own_ports = OwnPorts::default();
        packets.local_sockets().iter().for_each(|socket| own_ports.add(Kind::Udp, socket.bound));
        let socks5_addr = socks5.as_ref().and_then(|listener| listener.local_addr().ok());
        let http_proxy_addr = http_proxy.as_ref().and_then(|listener| listener.local_addr().ok());
        [socks5_addr, http_proxy_addr].into_iter().flatten().for_each(|bound| own_ports.add(Kind::Tcp, bound));
        let (forward, forwarded) = mpsc::channel(FORWARD_ROOM);
        let streams = Streams::new(inbox.bell(), Datagrams::new(forward, own_ports.clone()), own_ports.clone());
        let event_loop = EventLoop::new(Parts { node, clock, packets, outlet, orders, keeper, streams, interface })
            .map_err(StartError::Kernel)?;

        let mut tasks = JoinSet::new();
        let supervisor = Supervisor {
            state_file: Arc::new(state_file),
            inbox: inbox.clone(),
            link: Link::new(inbox.clone(), random.fork()),
            relays: wanted_relays,
            errands: JoinSet::new(),
        };
        let supervisor = tokio::spawn(supervisor.run(waiting_orders));
        tasks.spawn(Relays::new(inbox.clone(), clock, random.fork(), relay_drops).run(latest_relays, waiting_runs));
        tasks.spawn(datagrams::forward(forwarded, inbox.clone()));
        let dialer = Dialer::new(inbox.clone(), userspace, own_ports);
        let refused = Refused::default();
        if let Some(listener) = socks5 {
            tasks.spawn(socks5::serve(listener, dialer.clone(), Arc::clone(&refused.socks5)));
        }
        if let Some(listener) = http_proxy {
            tasks.spawn(http_proxy::serve(listener, dialer.clone(), Arc::clone(&refused.http_proxy)));
        }
        let thread = thread::Builder::new().name("warren-packets".into()).spawn(move || {
            if let Err(problem) = event_loop.run() {
                error!(error = %problem, "the packet thread has ended");
            }
        });
        let thread = thread.map_err(StartError::Kernel)?;
        let parts = Mutex::new(Some(RunningParts { thread, supervisor, tasks }));
        Ok(DriverHandle {
            running: Arc::new(Running {
                inbox,
                dialer,
                socks5: socks5_addr,
                http_proxy: http_proxy_addr,
                refused,
                parts,
            }),
        })
    }
}

impl DriverHandle {
    /// Asks the node to do something.
    ///
    /// # Errors
    /// [`AskError::Refused`] with words for a person; [`AskError::Stopped`].
    pub async fn command(&self, command: Command) -> Result<Reply, AskError> {
        Ok(self.ask(|node, now, wall| node.handle_command(command, now, wall)).await??)
    }

    /// Everything that is the case.
    ///
    /// # Errors
    /// When the node has stopped; so for all that follow.
    pub async fn status(&self) -> Result<Status, Stopped> {
        self.ask(|node, now, wall| node.status(now, wall)).await
    }

    /// Whose address this is.
    pub async fn whois(&self, addr: SocketAddr) -> Result<Option<WhoIs>, Stopped> {
        self.ask(move |node, _, _| node.whois(addr)).await
    }

    /// The mesh addresses of a name, if the network has it.
    pub async fn resolve(&self, name: &str) -> Result<Option<Vec<IpAddr>>, Stopped> {
        let name = name.to_owned();
        self.ask(move |node, _, _| node.resolve_name(&name)).await
    }

    /// News from now on, in order. Whoever falls behind is cut off (the stream ends) and begins anew with [`DriverHandle::status`].
    pub async fn watch(&self) -> Result<mpsc::Receiver<Notice>, Stopped> {
        let (news, receiver) = mpsc::channel(WATCHER_ROOM);
        self.running.inbox.send(Input::Watch(news)).await?;
        Ok(receiver)
    }

    /// Sockets, drops outside the engine, trouble with the host.
    pub async fn facts(&self) -> Result<DriverFacts, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.running.inbox.send(Input::Facts(reply)).await?;
        let mut facts = answer.await.map_err(|_| Stopped)?;
        facts.drops.socks5 = self.running.refused.socks5.load(Ordering::Relaxed);
        facts.drops.http_proxy = self.running.refused.http_proxy.load(Ordering::Relaxed);
        Ok(facts)
    }

    /// Runs `question` on the packet thread; it must be quick.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Node, Instant, UnixTime) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (reply, answer) = oneshot::channel();
        let question = Box::new(move |node: &mut Node, now, wall| {
            let _ = reply.send(question(node, now, wall));
        });
        self.running.inbox.send(Input::Ask(question)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Opens a TCP connection to `host` (a name of the network, or an address) as this node.
    ///
    /// Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, host: &str, port: u16) -> Result<MeshStream, DialError> {
        let target = match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => Target::Address(ip, port),
            Err(_) => Target::Name(host.to_owned(), port),
        };
        self.running.dialer.open(target).await
    }

    /// Where the SOCKS5 door is.
    pub fn socks5(&self) -> Option<SocketAddr> {
        self.running.socks5
    }

    /// Where the HTTP proxy is.
    pub fn http_proxy(&self) -> Option<SocketAddr> {
        self.running.http_proxy
    }

    /// Stops the node: the interface goes, connections close. May be called twice.
    pub async fn shutdown(&self) {
        let parts = self.running.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(RunningParts { thread, supervisor, mut tasks }) = parts else { return };
        let _ = self.running.inbox.send(Input::Stop).await;
        // The packet thread waits for the host's side to be undone.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        let _ = timeout(LAST_ORDERS_PATIENCE, supervisor).await;
        tasks.shutdown().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // A full inbox is emptied as soon as the tasks that fill it are gone.
            drop(parts.tasks);
            while !self.inbox.try_send(Input::Stop) && !parts.thread.is_finished() {
                thread::yield_now();
            }
        }
    }
}

/// What must exist before the node does.
struct Base {
    sockets: UdpPair,
    helper: Option<(Client, Option<PathBuf>)>,
}

impl Base {
    fn open(mode: Mode, port: u16) -> Result<Self, StartError> {
        let mut helper = match mode {
            Mode::Userspace => None,
            Mode::Interface(door) => Some(host::connect(door)?),
        };
        let given = helper.as_mut().and_then(|(client, _)| match client.open_udp(port) {
            Ok(fds) => adopt(fds),
            Err(problem) => {
                warn!(error = %problem, "the helper opened no sockets; using smaller ones of our own");
                None
            }
        });
        let sockets = match given {
            Some(sockets) => sockets,
            None => UdpPair::bind(port).map_err(StartError::Udp)?,
        };
        Ok(Self { sockets, helper })
    }
}

fn adopt(fds: Vec<std::os::fd::OwnedFd>) -> Option<UdpPair> {
    let mut pair = UdpPair { v4: None, v6: None };
    for fd in fds {
        let udp = Udp::from_fd(fd).ok()?;
        if udp.local_addr().is_ipv4() {
            pair.v4 = Some(udp);
        } else {
            pair.v6 = Some(udp);
        }
    }
    (pair.v4.is_some() || pair.v6.is_some()).then_some(pair)
}

fn load_state(path: &std::path::Path) -> Result<(StateFile, Option<NodeState>), StartError> {
    let (file, text) = StateFile::open(path)?;
    let unusable = |source| StartError::Unusable { path: path.to_owned(), source };
    let state = text.map(|text| NodeState::from_file_text(&text)).transpose().map_err(unusable)?;
    Ok((file, state))
}

async fn open_door(what: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    if !address.ip().is_loopback() {
        warn!(%address, "whoever reaches this {what} acts as this node");
    }
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|source| StartError::Door { what, address, source })
}

fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

fn facts(version: String) -> OsFacts {
    let host = warren_os::OsFacts::read();
    OsFacts {
        version,
        hostname: host.hostname,
        os: host.os,
        os_version: host.os_version,
        distro: host.distro,
        distro_version: host.distro_version,
        distro_code_name: host.distro_code_name,
        machine: host.machine,
        container: std::path::Path::new("/.dockerenv").exists() || std::path::Path::new("/run/.containerenv").exists(),
    }
}
