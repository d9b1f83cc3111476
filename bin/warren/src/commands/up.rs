//! `warren up` and the flow that `login` shares with it: bring the node into its network and wait until it is there.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use warren_api::local::{BackendState, Client, MaskedPrefs, Notify, Prefs, StartOptions, Status};

use crate::settings::{self, Settings};
use crate::{safe, words};

#[derive(Args, Clone, Debug, Default)]
pub struct Up {
    #[command(flatten)]
    pub login: Login,
    #[command(flatten)]
    pub settings: Settings,
    /// Put every setting that is not mentioned back to its default
    #[arg(long)]
    pub reset: bool,
    /// Log in again although the node is logged in
    #[arg(long)]
    pub force_reauth: bool,
}

/// How to get in.
#[derive(Args, Clone, Debug, Default)]
pub struct Login {
    /// The control server's address
    #[arg(long, value_name = "URL")]
    pub login_server: Option<String>,
    /// A key that lets this node in without a person; file:PATH reads it from a file
    #[arg(long, alias = "authkey", value_name = "KEY", hide_env_values = true)]
    pub auth_key: Option<String>,
    /// The control server's public key (mkey:…): nobody else can then answer the first contact
    #[arg(long, value_name = "KEY")]
    pub server_key: Option<String>,
    /// Tags to ask for, comma-separated
    #[arg(long, value_name = "TAGS")]
    pub advertise_tags: Option<String>,
    /// Give up after this long (0: never)
    #[arg(long, default_value = "0", value_parser = words::parse_duration)]
    pub timeout: Duration,
    /// Say what happens as JSON
    #[arg(long)]
    pub json: bool,
    /// Show the login address as a QR code too
    #[arg(long)]
    pub qr: bool,
    /// Risks that are accepted (for scripts of the field; nothing here needs it)
    #[arg(long, hide = true)]
    pub accept_risk: Option<String>,
}

impl Login {
    pub fn key(&self) -> Result<Option<String>> {
        let Some(key) = &self.auth_key else { return Ok(None) };
        let Some(path) = key.strip_prefix("file:") else { return Ok(Some(key.clone())) };
        let text = std::fs::read_to_string(path).with_context(|| format!("read the auth key from {path}"))?;
        Ok(Some(text.trim().to_string()))
    }

    /// Adds what the login flags say to an edit of the preferences.
    fn edit(&self, mut edit: MaskedPrefs) -> Result<MaskedPrefs> {
        if let Some(url) = &self.login_server {
            edit = edit.set("ControlURL", url.trim_end_matches('/'));
        }
        if let Some(tags) = &self.advertise_tags {
            edit = edit.set(
                "AdvertiseTags",
                tags.split(',').filter(|tag| !tag.is_empty()).map(tag).collect::<Result<Vec<_>>>()?,
            );
        }
        Ok(edit)
    }
}

fn tag(text: &str) -> Result<String> {
    let name = text.strip_prefix("tag:").unwrap_or(text);
    if name.is_empty() {
        bail!("tag names must not be empty");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        bail!("tag names must start with a letter, after 'tag:'");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        bail!("tag names can only contain numbers, letters, or dashes");
    }
    Ok(format!("tag:{name}"))
}

pub async fn run(client: &Client, up: &Up) -> Result<()> {
    let status = client.status(false).await?;
    let current = client.prefs().await?;
    let mentioned = up.login.edit(up.settings.edit()?)?;
    let running = status.backend_state == BackendState::Running.as_str();

    let simple = mentioned.is_empty() && up.login.auth_key.is_none() && !up.force_reauth && !up.reset;
    if simple && status.have_node_key && !current.control_url.is_empty() && !current.logged_out {
        let mut bus = client.watch(0).await?;
        client.edit_prefs(&MaskedPrefs::new().set("WantRunning", true)).await?;
        if status.backend_state == BackendState::Starting.as_str() {
            // It has been at it for a while; what keeps it is no news on the bus any more.
            status.health.iter().for_each(|problem| eprintln!("# {}", safe::line(problem)));
        }
        return wait(client, &mut bus, &up.login).await;
    }
    let forgotten = settings::unmentioned(&current, &mentioned);
    if !up.reset && !forgotten.is_empty() {
        bail!(
            "changing settings with up needs all settings that are not at their default, or --reset. What you may want: warren up {}",
            forgotten.join(" ")
        );
    }
    let mut base = Prefs { control_url: current.control_url.clone(), ..Prefs::default() };
    base.profile_name.clone_from(&current.profile_name);
    let mut wanted = mentioned.apply_to(&base)?;
    wanted.want_running = true;
    if wanted.control_url.is_empty() {
        bail!("which network? Name its control server: warren up --login-server URL");
    }
    if running && wanted.control_url != current.control_url && !up.force_reauth {
        bail!("can't change --login-server without --force-reauth");
    }
    client.check_prefs(&wanted).await?;
    if running && !up.force_reauth && up.login.auth_key.is_none() && wanted.advertise_tags == current.advertise_tags {
        client.edit_prefs(&whole(&wanted)).await?;
        return Ok(());
    }
    start(client, &status, &up.login, wanted, up.force_reauth).await
}

