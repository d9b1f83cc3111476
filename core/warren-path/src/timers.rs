//! Every timer of [`crate::Paths`], by name, and one table of deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use warren_crypto::NodePublic;

/// What may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The oldest ping that still waits for its pong.
    PingTimeout,
    /// The running look at the network has a step to do.
    NetworkCheck,
    /// Look at the network again, because its addresses may have moved.
    PeriodicCheck,
    /// Look for a direct path again soon, while the search is young.
    QuickRound(NodePublic),
    /// Ping the path of a peer that we send to.
    Heartbeat(NodePublic),
}

/// When each timer is due. At most one deadline for each.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeMap<Timer, Instant>,
    by_time: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets a timer, in place of what it was set to.
    pub fn arm(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.deadlines.insert(timer, at);
        self.by_time.insert((at, timer));
    }

    pub fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.deadlines.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    /// Sets a timer to what its owner says: a deadline, or none.
    pub fn follow(&mut self, timer: Timer, at: Option<Instant>) {
        match at {
            Some(at) => self.arm(timer, at),
            None => self.cancel(timer),
        }
    }

    pub fn is_armed(&self, timer: Timer) -> bool {
        self.deadlines.contains_key(&timer)
    }

    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }
}
