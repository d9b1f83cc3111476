//! `warren policy diff`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use warren_policy::analysis::{Change, Packet, Party, diff};

use super::input::{Document, World, server};
use super::{Nodes, Output, print_json};

pub(super) fn run(files: &[PathBuf], nodes: &Nodes, output: &Output, socket: Option<PathBuf>) -> Result<bool> {
    let from_file = nodes.nodes_file.as_deref().map(World::read).transpose()?;
    let server = if from_file.is_some() && files.len() == 2 { None } else { server(socket)? };
    let (old, new) = match (files, &server) {
        ([old, new], _) => (Document::read(old)?, Document::read(new)?),
        ([new], Some(server)) => (server.document()?, Document::read(new)?),
        _ => bail!("no control server answers here; name the policy before as well"),
    };
    let Some(world) = from_file.or(server.map(|server| server.world)) else {
        bail!("a comparison speaks of nodes: name a file of them with --nodes, or ask where the control server runs");
    };
    world.must_have_nodes()?;
    let changes = diff(&old.policy, &new.policy, &world.tailnet());
    if output.json {
        let shown: Vec<Value> = changes.iter().map(|change| as_json(&world, change)).collect();
        print_json(&json!({"differs": !changes.is_empty(), "nodes": world.nodes.len(), "changes": shown}))?;
        return Ok(changes.is_empty());
    }
    for change in &changes {
        println!("{}", crate::safe::line(&line(&world, change)));
    }
    if changes.is_empty() {
        println!("No packet between these {} nodes is decided differently.", world.nodes.len());
    }
    Ok(changes.is_empty())
}

fn line(world: &World, change: &Change) -> String {
    let sign = if change.is_gain { '+' } else { '-' };
    let (from, to) = (parties(world, &change.from), parties(world, &change.to));
    let family = match change.only_family {
        None => "",
        Some(true) => ", IPv4 only",
        Some(false) => ", IPv6 only",
    };
    format!("{sign} {from} -> {to}: {}{family}  ({})", change.traffic, change.witness)
}

fn parties(world: &World, parties: &[Party]) -> String {
    parties.iter().map(|party| name(world, party)).collect::<Vec<_>>().join(", ")
}

fn name(world: &World, party: &Party) -> String {
    match party {
        Party::Node(id) => world.name(*id),
        Party::Behind(id, route) => format!("{route} behind {}", world.name(*id)),
        Party::Exit(id) => format!("the internet through {}", world.name(*id)),
        Party::Service(name) => name.clone(),
        Party::Nobody(addr) => format!("addresses without a node ({addr} …)"),
    }
}

fn as_json(world: &World, change: &Change) -> Value {
    let parties = |parties: &[Party]| parties.iter().map(|party| name(world, party)).collect::<Vec<_>>();
    json!({
        "change": if change.is_gain { "gain" } else { "loss" },
        "from": parties(&change.from),
        "to": parties(&change.to),
        "traffic": change.traffic,
        "family": change.only_family.map(|is_ipv4| if is_ipv4 { "IPv4" } else { "IPv6" }),
        "receiver": world.name(change.receiver),
        "packet": packet_json(&change.witness),
    })
}

/// A packet as programs read it.
pub(super) fn packet_json(packet: &Packet) -> Value {
    json!({
        "src": packet.src,
        "dst": packet.dst,
        "protocol": packet.protocol.0,
        "port": packet.protocol.has_ports().then_some(packet.port),
    })
}
