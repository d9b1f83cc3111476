//! Whom a policy is about: users and nodes, as far as rules can tell them apart.

use std::net::IpAddr;

use warren_ip::Prefix;
use warren_wire::{NodeId, UserId};

/// One network's users and nodes, borrowed for the time of compiling.
#[derive(Clone, Copy, Debug)]
pub struct Tailnet<'a> {
    pub users: &'a [PolicyUser],
    pub nodes: &'a [PolicyNode],
}

/// A person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyUser {
    pub id: UserId,
    pub name: String,
    pub email: String,
    /// What the identity provider calls this person, where one does.
    pub provider_id: Option<String>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyNode {
    pub id: NodeId,
    /// Whose it is; without meaning where there are tags.
    pub user: Option<UserId>,
    /// With their `tag:`. A node with tags belongs to nobody.
    pub tags: Vec<String>,
    pub addrs: Vec<IpAddr>,
    /// Networks behind it that it announces *and* that were approved, default routes among them.
    pub routes: Vec<Prefix>,
}

impl PolicyUser {
    /// Whether a word of the policy may mean this person. The provider's identifier outranks the rest: see [`find_users`].
    fn answers_to(&self, token: &str) -> bool {
        (!self.email.is_empty() && self.email == token)
            || token.strip_suffix('@').is_some_and(|name| !name.is_empty() && name == self.name)
            || (!self.name.is_empty() && self.name == token)
    }
}

/// Everyone whom a word of the policy may mean; more than one is a mistake that the caller must refuse.
pub(crate) fn find_users<'a>(users: &'a [PolicyUser], token: &str) -> Vec<&'a PolicyUser> {
    let by_provider: Vec<&PolicyUser> =
        users.iter().filter(|user| user.provider_id.as_deref() == Some(token)).collect();
    if by_provider.is_empty() { users.iter().filter(|user| user.answers_to(token)).collect() } else { by_provider }
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
