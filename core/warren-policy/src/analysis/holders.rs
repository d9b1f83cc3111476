//! Kinds of node: who can hold an address, as far as a policy can tell holders apart.
//!
//! A node belongs to a person or carries tags; every word of a policy that speaks of nodes asks for something of the one
//! or of the other, and never for the absence of it. So the nodes that a set of words names all have at least what one of
//! few *smallest* holders has, and what lets a small holder pass lets any larger one pass. Proofs go over the smallest
//! holders and never over subsets of tags.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use warren_ip::Prefix;
use warren_wire::{NodeId, UserId};

use crate::people::{self, Directory};
use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, PolicyUser, Role};

/// Who holds an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    Person(Person),
    Tagged(BTreeSet<String>),
}

/// The owner of a device, with nothing but what words ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Person {
    /// One of the people who are known, by place.
    Known(usize),
    /// Anybody else who has these.
    New(Features),
}

/// What words can ask of a person. One whom no word means has none of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Features {
    login: Option<String>,
    email: Option<Email>,
    /// As the identity provider claims them.
    groups: BTreeSet<String>,
    roles: BTreeSet<Role>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Email {
    Is(String),
    IsOf(String),
}

/// A policy, and the people who are known to be there.
pub(crate) struct Population<'a> {
    pub(crate) policy: &'a Policy,
    /// More people than these may come, whom no word that names one of these means.
    pub(crate) known: &'a [PolicyUser],
    directory: Directory<'a>,
}

