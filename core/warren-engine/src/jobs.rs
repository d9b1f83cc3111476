//! The middle step: pure work on owned bytes, for any thread.

use std::ops::Range;
use std::sync::Arc;

use warren_crypto::NodePublic;
use warren_ip::offload::Super;
use warren_path::{Hop, Hops};
use warren_wireguard::transport::padded_len;
use warren_wireguard::{ReceiveKey, SendKey, message};

/// Datagrams in one GSO send: the kernel's `UDP_MAX_SEGMENTS` of all versions that know GSO.
const MAX_SEGMENTS: usize = 64;
/// Bytes in one GSO send: the largest UDP payload over IPv4.
const MAX_RUN_BYTES: usize = 65_507;

/// Seals the bursts of one peer into runs.
pub struct SealJob {
    pub(crate) peer: NodePublic,
    pub(crate) hops: Hops,
    pub(crate) key: Arc<SendKey>,
    pub(crate) next_counter: u64,
    pub(crate) end_counter: u64,
    pub(crate) mtu: usize,
    pub(crate) bursts: Vec<Super>,
    pub(crate) room: Room,
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) runs: Vec<SealedRun>,
}

/// What a job that holds single packets can still take while staying one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// Nothing more: it holds a burst, or a shorter last segment.
    Closed,
    Open {
        segment: usize,
        count: usize,
    },
}

/// Equal datagrams (the last may be shorter) in one buffer.
pub(crate) struct SealedRun {
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment: usize,
    count: usize,
    /// How much of `bytes` was written: behind it lies what the buffer held before, until the job ends.
    filled: usize,
}

/// A [`SealJob`] that was run: give it to [`Engine::finish_sealed`](crate::Engine::finish_sealed).
pub struct Sealed {
    pub(crate) peer: NodePublic,
    pub(crate) hops: Hops,
    /// Emptied; for the next job.
    pub(crate) bursts: Vec<Super>,
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) runs: Vec<SealedRun>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl SealJob {
    /// Whether one more packet, alone in its burst, fits the run that this job makes; takes it if so.
    pub(crate) fn try_append(&mut self, burst: Super, key: &Arc<SendKey>, counters: &Range<u64>) -> Result<(), Super> {
        let Room::Open { segment, count } = self.room else { return Err(burst) };
        let sealed = padded_len(burst.bytes().len(), self.mtu) + message::OVERHEAD;
        let fits = sealed <= segment
            && count < MAX_SEGMENTS
            && count * segment + sealed <= MAX_RUN_BYTES
            && counters.start == self.end_counter
            && Arc::ptr_eq(key, &self.key);
        if !fits {
            return Err(burst);
        }
        self.end_counter = counters.end;
        self.room = if sealed == segment { Room::Open { segment, count: count + 1 } } else { Room::Closed };
        self.bursts.push(burst);
        Ok(())
    }

    /// The room that a job with one fresh burst leaves.
    pub(crate) fn room_after(burst: &Super, mtu: usize) -> Room {
        if burst.segment_count() > 1 {
            return Room::Closed;
        }
        Room::Open { segment: padded_len(burst.bytes().len(), mtu) + message::OVERHEAD, count: 1 }
    }

    /// How many buffers sealing a burst takes.
    pub(crate) fn buffers_for(burst: &Super, mtu: usize) -> usize {
        let segment = padded_len(burst.segment_len(0), mtu) + message::OVERHEAD;
        let per_run = (MAX_RUN_BYTES / segment.max(1)).clamp(1, MAX_SEGMENTS);
        burst.segment_count().div_ceil(per_run)
    }

    /// Cuts each burst and seals every segment into the place that it is sent from: the encryption is the copy. Pure.
    #[must_use]
    pub fn run(mut self) -> Sealed {
        let (mut packets, mut bytes) = (0, 0);
        let mut bursts = std::mem::take(&mut self.bursts);
        for burst in bursts.drain(..) {
            let mut cutter = burst.into_cutter();
            while let Some(packet) = cutter.next_packet() {
                packets += 1;
                bytes += packet.len() as u64;
                self.seal(packet);
            }
            self.spare.push(cutter.into_buffer());
        }
        for run in &mut self.runs {
            run.bytes.truncate(run.filled);
        }
        Sealed { peer: self.peer, hops: self.hops, bursts, spare: self.spare, runs: self.runs, packets, bytes }
    }

    fn seal(&mut self, packet: &[u8]) {
        let padded = padded_len(packet.len(), self.mtu);
        let sealed = padded + message::OVERHEAD;
        if !self.runs.last().is_some_and(|run| run.takes(sealed)) {
            self.runs.push(SealedRun::new(self.spare.pop().unwrap_or_default(), sealed));
        }
        let Some(out) = self.runs.last_mut().map(|run| run.place(sealed)) else { return };
        if padded == packet.len() {
            self.key.seal_from(self.next_counter, packet, out);
        } else {
            // The place may hold something older.
            let body = &mut out[message::HEADER_LEN..message::HEADER_LEN + padded];
            body[..packet.len()].copy_from_slice(packet);
            body[packet.len()..].fill(0);
            self.key.seal(self.next_counter, out);
        }
        self.next_counter += 1;
    }
}

