//! What happened between two pictures, found once for all sessions that have sent the one and must send the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use warren_crypto::UnixTime;
use warren_wire::netmap::{NetMap, diff};
use warren_wire::{CapabilityVersion, Lists, MapResponse, Message, NodeId, UserId, Written};

use crate::shown::Shown;
use crate::snapshot::Snapshot;

/// Sessions that are at most so many pictures behind share what they are told.
const REMEMBERED: usize = 16;

/// How old the server's time in a shared message may be.
const FRESH: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    pub(crate) nodes: BTreeMap<NodeId, Change>,
    /// People whose profile may have changed.
    pub(crate) users: BTreeSet<UserId>,
    standard: OnceLock<Option<(UnixTime, Arc<Written>)>>,
}

/// A record before and after.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) before: Option<Arc<Shown>>,
    pub(crate) after: Option<Arc<Shown>>,
    said: OnceLock<Said>,
}

/// What somebody is told who saw the record before and sees it after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) changed: Option<Arc<Written>>,
    pub(crate) patches: Vec<Arc<Written>>,
    pub(crate) seen: Option<bool>,
}

impl Change {
    pub(crate) fn said(&self) -> &Said {
        self.said.get_or_init(|| match (&self.before, &self.after) {
            (Some(before), Some(after)) => between(before, after),
            (None, Some(after)) => Said { changed: Some(Arc::clone(&after.text)), ..Said::default() },
            (_, None) => Said::default(),
        })
    }

    /// Whether somebody who may see it hears of it for the first time, or of another owner.
    pub(crate) fn has_fresh_owner(&self) -> bool {
        let before = self.before.as_ref().map(|before| before.user);
        self.after.as_ref().is_some_and(|after| before != Some(after.user))
    }
}

fn between(before: &Shown, after: &Arc<Shown>) -> Said {
    let alone = |node: &Shown| NetMap { peers: BTreeMap::from([(node.id, (**node).clone())]), ..NetMap::default() };
    // Of peers all versions are told the same.
    let response = diff(Some(&alone(before)), &alone(after), CapabilityVersion::OLDEST_SERVED).unwrap_or_default();
    let patches: Result<Vec<_>, _> =
        response.peers_changed_patch.iter().map(|patch| Written::member(patch).map(Arc::new)).collect();
    match patches {
        Ok(patches) => Said {
            changed: (!response.peers_changed.is_empty()).then(|| Arc::clone(&after.text)),
            patches,
            seen: response.peer_seen_change.get(&after.id).copied(),
        },
        // A whole record says as much.
        Err(_) => Said { changed: Some(Arc::clone(&after.text)), ..Said::default() },
    }
}

impl Gap {
    /// `None`: the pictures in between are forgotten.
    fn new(snapshot: &Snapshot, seq: u64) -> Option<Self> {
        let oldest = snapshot.turns.front()?.seq;
        if seq + 1 < oldest {
            return None;
        }
        let known = usize::try_from(seq + 1 - oldest).ok()?;
        let mut gap = Self::default();
        for turn in snapshot.turns.iter().skip(known) {
            for touched in &turn.nodes {
                gap.nodes.entry(touched.node).or_insert_with(|| Change {
                    before: touched.before.clone(),
                    after: snapshot.records.get(&touched.node).cloned(),
                    said: OnceLock::new(),
                });
            }
            gap.users.extend(&turn.users);
        }
        Some(gap)
    }

    /// The message for whoever saw all these nodes before and sees all of them after, and of whom nothing else changed.
    /// `None`: there is nothing to say to them, or no one message that fits all.
    pub(crate) fn standard(&self, snapshot: &Snapshot, wall: UnixTime) -> Option<Message> {
        let (at, written) = self.standard.get_or_init(|| self.write(snapshot, wall)).as_ref()?;
        let age = wall.saturating_since(*at).max(at.saturating_since(wall));
        (age <= FRESH).then(|| Message::shared(Arc::clone(written)))
    }

    fn write(&self, snapshot: &Snapshot, wall: UnixTime) -> Option<(UnixTime, Arc<Written>)> {
        let mut own = MapResponse { control_time: Some(wall), ..MapResponse::default() };
        let mut lists = Lists::default();
        let mut owners = BTreeSet::new();
        for (node, change) in &self.nodes {
            self.tell(*node, change, &mut own, &mut lists);
            if let Some(after) = change.after.as_ref().filter(|_| change.has_fresh_owner()) {
                owners.insert(after.user);
            }
        }
        own.user_profiles = snapshot.profiles(owners.into_iter()).into_values().collect();
        let is_silent = lists.peers_changed.is_empty()
            && lists.patches.is_empty()
            && own == MapResponse { control_time: Some(wall), ..MapResponse::default() };
        if is_silent {
            return None;
        }
        Some((wall, Arc::new(Written::message(&Message::new(own, &lists).ok()?))))
    }

    /// Adds a change of which somebody is told who sees it in both pictures.
    pub(crate) fn tell(&self, node: NodeId, change: &Change, own: &mut MapResponse, lists: &mut Lists) {
        if change.after.is_none() {
            own.peers_removed.extend(change.before.as_ref().map(|_| node));
            return;
        }
        let said = change.said();
        lists.peers_changed.extend(said.changed.iter().cloned());
        lists.patches.extend(said.patches.iter().cloned());
        own.peer_seen_change.extend(said.seen.map(|seen| (node, seen)));
    }
}

/// What is remembered of gaps that end with one picture. A copy of the picture remembers nothing: it becomes another.
#[derive(Debug, Default)]
pub(crate) struct Gaps([OnceLock<Option<Arc<Gap>>>; REMEMBERED]);

impl Clone for Gaps {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Gaps {
    /// What happened after the picture `seq`; `None`: it is too old.
    pub(crate) fn since(&self, snapshot: &Snapshot, seq: u64) -> Option<Arc<Gap>> {
        let find = || Gap::new(snapshot, seq).map(Arc::new);
        let behind = usize::try_from(snapshot.seq.saturating_sub(seq)).unwrap_or(usize::MAX);
        match self.0.get(behind.wrapping_sub(1)) {
            Some(place) => place.get_or_init(find).clone(),
            None => find(),
        }
    }
}
