//! SSH rules as each node is told them: in order, principals as a multiset.

use serde_json::{Value, json};
use warren_wire::ssh::SshRule;

use crate::case::World;

/// Where the recordings say that checked sessions are to ask.
const SERVER_URL: &str = "https://unused";

pub fn compare(world: &World<'_>) -> Result<(), String> {
    for (name, expected) in &world.case.expect {
        let ours = world.compiled.ssh_policy_for(world.node(name)?.id, SERVER_URL).rules;
        let ours: Vec<Value> = ours.into_iter().map(canonical).collect();
        let theirs: Vec<Value> = expected.ssh_rules.iter().flatten().cloned().map(canonical).collect();
        if ours != theirs {
            return Err(format!("{name}: {}, not {}", json!(ours), json!(theirs)));
        }
    }
    Ok(())
}

fn canonical(mut rule: SshRule) -> Value {
    rule.principals.sort_by(|a, b| a.node_ip.cmp(&b.node_ip));
    json!(rule)
}
