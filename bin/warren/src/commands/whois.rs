//! `warren whois`: which node and which person an address belongs to.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::Client;

use crate::safe::line;

#[derive(Args, Clone, Debug, Default)]
pub struct Whois {
    #[arg(long)]
    json: bool,
    /// `IP` or `IP:port` inside the network
    address: String,
}

pub async fn run(client: &Client, command: &Whois) -> Result<()> {
    let Some(found) = client.whois(&command.address).await? else {
        bail!("no match for {}: no node of this network has that address", command.address);
    };
    if command.json {
        println!("{}", crate::safe::json(&found)?);
        return Ok(());
    }
    println!("Machine:\n  Name:          {}", line(found.node.name.trim_end_matches('.')));
    println!("  ID:            {}", line(&found.node.stable_id.to_string()));
    let addresses: Vec<String> = found.node.addresses.iter().map(ToString::to_string).collect();
    println!("  Addresses:     [{}]", addresses.join(" "));
    if found.node.tags.is_empty() {
        println!(
            "User:\n  Name:          {}\n  ID:            {}",
            line(&found.user_profile.login_name),
            found.user_profile.id
        );
    } else {
        println!("Tags:            {}", line(&found.node.tags.join(", ")));
    }
    if let Some(caps) = found.cap_map.filter(|caps| !caps.is_empty()) {
        println!("Capabilities:");
        for name in caps.keys() {
            println!("  - {}", line(name));
        }
    }
    Ok(())
}
