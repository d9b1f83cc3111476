//! `warren control services …`: addresses of the network's own, at which several devices may answer.

use anyhow::{Result, bail};
use clap::Subcommand;
use warren_api::admin::{ChangeService, Client, CreateService, Service, ServiceHost};

use super::{Output, find, list, print_json};
use crate::table;

#[derive(Subcommand, Clone, Debug)]
pub enum Services {
    /// Make one; it gets addresses and a name
    #[command(visible_alias = "new")]
    Create {
        /// Such as svc:web
        name: String,
        /// Where it listens, comma-separated: tcp:443, 8000-8099, *
        #[arg(short = 'p', long, default_value = "")]
        ports: String,
        /// Tags by which a policy's autoApprovers may name it, comma-separated
        #[arg(long, default_value = "")]
        tags: String,
        #[arg(long, default_value = "")]
        comment: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show them, with the devices that host them or would
    #[command(visible_alias = "ls")]
    List(Output),
    /// Change what is said of one; what is not named stays
    Set {
        name: String,
        #[arg(short = 'p', long)]
        ports: Option<String>,
        #[arg(long)]
        tags: Option<String>,
        #[arg(long)]
        comment: Option<String>,
    },
    /// Let a device answer for one
    Approve { name: String, node: String },
    /// Let a device answer for one no longer
    Reject { name: String, node: String },
    /// Forget one; its addresses are free again
    #[command(visible_alias = "rm")]
    Delete { name: String },
}

pub async fn run(client: &Client, command: &Services) -> Result<()> {
    match command {
        Services::Create { name, ports, tags, comment, output } => {
            let wish =
                CreateService { name: name.clone(), ports: list(ports), comment: comment.clone(), tags: list(tags) };
            let service = client.create_service(&wish).await?;
            if output.json {
                return print_json(&service);
            }
            println!("{} has the addresses {}.", service.name, service.addrs.join(", "));
        }
        Services::List(output) => {
            let services = client.services().await?;
            if output.json {
                return print_json(&services);
            }
            let rows = services.iter().map(|service| {
                let Service { name, addrs, ports, tags, comment, hosts, .. } = service;
                let hosts: Vec<String> = hosts.iter().map(in_words).collect();
                let lists = [addrs, ports, tags, &hosts].map(|list| list.join(", "));
                let [addrs, ports, tags, hosts] = lists;
                vec![name.clone(), addrs, ports, tags, hosts, comment.clone()]
            });
            println!("{}", table::plain(&["Name", "IP addresses", "Ports", "Tags", "Hosts", "Comment"], rows));
        }
        Services::Set { name, ports, tags, comment } => {
            let wish = ChangeService {
                ports: ports.as_deref().map(list),
                comment: comment.clone(),
                tags: tags.as_deref().map(list),
            };
            if wish == ChangeService::default() {
                bail!("what of {name} should change? Name --ports, --tags or --comment");
            }
            client.change_service(name, &wish).await?;
        }
        Services::Approve { name, node } => approve(client, name, node, true).await?,
        Services::Reject { name, node } => approve(client, name, node, false).await?,
        Services::Delete { name } => client.delete_service(name).await?,
    }
    Ok(())
}

async fn approve(client: &Client, name: &str, node: &str, approved: bool) -> Result<()> {
    let node = find(client, node).await?;
    let service = client.approve_host(name, &node.id, approved).await?;
    match service.hosts.iter().find(|host| host.node_id == node.id) {
        Some(host) => println!("{}: {}", service.name, in_words(host)),
        None => println!("{} is no host of {}.", node.given_name, service.name),
    }
    Ok(())
}

/// The first thing that keeps a device from answering, or that it answers.
fn in_words(host: &ServiceHost) -> String {
    let state = match host {
        ServiceHost { answers: true, .. } => "answers",
        ServiceHost { approved: false, .. } => "waits for approval",
        ServiceHost { offered: false, .. } => "approved, does not offer it",
        ServiceHost { online: false, .. } => "offline",
        _ => "stands by",
    };
    format!("{} ({state})", host.name)
}
