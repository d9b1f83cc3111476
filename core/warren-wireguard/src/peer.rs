//! One peer: its keys, what is under way with it, and when something falls due.

use std::time::Instant;

use warren_crypto::{NodePublic, NodeSecret};

use crate::handshake::{Initiated, Psk};
use crate::keypairs::Keypairs;
use crate::macs::Writer;
use crate::noise::Key;
use crate::timers::{Deadlines, KEEPALIVE, REKEY_AFTER, REKEY_AFTER_MESSAGES, REKEY_ON_RECEIVE, REKEY_TIMEOUT, Timer};
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

    /// Bookkeeping after counters were reserved; `jitter` is drawn by the caller. Returns whether new keys are due.
    pub(crate) fn sent_data(&mut self, jitter: std::time::Duration, now: Instant) -> bool {
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
