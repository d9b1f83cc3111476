//! Packets in and out of the engine: UDP bursts and relayed ones on the underlay, TUN or user-space stack on the overlay.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::debug;
use warren_crypto::NodePublic;
use warren_engine::{Burst, Engine, OpenJob, Run, SealJob};
use warren_io::udp::{self, RunRef, Sent, Udp, UdpPair};
use warren_ip::offload::{Offload, Super};
use warren_netstack::Stack;
use warren_os::{Offloads, Tun};
use warren_path::{Hop, LocalSocket, SocketId};
use warren_wire::RegionId;

use crate::poller::{Interest, Poller, Source};
use crate::relays::RelayRun;

/// Where inner packets come from and go to.
pub(crate) enum Plane {
    /// The host's interface, once the helper gave it.
    Tun(Option<Tun>),
    /// The user-space stack.
    Stack(Box<Stack>),
}

/// Bytes read from the TUN before they are sealed and sent: one full burst, or many small packets. More would leave the
/// cache before the cipher comes to it.
const TUN_BYTES_PER_SEND: usize = 64 << 10;

/// Bursts read from the TUN before they are sealed and sent.
const TUN_BURSTS_PER_SEND: usize = 64;

/// Bytes read from the TUN in one turn; what comes in waits meanwhile.
const TUN_BYTES_PER_TURN: usize = 1 << 20;

/// `recvmmsg` calls on one socket in one turn.
const RECEIVES_PER_TURN: usize = 4;

/// Packets taken from the user-space stack in one turn.
const STACK_PACKETS_PER_TURN: usize = 256;

/// Runs that wait for a full socket; while any does, the TUN is not read, so this bounds answers to others only.
const MOST_WAITING_RUNS: usize = 1024;

/// Drops that happen here, outside the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverDrops {
    /// Runs that found their socket full and the queue as well.
    pub socket_full: u64,
    /// Runs for an address family without a socket.
    pub no_socket: u64,
    /// Runs that found the queue to the relays full.
    pub relay_queue_full: u64,
    /// Packets that the kernel did not take from us.
    pub tun_write: u64,
    /// Accepted packets while there was no interface.
    pub no_tun: u64,
    /// Reads of the TUN that made no sense.
    pub tun_read: u64,
    /// Datagrams of the user-space stack that found no room, no address or no service.
    pub datagrams: u64,
    /// Clients of the SOCKS5 proxy that did not speak SOCKS5, or said nothing in time.
    pub socks5: u64,
    /// Clients of the HTTP proxy that did not speak HTTP to a proxy, or said nothing in time.
    pub http_proxy: u64,
}

pub(crate) struct Packets {
    sockets: [Option<Udp>; 2],
    waiting: [VecDeque<Waiting>; 2],
    plane: Plane,
    relay: mpsc::Sender<RelayRun>,
    drops: DriverDrops,
    /// Reused, so that a turn allocates nothing.
    buffers: Vec<Vec<u8>>,
    bursts: Vec<udp::Burst>,
    batch: Vec<Super>,
    open_jobs: Vec<OpenJob>,
    seal_jobs: Vec<SealJob>,
    stack_has_more: bool,
    /// What tokio's side dropped for us, for the same table.
    relay_drops: Arc<AtomicU64>,
}

/// A run whose socket was full, and how much of it has gone.
struct Waiting {
    run: Run,
    sent: usize,
}

impl Packets {
    pub(crate) fn new(
        sockets: UdpPair,
        plane: Plane,
        relay: mpsc::Sender<RelayRun>,
        relay_drops: Arc<AtomicU64>,
    ) -> Self {
        Self {
            sockets: [sockets.v4, sockets.v6],
            waiting: [VecDeque::new(), VecDeque::new()],
            plane,
            relay,
            drops: DriverDrops::default(),
            buffers: Vec::new(),
            bursts: Vec::new(),
            batch: Vec::new(),
            open_jobs: Vec::new(),
            seal_jobs: Vec::new(),
            stack_has_more: false,
            relay_drops,
        }
    }

    pub(crate) fn plane_mut(&mut self) -> &mut Plane {
        &mut self.plane
    }

    pub(crate) fn drops(&self) -> DriverDrops {
        let relayed = self.relay_drops.load(Ordering::Relaxed);
        DriverDrops { relay_queue_full: self.drops.relay_queue_full + relayed, ..self.drops }
    }

    pub(crate) fn udp_counters(&self) -> Vec<udp::UdpCounters> {
        self.sockets.iter().flatten().map(Udp::counters).collect()
    }

