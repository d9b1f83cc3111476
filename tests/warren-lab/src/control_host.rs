//! A control server on a host: its one writer, its store, and the streams of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_control::{
    Actor, Answer, AuthId, ChannelId, Command, Control, Event, Next, Refusal, RegisterAnswer, Session, Settings,
    Snapshot, Staged, What, register,
};
use warren_crypto::{MachinePublic, Random};
use warren_simnet::{HostId, Segment, StreamEvent, StreamId};
use warren_wire::framing::Decoder;
use warren_wire::{MapRequest, MapResponse, NodeId, RegisterRequest, RegisterResponse, RelayMap, UserId};

use crate::model::KEY_LIFETIME;
use crate::rules::{USERS, user_name};
use crate::store::Store;
use crate::talk::{self, Message};
use crate::world::World;

pub const CONTROL_PORT: u16 = 8080;
/// Nodes are told that the server is there at least so often.
const KEEP_ALIVE: Duration = Duration::from_secs(50);
/// How often soft facts are saved.
const SAVE_SOFT: Duration = Duration::from_secs(1);
/// After a crash somebody starts it again.
const CRASH_LASTS: Duration = Duration::from_secs(3);

/// Where in its work a server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// What was decided is lost.
    BeforeCommit,
    /// It is kept, and nobody was told.
    BeforeAnswer,
}

pub struct ControlHost {
    pub host: HostId,
    settings: Settings,
    store: Store,
    random: Random,
    /// `None` while it is dead.
    control: Option<Control>,
    connections: BTreeMap<StreamId, Connection>,
    /// Every connection there ever was, in order.
    channels: BTreeMap<StreamId, ChannelId>,
    /// Registrations that wait for an operator.
    held: Vec<Held>,
    /// It dies with the next commit.
    crash: Option<Crash>,
    start_at: Option<Instant>,
    keep_alive_at: Instant,
    save_soft_at: Option<Instant>,
    /// A picture that the relays have not been shown.
    news: Option<Arc<Snapshot>>,
    users: Vec<UserId>,
}

struct Connection {
    machine: Option<MachinePublic>,
    decoder: Decoder,
    sessions: BTreeMap<u64, Session>,
}

struct Held {
    stream: StreamId,
    request: u64,
    machine: MachinePublic,
    registration: Arc<RegisterRequest>,
    waits_for: AuthId,
}

/// The server died while it decided.
struct Died;

impl ControlHost {
    pub fn new(world: &mut World, relay_map: RelayMap, random: Random) -> ControlHost {
        let host = world.internet.add_host(Segment::Public, true, true, ());
        let mut settings = Settings::new("http://control.example:8080", "control.example", "mesh.test");
        settings.relay_map = relay_map;
        settings.key_lifetime = Some(KEY_LIFETIME);
        let mut control = ControlHost {
            host,
            settings,
            store: Store::default(),
            random,
            control: None,
            connections: BTreeMap::new(),
            channels: BTreeMap::new(),
            held: Vec::new(),
            crash: None,
            start_at: None,
            keep_alive_at: world.now(),
            save_soft_at: None,
            news: None,
            users: Vec::new(),
        };
        control.start(world);
        for user in 0..USERS {
            let what = What::CreateUser {
                name: user_name(user),
                display_name: String::new(),
                email: String::new(),
                picture_url: String::new(),
            };
            if let Answer::User(user) = control.operate(world, what) {
                control.users.push(user.id);
            }
        }
        control
    }

    /// Where nodes find it, by the families that they speak.
    pub fn addrs(&self, world: &World) -> Vec<SocketAddr> {
        world.internet.host(self.host).addrs().iter().map(|ip| SocketAddr::new(*ip, CONTROL_PORT)).collect()
    }

    pub fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn start(&mut self, world: &mut World) {
        self.start_at = None;
        let rows = self.store.rows();
        world.note(&rows);
        let control = Control::from_rows(&rows, self.settings.clone(), world.now()).expect("rows that were committed");
        self.news = Some(control.snapshot());
        self.control = Some(control);
        self.keep_alive_at = world.now() + KEEP_ALIVE;
        world.listening.extend(self.addrs(world));
    }

