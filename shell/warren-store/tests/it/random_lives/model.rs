//! A control server as a person would write it on paper: lists, looked through from the top, and rules in plain words. It
//! shares no code with the real one; what it cannot foresee (link ids, secrets, addresses) it takes over from the answer
//! and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use warren_control::{ApiScope, AuthId, UserRole};
use warren_ip::Prefix;

use self::life::{end, is_due, is_expired};
use self::registering::standing;

mod life;
mod registering;
mod shown;

/// Seconds. Those of [`super::run`]'s settings.
pub const KEY_LIFETIME: u64 = 200;
pub const EPHEMERAL_TIMEOUT: u64 = 60;
const GRACE: u64 = 10;
const LINK_LIFETIME: u64 = 15 * 60;
const TICK: u64 = 5;
const TOLD: u64 = 600;

/// Policies that take turns; the last does not compile.
pub const POLICIES: [&str; 7] = [
    "{}",
    r#"{ "acls": [] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"], "tag:b": ["tag:a"] },
        "acls": [{ "action": "accept", "src": ["tag:a"], "dst": ["tag:b:80"] }] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"] },
        "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:tagged:*"] }] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"] }, "autoApprovers": { "routes": { "10.0.0.0/8": ["tag:a"] } } }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:admin"] },
        "acls": [{ "action": "accept", "src": ["autogroup:admin"],
                    "dst": ["autogroup:member:*", "autogroup:tagged:*"] }] }"#,
    r#"{ "acls": [{ "action": "accept", "src": ["group:nobody"], "dst": ["*:*"] }] }"#,
];

/// The one of them that goes by offices.
pub const ROLES: usize = 5;

