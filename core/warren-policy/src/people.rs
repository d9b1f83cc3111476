//! Which people a word of the policy names.
//!
//! A person is an issuer and a subject, which the caller tells apart by [`UserId`]. A word is an e-mail address, a login
//! or what the provider calls the person; one that fits two people names neither, because access fails closed.

use warren_wire::UserId;

use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyUser, Role};

/// The people whom a selector names, in the order of `users`, and what is wrong with its words. `None` if it does not
/// name people.
pub(crate) fn named(policy: &Policy, users: &[PolicyUser], selector: &Selector) -> Option<Named> {
    let mut named = Named::default();
    let all = |is_meant: &dyn Fn(&PolicyUser) -> bool| {
        users.iter().filter(|user| is_meant(user)).map(|user| user.id).collect()
    };
    match selector {
        Selector::User(token) => named.add(users, token),
        Selector::Group(name) => match policy.groups.get(name) {
            Some(members) => members.iter().for_each(|token| named.add(users, token)),
            None => {
                named.users = all(&|user| user.is_claimed_in(name));
                if named.users.is_empty() {
                    named.problems.push(format!("the identity provider claims nobody for {name}"));
                }
            }
        },
        Selector::Domain(domain) => named.users = all(&|user| user.is_of_domain(domain)),
        Selector::Autogroup(Autogroup::Member) => named.users = all(&|_| true),
        Selector::Autogroup(Autogroup::Role(role)) => named.users = all(&|user| user.holds(*role)),
        _ => return None,
    }
    named.users.sort_unstable();
    named.users.dedup();
    Some(named)
}

/// Whether a selector names this person among others.
pub(crate) fn are_named(policy: &Policy, users: &[PolicyUser], selector: &Selector, user: &PolicyUser) -> bool {
    named(policy, users, selector).is_some_and(|named| named.users.contains(&user.id))
}

/// The people of one selector.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Named {
    /// In order, each once.
    pub(crate) users: Vec<UserId>,
    pub(crate) problems: Vec<String>,
}

impl Named {
    fn add(&mut self, users: &[PolicyUser], token: &str) {
        match find(users, token)[..] {
            [user] => self.users.push(user.id),
            [] => self.problems.push(format!("no user found: token {token}")),
            _ => self.problems.push(format!("multiple users found: token {token}")),
        }
    }
}

/// Everyone whom a word may mean; more than one is a mistake. What the provider says outranks the rest.
pub(crate) fn find<'a>(users: &'a [PolicyUser], token: &str) -> Vec<&'a PolicyUser> {
    let by_provider: Vec<&PolicyUser> =
        users.iter().filter(|user| user.provider_id.as_deref() == Some(token)).collect();
    if by_provider.is_empty() { users.iter().filter(|user| user.answers_to(token)).collect() } else { by_provider }
}

impl PolicyUser {
    fn answers_to(&self, token: &str) -> bool {
        (!self.email.is_empty() && self.email == token)
            || token.strip_suffix('@').is_some_and(|name| !name.is_empty() && name == self.name)
            || (!self.name.is_empty() && self.name == token)
    }

    fn is_of_domain(&self, domain: &str) -> bool {
        self.email.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain))
    }

    /// Whether the provider claims this person for `group:name@…`.
    fn is_claimed_in(&self, group: &str) -> bool {
        let name = group.strip_prefix("group:").unwrap_or(group);
        let plain = name.rsplit_once('@').filter(|(_, at)| *at == PROVIDER || self.is_of_domain(at));
        self.groups.iter().any(|claimed| claimed == name || plain.is_some_and(|(plain, _)| claimed == plain))
    }

    fn holds(&self, role: Role) -> bool {
        self.roles.contains(&role) || (role == Role::Admin && self.roles.contains(&Role::Owner))
    }
}

/// `group:NAME@oidc`: the provider's group NAME, whoever's address it is.
const PROVIDER: &str = "oidc";
