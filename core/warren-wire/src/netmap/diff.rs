//! The map response that turns one map into another.

use std::collections::BTreeMap;

use super::NetMap;
use crate::{CapabilityVersion, MapResponse, Node, NodeId, PeerChange, TkaInfo};

/// The whole map as the first message of a stream.
pub fn full(map: &NetMap, version: CapabilityVersion) -> MapResponse {
    let map = map.as_seen_by(version);
    MapResponse {
        derp_map: Some(map.relay_map.to_update()),
        peers: map.peers.into_values().collect(),
        dns_config: Some(Box::new(map.dns)),
        domain: map.domain,
        collect_services: Some(map.collect_services),
        packet_filters: whole_filter(map.filters),
        user_profiles: map.profiles.into_values().collect(),
        health: (!map.health.is_empty()).then_some(map.health),
        display_messages: map.display_messages.into_iter().map(|(id, message)| (id, Some(message))).collect(),
        ssh_policy: map.ssh_policy,
        tka_info: map.tka_info,
        control_dial_plan: (!map.control_dial_plan.candidates.is_empty()).then_some(map.control_dial_plan),
        client_version: (map.client_version != Default::default()).then_some(map.client_version),
        domain_data_plane_audit_log_id: map.domain_audit_log_id,
        node: Some(Box::new(map.self_node)),
        ..MapResponse::default()
    }
}

/// A client that was never told anything blocks all; one that is told an empty chunk does too, and knows that it was meant.
fn whole_filter<R>(filters: BTreeMap<String, Vec<R>>) -> BTreeMap<String, Option<Vec<R>>> {
    if filters.is_empty() {
        return BTreeMap::from([("base".to_owned(), Some(Vec::new()))]);
    }
    filters.into_iter().map(|(name, rules)| (name, Some(rules))).collect()
}

/// The message after which a client of `version` that holds `old` holds `new`; `None` when there is nothing to say.
///
/// Without `old` it is the whole map. What cannot be said is listed at [`super::equivalent`].
pub fn diff(old: Option<&NetMap>, new: &NetMap, version: CapabilityVersion) -> Option<MapResponse> {
    let Some(old) = old else { return Some(full(new, version)) };
    let (old, new) = (old.as_seen_by(version), new.as_seen_by(version));
    let mut message = MapResponse::default();
    diff_peers(&old, &new, &mut message);
    message.packet_filters = diff_entries(&old.filters, &new.filters);
    message.display_messages = diff_entries(&old.display_messages, &new.display_messages);
    message.user_profiles =
        new.profiles.values().filter(|profile| old.profiles.get(&profile.id) != Some(profile)).cloned().collect();
    if old.relay_map != new.relay_map {
        message.derp_map = Some(new.relay_map.to_update());
    }
    message.dns_config = changed(&old.dns, &new.dns).map(Box::new);
    message.collect_services = changed(&old.collect_services, &new.collect_services);
    message.health = changed(&old.health, &new.health);
    message.ssh_policy = changed(&old.ssh_policy, &new.ssh_policy).map(Option::unwrap_or_default);
    message.tka_info = changed(&old.tka_info, &new.tka_info)
        .map(|info| info.unwrap_or(TkaInfo { disabled: true, ..TkaInfo::default() }));
    message.control_dial_plan = changed(&old.control_dial_plan, &new.control_dial_plan);
    message.client_version = changed(&old.client_version, &new.client_version);
    message.domain = changed(&old.domain, &new.domain).unwrap_or_default();
    message.domain_data_plane_audit_log_id =
        changed(&old.domain_audit_log_id, &new.domain_audit_log_id).unwrap_or_default();
    message.node = changed(&old.self_node, &new.self_node).map(Box::new);
    (message != MapResponse::default()).then_some(message)
}

fn changed<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

fn diff_entries<V: Clone + PartialEq>(
    old: &BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
) -> BTreeMap<String, Option<V>> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    let fresh = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    gone.chain(fresh.map(|(name, value)| (name.clone(), Some(value.clone())))).collect()
}

fn diff_peers(old: &NetMap, new: &NetMap, message: &mut MapResponse) {
    message.peers_removed = old.peers.keys().filter(|id| !new.peers.contains_key(*id)).copied().collect();
    for (id, node) in &new.peers {
        match old.peers.get(id) {
            Some(before) if before == node => {}
            Some(before) => diff_peer(*id, before, node, message),
            None => message.peers_changed.push(node.clone()),
        }
    }
}

fn diff_peer(id: NodeId, before: &Node, after: &Node, message: &mut MapResponse) {
    if *after != patchable_taken_over(before, after) {
        message.peers_changed.push(after.clone());
        return;
    }
    let mut patch = PeerChange {
        node_id: id,
        derp_region: changed(&before.home_derp, &after.home_derp).flatten(),
        cap: changed(&before.cap, &after.cap).unwrap_or_default(),
        cap_map: changed(&before.cap_map, &after.cap_map),
        endpoints: changed(&before.endpoints, &after.endpoints),
        key: changed(&before.key, &after.key),
        key_signature: changed(&before.key_signature, &after.key_signature).unwrap_or_default(),
        disco_key: changed(&before.disco_key, &after.disco_key).flatten(),
        online: changed(&before.online, &after.online).flatten(),
        last_seen: changed(&before.last_seen, &after.last_seen).flatten(),
        key_expiry: changed(&before.key_expiry, &after.key_expiry),
    };
    // A client that learnt a newer disco key from the peer itself discards a whole patch that has a disco key, says
    // offline and looks old (§7.10); so presence goes apart from it.
    if patch.disco_key.is_some() && patch.online != Some(true) && (patch.online.is_some() || patch.last_seen.is_some())
    {
        let presence = PeerChange {
            node_id: id,
            online: patch.online.take(),
            last_seen: patch.last_seen.take(),
            ..PeerChange::default()
        };
        message.peers_changed_patch.push(presence);
    }
    if patch != (PeerChange { node_id: id, ..PeerChange::default() }) {
        message.peers_changed_patch.push(patch);
    }
    if before.last_seen.is_some() && after.last_seen.is_none() {
        message.peer_seen_change.insert(id, false);
    }
    let unsayable = (before.disco_key.is_some() && after.disco_key.is_none())
        || (before.online.is_some() && after.online.is_none())
        || (before.home_derp.is_some() && after.home_derp.is_none())
        || (before.cap != after.cap && after.cap.0 == 0)
        || (!before.key_signature.is_empty() && after.key_signature.is_empty());
    if unsayable {
        // No patch takes these back. A whole node does, for a client that does not turn it into a patch by itself; for
        // one that does, the patches above still follow it in the order of application.
        message.peers_changed.push(after.clone());
    }
}

/// `before` with every field that a patch can name taken from `after`.
fn patchable_taken_over(before: &Node, after: &Node) -> Node {
    Node {
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
    }
}
