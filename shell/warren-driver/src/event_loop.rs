//! The packet thread: one epoll loop that owns the node, its sockets and its packets.
//!
//! ```text
//!  UDP sockets ─┐                         ┌─▶ UDP sockets, relay queue
//!  TUN / stack ─┼─▶ turn: handle, then ───┼─▶ TUN / stack
//!  inbox, alarm ┘   carry_out (drain)     └─▶ orders to tokio's side, keeper of the host, watchers
//! ```
//!
//! Every source is worked in batches with a bound per turn; what is left is ready again in the next. Nothing here
//! waits but the one call to epoll.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use warren_crypto::{NodePublic, UnixTime};
use warren_io::udp::UdpCounters;
use warren_netstack::{Datagram, FlowId};
use warren_node::{Action, ControlEvent, Node, Notice, RequestId};
use warren_os::{Tun, Watch};
use warren_path::LocalSocket;
use warren_wire::RegionId;

use crate::clock::{Alarm, Clock};
use crate::datagrams::Outgoing;
use crate::host::{HostKeeper, TunNumber};
use crate::inbox::Outlet;
use crate::packets::{DriverDrops, Packets, Plane};
use crate::poller::{Interest, Poller, Source};
use crate::relays::WantedRelays;
use crate::socks5::DialError;
use crate::streams::Streams;
use crate::supervisor::Order;
use crate::underlay::{Sleep, Underlay};
use crate::waiting::WaitingOrders;

/// Something to be done with the node, on the packet thread.
pub(crate) type Question = Box<dyn FnOnce(&mut Node, Instant, UnixTime) + Send>;

/// Everything that can happen to the packet thread, sockets and time apart.
pub(crate) enum Input {
    /// A question or command from the handle.
    Ask(Question),
    Control(RequestId, ControlEvent),
    RelayPackets(RegionId, Vec<(NodePublic, Vec<u8>)>),
    RelayState(RegionId, bool),
    /// The relay of this region says that the node is not there, or no longer.
    RelayPeerGone(RegionId, NodePublic),
    Resolved(String, Vec<IpAddr>),
    HttpsLatency(RegionId, Option<Duration>),
    /// The host's interface is open.
    Tun(Tun, TunNumber),
    /// What is wrong with the host's side; `None`: nothing any more.
    HostTrouble(Option<String>),
    /// Someone wants to hear the news.
    Watch(mpsc::Sender<Notice>),
    /// Open a stream into the mesh (user-space mode only).
    Dial(SocketAddr, oneshot::Sender<Result<DuplexStream, DialError>>),
    /// What came of dialling 127.0.0.1 for an inbound stream.
    LocalDialled(FlowId, Option<DuplexStream>),
    /// Open a port for datagrams into the mesh (user-space mode only); `None`: not here, or not now.
    OpenDatagrams(oneshot::Sender<Option<(u16, mpsc::Receiver<Datagram>)>>),
    SendDatagram(Outgoing),
    Facts(oneshot::Sender<DriverFacts>),
    Stop,
}

/// What the driver itself knows, beside the node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverFacts {
    /// Where the UDP sockets are bound.
    pub sockets: Vec<SocketAddr>,
    /// What they did, in the same order.
    pub udp: Vec<UdpCounters>,
    /// Drops outside the engine.
    pub drops: DriverDrops,
    /// What is wrong with the host's interface or routes, in words.
    pub host_problem: Option<String>,
}

/// Inputs taken in one turn.
const INPUTS_PER_TURN: usize = 256;

/// How soon orders that found tokio's side busy are tried again.
const ORDER_RETRY: Duration = Duration::from_millis(10);

/// How long news of the engine may wait while packets flow: the node derives everything anew when it hears them.
const HEAR_EVERY: Duration = Duration::from_millis(20);

/// What the thread starts with.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) packets: Packets,
    pub(crate) outlet: Outlet<Input>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) keeper: Option<HostKeeper>,
    pub(crate) streams: Streams,
    pub(crate) interface: String,
}

