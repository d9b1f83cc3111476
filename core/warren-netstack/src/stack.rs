//! The stack as a value.
//!
//! Only flows with something to do are looked at: those that a packet or the shell touched, and those whose timers are due.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use warren_crypto::Random;
use warren_ip::{PacketView, PrefixSet, Protocol, build};

use crate::device::{Cable, QUEUE_PACKETS};
use crate::tcp::{self, Flow, FlowId, Read, Told};

/// Flows at once. Each takes up to two megabytes when it is used in full.
const MAX_FLOWS: usize = 4096;
/// Flows that peers have opened and the shell has not decided on.
const MAX_UNDECIDED: usize = 512;
/// Flows with one remote address beyond which it opens no more: a peer alone does not keep the others out.
const MAX_FLOWS_OF_ONE: usize = 1024;
/// The same for flows that are not decided on.
const MAX_UNDECIDED_OF_ONE: usize = 128;
/// Datagrams and other events that wait for the shell.
const MAX_EVENTS: usize = 4096;
/// Local ports of flows that we open (IANA's dynamic range).
const FIRST_PORT: u16 = 49152;

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Our side.
    pub local: SocketAddr,
    /// The peer's side.
    pub remote: SocketAddr,
    pub payload: Vec<u8>,
}

/// What the shell should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer wants to open a TCP flow to `local`: [`Stack::accept`] or [`Stack::abort`] it.
    Incoming { id: FlowId, local: SocketAddr, remote: SocketAddr },
    /// A flow that we opened stands.
    Connected(FlowId),
    /// A flow that we opened was refused, or nobody answered.
    Refused(FlowId),
    /// Reading or writing may give something new. A level is told once; after `Later` or a short write it is told again.
    Changed(FlowId),
    /// A datagram for one of our addresses.
    Datagram(Datagram),
}

/// Why a flow cannot even be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("this node has no address of the target's family")]
    NoAddress,
    #[error("too many connections are open")]
    TooMany,
}

/// One remote address's part of the flows.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    flows: usize,
    undecided: usize,
}

/// A user-space host with some addresses.
pub struct Stack {
    interface: Interface,
    cable: Cable,
    /// For packets of no flow: TCP refuses them.
    nobody: SocketSet<'static>,
    flows: BTreeMap<FlowId, Flow>,
    by_ends: BTreeMap<(SocketAddr, SocketAddr), FlowId>,
    /// Flows that peers have opened; the shell has not yet said whether they lead anywhere.
    undecided: BTreeSet<FlowId>,
    /// What each remote address has of both.
    shares: BTreeMap<IpAddr, Share>,
    /// Flows to look at in the next poll.
    active: BTreeSet<FlowId>,
    due: BTreeSet<(Instant, FlowId)>,
    /// The flow that sent last when the cable was full; the next poll begins behind it.
    last_sender: FlowId,
    looks: u64,
    addresses: PrefixSet,
    events: VecDeque<Event>,
    next_flow: u64,
    next_port: u16,
    birth: Instant,
    dropped: u64,
}

impl Stack {
    /// `mtu` is that of the packets, in bytes.
    pub fn new(addresses: &[IpAddr], mtu: usize, mut random: Random, now: Instant) -> Self {
        let mut cable = Cable::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random.u64();
        let interface = Interface::new(config, &mut cable, StackInstant::ZERO);
        let span = u64::from(u16::MAX - FIRST_PORT);
        let mut stack = Stack {
            interface,
            cable,
            nobody: SocketSet::new(Vec::new()),
            flows: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            undecided: BTreeSet::new(),
            shares: BTreeMap::new(),
            active: BTreeSet::new(),
            due: BTreeSet::new(),
            last_sender: FlowId(0),
            looks: 0,
            addresses: PrefixSet::default(),
            events: VecDeque::new(),
            next_flow: 1,
            next_port: FIRST_PORT + u16::try_from(random.below(span)).unwrap_or(0),
            birth: now,
            dropped: 0,
        };
        stack.set_addresses(addresses);
        stack
    }

