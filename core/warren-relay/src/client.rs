//! A node's side of one relay connection.
//!
//! ```text
//! AwaitingKey ──ServerKey──▶ AwaitingInfo ──ServerInfo──▶ Connected
//!      └───────────── anything wrong, 120 s of silence ───────────▶ dead (the caller dials again)
//! ```

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_crypto::{NodePublic, NodeSecret, Random, RelayPublic, SharedBox};

use crate::frame::{Frame, FrameError, FrameReader, GoneReason, MAX_PACKET_BYTES, VERSION};
use crate::queue::Queues;

/// A relay sends something at least every 65 s; twice that without a frame, and the connection is dead.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(10);

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the relay sent a frame that cannot be: {0}")]
    Frame(#[from] FrameError),
    #[error("the relay's key is no key")]
    Key,
    #[error("the relay could not prove that it holds its key")]
    Forged,
    #[error("the relay answered the login with something that is not JSON")]
    Info,
    #[error("nothing came from the relay for {} s", .0.as_secs())]
    Silent(Duration),
}

/// What a relay tells its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The relay has let us in.
    Connected,
    Packet { from: NodePublic, bytes: Vec<u8> },
    PeerGone { key: NodePublic, reason: GoneReason },
    /// A problem of the relay; empty when it is over.
    Health(String),
    Restarting { reconnect_in: Duration, try_for: Duration },
    /// The answer to [`Client::ping`].
    Pong([u8; 8]),
}

#[derive(Serialize)]
struct ClientInfo {
    version: i64,
    #[serde(rename = "CanAckPings")]
    can_ack_pings: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ServerInfo {
    #[serde(rename = "TokenBucketBytesPerSecond")]
    bytes_per_second: u64,
    #[serde(rename = "TokenBucketBytesBurst")]
    burst_bytes: u64,
}

enum State {
    AwaitingKey,
    AwaitingInfo(SharedBox),
    Connected,
    Dead(ClientError),
}

/// One connection. Feed it what comes, send what it gives, and ask it for events.
pub struct Client {
    secret: NodeSecret,
    random: Random,
    state: State,
    reader: FrameReader,
    relay: Option<RelayPublic>,
    is_home: bool,
    control: Vec<u8>,
    queues: Queues,
    events: std::collections::VecDeque<Event>,
    deadline: Instant,
    limit: Option<Bucket>,
    dropped: u64,
}

impl Client {
    /// `is_home`: peers will look for us at this relay.
    pub fn new(secret: NodeSecret, is_home: bool, random: Random, now: Instant) -> Self {
        Client {
            secret,
            random,
            state: State::AwaitingKey,
            reader: FrameReader::default(),
            relay: None,
            is_home,
            control: Vec::new(),
            queues: Queues::default(),
            events: std::collections::VecDeque::new(),
            deadline: now + LOGIN,
            limit: None,
            dropped: 0,
        }
    }

    /// # Errors
    /// [`ClientError`]: close the connection and dial again later.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<(), ClientError> {
        if let State::Dead(error) = &self.state {
            return Err(error.clone());
        }
        let mut reader = std::mem::take(&mut self.reader);
        let done = reader.push(bytes, |frame| self.frame(frame, now));
        self.reader = reader;
        done.inspect_err(|error| self.state = State::Dead(error.clone()))
    }

