//! Which node a person means by a name or an address.

use std::net::IpAddr;

use anyhow::{Result, bail};
use warren_api::local::{PeerStatus, Status};

/// The node named `what` (address, full name, short name or host name) and its addresses.
///
/// # Errors
/// Nobody is called that, or more than one peer is.
pub fn peer<'a>(status: &'a Status, what: &str) -> Result<(&'a PeerStatus, Vec<IpAddr>)> {
    let all = || std::iter::once(&status.self_status).chain(status.peer.iter().flatten().map(|(_, peer)| peer));
    let addresses = |node: &PeerStatus| node.tailscale_ips.clone().unwrap_or_default();
    if let Ok(ip) = what.parse::<IpAddr>() {
        return match all().find(|node| node.tailscale_ips.iter().flatten().any(|own| *own == ip)) {
            Some(node) => Ok((node, addresses(node))),
            None => bail!("no node has the address {ip}; warren status shows those that there are"),
        };
    }
    let name = what.trim_end_matches('.').to_ascii_lowercase();
    let full = |node: &PeerStatus| node.dns_name.trim_end_matches('.').to_ascii_lowercase();
    let short = |node: &PeerStatus| full(node).split('.').next().unwrap_or_default().to_string();
    for fits in [&|node: &PeerStatus| full(node) == name, &|node: &PeerStatus| short(node) == name]
        as [&dyn Fn(&PeerStatus) -> bool; 2]
    {
        if let Some(node) = all().find(|node| fits(node)) {
            return Ok((node, addresses(node)));
        }
    }
    let mut same: Vec<&PeerStatus> = all().filter(|node| node.host_name.eq_ignore_ascii_case(&name)).collect();
    match (same.pop(), same.is_empty()) {
        (Some(node), true) => Ok((node, addresses(node))),
        (Some(_), false) => bail!("more than one node calls itself \"{what}\"; name its address"),
        (None, _) => bail!("no node is called \"{what}\"; warren status shows those that there are"),
    }
}