    pub fn kill(&mut self, world: &mut World) {
        self.control = None;
        self.connections.clear();
        self.held.clear();
        (self.crash, self.save_soft_at) = (None, None);
        for addr in self.addrs(world) {
            world.listening.remove(&addr);
        }
        world.internet.break_streams(self.host);
    }

    pub fn crash_with_next_commit(&mut self, crash: Crash) {
        self.crash = Some(crash);
    }

    /// It has not crashed yet, or is not back.
    pub fn is_crashing(&self) -> bool {
        self.crash.is_some() || self.start_at.is_some()
    }

    pub fn do_not_crash(&mut self) {
        self.crash = None;
    }

    // What an operator does.

    /// # Panics
    /// If the server is dead or refuses: the model only lets legal things happen.
    #[track_caller]
    pub fn operate(&mut self, world: &mut World, what: What) -> Answer {
        let command = Command { actor: Actor::Operator { name: "op".into(), door: "lab" }, what };
        // A crash is for whoever joins.
        let crash = self.crash.take();
        let decided = self.decide(world, command);
        self.crash = crash;
        match decided {
            Ok(Ok(answer)) => {
                self.publish(world);
                answer
            }
            Ok(Err(refusal)) => panic!("an operator was refused: {refusal}"),
            Err(Died) => panic!("an operator's command met a crash"),
        }
    }

    /// The same with a crash in the middle. Returns whether it came to that.
    pub fn operate_into(&mut self, world: &mut World, what: What, crash: Crash) -> bool {
        self.crash = Some(crash);
        let command = Command { actor: Actor::Operator { name: "op".into(), door: "lab" }, what };
        let died = self.decide(world, command).is_err();
        if died {
            self.kill(world);
            self.start_at = Some(world.now() + CRASH_LASTS);
        } else {
            self.crash = None;
            self.publish(world);
        }
        died
    }

    /// What may have been done already.
    pub fn try_to_operate(&mut self, world: &mut World, what: What) {
        let command = Command { actor: Actor::Operator { name: "op".into(), door: "lab" }, what };
        match self.decide(world, command) {
            Ok(Ok(_) | Err(Refusal::NotFound { .. })) => self.publish(world),
            Ok(Err(refusal)) => panic!("an operator was refused: {refusal}"),
            Err(Died) => panic!("an operator's command met a dead server"),
        }
    }

    pub fn user(&self, user: usize) -> Option<UserId> {
        self.users.get(user).copied()
    }

    /// A key that lets one machine of this user in.
    pub fn one_off_key(&mut self, world: &mut World, user: usize) -> String {
        let user = self.users.get(user).copied();
        let what = What::CreateKey {
            user,
            tags: BTreeSet::new(),
            reusable: false,
            ephemeral: false,
            preapproved: false,
            expiry: None,
        };
        match self.operate(world, what) {
            Answer::Key { secret: Some(secret), .. } => secret.reveal().to_owned(),
            other => panic!("no key but {other:?}"),
        }
    }

    /// Lets a machine in that waits, as a device of this user.
    pub fn approve(&mut self, world: &mut World, machine: MachinePublic, user: usize) {
        let (Some(user), Some(control)) = (self.users.get(user).copied(), &self.control) else { return };
        let waiting = control.all_waiting(world.wall()).into_iter().filter(|(_, waiting)| waiting.machine == machine);
        for (id, _) in waiting.collect::<Vec<_>>() {
            self.operate(world, What::ApproveRegistration { id, user });
        }
    }

    // What reaches it.

    pub fn handle_stream(&mut self, world: &mut World, event: StreamEvent) {
        if self.control.is_none() {
            return;
        }
        match event {
            StreamEvent::Opened { stream, .. } => {
                let decoder = Decoder::new(talk::CAP);
                let number = self.channels.values().max().map_or(1, |last| last.0 + 1);
                self.channels.insert(stream, ChannelId(number));
                self.connections.insert(stream, Connection { machine: None, decoder, sessions: BTreeMap::new() });
            }
            StreamEvent::Bytes { stream, bytes } => {
                let Some(connection) = self.connections.get_mut(&stream) else { return };
                connection.decoder.push(&bytes);
                while let Some(connection) = self.connections.get_mut(&stream)
                    && let Some(frame) = connection.decoder.pull().expect("frames of our own node")
                {
                    let message = talk::decode(&frame).expect("messages of our own node");
                    if self.handle_message(world, stream, message).is_err() {
                        self.kill(world);
                        self.start_at = Some(world.now() + CRASH_LASTS);
                        return;
                    }
                }
            }
            StreamEvent::Closed { stream } => {
                if let Some(connection) = self.connections.remove(&stream) {
                    for session in connection.sessions.into_values() {
                        self.end(world, session.node(), stream);
                    }
                }
                self.held.retain(|held| held.stream != stream);
            }
        }
        self.publish(world);
    }

