//! `warren switch`: which of this device's networks is the active one.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::{BackendState, Client, LoginProfile};

use crate::table;

#[derive(Args, Clone, Debug, Default)]
pub struct Switch {
    /// Show the networks that this device knows
    #[arg(long)]
    list: bool,
    /// The list as JSON
    #[arg(long, requires = "list")]
    json: bool,
    /// Id, domain, account or nickname of a network; `remove NAME` forgets one
    #[arg(num_args = 0..=2)]
    network: Vec<String>,
}

pub async fn run(client: &Client, command: &Switch) -> Result<()> {
    let profiles = client.profiles().await?;
    let current = client.current_profile().await?.id;
    if command.list || command.network.is_empty() {
        return list(&profiles, &current, command.json);
    }
    if let [verb, name] = command.network.as_slice() {
        if verb != "remove" {
            bail!("switch takes one network, or: switch remove NETWORK");
        }
        return Ok(client.delete_profile(&find(&profiles, name)?.id).await?);
    }
    let wanted = find(&profiles, &command.network[0])?;
    if wanted.id == current {
        println!("Already on account \"{}\"", crate::safe::line(&wanted.name));
        return Ok(());
    }
    client.switch_profile(&wanted.id).await?;
    let status = client.status(false).await?;
    if status.backend_state == BackendState::NeedsLogin.as_str() {
        println!("Logged out.\nTo log in, run:\n  warren up");
    } else {
        println!("Success.");
    }
    Ok(())
}

fn find<'a>(profiles: &'a [LoginProfile], name: &str) -> Result<&'a LoginProfile> {
    let by: [fn(&LoginProfile) -> &str; 4] =
        [|p| &p.id, |p| &p.network_profile.domain_name, |p| &p.name, |p| &p.network_profile.display_name];
    for field in by {
        if let Some(found) = profiles.iter().find(|profile| field(profile) == name) {
            return Ok(found);
        }
    }
    bail!("no network named \"{name}\"; warren switch --list shows those that there are")
}

fn list(profiles: &[LoginProfile], current: &str, json: bool) -> Result<()> {
    if json {
        let rows: Vec<_> = profiles
            .iter()
            .map(|p| {
                serde_json::json!({"id": p.id, "nickname": p.name, "tailnet": p.network_profile.domain_name,
                    "account": p.name, "selected": p.id == current})
            })
            .collect();
        println!("{}", crate::safe::json(&rows)?);
        return Ok(());
    }
    let rows = profiles.iter().map(|p| {
        let star = if p.id == current { "*" } else { "" };
        vec![p.id.clone(), p.network_profile.domain_name.clone(), format!("{}{star}", p.name)]
    });
    println!("{}", table::plain(&["ID", "Tailnet", "Account"], rows));
    Ok(())
}
