//! How many connections may be open, and which one goes when there are too many.
//!
//! ```text
//!            first whole request                 last user of its ticket is gone
//! young ─────────────────────────▶ grown ─────────────────────────────────────▶ gone
//!   └── too many young ones: the oldest is shut out
//! ```
//!
//! A connection that has not asked for anything is young. Anybody can open thousands of those at no cost, so young ones
//! are few and the newest is always let in at the price of the oldest: an honest client asks within moments of
//! connecting, a hoarder's connection is old before long. A grown connection is never shut out for another's sake; past
//! their cap new ones are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use warren_ip::source_of;

/// Caps of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Connections that have not asked for anything.
    pub young: usize,
    /// The same from one source. Below `young`, so that one source cannot push out the others.
    pub young_per_source: usize,
    /// Connections in use.
    pub grown: usize,
    /// The same from one source; a whole office may share one address.
    pub grown_per_source: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { young: 2048, young_per_source: 512, grown: 20_000, grown_per_source: 4096 }
    }
}

/// Counts connections. Shared by the listener and all tickets.
#[derive(Debug)]
pub(crate) struct Door {
    caps: Caps,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    next: u64,
    /// In order of arrival.
    young: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    young_of: BTreeMap<IpAddr, BTreeSet<u64>>,
    grown: usize,
    grown_of: BTreeMap<IpAddr, usize>,
}

/// One open connection. It counts until the last clone of its `Arc` is dropped, so whoever takes over the stream of an
/// upgraded connection keeps the ticket with it.
#[derive(Debug)]
pub struct Ticket {
    door: Arc<Door>,
    number: u64,
    source: IpAddr,
    grown: std::sync::atomic::AtomicBool,
}

impl Door {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self { caps, counts: Mutex::default() })
    }

    /// Lets a connection in, young. The receiver gets a message when it must go to make room.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> (Arc<Ticket>, oneshot::Receiver<()>) {
        let source = source_of(address);
        let mut counts = self.counts();
        if counts.young_of.get(&source).is_some_and(|numbers| numbers.len() >= self.caps.young_per_source) {
            let oldest = counts.young_of.get(&source).and_then(|numbers| numbers.first().copied());
            counts.shut_out(oldest);
        } else if counts.young.len() >= self.caps.young {
            counts.shut_out_oldest();
        }
        let number = counts.next;
        counts.next += 1;
        let (tell, told) = oneshot::channel();
        counts.young.insert(number, (source, tell));
        counts.young_of.entry(source).or_default().insert(number);
        let ticket = Ticket { door: Arc::clone(self), number, source, grown: false.into() };
        (Arc::new(ticket), told)
    }

    /// Sends the oldest young connections away: the process is out of file descriptors.
    pub(crate) fn make_room(&self, most: usize) {
        let mut counts = self.counts();
        for _ in 0..most {
            counts.shut_out_oldest();
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Every change below is complete before anything that could panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn totals(&self) -> (usize, usize) {
        let counts = self.counts();
        (counts.young.len(), counts.grown)
    }
}

impl Counts {
    fn shut_out_oldest(&mut self) {
        let oldest = self.young.first_key_value().map(|(number, _)| *number);
        self.shut_out(oldest);
    }

    fn shut_out(&mut self, number: Option<u64>) {
        if let Some(tell) = number.and_then(|number| self.remove_young(number)) {
            let _ = tell.send(()); // it may be ending by itself
        }
    }

    fn remove_young(&mut self, number: u64) -> Option<oneshot::Sender<()>> {
        let (source, tell) = self.young.remove(&number)?;
        if let Some(numbers) = self.young_of.get_mut(&source) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.young_of.remove(&source);
            }
        }
        Some(tell)
    }
}

impl Ticket {
    /// The connection has made its first request. False: there are too many in use, and it should be refused.
    /// Later calls say what the first said.
    pub(crate) fn grow(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        if self.grown.load(Relaxed) {
            return true;
        }
        let caps = self.door.caps;
        let mut counts = self.door.counts();
        let of_source = counts.grown_of.get(&self.source).copied().unwrap_or(0);
        if counts.grown >= caps.grown || of_source >= caps.grown_per_source {
            return false;
        }
        let told = counts.remove_young(self.number);
        counts.grown += 1;
        counts.grown_of.insert(self.source, of_source + 1);
        self.grown.store(true, Relaxed);
        drop(told); // its receiver learns that nobody will send it away
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.door.counts();
        if *self.grown.get_mut() {
            counts.grown -= 1;
            let left = counts.grown_of.get(&self.source).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                counts.grown_of.remove(&self.source);
            } else {
                counts.grown_of.insert(self.source, left);
            }
        } else {
            counts.remove_young(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { young: 4, young_per_source: 2, grown: 2, grown_per_source: 1 };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_newest_is_let_in_and_the_oldest_of_the_same_source_goes() {
        let door = Door::new(CAPS);
        let (_a, mut told_a) = door.enter(ip(1));
        let (_b, mut told_b) = door.enter(ip(1));
        let (_other, mut told_other) = door.enter(ip(2));
        let (_c, mut told_c) = door.enter(ip(1));
        assert_eq!(told_a.try_recv(), Ok(()));
        for told in [&mut told_b, &mut told_other, &mut told_c] {
            assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        }
        assert_eq!(door.totals(), (3, 0));
    }

    #[test]
    fn many_sources_push_out_the_oldest_of_all() {
        let door = Door::new(CAPS);
        let mut entered: Vec<_> = (0..5).map(|last| door.enter(ip(last))).collect();
        let gone: Vec<bool> = entered.iter_mut().map(|(_, told)| told.try_recv().is_ok()).collect();
        assert_eq!(gone, [true, false, false, false, false]);
    }

    #[test]
    fn one_that_asked_is_not_pushed_out_and_counts_until_its_last_user_is_gone() {
        let door = Door::new(CAPS);
        let (ticket, mut told) = door.enter(ip(1));
        assert!(ticket.grow() && ticket.grow());
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(door.totals(), (0, 1));
        assert!(!door.enter(ip(1)).0.grow(), "one per source");
        assert!(door.enter(ip(2)).0.grow(), "and gone at once");
        let upgraded = Arc::clone(&ticket);
        drop(ticket);
        assert_eq!(door.totals(), (0, 1));
        drop(upgraded);
        assert_eq!(door.totals(), (0, 0));
    }
}
