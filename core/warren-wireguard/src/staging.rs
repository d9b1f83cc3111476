//! What waits for keys: a bounded queue per peer. The oldest gives way, since a late packet helps nobody.

use std::collections::VecDeque;

/// Packets or bursts that wait for one peer's keys, bounded by number and by bytes.
#[derive(Debug)]
pub struct Staging<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    max_items: usize,
    max_bytes: usize,
}

impl<T> Staging<T> {
    /// Holds at most `max_items` items of together `max_bytes`.
    #[must_use]
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        Self { items: VecDeque::new(), bytes: 0, max_items, max_bytes }
    }

    /// Adds at the end; returns what had to give way, oldest first (the item itself if it is larger than the queue).
    #[must_use]
    pub fn push(&mut self, item: T, bytes: usize) -> Vec<T> {
        let mut dropped = Vec::new();
        if bytes > self.max_bytes || self.max_items == 0 {
            dropped.push(item);
            return dropped;
        }
        while self.items.len() >= self.max_items || self.bytes + bytes > self.max_bytes {
            let Some((len, oldest)) = self.items.pop_front() else { break };
            self.bytes -= len;
            dropped.push(oldest);
        }
        self.bytes += bytes;
        self.items.push_back((bytes, item));
        dropped
    }

    /// Takes everything, oldest first, and gives the memory back.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.bytes = 0;
        std::mem::take(&mut self.items).into_iter().map(|(_, item)| item)
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_when_items_or_bytes_run_out() {
        let mut staging = Staging::new(2, 100);
        assert!(staging.push('a', 60).is_empty());
        assert_eq!(staging.push('b', 60), ['a'], "bytes");
        assert!(staging.push('c', 10).is_empty());
        assert_eq!(staging.push('d', 10), ['b'], "items");
        assert_eq!(staging.push('e', 101), ['e'], "larger than the queue");
        assert_eq!(staging.drain().collect::<String>(), "cd");
        assert!(staging.is_empty());
    }
}
