//! `warren control users|nodes|keys|apikeys|services|policy|auth …`: an operator's commands, over the server's admin
//! socket or from elsewhere with an API key.

mod api_keys;
mod attributes;
mod remote;
mod services;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use warren_api::admin::{AskNode, Client, CreateKey, CreateUser, ExpireNode, Node, PreAuthKey, User};
use warren_crypto::UnixTime;

pub use remote::Remote;

use crate::{safe, table, words};

/// Without a time, a key is good for an hour: long enough to walk to the other machine.
const KEY_LIFETIME: &str = "1h";

/// As the hosted service spells them.
const ROLES: [&str; 7] = ["owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"];

#[derive(Subcommand, Clone, Debug)]
pub enum Operate {
    /// People
    #[command(subcommand, alias = "user")]
    Users(Users),
    /// Devices
    #[command(subcommand, alias = "node")]
    Nodes(Nodes),
    /// Keys that let devices in without a person
    #[command(subcommand, visible_alias = "preauthkeys", alias = "authkeys", alias = "key")]
    Keys(Keys),
    /// Keys by which programs use this server's API
    #[command(subcommand, name = "apikeys", visible_alias = "apikey", alias = "api-keys")]
    ApiKeys(api_keys::ApiKeys),
    /// Addresses of the network's own, at which several devices may answer
    #[command(subcommand, alias = "service")]
    Services(services::Services),
    /// Who may reach whom
    #[command(subcommand)]
    Policy(Policy),
    /// Devices that wait to be let in
    #[command(subcommand)]
    Auth(Auth),
    /// Whether the server works
    Health(Output),
}

