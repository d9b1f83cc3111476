//! Flows that run, by who opened them.
//!
//! Two tables, so that a peer who opens many flows cannot push out the notes that let answers to ours come back. A key
//! is always the flow as it arrives: from the peer to this node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_ip::{Flow, Protocol};

/// Flows kept per table. Stock nodes keep 512 UDP flows in all; a resolver for a household passes that.
pub(crate) const CAPACITY: usize = 4096;

/// Longer than the two minutes that RFC 4787 §4.3 asks a NAT to keep a UDP mapping for.
const UDP_IDLE: Duration = Duration::from_secs(300);

/// Longer than the two hours after which an idle TCP connection sends a keepalive (RFC 9293 §3.8.4).
const TCP_IDLE: Duration = Duration::from_secs(3 * 3600);

/// A bounded table of flows, the least recently used of which goes first.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    entries: BTreeMap<Flow, Entry>,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    last_packet: Instant,
    last_use: u64,
}

/// Whether a flow still may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// The policy took it away.
    Cut,
}

impl Flows {
    /// The state of a flow that has not been idle for too long.
    pub(crate) fn state(&self, flow: &Flow, now: Instant) -> Option<State> {
        self.entries.get(flow).filter(|entry| entry.is_current(flow, now)).map(|entry| entry.state)
    }

    /// Like [`Flows::state`]; the packet that asks keeps the flow from falling idle.
    pub(crate) fn touch(&mut self, flow: &Flow, now: Instant) -> Option<State> {
        self.uses += 1;
        let entry = self.entries.get_mut(flow)?;
        if !entry.is_current(flow, now) {
            self.entries.remove(flow);
            return None;
        }
        entry.last_packet = now;
        entry.last_use = self.uses;
        Some(entry.state)
    }

    /// Notes a flow as live.
    pub(crate) fn note(&mut self, flow: Flow, now: Instant) {
        self.uses += 1;
        let entry = Entry { state: State::Live, last_packet: now, last_use: self.uses };
        if self.entries.insert(flow, entry).is_none() && self.entries.len() > CAPACITY {
            self.make_room(now);
        }
    }

    pub(crate) fn forget(&mut self, flow: &Flow) {
        self.entries.remove(flow);
    }

    /// Judges every flow again.
    pub(crate) fn judge(&mut self, permits: impl Fn(&Flow) -> bool) {
        for (flow, entry) in &mut self.entries {
            entry.state = if permits(flow) { State::Live } else { State::Cut };
        }
    }

    /// Drops what is idle, then the least recently used until an eighth is free, so that the work is paid once in
    /// hundreds of new flows. A cut flow goes last: forgetting that it was cut would let it run on.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|flow, entry| entry.is_current(flow, now));
        let keep = CAPACITY - CAPACITY / 8;
        if self.entries.len() <= keep {
            return;
        }
        let surplus = self.entries.len() - keep;
        let rank = |entry: &Entry| (entry.state == State::Cut, entry.last_use);
        let mut ranks: Vec<(bool, u64)> = self.entries.values().map(rank).collect();
        let (_, last_to_go, _) = ranks.select_nth_unstable(surplus - 1);
        let last_to_go = *last_to_go;
        self.entries.retain(|_, entry| rank(entry) > last_to_go);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    fn is_current(&self, flow: &Flow, now: Instant) -> bool {
        let idle = if flow.protocol == Protocol::TCP { TCP_IDLE } else { UDP_IDLE };
        now.saturating_duration_since(self.last_packet) < idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // a starting point for arithmetic; no test looks at it
    fn start() -> Instant {
        Instant::now()
    }

    fn flow(port: u16) -> Flow {
        Flow {
            protocol: Protocol::UDP,
            src: format!("100.64.0.1:{port}").parse().unwrap(),
            dst: "100.64.0.2:53".parse().unwrap(),
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_was_used_last() {
        let now = start();
        let mut flows = Flows::default();
        for port in 0..20_000 {
            flows.note(flow(port), now);
            assert_eq!(flows.touch(&flow(0), now), Some(State::Live));
            assert!(flows.len() <= CAPACITY);
        }
        assert_eq!(flows.state(&flow(19_999), now), Some(State::Live));
        assert_eq!(flows.state(&flow(1), now), None);
    }

    #[test]
    fn a_cut_flow_outlives_a_flood_of_live_ones() {
        let now = start();
        let mut flows = Flows::default();
        flows.note(flow(0), now);
        flows.judge(|_| false);
        (1..20_000).for_each(|port| flows.note(flow(port), now));
        assert_eq!(flows.state(&flow(0), now), Some(State::Cut));
    }

    #[test]
    fn an_idle_flow_is_forgotten() {
        let now = start();
        let mut flows = Flows::default();
        flows.note(flow(1), now);
        assert_eq!(flows.touch(&flow(1), now + UDP_IDLE / 2), Some(State::Live));
        assert_eq!(flows.touch(&flow(1), now + UDP_IDLE), Some(State::Live));
        assert_eq!(flows.touch(&flow(1), now + UDP_IDLE * 2), None);
        assert_eq!(flows.len(), 0);
    }
}
