//! What happens next: drawn by a seed, mostly things that can work in the present state.

use std::collections::BTreeSet;

use warren_control::{ApiScope, AuthId, Role, UserRole};
use warren_crypto::Random;
use warren_ip::Prefix;

use super::model::{Ask, HOSTS, Model, POLICIES, Person, ROLES, Register};
use super::words::{MACHINES, NODE_KEYS};
use super::{CUTS, Cut};

#[derive(Debug)]
pub enum Step {
    Batch(Vec<Ask>, Option<Cut>),
    Connect(i64),
    Disconnect(i64),
    Speak { node: i64, host: usize, routes: Vec<Prefix>, endpoint: u8 },
    Clone { node: i64, host: usize, endpoint: u8 },
    Pass(u64, Option<Cut>),
    SaveSoft,
}

/// Every command that must have been granted at least once in a run of some length.
pub const ACTIONS: [&str; 32] = [
    "register",
    "approve_registration",
    "reject_registration",
    "enrol",
    "refresh_person",
    "end_sign_in",
    "approve_node",
    "expire_node",
    "disable_expiry",
    "rename_node",
    "delete_node",
    "set_tags",
    "move_node",
    "hide_endpoints",
    "set_routes",
    "create_user",
    "rename_user",
    "set_role",
    "delete_user",
    "create_key",
    "expire_key",
    "delete_key",
    "create_api_key",
    "expire_api_key",
    "delete_api_key",
    "see_api_key",
    "replace_policy",
    "follow_hostname",
    "approve_announced",
    "expire_due",
    "remove_away",
    "backfill_addresses",
];

const USER_NAMES: [&str; 5] = ["ann", "bob", "cid", "an n", ""];
const NODE_NAMES: [&str; 5] = ["web", "db", "web-1", "a b", "<b>"];
const EMAILS: [&str; 3] = ["ann@example.net", "bob@example.net", "new@example.net"];

pub fn none<T: Default>() -> T {
    T::default()
}

pub struct Draw(Random);

