//! One peer: its keys, what is under way with it, and when something falls due.

use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, NodeSecret};

use crate::handshake::{Initiated, Psk};
use crate::keypairs::Keypairs;
use crate::macs::Writer;
use crate::noise::Key;
use crate::timers::{
    Deadlines, FRESH, HASTY_TIMEOUTS, KEEPALIVE, REKEY_AFTER, REKEY_AFTER_MESSAGES, REKEY_ON_RECEIVE, REKEY_TIMEOUT,
    Timer,
};
use crate::timestamp::Heard;

pub(crate) struct Peer {
    pub(crate) key: NodePublic,
    pub(crate) psk: Psk,
    shared: Shared,
    pub(crate) macs: Writer,
    pub(crate) heard: Heard,
    pub(crate) keypairs: Keypairs,
    /// The latest initiation, and our index in it.
    pub(crate) initiated: Option<(Initiated, u32)>,
    /// Since when we have been asking for keys.
    pub(crate) attempt_since: Option<Instant>,
    pub(crate) last_initiation: Option<Instant>,
    /// How many of the next waits for an answer are short.
    hasty_waits: usize,
    /// Initiations that the peer's own signs of life brought about in this attempt.
    nudges: u32,
    pub(crate) last_answered: Option<Instant>,
    pub(crate) last_handshake: Option<Instant>,
    pub(crate) deadlines: Deadlines,
    /// Data arrived while a keepalive was already due: another one follows it.
    keepalive_again: bool,
    /// When this peer stands in the queue of deadlines; never later than its earliest deadline.
    pub(crate) scheduled: Option<Instant>,
}

/// Diffie-Hellman of both static keys: computed at first use, since most peers of a large network are never spoken to.
enum Shared {
    Unknown,
    Known(Key),
    /// The peer's key is a point that no honest peer has.
    Impossible,
}

impl Peer {
    pub(crate) fn new(key: NodePublic) -> Self {
        Self {
            key,
            psk: Psk::default(),
            shared: Shared::Unknown,
            macs: Writer::new(&key),
            heard: Heard::default(),
            keypairs: Keypairs::default(),
            initiated: None,
            attempt_since: None,
            last_initiation: None,
            hasty_waits: 0,
            nudges: 0,
            last_answered: None,
            last_handshake: None,
            deadlines: Deadlines::default(),
            keepalive_again: false,
            scheduled: None,
        }
    }

    pub(crate) fn shared(&mut self, secret: &NodeSecret) -> Option<Key> {
        if matches!(self.shared, Shared::Unknown) {
            self.shared = secret.agree(&self.key).map_or(Shared::Impossible, Shared::Known);
        }
        match &self.shared {
            Shared::Known(key) => Some(key.clone()),
            Shared::Unknown | Shared::Impossible => None,
        }
    }

    /// We begin to ask for keys.
    pub(crate) fn begin_attempt(&mut self, now: Instant) {
        self.attempt_since = Some(now);
        (self.hasty_waits, self.nudges) = (0, 0);
    }

    /// How long an initiation that leaves now waits for its answer, without jitter.
    pub(crate) fn answer_wait(&mut self) -> Duration {
        let Some(left) = self.hasty_waits.checked_sub(1) else { return REKEY_TIMEOUT };
        self.hasty_waits = left;
        HASTY_TIMEOUTS[HASTY_TIMEOUTS.len() - 1 - left]
    }

    /// A way to the peer is there that was not there before. Returns whether to initiate anew, which is so unless the last
    /// initiation may still be answered; then its repetition comes sooner.
    pub(crate) fn path_is_back(&mut self, now: Instant) -> bool {
        if self.attempt_since.is_none() {
            return false;
        }
        self.hasty_waits = HASTY_TIMEOUTS.len();
        let Some(last) = self.last_initiation.filter(|last| now < *last + FRESH) else { return true };
        let soon = last + self.answer_wait();
        if self.deadlines.get(Timer::Retry).is_none_or(|at| at > soon) {
            self.deadlines.set(Timer::Retry, soon);
        }
        false
    }

    /// The peer showed that it is there, outside the tunnel. Returns whether to initiate anew: each time the last initiation
    /// must be twice as old, so that a peer that never answers is not asked more often than it speaks.
    pub(crate) fn is_there(&mut self, now: Instant) -> bool {
        let age = FRESH.saturating_mul(1 << self.nudges.min(4)).min(REKEY_TIMEOUT);
        if self.attempt_since.is_none() || self.last_initiation.is_some_and(|last| now < last + age) {
            return false;
        }
        if self.nudges == 0 {
            self.hasty_waits = HASTY_TIMEOUTS.len();
        }
        self.nudges += 1;
        true
    }

    /// Bookkeeping after counters were reserved; `jitter` is drawn by the caller. Returns whether new keys are due.
    pub(crate) fn sent_data(&mut self, jitter: Duration, now: Instant) -> bool {
        self.sent_any();
        if !self.deadlines.is_set(Timer::Silence) {
            self.deadlines.set(Timer::Silence, now + KEEPALIVE + REKEY_TIMEOUT + jitter);
        }
        self.keypairs.current.as_ref().is_some_and(|pair| {
            pair.next_counter > REKEY_AFTER_MESSAGES
                || pair.we_initiated && now.saturating_duration_since(pair.created) >= REKEY_AFTER
        })
    }

    pub(crate) fn sent_any(&mut self) {
        self.deadlines.clear(Timer::Keepalive);
    }

    /// Bookkeeping after authenticated packets. Returns whether new keys are due.
    pub(crate) fn received(&mut self, has_data: bool, now: Instant) -> bool {
        self.deadlines.clear(Timer::Silence);
        if has_data {
            if self.deadlines.is_set(Timer::Keepalive) {
                self.keepalive_again = true;
            } else {
                self.deadlines.set(Timer::Keepalive, now + KEEPALIVE);
            }
        }
        self.keypairs
            .current
            .as_ref()
            .is_some_and(|pair| pair.we_initiated && now.saturating_duration_since(pair.created) >= REKEY_ON_RECEIVE)
    }

    /// The keepalive timer fell due; it is armed again if more data came meanwhile.
    pub(crate) fn keepalive_sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.keepalive_again) {
            self.deadlines.set(Timer::Keepalive, now + KEEPALIVE);
        }
    }

    /// The key pairs go; a handshake that is under way goes on. Returns their indices.
    pub(crate) fn wipe_keypairs(&mut self) -> Vec<u32> {
        self.deadlines.clear(Timer::Keepalive);
        self.deadlines.clear(Timer::Silence);
        self.deadlines.clear(Timer::Erase);
        self.keepalive_again = false;
        self.keypairs.take_all().into_iter().flatten().map(|pair| pair.local_index).collect()
    }

    /// Every index that is ours and this peer's.
    pub(crate) fn indices(&mut self) -> Vec<u32> {
        let mut indices = self.wipe_keypairs();
        indices.extend(self.initiated.take().map(|(_, index)| index));
        indices
    }
}
