//! A whole relay as one value.
//!
//! ```text
//! Login --ClientInfo--> Asked --admit(true)--> Member
//!   |                     '-----admit(false)--> closed
//!   '--10 s, garbage--> closed
//! ```
//!
//! The owner moves bytes: [`Server::connect`] and [`Server::handle_bytes`] in, [`Server::poll_transmit`] out for each connection
//! that [`Server::poll_ready`] names, [`Server::poll_closed`] for those it must close. It decides who may enter: each
//! [`AdmitRequest`] is answered by [`Server::admit`], and what cannot be decided is answered with no. While a connection waits for
//! that answer the owner reads nothing from it ([`Server::wants_bytes`]).
//!
//! A sender never waits for a receiver: each connection holds short queues of its own, and a full one drops its oldest packet.
//!
//! Not built: forwarding between the relays of one region; what concerns it ends the connection, as for any stranger.

mod counters;
mod members;
mod outbox;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, Random, RelayPublic, RelaySecret, SharedBox};

pub use counters::{Counters, PacketCounters, Traffic};

use crate::frame::{self, Decoder, GoneReason, Treatment};
use crate::login::{self, ServerInfo};
use crate::queue::Kind;
use members::Members;
use outbox::Outbox;

/// From the connection to a client info that opens.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Half of what clients wait before they give a relay up.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(60);
/// Spread, so that ten thousand clients of a restarted relay do not ask for a write at once.
const KEEP_ALIVE_JITTER: Duration = Duration::from_secs(5);
/// Notices "not here" per sender: this many at once, then one a second; a scan must not make the relay an amplifier.
const NOT_HERE_BURST: u32 = 3;
/// What a client may send before it is admitted; the owner stops reading long before.
const MAX_HELD_BYTES: usize = 256 * 1024;

/// One connection, for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Somebody proved to hold `key`: may they use this relay? Answer by [`Server::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitRequest {
    pub conn: ConnId,
    pub key: NodePublic,
    pub source: IpAddr,
}

/// Why the relay ended a connection. The client is told nothing; this is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("did not log in in time")]
    LoginTimeout,
    #[error("login: {0}")]
    Login(#[from] login::LoginError),
    #[error("{0}")]
    Frame(#[from] frame::TooLong),
    #[error("a frame of type {kind:#04x} with {length} bytes is not one of this protocol")]
    Malformed { kind: u8, length: usize },
    #[error("asked for what only relays may ask")]
    MeshOnly,
    #[error("not admitted")]
    Refused,
    #[error("no longer admitted")]
    Revoked,
    #[error("sent too much before it was admitted")]
    Impatient,
}

/// How far the relay got with what a connection brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Through.
    Done,
    /// A receiver's queue is full. Let its writer have a turn, then call [`Server::handle_rest`], which does not wait any longer:
    /// bursts pass whole where the receiver keeps up, and nobody stalls for one that does not.
    Crowded,
}

/// What an operator may change.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Packets that wait for one client, disco and others each.
    pub queue_depth: usize,
}

impl Default for ServerConfig {
    /// The field's depth: deeper queues are only delay.
    fn default() -> Self {
        Self { queue_depth: 32 }
    }
}

pub struct Server {
    secret: RelaySecret,
    config: ServerConfig,
    random: Random,
    conns: BTreeMap<ConnId, Conn>,
    members: Members,
    deadlines: BTreeSet<(Instant, ConnId)>,
    requests: VecDeque<AdmitRequest>,
    ready: VecDeque<ConnId>,
    closed: VecDeque<(ConnId, CloseReason)>,
    next_conn: u64,
    counters: Counters,
}

struct Conn {
    source: IpAddr,
    decoder: Decoder,
    stage: Stage,
    outbox: Outbox,
    /// Already named in `ready` and not yet drained.
    is_ready: bool,
    deadline: Instant,
}

enum Stage {
    Login,
    Asked { key: NodePublic, shared: SharedBox },
    Member(Member),
}

struct Member {
    key: NodePublic,
    is_home: bool,
    not_here: NotHere,
}

