//! The policy engine against recorded answers of the reference service.
//!
//! The cases lie outside the project, in the folder that `WARREN_GOLDEN_DIR` names, and are read from there only. The
//! category `acl` must pass whole; the others belong to parts of the language that are yet to come, and each has a floor
//! that may only rise.

// Reading cases from a folder that is named from outside is all that this test is about.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use warren_ip::Prefix;
use warren_policy::{Compiled, Policy, PolicyNode, PolicyUser, RouteUse, Tailnet};
use warren_wire::{FilterRule, NodeId, UserId};

/// Category, and how many of its cases must pass at least. `None`: all.
const FLOORS: [(&str, Option<usize>); 7] = [
    ("acl", None),
    ("grant", Some(0)),
    ("routes", Some(48)),
    ("ssh", Some(2)),
    ("nodeattrs", Some(0)),
    ("policytest", Some(0)),
    ("sshtest", Some(0)),
];

/// Where the reference service sends something that only makes sense inside it, by case and with the reason. An exception
/// never hides a difference in who may reach whom.
const EXCEPTIONS: [(&str, &str); 0] = [];

#[derive(Deserialize)]
struct Case {
    id: String,
    policy: Value,
    accepted: bool,
    error_message: Option<String>,
    users: Vec<User>,
    nodes: BTreeMap<String, Node>,
    expect: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct User {
    id: i64,
    name: String,
    email: String,
}

#[derive(Deserialize)]
struct Node {
    tags: Option<Vec<String>>,
    user: Option<String>,
    ipv4: String,
    ipv6: String,
    routable_ips: Option<Vec<Prefix>>,
    approved_routes: Option<Vec<Prefix>>,
}

#[derive(Deserialize)]
struct Expected {
    packet_filter: Option<Vec<FilterRule>>,
    peers: Option<BTreeMap<String, Peer>>,
}

#[derive(Deserialize)]
struct Peer {
    allowed_ips: Option<Vec<Prefix>>,
    primary_routes: Option<Vec<Prefix>>,
}

/// What a category's cases pin beyond filters and visibility; a case counts only if that is built.
fn section_of(category: &str) -> Option<&'static str> {
    Some(match category {
        "ssh" => "ssh",
        "nodeattrs" => "nodeAttrs",
        "policytest" => "tests",
        "sshtest" => "sshTests",
        _ => return None,
    })
}

/// Its own `main`, because the harness would swallow what a passing test prints, and a skipped one must be seen.
fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("golden: test");
        return;
    }
    let Some(folder) = std::env::var_os("WARREN_GOLDEN_DIR") else {
        eprintln!("golden: SKIPPED (set WARREN_GOLDEN_DIR)");
        return;
    };
    let mut failures = Vec::new();
    for (category, floor) in FLOORS {
        let (mut passed, mut total, mut notes) = (0, 0, Vec::new());
        for case in read_cases(&Path::new(&folder).join(category)) {
            total += 1;
            match run(category, &case) {
                Ok(()) => passed += 1,
                Err(why) => notes.push(format!("{}: {why}", case.id)),
            }
        }
        println!("golden: {category} {passed}/{total}");
        assert!(total > 0, "no cases of {category} in {}", Path::new(&folder).display());
        let least = floor.unwrap_or(total);
        if passed < least {
            failures.push(format!("{category}: {passed} of {total} pass, {least} must\n  {}", notes.join("\n  ")));
        } else if std::env::var_os("WARREN_GOLDEN_VERBOSE").is_some() {
            notes.iter().for_each(|note| println!("  {note}"));
        }
    }
    if !failures.is_empty() {
        eprintln!("golden: FAILED\n{}", failures.join("\n"));
        std::process::exit(1);
    }
}