    /// Our addresses from now on. Flows of an address that is gone are reset.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.addresses = addresses.iter().map(|address| warren_ip::Prefix::host(*address)).collect();
        self.interface.update_ip_addrs(|list| {
            list.clear();
            for address in addresses {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                // One address of each family is what a node has; more than the list holds are not needed.
                let _ = list.push(IpCidr::new(IpAddress::from(*address), bits));
            }
        });
        let routes = self.interface.routes_mut();
        for address in addresses {
            // Everything goes out by the one cable, whose far end looks at the destination itself.
            let _ = match address {
                IpAddr::V4(address) => routes.add_default_ipv4_route(*address).map(drop),
                IpAddr::V6(address) => routes.add_default_ipv6_route(*address).map(drop),
            };
        }
        let gone: Vec<FlowId> = self
            .flows
            .iter()
            .filter(|(_, flow)| !self.addresses.contains(flow.local.ip()))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.abort(id);
        }
    }

    /// A packet came out of the tunnel.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let Ok(view) = PacketView::parse(packet) else { return self.dropped += 1 };
        if !self.addresses.contains(view.dst()) || view.is_fragment() {
            self.dropped += 1;
            return;
        }
        match view.protocol() {
            Protocol::ICMP | Protocol::ICMPV6 => self.answer_echo(&view),
            Protocol::UDP => self.take_datagram(&view),
            Protocol::TCP => {
                if view.tcp_flags().opens() {
                    self.open_door(&view);
                }
                self.take_segment(&view, now);
            }
            _ => self.dropped += 1,
        }
    }

    /// Lets TCP send, retransmit and notice; collects events.
    pub fn poll(&mut self, now: Instant) {
        while let Some(&(when, id)) = self.due.first()
            && when <= now
        {
            self.due.pop_first();
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.due = None;
                self.active.insert(id);
            }
        }
        let at = self.at(now);
        self.interface.poll_maintenance(at);
        let unsent = self.send(at);
        for id in std::mem::replace(&mut self.active, unsent) {
            self.looks += 1;
            self.notice(id);
            self.schedule(id, at, now);
        }
    }

    /// Lets active flows send, a packet each in turn, until nobody has anything or the cable is full. Returns whom the
    /// full cable kept from sending.
    fn send(&mut self, at: StackInstant) -> BTreeSet<FlowId> {
        let behind = self.active.range((Bound::Excluded(self.last_sender), Bound::Unbounded));
        let mut senders: VecDeque<FlowId> = behind.chain(self.active.range(..=self.last_sender)).copied().collect();
        while let Some(id) = senders.pop_front() {
            if self.cable.outbound.len() >= QUEUE_PACKETS {
                senders.push_front(id);
                break;
            }
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            if self.interface.poll_egress(at, &mut self.cable, &mut flow.set) == PollResult::SocketStateChanged {
                senders.push_back(id);
            }
            self.last_sender = id;
        }
        senders.into_iter().collect()
    }

    fn schedule(&mut self, id: FlowId, at: StackInstant, now: Instant) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let delay = self.interface.poll_delay(at, &flow.set);
        let due = delay.map(|delay| now + Duration::from_micros(delay.total_micros()));
        if flow.due != due {
            if let Some(before) = std::mem::replace(&mut flow.due, due) {
                self.due.remove(&(before, id));
            }
            self.due.extend(due.map(|due| (due, id)));
        }
    }

    /// When [`Stack::poll`] has something to do by itself.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.active.is_empty() {
            return Some(self.birth);
        }
        self.due.first().map(|(at, _)| *at)
    }

    /// The next packet for the tunnel.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.cable.outbound.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets a flow of [`Event::Incoming`] stand.
    pub fn accept(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.socket_mut().pause_synack(false);
        let remote = flow.remote.ip();
        self.decided(id, remote);
        self.active.insert(id);
    }

    /// Opens a flow to `remote`; [`Event::Connected`] or [`Event::Refused`] follows.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&mut self, remote: SocketAddr) -> Result<FlowId, ConnectError> {
        let same_family = |prefix: &warren_ip::Prefix| prefix.is_ipv4() == remote.is_ipv4();
        let own = self.addresses.iter().find(same_family).map(|prefix| prefix.addr()).ok_or(ConnectError::NoAddress)?;
        if self.flows.len() >= MAX_FLOWS {
            return Err(ConnectError::TooMany);
        }
        let local = self.free_port(own, remote).ok_or(ConnectError::TooMany)?;
        let mut socket = tcp::socket();
        let connecting = socket.connect(self.interface.context(), tcp::endpoint(remote), tcp::endpoint(local));
        // The only errors are an endpoint without address or port.
        connecting.map_err(|_| ConnectError::NoAddress)?;
        Ok(self.add_flow(Flow::new(socket, local, remote)))
    }

    /// Takes bytes that came.
    pub fn read(&mut self, id: FlowId, into: &mut [u8]) -> Read {
        let Some(flow) = self.flows.get_mut(&id) else { return Read::Broken };
        let socket = flow.socket_mut();
        if socket.can_recv() {
            let count = socket.recv_slice(into).unwrap_or(0);
            // What was taken makes room that the peer must hear of.
            self.active.insert(id);
            if count > 0 || into.is_empty() {
                return Read::Bytes(count);
            }
        }
        match socket.state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => Read::Finished,
            State::Closed if flow.told.ended && flow.established && !was_reset(flow.socket()) => Read::Finished,
            State::Closed => Read::Broken,
            _ => {
                flow.told.readable = false;
                Read::Later
            }
        }
    }

    /// Queues bytes to send; returns how many found room. `None`: the flow takes no more, ever.
    pub fn write(&mut self, id: FlowId, bytes: &[u8]) -> Option<usize> {
        let flow = self.flows.get_mut(&id)?;
        let socket = flow.socket_mut();
        if !socket.may_send() {
            return if matches!(socket.state(), State::SynSent | State::SynReceived) { Some(0) } else { None };
        }
        let count = socket.send_slice(bytes).unwrap_or(0);
        if count < bytes.len() {
            flow.told.writable = false;
        }
        self.active.insert(id);
        Some(count)
    }

    /// We have finished sending; what is queued still goes, and the peer may go on.
    pub fn finish(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.socket_mut().close();
            self.active.insert(id);
        }
    }

    /// The shell is done with a flow in both directions: TCP closes it in order, and the flow is forgotten then.
    pub fn release(&mut self, id: FlowId) {
        self.finish(id);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.abandoned = true;
        }
    }

    /// Resets a flow and forgets it; an incoming one that was not accepted is refused by that.
    pub fn abort(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.abandoned = true;
            let socket = flow.socket_mut();
            socket.pause_synack(false);
            socket.abort();
            self.active.insert(id);
        }
    }

    /// Both ends of a flow: ours, the peer's.
    pub fn ends(&self, id: FlowId) -> Option<(SocketAddr, SocketAddr)> {
        self.flows.get(&id).map(|flow| (flow.local, flow.remote))
    }

    /// Sends a datagram from one of our addresses. False: not ours, mixed families, too long, or no room.
    pub fn send_datagram(&mut self, datagram: &Datagram) -> bool {
        let ours = self.addresses.contains(datagram.local.ip());
        let packet = build::udp(datagram.local, datagram.remote, &datagram.payload);
        ours && packet.is_some_and(|packet| self.send_packet(packet))
    }

    /// Our address of the family of `remote`.
    pub fn address_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().map(|prefix| prefix.addr()).find(|own| own.is_ipv4() == remote.is_ipv4())
    }

    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// How often polls have looked at a flow: it grows with what happens, not with how many flows there are.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Packets that were not for us, not whole, of no use, or for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn at(&self, now: Instant) -> StackInstant {
        let passed = now.saturating_duration_since(self.birth).as_micros();
        StackInstant::from_micros(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    fn send_packet(&mut self, packet: Vec<u8>) -> bool {
        let room = self.cable.outbound.len() < QUEUE_PACKETS;
        if room {
            self.cable.outbound.push_back(packet);
        } else {
            self.dropped += 1;
        }
        room
    }

    fn answer_echo(&mut self, view: &PacketView<'_>) {
        let Some((id, sequence)) = view.echo_request() else { return };
        let payload = view.transport_message().get(8..).unwrap_or_default();
        if let Some(reply) = build::echo_reply(view.dst(), view.src(), id, sequence, payload) {
            self.send_packet(reply);
        }
    }

    fn take_datagram(&mut self, view: &PacketView<'_>) {
        if self.events.len() >= MAX_EVENTS || !view.checksums_are_valid() {
            self.dropped += 1;
            return;
        }
        let local = SocketAddr::new(view.dst(), view.dst_port());
        let remote = SocketAddr::new(view.src(), view.src_port());
        self.events.push_back(Event::Datagram(Datagram { local, remote, payload: view.payload().to_vec() }));
    }

    /// A peer knocks: a socket of its own waits behind the door before TCP sees the knock, and does not answer yet.
    fn open_door(&mut self, view: &PacketView<'_>) {
        let local = SocketAddr::new(view.dst(), view.dst_port());
        let remote = SocketAddr::new(view.src(), view.src_port());
        if self.by_ends.contains_key(&(local, remote)) || local.port() == 0 || remote.port() == 0 {
            return;
        }
        let share = self.shares.get(&remote.ip()).copied().unwrap_or_default();
        let too_many = self.flows.len() >= MAX_FLOWS || self.undecided.len() >= MAX_UNDECIDED;
        if too_many || share.flows >= MAX_FLOWS_OF_ONE || share.undecided >= MAX_UNDECIDED_OF_ONE {
            self.dropped += 1;
            return;
        }
        let mut socket = tcp::socket();
        if socket.listen(tcp::endpoint(local)).is_err() {
            return;
        }
        socket.pause_synack(true);
        let id = self.add_flow(Flow::new(socket, local, remote));
        self.undecided.insert(id);
        self.shares.entry(remote.ip()).or_default().undecided += 1;
        self.events.push_back(Event::Incoming { id, local, remote });
    }

    fn add_flow(&mut self, flow: Flow) -> FlowId {
        let id = FlowId(self.next_flow);
        self.next_flow += 1;
        self.by_ends.insert((flow.local, flow.remote), id);
        self.shares.entry(flow.remote.ip()).or_default().flows += 1;
        self.flows.insert(id, flow);
        self.active.insert(id);
        id
    }

    fn take_segment(&mut self, view: &PacketView<'_>, now: Instant) {
        let local = SocketAddr::new(view.dst(), view.dst_port());
        let remote = SocketAddr::new(view.src(), view.src_port());
        let id = self.by_ends.get(&(local, remote)).copied();
        let set = match id.and_then(|id| self.flows.get_mut(&id)) {
            Some(flow) => &mut flow.set,
            None => &mut self.nobody,
        };
        self.cable.inbound = Some(view.bytes().to_vec());
        let passed = now.saturating_duration_since(self.birth).as_micros();
        let at = StackInstant::from_micros(i64::try_from(passed).unwrap_or(i64::MAX));
        self.interface.poll_ingress_single(at, &mut self.cable, set);
        self.cable.inbound = None;
        self.active.extend(id);
    }

    fn free_port(&mut self, own: IpAddr, remote: SocketAddr) -> Option<SocketAddr> {
        for _ in FIRST_PORT..u16::MAX {
            self.next_port = if self.next_port == u16::MAX { FIRST_PORT } else { self.next_port + 1 };
            let local = SocketAddr::new(own, self.next_port);
            if !self.by_ends.contains_key(&(local, remote)) {
                return Some(local);
            }
        }
        None
    }

    /// Compares a flow with what the shell knows of it.
    fn notice(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let socket = flow.socket();
        let (state, now) = (socket.state(), tcp::readiness(socket));
        let stands = !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        if stands && !flow.established {
            flow.established = true;
            self.events.push_back(Event::Connected(id));
        }
        if flow.abandoned {
            // A reset that was asked for has left by now, unless the cable is full.
            let has_left = !self.active.contains(&id);
            if has_left && (state == State::Closed || state == State::TimeWait) {
                self.forget(id);
            }
            return;
        }
        if now.ended && !flow.established {
            self.events.push_back(Event::Refused(id));
            self.forget(id);
            return;
        }
        let news = (now.readable && !flow.told.readable)
            || (now.writable && !flow.told.writable)
            || (now.ended && !flow.told.ended);
        flow.told = Told {
            readable: now.readable || flow.told.readable,
            writable: now.writable || flow.told.writable,
            ended: now.ended || flow.told.ended,
        };
        if news {
            self.events.push_back(Event::Changed(id));
        }
    }

    /// The shell knows what to do with a flow, or it is gone.
    fn decided(&mut self, id: FlowId, remote: IpAddr) {
        if self.undecided.remove(&id)
            && let Some(share) = self.shares.get_mut(&remote)
        {
            share.undecided = share.undecided.saturating_sub(1);
        }
    }

    fn forget(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(&id) {
            self.by_ends.remove(&(flow.local, flow.remote));
            self.decided(id, flow.remote.ip());
            if let Entry::Occupied(mut share) = self.shares.entry(flow.remote.ip()) {
                share.get_mut().flows = share.get().flows.saturating_sub(1);
                if share.get().flows == 0 {
                    share.remove();
                }
            }
            if let Some(due) = flow.due {
                self.due.remove(&(due, id));
            }
        }
        self.active.remove(&id);
    }
}

/// smoltcp keeps the peer's end only while its socket has one: a reset forgets it.
fn was_reset(socket: &Socket<'_>) -> bool {
    socket.remote_endpoint().is_none() && socket.recv_queue() == 0
}
