//! A packet leaves.

use std::time::Instant;

use warren_crypto::NodePublic;
use warren_filter::Verdict;
use warren_ip::offload::Super;
use warren_wireguard::NoKeys;

use crate::counters::DropReason;
use crate::engine::{Engine, Run};
use crate::inbound::is_own_disco;
use crate::jobs::{SealJob, Sealed};

impl Engine {
    /// Decides the fate of packets from this host: dropped and counted, staged until there are keys, or a job.
    ///
    /// Neighbouring single packets of one size for one peer become one job, and so one send.
    pub fn decide_outbound(&mut self, batch: impl IntoIterator<Item = Super>, now: Instant, jobs: &mut Vec<SealJob>) {
        for burst in batch {
            if let Err((reason, burst)) = self.decide_one(burst, now, jobs) {
                self.counters.drop(reason, burst.segment_count());
                self.pool.give(burst.into_buffer());
            }
        }
        self.pump(now);
    }

    /// Takes a sealed job back, in the order of decisions per peer: its runs go out.
    pub fn finish_sealed(&mut self, sealed: Sealed, now: Instant) {
        let Sealed { peer, hops, bursts, mut spare, mut runs, packets, bytes } = sealed;
        for buffer in spare.drain(..) {
            self.pool.give(buffer);
        }
        match self.peers.get_mut(&peer) {
            // Removed meanwhile: what was sealed for it does not leave.
            None => {
                self.counters.drop(DropReason::PeerGone, packets as usize);
                for run in runs.drain(..) {
                    self.pool.give(run.bytes);
                }
            }
            Some(state) => {
                state.stats.tx_bytes += bytes;
                state.stats.last_send = Some(now);
                self.counters.packets_out += packets;
                self.counters.bytes_out += bytes;
            }
        }
        for run in runs.drain(..) {
            if let Some(also) = hops.also {
                let mut copy = self.pool.take();
                copy.extend_from_slice(&run.bytes);
                self.push_run(Run { hop: also, segment: run.segment, bytes: copy });
            }
            self.push_run(Run { hop: hops.first, segment: run.segment, bytes: run.bytes });
        }
        self.lists.bursts.push(bursts);
        self.lists.buffers.push(spare);
        self.lists.runs.push(runs);
    }

    /// Sends a packet of this node's own (a ping, an answer), past the checks that packets of the host pass. Returns
    /// whether there is a peer for it.
    pub fn inject_outbound(&mut self, packet: Vec<u8>, now: Instant) -> bool {
        let burst = Super::packet(packet);
        let Some(peer) = burst.view().ok().and_then(|view| self.routes.lookup(view.dst()).copied()) else {
            return false;
        };
        if self.peers.get(&peer).is_none_or(|state| state.config.expired) {
            return false;
        }
        self.seal_now(peer, burst, now);
        self.pump(now);
        true
    }

    /// Decide, run and finish in one go.
    pub(crate) fn seal_now(&mut self, peer: NodePublic, burst: Super, now: Instant) {
        let mut jobs = Vec::new();
        if let Err((reason, burst)) = self.decide_for(peer, burst, now, &mut jobs) {
            self.counters.drop(reason, burst.segment_count());
            self.pool.give(burst.into_buffer());
        }
        for job in jobs {
            self.finish_sealed(job.run(), now);
        }
    }

    fn decide_one(&mut self, burst: Super, now: Instant, jobs: &mut Vec<SealJob>) -> Result<(), (DropReason, Super)> {
        let Ok(view) = burst.view() else { return Err((DropReason::NotIp, burst)) };
        if !self.local.contains(view.src()) {
            return Err((DropReason::NotOurSource, burst));
        }
        let Some(peer) = self.routes.lookup(view.dst()).copied() else {
            return Err((DropReason::NoPeerForAddress, burst));
        };
        if self.peers.get(&peer).is_none_or(|state| state.config.expired) {
            return Err((DropReason::PeerExpired, burst));
        }
        if is_own_disco(&view, &self.disco_public) {
            return Err((DropReason::OwnDisco, burst));
        }
        if self.guarded.outbound(&view, now) != Verdict::Accept {
            return Err((DropReason::Filter, burst));
        }
        self.decide_for(peer, burst, now, jobs)
    }

    fn decide_for(
        &mut self,
        peer: NodePublic,
        burst: Super,
        now: Instant,
        jobs: &mut Vec<SealJob>,
    ) -> Result<(), (DropReason, Super)> {
        let messages = burst.segment_count() as u64;
        let reserved = match self.wireguard.reserve(&peer, messages, now) {
            Ok(reserved) => reserved,
            Err(NoKeys::Handshaking) => return self.stage(peer, burst),
            Err(NoKeys::UnknownPeer) => return Err((DropReason::PeerGone, burst)),
            Err(NoKeys::ImpossibleKey) => return Err((DropReason::ImpossibleKey, burst)),
        };
        let Ok(hops) = self.paths.hops_for(&peer, now) else { return Err((DropReason::NoPath, burst)) };
        let mtu = self.mtu();
        let burst = match jobs.last_mut().filter(|job| messages == 1 && job.peer == peer && job.hops == hops) {
            Some(job) => match job.try_append(burst, &reserved.key, &reserved.counters) {
                Ok(()) => return Ok(()),
                Err(burst) => burst,
            },
            None => burst,
        };
        let mut spare = self.lists.buffers.pop().unwrap_or_default();
        for _ in 0..SealJob::buffers_for(&burst, mtu) {
            spare.push(self.pool.take_used());
        }
        let mut bursts = self.lists.bursts.pop().unwrap_or_default();
        let room = SealJob::room_after(&burst, mtu);
        bursts.push(burst);
        jobs.push(SealJob {
            peer,
            hops,
            key: reserved.key,
            next_counter: reserved.counters.start,
            end_counter: reserved.counters.end,
            mtu,
            bursts,
            room,
            spare,
            runs: self.lists.runs.pop().unwrap_or_default(),
        });
        Ok(())
    }

    fn stage(&mut self, peer: NodePublic, burst: Super) -> Result<(), (DropReason, Super)> {
        let Some(state) = self.peers.get_mut(&peer) else { return Err((DropReason::PeerGone, burst)) };
        let bytes = burst.bytes().len();
        for old in state.staging.push(burst, bytes) {
            self.counters.drop(DropReason::StagedTooLong, old.segment_count());
            self.pool.give(old.into_buffer());
        }
        Ok(())
    }
}
