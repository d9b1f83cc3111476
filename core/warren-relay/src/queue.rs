//! Bounded queues of packets: disco and other apart, so that a burst of data does not starve the search for a better path.

use std::collections::VecDeque;

use warren_crypto::NodePublic;

use crate::frame::looks_like_disco;

/// Packets that wait in each of the two queues (the field's value).
pub(crate) const QUEUE_PACKETS: usize = 32;

/// One waiting packet; the key is its sender at a relay, its receiver at a node.
pub(crate) struct Waiting {
    pub(crate) key: NodePublic,
    pub(crate) packet: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Queues {
    disco: VecDeque<Waiting>,
    other: VecDeque<Waiting>,
}

impl Queues {
    /// Adds a packet; if its queue is full, the oldest one goes and is returned: newer packets are worth more.
    pub(crate) fn push(&mut self, key: NodePublic, packet: &[u8]) -> Option<Waiting> {
        let queue = if looks_like_disco(packet) { &mut self.disco } else { &mut self.other };
        let dropped = if queue.len() >= QUEUE_PACKETS { queue.pop_front() } else { None };
        queue.push_back(Waiting { key, packet: packet.to_vec() });
        dropped
    }

    /// Disco first: it is small, rare, and what ends the need for the relay.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.disco.pop_front().or_else(|| self.other.pop_front())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.disco.is_empty() && self.other.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.disco.len() + self.other.len()
    }
}
