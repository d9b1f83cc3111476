//! Whom a policy is about: users and nodes, as far as rules can tell them apart.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use warren_ip::Prefix;
use warren_wire::{NodeId, UserId};

/// One network's users, nodes and services, borrowed for the time of compiling.
#[derive(Clone, Copy, Debug)]
pub struct Tailnet<'a> {
    pub users: &'a [PolicyUser],
    pub nodes: &'a [PolicyNode],
    pub services: &'a [PolicyService],
}

/// A person. Who it is, is `id`: an issuer and a subject, told apart by whoever fills this in. The rest are words by which
/// a policy may name the person; a word that fits two people names neither.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyUser {
    pub id: UserId,
    pub name: String,
    /// The name is what the person chose at the identity provider, so no word of a policy means them by it.
    pub self_named: bool,
    /// Only if the provider vouches for it; empty otherwise.
    pub email: String,
    /// What the identity provider calls this person, where one does.
    pub provider_id: Option<String>,
    /// Groups that the identity provider claims for this person, as it writes them. See `docs/decisions` on how a
    /// policy names them.
    pub groups: Vec<String>,
    pub roles: Vec<Role>,
}

/// An office that a person holds in the network: `autogroup:admin` and its like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Holds [`Role::Admin`] too.
    Owner,
    Admin,
    ItAdmin,
    NetworkAdmin,
    BillingAdmin,
    Auditor,
}

/// A word that is no office.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoRole(String);

impl fmt::Display for NoRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = Role::ALL.into_iter().map(Role::as_str).collect();
        write!(f, "{:?} is no role; there are {} and member", self.0, known.join(", "))
    }
}

impl std::error::Error for NoRole {}

impl Role {
    /// Each once.
    pub const ALL: [Role; 6] =
        [Role::Owner, Role::Admin, Role::ItAdmin, Role::NetworkAdmin, Role::BillingAdmin, Role::Auditor];

    /// As the hosted service spells it; after `autogroup:` it names those who hold it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::ItAdmin => "it-admin",
            Role::NetworkAdmin => "network-admin",
            Role::BillingAdmin => "billing-admin",
            Role::Auditor => "auditor",
        }
    }
}

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Role, NoRole> {
        let found = Role::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| NoRole(text.chars().take(64).collect()))
    }
}

/// A node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PolicyNode {
    pub id: NodeId,
    /// Whose it is; without meaning where there are tags.
    pub user: Option<UserId>,
    /// With their `tag:`. A node with tags belongs to nobody.
    pub tags: Vec<String>,
    pub addrs: Vec<IpAddr>,
    /// Networks behind it that it announces *and* that were approved, default routes among them.
    pub routes: Vec<Prefix>,
    /// What is known of the device, for postures: `node:os` and its like. What is not known is absent.
    pub attributes: BTreeMap<String, Attribute>,
}

/// A fact about a device.
#[derive(Clone, PartialEq, Debug)]
pub enum Attribute {
    Text(String),
    Number(f64),
    Bool(bool),
}

/// A service with addresses of its own, which nodes answer at in the place of theirs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyService {
    /// With its `svc:`.
    pub name: String,
    pub addrs: Vec<IpAddr>,
    /// The nodes that offer it *and* were approved to.
    pub hosts: Vec<NodeId>,
}

impl PolicyNode {
    pub(crate) fn owner(&self) -> Option<UserId> {
        self.user.filter(|_| self.tags.is_empty())
    }

    /// Routes that are not default routes.
    pub(crate) fn subnet_routes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.iter().copied().filter(|route| !route.is_default_route())
    }

    pub(crate) fn is_exit(&self) -> bool {
        self.routes.contains(&Prefix::ALL_V4) && self.routes.contains(&Prefix::ALL_V6)
    }
}
