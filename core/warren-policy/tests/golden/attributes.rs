//! What nodes are told that they may do: of themselves and of each other.

use std::collections::BTreeMap;

use serde_json::Value;
use warren_wire::{CapMap, cap};

use crate::case::World;

/// What the hosted service says for reasons of its own, whatever the policy: user-surface.md §4.12 lists it.
const HOSTED: [&str; 12] = [
    cap::IS_ADMIN,
    "https://tailscale.com/cap/is-owner",
    "https://tailscale.com/cap/tailnet-lock",
    "https://tailscale.com/cap/warn-funnel-no-https",
    "service-host",
    "store-appc-routes",
    "native-ipv4",
    "probe-udp-lifetime",
    "ssh-behavior-v1",
    "ssh-env-vars",
    cap::NETWORK_DISPLAY_NAME,
    cap::MAX_KEY_DURATION,
];
const HOSTED_FUNNEL_PORTS: &str = "https://tailscale.com/cap/funnel-ports?";

pub fn compare(world: &World<'_>) -> Result<(), String> {
    for (name, expected) in &world.case.expect {
        let Some(own) = &expected.own else { continue };
        let mut ours = world.compiled.cap_map_for(world.node(name)?.id);
        ours.extend(servers_own(world));
        same(&ours, own.cap_map.as_ref()).map_err(|why| format!("{name}: {why}"))?;
        for (peer, expected) in expected.peers.iter().flatten() {
            let ours = world.compiled.peer_cap_map_for(world.node(peer)?.id);
            same(&ours, expected.cap_map.as_ref()).map_err(|why| format!("{name} of {peer}: {why}"))?;
        }
    }
    Ok(())
}

/// What a control server tells every node, whatever the policy; it is not asked of the engine.
fn servers_own(world: &World<'_>) -> CapMap {
    let updates = world.case.setting("devices_auto_updates_on").and_then(Value::as_bool).unwrap_or_default();
    CapMap::from([
        (cap::SSH.to_owned(), Vec::new()),
        (cap::FILE_SHARING.to_owned(), Vec::new()),
        (cap::DEFAULT_AUTO_UPDATE.to_owned(), vec![Value::Bool(updates)]),
    ])
}

fn same(ours: &CapMap, theirs: Option<&BTreeMap<String, Value>>) -> Result<(), String> {
    let is_ours = |name: &str| !HOSTED.contains(&name) && !name.starts_with(HOSTED_FUNNEL_PORTS);
    let theirs: CapMap = theirs
        .into_iter()
        .flatten()
        .filter(|(name, _)| is_ours(name))
        .map(|(name, arguments)| (name.clone(), arguments.as_array().cloned().unwrap_or_default()))
        .collect();
    if *ours == theirs { Ok(()) } else { Err(format!("is told {ours:?}, not {theirs:?}")) }
}