    pub(crate) fn local_sockets(&self) -> Vec<LocalSocket> {
        let ids = [SocketId::V4, SocketId::V6];
        let open = ids.into_iter().zip(&self.sockets);
        open.filter_map(|(id, udp)| Some(LocalSocket { id, bound: udp.as_ref()?.local_addr() })).collect()
    }

    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match &self.plane {
            Plane::Tun(_) => None,
            Plane::Stack(_) if self.is_blocked() => None,
            Plane::Stack(_) if self.stack_has_more => Some(now),
            Plane::Stack(stack) => stack.poll_timeout(),
        }
    }

    /// A socket is full: what leaves the overlay has to wait where it is.
    fn is_blocked(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    /// Waits for room where runs wait, and meanwhile leaves the TUN's packets in the kernel's queue.
    pub(crate) fn set_interests(&mut self, poller: &mut Poller) -> io::Result<()> {
        for (index, source) in [Source::Udp4, Source::Udp6].into_iter().enumerate() {
            if let Some(udp) = &self.sockets[index] {
                let write = !self.waiting[index].is_empty();
                poller.set(source, udp.as_raw_fd(), Interest { read: true, write })?;
            }
        }
        let read = !self.is_blocked();
        if let Plane::Tun(Some(tun)) = &self.plane {
            poller.set(Source::Tun, tun.as_raw_fd(), Interest { read, write: false })?;
        }
        Ok(())
    }

    /// Takes the interface into use.
    pub(crate) fn attach(&mut self, tun: Tun, poller: &mut Poller) {
        self.detach(poller);
        if matches!(self.plane, Plane::Tun(_)) {
            self.plane = Plane::Tun(Some(tun));
        }
    }

    /// Lets the interface go.
    pub(crate) fn detach(&mut self, poller: &mut Poller) {
        if let Plane::Tun(tun) = &mut self.plane
            && let Some(tun) = tun.take()
        {
            poller.remove(Source::Tun, tun.as_raw_fd());
        }
    }

    /// A socket is ready: reads what came, and sends what waited.
    pub(crate) fn receive(&mut self, source: Source, engine: &mut Engine, now: Instant) {
        let index = usize::from(source == Source::Udp6);
        let id = SocketId(index as u8);
        for _ in 0..RECEIVES_PER_TURN {
            let Some(udp) = &mut self.sockets[index] else { return };
            while self.buffers.len() < udp::MAX_BURSTS {
                self.buffers.push(engine.take_buffer());
            }
            match udp.receive(&mut self.buffers, &mut self.bursts) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(%error, "receive datagrams");
                    break;
                }
            }
            let full = self.bursts.len() == udp::MAX_BURSTS;
            for burst in self.bursts.drain(..) {
                let from = Hop::Direct { socket: id, addr: burst.from };
                let burst = Burst { bytes: burst.bytes, segment: burst.segment };
                engine.decide_inbound(from, burst, now, &mut self.open_jobs);
            }
            self.open(engine, now);
            // At once, while it is in the cache and before more comes.
            self.deliver(engine, now);
            if !full {
                break;
            }
        }
        self.send_waiting(index, engine, now);
    }

    /// Packets that a relay brought.
    pub(crate) fn receive_relayed(
        &mut self,
        region: RegionId,
        packets: Vec<(NodePublic, Vec<u8>)>,
        engine: &mut Engine,
        now: Instant,
    ) {
        for (peer, bytes) in packets {
            let segment = bytes.len().max(1);
            engine.decide_inbound(Hop::Relay { region, peer }, Burst { bytes, segment }, now, &mut self.open_jobs);
        }
        self.open(engine, now);
    }

    fn open(&mut self, engine: &mut Engine, now: Instant) {
        for job in self.open_jobs.drain(..) {
            engine.finish_opened(job.run(), now);
        }
    }

    /// The interface is readable: reads, seals and sends burst by burst. What a full socket leaves stays in the
    /// device's queue.
    ///
    /// # Errors
    /// When the interface was taken away under us: [`Packets::detach`] is due, and somebody has to bring a new one.
    pub(crate) fn read_tun(&mut self, engine: &mut Engine, now: Instant) -> io::Result<()> {
        let mut bytes = 0;
        while bytes < TUN_BYTES_PER_TURN && !self.is_blocked() {
            let read = self.read_batch(engine);
            self.seal(engine, now);
            self.send_runs(engine, now);
            let (more, is_drained) = read?;
            bytes += more;
            if is_drained {
                break;
            }
        }
        Ok(())
    }

    /// Fills the batch from the interface; how many bytes that were, and whether nothing is left there.
    fn read_batch(&mut self, engine: &mut Engine) -> io::Result<(usize, bool)> {
        let Plane::Tun(Some(tun)) = &self.plane else { return Ok((0, true)) };
        let mut bytes = 0;
        while bytes < TUN_BYTES_PER_SEND && self.batch.len() < TUN_BURSTS_PER_SEND {
            match tun.read(engine.take_buffer()) {
                Ok(Some(burst)) => {
                    bytes += burst.bytes().len();
                    self.batch.push(burst);
                }
                Ok(None) => self.drops.tun_read += 1,
                Err((error, buffer)) => {
                    engine.recycle(buffer);
                    return if error.kind() == io::ErrorKind::WouldBlock { Ok((bytes, true)) } else { Err(error) };
                }
            }
        }
        Ok((bytes, false))
    }

    /// Seals the batch.
    fn seal(&mut self, engine: &mut Engine, now: Instant) {
        if self.batch.is_empty() {
            return;
        }
        engine.decide_outbound(self.batch.drain(..), now, &mut self.seal_jobs);
        for job in self.seal_jobs.drain(..) {
            engine.finish_sealed(job.run(), now);
        }
    }

    /// Drains the engine: deliveries to the overlay, runs to the underlay.
    pub(crate) fn carry_out(&mut self, engine: &mut Engine, now: Instant) {
        self.deliver(engine, now);
        self.take_from_stack(engine, now);
        self.send_runs(engine, now);
    }

    fn deliver(&mut self, engine: &mut Engine, now: Instant) {
        while let Some(burst) = engine.poll_delivery() {
            match &mut self.plane {
                Plane::Tun(Some(tun)) => self.drops.tun_write += write_burst(tun, &burst),
                Plane::Tun(None) => self.drops.no_tun += 1,
                Plane::Stack(stack) => {
                    for packet in burst.packets() {
                        stack.handle_packet(&packet, now);
                    }
                }
            }
            engine.recycle(burst.into_buffer());
        }
    }

    fn take_from_stack(&mut self, engine: &mut Engine, now: Instant) {
        let blocked = self.is_blocked();
        let Plane::Stack(stack) = &mut self.plane else { return };
        if blocked {
            return;
        }
        stack.poll(now);
        while self.batch.len() < STACK_PACKETS_PER_TURN
            && let Some(packet) = stack.poll_packet()
        {
            self.batch.push(Super::packet(packet));
        }
        self.stack_has_more = self.batch.len() == STACK_PACKETS_PER_TURN;
        self.seal(engine, now);
    }

    fn send_runs(&mut self, engine: &mut Engine, now: Instant) {
        while let Some(run) = engine.poll_run() {
            match run.hop {
                Hop::Direct { socket, .. } => {
                    let index = usize::from(socket == SocketId::V6);
                    let (has_socket, has_room) =
                        (self.sockets[index].is_some(), self.waiting[index].len() < MOST_WAITING_RUNS);
                    if has_socket && has_room {
                        self.waiting[index].push_back(Waiting { run, sent: 0 });
                        continue;
                    }
                    engine.recycle(run.bytes);
                    self.drops.no_socket += u64::from(!has_socket);
                    self.drops.socket_full += u64::from(has_socket);
                }
                Hop::Relay { region, peer } => {
                    let relayed = RelayRun { region, peer, segment: run.segment, bytes: run.bytes };
                    if self.relay.try_send(relayed).is_err() {
                        self.drops.relay_queue_full += 1;
                    }
                }
            }
        }
        for index in 0..self.waiting.len() {
            self.send_waiting(index, engine, now);
        }
    }

    fn send_waiting(&mut self, index: usize, engine: &mut Engine, now: Instant) {
        let waiting = &mut self.waiting[index];
        let Some(udp) = &mut self.sockets[index] else { return };
        if waiting.is_empty() {
            return;
        }
        let refs: Vec<RunRef<'_>> = waiting.iter().filter_map(Waiting::as_ref).collect();
        let sent = udp.send(&refs);
        drop(refs);
        let (runs, bytes) = match sent {
            Sent::All => (waiting.len(), 0),
            Sent::Blocked { runs, bytes } => (runs, bytes),
        };
        for done in waiting.drain(..runs) {
            engine.recycle(done.run.bytes);
        }
        if let Some(next) = waiting.front_mut() {
            next.sent += bytes;
        }
        for udp::SendFailure { to, kind } in udp.take_failures() {
            debug!(%to, %kind, "send datagrams");
            if matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) {
                engine.unreachable(Hop::Direct { socket: SocketId(index as u8), addr: to }, now);
            }
        }
    }
}

/// Writes a burst whole, or packet by packet where the kernel knows no such burst; gives the packets it did not take.
fn write_burst(tun: &Tun, burst: &Super) -> u64 {
    let too_new = matches!(burst.offload(), Offload::Udp(_)) && tun.offloads() == Offloads::Tcp;
    if !too_new {
        match tun.write(burst) {
            Ok(()) => return 0,
            // Some kernels refuse joined packets; the packets themselves are sound.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && burst.segment_count() > 1 => {}
            Err(_) => return burst.segment_count() as u64,
        }
    }
    burst.packets().filter(|packet| tun.write(&Super::packet(packet.clone())).is_err()).count() as u64
}

impl Waiting {
    fn as_ref(&self) -> Option<RunRef<'_>> {
        match self.run.hop {
            Hop::Direct { addr, .. } => {
                Some(RunRef { to: addr, segment: self.run.segment, bytes: &self.run.bytes[self.sent..] })
            }
            Hop::Relay { .. } => None,
        }
    }
}
