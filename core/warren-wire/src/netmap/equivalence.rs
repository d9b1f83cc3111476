//! When two maps are the same as far as the protocol can say.

use super::NetMap;
use crate::Node;

/// Whether `held` (folded by a client) is what the server meant by `truth`, as far as the protocol can say it.
///
/// What the protocol cannot say, and is therefore allowed to differ:
///
/// - a user's profile is never removed: `held` may know more;
/// - a peer's home relay, capability version and key signature cannot be taken back, only replaced;
/// - a peer's presence cannot go back to unknown: where `truth` has no `online` or `last_seen`, `held` may have one;
///   and a stock client drops the transitions between known and unknown that come in a whole node, so a `last_seen`
///   may also be missing;
/// - the network's name and audit id cannot be cleared;
/// - a filter chunk without rules is the same as no chunk;
/// - an SSH policy without rules is the same as none, lock that is disabled is the same as no word about it, and
///   scores of relays that are empty the same as none.
pub fn equivalent(held: &NetMap, truth: &NetMap) -> bool {
    let mut held = held.clone();
    let mut truth = truth.clone();
    for map in [&mut held, &mut truth] {
        map.filters.retain(|_, rules| !rules.is_empty());
        map.ssh_policy.take_if(|policy| policy.rules.is_empty());
        map.tka_info.take_if(|info| info.disabled);
        map.relay_map.home_params.take_if(|params| params.region_score.is_empty());
    }
    held.profiles.retain(|id, _| truth.profiles.contains_key(id));
    if truth.domain.is_empty() {
        held.domain.clear();
    }
    if truth.domain_audit_log_id.is_empty() {
        held.domain_audit_log_id.clear();
    }
    for (id, node) in &mut held.peers {
        if let Some(truth) = truth.peers.get_mut(id) {
            forgive(node, truth);
        }
    }
    held == truth
}

fn forgive(held: &mut Node, truth: &mut Node) {
    if truth.home_derp.is_none() {
        held.home_derp = None;
    }
    if truth.cap.0 == 0 {
        held.cap = truth.cap;
    }
    if truth.key_signature.is_empty() {
        held.key_signature.clear();
    }
    if truth.online.is_none() {
        held.online = None;
    }
    if truth.last_seen.is_none() || held.last_seen.is_none() {
        held.last_seen = None;
        truth.last_seen = None;
    }
}
