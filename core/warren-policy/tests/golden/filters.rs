//! Packet filters, whom a node sees, and which networks it sends to whom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use warren_ip::Prefix;
use warren_policy::{PolicyNode, RouteUse};
use warren_wire::FilterRule;

use crate::case::{Case, Expected, Peer, World};

pub fn compare(world: &World<'_>) -> Result<(), String> {
    let primaries = primary_routes(world.case);
    for (name, expected) in &world.case.expect {
        let node = world.node(name)?;
        compare_filter(world, node, expected).map_err(|why| format!("{name}: {why}"))?;
        compare_peers(world, node, expected).map_err(|why| format!("{name}: {why}"))?;
        for (peer_name, peer) in expected.peers.iter().flatten() {
            let offered = &primaries[peer_name.as_str()];
            compare_allowed(world, node, world.node(peer_name)?, offered, peer)
                .map_err(|why| format!("{name} to {peer_name}: {why}"))?;
        }
    }
    Ok(())
}

fn compare_filter(world: &World<'_>, node: &PolicyNode, expected: &Expected) -> Result<(), String> {
    let ours: Vec<Value> = world.compiled.filter_for(node.id).into_iter().map(canonical).collect();
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

fn compare_peers(world: &World<'_>, node: &PolicyNode, expected: &Expected) -> Result<(), String> {
    let Some(peers) = &expected.peers else { return Ok(()) };
    let ours: BTreeSet<&str> = world.compiled.peers_of(node.id).map(|id| world.name(id)).collect();
    let theirs: BTreeSet<&str> = peers.keys().map(String::as_str).collect();
    if ours == theirs { Ok(()) } else { Err(format!("sees {ours:?}, not {theirs:?}")) }
}

/// The networks that each node serves as the one chosen for them. Where people are told of several, because a policy
/// steers them, the one chosen is whom another node that serves the network is told of.
fn primary_routes(case: &Case) -> BTreeMap<&str, BTreeSet<Prefix>> {
    let mut told: BTreeMap<Prefix, BTreeMap<&str, bool>> = BTreeMap::new();
    for (viewer, expected) in &case.expect {
        let serves = |route: &Prefix| case.nodes[viewer].approved_routes.iter().flatten().any(|own| own == route);
        for (name, peer) in expected.peers.iter().flatten() {
            for route in peer.primary_routes.iter().flatten() {
                *told.entry(*route).or_default().entry(name).or_default() |= serves(route);
            }
        }
    }
    let mut routes: BTreeMap<&str, BTreeSet<Prefix>> =
        case.nodes.keys().map(|name| (name.as_str(), BTreeSet::new())).collect();
    for (route, servers) in told {
        let is_settled = servers.values().any(|is_told_to_server| *is_told_to_server);
        for (name, _) in servers.iter().filter(|(_, is_told_to_server)| **is_told_to_server || !is_settled) {
            routes.entry(name).or_default().insert(route);
        }
    }
    routes
}

fn compare_allowed(
    world: &World<'_>,
    viewer: &PolicyNode,
    peer: &PolicyNode,
    primaries: &BTreeSet<Prefix>,
    expected: &Peer,
) -> Result<(), String> {
    let is_used = |route: &&Prefix| match world.compiled.route_use(viewer.id, peer.id, **route) {
        RouteUse::Never => false,
        RouteUse::IfPrimary => route.is_default_route() || primaries.contains(*route),
        RouteUse::FirstOf(nodes) => nodes.first() == Some(&peer.id),
    };
    let routes = peer.routes.iter().filter(is_used);
    let ours: BTreeSet<Prefix> = peer.addrs.iter().map(|addr| Prefix::host(*addr)).chain(routes.copied()).collect();
    let theirs: BTreeSet<Prefix> = expected.allowed_ips.iter().flatten().copied().collect();
    if ours == theirs { Ok(()) } else { Err(format!("may send {ours:?}, not {theirs:?}")) }
}
