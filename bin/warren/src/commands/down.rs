//! `warren down`: leave the network without logging out.

use anyhow::Result;
use warren_api::local::{BackendState, Client, MaskedPrefs};

pub async fn run(client: &Client) -> Result<()> {
    let status = client.status(false).await?;
    if status.backend_state == BackendState::Stopped.as_str() {
        eprintln!("Warren was already stopped.");
        return Ok(());
    }
    client.edit_prefs(&MaskedPrefs::new().set("WantRunning", false)).await?;
    Ok(())
}
