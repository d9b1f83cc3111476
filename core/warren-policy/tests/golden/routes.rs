//! Routes: what the policy approves by itself, and all that filters say.

use crate::case::World;
use crate::filters;

pub fn compare(world: &World<'_>) -> Result<(), String> {
    compare_approvals(world)?;
    filters::compare(world)
}

/// A route that a node announces is approved by the policy exactly if the recording says that it was.
fn compare_approvals(world: &World<'_>) -> Result<(), String> {
    for (name, recorded) in &world.case.nodes {
        for route in recorded.routable_ips.iter().flatten() {
            let ours = world.policy.approves_route(&world.users, world.node(name)?, *route);
            let theirs = recorded.approved_routes.iter().flatten().any(|approved| approved == route);
            if ours != theirs {
                return Err(format!("{name}: approval of {route} is {ours}, not {theirs}"));
            }
        }
    }
    Ok(())
}
