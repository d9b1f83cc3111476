//! `warren version`.

use anyhow::Result;
use clap::Args;
use warren_api::local::Client;

#[derive(Args, Clone, Debug, Default)]
pub struct Version {
    /// Ask the running daemon for its version too
    #[arg(long)]
    daemon: bool,
    #[arg(long)]
    json: bool,
}

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The capability version that this program's node announces, as the first contact wants it.
pub fn capability() -> u16 {
    u16::try_from(warren_wire::CapabilityVersion::OUR_NODE.0).unwrap_or(u16::MAX)
}

pub async fn run(client: &Client, command: &Version) -> Result<()> {
    let daemon = if command.daemon { Some(client.status(false).await?.warren_version) } else { None };
    if command.json {
        let mut object = serde_json::json!({
            "majorMinorPatch": VERSION, "short": VERSION, "long": VERSION,
            "cap": warren_wire::CapabilityVersion::OUR_NODE.0,
        });
        if let Some(version) = daemon {
            object["daemonLong"] = version.into();
        }
        println!("{}", crate::safe::json(&object)?);
    } else if let Some(version) = daemon {
        println!("Client: {VERSION}\nDaemon: {version}");
    } else {
        println!("{VERSION}");
        println!("  capability version: {}", warren_wire::CapabilityVersion::OUR_NODE.0);
    }
    Ok(())
}
