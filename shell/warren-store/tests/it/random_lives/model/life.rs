//! What comes by itself: time, streams, restarts.

use super::*;

impl Model {
    pub fn newest_link(&self) -> Option<AuthId> {
        self.waiting.iter().filter(|(_, w)| w.verdict.is_none()).max_by_key(|(_, w)| w.since).map(|(id, _)| *id)
    }

    /// The link that was made by the last command is called so.
    pub fn name_link(&mut self, id: AuthId) {
        assert!(!self.waiting.contains_key(&id), "a link was given twice");
        let request = self.new_link.take().expect("a link was made");
        self.outdate(request.machine, request.key);
        self.waiting.insert(id, Waiting { request, since: self.now, verdict: None });
    }

    /// The server is another process now: what was soft and not saved is gone.
    pub fn restart(&mut self) {
        self.waiting.clear();
        self.told.clear();
        self.said = self.saved.clone();
        self.said.values_mut().for_each(|said| said.refused.clear());
        self.connected.clear();
        self.leaving.clear();
        let away = self.now + GRACE + EPHEMERAL_TIMEOUT;
        self.away = self.nodes.iter().filter(|(_, node)| node.ephemeral).map(|(id, _)| (*id, away)).collect();
        self.next_tick = self.now;
    }

    pub fn connect(&mut self, id: i64) {
        self.connected.insert(id);
        self.leaving.remove(&id);
        self.away.remove(&id);
    }

    /// The database refused a removal: it is asked for again.
    pub fn remove_later(&mut self, id: i64) {
        if self.nodes.contains_key(&id) && !self.connected.contains(&id) {
            self.away.insert(id, self.now + GRACE);
        }
    }

    pub fn disconnect(&mut self, id: i64) {
        self.connected.remove(&id);
        self.leaving.insert(id, self.now + GRACE);
        if self.nodes[&id].ephemeral {
            self.away.insert(id, self.now + GRACE + EPHEMERAL_TIMEOUT);
        }
    }

    /// Time passes; what the server must now ask of itself.
    pub fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.now += seconds;
        let now = self.now;
        self.leaving.retain(|_, at| *at > now);
        let due: Vec<i64> = self.away.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        self.away.retain(|_, at| *at > now);
        let mut asks: Vec<String> = due.iter().map(|id| format!("remove_away {id}")).collect();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            if self.nodes.values().any(|node| is_due(node, now)) {
                asks.push("expire_due".into());
            }
        }
        asks.sort();
        asks
    }

    /// Networks that two nodes serve: which of them is elected is a matter of what was before.
    pub fn contended(&self) -> BTreeSet<String> {
        let served = |(id, node): (&i64, &Node)| {
            let said = self.said.get(id).map(|said| said.routes.clone()).unwrap_or_default();
            said.into_iter()
                .filter(|route| node.routes.contains(route))
                .map(|route| route.to_string())
                .collect::<Vec<_>>()
        };
        let mut seen = BTreeSet::new();
        self.nodes.iter().flat_map(served).filter(|route| !seen.insert(route.clone())).collect()
    }
}

pub(super) fn is_expired(node: &Node, now: u64) -> bool {
    node.expired || node.expiry.is_some_and(|expiry| expiry <= now)
}

/// Whether what its row says of its key is not what time says.
pub(super) fn is_due(node: &Node, now: u64) -> bool {
    !node.logged_out && node.expired != node.expiry.is_some_and(|expiry| expiry <= now)
}

/// Logged out: now, or when it had ended already.
pub(super) fn end(node: &mut Node, now: u64) {
    if !node.logged_out {
        node.expiry = Some(node.expiry.filter(|expiry| *expiry <= now).unwrap_or(now));
        (node.expired, node.logged_out) = (true, true);
    }
}
