//! Packets that wait for one connection: disco apart from the rest, both short, the oldest dropped first.
//!
//! Short on purpose: what waits longer is buffer bloat on top of TCP's own, and fresh packets matter more to WireGuard.

use std::collections::VecDeque;

/// Which of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Disco,
    Other,
}

impl Kind {
    pub(crate) fn of(packet: &[u8]) -> Self {
        if crate::frame::looks_like_disco(packet) { Self::Disco } else { Self::Other }
    }
}

/// Encoded frames in two queues of `depth` each, taken in turns so that neither starves the other.
pub(crate) struct PacketQueues {
    disco: VecDeque<Vec<u8>>,
    other: VecDeque<Vec<u8>>,
    depth: usize,
    other_is_next: bool,
}

impl PacketQueues {
    pub(crate) fn new(depth: usize) -> Self {
        Self { disco: VecDeque::new(), other: VecDeque::new(), depth: depth.max(1), other_is_next: false }
    }

    /// Appends a frame; gives back the oldest of its kind if there was no room.
    pub(crate) fn push(&mut self, kind: Kind, frame: Vec<u8>) -> Option<Vec<u8>> {
        let depth = self.depth;
        let queue = match kind {
            Kind::Disco => &mut self.disco,
            Kind::Other => &mut self.other,
        };
        let dropped = if queue.len() >= depth { queue.pop_front() } else { None };
        queue.push_back(frame);
        dropped
    }

    pub(crate) fn pop(&mut self) -> Option<(Kind, Vec<u8>)> {
        let other_first = std::mem::take(&mut self.other_is_next);
        if !other_first && let Some(frame) = self.disco.pop_front() {
            self.other_is_next = true;
            return Some((Kind::Disco, frame));
        }
        let other = self.other.pop_front().map(|frame| (Kind::Other, frame));
        other.or_else(|| self.disco.pop_front().map(|frame| (Kind::Disco, frame)))
    }

    /// Whether the next frame of this kind would cost the oldest.
    pub(crate) fn is_full(&self, kind: Kind) -> bool {
        let queue = match kind {
            Kind::Disco => &self.disco,
            Kind::Other => &self.other,
        };
        queue.len() >= self.depth
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.disco.is_empty() && self.other.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_its_oldest_and_leaves_the_other_queue_alone() {
        let mut queues = PacketQueues::new(2);
        assert_eq!(queues.push(Kind::Disco, vec![9]), None);
        for byte in 1..=2 {
            assert_eq!(queues.push(Kind::Other, vec![byte]), None);
        }
        assert_eq!(queues.push(Kind::Other, vec![3]), Some(vec![1]));
        assert_eq!(queues.pop(), Some((Kind::Disco, vec![9])));
        assert_eq!(queues.pop(), Some((Kind::Other, vec![2])));
    }

    #[test]
    fn disco_and_other_packets_take_turns() {
        let mut queues = PacketQueues::new(8);
        for _ in 0..2 {
            queues.push(Kind::Disco, vec![1]);
            queues.push(Kind::Other, vec![2]);
        }
        let order: Vec<u8> = std::iter::from_fn(|| queues.pop()).map(|(_, frame)| frame[0]).collect();
        assert_eq!(order, [1, 2, 1, 2]);
        assert!(queues.is_empty());
    }
}
