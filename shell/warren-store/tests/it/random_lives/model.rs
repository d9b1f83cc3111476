//! A control server as a person would write it on paper: lists, looked through from the top, and rules in plain words. It
//! shares no code with the real one; what it cannot foresee (link ids, secrets, addresses) it takes over from the answer
//! and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use warren_control::AuthId;
use warren_ip::Prefix;

/// Seconds. Those of [`super::run`]'s settings.
pub const KEY_LIFETIME: u64 = 200;
pub const EPHEMERAL_TIMEOUT: u64 = 60;
const GRACE: u64 = 10;
const LINK_LIFETIME: u64 = 15 * 60;
const TICK: u64 = 5;
const TOLD: u64 = 600;

/// Policies that take turns; the last does not compile.
pub const POLICIES: [&str; 6] = [
    "{}",
    r#"{ "acls": [] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"], "tag:b": ["tag:a"] },
        "acls": [{ "action": "accept", "src": ["tag:a"], "dst": ["tag:b:80"] }] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"] },
        "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:tagged:*"] }] }"#,
    r#"{ "tagOwners": { "tag:a": ["autogroup:member"] }, "autoApprovers": { "routes": { "10.0.0.0/8": ["tag:a"] } } }"#,
    r#"{ "acls": [{ "action": "accept", "src": ["group:nobody"], "dst": ["*:*"] }] }"#,
];

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
    pub waiting: BTreeMap<AuthId, Waiting>,
    pub policy: Option<usize>,
    pub made: [i64; 3],
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
                self.users
                    .insert(self.made[0], User { identity, name: (*name).into(), email: String::new(), sign_in: None });
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

    fn register(&mut self, request: &Register) -> Verdict {
        let now = self.now;
        let known = self.nodes.iter().find(|(_, node)| node.key == request.key).map(|(id, node)| (*id, node.clone()));
        if known.as_ref().is_some_and(|(_, node)| node.machine != request.machine) {
            return refuse("node exists with a different machine key");
        }
        if let (Some((id, node)), Some(true)) = (&known, request.expiry.map(|expiry| expiry <= now)) {
            if node.ephemeral && !node.kept_out {
                self.remove(*id);
                return Ok("key expired".into());
            }
            end(self.nodes.get_mut(id).expect("known"), now);
            return Ok(format!("key expired {id}"));
        }
        // A key that is gone says nothing about a node that is in.
        let has_key = |secret: &String| self.keys.values().any(|key| key.secret == *secret);
        let comes_back = match (&known, &request.auth) {
            (Some(_), None) => true,
            (Some((_, node)), Some(secret)) => !has_key(secret) && !is_expired(node, now),
            (None, _) => false,
        };
        if let (Some((id, node)), true) = (&known, comes_back) {
            if request.expiry.is_some() {
                return refuse("extending key is not allowed");
            }
            if is_expired(node, now) {
                return Ok(format!("key expired {id}"));
            }
            let asked_before = self.said_before.get(id).map(|said| said.tags.clone()).unwrap_or_default();
            let refused: BTreeSet<String> = match &node.owner {
                _ if request.tags == asked_before => BTreeSet::new(),
                Owner::Tags(has) => &request.tags - has,
                Owner::User(user) => self.not_to_give(*user, &request.tags),
            };
            if !refused.is_empty() {
                // Said once; whoever repeats it all the same is let in without.
                let told = self.told.insert(*id, (request.tags.clone(), now));
                let was_told = |(tags, since): &(BTreeSet<String>, u64)| *tags == request.tags && now < since + TOLD;
                let Some(told) = told.filter(was_told) else { return Ok("tags refused".into()) };
                self.told.insert(*id, told);
                self.hear(*id, &Register { tags: &request.tags - &refused, ..request.clone() });
                return Ok(format!("in {id}"));
            }
            if !request.tags.is_empty() && request.tags != asked_before && matches!(node.owner, Owner::User(_)) {
                self.give_tags(*id, &request.tags);
            }
            self.hear(*id, request);
            return Ok(format!("in {id}"));
        }
        if let Some(follow) = request.follow {
            let found = self.link_of(follow, request.machine, request.key);
            if let Some(standing) = found.and_then(standing) {
                return standing;
            }
        }
        let Some(auth) = &request.auth else {
            self.new_link = Some(request.clone());
            return Ok("visit".into());
        };
        let Some((key_id, key)) = self.keys.iter().find(|(_, key)| key.secret == *auth) else {
            return refuse("invalid pre auth key");
        };
        let (key_id, key) = (*key_id, key.clone());
        let owner = match key.user {
            Some(user) if key.tags.is_empty() => Owner::User(user),
            _ => Owner::Tags(key.tags.clone()),
        };
        if let Some((id, node)) = &known {
            let is_same = match (&node.owner, &owner) {
                (Owner::Tags(_), Owner::Tags(_)) => true,
                (a, b) => a == b,
            };
            if is_same && !is_expired(node, now) {
                self.hear(*id, request);
                return Ok(format!("in {id}"));
            }
        }
        if key.revoked {
            return refuse("authkey revoked");
        }
        if key.expiry.is_some_and(|expiry| expiry <= now) {
            return refuse("authkey expired");
        }
        if key.used && !key.reusable {
            return refuse("authkey already used");
        }
        if let Some(user) = &key.user
            && self.users[user].sign_in.as_ref().is_some_and(|(_, _, over)| *over)
        {
            return refuse("authkey revoked");
        }
        if !request.tags.is_empty() {
            return refuse_tags(&request.tags);
        }
        let ephemeral = key.ephemeral || request.ephemeral;
        let verdict = self.admit(request, owner, ephemeral, &format!("key {key_id}"), key.preapproved, None);
        if verdict.starts_with("in ") {
            self.keys.get_mut(&key_id).expect("found").used = true;
        }
        Ok(verdict)
    }

    fn is_open(&self, id: AuthId) -> bool {
        self.waiting.get(&id).is_some_and(|w| w.verdict.is_none() && self.now < w.since + LINK_LIFETIME)
    }

    fn let_in(&mut self, id: AuthId, user: i64, how: &str, approved: bool, until: Option<u64>) -> Verdict {
        if !self.is_open(id) {
            return no_such("registration", id);
        }
        let request = self.waiting[&id].request.clone();
        let owner = if request.tags.is_empty() {
            Owner::User(user)
        } else {
            let refused = self.not_to_give(user, &request.tags);
            if !refused.is_empty() {
                return refuse_tags(&refused);
            }
            Owner::Tags(request.tags.clone())
        };
        if self.nodes.values().any(|node| node.key == request.key && node.machine != request.machine) {
            return refuse("node exists with a different machine key");
        }
        let until = until.map(|after| self.now + after);
        let verdict = self.admit(&request, owner, request.ephemeral, how, approved, until);
        let Some(node) = verdict.strip_prefix("in ").and_then(|id| id.parse().ok()) else {
            return refuse("this machine has registered otherwise meanwhile");
        };
        self.waiting.get_mut(&id).expect("open").verdict = Some(Settled::Approved);
        node_answer(node)
    }

    fn admit(
        &mut self,
        request: &Register,
        owner: Owner,
        ephemeral: bool,
        registered: &str,
        approved: bool,
        until: Option<u64>,
    ) -> String {
        let now = self.now;
        let here = |node: &&(i64, Node)| node.1.machine == request.machine;
        let all: Vec<(i64, Node)> = self.nodes.iter().map(|(id, node)| (*id, node.clone())).collect();
        let of_machine: Vec<&(i64, Node)> = all.iter().filter(here).collect();
        let held = |node: &Node| node.key == request.key || Some(node.key) == request.old_key;
        let tagged = |node: &Node| matches!(node.owner, Owner::Tags(_));
        let first = |wish: &dyn Fn(&Node) -> bool| of_machine.iter().find(|(_, node)| wish(node)).map(|found| found.0);
        let existing = match &owner {
            Owner::User(_) => first(&|node| node.owner == owner).or_else(|| first(&|node| held(node) && tagged(node))),
            Owner::Tags(_) => first(&held).or_else(|| first(&tagged)),
        };
        if let Some((holder, _)) = all.iter().find(|(_, node)| node.key == request.key)
            && Some(*holder) != existing
        {
            return format!("key expired {holder}");
        }
        let is_kept_out = match existing {
            Some(id) => self.nodes[&id].kept_out,
            None => of_machine.iter().any(|(_, node)| node.kept_out),
        };
        let kept_out = is_kept_out && registered != "approved";
        let approved = !kept_out && (approved || !self.device_approval);
        let by_rule = match &owner {
            Owner::Tags(_) => None,
            Owner::User(_) => Some(now + KEY_LIFETIME),
        };
        // Whatever a machine asks for, it is never longer than the rule's and the sign-in's time.
        let asked = request.expiry.filter(|asked| *asked > now);
        let expiry = by_rule.map(|by_rule| asked.into_iter().chain(until).fold(by_rule, u64::min));
        let hostname = HOSTS[request.host].0.to_owned();
        let id = match existing {
            Some(id) => {
                let old = self.nodes[&id].clone();
                let name = self.following_name(id, &old, request.host);
                let node = self.nodes.get_mut(&id).expect("existing");
                node.key = request.key;
                (node.owner, node.name, node.hostname) = (owner, name, hostname);
                (node.expiry, node.expired, node.ephemeral) = (expiry, false, ephemeral);
                node.approved = approved || old.approved && !kept_out;
                (node.registered, node.logged_out, node.kept_out) = (registered.to_owned(), false, kept_out);
                id
            }
            None => {
                self.made[1] += 1;
                let node = Node {
                    machine: request.machine,
                    key: request.key,
                    owner,
                    name: self.free_name(HOSTS[request.host].1, 0),
                    chosen: false,
                    hostname,
                    addresses: Vec::new(),
                    created: now,
                    expiry,
                    expired: false,
                    logged_out: false,
                    ephemeral,
                    approved,
                    kept_out,
                    registered: registered.to_owned(),
                    routes: BTreeSet::new(),
                    hidden: false,
                };
                self.nodes.insert(self.made[1], node);
                self.made[1]
            }
        };
        if ephemeral && !self.connected.contains(&id) {
            self.away.insert(id, now + GRACE + EPHEMERAL_TIMEOUT);
        }
        self.outdate(request.machine, request.key);
        self.hear(id, request);
        format!("in {id}")
    }

    /// A machine waits with its last key only.
    fn outdate(&mut self, machine: u8, key: u8) {
        self.waiting.retain(|_, w| w.verdict.is_some() || w.request.machine != machine || w.request.key == key);
    }

    fn free_name(&self, base: &str, own: i64) -> String {
        let is_free = |name: &String| !self.nodes.iter().any(|(id, node)| *id != own && node.name == *name);
        let numbered = (1..).map(|number| format!("{base}-{number}"));
        std::iter::once(base.to_owned()).chain(numbered).find(is_free).expect("numbers do not end")
    }

    fn following_name(&self, id: i64, node: &Node, host: usize) -> String {
        let makes = |hostname: &str| HOSTS.iter().find(|(said, _)| *said == hostname).expect("of the table").1;
        let says_nothing = HOSTS[host].0.is_empty();
        if node.chosen || says_nothing || makes(&node.hostname) == HOSTS[host].1 {
            return node.name.clone();
        }
        self.free_name(HOSTS[host].1, id)
    }

    fn give_tags(&mut self, id: i64, tags: &BTreeSet<String>) {
        let owner = Owner::Tags(tags.clone());
        let node = self.nodes.get_mut(&id).expect("looked up before");
        if node.owner != owner {
            (node.owner, node.expiry, node.expired, node.logged_out) = (owner, None, false, false);
            self.approve_announced(id);
        }
    }

    fn move_node(&mut self, id: i64, user: i64) -> Verdict {
        let Some(node) = self.nodes.get(&id) else { return no_such("node", id) };
        let Some(person) = self.users.get(&user) else { return no_such("user", user) };
        let owner = Owner::User(user);
        if node.owner == owner {
            return node_answer(id);
        }
        let same = |(_, other): &(&i64, &Node)| other.machine == node.machine && other.owner == owner;
        if let Some((_, other)) = self.nodes.iter().find(same) {
            return Err(format!("{} has a node on the same machine already: {}", person.name, other.name));
        }
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("there");
        // Whoever was put out stays out, with the time at which it was.
        if matches!(node.owner, Owner::Tags(_)) && !is_expired(node, now) {
            node.expiry = Some(now + KEY_LIFETIME);
        }
        node.owner = owner;
        self.approve_announced(id);
        node_answer(id)
    }

    /// Which of these tags a person may not give.
    fn not_to_give(&self, user: i64, tags: &BTreeSet<String>) -> BTreeSet<String> {
        // Whoever owns the owner of a tag may give that tag, too.
        let own: &[&str] = match self.policy {
            Some(2) => &["tag:a", "tag:b"],
            Some(3 | 4) => &["tag:a"],
            _ => &[],
        };
        let may = |tag: &&String| self.users.contains_key(&user) && own.contains(&tag.as_str());
        tags.iter().filter(|tag| !may(tag)).cloned().collect()
    }

    fn link_of(&self, id: AuthId, machine: u8, key: u8) -> Option<&Waiting> {
        let is_theirs = |waiting: &&Waiting| (waiting.request.machine, waiting.request.key) == (machine, key);
        self.waiting.get(&id).filter(|waiting| self.now < waiting.since + LINK_LIFETIME).filter(is_theirs)
    }

    fn hear(&mut self, id: i64, request: &Register) {
        self.approve(id, &request.routes.clone());
        let endpoint = self.said.get(&id).and_then(|said| said.endpoint);
        self.said.insert(id, Said { routes: request.routes.clone(), tags: request.tags.clone(), endpoint });
    }

    fn approve_announced(&mut self, id: i64) {
        let routes = self.said_before.get(&id).map(|said| said.routes.clone()).unwrap_or_default();
        self.approve(id, &routes);
    }

    fn approve(&mut self, id: i64, routes: &[Prefix]) {
        if let Some(node) = self.nodes.get_mut(&id)
            && self.policy == Some(4)
            && matches!(&node.owner, Owner::Tags(tags) if tags.contains("tag:a"))
        {
            node.routes.extend(routes.iter().copied());
        }
    }

    pub fn newest_link(&self) -> Option<AuthId> {
        self.waiting.iter().filter(|(_, w)| w.verdict.is_none()).max_by_key(|(_, w)| w.since).map(|(id, _)| *id)
    }

    /// The link that was made by the last command is called so.
    pub fn name_link(&mut self, id: AuthId) {
        assert!(!self.waiting.contains_key(&id), "a link was given twice");
        let request = self.new_link.take().expect("a link was made");
        self.outdate(request.machine, request.key);
        self.waiting.insert(id, Waiting { request, since: self.now, verdict: None });
    }

    /// The server is another process now: what was soft and not saved is gone.
    pub fn restart(&mut self) {
        self.waiting.clear();
        self.told.clear();
        self.said = self.saved.clone();
        self.connected.clear();
        self.leaving.clear();
        let away = self.now + GRACE + EPHEMERAL_TIMEOUT;
        self.away = self.nodes.iter().filter(|(_, node)| node.ephemeral).map(|(id, _)| (*id, away)).collect();
        self.next_tick = self.now;
    }

    pub fn connect(&mut self, id: i64) {
        self.connected.insert(id);
        self.leaving.remove(&id);
        self.away.remove(&id);
    }

    /// The database refused a removal: it is asked for again.
    pub fn remove_later(&mut self, id: i64) {
        if self.nodes.contains_key(&id) && !self.connected.contains(&id) {
            self.away.insert(id, self.now + GRACE);
        }
    }

    pub fn disconnect(&mut self, id: i64) {
        self.connected.remove(&id);
        self.leaving.insert(id, self.now + GRACE);
        if self.nodes[&id].ephemeral {
            self.away.insert(id, self.now + GRACE + EPHEMERAL_TIMEOUT);
        }
    }

    /// Time passes; what the server must now ask of itself.
    pub fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.now += seconds;
        let now = self.now;
        self.leaving.retain(|_, at| *at > now);
        let due: Vec<i64> = self.away.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        self.away.retain(|_, at| *at > now);
        let mut asks: Vec<String> = due.iter().map(|id| format!("remove_away {id}")).collect();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            if self.nodes.values().any(|node| is_due(node, now)) {
                asks.push("expire_due".into());
            }
        }
        asks.sort();
        asks
    }

    /// Networks that two nodes serve: which of them is elected is a matter of what was before.
    pub fn contended(&self) -> BTreeSet<String> {
        let served = |(id, node): (&i64, &Node)| {
            let said = self.said.get(id).map(|said| said.routes.clone()).unwrap_or_default();
            said.into_iter()
                .filter(|route| node.routes.contains(route))
                .map(|route| route.to_string())
                .collect::<Vec<_>>()
        };
        let mut seen = BTreeSet::new();
        self.nodes.iter().flat_map(served).filter(|route| !seen.insert(route.clone())).collect()
    }

    fn is_online(&self, id: i64) -> bool {
        self.connected.contains(&id) || self.leaving.contains_key(&id)
    }

    fn sees(&self, a: i64, b: i64) -> bool {
        let (one, other) = (&self.nodes[&a], &self.nodes[&b]);
        let may = |from: &Node, to: &Node| match (self.policy, &from.owner, &to.owner) {
            (None | Some(0 | 4), _, _) => true,
            (Some(2), Owner::Tags(from), Owner::Tags(to)) => from.contains("tag:a") && to.contains("tag:b"),
            (Some(3), Owner::User(_), Owner::Tags(_)) => true,
            _ => false,
        };
        // Whoever must log in again sees nobody; others see that it must.
        one.approved && !one.expired && other.approved && (may(one, other) || may(other, one))
    }

    /// The map that `id` must hold, in words.
    pub fn map_of(&self, id: i64) -> Vec<String> {
        let mut lines = vec![self.in_map(id, true)];
        let peers = self.nodes.keys().filter(|peer| **peer != id && self.sees(id, **peer));
        lines.extend(peers.map(|peer| self.in_map(*peer, false)));
        lines
    }

    fn in_map(&self, id: i64, is_self: bool) -> String {
        let node = &self.nodes[&id];
        let said = self.said.get(&id);
        let owner = match &node.owner {
            Owner::User(user) => {
                let user = &self.users[user];
                if user.email.is_empty() { user.name.clone() } else { user.email.clone() }
            }
            Owner::Tags(tags) => tags.iter().cloned().collect::<Vec<_>>().join(","),
        };
        let endpoint = said.and_then(|said| said.endpoint).filter(|_| !is_self && !node.expired && !node.hidden);
        let online = is_self || self.is_online(id);
        // Who serves a network while nobody is there is a matter of what was before.
        let allows_all = matches!(self.policy, None | Some(0 | 4));
        let serves = node.approved && !node.expired && self.is_online(id) && (allows_all || is_self);
        let announced = said.map(|said| said.routes.as_slice()).unwrap_or_default();
        let contended = self.contended();
        let is_served =
            |route: &&Prefix| serves && node.routes.contains(route) && !contended.contains(&route.to_string());
        let routes: Vec<String> = announced.iter().filter(is_served).map(ToString::to_string).collect();
        format!(
            "{id} {} key {} {:?} of {owner}, expires {:?} {}, online {online}, at {endpoint:?}, serves {routes:?}",
            node.name, node.key, node.addresses, node.expiry, node.expired
        )
    }

    /// The database, in words.
    pub fn rows(&self) -> Vec<String> {
        let mut lines = vec![format!("made {:?}, policy {:?}", self.made, self.policy.map(|number| POLICIES[number]))];
        for (id, user) in &self.users {
            lines.push(format!("user {id} {} {:?} {:?} {:?}", user.identity, user.name, user.email, user.sign_in));
        }
        for (id, node) in &self.nodes {
            lines.push(format!("node {id} {node:?}"));
        }
        for (id, key) in &self.keys {
            lines.push(format!("key {id} {:?}", Key { secret: String::new(), ..key.clone() }));
        }
        lines
    }

    /// What must hold of any state, however it came about.
    pub fn check(&self) {
        let nodes: Vec<&Node> = self.nodes.values().collect();
        let count = nodes.len();
        let distinct = |of: BTreeSet<String>| assert_eq!(of.len(), count);
        distinct(nodes.iter().map(|node| node.name.clone()).collect());
        distinct(nodes.iter().map(|node| node.key.to_string()).collect());
        assert!(nodes.iter().all(|node| node.created <= self.now));
        let addresses: BTreeSet<IpAddr> = nodes.iter().flat_map(|node| node.addresses.iter().copied()).collect();
        assert_eq!(addresses.len(), 2 * count, "every node has two addresses of its own");
    }
}

fn refuse_tags(tags: &BTreeSet<String>) -> Verdict {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    Err(format!("requested tags [{}] are invalid or not permitted", tags.join(" ")))
}

/// What whoever waits for a link hears, if it says anything now.
fn standing(waiting: &Waiting) -> Option<Verdict> {
    match &waiting.verdict {
        None => Some(Ok("wait".into())),
        Some(Settled::Refused(why)) => Some(Err(why.clone())),
        Some(Settled::Approved) => None,
    }
}

fn identity(person: &Person) -> String {
    format!("{ISSUER} {}", person.subject)
}

fn is_expired(node: &Node, now: u64) -> bool {
    node.expired || node.expiry.is_some_and(|expiry| expiry <= now)
}

/// Whether what its row says of its key is not what time says.
fn is_due(node: &Node, now: u64) -> bool {
    !node.logged_out && node.expired != node.expiry.is_some_and(|expiry| expiry <= now)
}

/// Logged out: now, or when it had ended already.
fn end(node: &mut Node, now: u64) {
    if !node.logged_out {
        node.expiry = Some(node.expiry.filter(|expiry| *expiry <= now).unwrap_or(now));
        (node.expired, node.logged_out) = (true, true);
    }
}
