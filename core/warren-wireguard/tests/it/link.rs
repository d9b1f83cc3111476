//! One side of a tunnel: ours, behind the same face as other people's.

use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, NodeSecret, Random, UnixTime};
use warren_wireguard::message::OVERHEAD;
use warren_wireguard::transport::padded_len;
use warren_wireguard::{Event, Kind, NoKeys, Source, Staging, WireGuard, kind};

/// A tunnel end that takes packets and datagrams, one peer only.
pub trait End {
    /// A packet for the peer; what leaves for it.
    fn send(&mut self, packet: &[u8], now: Instant) -> Vec<Vec<u8>>;
    /// A datagram from the peer; what leaves for the answer, and the packets that came out.
    fn receive(&mut self, datagram: &[u8], now: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>);
    /// New keys now, if the implementation can be told so.
    fn rekey(&mut self, now: Instant) -> Vec<Vec<u8>>;
}

/// An arbitrary instant to count from; the one look at a clock here.
#[allow(clippy::disallowed_methods)]
pub fn start() -> Instant {
    Instant::now()
}

pub const WALL: u64 = 1_790_000_000;
const MTU: usize = 1420;

pub fn address(last: u8) -> Source {
    Source::Address(([192, 0, 2, last], 41641).into())
}

/// Our end.
pub struct Ours {
    pub wireguard: WireGuard,
    pub peer: NodePublic,
    pub staging: Staging<Vec<u8>>,
    pub events: Vec<Event>,
    /// Where datagrams seem to come from.
    pub source: Source,
}

impl Ours {
    pub fn new(secret: &NodeSecret, peer: NodePublic, seed: u8, now: Instant) -> Self {
        Self::at(secret, peer, seed, now, UnixTime::from_secs(WALL))
    }

    pub fn at(secret: &NodeSecret, peer: NodePublic, seed: u8, now: Instant, wall: UnixTime) -> Self {
        let mut wireguard = WireGuard::new(secret.clone(), Random::from_seed([seed; 32]), now, wall);
        wireguard.add_peer(peer);
        Self { wireguard, peer, staging: Staging::new(64, 1 << 20), events: Vec::new(), source: address(seed) }
    }

    pub fn seal(&mut self, packet: &[u8], now: Instant) -> Result<Vec<u8>, NoKeys> {
        let reserved = self.wireguard.reserve(&self.peer, 1, now)?;
        let mut message = vec![0; padded_len(packet.len(), MTU) + OVERHEAD];
        message[16..16 + packet.len()].copy_from_slice(packet);
        reserved.key.seal(reserved.counters.start, &mut message);
        Ok(message)
    }

    /// Everything that wants to leave, staged packets included.
    pub fn drain(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> =
            std::iter::from_fn(|| self.wireguard.poll_transmit()).map(|sent| sent.bytes).collect();
        while let Some(event) = self.wireguard.poll_event() {
            self.events.push(event);
            match event {
                Event::Established { .. } => {
                    for packet in self.staging.drain() {
                        out.extend(self.seal(&packet, now));
                    }
                }
                Event::GaveUp { .. } => drop(self.staging.drain()),
                Event::Erased { .. } => {}
            }
        }
        out
    }

    /// Lets time pass to `until`, doing what falls due on the way; what leaves, and when.
    pub fn pass(&mut self, until: Instant) -> Vec<(Instant, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some(at) = self.wireguard.poll_timeout().filter(|at| *at <= until) {
            self.wireguard.handle_timeout(at);
            out.extend(self.drain(at).into_iter().map(|bytes| (at, bytes)));
        }
        out
    }
}

impl End for Ours {
    fn send(&mut self, packet: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        match self.seal(packet, now) {
            Ok(message) => out.push(message),
            Err(NoKeys::Handshaking) => drop(self.staging.push(packet.to_vec(), packet.len())),
            Err(other) => panic!("{other}"),
        }
        out.extend(self.drain(now));
        out
    }

    fn receive(&mut self, datagram: &[u8], now: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut packets = Vec::new();
        let mut out = Vec::new();
        match kind(datagram) {
            Some(Kind::Handshake) => {
                if let Ok(answer) = self.wireguard.handle_handshake(datagram, self.source, now) {
                    out.extend(answer.reply);
                }
            }
            Some(Kind::Transport { receiver, .. }) => {
                let mut message = datagram.to_vec();
                let opened = self.wireguard.inbound_key(receiver, now).and_then(|key| key.key.open(&mut message).ok());
                if let Some(opened) = opened
                    && self.wireguard.receiving(receiver).is_some_and(|mut window| window.accept(opened.counter))
                {
                    self.wireguard.heard(receiver, opened.len > 0, now);
                    if opened.len > 0 {
                        packets.push(message[16..16 + opened.len].to_vec());
                    }
                }
            }
            None => {}
        }
        out.extend(self.drain(now));
        (out, packets)
    }

    fn rekey(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.wireguard.initiate(&self.peer, now);
        let mut out = self.drain(now);
        // Not sooner than five seconds after the last: the timer sends it then.
        if out.is_empty() {
            out.extend(self.pass(now + Duration::from_secs(6)).into_iter().map(|(_, bytes)| bytes));
        }
        out
    }
}

/// Carries datagrams back and forth until nothing is under way; what each end unpacked.
pub fn settle(a: &mut dyn End, b: &mut dyn End, from_a: Vec<Vec<u8>>, now: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut to_b, mut to_a) = (from_a, Vec::new());
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for _ in 0..64 {
        if to_a.is_empty() && to_b.is_empty() {
            return (at_a, at_b);
        }
        for datagram in std::mem::take(&mut to_b) {
            let (out, packets) = b.receive(&datagram, now);
            to_a.extend(out);
            at_b.extend(packets);
        }
        for datagram in std::mem::take(&mut to_a) {
            let (out, packets) = a.receive(&datagram, now);
            to_b.extend(out);
            at_a.extend(packets);
        }
    }
    panic!("the two ends never come to rest");
}

/// An IPv4 packet with a true length, as implementations that look at it want; 10.0.0.1 to 10.0.0.2, protocol 253.
pub fn packet(number: u32, len: usize) -> Vec<u8> {
    assert!(len >= 24);
    let mut bytes = vec![0x5a; len];
    bytes[..20].fill(0);
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&u16::try_from(len).expect("length").to_be_bytes());
    bytes[8] = 64;
    bytes[9] = 253;
    bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
    bytes[16..20].copy_from_slice(&[10, 0, 0, 2]);
    bytes[20..24].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The number in a packet, whatever padding follows it.
pub fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().expect("four bytes"))
}
