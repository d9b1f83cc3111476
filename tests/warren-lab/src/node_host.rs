//! A machine with a node on it: its sockets, its streams, its disk, and a program that echoes UDP datagrams.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_crypto::{DiscoSecret, NodePublic, Random, UnixTime};
use warren_engine::Burst;
use warren_ip::offload::Super;
use warren_ip::{PacketView, Protocol, build};
use warren_node::{
    Action, AuthKey, Command, ControlEvent, ControlRequest, ControlTarget, DEFAULT_MTU, Node, NodeSetup, NodeState,
    Notice, OsFacts, PrefsEdit, RequestId,
};
use warren_path::{Hop, LocalSocket, SocketId};
use warren_relay::client::{Client, Event as RelayEvent};
use warren_simnet::{HostId, StreamEvent, StreamId};
use warren_wire::framing::Decoder;
use warren_wire::{RegionId, RegisterRequest};

use crate::relay_host::RELAY_PORT;
use crate::rules::PORTS;
use crate::talk::{self, Message};
use crate::world::World;

/// Between two tries to reach a relay.
const RELAY_RETRY: Duration = Duration::from_secs(1);
/// What a request over HTTPS to a relay takes.
const HTTPS_LATENCY: Duration = Duration::from_millis(60);
/// The first machine's, which is the field's usual one.
const FIRST_UDP_PORT: u16 = 41641;
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';

/// What a program on the machine received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received {
    pub number: u64,
    pub is_answer: bool,
}

pub struct NodeHost {
    pub host: HostId,
    name: String,
    /// Each machine has another one: a router that preserves ports does so for the first who asks only, which
    /// [`warren_simnet::Internet::direct_path_possible`] does not know.
    udp_port: u16,
    random: Random,
    /// `None` while the daemon is dead.
    node: Option<Node>,
    /// The state file.
    disk: Option<String>,
    key: Option<NodePublic>,
    /// How far the machine's wall clock is off, in seconds.
    clock_error: i64,
    control_addrs: Vec<SocketAddr>,
    control: Option<ControlStream>,
    wanted: BTreeSet<RegionId>,
    home: Option<RegionId>,
    relays: BTreeMap<RegionId, RelayStream>,
    relay_retry: Option<Instant>,
    /// The interface, as the node wants it.
    pub mesh_addrs: Vec<IpAddr>,
    /// How often each datagram arrived.
    received: BTreeMap<Received, u32>,
    /// Answers of the control server or the world to be told to the node.
    later: Vec<(RequestId, ControlEvent)>,
    /// Errors that a person would have seen.
    pub errors: Vec<String>,
}

struct ControlStream {
    stream: StreamId,
    decoder: Decoder,
    /// What was asked and has not ended.
    open: BTreeMap<u64, u8>,
}

struct RelayStream {
    stream: StreamId,
    client: Client,
    key: NodePublic,
}