impl Server {
    pub fn new(secret: RelaySecret, config: ServerConfig, random: Random) -> Self {
        Self {
            secret,
            config,
            random,
            conns: BTreeMap::new(),
            members: Members::default(),
            deadlines: BTreeSet::new(),
            requests: VecDeque::new(),
            ready: VecDeque::new(),
            closed: VecDeque::new(),
            next_conn: 0,
            counters: Counters::default(),
        }
    }

    pub fn public(&self) -> RelayPublic {
        self.secret.public()
    }

    /// A connection was accepted and upgraded.
    pub fn connect(&mut self, source: IpAddr, now: Instant) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let deadline = now + LOGIN_WITHIN;
        let mut outbox = Outbox::new(self.config.queue_depth);
        outbox.push_login(frame::encode_server_key(&self.secret.public()));
        let decoder = Decoder::new(treat_stranger);
        let conn = Conn { source, decoder, stage: Stage::Login, outbox, is_ready: false, deadline };
        self.conns.insert(id, conn);
        self.deadlines.insert((deadline, id));
        self.counters.accepted += 1;
        self.counters.connections += 1;
        self.wake(id);
        id
    }

    /// Bytes came from a connection; those of one that is gone are ignored.
    pub fn handle_bytes(&mut self, id: ConnId, bytes: &[u8], now: Instant) -> Progress {
        let Some(conn) = self.conns.get_mut(&id) else { return Progress::Done };
        conn.decoder.push(bytes);
        self.handle_held(id, now)
    }

    /// Goes on after [`Progress::Crowded`].
    pub fn handle_rest(&mut self, id: ConnId, now: Instant) -> Progress {
        self.handle_held(id, now)
    }

    /// The owner's answer to an [`AdmitRequest`].
    pub fn admit(&mut self, id: ConnId, is_admitted: bool, now: Instant) -> Progress {
        let Some(conn) = self.conns.get_mut(&id) else { return Progress::Done };
        let Stage::Asked { key, shared } = &conn.stage else { return Progress::Done };
        if !is_admitted {
            self.counters.refused += 1;
            self.close(id, CloseReason::Refused);
            return Progress::Done;
        }
        let info = ServerInfo { version: login::PROTOCOL_VERSION, ..ServerInfo::default() };
        conn.outbox.push_login(login::encode_server_info(shared, &info, &mut self.random));
        let key = *key;
        conn.stage = Stage::Member(Member { key, is_home: false, not_here: NotHere::new(now) });
        conn.decoder.set_treatment(treat_member);
        self.members.join(key, id);
        self.counters.logins += 1;
        self.counters.clients = self.members.count();
        let jitter = self.random.range_duration(Duration::ZERO, KEEP_ALIVE_JITTER);
        self.set_deadline(id, now + KEEP_ALIVE_EVERY + jitter);
        self.wake(id);
        self.handle_held(id, now)
    }

    /// The owner lost or ended a connection.
    pub fn disconnect(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(&id) else { return };
        self.deadlines.remove(&(conn.deadline, id));
        self.counters.connections -= 1;
        while let Some((kind, _)) = conn.outbox.packets.pop() {
            self.counters.of(kind).dropped_gone += 1;
        }
        if let Stage::Member(member) = conn.stage {
            self.counters.homes -= u64::from(member.is_home);
            let told = self.members.leave(member.key, id);
            self.counters.clients = self.members.count();
            for to in told {
                self.push_gone(to, member.key, GoneReason::Disconnected);
            }
        }
    }

    /// A key may no longer be here: every connection of it ends.
    pub fn revoke(&mut self, key: &NodePublic) {
        while let Some(id) = self.members.active(key) {
            self.counters.revoked += 1;
            self.close(id, CloseReason::Revoked);
        }
    }

    /// Everybody who was let in, each key once, with the address that it was last heard from.
    pub fn members(&self) -> impl Iterator<Item = (NodePublic, IpAddr)> + '_ {
        self.members.active_conns().filter_map(|(key, id)| Some((key, self.conns.get(&id)?.source)))
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            match conn.stage {
                Stage::Login | Stage::Asked { .. } => {
                    self.counters.login_timeouts += 1;
                    self.close(id, CloseReason::LoginTimeout);
                }
                Stage::Member(_) => {
                    conn.outbox.push_keepalive();
                    self.counters.keepalives += 1;
                    let jitter = self.random.range_duration(Duration::ZERO, KEEP_ALIVE_JITTER);
                    self.set_deadline(id, now + KEEP_ALIVE_EVERY + jitter);
                    self.wake(id);
                }
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Who asks to be let in.
    pub fn poll_request(&mut self) -> Option<AdmitRequest> {
        self.requests.pop_front()
    }

    /// A connection that has something to write. Named once, until [`Server::poll_transmit`] said `None`.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// The next frame for a connection. Call it when the socket can take it: what waits here can still be dropped for fresher.
    pub fn poll_transmit(&mut self, id: ConnId) -> Option<Vec<u8>> {
        let conn = self.conns.get_mut(&id)?;
        let Some((kind, frame)) = conn.outbox.pop() else {
            conn.is_ready = false;
            return None;
        };
        if let Some(kind) = kind {
            self.counters.sent(kind, frame.len() - frame::HEADER_BYTES - frame::KEY_BYTES);
        }
        Some(frame)
    }

    /// A connection that the relay has ended: forget it and close its socket.
    pub fn poll_closed(&mut self) -> Option<(ConnId, CloseReason)> {
        self.closed.pop_front()
    }

    /// Whether the owner should read from this connection.
    pub fn wants_bytes(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| !matches!(conn.stage, Stage::Asked { .. }))
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Works through the frames that a connection has brought.
    fn handle_held(&mut self, id: ConnId, now: Instant) -> Progress {
        // Taken out so that payloads may be borrowed while the rest of the relay changes.
        let Some(conn) = self.conns.get_mut(&id) else { return Progress::Done };
        let mut decoder = std::mem::replace(&mut conn.decoder, Decoder::new(treat_member));
        let result = self.handle_frames(id, &mut decoder, now);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.decoder = decoder;
        }
        result.unwrap_or_else(|reason| {
            self.counters.malformed += 1;
            self.close(id, reason);
            Progress::Done
        })
    }

    fn handle_frames(&mut self, id: ConnId, decoder: &mut Decoder, now: Instant) -> Result<Progress, CloseReason> {
        let mut is_first = true;
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return Ok(Progress::Done) };
            if matches!(conn.stage, Stage::Asked { .. }) {
                let too_much = decoder.held() > MAX_HELD_BYTES;
                return if too_much { Err(CloseReason::Impatient) } else { Ok(Progress::Done) };
            }
            let Some((kind, payload)) = decoder.next_frame()? else { return Ok(Progress::Done) };
            match &mut conn.stage {
                Stage::Login => self.handle_login(id, kind, payload)?,
                Stage::Asked { .. } => {}
                Stage::Member(member) => {
                    if std::mem::take(&mut is_first) {
                        self.members.heard_from(member.key, id);
                    }
                    if self.handle_member(id, kind, payload, now)? == Progress::Crowded {
                        return Ok(Progress::Crowded);
                    }
                }
            }
        }
    }

    fn handle_login(&mut self, id: ConnId, kind: u8, payload: &[u8]) -> Result<(), CloseReason> {
        if kind != frame::CLIENT_INFO {
            return Err(CloseReason::Malformed { kind, length: payload.len() });
        }
        let (key, _, shared) = login::decode_client_info(&self.secret, payload)?;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = Stage::Asked { key, shared };
            self.requests.push_back(AdmitRequest { conn: id, key, source: conn.source });
        }
        Ok(())
    }

    fn handle_member(&mut self, id: ConnId, kind: u8, payload: &[u8], now: Instant) -> Result<Progress, CloseReason> {
        let malformed = CloseReason::Malformed { kind, length: payload.len() };
        match kind {
            frame::SEND_PACKET => {
                let (to, packet) = frame::split_key(payload).ok_or(malformed)?;
                return Ok(self.relay(id, to, packet, now));
            }
            frame::NOTE_PREFERRED => {
                let [byte] = payload else { return Err(malformed) };
                self.note_preferred(id, *byte == 1);
            }
            frame::PING => {
                let data = payload.first_chunk::<8>().ok_or(malformed)?;
                if let Some(conn) = self.conns.get_mut(&id)
                    && conn.outbox.push_pong(*data)
                {
                    self.counters.pings += 1;
                    self.wake(id);
                }
            }
            frame::FORWARD_PACKET | frame::WATCH_CONNS | frame::CLOSE_PEER => return Err(CloseReason::MeshOnly),
            _ => {}
        }
        Ok(Progress::Done)
    }

    fn relay(&mut self, id: ConnId, to: NodePublic, packet: &[u8], now: Instant) -> Progress {
        let kind = Kind::of(packet);
        self.counters.received(kind, packet.len());
        let Some(conn) = self.conns.get_mut(&id) else { return Progress::Done };
        let Stage::Member(sender) = &mut conn.stage else { return Progress::Done };
        let from = sender.key;
        let Some(receiver) = self.members.active(&to) else {
            self.counters.of(kind).dropped_unknown_destination += 1;
            if kind == Kind::Disco && sender.not_here.may_tell(now) {
                self.counters.peer_gone_not_here += 1;
                conn.outbox.push_gone(to, GoneReason::NotHere);
                self.wake(id);
            }
            return Progress::Done;
        };
        let Some(target) = self.conns.get_mut(&receiver) else { return Progress::Done };
        self.members.wrote(from, receiver);
        if target.outbox.packets.push(kind, frame::encode_recv_packet(&from, packet)).is_some() {
            self.counters.of(kind).dropped_queue_head += 1;
        }
        let is_full = target.outbox.packets.is_full(kind);
        self.wake(receiver);
        if is_full { Progress::Crowded } else { Progress::Done }
    }

    fn note_preferred(&mut self, id: ConnId, is_home: bool) {
        let Some(Conn { stage: Stage::Member(member), .. }) = self.conns.get_mut(&id) else { return };
        if member.is_home != is_home {
            member.is_home = is_home;
            self.counters.homes = if is_home { self.counters.homes + 1 } else { self.counters.homes - 1 };
        }
    }

    fn push_gone(&mut self, to: ConnId, key: NodePublic, reason: GoneReason) {
        if let Some(conn) = self.conns.get_mut(&to) {
            conn.outbox.push_gone(key, reason);
            self.counters.peer_gone_disconnected += 1;
            self.wake(to);
        }
    }

    fn wake(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.is_ready
            && !conn.outbox.is_empty()
        {
            conn.is_ready = true;
            self.ready.push_back(id);
        }
    }

    fn set_deadline(&mut self, id: ConnId, deadline: Instant) {
        if let Some(conn) = self.conns.get_mut(&id) {
            self.deadlines.remove(&(conn.deadline, id));
            conn.deadline = deadline;
            self.deadlines.insert((deadline, id));
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        if self.conns.contains_key(&id) {
            self.disconnect(id);
            self.closed.push_back((id, reason));
        }
    }
}

/// Of a stranger only its login is read; anything else ends the connection.
fn treat_stranger(kind: u8) -> Treatment {
    match kind {
        frame::CLIENT_INFO => Treatment::Read { most: login::MAX_CLIENT_INFO_BYTES },
        _ => Treatment::Read { most: 0 },
    }
}

/// A kind that is not listed is of a later version of the protocol.
fn treat_member(kind: u8) -> Treatment {
    match kind {
        frame::SEND_PACKET => Treatment::Read { most: frame::KEY_BYTES + frame::MAX_PACKET_BYTES },
        frame::PING => Treatment::Read { most: 1000 },
        frame::NOTE_PREFERRED | frame::WATCH_CONNS | frame::CLOSE_PEER => Treatment::Read { most: 64 },
        frame::FORWARD_PACKET => Treatment::Read { most: 2 * frame::KEY_BYTES + frame::MAX_PACKET_BYTES },
        _ => Treatment::Skip,
    }
}

/// How often one sender hears "not here".
struct NotHere {
    left: u32,
    filled: Instant,
}

impl NotHere {
    fn new(now: Instant) -> Self {
        Self { left: NOT_HERE_BURST, filled: now }
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(NOT_HERE_BURST);
            self.filled += Duration::from_secs(seconds);
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}
