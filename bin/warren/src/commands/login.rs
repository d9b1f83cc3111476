//! `warren login` and `warren logout`.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::{Client, Prefs};

use super::up::{self, Login};
use crate::settings::Settings;

/// Adds a network to this device and makes it the active one.
#[derive(Args, Clone, Debug, Default)]
pub struct LoginCommand {
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    settings: Settings,
    /// A short name for this network
    #[arg(long)]
    nickname: Option<String>,
}

pub async fn login(client: &Client, command: &LoginCommand) -> Result<()> {
    let current = client.prefs().await?;
    let status = client.status(false).await?;
    let Some(url) =
        command.login.login_server.clone().or_else(|| Some(current.control_url.clone()).filter(|url| !url.is_empty()))
    else {
        bail!("which network? Name its control server: warren login --login-server URL");
    };
    // A profile that never joined anything is used, not left behind.
    if status.have_node_key && !current.logged_out {
        client.new_profile().await?;
    }
    let mut wanted = command.settings.edit()?.apply_to(&Prefs::default())?;
    wanted.control_url = url.trim_end_matches('/').to_string();
    wanted.want_running = true;
    wanted.profile_name = command.nickname.clone().unwrap_or_default();
    client.check_prefs(&wanted).await?;
    let fresh = client.status(false).await?;
    up::start(client, &fresh, &command.login, wanted, false).await
}

pub async fn logout(client: &Client) -> Result<()> {
    Ok(client.logout().await?)
}
