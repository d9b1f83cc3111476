//! Which people a word of the policy names.
//!
//! A person is an issuer and a subject, which the caller tells apart by [`UserId`]. A word is an e-mail address, a name
//! that an operator gave or what the provider calls the person; one that fits two people names neither, because access
//! fails closed. A name that people choose for themselves is no word: `docs/decisions/0006-names-in-policies.md`.

use std::collections::BTreeMap;

use warren_wire::UserId;

use crate::diagnostics::{Complaints, Diagnostics};
use crate::document::Document;
use crate::policy::Policy;
use crate::raw::{Kind, Raw};
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyUser, Role};

/// All people, and quickly found by a word.
#[derive(Clone, Debug)]
pub(crate) struct Directory<'a> {
    users: &'a [PolicyUser],
    by_provider: BTreeMap<&'a str, Vec<&'a PolicyUser>>,
    by_email: BTreeMap<&'a str, Vec<&'a PolicyUser>>,
    by_name: BTreeMap<&'a str, Vec<&'a PolicyUser>>,
}

/// The people of one selector.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Named {
    /// In order, each once.
    pub(crate) users: Vec<UserId>,
    /// Words that name nobody, or more than one person.
    pub(crate) problems: Vec<String>,
}

impl<'a> Directory<'a> {
    pub(crate) fn new(users: &'a [PolicyUser]) -> Directory<'a> {
        let mut directory =
            Directory { users, by_provider: BTreeMap::new(), by_email: BTreeMap::new(), by_name: BTreeMap::new() };
        for user in users {
            if let Some(id) = &user.provider_id {
                directory.by_provider.entry(id).or_default().push(user);
            }
            if !user.email.is_empty() {
                directory.by_email.entry(&user.email).or_default().push(user);
            }
            if !user.name.is_empty() && !user.self_named {
                directory.by_name.entry(&user.name).or_default().push(user);
            }
        }
        directory
    }

    /// Everyone whom a word may mean, each once; more than one is a mistake. What the provider says outranks the rest.
    pub(crate) fn find(&self, token: &str) -> Vec<&'a PolicyUser> {
        if let Some(users) = self.by_provider.get(token) {
            return users.clone();
        }
        let login = token.strip_suffix('@').filter(|name| !name.is_empty()).unwrap_or(token);
        let words = [self.by_email.get(token), self.by_name.get(login), self.by_name.get(token)];
        let mut users: Vec<&PolicyUser> = words.into_iter().flatten().flatten().copied().collect();
        users.sort_unstable_by_key(|user| user.id);
        users.dedup_by_key(|user| user.id);
        users
    }

    /// The people whom a selector names. `None` if it does not name people.
    pub(crate) fn named(&self, policy: &Policy, selector: &Selector) -> Option<Named> {
        let mut named = Named::default();
        let all = |is_meant: &dyn Fn(&PolicyUser) -> bool| {
            self.users.iter().filter(|user| is_meant(user)).map(|user| user.id).collect()
        };
        match selector {
            Selector::User(token) => self.add(token, &mut named),
            Selector::Group(name) => match policy.groups.get(name) {
                Some(members) => members.iter().for_each(|token| self.add(token, &mut named)),
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
        if named.users.is_empty() && matches!(selector, Selector::Domain(_) | Selector::Autogroup(Autogroup::Role(_))) {
            named.problems.push(format!("no user found: {selector}"));
        }
        named.users.sort_unstable();
        named.users.dedup();
        Some(named)
    }

    /// Whether a selector names this person among others.
    pub(crate) fn is_named(&self, policy: &Policy, selector: &Selector, user: UserId) -> bool {
        self.named(policy, selector).is_some_and(|named| named.users.contains(&user))
    }

    fn add(&self, token: &str, named: &mut Named) {
        match self.find(token)[..] {
            [user] => named.users.push(user.id),
            [] => named.problems.push(self.nobody(token)),
            _ => named.problems.push(format!("multiple users found: token {token}")),
        }
    }
}

impl Directory<'_> {
    fn nobody(&self, token: &str) -> String {
        let login = token.strip_suffix('@').unwrap_or(token);
        match self.users.iter().find(|user| user.self_named && user.name == login) {
            None => format!("no user found: token {token}"),
            Some(PolicyUser { id, .. }) => format!(
                "no user found: token {token}: user {id} chose that name at the identity provider; if it is to mean them, \
                 an operator gives it to them: users rename {id} {login}"
            ),
        }
    }
}

impl PolicyUser {
    fn is_of_domain(&self, domain: &str) -> bool {
        self.email.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain))
    }

    /// Whether the provider claims this person for `group:name@…`.
    fn is_claimed_in(&self, group: &str) -> bool {
        let name = group.strip_prefix("group:").unwrap_or(group);
        let plain = name.rsplit_once('@').filter(|(_, at)| *at == PROVIDER || self.is_of_domain(at));
        self.groups.iter().any(|claimed| claimed == name || plain.is_some_and(|(plain, _)| claimed == plain))
    }

    pub(crate) fn holds(&self, role: Role) -> bool {
        self.roles.contains(&role) || (role == Role::Admin && self.roles.contains(&Role::Owner))
    }
}

/// `group:NAME@oidc`: the provider's group NAME, whatever address its people have.
pub(crate) const PROVIDER: &str = "oidc";

impl Policy {
    /// Refuses a document whose words name more than one of these people. For the moment in which a policy is written:
    /// one that is in force stays, and such a word then names nobody ([`crate::Compiled::problems`]).
    ///
    /// # Errors
    /// Each such word with its place, and the people whom it may mean.
    pub fn check_people(text: &str, users: &[PolicyUser]) -> Result<(), Diagnostics> {
        let mut complaints = Complaints::new(text);
        let Some(document) = Document::parse(text, &mut complaints) else { return complaints.finish().map(|_| ()) };
        let directory = Directory::new(users);
        for (name, value) in document.sections() {
            look(value, name, &directory, &mut complaints);
        }
        complaints.finish().map(|_| ())
    }
}

fn look(value: &Raw, path: &str, directory: &Directory<'_>, complaints: &mut Complaints) {
    match &value.kind {
        Kind::Text(word) => {
            // With or without ports.
            let words = [Some(word.as_str()), word.rsplit_once(':').map(|(host, _)| host)];
            for word in words.into_iter().flatten() {
                let Ok(Selector::User(token)) = Selector::parse(word) else { continue };
                let found = directory.find(&token);
                if found.len() > 1 {
                    let people: Vec<String> = found.iter().map(|user| user.show()).collect();
                    complaints.add(
                        value.at,
                        path,
                        format!("multiple users found: token {token}: it may mean {}", people.join(" or ")),
                    );
                    return;
                }
            }
        }
        Kind::List(elements) => elements.iter().enumerate().for_each(|(index, element)| {
            look(element, &format!("{path}[{index}]"), directory, complaints);
        }),
        Kind::Object(fields) => fields.iter().for_each(|field| {
            look(&field.value, &format!("{path}.{}", field.name), directory, complaints);
        }),
        Kind::Null | Kind::Bool(_) | Kind::Number(_) => {}
    }
}

impl PolicyUser {
    fn show(&self) -> String {
        let words = [self.name.as_str(), self.email.as_str(), self.provider_id.as_deref().unwrap_or_default()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        format!("user {} ({})", self.id, words.join(", "))
    }
}
