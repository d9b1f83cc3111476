//! Three places for key pairs.
//!
//! ```text
//! initiator finished ──────────────────────────> current ──> previous   (late packets still open)
//! responder answered ──> next ── first data ───> current ──> previous
//! ```
//! A responder does not send with `next`: nobody has shown yet that the initiator got the answer. Whitepaper §5.4, §6.3.

use std::sync::Arc;
use std::time::Instant;

use crate::handshake::Keys;
use crate::replay::ReplayWindow;
use crate::timers::REJECT_AFTER;
use crate::transport::{REJECT_AFTER_MESSAGES, ReceiveKey, SendKey};

/// Keys of both directions with what their owner alone may change: the counter and the window.
pub(crate) struct Keypair {
    pub(crate) local_index: u32,
    pub(crate) send: Arc<SendKey>,
    pub(crate) receive: Arc<ReceiveKey>,
    pub(crate) next_counter: u64,
    pub(crate) window: ReplayWindow,
    pub(crate) created: Instant,
    pub(crate) we_initiated: bool,
}

impl Keypair {
    pub(crate) fn new(local_index: u32, keys: Keys, we_initiated: bool, now: Instant) -> Self {
        Self {
            local_index,
            send: Arc::new(keys.send),
            receive: Arc::new(keys.receive),
            next_counter: 0,
            window: ReplayWindow::new(),
            created: now,
            we_initiated,
        }
    }

    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.created) < REJECT_AFTER
    }

    pub(crate) fn can_send(&self, messages: u64, now: Instant) -> bool {
        self.is_alive(now)
            && self.next_counter.checked_add(messages).is_some_and(|after| after <= REJECT_AFTER_MESSAGES)
    }
}

/// Previous, current and next.
#[derive(Default)]
pub(crate) struct Keypairs {
    pub(crate) previous: Option<Keypair>,
    pub(crate) current: Option<Keypair>,
    pub(crate) next: Option<Keypair>,
}

impl Keypairs {
    /// Puts a new pair in its place; returns the pairs that have no place any more.
    pub(crate) fn add(&mut self, pair: Keypair) -> [Option<Keypair>; 2] {
        if pair.we_initiated {
            // An unconfirmed answer of ours may yet be confirmed by packets under way: it stays readable as previous.
            let retired = match self.next.take() {
                Some(next) => [self.previous.replace(next), self.current.take()],
                None => [std::mem::replace(&mut self.previous, self.current.take()), None],
            };
            self.current = Some(pair);
            retired
        } else {
            [self.next.replace(pair), self.previous.take()]
        }
    }

    /// Authenticated data arrived under `index`: if that is `next`, it becomes current. Returns whether it did, and the
    /// pair that has no place any more.
    pub(crate) fn confirm(&mut self, index: u32) -> (bool, Option<Keypair>) {
        match self.next.take_if(|next| next.local_index == index) {
            Some(next) => (true, std::mem::replace(&mut self.previous, self.current.replace(next))),
            None => (false, None),
        }
    }

    pub(crate) fn by_index(&mut self, index: u32) -> Option<&mut Keypair> {
        [&mut self.current, &mut self.previous, &mut self.next]
            .into_iter()
            .flatten()
            .find(|pair| pair.local_index == index)
    }

    /// Whether a pair that the peer has confirmed (or finished itself) is in use.
    pub(crate) fn has_confirmed(&self, now: Instant) -> bool {
        [&self.current, &self.previous].into_iter().flatten().any(|pair| pair.is_alive(now))
    }

    pub(crate) fn take_all(&mut self) -> [Option<Keypair>; 3] {
        [self.previous.take(), self.current.take(), self.next.take()]
    }
}
