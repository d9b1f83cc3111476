//! What is answered while many knock at once.
//!
//! Checking a MAC costs half a microsecond, answering an initiation some hundred. Messages with a right MAC1 therefore
//! fill a bucket that drains at a rate one core bears; once it is full the node is *under load* for at least a second
//! and asks for a cookie, which binds each message to an address that can hear; then each address has its own share, so
//! that one cannot starve the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::macs::Source;

/// Messages that may come at once before the node feels load (an eighth of the queue that others keep).
const BURST: f64 = 128.0;
/// Messages per second that drain: some four per cent of one core.
const DRAIN_PER_SECOND: f64 = 256.0;
/// Load is felt for at least this long.
const LOAD_PERSISTS: Duration = Duration::from_secs(1);
/// Handshakes per second and source under load, and how many of them at once.
const SOURCE_PER_SECOND: f64 = 20.0;
const SOURCE_BURST: f64 = 5.0;
/// Sources remembered at once (each 72 bytes); who comes beyond that waits until old ones are forgotten.
const MAX_SOURCES: usize = 4096;

/// Whether this node is under load, and each source's share.
pub(crate) struct Limiter {
    level: f64,
    level_at: Instant,
    loaded_until: Option<Instant>,
    sources: BTreeMap<(u8, [u8; 32]), (f64, Instant)>,
    swept_at: Instant,
}

impl Limiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { level: 0.0, level_at: now, loaded_until: None, sources: BTreeMap::new(), swept_at: now }
    }

    /// Counts one message with a right MAC1 and says whether the node is under load.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.level_at).as_secs_f64();
        self.level = (self.level - elapsed * DRAIN_PER_SECOND).max(0.0) + 1.0;
        self.level_at = self.level_at.max(now);
        if self.level > BURST {
            self.level = BURST;
            self.loaded_until = Some(now + LOAD_PERSISTS);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Takes one handshake from the source's share; `false` when it is used up. Only for a right MAC2.
    pub(crate) fn admit(&mut self, source: Source, now: Instant) -> bool {
        if now.saturating_duration_since(self.swept_at) >= LOAD_PERSISTS {
            // A bucket that had a second's rest is full again: forgetting it changes nothing.
            self.sources.retain(|_, (_, at)| now.saturating_duration_since(*at) < LOAD_PERSISTS);
            self.swept_at = now;
        }
        let key = source.limit_key();
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key) {
            return false;
        }
        let (tokens, at) = self.sources.entry(key).or_insert((SOURCE_BURST, now));
        let elapsed = now.saturating_duration_since(*at).as_secs_f64();
        *tokens = (*tokens + elapsed * SOURCE_PER_SECOND).min(SOURCE_BURST);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::Address(([192, 0, 2, last], 9).into())
    }

    #[test]
    fn load_begins_with_a_burst_and_ends_when_it_is_over() {
        let now = crate::timers::tests::start();
        let mut limiter = Limiter::new(now);
        assert!((0..128).all(|_| !limiter.note(now)));
        assert!(limiter.note(now));
        assert!(limiter.note(now + Duration::from_millis(900)), "load persists");
        assert!(!limiter.note(now + Duration::from_secs(3)));
    }

    #[test]
    fn one_source_cannot_use_up_anothers_share() {
        let now = crate::timers::tests::start();
        let mut limiter = Limiter::new(now);
        assert_eq!((0..100).filter(|_| limiter.admit(source(1), now)).count(), 5);
        assert!(limiter.admit(source(2), now));
        assert!(limiter.admit(source(1), now + Duration::from_millis(50)), "20 a second");
        assert!(!limiter.admit(source(1), now + Duration::from_millis(51)));
    }

    #[test]
    fn memory_for_sources_is_bounded() {
        let now = crate::timers::tests::start();
        let mut limiter = Limiter::new(now);
        let mut admitted = 0;
        for i in 0..10_000u32 {
            let [_, a, b, c] = i.to_be_bytes();
            admitted += usize::from(limiter.admit(Source::Address(([10, a, b, c], 9).into()), now));
        }
        assert_eq!(admitted, MAX_SOURCES);
        assert!(limiter.admit(source(1), now + Duration::from_secs(2)), "old sources are forgotten");
    }
}
