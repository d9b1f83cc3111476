//! Messages between nodes inside the tunnel: pings that a person asked for, their answers, disco keys, refusals.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, NodePublic, Random};
use warren_filter::Tsmp;
use warren_ip::{PacketView, Prefix, Protocol, build};
use warren_path::Hop;

use crate::counters::DropReason;
use crate::engine::{Engine, EngineEvent};

/// How long an answer is waited for: what stock nodes wait.
const WAIT: Duration = Duration::from_secs(10);
/// Pings under way at once; a person has few.
const MAX_PENDING: usize = 64;

/// What is asked of a peer inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerPing {
    /// The peer's node program answers, before its filter.
    Tsmp,
    /// The peer's host answers an echo request, if its filter lets it.
    Icmp,
}

/// One ping inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InnerPingId(pub u64);

/// Why a ping was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Nobody has this address, or its key has expired.
    #[error("no peer has this address")]
    NoPeer,
    /// This node has no address of that family.
    #[error("this node has no address of the same family")]
    NoOwnAddress,
    /// Too many are under way.
    #[error("too many pings are under way")]
    TooMany,
}

/// Pings under way.
pub(crate) struct Pings {
    random: Random,
    next: u64,
    pending: BTreeMap<InnerPingId, Pending>,
}

struct Pending {
    kind: InnerPing,
    token: [u8; 8],
    peer: NodePublic,
    sent: Instant,
}

impl Pings {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, next: 0, pending: BTreeMap::new() }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.values().map(|ping| ping.sent + WAIT).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, events: &mut VecDeque<EngineEvent>) {
        let late: Vec<InnerPingId> =
            self.pending.iter().filter(|(_, ping)| ping.sent + WAIT <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.pending.remove(&id);
            events.push_back(EngineEvent::InnerPingTimedOut { id });
        }
    }

    /// The ping that this answers, if it is that peer's.
    fn answered(&mut self, kind: InnerPing, token: &[u8], peer: &NodePublic) -> Option<(InnerPingId, Pending)> {
        let (id, _) = self
            .pending
            .iter()
            .find(|(_, ping)| ping.kind == kind && ping.peer == *peer && token.starts_with(&ping.token))?;
        let id = *id;
        self.pending.remove(&id).map(|ping| (id, ping))
    }
}

impl Engine {
    /// Pings the peer that has this address, inside the tunnel.
    ///
    /// # Errors
    /// [`PingError`]: nothing was sent.
    pub fn ping_inner(&mut self, kind: InnerPing, dst: IpAddr, now: Instant) -> Result<InnerPingId, PingError> {
        let peer = self
            .peer_for(dst)
            .filter(|peer| self.peers.get(peer).is_some_and(|state| !state.config.expired))
            .ok_or(PingError::NoPeer)?;
        let src = self.own_addr_like(dst).ok_or(PingError::NoOwnAddress)?;
        if self.pings.pending.len() >= MAX_PENDING {
            return Err(PingError::TooMany);
        }
        let token = self.pings.random.bytes::<8>();
        let packet = match kind {
            InnerPing::Tsmp => Tsmp::Ping(token).packet(src, dst),
            // The token is what the answer is known by; identifier and sequence are the host's to choose as well.
            InnerPing::Icmp => build::echo_request(src, dst, u16::from_be_bytes([token[0], token[1]]), 1, &token),
        }
        .ok_or(PingError::NoOwnAddress)?;
        let id = InnerPingId(self.pings.next);
        self.pings.next += 1;
        self.pings.pending.insert(id, Pending { kind, token, peer, sent: now });
        self.inject_outbound(packet, now);
        Ok(id)
    }

    /// Takes packets that are meant for this program, not for the host. `Ok(false)`: not such a packet.
    pub(crate) fn take_message(
        &mut self,
        peer: NodePublic,
        from: Hop,
        packet: &PacketView<'_>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        match packet.protocol() {
            Protocol::TSMP => {
                let message = Tsmp::parse(packet.transport_message()).ok_or(DropReason::UnknownTsmp)?;
                self.take_tsmp(peer, from, packet, message, now);
                Ok(true)
            }
            Protocol::ICMP | Protocol::ICMPV6 if !self.pings.pending.is_empty() && packet.echo_reply().is_some() => {
                // Behind type, code, checksum, identifier and sequence.
                let payload = packet.transport_message().get(8..).unwrap_or_default();
                Ok(self.take_pong(InnerPing::Icmp, payload, peer, from, now))
            }
            _ => Ok(false),
        }
    }

    /// Says this node's disco key inside a fresh session, so that a peer finds us by it even if the control server is
    /// away and we began with a new one. The stock node does the same (data-plane.md §5.2, "first packet of a session").
    pub(crate) fn say_disco_key(&mut self, peer: NodePublic, now: Instant) {
        let Some(state) = self.peers.get(&peer).filter(|state| state.config.takes_disco_key) else { return };
        let theirs = state.config.allowed.iter().filter(|prefix| prefix.is_host()).map(Prefix::addr);
        let addrs = theirs.into_iter().find_map(|dst| Some((self.own_addr_like(dst)?, dst)));
        let packet = addrs.and_then(|(src, dst)| Tsmp::DiscoKey(*self.disco_public.as_bytes()).packet(src, dst));
        if let Some(packet) = packet {
            self.seal_now(peer, warren_ip::offload::Super::packet(packet), now);
        }
    }

    fn take_tsmp(&mut self, peer: NodePublic, from: Hop, packet: &PacketView<'_>, message: Tsmp, now: Instant) {
        match message {
            Tsmp::Ping(data) if self.config.self_addrs.contains(&packet.dst()) => {
                let pong = Tsmp::Pong { data, peer_api_port: 0 };
                if let Some(answer) = pong.packet(packet.dst(), packet.src()) {
                    self.seal_now(peer, warren_ip::offload::Super::packet(answer), now);
                }
            }
            Tsmp::Ping(_) => {}
            Tsmp::Pong { data, .. } => {
                self.take_pong(InnerPing::Tsmp, &data, peer, from, now);
            }
            Tsmp::DiscoKey(key) => {
                let key = DiscoPublic::from_bytes(key);
                self.paths.disco_advertised(&peer, key, now);
                self.events.push_back(EngineEvent::DiscoKeySaid { peer, key });
            }
            Tsmp::Rejected { dst_port, is_tentative: false, .. } => {
                self.events.push_back(EngineEvent::ConnectionRefused { peer, addr: packet.src(), port: dst_port });
            }
            Tsmp::Rejected { .. } => {}
        }
    }

    fn take_pong(&mut self, kind: InnerPing, token: &[u8], peer: NodePublic, from: Hop, now: Instant) -> bool {
        let Some((id, ping)) = self.pings.answered(kind, token, &peer) else { return false };
        let latency = now.saturating_duration_since(ping.sent);
        self.events.push_back(EngineEvent::InnerPong { id, kind, peer, hop: from, latency });
        true
    }

    fn own_addr_like(&self, dst: IpAddr) -> Option<IpAddr> {
        self.config.self_addrs.iter().find(|own| own.is_ipv4() == dst.is_ipv4()).copied()
    }
}
