//! The policy engine through its public face.

mod as_written;
mod assertions;
mod attributes;
mod grants;
mod language;
mod laws;
mod laws_diff;
mod laws_packets;
mod laws_prove;
mod naive;
mod questions;
mod random;
mod rules;
mod ssh;
mod ssh_assertions;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use warren_policy::{Compiled, Policy, PolicyNode, PolicyUser, Tailnet};
use warren_wire::{NodeId, UserId};

/// Users `ann`, `bob`, … and nodes given as `name` (owner by first letter) or `tag:x` (tagged).
struct World {
    users: Vec<PolicyUser>,
    nodes: Vec<PolicyNode>,
}

fn world(nodes: &[&str]) -> World {
    let names = ["ann", "bob", "cat"];
    let user = |(index, name): (usize, &&str)| PolicyUser {
        id: UserId(index as i64 + 1),
        name: (*name).to_owned(),
        email: format!("{name}@example.com"),
        ..PolicyUser::default()
    };
    let node = |(index, text): (usize, &&str)| PolicyNode {
        id: NodeId(index as i64 + 1),
        user: names.iter().position(|name| text.starts_with(&name[..1])).map(|place| UserId(place as i64 + 1)),
        tags: if text.starts_with("tag:") { vec![(*text).to_owned()] } else { Vec::new() },
        addrs: addrs(index),
        ..PolicyNode::default()
    };
    World { users: names.iter().enumerate().map(user).collect(), nodes: nodes.iter().enumerate().map(node).collect() }
}

/// Odd last parts, so that no two addresses touch.
fn addrs(index: usize) -> Vec<IpAddr> {
    let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + index as u32 * 2 + 1);
    let v6 = Ipv6Addr::from_bits("fd7a:115c:a1e0::".parse::<Ipv6Addr>().unwrap().to_bits() + index as u128 * 2 + 1);
    vec![v4.into(), v6.into()]
}

impl World {
    /// What is said against a policy here, without the places; empty if nothing is.
    #[track_caller]
    fn check(&self, policy: &str) -> String {
        let policy = Policy::parse(policy).unwrap_or_else(|error| panic!("{error}"));
        let checked = policy.admit(&Tailnet { users: &self.users, nodes: &self.nodes, services: &[] }, &[]);
        let said = checked.err().map(|failures| failures.0).unwrap_or_default();
        said.into_iter().map(|failure| failure.message).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn compile(&self, policy: &str) -> Compiled {
        let policy = Policy::parse(policy).unwrap_or_else(|error| panic!("{error}"));
        policy.compile(&Tailnet { users: &self.users, nodes: &self.nodes, services: &[] })
    }
}

/// A filter in short: `sources -> ip:first-last … [protocol]`, one rule a line. IPv6 is left out.
fn show(compiled: &Compiled, node: i64) -> String {
    let rules = compiled.filter_for(NodeId(node));
    let lines = rules.iter().map(|rule| {
        let sources: Vec<&str> = rule.src_ips.iter().filter(|ip| !ip.contains(':')).map(String::as_str).collect();
        let to: Vec<String> = rule
            .dst_ports
            .iter()
            .filter(|dst| !dst.ip.contains(':'))
            .map(|dst| format!("{}:{}-{}", dst.ip, dst.ports.first, dst.ports.last))
            .collect();
        let protocols: String = rule.ip_proto.iter().map(|number| format!(" [{number}]")).collect();
        format!("{} -> {}{protocols}", sources.join(" "), to.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn peers(compiled: &Compiled, node: i64) -> Vec<i64> {
    compiled.peers_of(NodeId(node)).map(|id| id.0).collect()
}
