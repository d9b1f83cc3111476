//! `warren ip`: addresses of this node or of a peer.

use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::{BackendState, Client};

use crate::find;

#[derive(Args, Clone, Debug, Default)]
#[command(disable_help_flag = false)]
pub struct Ip {
    /// Only the first address
    #[arg(short = '1')]
    one: bool,
    /// Only IPv4
    #[arg(short = '4')]
    v4: bool,
    /// Only IPv6
    #[arg(short = '6')]
    v6: bool,
    /// Fail unless this is one of the addresses
    #[arg(long, value_name = "IP")]
    assert: Option<IpAddr>,
    /// Name or address of a peer
    peer: Vec<String>,
}

pub async fn run(client: &Client, command: &Ip) -> Result<()> {
    if command.peer.len() > 1 {
        bail!("too many arguments, expected at most one peer");
    }
    if [command.one, command.v4, command.v6].iter().filter(|flag| **flag).count() > 1 {
        bail!("warren ip -1, -4, and -6 are mutually exclusive");
    }
    let status = client.status(true).await?;
    let mut addresses = match command.peer.first() {
        Some(name) => find::peer(&status, name)?.1,
        None => status.tailscale_ips.clone().unwrap_or_default(),
    };
    if addresses.is_empty() {
        if status.backend_state != BackendState::Running.as_str() {
            bail!("no current addresses; state: {}", status.backend_state);
        }
        bail!("no current addresses");
    }
    if let Some(expected) = command.assert {
        if !addresses.contains(&expected) {
            bail!("assertion failed: IP \"{expected}\" not found among {addresses:?}");
        }
        return Ok(());
    }
    addresses.retain(|ip| (!command.v4 || ip.is_ipv4()) && (!command.v6 || ip.is_ipv6()));
    if command.one {
        addresses.truncate(1);
    }
    if addresses.is_empty() {
        bail!("no address of that family");
    }
    for ip in addresses {
        println!("{ip}");
    }
    Ok(())
}
