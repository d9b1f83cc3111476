//! What the questions are asked about: a policy, people and nodes, from files or from a running server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use warren_api::admin::{self, Client};
use warren_policy::{Diagnostic, Policy, PolicyNode, PolicyUser, Role, Tailnet};
use warren_wire::{NodeId, UserId};

use super::{Nodes, check};
use crate::places;

/// Longest file of nodes that is read, in bytes.
const MAX_NODES_FILE: u64 = 256 << 20;

/// A policy and its text.
pub(super) struct Document {
    pub(super) policy: Policy,
    pub(super) text: String,
}

impl Document {
    /// Reads a file that must be a policy.
    pub(super) fn read(file: &Path) -> Result<Document> {
        let text = check::read(file)?;
        Document::parse(text, &file.display().to_string())
    }

    fn parse(text: String, name: &str) -> Result<Document> {
        match Policy::parse(&text) {
            Ok(policy) => Ok(Document { policy, text }),
            Err(problems) => {
                let shown: Vec<String> = problems.0.iter().map(Diagnostic::pointed).collect();
                bail!("{name} is not a policy:\n{}", shown.join("\n"))
            }
        }
    }
}

/// People and nodes.
#[derive(Default)]
pub(super) struct World {
    pub(super) users: Vec<PolicyUser>,
    pub(super) nodes: Vec<PolicyNode>,
    names: BTreeMap<NodeId, String>,
}

/// What a server said.
pub(super) struct Server {
    pub(super) world: World,
    pub(super) policy: String,
}

impl Server {
    /// The policy in force; none is one that allows all.
    pub(super) fn document(&self) -> Result<Document> {
        let text = if self.policy.trim().is_empty() { "{}".to_owned() } else { self.policy.clone() };
        Document::parse(text, "the server's policy")
    }
}

/// Asks the running server, if there is one. One that was named must answer.
pub(super) fn server(socket: Option<PathBuf>) -> Result<Option<Server>> {
    let is_named = socket.is_some();
    let path = socket.unwrap_or_else(|| places::find_socket("control.sock", "WARREN_CONTROL_SOCKET", "control"));
    if !is_named && !path.exists() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(path);
        let asked = async {
            let (users, nodes) = (client.users().await?, client.nodes(None).await?);
            Ok::<_, admin::AdminError>((users, nodes, client.policy().await?))
        };
        match asked.await {
            Ok((users, nodes, policy)) => {
                Ok(Some(Server { world: World::new(&users, &nodes)?, policy: policy.policy }))
            }
            Err(error) if is_named => Err(error).context("ask the control server for its nodes"),
            Err(error) => {
                eprintln!("The control server was not asked: {error}");
                Ok(None)
            }
        }
    })
}

/// The policy of a file, or else the server's; and the people and nodes of a file, or else the server's. `None`: no nodes
/// are known.
pub(super) fn subject(
    policy: Option<&Path>,
    nodes: &Nodes,
    socket: Option<PathBuf>,
) -> Result<(Document, Option<World>)> {
    let file = nodes.nodes_file.as_deref().map(World::read).transpose()?;
    let server = if policy.is_some() && file.is_some() { None } else { server(socket)? };
    let document = match (policy, &server) {
        (Some(file), _) => Document::read(file)?,
        (None, Some(server)) => server.document()?,
        (None, None) => bail!("no control server answers here; name a policy file with --policy"),
    };
    Ok((document, file.or(server.map(|server| server.world))))
}

/// A file of nodes: a list of them, or an object with `nodes` and, for people without nodes, `users`.
#[derive(Deserialize)]
#[serde(untagged)]
enum NodesFile {
    Bare(Vec<admin::Node>),
    Full {
        #[serde(default)]
        users: Vec<admin::User>,
        nodes: Vec<admin::Node>,
    },
}

