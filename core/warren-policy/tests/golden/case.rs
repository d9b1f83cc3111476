//! One recorded case, and the tailnet that it was recorded in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use warren_ip::Prefix;
use warren_policy::{Compiled, Diagnostics, Policy, PolicyNode, PolicyUser, Role, Tailnet};
use warren_wire::ssh::SshRule;
use warren_wire::{FilterRule, NodeId, UserId};

#[derive(Deserialize)]
pub struct Case {
    pub id: String,
    pub policy: Value,
    pub tailnet_settings: Option<Value>,
    pub accepted: bool,
    pub error_message: Option<String>,
    pub users: Vec<User>,
    pub nodes: BTreeMap<String, Node>,
    pub expect: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
pub struct User {
    pub id: i64,
    pub name: String,
    pub email: String,
}

#[derive(Deserialize)]
pub struct Node {
    pub tags: Option<Vec<String>>,
    pub user: Option<String>,
    pub ipv4: String,
    pub ipv6: String,
    pub routable_ips: Option<Vec<Prefix>>,
    pub approved_routes: Option<Vec<Prefix>>,
}

#[derive(Deserialize)]
pub struct Expected {
    pub packet_filter: Option<Vec<FilterRule>>,
    pub ssh_rules: Option<Vec<SshRule>>,
    #[serde(rename = "self")]
    pub own: Option<Own>,
    pub peers: Option<BTreeMap<String, Peer>>,
}

#[derive(Deserialize)]
pub struct Own {
    pub cap_map: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
pub struct Peer {
    pub allowed_ips: Option<Vec<Prefix>>,
    pub cap_map: Option<BTreeMap<String, Value>>,
    pub primary_routes: Option<Vec<Prefix>>,
}

impl Case {
    /// The document; some recordings have it as a text inside JSON.
    pub fn policy_text(&self) -> String {
        match &self.policy {
            Value::String(text) => text.clone(),
            value => serde_json::to_string_pretty(value).expect("JSON"),
        }
    }

    /// A setting that was in force.
    pub fn setting(&self, name: &str) -> Option<&Value> {
        self.tailnet_settings.as_ref()?.get("settings")?.get(name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }
}

/// A case with its policy over its tailnet.
pub struct World<'c> {
    pub case: &'c Case,
    pub policy: &'c Policy,
    pub users: Vec<PolicyUser>,
    /// In the order of the case's names; the id is the place, from 1.
    pub nodes: Vec<PolicyNode>,
    pub compiled: Compiled,
}

impl<'c> World<'c> {
    pub fn new(case: &'c Case, policy: &'c Policy) -> World<'c> {
        let users: Vec<PolicyUser> = case.users.iter().map(|user| case.user(user)).collect();
        let nodes: Vec<PolicyNode> =
            case.nodes.values().enumerate().map(|(place, node)| policy_node(place, node, &users, policy)).collect();
        let compiled = policy.compile(&Tailnet { users: &users, nodes: &nodes, services: &[] });
        World { case, policy, users, nodes, compiled }
    }

    /// What is said against the policy where its tailnet is known. The e-mail domain of a recorded network is that of
    /// whoever founded it; the other people were invited.
    pub fn check(&self) -> Result<(), Diagnostics> {
        let founder = self.users.first().and_then(|user| user.email.rsplit_once('@'));
        let domains: Vec<String> = founder.iter().map(|(_, domain)| (*domain).to_owned()).collect();
        let tailnet = Tailnet { users: &self.users, nodes: &self.nodes, services: &[] };
        self.policy.admit(&tailnet, &domains).map(|_| ())
    }

    pub fn name(&self, node: NodeId) -> &'c str {
        self.case.names().nth(node.0 as usize - 1).expect("a node of the case")
    }

    pub fn node(&self, name: &str) -> Result<&PolicyNode, String> {
        let place = self.case.names().position(|known| known == name);
        place.map(|place| &self.nodes[place]).ok_or_else(|| format!("speaks of an unknown node {name}"))
    }
}

impl Case {
    /// Offices are not recorded as such, but what a person's own device is told of them is.
    fn user(&self, user: &User) -> PolicyUser {
        let own = self.expect.iter().filter(|(name, _)| {
            self.nodes.get(*name).is_some_and(|node| node.user.as_deref() == Some(user.name.as_str()))
        });
        let caps: Vec<&String> = own
            .filter_map(|(_, expected)| expected.own.as_ref()?.cap_map.as_ref())
            .flat_map(|caps| caps.keys())
            .collect();
        let told = |what: &str| caps.iter().any(|cap| cap.ends_with(what));
        let roles = [("/cap/is-owner", Role::Owner), ("/cap/is-admin", Role::Admin)];
        PolicyUser {
            id: UserId(user.id),
            name: user.name.clone(),
            email: user.email.clone(),
            roles: roles.into_iter().filter(|(what, _)| told(what)).map(|(_, role)| role).collect(),
            ..PolicyUser::default()
        }
    }
}

/// A recording may have been taken before the approval that its own policy gives arrived, so a route counts as approved
/// if either says so.
fn policy_node(place: usize, node: &Node, users: &[PolicyUser], policy: &Policy) -> PolicyNode {
    let owner = node.user.as_ref().map_or(users.first(), |name| users.iter().find(|user| user.name == *name));
    let tags = node.tags.clone().unwrap_or_default();
    let announced = node.routable_ips.as_deref().unwrap_or_default();
    let approved = node.approved_routes.clone().unwrap_or_default();
    let mut node = PolicyNode {
        id: NodeId(place as i64 + 1),
        user: owner.map(|user| user.id).filter(|_| tags.is_empty()),
        tags,
        addrs: [&node.ipv4, &node.ipv6].into_iter().map(|addr| addr.parse().expect("an address")).collect(),
        ..PolicyNode::default()
    };
    let is_approved = |route: &Prefix| approved.contains(route) || policy.approves_route(users, &node, *route);
    node.routes = announced.iter().copied().filter(is_approved).collect();
    node
}