/// Hands the daemon its settings and its key, and follows it until it runs.
pub async fn start(client: &Client, status: &Status, login: &Login, wanted: Prefs, force: bool) -> Result<()> {
    let mut bus = client.watch(0).await?;
    let auth_key = login.key()?;
    let has_key = auth_key.is_some();
    let options = StartOptions {
        update_prefs: Some(wanted),
        auth_key: auth_key.unwrap_or_default(),
        warren_server_key: login.server_key.clone().unwrap_or_default(),
    };
    client.start(&options).await?;
    if force || (!has_key && (!status.have_node_key || status.backend_state == BackendState::NeedsLogin.as_str())) {
        client.login_interactive().await?;
    }
    wait(client, &mut bus, login).await
}

pub(super) async fn wait(client: &Client, bus: &mut warren_api::local::client::Watcher, login: &Login) -> Result<()> {
    let mut shown = Shown::default();
    let following = follow(client, bus, login, &mut shown);
    if login.timeout.is_zero() {
        following.await
    } else {
        tokio::time::timeout(login.timeout, following).await.unwrap_or_else(|_| {
            bail!("timeout waiting for the node to enter a Running state; check health with \"warren status\"")
        })
    }
}

#[derive(Default)]
struct Shown {
    url: Option<String>,
    approval: bool,
}

async fn follow(
    client: &Client,
    bus: &mut warren_api::local::client::Watcher,
    login: &Login,
    shown: &mut Shown,
) -> Result<()> {
    // What happened before the bus was open is not on it.
    let status = client.status(false).await?;
    if !status.auth_url.is_empty() {
        show_url(login, shown, &status.auth_url)?;
    }
    if status.backend_state == BackendState::Running.as_str() && login.auth_key.is_none() && shown.url.is_none() {
        return arrived(client, login, shown).await;
    }
    while let Some(notice) = bus.next().await? {
        if let Some(text) = &notice.err_message {
            bail!("{text}");
        }
        if let Some(text) = &notice.warren_retrying {
            eprintln!("{}; trying again", safe::line(text));
        }
        if let Some(url) = notice.browse_to_url.as_deref().filter(|url| !url.is_empty()) {
            show_url(login, shown, url)?;
        }
        // A node that was in already stays in its state all the while.
        if notice.login_finished.is_some()
            && client.status(false).await?.backend_state == BackendState::Running.as_str()
        {
            return arrived(client, login, shown).await;
        }
        match state(&notice) {
            Some(BackendState::Running) => return arrived(client, login, shown).await,
            Some(BackendState::NeedsMachineAuth) if !shown.approval => {
                shown.approval = true;
                eprintln!("This node waits for an operator's approval: warren control nodes approve");
            }
            _ => {}
        }
    }
    bail!("the daemon ended the conversation before the node was running; see its log")
}

fn state(notice: &Notify) -> Option<BackendState> {
    notice.state.and_then(BackendState::from_number)
}

fn show_url(login: &Login, shown: &mut Shown, url: &str) -> Result<()> {
    if shown.url.as_deref() == Some(url) {
        return Ok(());
    }
    shown.url = Some(url.to_string());
    if login.json {
        println!("{}", safe::json_line(&serde_json::json!({"AuthURL": url, "BackendState": "NeedsLogin"}))?);
        return Ok(());
    }
    eprintln!("\nTo authenticate, visit:\n\n\t{}\n", safe::line(url));
    if login.qr {
        eprintln!("{}", crate::qr::text(url));
    }
    Ok(())
}

async fn arrived(client: &Client, login: &Login, shown: &Shown) -> Result<()> {
    let status = client.status(false).await?;
    if login.json {
        println!("{}", crate::safe::json(&serde_json::json!({"BackendState": status.backend_state}))?);
        return Ok(());
    }
    if shown.url.is_some() {
        eprintln!("Success.");
    }
    for problem in &status.health {
        eprintln!("# {}", safe::line(problem));
    }
    Ok(())
}

/// An edit that sets every preference.
fn whole(prefs: &Prefs) -> MaskedPrefs {
    let mut edit = MaskedPrefs::new();
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(prefs) {
        for (field, value) in fields {
            if !["Config", "LoggedOut", "DriveShares"].contains(&field.as_str()) {
                edit = edit.set(&field, value);
            }
        }
    }
    edit
}
