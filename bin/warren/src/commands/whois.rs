//! `warren whois`: which node and which person an address belongs to.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::Client;

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
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("Machine:\n  Name:          {}", found.node.name.trim_end_matches('.'));
    println!("  ID:            {}", found.node.stable_id);
    let addresses: Vec<String> = found.node.addresses.iter().map(ToString::to_string).collect();
    println!("  Addresses:     [{}]", addresses.join(" "));
    if found.node.tags.is_empty() {
        println!(
            "User:\n  Name:          {}\n  ID:            {}",
            found.user_profile.login_name, found.user_profile.id
        );
    } else {
        println!("Tags:            {}", found.node.tags.join(", "));
    }
    if let Some(caps) = found.cap_map.filter(|caps| !caps.is_empty()) {
        println!("Capabilities:");
        for name in caps.keys() {
            println!("  - {name}");
        }
    }
    Ok(())
}
