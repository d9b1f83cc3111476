//! TAI64N stamps of initiations, and how long a peer's last stamp binds it.
//!
//! A stamp must grow, so that an initiation recorded yesterday cannot be used today. A clock that is set back (or that
//! was a day ahead before a restart) must not lock its owner out, though. Therefore:
//!
//! - **As initiator** a stamp is the wall time, and at least a step beyond the stamp before: steps of the clock while
//!   this node runs are harmless.
//! - **As responder** a peer's stamp binds only while keys that the peer *confirmed* (by data) are alive, or five
//!   seconds after an answer that nobody confirmed yet. A peer that restarts with a smaller clock is heard again as soon
//!   as the old keys expire: after at most 180 s ([`crate::timers::REJECT_AFTER`]), and at once if we call it, since our
//!   initiation carries our stamp. A replay that is accepted in such a gap costs one answer and one unconfirmed key pair,
//!   which never displaces a working one: the answer is useless to who cannot open it.

use std::time::{Duration, Instant};

use warren_crypto::UnixTime;

/// TAI64 label of 1970-01-01 00:00:10 TAI; leap seconds are ignored, as every implementation of the protocol does.
const TAI64_BASE: u64 = (1 << 62) + 10;

/// Stamps advance in whitened steps of 2^24 ns (about 17 ms), so that they say little about this machine's clock.
const STEP_NANOS: u32 = 1 << 24;

/// A TAI64N stamp; ordered as time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: u64,
    nanos: u32,
}

impl Timestamp {
    /// The stamp for a wall time, whitened.
    #[must_use]
    pub fn at(wall: UnixTime) -> Self {
        let since = wall.saturating_since(UnixTime::from_secs(0));
        Self { seconds: TAI64_BASE.saturating_add(since.as_secs()), nanos: since.subsec_nanos() & !(STEP_NANOS - 1) }
    }

    /// Twelve bytes, big-endian, so that byte order is time order.
    #[must_use]
    pub fn encode(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..8].copy_from_slice(&self.seconds.to_be_bytes());
        out[8..].copy_from_slice(&self.nanos.to_be_bytes());
        out
    }

    /// Any twelve bytes are a stamp: only their order matters.
    #[must_use]
    pub fn decode(bytes: [u8; 12]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n @ ..] = bytes;
        Self { seconds: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), nanos: u32::from_be_bytes(n) }
    }

    fn step(self) -> Self {
        match self.nanos.checked_add(STEP_NANOS).filter(|nanos| *nanos < 1_000_000_000) {
            Some(nanos) => Self { nanos, ..self },
            None => Self { seconds: self.seconds.saturating_add(1), nanos: 0 },
        }
    }
}

/// Gives stamps that only grow, from a wall time that was true at one instant.
#[derive(Debug)]
pub(crate) struct Stamps {
    since: Instant,
    wall: UnixTime,
    last: Option<Timestamp>,
}

impl Stamps {
    pub(crate) fn new(now: Instant, wall: UnixTime) -> Self {
        Self { since: now, wall, last: None }
    }

    /// The wall clock was set.
    pub(crate) fn set_wall(&mut self, now: Instant, wall: UnixTime) {
        self.since = now;
        self.wall = wall;
    }

    pub(crate) fn next(&mut self, now: Instant) -> Timestamp {
        let elapsed = now.saturating_duration_since(self.since).min(Duration::from_secs(1 << 40));
        let wanted = Timestamp::at(self.wall.saturating_add(elapsed));
        let stamp = match self.last {
            Some(last) if wanted <= last => last.step(),
            _ => wanted,
        };
        self.last = Some(stamp);
        stamp
    }
}

/// What is remembered of one peer's stamps.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    confirmed: Option<Timestamp>,
    pending: Option<(Timestamp, Instant)>,
}

/// How long an answer that nobody confirmed keeps older stamps out: the time after which an initiator tries again.
const PENDING_BINDS: Duration = Duration::from_secs(5);

impl Heard {
    /// Whether an initiation with this stamp is fresh. `has_live_keys`: confirmed keys with this peer are in use.
    pub(crate) fn is_fresh(&self, stamp: Timestamp, has_live_keys: bool, now: Instant) -> bool {
        let after_confirmed = !has_live_keys || self.confirmed.is_none_or(|confirmed| stamp > confirmed);
        let after_pending = self.pending.is_none_or(|(pending, since)| {
            stamp > pending || now.saturating_duration_since(since) >= PENDING_BINDS && stamp != pending
        });
        after_confirmed && after_pending
    }

    /// An answer to this stamp leaves.
    pub(crate) fn answered(&mut self, stamp: Timestamp, now: Instant) {
        self.pending = Some((stamp, now));
    }

    /// Data arrived under the keys of that answer.
    pub(crate) fn confirm(&mut self) {
        if let Some((stamp, _)) = self.pending {
            self.confirmed = Some(stamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_decodes_to_itself_and_orders_as_time() {
        let early = Timestamp::at(UnixTime::from_secs(1_700_000_000));
        let late = early.step();
        assert_eq!(Timestamp::decode(late.encode()), late);
        assert!(early < late && early.encode() < late.encode());
    }

    // Time comes from one arbitrary instant: the crate has no clock, and neither have its tests.
    #[test]
    fn stamps_grow_when_the_wall_clock_is_set_back() {
        let start = crate::timers::tests::start();
        let mut stamps = Stamps::new(start, UnixTime::from_secs(1_000_000));
        let first = stamps.next(start);
        let second = stamps.next(start);
        stamps.set_wall(start, UnixTime::from_secs(1_000));
        let third = stamps.next(start);
        assert!(first < second && second < third);
    }

    #[test]
    fn an_old_stamp_counts_again_once_the_confirmed_keys_are_gone() {
        let start = crate::timers::tests::start();
        let tomorrow = Timestamp::at(UnixTime::from_secs(86_400));
        let today = Timestamp::at(UnixTime::from_secs(3));
        let mut heard = Heard::default();
        assert!(heard.is_fresh(tomorrow, false, start));
        heard.answered(tomorrow, start);
        assert!(!heard.is_fresh(tomorrow, false, start), "the same initiation twice");
        assert!(!heard.is_fresh(today, false, start), "an answer is under way");
        heard.confirm();
        let later = start + Duration::from_secs(60);
        assert!(!heard.is_fresh(today, true, later), "keys are in use: a replay");
        assert!(heard.is_fresh(today, false, later), "keys are gone: a clock that was set back");
    }
}
