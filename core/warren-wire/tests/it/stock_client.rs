//! A model of how the stock client folds a stream, with the habits that ours does not have (control-protocol.md §7.2, §7.11).
//!
//! Written from the description, to hold our `diff` to what *that* client understands: nodes that differ from the known
//! one only in patchable fields are turned into patches, and such a patch cannot say certain things.

use warren_crypto::UnixTime;
use warren_wire::netmap::{NetMap, fold};
use warren_wire::{MapResponse, Node, PeerChange};

/// As [`fold`], but with the detour over patches.
pub fn stock_fold(map: &mut Option<NetMap>, mut message: MapResponse, now: UnixTime) {
    if let Some(held) = map {
        message.peers_changed.retain_mut(|node| {
            node.normalise();
            match held.peers.get(&node.id).and_then(|before| patchified(before, node)) {
                Some(patch) => {
                    message.peers_changed_patch.push(patch);
                    false
                }
                None => true,
            }
        });
    }
    fold(map, message, now).expect("our own diff begins with a node");
}

/// The patch that the stock client makes of a whole node, if only patchable fields differ.
fn patchified(before: &Node, after: &Node) -> Option<PeerChange> {
    let rest = Node {
        home_derp: after.home_derp,
        cap: after.cap,
        cap_map: after.cap_map.clone(),
        endpoints: after.endpoints.clone(),
        key: after.key,
        key_signature: after.key_signature.clone(),
        disco_key: after.disco_key,
        online: after.online,
        last_seen: after.last_seen,
        key_expiry: after.key_expiry,
        ..before.clone()
    };
    // A disco key that goes away is no patch: its zero value is sent as a whole node.
    if rest != *after || (before.disco_key.is_some() && after.disco_key.is_none()) {
        return None;
    }
    // Presence is compared only where both sides have a value.
    let both = before.online.is_some() && after.online.is_some();
    let both_seen = before.last_seen.is_some() && after.last_seen.is_some();
    Some(PeerChange {
        node_id: after.id,
        derp_region: after.home_derp,
        cap: after.cap,
        cap_map: Some(after.cap_map.clone()),
        endpoints: Some(after.endpoints.clone()),
        key: Some(after.key),
        key_signature: after.key_signature.clone(),
        disco_key: after.disco_key,
        online: after.online.filter(|_| both),
        last_seen: after.last_seen.filter(|_| both_seen),
        key_expiry: Some(after.key_expiry),
    })
}
