//! One connection to a relay, the node's side: bytes of the stream in, events out; packets in, bytes of the stream out.
//!
//! ```text
//! AwaitingKey --ServerKey--> AwaitingInfo --ServerInfo--> Connected
//!      any --bad bytes, 10 s without login, 120 s of silence--> error: the owner drops the connection
//! ```
//!
//! Packets may leave as soon as the client info has (the relay reads in order). Dialling, TLS and reconnecting are the owner's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, NodeSecret, Random, RelayPublic, SharedBox};

use crate::frame::{self, Decoder, GoneReason, TooLong, Treatment};
use crate::login::{self, ClientInfo, LoginError, ServerInfo};
use crate::queue::{Kind, PacketQueues};

/// Login included, a relay answers within this or is of no use.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Two keepalive intervals of the relay.
const SILENCE: Duration = Duration::from_secs(120);
/// Packets that wait for the socket: one whole segmented burst of a data plane fits.
const QUEUE_DEPTH: usize = 64;
/// Answers to pings that wait; a relay that asks more often is answered less often.
const PONGS: usize = 4;
/// Longest health text that is kept.
const MAX_HEALTH_BYTES: usize = 1024;

/// What a relay told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Logged in.
    Connected {
        relay: RelayPublic,
    },
    Packet {
        src: NodePublic,
        bytes: Vec<u8>,
    },
    PeerGone {
        key: NodePublic,
        reason: GoneReason,
    },
    /// A problem in the relay's words, or that there is none any more (empty).
    Health(String),
    /// The relay will restart: come back after the first, keep trying for the second.
    Restarting {
        reconnect_in: Duration,
        try_for: Duration,
    },
}

/// The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the relay sent {0}")]
    Frame(#[from] TooLong),
    #[error("the relay did not begin with its key")]
    ServerKey,
    #[error("the relay's login: {0}")]
    Login(#[from] LoginError),
    #[error("the relay said nothing for too long")]
    Silent,
}

enum State {
    AwaitingKey,
    AwaitingInfo { relay: RelayPublic, shared: SharedBox },
    Connected,
}

/// One connection's life; make a new one for a new connection.
pub struct Client {
    secret: NodeSecret,
    random: Random,
    state: State,
    decoder: Decoder,
    deadline: Instant,
    is_home: bool,
    /// What the relay was last told about `is_home`; a relay assumes `false`.
    told_home: bool,
    control: VecDeque<Vec<u8>>,
    pongs: VecDeque<[u8; 8]>,
    packets: PacketQueues,
    allowance: Option<Allowance>,
    events: VecDeque<Event>,
    counters: ClientCounters,
}

/// What became of packets on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    pub sent: u64,
    pub received: u64,
    /// The socket was too slow.
    pub dropped_queue: u64,
    /// The relay asked us to send less.
    pub dropped_rate: u64,
    /// Longer than a relay carries.
    pub dropped_size: u64,
}

impl Client {
    /// A connection that begins now; `is_home`: this relay is where peers find us.
    pub fn new(secret: NodeSecret, is_home: bool, random: Random, now: Instant) -> Self {
        Self {
            secret,
            random,
            state: State::AwaitingKey,
            decoder: Decoder::new(treat),
            deadline: now + LOGIN_WITHIN,
            is_home,
            told_home: false,
            control: VecDeque::new(),
            pongs: VecDeque::new(),
            packets: PacketQueues::new(QUEUE_DEPTH),
            allowance: None,
            events: VecDeque::new(),
            counters: ClientCounters::default(),
        }
    }

