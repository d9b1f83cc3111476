//! `warren policy explain`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use warren_ip::Protocol;
use warren_policy::Tailnet;
use warren_policy::analysis::{Answer, Explanation, Packet, RulePlace, addresses, explain, imagine, parse_protocol};
use warren_wire::NodeId;

use super::diff::packet_json;
use super::input::{Document, World, subject};
use super::{Nodes, Output, print_json};

/// More pairs of nodes than this are not explained one by one.
const MAX_PAIRS: usize = 16;

/// The words of the command line.
pub(super) struct Question<'a> {
    pub(super) src: &'a str,
    pub(super) dst: &'a str,
    pub(super) port: &'a str,
}

pub(super) fn run(
    question: &Question<'_>,
    policy: Option<&Path>,
    nodes: &Nodes,
    output: &Output,
    socket: Option<PathBuf>,
) -> Result<bool> {
    let (document, world) = subject(policy, nodes, socket)?;
    let (protocol, port) = parse_port(question.port)?;
    let explained = match &world {
        Some(world) => known(&document, world, question, protocol, port)?,
        None => {
            let made = imagine(&document.policy, &[], question.src, question.dst).map_err(|error| anyhow!(error))?;
            if !output.json {
                println!("No nodes are known: explained for two that have what you say and nothing more.");
            }
            let tailnet = Tailnet { users: &made.users, nodes: &made.nodes, services: &made.services };
            let packet = Packet { src: made.src, dst: made.dst, protocol, port };
            vec![explain(&document.policy, &document.text, &tailnet, packet)]
        }
    };
    if output.json {
        print_json(&explained.iter().map(|explanation| as_json(world.as_ref(), explanation)).collect::<Vec<_>>())?;
    } else {
        explained.iter().for_each(|explanation| {
            println!("{}", crate::safe::lines(&format!("{}{explanation}", ends(world.as_ref(), explanation))));
        });
    }
    Ok(explained.iter().all(|explanation| explanation.answer.is_allowed()))
}

/// One explanation for each pair of nodes that the words mean.
fn known(
    document: &Document,
    world: &World,
    question: &Question<'_>,
    protocol: Protocol,
    port: u16,
) -> Result<Vec<Explanation>> {
    let (sources, destinations) = (side(document, world, question.src)?, side(document, world, question.dst)?);
    let mut explained = Vec::new();
    for src in &sources {
        for dst in destinations.iter().filter(|dst| *dst != src) {
            let Some((src, dst)) = of_one_family(src, dst) else { continue };
            if explained.len() == MAX_PAIRS {
                eprintln!("More than {MAX_PAIRS} pairs of nodes are meant; name them more closely to see the others.");
                return Ok(explained);
            }
            let packet = Packet { src, dst, protocol, port };
            explained.push(explain(&document.policy, &document.text, &world.tailnet(), packet));
        }
    }
    if explained.is_empty() {
        bail!("no packet goes from {} to {}: they have no two addresses of one family", question.src, question.dst);
    }
    Ok(explained)
}

/// Addresses of each node that a word means: its name, or what a policy would call it.
fn side(document: &Document, world: &World, word: &str) -> Result<Vec<Vec<IpAddr>>> {
    if let Some(node) = world.named(word) {
        return Ok(vec![node.addrs.clone()]);
    }
    addresses(&document.policy, &world.tailnet(), word)
        .map_err(|error| anyhow!("{word}: no node has this name, and {error}"))
}

fn of_one_family(src: &[IpAddr], dst: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    src.iter()
        .find_map(|src| dst.iter().find(|dst| dst.is_ipv4() == src.is_ipv4() && *dst != src).map(|dst| (*src, *dst)))
}

/// `22`, `53/udp`, `icmp`.
fn parse_port(text: &str) -> Result<(Protocol, u16)> {
    let protocol = |name: &str| parse_protocol(name).map_err(|error| anyhow!(error));
    if let Some((port, name)) = text.split_once('/') {
        let protocol = protocol(name)?;
        if !protocol.has_ports() {
            bail!("{name} has no ports; write {name} alone");
        }
        return Ok((protocol, port.parse().map_err(|_| anyhow!("{port:?} is no port"))?));
    }
    if let Ok(port) = text.parse() {
        return Ok((Protocol::TCP, port));
    }
    let found = protocol(text)?;
    if found.has_ports() {
        bail!("which port of {text}? Write 22/{text}");
    }
    Ok((found, 0))
}

/// The names of the nodes at both ends, where they are known.
fn ends(world: Option<&World>, explanation: &Explanation) -> String {
    let name = |id: Option<NodeId>| id.and_then(|id| world.map(|world| world.name(id)));
    match (name(explanation.sender), name(explanation.receiver)) {
        (Some(sender), Some(receiver)) => format!("{sender} -> {receiver}: "),
        _ => String::new(),
    }
}

fn as_json(world: Option<&World>, explanation: &Explanation) -> Value {
    let name = |id: Option<NodeId>| id.and_then(|id| world.map(|world| world.name(id)));
    let place = |rule: &RulePlace| {
        json!({
            "section": rule.section, "index": rule.index, "destination": rule.destination,
            "line": rule.line, "column": rule.column, "text": rule.text,
        })
    };
    let (rule, nearest, missing) = match &explanation.answer {
        Answer::Allowed(rule) => (Some(place(rule)), None, Vec::new()),
        Answer::Refused(Some((rule, missing))) => (None, Some(place(rule)), missing.clone()),
        Answer::NoPolicy | Answer::Refused(None) | Answer::NoReceiver => (None, None, Vec::new()),
    };
    json!({
        "allowed": explanation.answer.is_allowed(),
        "packet": packet_json(&explanation.packet),
        "from": name(explanation.sender),
        "into": name(explanation.receiver),
        "rule": rule,
        "nearest": nearest,
        "missing": missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_and_without_protocol() {
        let read = |text: &str| parse_port(text).map(|(protocol, port)| (protocol.0, port)).ok();
        assert_eq!((read("22"), read("53/udp"), read("icmp")), (Some((6, 22)), Some((17, 53)), Some((1, 0))));
        assert_eq!((read("tcp"), read("22/icmp"), read("70000"), read("ssh")), (None, None, None, None));
    }
}