impl SealedRun {
    /// `bytes` may hold anything.
    fn new(bytes: Vec<u8>, segment: usize) -> Self {
        Self { bytes, segment, count: 0, filled: 0 }
    }

    fn takes(&self, sealed: usize) -> bool {
        self.count < MAX_SEGMENTS
            && sealed <= self.segment
            && self.filled == self.count * self.segment
            && self.filled + sealed <= MAX_RUN_BYTES
    }

    /// Room for one more datagram, with anything in it.
    fn place(&mut self, sealed: usize) -> &mut [u8] {
        let at = self.filled;
        self.filled += sealed;
        self.count += 1;
        if self.bytes.len() < self.filled {
            self.bytes.resize(self.filled, 0);
        }
        &mut self.bytes[at..self.filled]
    }
}

/// Opens the transport messages of one received burst, in place.
pub struct OpenJob {
    pub(crate) from: Hop,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment: usize,
    pub(crate) parts: Vec<Part>,
    pub(crate) packets: Vec<OpenedPacket>,
}

/// Neighbouring datagrams under one key.
pub(crate) struct Part {
    pub(crate) range: Range<usize>,
    pub(crate) index: u32,
    pub(crate) peer: NodePublic,
    pub(crate) key: Arc<ReceiveKey>,
    /// How many of [`Opened::packets`] are of this part; they follow one another.
    pub(crate) opened: usize,
}

/// An inner packet, still with its padding; length 0 is a keepalive.
#[derive(Clone, Copy)]
pub(crate) struct OpenedPacket {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

/// An [`OpenJob`] that was run: give it to [`Engine::finish_opened`](crate::Engine::finish_opened).
pub struct Opened {
    pub(crate) from: Hop,
    pub(crate) bytes: Vec<u8>,
    pub(crate) parts: Vec<Part>,
    pub(crate) packets: Vec<OpenedPacket>,
    pub(crate) forged: usize,
}

impl OpenJob {
    /// Opens every message. Pure; nothing is believed about counters yet.
    #[must_use]
    pub fn run(mut self) -> Opened {
        let mut forged = 0;
        for part in &mut self.parts {
            let mut at = part.range.start;
            while at < part.range.end {
                let end = (at + self.segment).min(part.range.end);
                match part.key.open(&mut self.bytes[at..end]) {
                    Ok(opened) => {
                        part.opened += 1;
                        self.packets.push(OpenedPacket {
                            at: at + message::HEADER_LEN,
                            len: opened.len,
                            counter: opened.counter,
                        });
                    }
                    Err(_) => forged += 1,
                }
                at = end;
            }
        }
        Opened { from: self.from, bytes: self.bytes, parts: self.parts, packets: self.packets, forged }
    }
}
