//! A datagram arrives.

use std::time::Instant;

use warren_crypto::{DiscoPublic, NodePublic};
use warren_filter::{Verdict, rejection_of};
use warren_ip::offload::Super;
use warren_ip::{PacketView, Protocol};
use warren_path::{Hop, Paths};
use warren_wireguard::{Kind, kind};

use crate::counters::DropReason;
use crate::engine::{Engine, Run, source_of};
use crate::jobs::{OpenJob, Opened, OpenedPacket, Part};

/// Received datagrams of equal size (the last may be shorter), as the kernel joins them: from one place, in one buffer.
#[derive(Debug)]
pub struct Burst {
    /// All of them, one after another.
    pub bytes: Vec<u8>,
    /// Size of each in bytes; 0 means that there is only one.
    pub segment: usize,
}

impl Engine {
    /// Sorts datagrams: probes and handshakes are dealt with here, data becomes a job.
    pub fn decide_inbound(&mut self, from: Hop, burst: Burst, now: Instant, jobs: &mut Vec<OpenJob>) {
        let Burst { bytes, segment } = burst;
        let segment = if segment == 0 { bytes.len() } else { segment };
        let mut parts: Vec<Part> = self.lists.parts.pop().unwrap_or_default();
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + segment).min(bytes.len());
            let datagram = &bytes[at..end];
            if Paths::is_probe(datagram) {
                self.paths.handle_probe(from, datagram, now);
            } else {
                match kind(datagram) {
                    Some(Kind::Transport { receiver, .. }) => self.sort_transport(receiver, at..end, now, &mut parts),
                    Some(Kind::Handshake) => self.take_handshake(from, datagram, now),
                    None => self.counters.drop(DropReason::NotAMessage, 1),
                }
            }
            at = end;
        }
        if parts.is_empty() {
            self.lists.parts.push(parts);
            self.pool.give(bytes);
        } else {
            let packets = self.lists.packets.pop().unwrap_or_default();
            jobs.push(OpenJob { from, bytes, segment, parts, packets });
        }
        self.pump(now);
    }

    /// Takes an opened job back, in the order of decisions per peer: what is new, honest and permitted is delivered.
    pub fn finish_opened(&mut self, opened: Opened, now: Instant) {
        let Opened { from, bytes, mut parts, mut packets, forged } = opened;
        self.counters.drop(DropReason::Forged, forged);
        let mut rest: &mut [OpenedPacket] = &mut packets;
        for part in parts.drain(..) {
            let (of_part, after) = rest.split_at_mut(part.opened);
            rest = after;
            let fresh = self.judge_counters(&part, of_part, from, now);
            self.deliver_fresh(part.peer, from, &bytes, &of_part[..fresh], now);
        }
        packets.clear();
        self.lists.parts.push(parts);
        self.lists.packets.push(packets);
        self.pool.give(bytes);
        self.pump(now);
    }

    fn sort_transport(&mut self, index: u32, range: std::ops::Range<usize>, now: Instant, parts: &mut Vec<Part>) {
        if let Some(last) = parts.last_mut().filter(|last| last.index == index && last.range.end == range.start) {
            last.range.end = range.end;
            return;
        }
        match self.wireguard.inbound_key(index, now) {
            Some(found) => parts.push(Part { range, index, peer: found.peer, key: found.key, opened: 0 }),
            None => self.counters.drop(DropReason::UnknownKeys, 1),
        }
    }

    fn take_handshake(&mut self, from: Hop, datagram: &[u8], now: Instant) {
        match self.wireguard.handle_handshake(datagram, source_of(&from), now) {
            Ok(answer) => {
                if let Some(bytes) = answer.reply {
                    self.push_run(Run { hop: from, segment: bytes.len(), bytes });
                }
                if let Some(peer) = answer.proven {
                    self.paths.heard_from(&peer, from, now);
                }
            }
            Err(_) => self.counters.drop(DropReason::BadHandshake, 1),
        }
    }

    /// Moves the packets with new counters to the front, in order, and says how many; tells the session and the paths.
    fn judge_counters(&mut self, part: &Part, packets: &mut [OpenedPacket], from: Hop, now: Instant) -> usize {
        let Some(mut receiving) = self.wireguard.receiving(part.index) else {
            self.counters.drop(DropReason::UnknownKeys, packets.len());
            return 0;
        };
        let (mut fresh, mut has_data) = (0, false);
        for place in 0..packets.len() {
            let packet = packets[place];
            if receiving.accept(packet.counter) {
                has_data |= packet.len > 0;
                packets[fresh] = packet;
                fresh += 1;
            }
        }
        self.counters.drop(DropReason::Replayed, packets.len() - fresh);
        if fresh > 0 {
            self.wireguard.heard(part.index, has_data, now);
            self.paths.heard_from(&part.peer, from, now);
            if let Some(state) = self.peers.get_mut(&part.peer) {
                state.stats.last_receive = Some(now);
            }
        }
        fresh
    }

    fn deliver_fresh(&mut self, peer: NodePublic, from: Hop, bytes: &[u8], packets: &[OpenedPacket], now: Instant) {
        let mut delivered_bytes = 0;
        for packet in packets.iter().filter(|packet| packet.len > 0) {
            match self.judge_packet(peer, from, &bytes[packet.at..packet.at + packet.len], now) {
                Ok(len) => delivered_bytes += len as u64,
                Err(reason) => self.counters.drop(reason, 1),
            }
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.stats.rx_bytes += delivered_bytes;
        }
    }

    /// One inner packet: whose is it, is it for us alone, may it in. Returns its length without padding.
    fn judge_packet(&mut self, peer: NodePublic, from: Hop, plain: &[u8], now: Instant) -> Result<usize, DropReason> {
        let view = PacketView::parse(plain).map_err(|_| DropReason::NotIp)?;
        if self.routes.lookup(view.src()) != Some(&peer) {
            return Err(DropReason::SourceNotOwnedByPeer);
        }
        let len = view.bytes().len();
        if self.take_message(peer, from, &view, now)? {
            return Ok(len);
        }
        if is_own_disco(&view, &self.disco_public) {
            return Err(DropReason::OwnDisco);
        }
        match self.guarded.inbound(&view, &self.local, now) {
            Verdict::Accept => {
                self.counters.packets_in += 1;
                self.counters.bytes_in += len as u64;
                self.deliver(&view);
                Ok(len)
            }
            Verdict::Drop(why) => {
                if let Some(refusal) = rejection_of(&view, why) {
                    self.seal_now(peer, Super::packet(refusal), now);
                }
                Err(DropReason::Filter)
            }
        }
    }

    fn deliver(&mut self, packet: &PacketView<'_>) {
        match &mut self.joiner {
            Some(joiner) => joiner.push_view(packet),
            None => {
                let mut buffer = self.pool.take();
                buffer.extend_from_slice(packet.bytes());
                self.deliveries.push_back(Super::packet(buffer));
            }
        }
    }
}

/// Whether this is a disco message of our own, inside the tunnel: probing through ourselves would find a path to ourselves.
pub(crate) fn is_own_disco(packet: &PacketView<'_>, own: &DiscoPublic) -> bool {
    packet.protocol() == Protocol::UDP
        && packet
            .payload()
            .strip_prefix(&warren_path::disco::MAGIC)
            .is_some_and(|rest| rest.starts_with(own.as_bytes()))
}