#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Users {
    /// Add a person
    #[command(visible_alias = "new")]
    Create {
        name: String,
        #[arg(short = 'd', long, default_value = "")]
        display_name: String,
        #[arg(short = 'e', long, default_value = "")]
        email: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show them
    #[command(visible_alias = "ls")]
    List(Output),
    /// Give a person another name
    Rename { user: String, new_name: String },
    /// Give a person an office that policies can name (autogroup:admin), or `member` for none
    SetRole {
        user: String,
        #[arg(value_parser = ROLES)]
        role: String,
    },
    /// Remove a person who has no devices
    #[command(visible_alias = "destroy")]
    Delete {
        user: String,
        /// And all their devices
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Nodes {
    /// Show them
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this person
        #[arg(short = 'u', long)]
        user: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Let in a device that waits at a login page
    Register {
        /// Whose it is
        #[arg(short = 'u', long)]
        user: String,
        /// From the page that the device was sent to
        #[arg(long = "auth-id", alias = "key")]
        auth_id: String,
    },
    /// Let in a device that waits: at a login page, or for an operator where the server asks for one
    Approve {
        /// Its id or link from the login page; or the name or number of a device in the list
        #[arg(required_unless_present = "auth_id")]
        what: Option<String>,
        /// Whose it is; needed for one from a login page if there are several people
        #[arg(short = 'u', long)]
        user: Option<String>,
        /// The same as naming the id
        #[arg(long = "auth-id", alias = "key", conflicts_with = "what")]
        auth_id: Option<String>,
    },
    /// Turn a waiting device away, or keep a device of the list out of the network
    Reject {
        /// Its id or link from the login page; or the name or number of a device in the list
        #[arg(required_unless_present = "auth_id")]
        what: Option<String>,
        /// The same as naming the id
        #[arg(long = "auth-id", alias = "key", conflicts_with = "what")]
        auth_id: Option<String>,
    },
    /// End a device's key, now or at a time
    #[command(visible_alias = "logout")]
    Expire {
        node: String,
        /// From now, such as 30d
        #[arg(long, value_parser = words::parse_duration, conflicts_with = "never")]
        after: Option<Duration>,
        /// The key never expires
        #[arg(long)]
        never: bool,
    },
    /// Give a device another name
    Rename { node: String, new_name: String },
    /// Set a device's tags (all of them, comma-separated)
    Tag { node: String, tags: String },
    /// Give a device to a person (and take its tags away)
    Move {
        node: String,
        /// Whose it is from now on
        #[arg(short = 'u', long)]
        user: String,
    },
    /// Show the networks behind devices
    #[command(visible_alias = "list-routes", alias = "lsr")]
    Routes {
        /// Only those of this device
        node: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Approve networks behind a device (all of them, comma-separated; an empty text takes all back)
    ApproveRoutes {
        node: String,
        #[arg(short = 'r', long)]
        routes: String,
    },
    /// Give devices addresses of a family that was switched on after they joined
    #[command(visible_alias = "backfillips")]
    BackfillIps {
        /// Taken for the field's scripts: nothing is asked here
        #[arg(long, hide = true)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Do not tell peers where a device is: it is met through relays
    HideEndpoints {
        node: String,
        /// Tell them again
        #[arg(long)]
        off: bool,
    },
    /// Show or set facts about a device that the policy's postures may ask for
    #[command(visible_alias = "attrs")]
    Attributes(attributes::Attributes),
    /// Ask a device for a sign of life
    Ping { node: String },
    /// Ask a device something of its own, such as /echo or /debug/health
    Ask { node: String, path: String },
    /// Forget a device
    #[command(visible_alias = "rm")]
    Delete { node: String },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Keys {
    /// Make one; it is shown once
    #[command(visible_alias = "new")]
    Create {
        /// Whose the devices will be (not needed with --tags)
        #[arg(short = 'u', long, default_value = "")]
        user: String,
        /// Good for more than one device
        #[arg(long)]
        reusable: bool,
        /// Devices go when they have been away for a while
        #[arg(long)]
        ephemeral: bool,
        /// Its devices need no approval, where the server asks for one
        #[arg(long)]
        pre_approved: bool,
        /// How long it lets devices in
        #[arg(short = 'e', long, default_value = KEY_LIFETIME, value_parser = words::parse_duration)]
        expiration: Duration,
        /// Tags of the devices, comma-separated
        #[arg(long, default_value = "")]
        tags: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show them, without their secrets
    #[command(visible_alias = "ls")]
    List(Output),
    /// Let nobody in with it any more
    #[command(visible_alias = "revoke")]
    Expire { id: String },
    /// Forget it
    #[command(visible_alias = "rm")]
    Delete { id: String },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Policy {
    /// Show the one in force
    #[command(visible_alias = "show")]
    Get,
    /// Put one in force
    #[command(visible_alias = "put")]
    Set {
        #[arg(short = 'f', long)]
        file: PathBuf,
    },
    /// Would the server take this one?
    Check {
        #[arg(short = 'f', long)]
        file: PathBuf,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Auth {
    /// Show the devices that wait
    #[command(visible_alias = "ls")]
    List(Output),
    /// Let one in
    Register {
        #[arg(short = 'u', long)]
        user: String,
        #[arg(long)]
        auth_id: String,
    },
    /// Let a shell session in that needs a check (or a device, where it is clear whose it is)
    Approve {
        #[arg(long)]
        auth_id: String,
    },
    /// Turn one away
    Reject {
        #[arg(long)]
        auth_id: String,
    },
}

pub async fn run(client: &Client, command: &Operate) -> Result<()> {
    match command {
        Operate::Users(users) => self::users(client, users).await,
        Operate::Nodes(nodes) => self::nodes(client, nodes).await,
        Operate::Keys(keys) => self::keys(client, keys).await,
        Operate::ApiKeys(command) => api_keys::run(client, command).await,
        Operate::Services(command) => services::run(client, command).await,
        Operate::Policy(policy) => self::policy(client, policy).await,
        Operate::Auth(auth) => self::auth(client, auth).await,
        Operate::Health(output) => {
            let health = client.health().await?;
            if output.json {
                return print_json(&health);
            }
            if !health.database_connectivity {
                bail!("the server answers, but its database does not take writes");
            }
            println!("The server works.");
            for warning in &health.warnings {
                println!("Look at this: {}", safe::line(warning));
            }
            Ok(())
        }
    }
}

async fn users(client: &Client, command: &Users) -> Result<()> {
    match command {
        Users::Create { name, display_name, email, output } => {
            let wish = CreateUser {
                name: name.clone(),
                display_name: display_name.clone(),
                email: email.clone(),
                ..CreateUser::default()
            };
            let user = client.create_user(&wish).await?;
            if output.json {
                return print_json(&user);
            }
            println!("User {} has the id {}.", safe::line(&user.name), user.id);
        }
        Users::List(output) => {
            let users = client.users().await?;
            if output.json {
                return print_json(&users);
            }
            let rows = users.iter().map(|user| {
                let User { id, display_name, mut name, email, created_at, role, self_named, .. } = user.clone();
                if self_named {
                    name.push_str(" (self-named)");
                }
                vec![id, display_name, name, email, date(created_at), role]
            });
            println!("{}", table::plain(&["ID", "Name", "Username", "Email", "Created", "Role"], rows));
        }
        Users::Rename { user, new_name } => {
            let id = client.user(user).await?.id;
            client.rename_user(&id, new_name).await?;
        }
        Users::SetRole { user, role } => {
            let id = client.user(user).await?.id;
            let user = client.set_role(&id, role).await?;
            println!("{} has the role {} now.", safe::line(&user.name), safe::line(&user.role));
        }
        Users::Delete { user, force } => {
            let id = client.user(user).await?.id;
            if *force {
                client.delete_user_with_nodes(&id).await?;
            } else {
                client.delete_user(&id).await?;
            }
        }
    }
    Ok(())
}

async fn nodes(client: &Client, command: &Nodes) -> Result<()> {
    match command {
        Nodes::List { user, output } => {
            let nodes = client.nodes(user.as_deref()).await?;
            if output.json {
                return print_json(&nodes);
            }
            let header = ["ID", "Name", "User", "Tags", "IP addresses", "Last seen", "Expiration", "Connected"];
            let rows = nodes.iter().map(|node| {
                vec![
                    node.id.clone(),
                    node.given_name.clone(),
                    node.user.name.clone(),
                    node.tags.join(","),
                    node.ip_addresses.join(", "),
                    date(node.last_seen),
                    if node.expired { "expired".into() } else { date(node.expiry) },
                    match (node.authorized, node.doubled, node.online) {
                        (false, _, _) => "waits for approval".into(),
                        (true, true, _) => "TWICE: two machines have its keys".into(),
                        (true, false, true) => "online".into(),
                        (true, false, false) => "offline".into(),
                    },
                ]
            });
            println!("{}", table::plain(&header, rows));
        }
        Nodes::Register { user, auth_id } => {
            let node = client.register(user, auth_id).await?;
            println!("{} has joined as {}.", safe::line(&node.given_name), node.ip_addresses.join(", "));
        }
        Nodes::Approve { what, user, auth_id } => match (waiting_id(what, auth_id), user) {
            (Some(id), Some(user)) => {
                let node = client.register(user, id).await?;
                println!("{} has joined as {}.", safe::line(&node.given_name), node.ip_addresses.join(", "));
            }
            (Some(id), None) => client.approve(id).await?,
            (None, _) => {
                let id = find(client, what.as_deref().unwrap_or_default()).await?.id;
                let node = client.set_authorized(&id, true).await?;
                println!("{} is in the network as {}.", safe::line(&node.given_name), node.ip_addresses.join(", "));
            }
        },
        Nodes::Reject { what, auth_id } => match waiting_id(what, auth_id) {
            Some(id) => client.reject(id).await?,
            None => {
                let id = find(client, what.as_deref().unwrap_or_default()).await?.id;
                let node = client.set_authorized(&id, false).await?;
                println!("{} is kept out of the network.", safe::line(&node.given_name));
            }
        },
        Nodes::Expire { node, after, never } => {
            let expiry = after.map(|after| now().saturating_add(after));
            let id = find(client, node).await?.id;
            client.expire_node(&id, &ExpireNode { expiry, disable_expiry: *never }).await?;
        }
        Nodes::Rename { node, new_name } => {
            let id = find(client, node).await?.id;
            client.rename_node(&id, new_name).await?;
        }
        Nodes::Tag { node, tags } => {
            let id = find(client, node).await?.id;
            client.set_tags(&id, &list(tags)).await?;
        }
        Nodes::Move { node, user } => {
            let id = find(client, node).await?.id;
            client.move_node(&id, user).await?;
        }
        Nodes::Routes { node, output } => return routes(client, node.as_deref(), output).await,
        Nodes::ApproveRoutes { node, routes } => {
            let id = find(client, node).await?.id;
            let node = client.approve_routes(&id, &list(routes)).await?;
            println!("{} serves {}.", node.given_name, in_words(&node.subnet_routes));
        }
        Nodes::BackfillIps { force: _, output } => {
            let changes = client.backfill_addresses().await?;
            if output.json {
                return print_json(&changes);
            }
            if changes.is_empty() {
                println!("Every device has the addresses that it should have.");
            }
            changes.iter().for_each(|change| println!("{}", safe::line(change)));
        }
        Nodes::HideEndpoints { node, off } => {
            let id = find(client, node).await?.id;
            client.hide_endpoints(&id, !off).await?;
        }
        Nodes::Attributes(wish) => return attributes::run(client, wish).await,
        Nodes::Ping { node } => {
            let node = find(client, node).await?;
            let sign = client.ping_node(&node.id).await?;
            println!("{} answered in {:.0} ms.", node.given_name, sign.seconds * 1000.0);
        }
        Nodes::Ask { node, path } => {
            let id = find(client, node).await?.id;
            let question = AskNode { path: path.clone(), ..AskNode::default() };
            println!("{}", safe::lines(client.ask_node(&id, &question).await?.answer.trim_end()));
        }
        Nodes::Delete { node } => {
            let id = find(client, node).await?.id;
            client.delete_node(&id).await?;
        }
    }
    Ok(())
}

async fn routes(client: &Client, node: Option<&str>, output: &Output) -> Result<()> {
    let nodes = match node {
        Some(node) => vec![find(client, node).await?],
        None => client.nodes(None).await?,
    };
    let routers =
        nodes.iter().filter(|n| node.is_some() || !n.available_routes.is_empty() || !n.approved_routes.is_empty());
    if output.json {
        return print_json(&routers.collect::<Vec<_>>());
    }
    let rows = routers.map(|node| {
        let networks = [&node.approved_routes, &node.available_routes, &node.subnet_routes];
        let [approved, available, serving] = networks.map(|list| list.join(", "));
        vec![node.id.clone(), node.given_name.clone(), approved, available, serving]
    });
    println!("{}", table::plain(&["ID", "Name", "Approved", "Available", "Serving (Primary)"], rows));
    Ok(())
}

fn in_words(networks: &[String]) -> String {
    if networks.is_empty() { "no network now".to_owned() } else { networks.join(", ") }
}

async fn keys(client: &Client, command: &Keys) -> Result<()> {
    match command {
        Keys::Create { user, reusable, ephemeral, pre_approved, expiration, tags, output } => {
            if user.is_empty() && tags.is_empty() {
                bail!("whose devices will it let in? Name --user, or --tags for devices that belong to nobody");
            }
            let wish = CreateKey {
                user: user.clone(),
                reusable: *reusable,
                ephemeral: *ephemeral,
                pre_approved: *pre_approved,
                expiration: Some(now().saturating_add(*expiration)),
                acl_tags: list(tags),
            };
            let key = client.create_key(&wish).await?;
            if output.json {
                return print_json(&key);
            }
            println!("{}", key.key);
        }
        Keys::List(output) => {
            let keys = client.keys().await?;
            if output.json {
                return print_json(&keys);
            }
            let header = ["ID", "Key", "Reusable", "Ephemeral", "Used", "Expiration", "Created", "Owner"];
            let rows = keys.iter().map(|key: &PreAuthKey| {
                let owner = key.user.as_ref().map_or_else(|| key.acl_tags.join(","), |user| user.name.clone());
                let flags = [key.reusable, key.ephemeral, key.used].map(|flag| flag.to_string());
                let [reusable, ephemeral, used] = flags;
                vec![
                    key.id.clone(),
                    key.key.clone(),
                    reusable,
                    ephemeral,
                    used,
                    date(key.expiration),
                    date(key.created_at),
                    owner,
                ]
            });
            println!("{}", table::plain(&header, rows));
        }
        Keys::Expire { id } => client.expire_key(id).await?,
        Keys::Delete { id } => client.delete_key(id).await?,
    }
    Ok(())
}

async fn policy(client: &Client, command: &Policy) -> Result<()> {
    match command {
        Policy::Get => {
            let policy = client.policy().await?;
            if policy.policy.is_empty() {
                eprintln!("There is no policy: everyone reaches everyone.");
            } else {
                println!("{}", safe::lines(policy.policy.trim_end()));
            }
        }
        Policy::Set { file } => {
            let policy = client.set_policy(&read(file)?).await.with_context(|| format!("{}", file.display()))?;
            look_at(&policy.warnings);
        }
        Policy::Check { file } => {
            let check = client.check_policy(&read(file)?).await.with_context(|| format!("{}", file.display()))?;
            look_at(&check.warnings);
            println!("The server would take it.");
        }
    }
    Ok(())
}

async fn auth(client: &Client, command: &Auth) -> Result<()> {
    match command {
        Auth::List(output) => {
            let waiting = client.waiting().await?;
            if output.json {
                return print_json(&waiting);
            }
            let rows = waiting.iter().map(|w| vec![w.auth_id.clone(), w.hostname.clone(), w.os.clone(), date(w.since)]);
            println!("{}", table::plain(&["Auth ID", "Hostname", "OS", "Waiting since"], rows));
        }
        Auth::Register { user, auth_id } => {
            let node = client.register(user, auth_id).await?;
            println!("{} has joined as {}.", safe::line(&node.given_name), node.ip_addresses.join(", "));
        }
        Auth::Approve { auth_id } => client.approve(auth_id).await?,
        Auth::Reject { auth_id } => client.reject(auth_id).await?,
    }
    Ok(())
}

/// What a person should know of something that was granted all the same.
fn look_at(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("Look at this: {}", safe::line(warning)));
}

/// What names a device at a login page: its id or link. Names of devices have neither a slash nor that beginning.
fn waiting_id<'a>(what: &'a Option<String>, auth_id: &'a Option<String>) -> Option<&'a str> {
    let named = what.as_deref().filter(|what| what.starts_with("wkey-req-") || what.contains("/register/"));
    auth_id.as_deref().or(named)
}

/// The device that a person means by an id or a name.
async fn find(client: &Client, what: &str) -> Result<Node> {
    let nodes = client.nodes(None).await?;
    let by_id = nodes.iter().find(|node| node.id == what);
    let found = by_id.or_else(|| nodes.iter().find(|node| node.given_name == what));
    found.cloned().with_context(|| format!("no device is called \"{what}\"; warren control nodes list shows them"))
}

fn read(file: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read the policy {}", file.display()))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_string).collect()
}

fn date(time: Option<UnixTime>) -> String {
    time.map_or_else(|| "-".into(), |time| UnixTime::from_secs(time.as_secs()).to_rfc3339())
}

fn now() -> UnixTime {
    UnixTime::from_duration(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", safe::json(value)?);
    Ok(())
}
