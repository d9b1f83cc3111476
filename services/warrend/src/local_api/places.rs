//! How many connections each local user may hold at once.
//!
//! Every local user may connect, and a connection may stay open for ever (`watch-ipn-bus`). So each user has a share, and all
//! users together leave some places to those who can mend things: root and the daemon's own user.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Open connections; a bus per tray program and a script per second are far below.
const MOST: usize = 256;

/// Of one user.
const MOST_OF_ONE: usize = 64;

/// Kept for root and the daemon's own user, who have no share that limits them.
const KEPT: usize = 32;

/// The places; clones share them.
#[derive(Clone)]
pub(super) struct Places {
    own_uid: u32,
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
}

/// One connection's place, until it is dropped.
#[must_use]
pub(super) struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    pub(super) fn new(own_uid: u32) -> Self {
        Places { own_uid, taken: Arc::default() }
    }

    /// A place for a connection of `uid`, if there is one for that user.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        self.with(|taken| {
            let all: usize = taken.values().sum();
            let own = taken.entry(uid).or_default();
            let has_room =
                if uid == 0 || uid == self.own_uid { all < MOST } else { all < MOST - KEPT && *own < MOST_OF_ONE };
            *own += usize::from(has_room);
            has_room.then(|| Place { places: self.clone(), uid })
        })
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<u32, usize>) -> R) -> R {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut taken);
        taken.retain(|_, count| *count > 0);
        result
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.with(|taken| {
            if let Some(count) = taken.get_mut(&self.uid) {
                *count = count.saturating_sub(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many places as there are for `uid`.
    fn take_all(places: &Places, uid: u32) -> Vec<Place> {
        std::iter::from_fn(|| places.take(uid)).collect()
    }

    #[test]
    fn one_user_does_not_keep_others_out_and_all_of_them_not_root_and_owner() {
        let places = Places::new(1000);
        let greedy = take_all(&places, 1001);
        assert!(!greedy.is_empty());
        let second = take_all(&places, 1002);
        assert_eq!(second.len(), greedy.len(), "the same share");
        let others: Vec<Place> = (1003..2000).flat_map(|uid| take_all(&places, uid)).collect();
        assert!(places.take(3000).is_none());
        let root: Vec<Place> = (0..8).filter_map(|_| places.take(0)).collect();
        let owner = take_all(&places, 1000);
        assert!(root.len() == 8 && owner.len() >= 8);
        assert_eq!(greedy.len() + second.len() + others.len() + root.len() + owner.len(), MOST);
        drop((owner, others));
        assert!(places.take(3000).is_some(), "what is given back is free");
    }
}
