//! Pings that wait for their pongs.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, NodePublic};
use warren_wire::RegionId;

use crate::disco::TxId;
use crate::events::PingId;

/// A ping that got no pong for so long gets none.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// More pings than this are not waited for; the oldest is given up early.
const MAX_WAITING: usize = 16_384;

/// The way that a ping took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct(SocketAddr),
    Relay(RegionId),
}

/// One ping under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub peer: NodePublic,
    /// The pong must be sealed by the key that the ping was sealed for.
    pub disco: DiscoPublic,
    pub way: Way,
    pub sent: Instant,
    /// The person's ping that this is a part of.
    pub asked: Option<PingId>,
}

/// All pings under way, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    waiting: BTreeMap<TxId, Probe>,
    /// In the order sent. Entries that were answered stay until they come to the front.
    order: VecDeque<TxId>,
}

impl Probes {
    /// Returns the probe that had to make room, if any: it counts as timed out.
    pub fn insert(&mut self, tx: TxId, probe: Probe) -> Option<Probe> {
        let evicted = if self.waiting.len() >= MAX_WAITING { self.pop_front() } else { None };
        self.waiting.insert(tx, probe);
        self.order.push_back(tx);
        evicted
    }

    pub fn get(&self, tx: &TxId) -> Option<&Probe> {
        self.waiting.get(tx)
    }

    pub fn take(&mut self, tx: &TxId) -> Option<Probe> {
        let probe = self.waiting.remove(tx);
        self.drop_answered();
        probe
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.order.front().and_then(|tx| self.waiting.get(tx)).map(|probe| probe.sent + PING_TIMEOUT)
    }

    pub fn pop_timed_out(&mut self, now: Instant) -> Option<Probe> {
        if self.next_timeout()? > now {
            return None;
        }
        self.pop_front()
    }

    fn pop_front(&mut self) -> Option<Probe> {
        let probe = self.order.pop_front().and_then(|tx| self.waiting.remove(&tx));
        self.drop_answered();
        probe
    }

    fn drop_answered(&mut self) {
        while self.order.front().is_some_and(|tx| !self.waiting.contains_key(tx)) {
            self.order.pop_front();
        }
    }
}
