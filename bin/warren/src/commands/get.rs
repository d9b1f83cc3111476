//! `warren get`: the settings of this node, by the names that `set` and `up` have for them.

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::Client;

use crate::settings;

#[derive(Args, Clone, Debug, Default)]
pub struct Get {
    #[arg(long)]
    json: bool,
    /// One setting, such as shields-up; `all` or nothing for all of them
    setting: Option<String>,
}

pub async fn run(client: &Client, command: &Get) -> Result<()> {
    let all = settings::values(&client.prefs().await?);
    let wanted = command.setting.as_deref().map(|name| name.trim_start_matches('-')).filter(|name| *name != "all");
    let shown: Vec<_> = all.iter().filter(|(flag, _)| wanted.is_none_or(|wanted| *flag == wanted)).collect();
    if let (true, Some(wanted)) = (shown.is_empty(), wanted) {
        let names: Vec<&str> = all.iter().map(|(flag, _)| *flag).collect();
        bail!("there is no setting \"{wanted}\"; there are {}", names.join(", "));
    }
    if command.json {
        let object: serde_json::Map<_, _> =
            shown.into_iter().map(|(flag, value)| ((*flag).to_owned(), value.clone())).collect();
        println!("{}", crate::safe::json(&object)?);
    } else if wanted.is_some() {
        shown.iter().for_each(|(_, value)| println!("{}", settings::shown(value)));
    } else {
        shown.iter().for_each(|(flag, value)| println!("{flag:<22} {}", settings::shown(value)));
    }
    Ok(())
}
