//! How a node looks on the wire: once to all its peers, and to itself.
//!
//! A peer's record does not depend on who looks, so it is made once per change and shared by every map that shows it.
//! Two habits of the field are not followed: `Cap` is the shown node's own version, not the viewer's (trap 64), and of
//! the host facts a peer sees only what it has a use for. Texts lose what JSON would have to escape, because a strict
//! client cannot read escapes in them.

use std::collections::BTreeMap;

use warren_wire::{CapMap, Hostinfo, Node as WireNode, NodeName, Service, UserId, UserProfile, cap, is_deceptive};

use crate::presence::Present;
use crate::register::{TAGGED_LOGIN, TAGGED_NAME, cut};
use crate::rows::{Node, User};
use crate::settings::Settings;

/// More than a host offers; bounds what one node can make all others read.
const MOST_SERVICES: usize = 64;
/// As [`MOST_SERVICES`], for announced routes.
const MOST_ROUTES: usize = 256;
/// As [`MOST_SERVICES`], for SSH host keys.
const MOST_HOST_KEYS: usize = 8;

/// A node as its peers see it; `None` if its full name does not fit into DNS, which would spoil a whole map (trap 35).
pub(crate) fn peer_record(node: &Node, present: Option<&Present>, settings: &Settings) -> Option<WireNode> {
    let name = NodeName::new(&node.name).ok()?.in_domain(&settings.base_domain)?;
    let addresses = node.addresses();
    let online = present.is_some_and(|present| present.online);
    // An expired node is not to be found: its peers cannot use it, and its last addresses are nobody's business.
    let shown = present.filter(|_| !node.expired);
    Some(WireNode {
        id: node.id,
        stable_id: node.stable_id.clone(),
        name,
        user: node.owner.wire_user(),
        key: node.node_key,
        key_expiry: node.expiry,
        machine: Some(node.machine_key),
        disco_key: present.and_then(|present| present.disco),
        allowed_ips: Some(addresses.clone()),
        addresses,
        endpoints: match shown {
            Some(present) if !settings.hide_endpoints && !node.hides_endpoints => {
                present.endpoints.iter().map(|e| e.addr).collect()
            }
            _ => Vec::new(),
        },
        home_derp: present.and_then(Present::home),
        hostinfo: present.map(|present| Box::new(shown_hostinfo(&present.hostinfo))),
        created: Some(node.created),
        cap: present.map(|present| present.capability).unwrap_or_default(),
        tags: node.owner.tags().into_iter().flatten().cloned().collect(),
        // Only while it is away (trap 38).
        last_seen: present.filter(|present| !present.online).and_then(|present| present.last_seen),
        online: Some(online),
        machine_authorized: node.approved && !node.expired,
        expired: node.expired,
        ..WireNode::default()
    })
}

/// A node as it sees itself: its peers' record, always online, with what it may do.
pub(crate) fn self_record(peer: &WireNode, attributes: CapMap, has_ssh: bool) -> WireNode {
    WireNode {
        // It knows them best, and an echo of its own update would make it rebuild its map for nothing.
        endpoints: Vec::new(),
        online: Some(true),
        last_seen: None,
        cap_map: self_capabilities(attributes, has_ssh),
        ..peer.clone()
    }
}

/// What a node is told that it may do: only what works with this server.
///
/// `file-sharing`: two stock nodes of one person send files to each other without further help. `ssh` only where the
/// policy speaks of shells: else a node would switch a server on that nobody may use. Not `is-admin` (there is no console
/// for clients to link to), not `funnel` (no public way in). Clients are told not to update themselves. What the
/// policy's `nodeAttrs` say comes on top and wins.
fn self_capabilities(attributes: CapMap, has_ssh: bool) -> CapMap {
    let mut capabilities = BTreeMap::from([
        (cap::FILE_SHARING.to_owned(), Vec::new()),
        (cap::DEFAULT_AUTO_UPDATE.to_owned(), vec![serde_json::Value::Bool(false)]),
    ]);
    if has_ssh {
        capabilities.insert(cap::SSH.to_owned(), Vec::new());
    }
    capabilities.extend(attributes);
    capabilities
}

/// What peers have a use for.
fn shown_hostinfo(said: &Hostinfo) -> Hostinfo {
    // Peers need to find the node's own services to send it files or to use it as exit (trap 67); what else listens on
    // the machine is not collected and not shown.
    let services = said.services.iter().filter(|service| service.proto.starts_with("peerapi"));
    Hostinfo {
        os: plain(&said.os),
        os_version: plain(&said.os_version),
        hostname: plain(&said.hostname),
        ipn_version: plain(&said.ipn_version),
        app: plain(&said.app),
        shields_up: said.shields_up,
        sharee_node: said.sharee_node,
        userspace: said.userspace,
        userspace_router: said.userspace_router,
        app_connector: said.app_connector,
        routable_ips: said.routable_ips.iter().take(MOST_ROUTES).copied().collect(),
        services: services
            .take(MOST_SERVICES)
            .map(|service| Service { proto: plain(&service.proto), port: service.port, description: String::new() })
            .collect(),
        ssh_host_keys: said.ssh_host_keys.iter().take(MOST_HOST_KEYS).map(|key| plain(key)).collect(),
        ..Hostinfo::default()
    }
}

/// At most 255 bytes, without what JSON escapes and what only deceives whoever reads it.
fn plain(text: &str) -> String {
    cut(text, 255).chars().filter(|c| !is_deceptive(*c) && *c != '"' && *c != '\\').collect()
}

/// A person as maps show them.
pub(crate) fn profile(user: &User) -> UserProfile {
    UserProfile {
        id: user.id,
        login_name: plain(user.login_name()),
        display_name: plain(user.shown_name()),
        profile_pic_url: plain(&user.picture_url),
        ..UserProfile::default()
    }
}

/// The owner of tagged nodes as maps show it.
pub(crate) fn tagged_profile() -> UserProfile {
    UserProfile {
        id: UserId::TAGGED_DEVICES,
        login_name: TAGGED_LOGIN.to_owned(),
        display_name: TAGGED_NAME.to_owned(),
        ..UserProfile::default()
    }
}
