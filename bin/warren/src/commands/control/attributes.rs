//! `warren control nodes attributes …`: facts about a device that the policy's postures may ask for.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use warren_api::admin::{Client, NodeAttributes, SetAttribute};

use super::{Output, find, now, print_json};
use crate::{table, words};

#[derive(Args, Clone, Debug)]
pub struct Attributes {
    node: String,
    /// Set these, such as custom:tier=2 (a number), custom:managed=true or custom:team=web
    changes: Vec<String>,
    /// Values are texts, also those that look like numbers
    #[arg(long, requires = "changes")]
    text: bool,
    /// They go by themselves after this time, such as 8h
    #[arg(long, value_parser = words::parse_duration, requires = "changes")]
    after: Option<Duration>,
    /// Why, for the audit table
    #[arg(long, default_value = "", requires = "changes")]
    comment: String,
    /// Take this one away (more than once for several)
    #[arg(long)]
    remove: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub async fn run(client: &Client, wish: &Attributes) -> Result<()> {
    let id = find(client, &wish.node).await?.id;
    let mut changes = Vec::new();
    for change in &wish.changes {
        let Some((name, text)) = change.split_once('=') else {
            bail!("{change:?} says no value: write NAME=VALUE, such as custom:tier=2");
        };
        let value = if wish.text { Value::from(text) } else { value(text) };
        let expiry = wish.after.map(|after| now().saturating_add(after));
        changes.push((name, SetAttribute { value, expiry, comment: wish.comment.clone() }));
    }
    for name in &wish.remove {
        client.remove_attribute(&id, name).await?;
    }
    for (name, change) in &changes {
        client.set_attribute(&id, name, change).await?;
    }
    let all = client.attributes(&id).await?;
    if wish.output.json {
        return print_json(&all);
    }
    println!("{}", table::plain(&["Attribute", "Value", "Set by", "Expires"], rows(&all)));
    Ok(())
}

fn rows(all: &NodeAttributes) -> Vec<Vec<String>> {
    let row = |(name, value): (&String, &Value)| {
        let set_by = all.set_by.get(name).map_or("", String::as_str);
        let expires = all.expiries.get(name).map(ToString::to_string).unwrap_or_default();
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![name.clone(), value, set_by.to_owned(), expires]
    };
    all.attributes.iter().map(row).collect()
}

/// A truth value or a number where it is one, else a text.
fn value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_what_it_looks_like() {
        for (text, expect) in [
            ("2", json!(2)),
            ("-1.5", json!(-1.5)),
            ("true", json!(true)),
            ("web", json!("web")),
            ("", json!("")),
            ("1.2.3", json!("1.2.3")),
            ("\"2\"", json!("\"2\"")),
            ("null", json!("null")),
            ("[1]", json!("[1]")),
        ] {
            assert_eq!(value(text), expect, "{text}");
        }
    }
}
