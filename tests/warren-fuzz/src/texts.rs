//! Texts: an operator's policy, the rules made of it, and the small words inside other messages.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use warren_crypto::{ChallengePublic, DiscoPublic, LockPublic, MachinePublic, NodePublic, UnixTime};
use warren_filter::Filter;
use warren_ip::{IpRange, Prefix};
use warren_policy::{Policy, PolicyNode, PolicyUser, Tailnet};
use warren_wire::{FilterRule, NodeId, NodeName, UserId};

fn nodes() -> Vec<PolicyNode> {
    let node = |id: i64, user: Option<i64>, tags: &[&str]| PolicyNode {
        id: NodeId(id),
        user: user.map(UserId),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        addrs: vec![IpAddr::from([100, 64, 0, id as u8])],
        ..PolicyNode::default()
    };
    vec![node(1, Some(1), &[]), node(2, Some(2), &[]), node(3, None, &["tag:web"])]
}

/// A policy that is read compiles over a small network, and every filter that it gives is one that nodes take whole. What
/// it says of itself can be judged there, and a check is asked of nobody whom no rule lets in.
pub fn policy(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(policy) = Policy::parse(text) else { return false };
    let user = |id, name: &str| PolicyUser {
        id: UserId(id),
        name: name.into(),
        email: format!("{name}@example.com"),
        ..PolicyUser::default()
    };
    let (users, nodes) = ([user(1, "ann"), user(2, "bob")], nodes());
    let tailnet = Tailnet { users: &users, nodes: &nodes, services: &[] };
    let compiled = policy.compile(&tailnet);
    let failures = policy.admit(&tailnet, &[]).err().map(|failures| failures.0);
    assert!(failures.is_none_or(|failures| !failures.is_empty()));
    for node in &nodes {
        let (ssh, caps) = (compiled.ssh_policy_for(node.id, "https://control.test"), compiled.cap_map_for(node.id));
        assert!(ssh.rules.iter().all(|rule| !rule.principals.is_empty() && rule.action.is_some()));
        assert!(compiled.peer_cap_map_for(node.id).keys().all(|name| caps.contains_key(name)));
        let is_checked = nodes.iter().any(|from| compiled.ssh_check(from.id, node.id, "root").is_some());
        assert!(!is_checked || !ssh.rules.is_empty());
        let (_, problems) = Filter::compile(&compiled.filter_for(node.id), |_| Vec::new());
        assert!(problems.is_empty(), "{problems:?}");
        compiled.peers_of(node.id).for_each(|peer| assert!(compiled.visible(peer, node.id)));
    }
    true
}

/// Rules as a control server sends them.
pub fn filter_rules(bytes: &[u8]) -> bool {
    let Ok(rules) = serde_json::from_slice::<Vec<FilterRule>>(bytes) else { return false };
    let (_, problems) = Filter::compile(&rules, |_| vec![Prefix::ALL_V4]);
    assert!(problems.len() <= rules.len());
    !rules.is_empty() && problems.is_empty()
}

/// Prefixes and ranges, in the form in which they are printed.
pub fn prefixes(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let prefix = text.parse::<Prefix>();
    if let Ok(prefix) = &prefix {
        assert_eq!(prefix.to_string().parse().as_ref(), Ok(prefix));
        assert!(prefix.contains(prefix.addr()) && prefix.contains(prefix.last()));
    }
    let Ok(range) = text.parse::<IpRange>() else { return prefix.is_ok() };
    let prefixes = range.prefixes();
    assert_eq!(prefixes.first().map(Prefix::addr), Some(range.first()));
    assert_eq!(prefixes.last().map(Prefix::last), Some(range.last()));
    true
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum AnyKey {
    Machine(MachinePublic),
    Node(NodePublic),
    Disco(DiscoPublic),
    Challenge(ChallengePublic),
    Lock(LockPublic),
}

/// A key in a JSON text.
pub fn keys(bytes: &[u8]) -> bool {
    let Ok(key) = serde_json::from_slice::<AnyKey>(bytes) else { return false };
    let text = serde_json::to_string(&key).expect("a key can be written");
    serde_json::from_str::<AnyKey>(&text).expect("what was written can be read");
    true
}

/// A host name, whatever its owner calls it, becomes a name that a map can carry.
pub fn names(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let name = NodeName::sanitise(&text);
    assert_eq!(NodeName::new(name.as_str()).as_ref(), Ok(&name));
    let _ = (name.numbered(u32::MAX), name.in_domain("mesh.example"));
    NodeName::new(&text).is_ok()
}

pub fn dates(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(Some(time)) = UnixTime::parse_go_time(text) else { return false };
    assert_eq!(UnixTime::parse_rfc3339(&time.to_rfc3339()).ok(), Some(time));
    true
}
