//! `warren set`: change the mentioned settings, leave the others.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::Client;

use crate::settings::Settings;

#[derive(Args, Clone, Debug, Default)]
pub struct Set {
    #[command(flatten)]
    settings: Settings,
    /// A short name for this network
    #[arg(long)]
    nickname: Option<String>,
}

pub async fn run(client: &Client, command: &Set) -> Result<()> {
    let mut edit = command.settings.edit()?;
    if let Some(name) = &command.nickname {
        edit = edit.set("ProfileName", name.as_str());
    }
    if edit.is_empty() {
        bail!("set what? Name a setting; warren set --help lists them");
    }
    let wanted = edit.apply_to(&client.prefs().await?)?;
    client.check_prefs(&wanted).await?;
    client.edit_prefs(&edit).await?;
    Ok(())
}