    /// Bytes came from the relay. Events follow.
    ///
    /// # Errors
    /// [`ClientError`]: drop the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<(), ClientError> {
        self.decoder.push(bytes);
        // Taken out so that a payload may be borrowed while the rest of the client changes.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(treat));
        let result = loop {
            match decoder.next_frame() {
                Ok(Some((kind, payload))) => {
                    if let Err(error) = self.handle_frame(kind, payload, now) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.decoder = decoder;
        result
    }

    /// # Errors
    /// [`ClientError::Silent`]: drop the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ClientError> {
        if now >= self.deadline { Err(ClientError::Silent) } else { Ok(()) }
    }

    /// Queues a packet for a peer; the oldest of its kind makes room.
    pub fn send(&mut self, to: NodePublic, packet: &[u8], now: Instant) {
        if packet.len() > frame::MAX_PACKET_BYTES {
            self.counters.dropped_size += 1;
            return;
        }
        let cost = frame::HEADER_BYTES + frame::KEY_BYTES + packet.len();
        if self.allowance.as_mut().is_some_and(|allowance| !allowance.take(cost, now)) {
            self.counters.dropped_rate += 1;
            return;
        }
        if self.packets.push(Kind::of(packet), frame::encode_send_packet(&to, packet)).is_some() {
            self.counters.dropped_queue += 1;
        }
    }

    /// Whether this relay is our home. Said to the relay when it changes.
    pub fn note_preferred(&mut self, is_home: bool) {
        self.is_home = is_home;
        if !matches!(self.state, State::AwaitingKey) {
            self.tell_home();
        }
    }

    /// The next bytes to write: one whole frame.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        if let Some(data) = self.pongs.pop_front() {
            return Some(frame::encode(frame::PONG, &[&data]));
        }
        if matches!(self.state, State::AwaitingKey) {
            return None;
        }
        let (_, packet) = self.packets.pop()?;
        self.counters.sent += 1;
        Some(packet)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Client::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected)
    }

    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    fn handle_frame(&mut self, kind: u8, payload: &[u8], now: Instant) -> Result<(), ClientError> {
        match &self.state {
            State::AwaitingKey if kind != frame::SERVER_KEY => Err(ClientError::ServerKey),
            State::AwaitingKey => self.log_in(payload),
            State::AwaitingInfo { shared, relay } if kind == frame::SERVER_INFO => {
                let info = login::decode_server_info(shared, payload)?;
                let relay = *relay;
                self.state = State::Connected;
                self.deadline = now + SILENCE;
                self.allowance = Allowance::new(&info, now);
                self.events.push_back(Event::Connected { relay });
                Ok(())
            }
            State::AwaitingInfo { .. } => Ok(()),
            State::Connected => {
                self.deadline = now + SILENCE;
                self.handle_connected(kind, payload);
                Ok(())
            }
        }
    }

    fn log_in(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        let relay = frame::decode_server_key(payload).ok_or(ClientError::ServerKey)?;
        let info = ClientInfo { version: login::PROTOCOL_VERSION, can_ack_pings: true, is_prober: false };
        let (frame, shared) = login::encode_client_info(&self.secret, &relay, &info, &mut self.random)?;
        self.control.push_front(frame);
        self.state = State::AwaitingInfo { relay, shared };
        self.tell_home();
        Ok(())
    }

    fn tell_home(&mut self) {
        if self.is_home != self.told_home {
            self.told_home = self.is_home;
            self.control.push_back(frame::encode_note_preferred(self.is_home));
        }
    }

    /// Frames shorter than their kind needs say nothing and are passed over, as stock clients do.
    fn handle_connected(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            frame::RECV_PACKET => {
                if let Some((src, packet)) = frame::split_key(payload) {
                    self.counters.received += 1;
                    self.events.push_back(Event::Packet { src, bytes: packet.to_vec() });
                }
            }
            frame::PEER_GONE => {
                if let Some((key, reason)) = frame::decode_peer_gone(payload) {
                    self.events.push_back(Event::PeerGone { key, reason });
                }
            }
            frame::PING => {
                if let (Some(data), true) = (payload.first_chunk::<8>(), self.pongs.len() < PONGS) {
                    self.pongs.push_back(*data);
                }
            }
            frame::HEALTH => {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(MAX_HEALTH_BYTES)]);
                self.events.push_back(Event::Health(text.chars().filter(|c| !c.is_control()).collect()));
            }
            frame::RESTARTING => {
                if let Some((first, rest)) = payload.split_first_chunk::<4>()
                    && let Some(second) = rest.first_chunk::<4>()
                {
                    let time = |bytes: &[u8; 4]| Duration::from_millis(u32::from_be_bytes(*bytes).into());
                    self.events.push_back(Event::Restarting { reconnect_in: time(first), try_for: time(second) });
                }
            }
            // A keepalive did its work by arriving. A second server key is what fast starts look like.
            _ => {}
        }
    }
}