    /// # Errors
    /// [`ClientError::Silent`] when the relay has said nothing for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ClientError> {
        if now < self.deadline {
            return Ok(());
        }
        let error = ClientError::Silent(if matches!(self.state, State::Connected) { SILENCE } else { LOGIN });
        self.state = State::Dead(error.clone());
        Err(error)
    }

    pub fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// Queues a packet for a peer; the oldest waiting one goes if there is no room. Larger ones than a relay carries are
    /// dropped and counted.
    pub fn send(&mut self, to: NodePublic, packet: &[u8], now: Instant) {
        let too_large = packet.len() > MAX_PACKET_BYTES;
        let over_limit = self.limit.as_mut().is_some_and(|bucket| !bucket.take(packet.len(), now));
        if too_large || over_limit || self.queues.push(to, packet).is_some() {
            self.dropped += 1;
        }
    }

    /// Tells the relay whether it is our home.
    pub fn note_preferred(&mut self, is_home: bool) {
        if self.is_home != is_home {
            self.is_home = is_home;
            if !matches!(self.state, State::AwaitingKey) {
                Frame::NotePreferred(is_home).encode(&mut self.control);
            }
        }
    }

    /// Asks the relay for an answer; see [`Event::Pong`].
    pub fn ping(&mut self, data: [u8; 8]) {
        Frame::Ping(data).encode(&mut self.control);
    }

    /// Bytes to send, in order; one frame or a few at a time.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if !self.control.is_empty() {
            return Some(std::mem::take(&mut self.control));
        }
        // Packets may leave right behind the login: a relay that refuses us just closes.
        if matches!(self.state, State::AwaitingKey | State::Dead(_)) {
            return None;
        }
        let waiting = self.queues.pop()?;
        let mut out = Vec::new();
        Frame::SendPacket { to: waiting.key, packet: &waiting.packet }.encode(&mut out);
        Some(out)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected)
    }

    /// The relay's own key, once it has said it.
    pub fn relay(&self) -> Option<RelayPublic> {
        self.relay
    }

    /// Packets that found no room, were too large, or exceeded the rate that the relay asked for.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn frame(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), ClientError> {
        match (&self.state, frame) {
            (State::AwaitingKey, Frame::ServerKey(relay)) => self.login(relay, now),
            // Before its key a relay has nothing to say.
            (State::AwaitingKey, _) => Ok(()),
            (State::AwaitingInfo(shared), Frame::ServerInfo { sealed }) => {
                let plain = shared.open(sealed).ok_or(ClientError::Forged)?;
                let info: ServerInfo = serde_json::from_slice(&plain).map_err(|_| ClientError::Info)?;
                self.limit = Bucket::new(&info, now);
                self.state = State::Connected;
                self.deadline = now + SILENCE;
                self.events.push_back(Event::Connected);
                Ok(())
            }
            (State::AwaitingInfo(_) | State::Connected, frame) => {
                self.deadline = now + SILENCE;
                self.told(frame);
                Ok(())
            }
            (State::Dead(error), _) => Err(error.clone()),
        }
    }

    fn login(&mut self, relay: RelayPublic, now: Instant) -> Result<(), ClientError> {
        let shared = SharedBox::relay_client(&self.secret, &relay).ok_or(ClientError::Key)?;
        let info = serde_json::to_vec(&ClientInfo { version: VERSION, can_ack_pings: true }).map_err(|_| ClientError::Info)?;
        let sealed = shared.seal_with_nonce(&mut self.random, &info);
        Frame::ClientInfo { key: self.secret.public(), sealed: &sealed }.encode(&mut self.control);
        if self.is_home {
            Frame::NotePreferred(true).encode(&mut self.control);
        }
        self.relay = Some(relay);
        self.state = State::AwaitingInfo(shared);
        self.deadline = now + LOGIN;
        Ok(())
    }

    fn told(&mut self, frame: Frame<'_>) {
        let event = match frame {
            Frame::RecvPacket { from, packet } => Event::Packet { from, bytes: packet.to_vec() },
            Frame::PeerGone { key, reason } => Event::PeerGone { key, reason },
            Frame::Health(text) => Event::Health(text.chars().filter(|c| !c.is_control()).take(200).collect()),
            Frame::Restarting { reconnect_in_ms, try_for_ms } => Event::Restarting {
                reconnect_in: Duration::from_millis(reconnect_in_ms.into()),
                try_for: Duration::from_millis(try_for_ms.into()),
            },
            Frame::Pong(data) => Event::Pong(data),
            Frame::Ping(data) => return Frame::Pong(data).encode(&mut self.control),
            _ => return,
        };
        self.events.push_back(event);
    }
}

/// The rate that a relay asks its clients to keep, as a token bucket over bytes of frames.
struct Bucket {
    bytes_per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(info: &ServerInfo, now: Instant) -> Option<Self> {
        if info.bytes_per_second == 0 || info.burst_bytes == 0 {
            return None;
        }
        let burst = info.burst_bytes as f64;
        Some(Bucket { bytes_per_second: info.bytes_per_second as f64, burst, tokens: burst, at: now })
    }

    fn take(&mut self, packet_bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.bytes_per_second).min(self.burst);
        let cost = (packet_bytes + crate::frame::HEADER_BYTES + crate::frame::KEY_BYTES) as f64;
        let fits = self.tokens >= cost;
        if fits {
            self.tokens -= cost;
        }
        fits
    }
}
