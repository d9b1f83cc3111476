//! What a map response means. control-protocol.md §7.2–7.6.

use warren_crypto::UnixTime;

use super::NetMap;
use super::peers::{PeerNews, fold_peers};
use crate::{Debug, MapResponse, Node, PingRequest};

/// What one message changed, and what it asks beside the map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetMapChange {
    /// It was only a sign of life.
    pub keep_alive: bool,
    /// Self was replaced.
    pub self_node: bool,
    /// Peers came, went or changed.
    pub peers: bool,
    /// Relays changed.
    pub relay_map: bool,
    /// Resolution changed.
    pub dns: bool,
    /// Inbound rules changed.
    pub filters: bool,
    /// The server's health words changed.
    pub health: bool,
    /// Anything else in the map changed.
    pub other: bool,
    /// What the message asks beside the map.
    pub effects: Effects,
}

/// What a message asks beside the map; honoured on keep-alives too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Call back.
    pub ping_request: Option<PingRequest>,
    /// A page to open once per distinct URL; empty for none.
    pub pop_browser_url: String,
    /// The server's clock.
    pub control_time: Option<UnixTime>,
    /// Switches; the caller chooses which it obeys (ours: none).
    pub debug: Option<Debug>,
}

/// The message cannot be applied; the map is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The first message of a stream must say who we are.
    #[error("initial map response lacked node")]
    FirstLacksNode,
}

impl NetMapChange {
    /// Whether the map itself is different now.
    pub fn any(&self) -> bool {
        self.self_node || self.peers || self.relay_map || self.dns || self.filters || self.health || self.other
    }
}

/// Applies one message of a stream, in the order that the protocol lays down.
///
/// `map` is `None` at the start of every stream: what an earlier stream said is not carried over (the caller keeps the
/// old map in use until the first message of the new stream has been folded).
///
/// # Errors
/// [`FoldError::FirstLacksNode`]; `map` is then untouched. A keep-alive before the first map is no error.
pub fn fold(map: &mut Option<NetMap>, mut message: MapResponse, now: UnixTime) -> Result<NetMapChange, FoldError> {
    let mut change = NetMapChange {
        keep_alive: message.keep_alive,
        effects: Effects {
            ping_request: message.ping_request.take(),
            pop_browser_url: std::mem::take(&mut message.pop_browser_url),
            control_time: message.control_time,
            debug: message.debug.take(),
        },
        ..NetMapChange::default()
    };
    if message.keep_alive && map.is_none() {
        return Ok(change);
    }
    if map.is_none() && message.node.is_none() {
        return Err(FoldError::FirstLacksNode);
    }
    let map = map.get_or_insert_default();
    if let Some(version) = message.client_version.take() {
        map.client_version = version;
        change.other = true;
    }
    if let Some(plan) = message.control_dial_plan.take() {
        map.control_dial_plan = plan;
        change.other = true;
    }
    if message.keep_alive {
        return Ok(change);
    }
    if let Some(node) = message.node.take() {
        map.self_node = *node;
        map.self_node.normalise();
        map.peers.remove(&map.self_node.id);
        change.self_node = true;
    }
    fold_map_peers(map, &mut message, now, &mut change);
    fold_policy(map, &mut message, &mut change);
    fold_rest(map, message, &mut change);
    Ok(change)
}

fn fold_map_peers(map: &mut NetMap, message: &mut MapResponse, now: UnixTime, change: &mut NetMapChange) {
    let own_id = map.self_node.id;
    let others = |nodes: &mut Vec<Node>| {
        let mut nodes = std::mem::take(nodes);
        nodes.iter_mut().for_each(Node::normalise);
        nodes.retain(|node| node.id != own_id);
        nodes
    };
    let news = PeerNews {
        is_whole: !message.peers.is_empty(),
        put: match message.peers.is_empty() {
            true => others(&mut message.peers_changed),
            false => others(&mut message.peers),
        },
        removed: &message.peers_removed,
        seen: &message.peer_seen_change,
        online: &message.online_change,
        patches: message.peers_changed_patch.iter().collect(),
    };
    change.peers |= fold_peers(&mut map.peers, news, now);
}

fn fold_policy(map: &mut NetMap, message: &mut MapResponse, change: &mut NetMapChange) {
    if let Some(rules) = message.packet_filter.take() {
        map.filters.insert("base".to_owned(), rules);
        change.filters = true;
    }
    let mut chunks = std::mem::take(&mut message.packet_filters);
    change.filters |= !chunks.is_empty();
    if let Some(None) = chunks.get("*") {
        chunks.remove("*");
        map.filters.clear();
    }
    for (name, rules) in chunks {
        match rules {
            Some(rules) => map.filters.insert(name, rules),
            None => map.filters.remove(&name),
        };
    }
    if let Some(policy) = message.ssh_policy.take() {
        map.ssh_policy = Some(policy);
        change.other = true;
    }
}

fn fold_rest(map: &mut NetMap, message: MapResponse, change: &mut NetMapChange) {
    for profile in message.user_profiles {
        map.profiles.insert(profile.id, profile);
        change.other = true;
    }
    if let Some(update) = message.derp_map {
        map.relay_map.merge(update);
        change.relay_map = true;
    }
    if let Some(dns) = message.dns_config {
        map.dns = *dns;
        change.dns = true;
    }
    if let Some(health) = message.health {
        map.health = health;
        change.health = true;
    }
    let mut messages = message.display_messages;
    change.health |= !messages.is_empty();
    if let Some(None) = messages.get("*") {
        messages.remove("*");
        map.display_messages.clear();
    }
    for (id, text) in messages {
        match text {
            Some(text) => map.display_messages.insert(id, text),
            None => map.display_messages.remove(&id),
        };
    }
    if let Some(collect) = message.collect_services {
        map.collect_services = collect;
        change.other = true;
    }
    if let Some(info) = message.tka_info {
        map.tka_info = Some(info);
        change.other = true;
    }
    for (text, place) in
        [(message.domain, &mut map.domain), (message.domain_data_plane_audit_log_id, &mut map.domain_audit_log_id)]
    {
        if !text.is_empty() {
            *place = text;
            change.other = true;
        }
    }
}
