//! A relay: all its connections as one value.
//!
//! The shell accepts streams, feeds their bytes with [`Server::handle_bytes`], asks whom to admit
//! ([`Server::poll_request`]) and sends what [`Server::poll_transmit`] gives for each connection that [`Server::poll_ready`]
//! names. Nothing here waits for anybody: a slow client fills its own bounded queue and loses its own oldest packets.

mod counters;
mod table;

pub use counters::{Counters, DropReason};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use warren_crypto::{NodePublic, Random, RelayPublic, RelaySecret, SharedBox};

use crate::frame::{Frame, FrameError, FrameReader, GoneReason, MAX_PACKET_BYTES, VERSION, looks_like_disco};
use crate::queue::Queues;
use table::KeyTable;

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Asks the shell whether this node may use the relay; answered by [`Server::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitRequest {
    pub conn: ConnId,
    pub key: NodePublic,
    pub source: IpAddr,
}

/// Why a connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("it sent a frame that cannot be: {0}")]
    Frame(#[from] FrameError),
    #[error("it could not prove that it holds its key")]
    Forged,
    #[error("it spoke before it was let in, or as only relays may")]
    OutOfTurn,
    #[error("it is not allowed to use this relay")]
    Refused,
    #[error("it did not log in within {} s", LOGIN.as_secs())]
    TooSlow,
    #[error("there is no such connection")]
    Unknown,
}

/// A login that is not done by then never will be.
const LOGIN: Duration = Duration::from_secs(10);
/// Something is sent at least this often; clients give up after twice as long.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Spread, so that a restart does not make all clients' timers beat together.
const KEEP_ALIVE_JITTER: Duration = Duration::from_secs(5);
/// "Not here" answers to one sender: one a second, three at once.
const NOT_HERE_BURST: u32 = 3;
const NOT_HERE_EVERY: Duration = Duration::from_secs(1);
/// Peers whose leaving one connection is told of.
const MAX_WATCHED: usize = 4096;
/// Notices that may wait for one connection.
const MAX_NOTICES: usize = 1024;

enum State {
    AwaitingInfo,
    AwaitingVerdict(NodePublic),
    Admitted(NodePublic),
}

struct Conn {
    source: IpAddr,
    state: State,
    reader: FrameReader,
    control: Vec<u8>,
    notices: VecDeque<(NodePublic, GoneReason)>,
    queues: Queues,
    pong: Option<[u8; 8]>,
    is_home: bool,
    deadline: Instant,
    keep_alive_every: Duration,
    /// Peers that sent to this one, to be told of when they leave.
    senders: BTreeSet<NodePublic>,
    not_here_tokens: u32,
    not_here_at: Instant,
}

/// The relay.
pub struct Server {
    secret: RelaySecret,
    random: Random,
    conns: BTreeMap<ConnId, Conn>,
    keys: KeyTable,
    next: u64,
    requests: VecDeque<AdmitRequest>,
    ready: BTreeSet<ConnId>,
    closed: VecDeque<(ConnId, CloseReason)>,
    deadlines: BTreeSet<(Instant, ConnId)>,
    counters: Counters,
}

impl Server {
    pub fn new(secret: RelaySecret, random: Random) -> Self {
        Server {
            secret,
            random,
            conns: BTreeMap::new(),
            keys: KeyTable::default(),
            next: 1,
            requests: VecDeque::new(),
            ready: BTreeSet::new(),
            closed: VecDeque::new(),
            deadlines: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    pub fn public(&self) -> RelayPublic {
        self.secret.public()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections that were let in.
    pub fn admitted(&self) -> usize {
        self.keys.connections()
    }

    pub fn is_connected(&self, key: &NodePublic) -> bool {
        self.keys.active(key).is_some()
    }

    /// A stream was accepted and upgraded; the relay's key goes out first.
    pub fn connect(&mut self, source: IpAddr, now: Instant) -> ConnId {
        let id = ConnId(self.next);
        self.next += 1;
        let mut control = Vec::new();
        Frame::ServerKey(self.secret.public()).encode(&mut control);
        let keep_alive_every = KEEP_ALIVE + self.random.range_duration(Duration::ZERO, KEEP_ALIVE_JITTER);
        let conn = Conn {
            source,
            state: State::AwaitingInfo,
            reader: FrameReader::default(),
            control,
            notices: VecDeque::new(),
            queues: Queues::default(),
            pong: None,
            is_home: false,
            deadline: now + LOGIN,
            keep_alive_every,
            senders: BTreeSet::new(),
            not_here_tokens: NOT_HERE_BURST,
            not_here_at: now,
        };
        self.deadlines.insert((conn.deadline, id));
        self.conns.insert(id, conn);
        self.ready.insert(id);
        self.counters.accepted += 1;
        id
    }

    /// Bytes came. A reason to close says that the connection is forgotten already: close the stream.
    ///
    /// # Errors
    /// [`CloseReason`].
    pub fn handle_bytes(&mut self, id: ConnId, bytes: &[u8], now: Instant) -> Result<(), CloseReason> {
        let Some(conn) = self.conns.get_mut(&id) else { return Err(CloseReason::Unknown) };
        let mut reader = std::mem::take(&mut conn.reader);
        let done = reader.push(bytes, |frame| self.frame(id, frame, now));
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.reader = reader;
        }
        done.inspect_err(|_| self.disconnect(id))
    }

    /// The next node that asks to be let in.
    pub fn poll_request(&mut self) -> Option<AdmitRequest> {
        self.requests.pop_front()
    }

    /// The answer to an [`AdmitRequest`]. A refused connection is forgotten; the shell closes its stream.
    pub fn admit(&mut self, id: ConnId, allowed: bool, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let State::AwaitingVerdict(key) = conn.state else { return };
        let shared = SharedBox::relay_server(&self.secret, &key);
        let (true, Some(shared)) = (allowed, shared) else {
            self.counters.refused += 1;
            self.closed.push_back((id, CloseReason::Refused));
            self.disconnect(id);
            return;
        };
        let info = format!("{{\"version\":{VERSION}}}");
        let sealed = shared.seal_with_nonce(&mut self.random, info.as_bytes());
        Frame::ServerInfo { sealed: &sealed }.encode(&mut conn.control);
        conn.state = State::Admitted(key);
        self.deadlines.remove(&(conn.deadline, id));
        conn.deadline = now + conn.keep_alive_every;
        self.deadlines.insert((conn.deadline, id));
        self.keys.add(key, id);
        self.ready.insert(id);
    }

    /// A connection that has something to send; named once until it has been emptied.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_first()
    }

    /// A connection that the relay itself gave up.
    pub fn poll_closed(&mut self) -> Option<(ConnId, CloseReason)> {
        self.closed.pop_front()
    }

    /// The next bytes for this connection, one frame or a few. The shell may fall behind: what waits is bounded.
    pub fn poll_transmit(&mut self, id: ConnId) -> Option<Vec<u8>> {
        let conn = self.conns.get_mut(&id)?;
        let mut out = std::mem::take(&mut conn.control);
        if let Some((key, reason)) = conn.notices.pop_front() {
            Frame::PeerGone { key, reason }.encode(&mut out);
        }
        if let Some(data) = conn.pong.take() {
            Frame::Pong(data).encode(&mut out);
        }
        let State::Admitted(own) = conn.state else { return (!out.is_empty()).then_some(out) };
        if let Some(waiting) = conn.queues.pop() {
            let from = waiting.key;
            Frame::RecvPacket { from, packet: &waiting.packet }.encode(&mut out);
            self.counters.forwarded(&waiting.packet);
            // The first packet that a peer gets from us makes our leaving worth telling it.
            if conn.senders.len() < MAX_WATCHED && conn.senders.insert(from) {
                self.keys.watch(from, own);
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// The stream ended, or the shell closed it.
    pub fn disconnect(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else { return };
        self.deadlines.remove(&(conn.deadline, id));
        self.ready.remove(&id);
        self.requests.retain(|request| request.conn != id);
        self.counters.dropped_by(DropReason::GoneDisconnected, conn.queues.len());
        let State::Admitted(key) = conn.state else { return };
        if !self.keys.remove(&key, id) {
            return;
        }
        for sender in &conn.senders {
            self.keys.unwatch(sender, &key);
        }
        for watcher in self.keys.take_watchers(&key) {
            self.notify(&watcher, key, GoneReason::Disconnected);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_first();
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if !matches!(conn.state, State::Admitted(_)) {
                self.closed.push_back((id, CloseReason::TooSlow));
                self.disconnect(id);
                continue;
            }
            // Whatever waits to be sent keeps the client alive as well.
            if conn.control.is_empty() && conn.queues.is_empty() {
                Frame::KeepAlive.encode(&mut conn.control);
            }
            conn.deadline = now + conn.keep_alive_every;
            self.deadlines.insert((conn.deadline, id));
            self.ready.insert(id);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn frame(&mut self, id: ConnId, frame: Frame<'_>, now: Instant) -> Result<(), CloseReason> {
        let Some(conn) = self.conns.get_mut(&id) else { return Err(CloseReason::Unknown) };
        let key = match (&conn.state, frame) {
            (State::AwaitingInfo, Frame::ClientInfo { key, sealed }) => return self.login(id, key, sealed),
            (State::Admitted(key), _) => *key,
            // Clients may send right behind their login; until the verdict is there nothing of it counts.
            (State::AwaitingVerdict(_), Frame::NotePreferred(home)) => {
                conn.is_home = home;
                return Ok(());
            }
            (State::AwaitingVerdict(_), Frame::SendPacket { .. } | Frame::Ping(_)) => {
                self.counters.dropped_by(DropReason::BeforeAdmission, 1);
                return Ok(());
            }
            _ => return Err(CloseReason::OutOfTurn),
        };
        match frame {
            Frame::SendPacket { to, packet } => self.relay(id, key, to, packet, now),
            Frame::NotePreferred(home) => conn.is_home = home,
            Frame::Ping(data) => {
                // One answer waits; more pings than that are nobody's need.
                if conn.pong.is_none() {
                    conn.pong = Some(data);
                    self.ready.insert(id);
                }
            }
            Frame::Mesh => return Err(CloseReason::OutOfTurn),
            _ => {}
        }
        self.keys.heard(&key, id);
        Ok(())
    }

    fn login(&mut self, id: ConnId, key: NodePublic, sealed: &[u8]) -> Result<(), CloseReason> {
        #[derive(Deserialize)]
        struct ClientInfo {}
        let shared = SharedBox::relay_server(&self.secret, &key).ok_or(CloseReason::Forged)?;
        let plain = shared.open(sealed).ok_or(CloseReason::Forged)?;
        // Nothing in it is needed today, but it must be the JSON object that a client sends.
        serde_json::from_slice::<ClientInfo>(&plain).map_err(|_| CloseReason::Forged)?;
        let Some(conn) = self.conns.get_mut(&id) else { return Err(CloseReason::Unknown) };
        conn.state = State::AwaitingVerdict(key);
        self.requests.push_back(AdmitRequest { conn: id, key, source: conn.source });
        Ok(())
    }

    fn relay(&mut self, from_id: ConnId, from: NodePublic, to: NodePublic, packet: &[u8], now: Instant) {
        if packet.len() > MAX_PACKET_BYTES {
            return self.counters.dropped_by(DropReason::TooLarge, 1);
        }
        let Some(target) = self.keys.active(&to) else {
            self.counters.dropped_by(DropReason::UnknownDestination, 1);
            if looks_like_disco(packet) {
                self.not_here(from_id, to, now);
            }
            return;
        };
        if let Some(conn) = self.conns.get_mut(&target) {
            if conn.queues.push(from, packet).is_some() {
                self.counters.dropped_by(DropReason::QueueHead, 1);
            }
            self.ready.insert(target);
        }
    }

    fn not_here(&mut self, id: ConnId, missing: NodePublic, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let earned = now.saturating_duration_since(conn.not_here_at).as_secs() / NOT_HERE_EVERY.as_secs();
        if earned > 0 {
            conn.not_here_at = now;
            conn.not_here_tokens = conn.not_here_tokens.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(NOT_HERE_BURST);
        }
        if conn.not_here_tokens == 0 || conn.notices.len() >= MAX_NOTICES {
            return;
        }
        conn.not_here_tokens -= 1;
        conn.notices.push_back((missing, GoneReason::NotHere));
        self.ready.insert(id);
    }

    fn notify(&mut self, watcher: &NodePublic, gone: NodePublic, reason: GoneReason) {
        let Some(id) = self.keys.active(watcher) else { return };
        if let Some(conn) = self.conns.get_mut(&id)
            && conn.notices.len() < MAX_NOTICES
        {
            conn.senders.remove(&gone);
            conn.notices.push_back((gone, reason));
            self.ready.insert(id);
        }
    }
}