impl<'a> Population<'a> {
    pub(crate) fn new(policy: &'a Policy, known: &'a [PolicyUser]) -> Population<'a> {
        Population { policy, known, directory: Directory::new(known) }
    }

    /// Those whom a word may mean among the people who are known.
    pub(crate) fn meant_by(&self, token: &str) -> Vec<&'a PolicyUser> {
        self.directory.find(token)
    }

    /// The smallest holders that a word names; `None` if it does not speak of nodes.
    pub(crate) fn smallest(&self, selector: &Selector) -> Option<Vec<Holder>> {
        let tagged = |tag: &String| Holder::Tagged([tag.clone()].into());
        Some(match selector {
            Selector::Tag(tag) => vec![tagged(tag)],
            Selector::Autogroup(Autogroup::Tagged) => self.policy.tag_owners.keys().map(tagged).collect(),
            Selector::Autogroup(Autogroup::Shared) => Vec::new(),
            _ => self.smallest_people(selector)?.into_iter().map(Holder::Person).collect(),
        })
    }

    fn smallest_people(&self, selector: &Selector) -> Option<Vec<Person>> {
        let known = || {
            let users = self.known.iter().enumerate();
            let named = users.filter(|(_, user)| self.directory.is_named(self.policy, selector, user.id));
            named.map(|(place, _)| Person::Known(place)).collect::<Vec<Person>>()
        };
        let new = |features: Features| Person::New(features);
        Some(match selector {
            Selector::User(token) => match self.directory.find(token)[..] {
                [] => vec![new(Features::named(token))],
                _ => known(),
            },
            Selector::Group(name) => match self.policy.groups.get(name) {
                Some(members) => {
                    let words = members.iter().map(|token| Selector::User(token.clone()));
                    words.flat_map(|word| self.smallest_people(&word).unwrap_or_default()).collect()
                }
                None => [known(), Features::claimed_in(name).into_iter().map(new).collect()].concat(),
            },
            Selector::Domain(domain) => {
                let email = Some(Email::IsOf(domain.clone()));
                [known(), vec![new(Features { email, ..Features::default() })]].concat()
            }
            Selector::Autogroup(Autogroup::Role(role)) => {
                let mut holders = known();
                let offices = if *role == Role::Admin { vec![Role::Admin, Role::Owner] } else { vec![*role] };
                holders.extend(
                    offices.into_iter().map(|role| new(Features { roles: [role].into(), ..Features::default() })),
                );
                holders
            }
            // A person whom nothing names has less than anybody known.
            Selector::Autogroup(Autogroup::Member) => vec![new(Features::default())],
            _ => return None,
        })
    }

    /// The smallest holders that all of these words name. Words that do not speak of nodes ask for nothing; `[None]` if
    /// all are such.
    pub(crate) fn smallest_of_all(&self, selectors: &[&Selector]) -> Vec<Option<Holder>> {
        let mut holders: Vec<Option<Holder>> = vec![None];
        let mut before: Vec<&Selector> = Vec::new();
        for selector in selectors {
            let Some(choices) = self.smallest(selector) else { continue };
            let mut next = Vec::new();
            for have in &holders {
                for choice in &choices {
                    let joined = match have {
                        None => Some(choice.clone()),
                        Some(have) => self.join(have, choice, &before, selector),
                    };
                    if let Some(joined) = joined.map(Some).filter(|joined| !next.contains(joined)) {
                        next.push(joined);
                    }
                }
                // Someone who is known may be named by a word whose smallest holder is someone else.
                if let Some(Holder::Person(Person::Known(place))) = have
                    && self.names_known(selector, *place)
                    && !next.contains(have)
                {
                    next.push(have.clone());
                }
            }
            before.push(selector);
            holders = next;
        }
        holders
    }

    fn join(&self, have: &Holder, more: &Holder, before: &[&Selector], selector: &Selector) -> Option<Holder> {
        match (have, more) {
            (Holder::Tagged(a), Holder::Tagged(b)) => Some(Holder::Tagged(a.union(b).cloned().collect())),
            (Holder::Person(Person::New(a)), Holder::Person(Person::New(b))) => {
                a.join(b).map(|both| Holder::Person(Person::New(both)))
            }
            (Holder::Person(Person::Known(place)), Holder::Person(_)) => {
                self.names_known(selector, *place).then(|| have.clone())
            }
            (Holder::Person(_), Holder::Person(Person::Known(place))) => {
                before.iter().all(|selector| self.names_known(selector, *place)).then(|| more.clone())
            }
            _ => None,
        }
    }

    fn names_known(&self, selector: &Selector, place: usize) -> bool {
        self.known.get(place).is_some_and(|user| self.directory.is_named(self.policy, selector, user.id))
    }

    /// Whether a word that speaks of nodes names this holder.
    pub(crate) fn names(&self, selector: &Selector, holder: &Holder) -> bool {
        match (holder, selector) {
            (Holder::Tagged(tags), Selector::Tag(tag)) => tags.contains(tag),
            (Holder::Tagged(_), selector) => *selector == Selector::Autogroup(Autogroup::Tagged),
            (Holder::Person(Person::Known(place)), selector) => self.names_known(selector, *place),
            (Holder::Person(Person::New(features)), selector) => {
                let user = features.bare();
                // A word that means somebody known means nobody else.
                let is_taken = |token: &str| !self.directory.find(token).is_empty();
                match selector {
                    Selector::User(token) if is_taken(token) => false,
                    Selector::Group(name) if self.policy.groups.contains_key(name) => {
                        let mut members = self.policy.groups.get(name).into_iter().flatten();
                        members.any(|token| self.names(&Selector::User(token.clone()), holder))
                    }
                    _ => Directory::new(std::slice::from_ref(&user)).is_named(self.policy, selector, user.id),
                }
            }
        }
    }

    /// Whether these two can only be one person, because a word can mean one person alone.
    pub(crate) fn must_be_one(&self, a: &Holder, b: &Holder) -> bool {
        match (a, b) {
            (Holder::Person(Person::New(a)), Holder::Person(Person::New(b))) => {
                let same_email = matches!((&a.email, &b.email), (Some(Email::Is(a)), Some(Email::Is(b))) if a == b);
                same_email || a.login.is_some() && a.login == b.login
            }
            (Holder::Person(Person::Known(a)), Holder::Person(Person::Known(b))) => a == b,
            _ => false,
        }
    }

    /// Who can put all of these tags on one node.
    pub(crate) fn admission(&self, tags: &BTreeSet<String>) -> Admission {
        if tags.len() < 2 || tags.iter().any(|tag| self.owners(tag).is_empty()) {
            return Admission::ByPolicy;
        }
        let mut choices: Vec<Vec<Selector>> = vec![Vec::new()];
        for tag in tags {
            let owners = self.owners(tag);
            choices = choices
                .iter()
                .flat_map(|choice| owners.iter().map(|owner| [choice.as_slice(), std::slice::from_ref(owner)].concat()))
                .filter(|choice| !self.smallest_of_all(&choice.iter().collect::<Vec<_>>()).is_empty())
                .take(MAX_CHOICES)
                .collect();
            if choices.len() == MAX_CHOICES {
                return Admission::ByPolicy;
            }
        }
        if choices.is_empty() { Admission::ByOperator } else { Admission::ByPolicy }
    }

    /// Words that name the people who may put a tag on a node; those that can name nobody are left out.
    fn owners(&self, tag: &str) -> Vec<Selector> {
        let mut asked = vec![tag];
        let mut owners = Vec::new();
        let mut at = 0;
        while let Some(tag) = asked.get(at).copied() {
            at += 1;
            for owner in self.policy.tag_owners.get(tag).into_iter().flatten() {
                match owner {
                    Selector::Tag(next) if !asked.contains(&next.as_str()) => asked.push(next),
                    Selector::Tag(_) => {}
                    owner if self.smallest(owner).is_some_and(|holders| !holders.is_empty()) => {
                        owners.push(owner.clone())
                    }
                    _ => {}
                }
            }
        }
        owners
    }
}

/// More ways than this to name one owner of several tags are not looked at: then there is sure to be one, as far as a
/// proof may rely on it.
const MAX_CHOICES: usize = 4096;

/// Who makes a node with several tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// One person owns them all, or one of them has no owner, so that operators give it out as they like.
    ByPolicy,
    /// No one person owns them all: only an operator can.
    ByOperator,
}

