//! Which counters were seen: a sliding bitmap after RFC 6479.
//!
//! The bits form a ring of 64-bit words. Advancing the window clears whole words in front of the new head, so no bit is
//! ever shifted; one word more than the window asks for keeps the word being filled apart from the oldest.

/// Counters that may arrive late and still be new. 8192 covers the reordering that parallel senders and bursts cause;
/// a 2048 window lost packets on fast links.
pub const WINDOW: u64 = 8192 - 64;

const WORDS: usize = 128;

/// Remembers which of the latest [`WINDOW`] counters were accepted.
#[derive(Clone)]
pub struct ReplayWindow {
    /// One more than the highest counter accepted.
    next: u64,
    words: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    /// A window that has seen nothing: counter 0 is new.
    #[must_use]
    pub fn new() -> Self {
        Self { next: 0, words: Box::new([0; WORDS]) }
    }

    /// Notes `counter` and says whether it was new. Only for messages whose tag was verified: accepting an
    /// unauthenticated counter would let anybody close the window.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        let Some(after) = counter.checked_add(1) else { return false };
        if after.saturating_add(WINDOW) <= self.next {
            return false;
        }
        let word = counter / 64;
        if counter >= self.next {
            let head = if self.next == 0 { 0 } else { (self.next - 1) / 64 };
            for step in 1..=(word - head).min(WORDS as u64) {
                self.words[((head + step) % WORDS as u64) as usize] = 0;
            }
            self.next = after;
        }
        let bit = 1 << (counter % 64);
        let slot = &mut self.words[(word % WORDS as u64) as usize];
        let is_new = *slot & bit == 0;
        *slot |= bit;
        is_new
    }

    /// The counter that a peer which lost nothing sends next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_new_once_and_only_inside_the_window() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(0));
        assert!(!window.accept(0));
        assert!(window.accept(WINDOW));
        assert!(window.accept(1), "the oldest counter inside the window");
        assert!(!window.accept(0), "one older than the window");
        assert!(window.accept(1 << 40), "a long jump clears everything");
        assert!(window.accept((1 << 40) - WINDOW + 1));
        assert!(!window.accept((1 << 40) - WINDOW));
        assert!(!window.accept(u64::MAX), "a counter that could never be sent");
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(steps in proptest::collection::vec((0u64..20_000, 0u64..9_000), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut base = 0u64;
            for (ahead, back) in steps {
                base += ahead % 700;
                let counter = base.saturating_sub(back);
                let highest = seen.last().copied();
                let in_reach = highest.is_none_or(|high| counter + WINDOW > high);
                let expect = in_reach && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter), expect, "counter {}", counter);
                if expect { seen.insert(counter); }
            }
        }
    }
}