impl Draw {
    pub fn new(seed: u64) -> Self {
        let mut bytes = [5; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Random::from_seed(bytes))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize).cloned() }
    }

    pub fn step(&mut self, model: &Model) -> Step {
        let nodes: Vec<i64> = model.nodes.keys().copied().collect();
        let here: Vec<i64> = model.connected.iter().copied().collect();
        let away: Vec<i64> = nodes.iter().filter(|id| !model.connected.contains(id)).copied().collect();
        match self.below(100) {
            0..=54 => {
                let count = 1 + self.below(4);
                let asks = (0..count).map(|_| self.ask(model)).collect();
                Step::Batch(asks, self.cut())
            }
            55..=64 => self.pick(&away).map_or(Step::SaveSoft, Step::Connect),
            65..=69 => self.pick(&here).map_or(Step::SaveSoft, Step::Disconnect),
            70..=79 => match self.pick(&here) {
                Some(node) => {
                    let (host, endpoint) = (self.host(), 1 + self.below(200) as u8);
                    Step::Speak { node, host, routes: self.routes(model.nodes[&node].key), endpoint }
                }
                None => Step::SaveSoft,
            },
            80..=82 => match self.pick(&here) {
                Some(node) => Step::Clone { node, host: self.host(), endpoint: 1 + self.below(200) as u8 },
                None => Step::SaveSoft,
            },
            83..=95 => {
                let seconds = self.pick(&[1, 3, 8, 15, 30, 75, 210]).expect("some");
                // What time asks for is rare, so it meets the database's refusal more often than others do.
                let cut = if self.one_in(4) { Some(Cut::Refused) } else { self.cut() };
                Step::Pass(seconds, cut)
            }
            _ => Step::SaveSoft,
        }
    }

    fn cut(&mut self) -> Option<Cut> {
        if self.one_in(3) { self.pick(&CUTS) } else { None }
    }

    fn host(&mut self) -> usize {
        self.below(HOSTS.len() as u64) as usize
    }

    fn routes(&mut self, key: u8) -> Vec<Prefix> {
        if self.one_in(2) { Vec::new() } else { vec![network(key)] }
    }

    fn tags(&mut self) -> BTreeSet<String> {
        let sets: [&[&str]; 4] = [&["tag:a"], &["tag:b"], &["tag:a", "tag:b"], &["tag:c"]];
        let chosen = self.pick(&sets).expect("some");
        chosen.iter().map(|tag| (*tag).to_owned()).collect()
    }

    fn role(&mut self) -> UserRole {
        let usual = [UserRole::OWNER, UserRole::Office(Role::Admin), UserRole::Member];
        let roles = if self.one_in(4) { UserRole::all().collect() } else { usual.to_vec() };
        self.pick(&roles).expect("some")
    }

    fn link(&mut self, model: &Model) -> AuthId {
        let links: Vec<AuthId> = model.waiting.keys().copied().collect();
        // Newer ones more often: those of a long life are mostly settled.
        let found = if self.one_in(4) { self.pick(&links) } else { model.newest_link() };
        found.unwrap_or(AuthId::from_bytes([1; 16]))
    }

    fn person(&mut self) -> Person {
        let groups = if self.one_in(2) { none() } else { BTreeSet::from(["dev".to_owned()]) };
        let subject = self.below(2) as u8;
        let email = if self.one_in(4) { self.pick(&EMAILS).expect("some") } else { EMAILS[usize::from(subject)] };
        Person { subject, email, groups }
    }

    fn registration(&mut self, model: &Model) -> Register {
        let nodes: Vec<i64> = model.nodes.keys().copied().collect();
        let known = if self.one_in(2) { self.pick(&nodes).map(|id| &model.nodes[&id]) } else { None };
        let (machine, key) = match known {
            // A restart, a login with a fresh key, and now and then somebody else with the same node key.
            Some(node) if self.one_in(6) => (self.below(MACHINES.into()) as u8, node.key),
            Some(node) if self.one_in(2) => (node.machine, node.key),
            Some(node) => (node.machine, self.below(NODE_KEYS.into()) as u8),
            None => (self.below(MACHINES.into()) as u8, self.below(NODE_KEYS.into()) as u8),
        };
        let secrets: Vec<String> =
            model.keys.values().map(|key| key.secret.clone()).filter(|s| !s.is_empty()).collect();
        let is_restart = known.is_some_and(|node| node.key == key) && self.one_in(2);
        let auth = match self.below(10) {
            _ if is_restart => None,
            0..=6 => self.pick(&secrets),
            7 => Some("wkey-auth-000000000000-00".to_owned()),
            _ => None,
        };
        let expiry = match self.below(12) {
            0 => Some(model.now - 100),
            1 => Some(model.now + 50),
            2 => Some(model.now + 5000),
            _ => None,
        };
        let old_key = known.filter(|_| self.one_in(2)).map(|node| node.key);
        let tags = if self.one_in(if is_restart { 2 } else { 6 }) { self.tags() } else { none() };
        let follow = if auth.is_none() && self.one_in(2) { Some(self.link(model)) } else { None };
        let (host, routes, ephemeral) = (self.host(), self.routes(key), self.one_in(8));
        let request = Register { machine, key, old_key, host, tags, routes, auth, expiry, follow, ephemeral };
        match follow.and_then(|id| model.waiting.get(&id)) {
            // Whoever follows up says the same again.
            Some(waiting) if !self.one_in(4) => Register { follow, ..waiting.request.clone() },
            _ => request,
        }
    }

    fn ask(&mut self, model: &Model) -> Ask {
        let nodes: Vec<i64> = model.nodes.keys().copied().chain([9999]).collect();
        let users: Vec<i64> = model.users.keys().copied().chain([9999]).collect();
        let keys: Vec<i64> = model.keys.keys().copied().chain([9999]).collect();
        let signed_in: Vec<i64> =
            model.users.iter().filter(|(_, user)| user.sign_in.is_some()).map(|(id, _)| *id).collect();
        let node = self.pick(&nodes).expect("some");
        let user = self.pick(&users).expect("some");
        let key = self.pick(&keys).expect("some");
        match self.below(108) {
            0..=29 => Ask::Register(self.registration(model)),
            30..=34 => Ask::ApproveRegistration(self.link(model), user),
            35 | 103 => Ask::RejectRegistration(self.link(model)),
            36..=39 => {
                let until = self.pick(&[None, Some(20), Some(500)]).expect("some");
                Ask::Enrol(self.link(model), self.person(), until)
            }
            40..=42 => {
                let user = self.pick(&signed_in).unwrap_or(user);
                Ask::RefreshPerson(user, self.person())
            }
            43..=44 => Ask::EndSignIn(self.pick(&signed_in).unwrap_or(user)),
            45..=48 => Ask::ApproveNode(node, !self.one_in(3)),
            49..=51 => Ask::ExpireNode(node, self.pick(&[None, Some(-5), Some(20), Some(400)]).expect("some")),
            52..=53 => Ask::DisableExpiry(node),
            54..=57 => Ask::RenameNode(node, self.pick(&NODE_NAMES).expect("some")),
            58..=60 => Ask::DeleteNode(node),
            61..=64 => Ask::SetTags(node, if self.one_in(8) { none() } else { self.tags() }),
            65..=68 => Ask::MoveNode(node, user),
            69..=71 => Ask::HideEndpoints(node, self.one_in(2)),
            72..=75 => {
                let found = model.nodes.get(&node).map(|node| node.key);
                let routes = found.into_iter().filter(|_| !self.one_in(3)).map(network).collect();
                Ask::SetRoutes(node, routes)
            }
            76..=79 => Ask::CreateUser(self.pick(&USER_NAMES).expect("some")),
            80 => Ask::RenameUser(user, self.pick(&USER_NAMES).expect("some")),
            81..=82 => Ask::DeleteUser(user, self.one_in(2)),
            83..=89 => {
                let tags = if self.one_in(3) { self.tags() } else { none() };
                let owner = if self.one_in(6) { None } else { Some(user) };
                let (reusable, ephemeral, preapproved) = (self.one_in(2), self.one_in(3), self.one_in(2));
                let expiry = self.pick(&[None, None, Some(40), Some(900)]).expect("some");
                Ask::CreateKey { user: owner, tags, reusable, ephemeral, preapproved, expiry }
            }
            90 => Ask::ExpireKey(key),
            91 => Ask::DeleteKey(key),
            92..=94 => {
                Ask::ReplacePolicy(if self.one_in(4) { ROLES } else { self.below(POLICIES.len() as u64) as usize })
            }
            95 => Ask::FollowHostname(node, self.host()),
            96 => Ask::ApproveAnnounced(node),
            104..=105 => {
                let scopes = ApiScope::EVERY.into_iter().filter(|_| self.one_in(3)).collect();
                Ask::CreateApiKey(scopes, self.pick(&[40, 900, 5000]).expect("some"))
            }
            106..=107 => {
                let keys: Vec<i64> = model.api_keys.keys().copied().chain([9999]).collect();
                let key = self.pick(&keys).expect("some");
                let all = [Ask::ExpireApiKey(key), Ask::DeleteApiKey(key), Ask::SeeApiKey(key), Ask::SeeApiKey(key)];
                self.pick(&all).expect("some")
            }
            100..=102 => {
                // Mostly somebody whose devices others can see or not.
                let owners: Vec<i64> = model.nodes.values().filter_map(|node| node.owner.user()).collect();
                let user = if self.one_in(4) { user } else { self.pick(&owners).unwrap_or(user) };
                Ask::SetRole(user, self.role())
            }
            _ => {
                let link = self.link(model);
                let asked = model.waiting.get(&link).map(|waiting| (waiting.request.machine, waiting.request.key));
                let (machine, key) = asked.unwrap_or((0, 0));
                let follow = Ask::FollowUp { machine, key, link };
                let all = [Ask::ExpireDue, Ask::RemoveAway(node), Ask::BackfillAddresses, follow.clone(), follow];
                self.pick(&all).expect("some")
            }
        }
    }
}

/// What a node with this key announces: no two nodes at a time have one network.
fn network(key: u8) -> Prefix {
    format!("10.{key}.0.0/16").parse().expect("a prefix")
}