impl Person {
    /// Somebody whom no word means.
    pub(crate) fn nobody() -> Person {
        Person::New(Features::default())
    }
}

impl Features {
    /// `alice@` is a login name, anything else with an `@` an e-mail address.
    fn named(token: &str) -> Features {
        match token.strip_suffix('@') {
            Some(login) => Features { login: Some(login.to_owned()), ..Features::default() },
            None => Features { email: Some(Email::Is(token.to_owned())), ..Features::default() },
        }
    }

    /// The ways in which a provider can claim somebody for `group:NAME@…`.
    fn claimed_in(group: &str) -> Vec<Features> {
        let name = group.strip_prefix("group:").unwrap_or(group);
        let mut ways = vec![Features { groups: [name.to_owned()].into(), ..Features::default() }];
        if let Some((plain, at)) = name.rsplit_once('@') {
            let email = (at != people::PROVIDER).then(|| Email::IsOf(at.to_ascii_lowercase()));
            ways.push(Features { groups: [plain.to_owned()].into(), email, ..Features::default() });
        }
        ways
    }

    fn join(&self, other: &Features) -> Option<Features> {
        let login = match (&self.login, &other.login) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        let email = match (&self.email, &other.email) {
            (Some(a), Some(b)) => Some(a.join(b)?),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Some(Features {
            login,
            email,
            groups: self.groups.union(&other.groups).cloned().collect(),
            roles: self.roles.union(&other.roles).copied().collect(),
        })
    }

    /// For asking what words name: whatever no word asked for is nothing that a word could say.
    fn bare(&self) -> PolicyUser {
        let mut user = self.user(UserId(0), 0);
        if self.login.is_none() {
            user.name.clear();
        }
        if let Some(Email::IsOf(domain)) = &self.email {
            user.email = format!("\0@{domain}");
        }
        user
    }

    /// A person who has exactly these. `nth` keeps the names of those apart whom no word means.
    fn user(&self, id: UserId, nth: usize) -> PolicyUser {
        let name = self.login.clone().unwrap_or_else(|| format!("{SOMEBODY}{}", nth + 1));
        let email = match &self.email {
            None => String::new(),
            Some(Email::Is(email)) => email.clone(),
            Some(Email::IsOf(domain)) => format!("{SOMEBODY}{}@{domain}", nth + 1),
        };
        PolicyUser {
            id,
            name,
            self_named: false,
            email,
            provider_id: None,
            groups: self.groups.iter().cloned().collect(),
            roles: self.roles.iter().copied().collect(),
        }
    }
}

impl Email {
    fn join(&self, other: &Email) -> Option<Email> {
        match (self, other) {
            (Email::Is(a), Email::Is(b)) => (a == b).then(|| self.clone()),
            (Email::IsOf(a), Email::IsOf(b)) => a.eq_ignore_ascii_case(b).then(|| self.clone()),
            (Email::Is(email), Email::IsOf(domain)) | (Email::IsOf(domain), Email::Is(email)) => {
                let is_of = email.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
                is_of.then(|| Email::Is(email.clone()))
            }
        }
    }
}

/// What people are called whom no word names.
pub(crate) const SOMEBODY: &str = "somebody-";

/// A tailnet under construction: the one that a counterexample shows.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Cast {
    pub(crate) users: Vec<PolicyUser>,
    pub(crate) nodes: Vec<PolicyNode>,
}

impl Cast {
    /// With everyone who is known, whose words must mean them and nobody else.
    pub(crate) fn new(population: &Population<'_>) -> Cast {
        Cast { users: population.known.to_vec(), nodes: Vec::new() }
    }

    /// The owner of a device of this holder's.
    pub(crate) fn owner(&mut self, holder: &Holder) -> Option<UserId> {
        match holder {
            Holder::Person(person) => Some(self.user(person)),
            Holder::Tagged(_) => None,
        }
    }

    /// Finds or makes the person.
    fn user(&mut self, person: &Person) -> UserId {
        match person {
            Person::Known(place) => self.users.get(*place).map_or(UserId(0), |user| user.id),
            Person::New(features) => {
                let id = UserId(self.users.iter().map(|user| user.id.0).max().unwrap_or(0).saturating_add(1));
                self.users.push(features.user(id, self.users.len()));
                id
            }
        }
    }

    /// Adds a node. `owner` is without meaning for a tagged one.
    pub(crate) fn node(&mut self, holder: &Holder, owner: Option<UserId>, addrs: Vec<IpAddr>, routes: Vec<Prefix>) {
        let tags = match holder {
            Holder::Tagged(tags) => tags.iter().cloned().collect(),
            Holder::Person(_) => Vec::new(),
        };
        let id = NodeId(self.nodes.len() as i64 + 1);
        let user = owner.filter(|_| tags.is_empty());
        self.nodes.push(PolicyNode { id, user, tags, addrs, routes, attributes: BTreeMap::new() });
    }
}