/// Host names as machines say them, with what each makes.
pub const HOSTS: [(&str, &str); 6] = [
    ("laptop", "laptop"),
    ("Ann's Laptop.local", "anns-laptop"),
    ("LAPTOP", "laptop"),
    ("web_1", "web-1"),
    ("日本\n$(id)\u{202e}", "id"),
    ("", "node"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    User(i64),
    Tags(BTreeSet<String>),
}

impl Owner {
    pub fn user(&self) -> Option<i64> {
        match self {
            Self::User(user) => Some(*user),
            Self::Tags(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub machine: u8,
    pub key: u8,
    pub owner: Owner,
    pub name: String,
    pub chosen: bool,
    pub hostname: String,
    pub addresses: Vec<IpAddr>,
    pub created: u64,
    pub expiry: Option<u64>,
    pub expired: bool,
    /// Somebody ended it, not time.
    pub logged_out: bool,
    pub ephemeral: bool,
    pub approved: bool,
    pub kept_out: bool,
    pub registered: String,
    pub routes: BTreeSet<Prefix>,
    pub hidden: bool,
}

#[derive(Clone, Debug)]
pub struct User {
    pub identity: String,
    pub name: String,
    pub email: String,
    pub role: UserRole,
    /// What a provider says: groups, when, and whether it is over.
    pub sign_in: Option<(BTreeSet<String>, u64, bool)>,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub secret: String,
    pub user: Option<i64>,
    pub tags: BTreeSet<String>,
    pub reusable: bool,
    pub ephemeral: bool,
    pub preapproved: bool,
    pub used: bool,
    pub revoked: bool,
    pub expiry: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct ApiKey {
    pub scopes: BTreeSet<ApiScope>,
    pub expiry: u64,
    pub seen: Option<u64>,
}

impl ApiKey {
    /// As a line of the database.
    pub fn line(&self, id: i64) -> String {
        let Self { scopes, expiry, seen } = self;
        format!("API key {id} {scopes:?} until {expiry}, seen {seen:?}")
    }
}

#[derive(Clone, Debug)]
pub struct Waiting {
    pub request: Register,
    since: u64,
    verdict: Option<Settled>,
}

/// What became of a link.
#[derive(Clone, Debug)]
enum Settled {
    Approved,
    /// In the words that whoever waits hears.
    Refused(String),
}

/// What a node said of itself and the server only keeps softly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub routes: Vec<Prefix>,
    pub tags: BTreeSet<String>,
    pub endpoint: Option<u8>,
    /// Of the tags, those that it does not get. Not saved.
    pub refused: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Register {
    pub machine: u8,
    pub key: u8,
    pub old_key: Option<u8>,
    pub host: usize,
    pub tags: BTreeSet<String>,
    pub routes: Vec<Prefix>,
    pub auth: Option<String>,
    /// A time in the past is a logout.
    pub expiry: Option<u64>,
    pub follow: Option<AuthId>,
    pub ephemeral: bool,
}

/// The commands, in the model's words.
#[derive(Clone, Debug)]
pub enum Ask {
    Register(Register),
    ApproveRegistration(AuthId, i64),
    RejectRegistration(AuthId),
    Enrol(AuthId, Person, Option<u64>),
    RefreshPerson(i64, Person),
    EndSignIn(i64),
    ApproveNode(i64, bool),
    ExpireNode(i64, Option<i64>),
    DisableExpiry(i64),
    RenameNode(i64, &'static str),
    DeleteNode(i64),
    SetTags(i64, BTreeSet<String>),
    MoveNode(i64, i64),
    HideEndpoints(i64, bool),
    SetRoutes(i64, BTreeSet<Prefix>),
    CreateUser(&'static str),
    RenameUser(i64, &'static str),
    SetRole(i64, UserRole),
    DeleteUser(i64, bool),
    CreateKey {
        user: Option<i64>,
        tags: BTreeSet<String>,
        reusable: bool,
        ephemeral: bool,
        preapproved: bool,
        expiry: Option<u64>,
    },
    ExpireKey(i64),
    DeleteKey(i64),
    CreateApiKey(BTreeSet<ApiScope>, u64),
    ExpireApiKey(i64),
    DeleteApiKey(i64),
    SeeApiKey(i64),
    ReplacePolicy(usize),
    FollowHostname(i64, usize),
    ApproveAnnounced(i64),
    FollowUp {
        machine: u8,
        key: u8,
        link: AuthId,
    },
    BackfillAddresses,
    ExpireDue,
    RemoveAway(i64),
}

/// Somebody at the provider: the number is the subject.
#[derive(Clone, Debug)]
pub struct Person {
    pub subject: u8,
    pub email: &'static str,
    pub groups: BTreeSet<String>,
}

pub const ISSUER: &str = "https://id.example";

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub now: u64,
    pub device_approval: bool,
    pub users: BTreeMap<i64, User>,
    pub nodes: BTreeMap<i64, Node>,
    pub keys: BTreeMap<i64, Key>,
    pub api_keys: BTreeMap<i64, ApiKey>,
    pub waiting: BTreeMap<AuthId, Waiting>,
    pub policy: Option<usize>,
    pub made: [i64; 4],
    pub said: BTreeMap<i64, Said>,
    /// As the last batch began: what commands of a batch look at.
    said_before: BTreeMap<i64, Said>,
    connected_before: BTreeSet<i64>,
    pub saved: BTreeMap<i64, Said>,
    pub connected: BTreeSet<i64>,
    /// Who was told which tags they may not have.
    told: BTreeMap<i64, (BTreeSet<String>, u64)>,
    leaving: BTreeMap<i64, u64>,
    away: BTreeMap<i64, u64>,
    next_tick: u64,
    /// A link that the last command made, to be known by the answer.
    pub new_link: Option<Register>,
}

type Verdict = Result<String, String>;

fn no_such(kind: &str, id: impl std::fmt::Display) -> Verdict {
    Err(format!("no such {kind}: {id}"))
}

fn node_answer(id: i64) -> Verdict {
    Ok(format!("node {id}"))
}

fn refuse(text: &str) -> Verdict {
    Err(text.to_owned())
}

impl Model {
    pub fn new(now: u64, device_approval: bool) -> Self {
        Self { now, device_approval, ..Self::default() }
    }

    pub fn begin_batch(&mut self) {
        self.said_before = self.said.clone();
        self.connected_before = self.connected.clone();
    }

    /// What the server must answer, and what is so afterwards.
    pub fn decide(&mut self, ask: &Ask) -> Verdict {
        self.new_link = None;
        let before = self.clone();
        let verdict = self.decide_what(ask);
        if verdict.is_err() {
            *self = before;
        }
        verdict
    }

    fn decide_what(&mut self, ask: &Ask) -> Verdict {
        let now = self.now;
        match ask {
            Ask::Register(request) => self.register(request),
            Ask::ApproveRegistration(id, user) => {
                if !self.users.contains_key(user) {
                    return no_such("user", user);
                }
                self.let_in(*id, *user, "approved", true, None)
            }
            Ask::RejectRegistration(id) => {
                if !self.is_open(*id) {
                    return no_such("registration", id);
                }
                let rejected = Settled::Refused("registration was rejected".into());
                self.waiting.get_mut(id).expect("open").verdict = Some(rejected);
                Ok("done".into())
            }
            Ask::Enrol(id, person, until) => {
                let user = self.known_person(person)?;
                self.users.get_mut(&user).expect("made").sign_in = Some((person.groups.clone(), now, false));
                match self.let_in(*id, user, "sign-in", false, *until) {
                    Err(why) if why.starts_with("requested tags") => {
                        self.waiting.get_mut(id).expect("open").verdict = Some(Settled::Refused(why));
                        Ok("refused".into())
                    }
                    other => other,
                }
            }
            Ask::RefreshPerson(user, person) => {
                let Some(known) = self.users.get(user) else { return no_such("user", user) };
                if known.sign_in.is_none() {
                    return Err(format!("user {} did not sign in with a provider", known.name));
                }
                if known.identity != identity(person) {
                    return Err(format!("the provider answered for somebody else than user {}", known.name));
                }
                let was_over = known.sign_in.as_ref().is_some_and(|(_, _, over)| *over);
                // An address that is somebody else's here keeps the profile back, not the sign-in.
                let is_kept = self.known_person(person).is_err();
                self.users.get_mut(user).expect("known").sign_in = Some((person.groups.clone(), now, was_over));
                Ok(if is_kept { "kept".into() } else { format!("user {user}") })
            }
            Ask::EndSignIn(user) => {
                let Some(known) = self.users.get_mut(user) else { return no_such("user", user) };
                let Some((groups, _, over)) = &mut known.sign_in else {
                    return Err(format!("user {} did not sign in with a provider", known.name));
                };
                (*groups, *over) = (BTreeSet::new(), true);
                for node in self.nodes.values_mut().filter(|node| node.owner == Owner::User(*user)) {
                    end(node, now);
                }
                Ok(format!("user {user}"))
            }
            Ask::ApproveNode(id, approved) => {
                let is_new = |node: &&Node| (node.approved, node.kept_out) != (*approved, !approved);
                // It has its time to come back once more.
                if self.nodes.get(id).filter(is_new).is_some_and(|node| node.ephemeral) && !self.connected.contains(id)
                {
                    self.away.insert(*id, now + GRACE + EPHEMERAL_TIMEOUT);
                }
                self.change(*id, |node| (node.approved, node.kept_out) = (*approved, !approved))
            }
            Ask::ExpireNode(id, at) => self.change(*id, |node| {
                let at = at.map_or(now, |at| now.saturating_add_signed(at)).max(now);
                match node.expiry {
                    _ if node.logged_out && at <= now => {}
                    // It did not end now.
                    Some(ended) if ended <= now && at <= now => node.expired = true,
                    _ => (node.expiry, node.expired) = (Some(at), at <= now),
                }
                node.logged_out = at <= now;
            }),
            Ask::DisableExpiry(id) => {
                self.change(*id, |node| (node.expiry, node.expired, node.logged_out) = (None, false, false))
            }
            Ask::RenameNode(id, name) => {
                if !self.nodes.contains_key(id) {
                    return no_such("node", id);
                }
                if name.contains([' ', '<', '.']) || name.is_empty() {
                    return Err(format!("{name:?} cannot be a node's name"));
                }
                if self.nodes.iter().any(|(other, node)| other != id && node.name == *name) {
                    return Err(format!("node name {name:?} is taken"));
                }
                self.change(*id, |node| (node.name, node.chosen) = ((*name).to_owned(), true))
            }
            Ask::DeleteNode(id) => {
                if !self.nodes.contains_key(id) {
                    return no_such("node", id);
                }
                self.remove(*id);
                Ok("done".into())
            }
            Ask::SetTags(id, tags) => {
                if !self.nodes.contains_key(id) {
                    return no_such("node", id);
                }
                if tags.is_empty() {
                    return refuse("a node cannot be left without an owner; a person gets it back by logging in on it");
                }
                self.give_tags(*id, tags);
                node_answer(*id)
            }
            Ask::MoveNode(id, user) => self.move_node(*id, *user),
            Ask::HideEndpoints(id, hidden) => self.change(*id, |node| node.hidden = *hidden),
            Ask::SetRoutes(id, routes) => self.change(*id, |node| node.routes = routes.clone()),
            Ask::CreateUser(name) => {
                self.check_user_name(name)?;
                self.made[0] += 1;
                let identity = format!("local {}", self.made[0]);
                let (email, role) = (String::new(), UserRole::Member);
                self.users.insert(self.made[0], User { identity, name: (*name).into(), email, role, sign_in: None });
                Ok(format!("user {}", self.made[0]))
            }
            Ask::RenameUser(id, name) => {
                let Some(user) = self.users.get(id) else { return no_such("user", id) };
                if user.name != *name {
                    self.check_user_name(name)?;
                }
                self.users.get_mut(id).expect("there").name = (*name).to_owned();
                Ok(format!("user {id}"))
            }
            Ask::SetRole(id, role) => {
                if !self.users.contains_key(id) {
                    return no_such("user", id);
                }
                let owner = self.users.iter().find(|(_, user)| user.role == UserRole::OWNER);
                match owner {
                    Some((other, user)) if other != id && *role == UserRole::OWNER => {
                        let what_to_do = "give that one another role first";
                        return Err(format!("user {} is the owner, and there is only one; {what_to_do}", user.name));
                    }
                    _ => self.users.get_mut(id).expect("there").role = *role,
                }
                Ok(format!("user {id}"))
            }
            Ask::DeleteUser(id, with_nodes) => {
                let Some(user) = self.users.get(id) else { return no_such("user", id) };
                let theirs: Vec<i64> =
                    self.nodes.iter().filter(|(_, n)| n.owner == Owner::User(*id)).map(|(id, _)| *id).collect();
                if !theirs.is_empty() && !with_nodes {
                    let (name, count) = (&user.name, theirs.len());
                    return Err(format!("user {name} still has {count} node(s); delete them first"));
                }
                theirs.into_iter().for_each(|node| self.remove(node));
                self.keys.retain(|_, key| key.user != Some(*id));
                self.users.remove(id);
                Ok("done".into())
            }
            Ask::CreateKey { user, tags, reusable, ephemeral, preapproved, expiry } => {
                match user {
                    Some(user) if !self.users.contains_key(user) => return no_such("user", user),
                    None if tags.is_empty() => return refuse("a join key needs a user or tags"),
                    _ => {}
                }
                self.made[2] += 1;
                let key = Key {
                    secret: String::new(),
                    user: *user,
                    tags: tags.clone(),
                    reusable: *reusable,
                    ephemeral: *ephemeral,
                    preapproved: *preapproved,
                    used: false,
                    revoked: false,
                    expiry: expiry.map(|after| now + after),
                };
                self.keys.insert(self.made[2], key);
                Ok(format!("key {}", self.made[2]))
            }
            Ask::ExpireKey(id) => {
                let Some(key) = self.keys.get_mut(id) else { return no_such("key", id) };
                if key.expiry.is_none_or(|expiry| expiry > now) {
                    (key.expiry, key.revoked) = (Some(now), true);
                }
                Ok(format!("key {id}"))
            }
            Ask::DeleteKey(id) => match self.keys.remove(id) {
                Some(_) => Ok("done".into()),
                None => no_such("key", id),
            },
            Ask::CreateApiKey(scopes, after) => {
                if scopes.is_empty() {
                    return refuse("an API key needs a scope, such as read");
                }
                self.made[3] += 1;
                let key = ApiKey { scopes: scopes.clone(), expiry: now + after, seen: None };
                self.api_keys.insert(self.made[3], key);
                Ok(format!("API key {}", self.made[3]))
            }
            Ask::ExpireApiKey(id) => {
                let Some(key) = self.api_keys.get_mut(id) else { return no_such("API key", id) };
                key.expiry = key.expiry.min(now);
                Ok(format!("API key {id}"))
            }
            Ask::DeleteApiKey(id) => match self.api_keys.remove(id) {
                Some(_) => Ok("done".into()),
                None => no_such("API key", id),
            },
            Ask::SeeApiKey(id) => {
                let Some(key) = self.api_keys.get_mut(id) else { return no_such("API key", id) };
                if key.seen.is_none_or(|seen| seen + 600 <= now) {
                    key.seen = Some(now);
                }
                Ok("done".into())
            }
            Ask::ReplacePolicy(number) => {
                if number + 1 == POLICIES.len() {
                    return refuse("policy: …");
                }
                self.policy = Some(*number);
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.approve_announced(id);
                }
                Ok("policy".into())
            }
            Ask::FollowHostname(id, host) => {
                let Some(node) = self.nodes.get(id).cloned() else { return no_such("node", id) };
                let name = self.following_name(*id, &node, *host);
                self.change(*id, |node| (node.name, node.hostname) = (name, HOSTS[*host].0.to_owned()))
            }
            Ask::ApproveAnnounced(id) => {
                if !self.nodes.contains_key(id) {
                    return no_such("node", id);
                }
                self.approve_announced(*id);
                node_answer(*id)
            }
            Ask::FollowUp { machine, key, link } => match self.nodes.iter().find(|(_, node)| node.key == *key) {
                Some((_, node)) if node.machine != *machine => refuse("node exists with a different machine key"),
                Some((id, node)) if is_expired(node, now) => Ok(format!("key expired {id}")),
                Some((id, _)) => Ok(format!("in {id}")),
                None => self.link_of(*link, *machine, *key).and_then(standing).unwrap_or(Ok("over".into())),
            },
            Ask::BackfillAddresses => Ok("changes 0".into()),
            Ask::ExpireDue => {
                for node in self.nodes.values_mut().filter(|node| is_due(node, now)) {
                    node.expired = !node.expired;
                }
                Ok("done".into())
            }
            Ask::RemoveAway(id) => {
                let Some(node) = self.nodes.get(id) else { return no_such("node", id) };
                if !node.ephemeral || self.connected_before.contains(id) {
                    return Err(format!("node {id} is not an ephemeral node that is away"));
                }
                if node.kept_out {
                    return Err(format!("node {id} is kept out, which must not be forgotten"));
                }
                self.remove(*id);
                Ok("done".into())
            }
        }
    }

    fn change(&mut self, id: i64, change: impl FnOnce(&mut Node)) -> Verdict {
        match self.nodes.get_mut(&id) {
            Some(node) => {
                change(node);
                node_answer(id)
            }
            None => no_such("node", id),
        }
    }

    fn remove(&mut self, id: i64) {
        self.nodes.remove(&id);
        self.said.remove(&id);
        self.saved.remove(&id);
        self.connected.remove(&id);
        self.leaving.remove(&id);
        self.away.remove(&id);
    }

    fn check_user_name(&self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.contains(' ') {
            return Err(format!("{name:?} cannot be a user name"));
        }
        match self.users.values().any(|user| user.name == name) {
            true => Err(format!("user name {name:?} is taken")),
            false => Ok(()),
        }
    }

    /// The row of whoever signed in, brought up to date.
    fn known_person(&mut self, person: &Person) -> Result<i64, String> {
        let known = self.users.iter().find(|(_, user)| user.identity == identity(person)).map(|(id, _)| *id);
        let other = self
            .users
            .iter()
            .find(|(id, user)| Some(**id) != known && (user.email == person.email || user.name == person.email));
        if let Some((_, other)) = other {
            let what_to_do = "an operator must rename or delete that one first";
            return Err(format!("{} is the address of user {} here; {what_to_do}", person.email, other.name));
        }
        let Some(id) = known else {
            self.made[0] += 1;
            let user = User {
                identity: identity(person),
                name: person.email.into(),
                email: person.email.into(),
                role: UserRole::Member,
                sign_in: None,
            };
            self.users.insert(self.made[0], user);
            return Ok(self.made[0]);
        };
        let user = self.users.get_mut(&id).expect("known");
        if user.name == user.email {
            person.email.clone_into(&mut user.name);
        }
        person.email.clone_into(&mut user.email);
        Ok(id)
    }
}

fn identity(person: &Person) -> String {
    format!("{ISSUER} {}", person.subject)
}