impl NodeHost {
    pub fn new(host: HostId, number: u16, control_addrs: Vec<SocketAddr>, random: Random) -> NodeHost {
        NodeHost {
            host,
            name: format!("box{number}"),
            udp_port: FIRST_UDP_PORT + number,
            random,
            node: None,
            disk: None,
            key: None,
            clock_error: 0,
            control_addrs,
            control: None,
            wanted: BTreeSet::new(),
            home: None,
            relays: BTreeMap::new(),
            relay_retry: None,
            mesh_addrs: Vec::new(),
            received: BTreeMap::new(),
            later: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    pub fn disk(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    pub fn wall(&self, world: &World) -> UnixTime {
        let error = Duration::from_secs(self.clock_error.unsigned_abs());
        let wall = world.wall();
        if self.clock_error < 0 { wall.saturating_sub(error) } else { wall.saturating_add(error) }
    }

    /// By which its peers know it, or last knew it.
    pub fn key(&self) -> Option<NodePublic> {
        self.key
    }

    // What its people do.

    pub fn start(&mut self, world: &mut World) {
        let state = self.disk.as_ref().map(|text| NodeState::from_file_text(text).expect("its own file"));
        let setup = NodeSetup {
            state,
            seed: self.random.bytes(),
            facts: OsFacts { hostname: self.name.clone(), os: "linux".into(), ..OsFacts::default() },
            userspace: true,
            mtu: DEFAULT_MTU,
            delivery: Default::default(),
        };
        self.node = Some(Node::new(setup, world.now(), self.wall(world)));
        self.read_key();
        self.tell_sockets(world, false);
        self.pump(world);
    }

    fn read_key(&mut self) {
        self.key = self.node.as_ref().map(|node| node.node_secret().public()).or(self.key);
    }

    pub fn kill(&mut self, world: &mut World) {
        self.node = None;
        self.control = None;
        self.relays.clear();
        self.wanted.clear();
        (self.home, self.relay_retry) = (None, None);
        self.mesh_addrs.clear();
        self.later.clear();
        world.internet.break_streams(self.host);
    }

    /// While the daemon is dead: the device has another disco key at its next start.
    pub fn replace_disco_key(&mut self) {
        let Some(text) = &self.disk else { return };
        let mut state: serde_json::Value = serde_json::from_str(text).expect("its own file");
        let key = DiscoSecret::generate(&mut self.random).to_file_text();
        state["disco_key"] = serde_json::Value::String(key.as_str().to_owned());
        self.disk = Some(state.to_string());
    }

    pub fn command(&mut self, world: &mut World, command: Command) {
        let wall = self.wall(world);
        if let Some(node) = &mut self.node {
            let reply = node.handle_command(command, world.now(), wall);
            world.note(&reply);
            assert!(reply.is_ok(), "the node refused: {reply:?}");
        }
        self.pump(world);
    }

    /// `warren up`.
    pub fn up(&mut self, world: &mut World, auth_key: Option<AuthKey>) {
        let prefs = PrefsEdit {
            control_url: Some("http://control.example:8080".into()),
            want_running: Some(true),
            ..PrefsEdit::default()
        };
        self.command(world, Command::Start { auth_key, prefs });
    }

    pub fn set_clock(&mut self, world: &mut World, by: i64) {
        self.clock_error += by;
        self.handle_timeout(world);
    }

    /// The machine has been plugged in somewhere else.
    pub fn moved(&mut self, world: &mut World) {
        self.tell_sockets(world, true);
        self.pump(world);
    }

    fn tell_sockets(&mut self, world: &World, is_other_network: bool) {
        let addrs = world.internet.host(self.host).addrs().to_vec();
        let socket = |id, any: IpAddr| LocalSocket { id, bound: SocketAddr::new(any, self.udp_port) };
        let sockets = vec![socket(SocketId::V4, IpAddr::from([0u8; 4])), socket(SocketId::V6, IpAddr::from([0u8; 16]))];
        let now = world.now();
        let Some(node) = &mut self.node else { return };
        node.engine_mut().set_sockets(sockets, addrs, is_other_network, now);
    }

    // Programs.

    /// Sends a question to a port of another machine; its program answers.
    pub fn ask(&mut self, world: &mut World, own_port: u16, to: IpAddr, port: u16, number: u64) {
        let Some(from) = self.mesh_addrs.iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied() else { return };
        let payload = [&[QUESTION][..], &number.to_be_bytes()].concat();
        let packet =
            build::udp(SocketAddr::new(from, own_port), SocketAddr::new(to, port), &payload).expect("a short packet");
        self.send_packets(world.now(), vec![packet]);
        self.pump(world);
    }

    pub fn times_received(&self, number: u64, is_answer: bool) -> u32 {
        self.received.get(&Received { number, is_answer }).copied().unwrap_or(0)
    }

    /// A datagram that was handed over more than once.
    pub fn repeated(&self) -> Option<(Received, u32)> {
        self.received.iter().find(|(_, times)| **times > 1).map(|(received, times)| (*received, *times))
    }

    fn send_packets(&mut self, now: Instant, packets: Vec<Vec<u8>>) {
        let Some(node) = &mut self.node else { return };
        let engine = node.engine_mut();
        let mut jobs = Vec::new();
        engine.decide_outbound(packets.into_iter().map(Super::packet).collect::<Vec<_>>(), now, &mut jobs);
        for job in jobs {
            engine.finish_sealed(job.run(), now);
        }
    }

    /// The program behind the interface: takes a packet, perhaps answers.
    fn handle_packet(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let view = PacketView::parse(packet).expect("what the engine accepts is IP");
        assert!(view.checksums_are_valid(), "a packet was damaged on its way");
        if !self.mesh_addrs.contains(&view.dst()) || view.protocol() != Protocol::UDP {
            return None;
        }
        let (kind, number) = view.payload().split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        let is_answer = *kind == ANSWER;
        *self.received.entry(Received { number, is_answer }).or_default() += 1;
        if is_answer || !PORTS.contains(&view.dst_port()) {
            return None;
        }
        let payload = [&[ANSWER][..], &number.to_be_bytes()].concat();
        build::udp(SocketAddr::new(view.dst(), view.dst_port()), SocketAddr::new(view.src(), view.src_port()), &payload)
    }

    // What reaches it.

    pub fn handle_datagram(&mut self, world: &mut World, src: SocketAddr, bytes: Vec<u8>) {
        self.handle_outer(world, Hop::direct(src), bytes);
        self.pump(world);
    }

    fn handle_outer(&mut self, world: &World, from: Hop, bytes: Vec<u8>) {
        let now = world.now();
        let Some(node) = &mut self.node else { return };
        let engine = node.engine_mut();
        let mut jobs = Vec::new();
        let segment = bytes.len().max(1);
        engine.decide_inbound(from, Burst { bytes, segment }, now, &mut jobs);
        for job in jobs {
            engine.finish_opened(job.run(), now);
        }
    }

    pub fn handle_stream(&mut self, world: &mut World, event: StreamEvent) {
        match event {
            StreamEvent::Opened { stream, .. } => world.internet.close(stream, self.host),
            StreamEvent::Bytes { stream, bytes } => self.handle_stream_bytes(world, stream, &bytes),
            StreamEvent::Closed { stream } => self.handle_stream_closed(world, stream),
        }
        self.pump(world);
    }

    fn handle_stream_bytes(&mut self, world: &mut World, stream: StreamId, bytes: &[u8]) {
        let now = world.now();
        if let Some(control) = self.control.as_mut().filter(|control| control.stream == stream) {
            control.decoder.push(bytes);
            while let Some(frame) = control.decoder.pull().expect("frames of our own server") {
                let message = talk::decode(&frame).expect("messages of our own server");
                let event = control_event(&message);
                if !matches!(event, ControlEvent::StreamOpened | ControlEvent::Map(_)) {
                    control.open.remove(&message.request);
                }
                self.later.push((RequestId(message.request), event));
            }
        }
        let relay = self.relays.iter_mut().find(|(_, relay)| relay.stream == stream);
        if let Some((region, relay)) = relay {
            let region = *region;
            if relay.client.handle_bytes(bytes, now).is_err() {
                self.drop_relay(world, region);
            }
        }
    }

    fn handle_stream_closed(&mut self, world: &mut World, stream: StreamId) {
        if self.control.as_ref().is_some_and(|control| control.stream == stream) {
            self.fail_control("the connection broke");
        }
        let region = self.relays.iter().find(|(_, relay)| relay.stream == stream).map(|(region, _)| *region);
        if let Some(region) = region {
            self.drop_relay(world, region);
        }
    }

    /// Everything that was asked of the control server has no answer.
    fn fail_control(&mut self, why: &str) {
        let Some(control) = self.control.take() else { return };
        for (request, tag) in control.open {
            self.later.push((RequestId(request), failed(tag, why)));
        }
    }

    // Relays.

    fn drop_relay(&mut self, world: &mut World, region: RegionId) {
        let Some(relay) = self.relays.remove(&region) else { return };
        world.internet.close(relay.stream, self.host);
        if let Some(node) = &mut self.node {
            node.engine_mut().relay_state(region, false, world.now());
        }
        self.relay_retry.get_or_insert(world.now() + RELAY_RETRY);
    }

    /// Connects to the regions that are wanted, under the present key, and leaves the others.
    fn connect_relays(&mut self, world: &mut World) {
        let now = world.now();
        let Some(node) = &self.node else { return };
        let (secret, Some(key)) = (node.node_secret().clone(), self.key) else { return };
        let unwanted: Vec<RegionId> = self
            .relays
            .iter()
            .filter(|(region, relay)| !self.wanted.contains(region) || relay.key != key)
            .map(|(region, _)| *region)
            .collect();
        for region in unwanted {
            self.drop_relay(world, region);
        }
        let is_waiting = self.relay_retry.is_some_and(|at| at > now);
        for region in self.wanted.clone() {
            let is_home = self.home == Some(region);
            if let Some(relay) = self.relays.get_mut(&region) {
                relay.client.note_preferred(is_home);
                continue;
            }
            if is_waiting {
                continue;
            }
            match self.relay_addr(world, region).and_then(|addr| world.connect(self.host, addr)) {
                Some(stream) => {
                    let client = Client::new(secret.clone(), is_home, self.random.fork(), now);
                    self.relays.insert(region, RelayStream { stream, client, key });
                }
                None => self.relay_retry = Some(now + RELAY_RETRY),
            }
        }
        if self.relay_retry.is_some_and(|at| at <= now) {
            self.relay_retry = None;
        }
    }

    fn relay_addr(&self, world: &World, region: RegionId) -> Option<SocketAddr> {
        let map = self.node.as_ref()?.net_map()?;
        let relay = map.relay_map.regions.get(&region)?.nodes.first()?;
        let own = world.internet.host(self.host).addrs();
        let literals = [&relay.ipv4, &relay.ipv6].into_iter().filter_map(|text| text.parse::<IpAddr>().ok());
        literals
            .into_iter()
            .find(|ip| own.iter().any(|own| own.is_ipv4() == ip.is_ipv4()))
            .map(|ip| SocketAddr::new(ip, RELAY_PORT))
    }

    fn pump_relays(&mut self, world: &mut World) -> bool {
        let mut events = Vec::new();
        for (region, relay) in &mut self.relays {
            events.extend(std::iter::from_fn(|| relay.client.poll_event()).map(|event| (*region, event)));
            while let Some(frame) = relay.client.poll_transmit() {
                world.internet.write(relay.stream, self.host, frame);
            }
        }
        let did = !events.is_empty();
        for (region, event) in events {
            self.handle_relay(world, region, event);
        }
        did
    }

    fn handle_relay(&mut self, world: &mut World, region: RegionId, event: RelayEvent) {
        let engine = self.node.as_mut().map(|node| node.engine_mut());
        match (event, engine) {
            (RelayEvent::Connected { .. }, Some(engine)) => engine.relay_state(region, true, world.now()),
            (RelayEvent::PeerGone { key, .. }, Some(engine)) => engine.relay_peer_gone(region, &key, world.now()),
            (RelayEvent::Packet { src, bytes }, _) => {
                self.handle_outer(world, Hop::Relay { region, peer: src }, bytes);
            }
            (RelayEvent::Health(_) | RelayEvent::Restarting { .. }, _) | (_, None) => {}
        }
    }

    // Time.

    pub fn poll_timeout(&self) -> Option<Instant> {
        let node = self.node.as_ref()?;
        let relays = self.relays.values().filter_map(|relay| relay.client.poll_timeout()).min();
        [node.poll_timeout(), relays, self.relay_retry].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, world: &mut World) {
        let (now, wall) = (world.now(), self.wall(world));
        if let Some(node) = &mut self.node {
            node.handle_timeout(now, wall);
        }
        let silent: Vec<RegionId> = self
            .relays
            .iter_mut()
            .filter_map(|(region, relay)| relay.client.handle_timeout(now).is_err().then_some(*region))
            .collect();
        for region in silent {
            self.drop_relay(world, region);
        }
        if self.relay_retry.is_some_and(|at| at <= now) {
            self.relay_retry = None;
        }
        self.pump(world);
    }

    // Carrying out.

    fn pump(&mut self, world: &mut World) {
        let wall = self.wall(world);
        loop {
            let mut did = false;
            for (request, event) in std::mem::take(&mut self.later) {
                did = true;
                if let Some(node) = &mut self.node {
                    node.handle_control(request, event, world.now(), wall);
                }
            }
            if let Some(node) = &mut self.node {
                node.handle_engine(world.now(), wall);
            }
            did |= self.pump_packets(world);
            self.connect_relays(world);
            did |= self.pump_relays(world);
            while let Some(action) = self.node.as_mut().and_then(Node::poll_action) {
                did = true;
                self.carry_out(world, action);
            }
            while let Some(notice) = self.node.as_mut().and_then(Node::poll_notice) {
                world.note(&notice);
                match notice {
                    // Only these mean that our key may be another one now.
                    Notice::LoginFinished | Notice::Prefs(_) | Notice::Profile(_) => self.read_key(),
                    Notice::Error(text) => self.errors.push(text),
                    _ => {}
                }
            }
            if !did {
                return;
            }
        }
    }

    fn pump_packets(&mut self, world: &mut World) -> bool {
        let mut answers = Vec::new();
        let mut did = false;
        while let Some(run) = self.node.as_mut().and_then(|node| node.engine_mut().poll_run()) {
            did = true;
            for datagram in run.bytes.chunks(run.segment) {
                match run.hop {
                    Hop::Direct { addr, .. } => world.internet.send(self.host, self.udp_port, addr, datagram.to_vec()),
                    Hop::Relay { region, peer } => {
                        if let Some(relay) = self.relays.get_mut(&region) {
                            relay.client.send(peer, datagram, world.now());
                        }
                    }
                }
            }
        }
        while let Some(delivery) = self.node.as_mut().and_then(|node| node.engine_mut().poll_delivery()) {
            did = true;
            answers.extend(self.handle_packet(delivery.bytes()));
        }
        self.send_packets(world.now(), answers);
        did
    }

    fn carry_out(&mut self, world: &mut World, action: Action) {
        world.note(&action);
        match action {
            Action::CloseControl => {
                if let Some(control) = self.control.take() {
                    world.internet.close(control.stream, self.host);
                }
            }
            Action::Control { id, request } => self.ask_control(world, id, &request),
            Action::SayGoodbye { target, request } => self.say_goodbye(world, &target, &request),
            Action::ConfigureHost(plan) => self.mesh_addrs = plan.addrs,
            Action::Persist(state) => self.disk = Some(state.to_file_text_with_secrets().to_string()),
            Action::Relays { home, wanted } => (self.home, self.wanted) = (home, wanted),
            Action::ProbeHttps { region } => {
                let is_there = self.relay_addr(world, region).is_some_and(|addr| world.listening.contains(&addr));
                let latency = Some(HTTPS_LATENCY).filter(|_| is_there && world.internet.host(self.host).link.is_up);
                let wall = self.wall(world);
                if let Some(node) = &mut self.node {
                    node.handle_https_latency(region, latency, world.now(), wall);
                }
            }
            Action::Resolve { name } => panic!("all relays of the lab have literal addresses, but not {name}"),
            Action::AnswerPing(_) => {}
        }
    }

    fn connect_control(&self, world: &mut World, target: &ControlTarget) -> Option<StreamId> {
        let own = world.internet.host(self.host).addrs();
        let addr =
            self.control_addrs.iter().find(|addr| own.iter().any(|own| own.is_ipv4() == addr.is_ipv4())).copied()?;
        let stream = world.connect(self.host, addr)?;
        let hello = talk::encode(talk::HELLO, 0, target.machine.public().as_bytes());
        world.internet.write(stream, self.host, hello);
        Some(stream)
    }

    fn ask_control(&mut self, world: &mut World, id: RequestId, request: &ControlRequest) {
        let (tag, bytes) = match request {
            ControlRequest::Register(request) => (talk::REGISTER, talk::encode_json(talk::REGISTER, id.0, request)),
            ControlRequest::Stream(request) => (talk::STREAM, talk::encode_json(talk::STREAM, id.0, request)),
            ControlRequest::Update(request) => (talk::UPDATE, talk::encode_json(talk::UPDATE, id.0, request)),
        };
        if self.control.as_ref().is_none_or(|control| !world.internet.is_open(control.stream)) {
            self.fail_control("the connection broke");
            let target = self.node.as_ref().and_then(Node::control_target);
            let stream = target.and_then(|target| self.connect_control(world, &target));
            let Some(stream) = stream else {
                self.later.push((id, failed(tag, "nobody is there")));
                return;
            };
            let decoder = Decoder::new(talk::CAP);
            self.control = Some(ControlStream { stream, decoder, open: BTreeMap::new() });
        }
        if let Some(control) = &mut self.control {
            control.open.insert(id.0, tag);
            world.internet.write(control.stream, self.host, bytes);
        }
    }

    fn say_goodbye(&self, world: &mut World, target: &ControlTarget, request: &RegisterRequest) {
        if let Some(stream) = self.connect_control(world, target) {
            world.internet.write(stream, self.host, talk::encode_json(talk::REGISTER, 0, request));
        }
    }
}

fn control_event(message: &Message) -> ControlEvent {
    match message.tag {
        talk::REGISTERED => {
            ControlEvent::Registered(serde_json::from_slice(&message.body).expect("a registration's answer"))
        }
        talk::OPENED => ControlEvent::StreamOpened,
        talk::MAP => ControlEvent::Map(serde_json::from_slice(&message.body).expect("a map")),
        talk::ENDED => {
            let status = std::str::from_utf8(&message.body).ok().and_then(|text| text.parse().ok());
            ControlEvent::StreamEnded { status, reason: "the server ended it".into() }
        }
        talk::DONE => ControlEvent::UpdateDone,
        other => panic!("the server sent a message of kind {other}"),
    }
}

fn failed(tag: u8, why: &str) -> ControlEvent {
    match tag {
        talk::REGISTER => {
            ControlEvent::RegisterFailed { status: None, text: why.into(), retry_after: None, is_lasting: false }
        }
        talk::STREAM => ControlEvent::StreamEnded { status: None, reason: why.into() },
        _ => ControlEvent::UpdateFailed { reason: why.into() },
    }
}