impl World {
    pub(super) fn read(file: &Path) -> Result<World> {
        let what = || format!("read the nodes in {}", file.display());
        if std::fs::metadata(file).with_context(what)?.len() > MAX_NODES_FILE {
            bail!("{}: more than {MAX_NODES_FILE} bytes", file.display());
        }
        let text = std::fs::read_to_string(file).with_context(what)?;
        let parsed = serde_json::from_str(&text).with_context(|| {
            format!("{} is no list of nodes such as warren control nodes list --json shows", file.display())
        })?;
        let (users, nodes) = match parsed {
            NodesFile::Bare(nodes) => (Vec::new(), nodes),
            NodesFile::Full { users, nodes } => (users, nodes),
        };
        World::new(&users, &nodes).with_context(what)
    }

    fn new(users: &[admin::User], nodes: &[admin::Node]) -> Result<World> {
        let mut world = World::default();
        for user in users {
            world.user(user)?;
        }
        for node in nodes {
            let name = if node.given_name.is_empty() { &node.name } else { &node.given_name };
            let id = match node.id.as_str() {
                "" => NodeId(world.nodes.iter().map(|node| node.id.0).max().unwrap_or(0) + 1),
                id => NodeId(id.parse().with_context(|| format!("node {name:?}: the id {id:?} is no number"))?),
            };
            if world.names.contains_key(&id) {
                bail!("node {name:?}: another node has the id {id}");
            }
            let addrs = node.ip_addresses.iter().map(|addr| addr.parse());
            let addrs = addrs.collect::<Result<_, _>>().with_context(|| format!("node {name:?}: its addresses"))?;
            // A route counts once it is approved and announced.
            let routes = node.subnet_routes.iter().map(|route| route.parse());
            let routes = routes.collect::<Result<_, _>>().with_context(|| format!("node {name:?}: its routes"))?;
            let user = if node.tags.is_empty() { Some(world.user(&node.user)?) } else { None };
            let tags = node.tags.clone();
            world.nodes.push(PolicyNode { id, user, tags, addrs, routes, ..PolicyNode::default() });
            world.names.insert(id, name.clone());
        }
        Ok(world)
    }

    /// Finds or adds a person, by id where there is one, else by name.
    fn user(&mut self, user: &admin::User) -> Result<UserId> {
        let same = |known: &&PolicyUser| match user.id.as_str() {
            "" => known.name == user.name && known.email == user.email,
            id => known.id.to_string() == id,
        };
        if let Some(known) = self.users.iter().find(same) {
            return Ok(known.id);
        }
        let id = match user.id.as_str() {
            "" => UserId(self.users.iter().map(|user| user.id.0).max().unwrap_or(0) + 1),
            id => UserId(id.parse().with_context(|| format!("user {:?}: the id {id:?} is no number", user.name))?),
        };
        let role = match user.role.as_str() {
            "" | "member" => None,
            role => Some(role.parse::<Role>().with_context(|| format!("user {:?}", user.name))?),
        };
        self.users.push(PolicyUser {
            id,
            name: user.name.clone(),
            self_named: user.self_named,
            email: user.email.clone(),
            provider_id: Some(user.provider_id.clone()).filter(|id| !id.is_empty()),
            groups: user.groups.clone(),
            roles: role.into_iter().collect(),
        });
        Ok(id)
    }

    pub(super) fn tailnet(&self) -> Tailnet<'_> {
        Tailnet { users: &self.users, nodes: &self.nodes, services: &[] }
    }

    /// The node's name, or its number if it has none.
    pub(super) fn name(&self, id: NodeId) -> String {
        match self.names.get(&id).filter(|name| !name.is_empty()) {
            Some(name) => name.clone(),
            None => format!("node {id}"),
        }
    }

    pub(super) fn named(&self, name: &str) -> Option<&PolicyNode> {
        self.nodes.iter().find(|node| self.names.get(&node.id).is_some_and(|known| known == name))
    }

    /// Says so in words if the file or the server left something out.
    pub(super) fn must_have_nodes(&self) -> Result<()> {
        if self.nodes.is_empty() {
            bail!("there are no nodes to ask about");
        }
        Ok(())
    }
}