    fn end(&mut self, world: &World, node: NodeId, stream: StreamId) {
        if let Some(control) = &mut self.control {
            let channel = self.channels.get(&stream).copied().unwrap_or_default();
            control.handle_stream_ended(node, channel, world.now(), world.wall());
        }
    }

    fn handle_message(&mut self, world: &mut World, stream: StreamId, message: Message) -> Result<(), Died> {
        let Some(connection) = self.connections.get_mut(&stream) else { return Ok(()) };
        if message.tag == talk::HELLO {
            connection.machine = talk::machine_of(&message.body);
            return Ok(());
        }
        let machine = connection.machine.expect("a node says hello first");
        match message.tag {
            talk::REGISTER => {
                let registration: RegisterRequest = serde_json::from_slice(&message.body).expect("a registration");
                self.register(world, stream, message.request, machine, Arc::new(registration))?;
            }
            talk::STREAM => self.open_stream(world, stream, &message, machine),
            talk::UPDATE => {
                let request: MapRequest = serde_json::from_slice(&message.body).expect("an update");
                if let Some(control) = &mut self.control
                    && let Some(node) = control.snapshot().node_of(&machine, &request.node_key).map(|node| node.id)
                {
                    let channel = self.channels.get(&stream).copied().unwrap_or_default();
                    control.handle_map_request(node, channel, &request, world.now());
                }
                self.write(world, stream, talk::encode(talk::DONE, message.request, &[]));
            }
            other => panic!("a node sent a message of kind {other}"),
        }
        Ok(())
    }

    fn register(
        &mut self,
        world: &mut World,
        stream: StreamId,
        request: u64,
        machine: MachinePublic,
        registration: Arc<RegisterRequest>,
    ) -> Result<(), Died> {
        let actor = Actor::Machine { key: machine, from: None };
        let what = What::Register { machine, request: Arc::clone(&registration) };
        let response = match self.decide(world, Command { actor, what })? {
            Ok(Answer::Register(RegisterAnswer::Wait(waits_for))) => {
                self.held.push(Held { stream, request, machine, registration, waits_for });
                return Ok(());
            }
            Ok(Answer::Register(answer)) => answer.response(&self.settings.server_url).unwrap_or_default(),
            Ok(other) => panic!("a registration was answered by {other:?}"),
            Err(refusal) => register::refused(&refusal),
        };
        self.answer(world, stream, request, &response);
        Ok(())
    }

    fn answer(&self, world: &mut World, stream: StreamId, request: u64, response: &RegisterResponse) {
        world.note(response);
        self.write(world, stream, talk::encode_json(talk::REGISTERED, request, response));
    }

    fn open_stream(&mut self, world: &mut World, stream: StreamId, message: &Message, machine: MachinePublic) {
        let request: MapRequest = serde_json::from_slice(&message.body).expect("a map request");
        let Some(control) = &mut self.control else { return };
        let Some(node) = control.snapshot().node_of(&machine, &request.node_key).map(|node| node.id) else {
            return self.write(world, stream, talk::encode(talk::ENDED, message.request, b"404"));
        };
        let channel = self.channels.get(&stream).copied().unwrap_or_default();
        control.handle_stream_started(node, channel, world.now());
        control.handle_map_request(node, channel, &request, world.now());
        let session = Session::new(node, request.node_key, request.version);
        if let Some(connection) = self.connections.get_mut(&stream) {
            connection.sessions.insert(message.request, session);
        }
        self.write(world, stream, talk::encode(talk::OPENED, message.request, &[]));
        self.publish(world);
        // The picture may be an old one, if nothing in it is new.
        self.feed(world);
    }

    fn write(&self, world: &mut World, stream: StreamId, bytes: Vec<u8>) {
        world.internet.write(stream, self.host, bytes);
    }

    // The writer.

