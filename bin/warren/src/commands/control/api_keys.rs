//! Keys by which programs, and operators far away, use the API.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use warren_api::admin::{ApiKey, Client, CreateApiKey, ExpireApiKey};

use super::{Output, date, list, now, print_json};
use crate::{table, words};

/// Long enough to forget that it ends, short enough that a lost one does.
const LIFETIME: &str = "90d";

#[derive(Subcommand, Clone, Debug)]
pub enum ApiKeys {
    /// Make one; it is shown once
    #[command(visible_alias = "new")]
    Create {
        /// What it may do, comma-separated: all, read, or what it may look at and change: users, nodes, keys, policy,
        /// services, auth
        #[arg(short = 's', long, default_value = "all")]
        scopes: String,
        /// How long it is good
        #[arg(short = 'e', long, default_value = LIFETIME, value_parser = words::parse_duration)]
        expiration: Duration,
        #[command(flatten)]
        output: Output,
    },
    /// Show them, without their secrets
    #[command(visible_alias = "ls")]
    List(Output),
    /// Let nobody in with it any more
    #[command(visible_alias = "revoke")]
    Expire(Which),
    /// Forget it
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(Which),
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Its prefix, as the list shows it
    key: Option<String>,
    /// The same
    #[arg(short = 'p', long)]
    prefix: Option<String>,
    /// Its number in the list
    #[arg(short = 'i', long)]
    id: Option<String>,
}

pub async fn run(client: &Client, command: &ApiKeys) -> Result<()> {
    match command {
        ApiKeys::Create { scopes, expiration, output } => {
            let wish = CreateApiKey { expiration: Some(now().saturating_add(*expiration)), scopes: list(scopes) };
            let made = client.create_api_key(&wish).await?;
            if output.json {
                return print_json(&made);
            }
            println!("{}", made.api_key);
        }
        ApiKeys::List(output) => {
            let keys = client.api_keys().await?;
            if output.json {
                return print_json(&keys);
            }
            let rows = keys.iter().map(|key: &ApiKey| {
                let times = [key.expiration, key.created_at, key.last_seen].map(date);
                let [expiration, created, seen] = times;
                vec![key.id.clone(), key.prefix.clone(), key.scopes.join(","), expiration, created, seen]
            });
            println!("{}", table::plain(&["ID", "Prefix", "Scopes", "Expiration", "Created", "Last seen"], rows));
        }
        ApiKeys::Expire(which) => {
            let which = ExpireApiKey { prefix: which.prefix().to_owned(), id: which.id.clone().unwrap_or_default() };
            client.expire_api_key(&which).await?;
        }
        ApiKeys::Delete(which) => {
            let prefix = match &which.id {
                Some(id) => match client.api_keys().await?.into_iter().find(|key| key.id == *id) {
                    Some(key) => key.prefix,
                    None => bail!("no API key has the number {id}; warren control apikeys list shows them"),
                },
                None => which.prefix().to_owned(),
            };
            client.delete_api_key(&prefix).await?;
        }
    }
    Ok(())
}

impl Which {
    /// Without the secret part, if somebody gave the whole key: it need not travel.
    fn prefix(&self) -> &str {
        let said = self.key.as_deref().or(self.prefix.as_deref()).unwrap_or_default();
        let rest = said.strip_prefix("wkey-api-").unwrap_or(said);
        rest.split('-').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_prefix_alone_however_it_is_written() {
        for said in ["0123456789ab", "wkey-api-0123456789ab-***", "wkey-api-0123456789ab-5e5e"] {
            let which = Which { key: Some(said.to_owned()), prefix: None, id: None };
            assert_eq!(which.prefix(), "0123456789ab");
        }
    }
}