/// A kind that is not listed is of a later version of the protocol.
fn treat(kind: u8) -> Treatment {
    match kind {
        frame::SERVER_KEY => Treatment::Read { most: 1024 },
        frame::SERVER_INFO => Treatment::Read { most: login::MAX_SERVER_INFO_BYTES },
        frame::RECV_PACKET | frame::PEER_GONE | frame::PING | frame::HEALTH | frame::RESTARTING => {
            Treatment::Read { most: frame::MAX_CLIENT_FRAME_BYTES }
        }
        frame::KEEP_ALIVE => Treatment::Read { most: 1024 },
        _ => Treatment::Skip,
    }
}

/// The rate that the relay asked for.
struct Allowance {
    bytes_per_second: u64,
    burst_bytes: u64,
    bytes: u64,
    filled: Instant,
}

impl Allowance {
    fn new(info: &ServerInfo, now: Instant) -> Option<Self> {
        if info.bytes_per_second == 0 {
            return None;
        }
        let burst_bytes = info.burst_bytes.max(1);
        Some(Self { bytes_per_second: info.bytes_per_second, burst_bytes, bytes: burst_bytes, filled: now })
    }

    fn take(&mut self, cost: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = passed * u128::from(self.bytes_per_second) / 1_000_000_000;
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(u64::MAX);
            self.bytes = self.bytes.saturating_add(gained).min(self.burst_bytes);
            self.filled = now;
        }
        let enough = self.bytes >= cost as u64;
        if enough {
            self.bytes -= cost as u64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use warren_crypto::RelaySecret;

    // The only clock in these tests: where it starts does not matter.
    fn start() -> Instant {
        #[allow(clippy::disallowed_methods)]
        Instant::now()
    }

    fn client(now: Instant) -> Client {
        Client::new(NodeSecret::from_seed([1; 32]), false, Random::from_seed([2; 32]), now)
    }

    #[test]
    fn a_silent_relay_is_given_up_after_ten_seconds_of_login() {
        let now = start();
        let mut client = client(now);
        assert_eq!(client.poll_timeout(), Some(now + Duration::from_secs(10)));
        assert_eq!(client.handle_timeout(now + Duration::from_secs(9)), Ok(()));
        assert_eq!(client.handle_timeout(now + Duration::from_secs(10)), Err(ClientError::Silent));
    }

    #[test]
    fn nothing_leaves_before_the_relay_has_shown_its_key() {
        let now = start();
        let mut client = client(now);
        client.send(NodePublic::from_bytes([3; 32]), b"early", now);
        assert_eq!(client.poll_transmit(), None);
        let relay = RelaySecret::from_seed([4; 32]).public();
        client.handle_bytes(&frame::encode_server_key(&relay), now).unwrap();
        let kinds: Vec<u8> = std::iter::from_fn(|| client.poll_transmit()).map(|frame| frame[0]).collect();
        assert_eq!(kinds, [frame::CLIENT_INFO, frame::SEND_PACKET]);
    }

    #[test]
    fn a_stream_that_is_no_relay_is_refused_at_once() {
        let now = start();
        let keepalive = frame::encode(frame::KEEP_ALIVE, &[]);
        assert_eq!(client(now).handle_bytes(&keepalive, now), Err(ClientError::ServerKey));
        let wrong_magic = frame::encode(frame::SERVER_KEY, &[&[0; 40]]);
        assert_eq!(client(now).handle_bytes(&wrong_magic, now), Err(ClientError::ServerKey));
    }

    #[test]
    fn a_relay_that_asks_for_a_rate_is_obeyed() {
        let now = start();
        let info = ServerInfo { version: 2, bytes_per_second: 1000, burst_bytes: 100 };
        let mut allowance = Allowance::new(&info, now).unwrap();
        assert!(allowance.take(100, now));
        assert!(!allowance.take(50, now + Duration::from_millis(40)));
        assert!(allowance.take(50, now + Duration::from_millis(50)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_client_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), begun in any::<bool>()) {
            let now = start();
            let mut client = client(now);
            if begun {
                let relay = RelaySecret::from_seed([4; 32]).public();
                client.handle_bytes(&frame::encode_server_key(&relay), now).unwrap();
            }
            let _ = client.handle_bytes(&bytes, now);
        }
    }
}