pub(crate) struct EventLoop {
    node: Node,
    clock: Clock,
    packets: Packets,
    outlet: Outlet<Input>,
    orders: mpsc::Sender<Order>,
    /// Those that found no room.
    waiting_orders: WaitingOrders,
    keeper: Option<HostKeeper>,
    streams: Streams,
    watchers: Vec<mpsc::Sender<Notice>>,
    poller: Poller,
    alarm: Alarm,
    watch: Option<Watch>,
    interface: String,
    /// Of the interface that was attached last.
    tun_number: TunNumber,
    /// As it was last seen.
    underlay: Option<Underlay>,
    sleep: Sleep,
    /// Counts losses of the host's addresses and ways out, and its long sleeps.
    network: u64,
    /// Counts addresses and ways out of the host that came.
    arrivals: u64,
    host_problem: Option<String>,
    /// Packets went through the engine, and the node has not heard its news since.
    unheard: bool,
    heard_at: Instant,
    /// The last that the node wanted of relays; the map behind it may change without a new wish.
    wanted_relays: Option<(Option<RegionId>, BTreeSet<RegionId>)>,
}

impl EventLoop {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { node, clock, packets, outlet, orders, keeper, streams, interface } = parts;
        let mut poller = Poller::new()?;
        let alarm = Alarm::new()?;
        poller.set(Source::Bell, outlet.bell().as_raw_fd(), Interest::READ)?;
        poller.set(Source::Alarm, alarm.as_raw_fd(), Interest::READ)?;
        // Without news of links (a sandbox without netlink) the paths' own probes still notice, only later.
        let watch = Watch::open(&interface).ok();
        if let Some(watch) = &watch {
            poller.set(Source::Watch, watch.as_raw_fd(), Interest::READ)?;
        }
        let mut event_loop = Self {
            node,
            clock,
            packets,
            outlet,
            orders,
            waiting_orders: WaitingOrders::default(),
            keeper,
            streams,
            watchers: Vec::new(),
            poller,
            alarm,
            watch,
            interface,
            tun_number: TunNumber::default(),
            underlay: None,
            sleep: Sleep::new(),
            network: 0,
            arrivals: 0,
            host_problem: None,
            unheard: true,
            heard_at: clock.now(),
            wanted_relays: None,
        };
        event_loop.tell_sockets();
        Ok(event_loop)
    }

    /// Runs until told to stop, or until epoll itself fails. Everything owned is closed on return.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.carry_out();
        loop {
            self.packets.set_interests(&mut self.poller)?;
            let deadline = self.deadline();
            self.alarm.set(&self.clock, deadline)?;
            for source in self.poller.wait()? {
                let now = self.clock.now();
                self.unheard |= !matches!(source, Source::Alarm);
                match source {
                    Source::Bell => {
                        if !self.take_inputs(now) {
                            self.stop();
                            return Ok(());
                        }
                    }
                    Source::Alarm => self.alarm.acknowledge(),
                    Source::Udp4 | Source::Udp6 => self.packets.receive(source, self.node.engine_mut(), now),
                    Source::Tun => self.read_tun(now),
                    Source::Watch => self.read_watch(),
                }
            }
            let now = self.clock.now();
            if self.sleep.was_long() {
                self.wake_up(now);
            }
            if self.node.poll_timeout().is_some_and(|at| at <= now) {
                self.node.handle_timeout(now, Clock::wall());
            }
            self.hear_engine(now);
            self.carry_out();
        }
    }

    /// Lets the node hear what packets told the engine: at once after a pause, now and then while they flow.
    fn hear_engine(&mut self, now: Instant) {
        if self.unheard && now >= self.heard_at + HEAR_EVERY {
            self.unheard = false;
            self.heard_at = now;
            self.node.handle_engine(now, Clock::wall());
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let now = self.clock.now();
        let retry = (!self.waiting_orders.is_empty()).then(|| now + ORDER_RETRY);
        let hear = self.unheard.then(|| self.heard_at + HEAR_EVERY);
        [self.node.poll_timeout(), self.packets.poll_timeout(now), retry, hear].into_iter().flatten().min()
    }

    /// False when told to stop, or when everybody who could say anything is gone.
    fn take_inputs(&mut self, now: Instant) -> bool {
        self.outlet.bell().answer();
        for _ in 0..INPUTS_PER_TURN {
            match self.outlet.take() {
                Some(Input::Stop) => return false,
                Some(input) => self.handle_input(input, now),
                None => return true,
            }
        }
        // More wait: come back, after the packets had their turn.
        self.outlet.bell().ring();
        true
    }

    fn handle_input(&mut self, input: Input, now: Instant) {
        let wall = Clock::wall();
        match input {
            Input::Ask(ask) => ask(&mut self.node, now, wall),
            Input::Control(id, event) => self.node.handle_control(id, event, now, wall),
            Input::RelayPackets(region, packets) => {
                self.packets.receive_relayed(region, packets, self.node.engine_mut(), now);
            }
            Input::RelayState(region, connected) => {
                self.node.engine_mut().relay_state(region, connected, now);
            }
            Input::RelayPeerGone(region, peer) => self.node.engine_mut().relay_peer_gone(region, &peer, now),
            Input::Resolved(name, addrs) => self.node.handle_resolved(&name, addrs, now, wall),
            Input::HttpsLatency(region, latency) => self.node.handle_https_latency(region, latency, now, wall),
            Input::Tun(tun, number) => {
                self.tun_number = number;
                self.packets.attach(tun, &mut self.poller);
            }
            Input::HostTrouble(trouble) => self.note_host_trouble(trouble),
            Input::Watch(watcher) => self.watchers.push(watcher),
            Input::Dial(target, reply) => self.streams.dial(target, reply, self.packets.plane_mut()),
            Input::LocalDialled(flow, result) => self.streams.local_dialled(flow, result, self.packets.plane_mut()),
            Input::OpenDatagrams(reply) => {
                let _ = reply.send(self.streams.open_datagrams(self.packets.plane_mut()));
            }
            Input::SendDatagram(outgoing) => self.streams.send_datagram(outgoing, self.packets.plane_mut()),
            Input::Facts(reply) => {
                let _ = reply.send(DriverFacts {
                    sockets: self.packets.local_sockets().into_iter().map(|socket| socket.bound).collect(),
                    udp: self.packets.udp_counters(),
                    drops: DriverDrops { datagrams: self.streams.dropped_datagrams(), ..self.packets.drops() },
                    host_problem: self.host_problem.clone(),
                });
            }
            Input::Stop => {}
        }
    }

    fn note_host_trouble(&mut self, trouble: Option<String>) {
        if let Some(trouble) = &trouble
            && self.host_problem.as_ref() != Some(trouble)
        {
            warn!(%trouble, "the host's network is not as wanted");
        }
        self.host_problem = trouble;
    }

    fn read_tun(&mut self, now: Instant) {
        if let Err(error) = self.packets.read_tun(self.node.engine_mut(), now) {
            warn!(%error, "the interface has gone");
            self.packets.detach(&mut self.poller);
            if let Some(keeper) = &self.keeper {
                keeper.gone(self.tun_number);
            }
        }
    }

    fn read_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        match watch.read() {
            Ok(news) => {
                // The guard depends on where the host's own routes lead.
                if (news.own_loss || news.elsewhere)
                    && let Some(keeper) = &self.keeper
                {
                    keeper.look();
                }
                if news.elsewhere {
                    self.tell_sockets();
                }
            }
            Err(error) => {
                warn!(%error, "no more news of network changes");
                self.poller.remove(Source::Watch, watch.as_raw_fd());
                self.watch = None;
            }
        }
    }

    /// Looks at the host's addresses and ways out, and tells the paths; any change is another network.
    fn tell_sockets(&mut self) {
        let underlay = match Underlay::look(&self.interface) {
            Ok(underlay) => underlay,
            Err(error) => {
                debug!(%error, "list the host's addresses and routes");
                return;
            }
        };
        let change = self.underlay.as_ref().map(|old| underlay.since(old)).unwrap_or_default();
        let (addrs, now) = (underlay.addrs.clone(), self.clock.now());
        self.underlay = Some(underlay);
        let sockets: Vec<LocalSocket> = self.packets.local_sockets();
        self.node.engine_mut().set_sockets(sockets, addrs, change.is_other_network(), now);
        if change.has_lost {
            self.break_streams();
        }
        if change.has_gained {
            self.arrivals += 1;
        }
        if change.is_other_network() {
            self.order_relays();
        }
    }

    /// After a long sleep of the host its streams are dead at the other end, and routers have forgotten us.
    fn wake_up(&mut self, now: Instant) {
        debug!("the host has slept");
        self.node.engine_mut().rebound(now);
        self.break_streams();
        self.order_relays();
    }

    /// Streams that stand say nothing any more: they would notice only when they time out.
    fn break_streams(&mut self) {
        self.network += 1;
        self.waiting_orders.push(Order::BreakControl);
    }

    /// Does everything that the node wants done; Err is for the shell itself, so there is none.
    fn carry_out(&mut self) {
        let now = self.clock.now();
        self.packets.carry_out(self.node.engine_mut(), now);
        self.streams.carry_out(self.packets.plane_mut(), now);
        // What the streams put into the stack leaves in the same turn.
        self.packets.carry_out(self.node.engine_mut(), now);
        while let Some(action) = self.node.poll_action() {
            self.carry_out_action(action);
        }
        while let Some(flow) = self.streams.poll_local_dial() {
            self.waiting_orders.push(Order::DialLocal(flow.0, flow.1));
        }
        while let Some(notice) = self.node.poll_notice() {
            if matches!(notice, Notice::NetMap | Notice::LoginFinished | Notice::Profile(_)) {
                // The relays' descriptions or our key may be others now.
                self.order_relays();
            }
            // A watcher that does not keep up is cut off; it begins anew with the whole state.
            self.watchers.retain(|watcher| watcher.try_send(notice.clone()).is_ok());
        }
        self.waiting_orders.flush(&self.orders);
    }

    fn carry_out_action(&mut self, action: Action) {
        let order = match action {
            Action::ConfigureHost(plan) => {
                if let Some(keeper) = &self.keeper {
                    if !plan.up {
                        self.packets.detach(&mut self.poller);
                    }
                    keeper.apply(plan);
                } else if let Plane::Stack(stack) = self.packets.plane_mut() {
                    stack.set_addresses(&plan.addrs);
                }
                return;
            }
            Action::CloseControl => Order::CloseControl,
            Action::Control { id, request } => match self.node.control_target() {
                Some(target) => Order::Control(id, request, target),
                None => return,
            },
            Action::SayGoodbye { target, request } => Order::Goodbye(target, request),
            Action::Persist(state) => Order::Persist(state),
            Action::Relays { home, wanted } => {
                self.wanted_relays = Some((home, wanted));
                self.order_relays();
                return;
            }
            Action::Resolve { name } => Order::Resolve(name),
            Action::ProbeHttps { region } => {
                match self.node.net_map().and_then(|map| map.relay_map.regions.get(&region)) {
                    Some(described) => Order::ProbeHttps(region, described.clone()),
                    None => return,
                }
            }
            Action::AnswerPing(request) => Order::AnswerPing(request),
        };
        self.waiting_orders.push(order);
    }

    fn order_relays(&mut self) {
        let Some((home, wanted)) = self.wanted_relays.clone() else { return };
        // Without a map there are no relays: those of the one that we gave up are nothing to us any more.
        let map = Arc::new(self.node.net_map().map(|map| map.relay_map.clone()).unwrap_or_default());
        let key = self.node.node_secret().clone();
        let (network, arrivals) = (self.network, self.arrivals);
        self.waiting_orders.push(Order::Relays(WantedRelays { home, wanted, map, key, network, arrivals }));
    }

    fn stop(mut self) {
        // The outlet goes first: the keeper may be waiting to say something while we wait for it to end.
        drop(self.outlet);
        self.packets.detach(&mut self.poller);
        drop(self.keeper);
        // Nothing is asked of anybody any more, but what is to be remembered is.
        for order in self.waiting_orders.into_last() {
            let _ = self.orders.blocking_send(order);
        }
    }
}
