//! The constants of time, and one table of deadlines per peer. Whitepaper §6.

use std::time::{Duration, Instant};

/// The initiator of a key pair makes the next one after this.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A key pair is used by nobody after this.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The number of messages after which either side makes new keys.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// An unanswered initiation is repeated after this and a jitter, and never sooner.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// An initiation younger than this may still be answered: news of a way to the peer sends no other one.
pub const FRESH: Duration = Duration::from_millis(500);
/// What the initiation after such news waits for its answer, and the one after it: the relay or router that came back may
/// need a moment more, and the peer's own way too.
pub const HASTY_TIMEOUTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Added at random to each wait for an answer, so that two peers do not stay in step.
pub const MAX_JITTER: Duration = Duration::from_millis(333);
/// A handshake is given up after this.
pub const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// After data was received and nothing sent for this long, an empty packet says that we live.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// An initiator that receives under a key this old makes a new one, so that a mostly listening side never runs dry.
pub const REKEY_ON_RECEIVE: Duration = Duration::from_secs(180 - 10 - 5);
/// Keys are wiped after this, counted from the last handshake.
pub const ERASE_AFTER: Duration = Duration::from_secs(180 * 3);
/// A peer's initiations are answered at most this often.
pub const INITIATION_SPACING: Duration = Duration::from_millis(20);

/// What may fall due for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The initiation was not answered: again, or give up.
    Retry,
    /// We received and sent nothing since: an empty packet.
    Keepalive,
    /// We sent data and heard nothing since: new keys.
    Silence,
    /// The keys are old: wipe them.
    Erase,
}

impl Timer {
    pub(crate) const ALL: [Self; 4] = [Self::Retry, Self::Keepalive, Self::Silence, Self::Erase];
}

/// One deadline per [`Timer`].
#[derive(Debug, Default)]
pub(crate) struct Deadlines([Option<Instant>; 4]);

impl Deadlines {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    /// Clears and returns one timer that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = Timer::ALL.into_iter().find(|timer| self.0[*timer as usize].is_some_and(|at| at <= now))?;
        self.clear(due);
        Some(due)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    /// An arbitrary instant for tests to count from. The one look at a clock in this crate; only differences matter.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
