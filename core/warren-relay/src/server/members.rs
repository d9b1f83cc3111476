//! Who is here: keys, their connections, and who has heard from whom.
//!
//! One key may hold several connections: after a change of network the old one lives on for minutes. The connection that was heard
//! from last is the active one; the others stay open, because closing them makes their clients reconnect for ever.

use std::collections::{BTreeMap, BTreeSet};

use warren_crypto::NodePublic;

use super::ConnId;

#[derive(Default)]
pub(super) struct Members {
    keys: BTreeMap<NodePublic, Presence>,
    /// For each connection, whose packets it was sent: the inverse of [`Presence::told`].
    heard: BTreeMap<ConnId, BTreeSet<NodePublic>>,
}

#[derive(Default)]
struct Presence {
    /// Least recently heard from first; never empty.
    conns: Vec<ConnId>,
    /// Connections that got a packet of this key and are to learn when it leaves.
    told: BTreeSet<ConnId>,
}

impl Members {
    pub(super) fn join(&mut self, key: NodePublic, id: ConnId) {
        self.keys.entry(key).or_default().conns.push(id);
    }

    /// Removes a connection. If it was its key's last, the connections that must learn so.
    pub(super) fn leave(&mut self, key: NodePublic, id: ConnId) -> Vec<ConnId> {
        for sender in self.heard.remove(&id).unwrap_or_default() {
            if let Some(presence) = self.keys.get_mut(&sender) {
                presence.told.remove(&id);
            }
        }
        let Some(presence) = self.keys.get_mut(&key) else { return Vec::new() };
        presence.conns.retain(|conn| *conn != id);
        if !presence.conns.is_empty() {
            return Vec::new();
        }
        let told: Vec<ConnId> = self.keys.remove(&key).map(|gone| gone.told.into_iter().collect()).unwrap_or_default();
        for conn in &told {
            if let Some(heard) = self.heard.get_mut(conn) {
                heard.remove(&key);
            }
        }
        told
    }

    /// The last connection to speak is where its key's packets go.
    pub(super) fn heard_from(&mut self, key: NodePublic, id: ConnId) {
        let Some(presence) = self.keys.get_mut(&key) else { return };
        if presence.conns.last() != Some(&id)
            && let Some(at) = presence.conns.iter().position(|conn| *conn == id)
        {
            presence.conns[at..].rotate_left(1);
        }
    }

    pub(super) fn active(&self, key: &NodePublic) -> Option<ConnId> {
        self.keys.get(key).and_then(|presence| presence.conns.last()).copied()
    }

    pub(super) fn active_conns(&self) -> impl Iterator<Item = (NodePublic, ConnId)> + '_ {
        self.keys.iter().filter_map(|(key, presence)| Some((*key, *presence.conns.last()?)))
    }

    /// A packet of `from` is on its way to `to`, which is to learn when `from` leaves.
    pub(super) fn wrote(&mut self, from: NodePublic, to: ConnId) {
        if let Some(presence) = self.keys.get_mut(&from)
            && presence.told.insert(to)
        {
            self.heard.entry(to).or_default().insert(from);
        }
    }

    /// Keys, not connections.
    pub(super) fn count(&self) -> u64 {
        self.keys.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let mut members = Members::default();
        let (a, b) = (NodePublic::from_bytes([1; 32]), NodePublic::from_bytes([2; 32]));
        members.join(a, ConnId(1));
        members.join(b, ConnId(2));
        members.wrote(a, ConnId(2));
        members.wrote(b, ConnId(1));
        assert_eq!(members.leave(a, ConnId(1)), [ConnId(2)]);
        assert_eq!(members.leave(b, ConnId(2)), []);
        assert!(members.keys.is_empty() && members.heard.is_empty());
    }

    #[test]
    fn of_several_connections_the_last_to_speak_is_active_and_the_next_last_takes_over() {
        let mut members = Members::default();
        let key = NodePublic::from_bytes([1; 32]);
        for id in 1..=3 {
            members.join(key, ConnId(id));
        }
        assert_eq!(members.active(&key), Some(ConnId(3)));
        members.heard_from(key, ConnId(1));
        assert_eq!(members.active(&key), Some(ConnId(1)));
        members.leave(key, ConnId(1));
        assert_eq!(members.active(&key), Some(ConnId(3)));
        assert_eq!(members.count(), 1);
    }
}
