//! What time it is, as the control server counts it.
//!
//! Keys expire by the server's clock. Ours may be wrong, may jump, and starts anew with every process; none of that may
//! lengthen a key's life. So: once the server has told its time, ours is that plus what has passed on the monotonic
//! clock. Before that, in a fresh process, it is the wall clock with the last known correction, but never earlier than
//! the latest time that was ever written down.

use std::time::{Duration, Instant};

use warren_crypto::UnixTime;

/// What survives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockMemory {
    /// Server's clock minus ours, in milliseconds.
    pub correction_ms: i64,
    /// The latest corrected time that was written down.
    pub latest: UnixTime,
}

/// The corrected clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    memory: ClockMemory,
    /// A moment on the monotonic clock, and what time it was then.
    anchor: (Instant, UnixTime),
    synced: bool,
}

impl Clock {
    /// Starts from what was remembered.
    pub fn new(memory: ClockMemory, now: Instant, wall: UnixTime) -> Clock {
        let correction = Duration::from_millis(memory.correction_ms.unsigned_abs());
        let corrected =
            if memory.correction_ms < 0 { wall.saturating_sub(correction) } else { wall.saturating_add(correction) };
        Clock { memory, anchor: (now, corrected.max(memory.latest)), synced: false }
    }

    /// The server told its time.
    pub fn handle_control_time(&mut self, control: UnixTime, now: Instant, wall: UnixTime) {
        let ahead = control.saturating_since(wall).as_millis();
        let behind = wall.saturating_since(control).as_millis();
        let to_ms = |millis: u128| i64::try_from(millis).unwrap_or(i64::MAX);
        self.memory.correction_ms = to_ms(ahead) - to_ms(behind);
        // A server that speaks of an earlier time is believed (ours had been wrong), one's own restarts are not.
        self.memory.latest = control;
        self.anchor = (now, control);
        self.synced = true;
    }

    /// The corrected time.
    ///
    /// Until the server has spoken, a wall clock that was set right (forward) counts too: it can only shorten lives.
    pub fn time(&self, now: Instant, wall: UnixTime) -> UnixTime {
        let by_anchor = self.anchor.1.saturating_add(now.saturating_duration_since(self.anchor.0));
        if self.synced { by_anchor } else { by_anchor.max(Clock::new(self.memory, now, wall).anchor.1) }
    }

    /// The moment at which the corrected clock will show `time`.
    pub fn instant_of(&self, time: UnixTime) -> Option<Instant> {
        self.anchor.0.checked_add(time.saturating_since(self.anchor.1))
    }

    /// What to write down now.
    pub fn remember(&mut self, now: Instant, wall: UnixTime) -> ClockMemory {
        self.memory.latest = self.time(now, wall);
        self.memory
    }

    /// How far our wall clock is from the server's, if the server has told.
    pub fn skew(&self) -> Option<Duration> {
        self.synced.then(|| Duration::from_millis(self.memory.correction_ms.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: UnixTime = UnixTime::from_secs(1_790_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_servers_time_goes_on_with_the_monotonic_clock_whatever_the_wall_does() {
        let start = crate::tests_start();
        let mut clock = Clock::new(ClockMemory::default(), start, NOON.saturating_sub(HOUR));
        clock.handle_control_time(NOON, start, NOON.saturating_sub(HOUR));
        for wall in [UnixTime::from_secs(0), NOON, NOON.saturating_add(HOUR * 1000)] {
            assert_eq!(clock.time(start + HOUR, wall), NOON.saturating_add(HOUR));
        }
        assert_eq!(clock.skew(), Some(HOUR));
    }

    #[test]
    fn a_restart_with_a_clock_set_back_does_not_go_back_in_time() {
        let start = crate::tests_start();
        let mut clock = Clock::new(ClockMemory::default(), start, NOON);
        clock.handle_control_time(NOON, start, NOON);
        let memory = clock.remember(start + HOUR, NOON);
        let restarted = Clock::new(memory, start, NOON.saturating_sub(HOUR * 24 * 365));
        assert_eq!(restarted.time(start, NOON.saturating_sub(HOUR)), NOON.saturating_add(HOUR));
    }

    #[test]
    fn a_restart_keeps_the_correction() {
        let start = crate::tests_start();
        let mut clock = Clock::new(ClockMemory::default(), start, NOON);
        clock.handle_control_time(NOON.saturating_add(HOUR), start, NOON);
        let memory = clock.remember(start, NOON);
        let later = NOON.saturating_add(HOUR * 5);
        assert_eq!(Clock::new(memory, start, later).time(start, later), later.saturating_add(HOUR));
    }
}
