//! Two machines with one state: a disk image or a container volume that was copied, keys and all.
//!
//! Both prove the same machine key and ask for the map of the same node, so nothing in one request tells them apart. What
//! does, over time: each lives on a channel of its own.
//!
//! ```text
//! one machine that reconnects:  channel 1 ────────x (its end may be noticed 90 s late)      channel 1 is silent
//!                                           channel 2 ─────────────────────────────────▶   from the moment 2 begins
//! two machines:                 channel 1 ─────────────────────────────────────────────▶   both stay open, and 1
//!                                           channel 2 ─────────────────────────────────▶   still speaks after 2 began
//! ```
//!
//! While both are there the newest channel is believed and what the older ones say about addresses and keys is passed
//! over, so that peers see one node that stays where it is. No stream is ended for it: each client would come back at
//! once, and the two would push each other out for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_crypto::DiscoPublic;
use warren_wire::NodeId;

/// One connection of one machine. Numbers grow: the later channel has the higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// A stream whose machine vanished is noticed by the channel's own pings after 90 s (60 s between them, 30 s for an
/// answer); whoever is still there after this is alive.
const SURELY_ALIVE: Duration = Duration::from_secs(120);

/// How long after the last sign a node still counts as doubled, so that a report does not flicker.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The channels on which map streams are open.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    by_node: BTreeMap<NodeId, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    open: BTreeMap<ChannelId, Open>,
    /// Until when it counts as doubled.
    doubled_until: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    streams: u32,
    since: Instant,
    disco: Option<DiscoPublic>,
}

impl Clones {
    pub(crate) fn stream_started(&mut self, node: NodeId, channel: ChannelId, now: Instant) {
        let watched = self.by_node.entry(node).or_default();
        watched.open.entry(channel).or_insert(Open { streams: 0, since: now, disco: None }).streams += 1;
    }

    pub(crate) fn stream_ended(&mut self, node: NodeId, channel: ChannelId) {
        let Some(watched) = self.by_node.get_mut(&node) else { return };
        if let Some(open) = watched.open.get_mut(&channel) {
            open.streams = open.streams.saturating_sub(1);
            if open.streams == 0 {
                watched.open.remove(&channel);
            }
        }
        if watched.open.is_empty() && watched.doubled_until.is_none() {
            self.by_node.remove(&node);
        }
    }

    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.by_node.remove(&node);
    }

    /// Something was said on a channel. Returns whether it is to be believed.
    pub(crate) fn hear(&mut self, node: NodeId, channel: ChannelId, disco: Option<DiscoPublic>, now: Instant) -> bool {
        let Some(watched) = self.by_node.get_mut(&node) else { return true };
        if let Some(open) = watched.open.get_mut(&channel) {
            open.disco = disco.or(open.disco);
        }
        // An older channel that speaks after a newer one began, and of another disco key: two programs are alive.
        let speaks_of_another = |(_, newer): (&ChannelId, &Open)| {
            newer.since < now && newer.disco.is_some() && disco.is_some() && newer.disco != disco
        };
        if watched.open.contains_key(&channel) && watched.newer_than(channel).any(speaks_of_another) {
            watched.doubled_until = Some(now + REMEMBERED);
        }
        watched.doubled_until.is_none() || watched.newer_than(channel).next().is_none()
    }

    /// Looks at who has been there together for long, and forgets what is over. Returns the nodes that count as doubled.
    pub(crate) fn doubled(&mut self, now: Instant) -> Vec<NodeId> {
        for watched in self.by_node.values_mut() {
            let long = watched.open.values().filter(|open| now.duration_since(open.since) >= SURELY_ALIVE).count();
            if long > 1 {
                watched.doubled_until = Some(now + REMEMBERED);
            }
            watched.doubled_until.take_if(|until| *until <= now);
        }
        self.by_node.retain(|_, watched| !watched.open.is_empty() || watched.doubled_until.is_some());
        let doubled = self.by_node.iter().filter(|(_, watched)| watched.doubled_until.is_some());
        doubled.map(|(node, _)| *node).collect()
    }
}

impl Watched {
    fn newer_than(&self, channel: ChannelId) -> impl Iterator<Item = (&ChannelId, &Open)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.open.range((Excluded(channel), Unbounded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const FIRST: ChannelId = ChannelId(1);
    const SECOND: ChannelId = ChannelId(2);

    #[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn start() -> (Clones, Instant) {
        let now = Instant::now();
        let mut clones = Clones::default();
        clones.stream_started(NODE, FIRST, now);
        (clones, now)
    }

    fn disco(byte: u8) -> Option<DiscoPublic> {
        Some(DiscoPublic::from_bytes([byte; 32]))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_machine_that_reconnects_is_one_machine() {
        let (mut clones, now) = start();
        assert!(clones.hear(NODE, FIRST, disco(1), now));
        // A daemon that was killed: another disco key, and its old stream is noticed late.
        clones.stream_started(NODE, SECOND, now + seconds(10));
        assert!(clones.hear(NODE, SECOND, disco(2), now + seconds(11)));
        assert_eq!(clones.doubled(now + seconds(99)), []);
        clones.stream_ended(NODE, FIRST);
        assert_eq!(clones.doubled(now + seconds(1000)), []);
    }

    #[test]
    fn two_that_speak_by_turns_are_two_and_the_newest_is_believed() {
        let (mut clones, now) = start();
        clones.hear(NODE, FIRST, disco(1), now);
        clones.stream_started(NODE, SECOND, now + seconds(1));
        assert!(clones.hear(NODE, SECOND, disco(2), now + seconds(2)));
        assert!(!clones.hear(NODE, FIRST, disco(1), now + seconds(3)), "the older one is passed over from now on");
        assert!(!clones.hear(NODE, FIRST, None, now + seconds(4)));
        assert!(clones.hear(NODE, SECOND, disco(2), now + seconds(5)));
        assert_eq!(clones.doubled(now + seconds(6)), [NODE]);
    }

    #[test]
    fn two_silent_streams_that_both_stay_are_two_until_one_has_been_gone_for_long() {
        let (mut clones, now) = start();
        clones.stream_started(NODE, SECOND, now + seconds(5));
        assert_eq!(clones.doubled(now + seconds(124)), []);
        assert_eq!(clones.doubled(now + seconds(125)), [NODE]);
        clones.stream_ended(NODE, FIRST);
        assert_eq!(clones.doubled(now + seconds(700)), [NODE]);
        assert_eq!(clones.doubled(now + seconds(725)), []);
        assert!(clones.hear(NODE, SECOND, disco(9), now + seconds(726)));
    }
}