    /// Decides, commits, applies: one command a batch.
    fn decide(&mut self, world: &mut World, command: Command) -> Result<Result<Answer, Refusal>, Died> {
        world.note(&command);
        let control = self.control.as_mut().ok_or(Died)?;
        let mut staged = Staged::begin(control);
        let answer = staged.decide(command, world.wall(), &mut self.random);
        let batch = staged.finish();
        world.note(&batch);
        world.note(&answer);
        if batch.needs_commit() {
            let crash = self.crash.take();
            if crash == Some(Crash::BeforeCommit) {
                return Err(Died);
            }
            self.store.commit(&batch);
            if crash == Some(Crash::BeforeAnswer) {
                return Err(Died);
            }
        }
        let settled: Vec<AuthId> = batch
            .events
            .iter()
            .filter_map(|event| if let Event::RegistrationSettled(id) = event { Some(*id) } else { None })
            .collect();
        control.apply(batch, world.now()).expect("one batch at a time");
        let is_settled = |held: &mut Held| settled.contains(&held.waits_for);
        let woken: Vec<Held> = self.held.extract_if(.., is_settled).collect();
        for held in woken {
            self.register(world, held.stream, held.request, held.machine, held.registration)?;
        }
        Ok(answer)
    }

    /// Does what the server asks of itself, makes a new picture if there is news, and tells everybody.
    fn publish(&mut self, world: &mut World) {
        let crash = self.crash.take();
        while let Some(ask) = self.control.as_mut().and_then(Control::poll_ask) {
            // A node that came back in time is refused, which is right.
            let Ok(_) = self.decide(world, ask) else { return };
        }
        self.crash = crash;
        let Some(control) = &mut self.control else { return };
        if let Some(snapshot) = control.publish() {
            self.news = Some(snapshot);
            self.save_soft_at.get_or_insert(world.now() + SAVE_SOFT);
            self.feed(world);
        }
    }

    /// Gives every stream what it does not have yet.
    fn feed(&mut self, world: &mut World) {
        let Some(control) = &self.control else { return };
        let snapshot = control.snapshot();
        let mut ended = Vec::new();
        for (stream, connection) in &mut self.connections {
            connection.sessions.retain(|request, session| match session.next(&snapshot, world.wall()) {
                Next::Map(map) => {
                    world.internet.write(*stream, self.host, talk::encode(talk::MAP, *request, &map.text()));
                    true
                }
                Next::Nothing => true,
                Next::Gone => {
                    world.internet.write(*stream, self.host, talk::encode(talk::ENDED, *request, b""));
                    ended.push((session.node(), *stream));
                    false
                }
                Next::Last(map) => {
                    world.internet.write(*stream, self.host, talk::encode(talk::MAP, *request, &map.text()));
                    world.internet.write(*stream, self.host, talk::encode(talk::ENDED, *request, b""));
                    ended.push((session.node(), *stream));
                    false
                }
                Next::Failed(error, _) => panic!("a map cannot be made: {error}"),
            });
        }
        for (node, stream) in ended {
            self.end(world, node, stream);
        }
    }

    /// What the relays were not shown yet.
    pub fn take_news(&mut self) -> Option<Arc<Snapshot>> {
        self.news.take()
    }

    // Time.

    pub fn poll_timeout(&self) -> Option<Instant> {
        let Some(control) = &self.control else { return self.start_at };
        [Some(control.poll_timeout()), Some(self.keep_alive_at), self.save_soft_at].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, world: &mut World) {
        let now = world.now();
        if self.start_at.is_some_and(|at| at <= now) {
            self.start(world);
        }
        let Some(control) = &mut self.control else { return };
        control.handle_timeout(now, world.wall());
        if self.save_soft_at.is_some_and(|at| at <= now) {
            self.save_soft_at = None;
            let rows = control.take_soft();
            self.store.save_soft(rows);
        }
        if self.keep_alive_at <= now {
            self.keep_alive_at = now + KEEP_ALIVE;
            let alive = MapResponse { keep_alive: true, control_time: Some(world.wall()), ..MapResponse::default() };
            for (stream, connection) in &self.connections {
                for request in connection.sessions.keys() {
                    world.internet.write(*stream, self.host, talk::encode_json(talk::MAP, *request, &alive));
                }
            }
        }
        self.publish(world);
    }
}