fn read_cases(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    files.sort();
    let read = |file: std::path::PathBuf| {
        let text = fs::read_to_string(&file).expect("a readable case");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    files.into_iter().filter(|file| file.extension().is_some_and(|name| name == "json")).map(read).collect()
}

fn run(category: &str, case: &Case) -> Result<(), String> {
    let text = serde_json::to_string_pretty(&case.policy).expect("JSON");
    let policy = match (Policy::parse(&text), case.accepted) {
        (Ok(policy), true) => policy,
        (Err(error), true) => return Err(format!("refused: {error}")),
        (Ok(_), false) => return Err(format!("accepted, but must be refused: {:?}", case.error_message)),
        (Err(error), false) => {
            let message = case.error_message.as_deref().unwrap_or_default();
            return if category == "nodeattrs" || error.to_string().contains(message) {
                Ok(())
            } else {
                Err(format!("refused with {error}, not with {message}"))
            };
        }
    };
    if let Some(section) = section_of(category)
        && policy.not_built().iter().any(|name| name == section)
    {
        return Err(format!("{section} is not built"));
    }
    let (users, nodes) = tailnet(case, &policy);
    if category == "routes" {
        compare_approvals(case, &policy, &users, &nodes)?;
    }
    let compiled = policy.compile(&Tailnet { users: &users, nodes: &nodes, services: &[] });
    let primaries = primary_routes(case);
    let names: Vec<&String> = case.nodes.keys().collect();
    for (name, expected) in &case.expect {
        let place = names.iter().position(|known| *known == name).ok_or("expects an unknown node")?;
        compare_filter(&compiled, nodes[place].id, expected).map_err(|why| format!("{name}: {why}"))?;
        if EXCEPTIONS.iter().all(|(id, _)| *id != case.id) {
            compare_peers(&compiled, &names, &nodes, place, expected).map_err(|why| format!("{name}: {why}"))?;
            for (peer_name, peer) in expected.peers.iter().flatten() {
                let peer_place = names.iter().position(|known| *known == peer_name).ok_or("sees an unknown node")?;
                let offered = &primaries[peer_name.as_str()];
                compare_allowed(&compiled, nodes[place].id, &nodes[peer_place], offered, peer)
                    .map_err(|why| format!("{name} to {peer_name}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// Users and nodes of a case. A recording may have been taken before the approval that its own policy gives arrived, so a
/// route counts as approved if either says so.
fn tailnet(case: &Case, policy: &Policy) -> (Vec<PolicyUser>, Vec<PolicyNode>) {
    let user = |user: &User| PolicyUser {
        id: UserId(user.id),
        name: user.name.clone(),
        email: user.email.clone(),
        ..PolicyUser::default()
    };
    let users: Vec<PolicyUser> = case.users.iter().map(user).collect();
    let node = |(index, node): (usize, &Node)| {
        let owner = node.user.as_ref().map_or(users.first(), |name| users.iter().find(|user| user.name == *name));
        let tags = node.tags.clone().unwrap_or_default();
        let announced = node.routable_ips.as_deref().unwrap_or_default();
        let approved = node.approved_routes.clone().unwrap_or_default();
        let mut node = PolicyNode {
            id: NodeId(index as i64 + 1),
            user: owner.map(|user| user.id).filter(|_| tags.is_empty()),
            tags,
            addrs: [&node.ipv4, &node.ipv6].into_iter().map(|addr| addr.parse().expect("an address")).collect(),
            ..PolicyNode::default()
        };
        let is_approved = |route: &Prefix| approved.contains(route) || policy.approves_route(&users, &node, *route);
        node.routes = announced.iter().copied().filter(is_approved).collect();
        node
    };
    let nodes = case.nodes.values().enumerate().map(node).collect();
    (users, nodes)
}

/// A route that a node announces is approved by the policy exactly if the recording says that it was.
fn compare_approvals(case: &Case, policy: &Policy, users: &[PolicyUser], nodes: &[PolicyNode]) -> Result<(), String> {
    for ((name, recorded), node) in case.nodes.iter().zip(nodes) {
        for route in recorded.routable_ips.iter().flatten() {
            let ours = policy.approves_route(users, node, *route);
            let theirs = recorded.approved_routes.iter().flatten().any(|approved| approved == route);
            if ours != theirs {
                return Err(format!("{name}: approval of {route} is {ours}, not {theirs}"));
            }
        }
    }
    Ok(())
}

fn compare_filter(compiled: &Compiled, node: NodeId, expected: &Expected) -> Result<(), String> {
    let ours: Vec<Value> = compiled.filter_for(node).into_iter().map(canonical).collect();
    let theirs: Vec<Value> = expected.packet_filter.iter().flatten().cloned().map(canonical).collect();
    if ours == theirs { Ok(()) } else { Err(format!("filter {}, not {}", json!(ours), json!(theirs))) }
}

/// Addresses and protocols are sets, destinations are multisets; the order of rules stays.
fn canonical(rule: FilterRule) -> Value {
    let sources: BTreeSet<String> = rule.src_ips.into_iter().collect();
    let mut destinations: Vec<_> =
        rule.dst_ports.into_iter().map(|dst| (dst.ip, dst.ports.first, dst.ports.last)).collect();
    destinations.sort();
    let protocols: BTreeSet<i64> = rule.ip_proto.into_iter().collect();
    let mut grants: Vec<Value> = Vec::new();
    for grant in rule.cap_grant {
        let at: BTreeSet<String> = grant.dsts.iter().map(Prefix::to_string).collect();
        grants.push(json!([at, grant.caps, grant.cap_map]));
    }
    json!([sources, destinations, protocols, grants])
}

fn compare_peers(
    compiled: &Compiled,
    names: &[&String],
    nodes: &[PolicyNode],
    place: usize,
    expected: &Expected,
) -> Result<(), String> {
    let Some(peers) = &expected.peers else { return Ok(()) };
    let ours: BTreeSet<&str> = compiled.peers_of(nodes[place].id).map(|id| names[id.0 as usize - 1].as_str()).collect();
    let theirs: BTreeSet<&str> = peers.keys().map(String::as_str).collect();
    if ours == theirs { Ok(()) } else { Err(format!("sees {ours:?}, not {theirs:?}")) }
}

/// The networks that each node serves as the one chosen for them, by what anybody was told of it.
fn primary_routes(case: &Case) -> BTreeMap<&str, BTreeSet<Prefix>> {
    let mut routes: BTreeMap<&str, BTreeSet<Prefix>> = BTreeMap::new();
    for (name, peer) in case.expect.values().filter_map(|expected| expected.peers.as_ref()).flatten() {
        routes.entry(name).or_default().extend(peer.primary_routes.iter().flatten());
    }
    routes
}

fn compare_allowed(
    compiled: &Compiled,
    viewer: NodeId,
    peer: &PolicyNode,
    primaries: &BTreeSet<Prefix>,
    expected: &Peer,
) -> Result<(), String> {
    let is_used = |route: &&Prefix| match compiled.route_use(viewer, peer.id, **route) {
        RouteUse::Never => false,
        RouteUse::IfPrimary => route.is_default_route() || primaries.contains(*route),
        RouteUse::FirstOf(nodes) => nodes.first() == Some(&peer.id),
    };
    let routes = peer.routes.iter().filter(is_used);
    let ours: BTreeSet<Prefix> = peer.addrs.iter().map(|addr| Prefix::host(*addr)).chain(routes.copied()).collect();
    let theirs: BTreeSet<Prefix> = expected.allowed_ips.iter().flatten().copied().collect();
    if ours == theirs { Ok(()) } else { Err(format!("may send {ours:?}, not {theirs:?}")) }
}
