//! What the real server holds, answers and shows, in the model's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use warren_control::register::RegisterAnswer;
use warren_control::rows::{ApiKeyId, LOCAL_ISSUER, NameOrigin, Owner as RowOwner, Registered, Sealed, SignIn};
use warren_control::{Answer, Person as RealPerson, Refusal, Registry, Rows, What};
use warren_crypto::{MachinePublic, MachineSecret, NodePublic, NodeSecret, UnixTime};
use warren_wire::netmap::NetMap;
use warren_wire::{
    AuthKey, CapabilityVersion, Hostinfo, Node as WireNode, NodeId, RegisterAuth, RegisterRequest, UserId,
};

use super::model::{ApiKey, Ask, HOSTS, ISSUER, Key, Node, Owner, POLICIES, Person, Register};

pub const MACHINES: u8 = 6;
pub const NODE_KEYS: u8 = 14;

/// Keys by number and back; each is made once, since making one is a curve's multiplication.
pub struct Names {
    machines: Vec<MachinePublic>,
    node_keys: Vec<NodePublic>,
}

impl Names {
    pub fn new() -> Self {
        let machines = (0..MACHINES).map(|n| MachineSecret::from_seed([n + 1; 32]).public()).collect();
        let node_keys = (0..NODE_KEYS).map(|n| NodeSecret::from_seed([n + 100; 32]).public()).collect();
        Self { machines, node_keys }
    }

    pub fn node_key(&self, number: u8) -> NodePublic {
        self.node_keys[usize::from(number)]
    }

    fn number(&self, key: &NodePublic) -> u8 {
        self.node_keys.iter().position(|known| known == key).expect("one of ours") as u8
    }

    /// `registry`: what is known as it is asked.
    pub fn what(&self, ask: &Ask, now: u64, registry: &Registry) -> What {
        let asked = |id: &i64| registry.sign_in(UserId(*id)).cloned().unwrap_or_else(|| nobody(UserId(*id)));
        let node = |id: &i64| NodeId(*id);
        let user = |id: &i64| UserId(*id);
        let time = |at: u64| UnixTime::from_secs(at);
        match ask {
            Ask::Register(request) => self.registration(request),
            Ask::ApproveRegistration(id, owner) => What::ApproveRegistration { id: *id, user: user(owner) },
            Ask::RejectRegistration(id) => What::RejectRegistration { id: *id },
            Ask::Enrol(id, who, until) => What::Enrol {
                id: *id,
                person: Box::new(person(who)),
                refresh: Some(Sealed(vec![who.subject; 3])),
                until: until.map(|after| time(now + after)),
            },
            Ask::RefreshPerson(id, who) => {
                What::RefreshPerson { user: user(id), person: Box::new(person(who)), refresh: None, asked: asked(id) }
            }
            Ask::EndSignIn(id) => {
                What::EndSignIn { user: user(id), reason: "the provider said no".into(), asked: asked(id) }
            }
            Ask::ApproveNode(id, approved) => What::ApproveNode { node: node(id), approved: *approved },
            Ask::ExpireNode(id, at) => {
                What::ExpireNode { node: node(id), at: at.map(|at| time(now.saturating_add_signed(at))) }
            }
            Ask::DisableExpiry(id) => What::DisableExpiry { node: node(id) },
            Ask::RenameNode(id, name) => What::RenameNode { node: node(id), name: (*name).into() },
            Ask::DeleteNode(id) => What::DeleteNode { node: node(id) },
            Ask::SetTags(id, tags) => What::SetTags { node: node(id), tags: tags.clone() },
            Ask::MoveNode(id, to) => What::MoveNode { node: node(id), user: user(to) },
            Ask::HideEndpoints(id, hide) => What::HideEndpoints { node: node(id), hide: *hide },
            Ask::SetRoutes(id, routes) => What::SetRoutes { node: node(id), routes: routes.clone() },
            Ask::CreateUser(name) => What::CreateUser {
                name: (*name).into(),
                display_name: String::new(),
                email: String::new(),
                picture_url: String::new(),
            },
            Ask::RenameUser(id, name) => What::RenameUser { user: user(id), name: (*name).into() },
            Ask::SetRole(id, role) => What::SetRole { user: user(id), role: *role },
            Ask::DeleteUser(id, with_nodes) => What::DeleteUser { user: user(id), with_nodes: *with_nodes },
            Ask::CreateKey { user: owner, tags, reusable, ephemeral, preapproved, expiry } => What::CreateKey {
                user: owner.as_ref().map(user),
                tags: tags.clone(),
                reusable: *reusable,
                ephemeral: *ephemeral,
                preapproved: *preapproved,
                expiry: expiry.map(|after| time(now + after)),
            },
            Ask::ExpireKey(id) => What::ExpireKey { key: warren_control::rows::KeyId(*id) },
            Ask::DeleteKey(id) => What::DeleteKey { key: warren_control::rows::KeyId(*id) },
            Ask::ReplacePolicy(number) => What::ReplacePolicy { text: POLICIES[*number].into() },
            Ask::FollowHostname(id, host) => What::FollowHostname { node: node(id), hostname: HOSTS[*host].0.into() },
            Ask::CreateApiKey(scopes, after) => {
                What::CreateApiKey { scopes: scopes.clone(), expiry: UnixTime::from_secs(now + after) }
            }
            Ask::ExpireApiKey(id) => What::ExpireApiKey { key: ApiKeyId(*id) },
            Ask::DeleteApiKey(id) => What::DeleteApiKey { key: ApiKeyId(*id) },
            Ask::SeeApiKey(id) => What::SeeApiKey { key: ApiKeyId(*id) },
            Ask::ApproveAnnounced(id) => What::ApproveAnnounced { node: node(id) },
            Ask::FollowUp { machine, key, link } => What::FollowUp {
                machine: self.machines[usize::from(*machine)],
                node_key: self.node_key(*key),
                id: *link,
            },
            Ask::BackfillAddresses => What::BackfillAddresses,
            Ask::ExpireDue => What::ExpireDue,
            Ask::RemoveAway(id) => What::RemoveAway { node: node(id) },
        }
    }

    fn registration(&self, asked: &Register) -> What {
        let followup = asked.follow.map(|id| warren_control::register::link("https://control.example", id));
        let hostinfo = Hostinfo {
            hostname: HOSTS[asked.host].0.into(),
            request_tags: asked.tags.iter().cloned().collect(),
            routable_ips: asked.routes.clone(),
            ..Hostinfo::default()
        };
        let request = RegisterRequest {
            version: CapabilityVersion::OLDEST_SERVED,
            node_key: self.node_key(asked.key),
            old_node_key: asked.old_key.map(|key| self.node_key(key)),
            auth: asked.auth.as_ref().map(|key| RegisterAuth { auth_key: Some(AuthKey::new(key)) }),
            expiry: asked.expiry.map(UnixTime::from_secs),
            followup: followup.unwrap_or_default(),
            hostinfo: Some(Box::new(hostinfo)),
            ephemeral: asked.ephemeral,
            ..RegisterRequest::default()
        };
        What::Register { machine: self.machines[usize::from(asked.machine)], request: Arc::new(request) }
    }

    /// As [`super::model::Model::rows`] has it.
    pub fn rows(&self, rows: &Rows) -> Vec<String> {
        let facts = &rows.facts;
        let made = [facts.next_user, facts.next_node, facts.next_key, facts.next_api_key].map(|next| next - 1);
        let mut lines = vec![format!("made {made:?}, policy {:?}", rows.policy.as_ref().map(|policy| &policy.text))];
        for user in &rows.users {
            let sign_in = rows.sign_ins.iter().find(|sign_in| sign_in.user == user.id);
            let sign_in = sign_in.map(|row| (row.groups.clone(), row.checked.as_secs(), row.ended));
            let (id, issuer, subject, role) = (user.id.0, &user.issuer, &user.subject, user.role);
            assert!(issuer == LOCAL_ISSUER || issuer == ISSUER);
            lines.push(format!("user {id} {issuer} {subject} {:?} {:?} {role} {sign_in:?}", user.name, user.email));
        }
        lines.extend(rows.nodes.iter().map(|node| format!("node {} {:?}", node.id.0, self.node(node))));
        for key in &rows.keys {
            let said = Key {
                secret: String::new(),
                user: key.user.map(|user| user.0),
                tags: key.tags.clone(),
                reusable: key.reusable,
                ephemeral: key.ephemeral,
                preapproved: key.preapproved,
                used: key.used,
                revoked: key.revoked,
                expiry: key.expiry.map(UnixTime::as_secs),
            };
            lines.push(format!("key {} {said:?}", key.id));
        }
        for key in &rows.api_keys {
            let seen = key.last_seen.map(UnixTime::as_secs);
            let said = ApiKey { scopes: key.scopes.clone(), expiry: key.expiry.as_secs(), seen };
            lines.push(said.line(key.id.0));
        }
        lines
    }

    fn node(&self, row: &Arc<warren_control::rows::Node>) -> Node {
        Node {
            machine: self.machines.iter().position(|key| *key == row.machine_key).expect("one of ours") as u8,
            key: self.number(&row.node_key),
            owner: match &row.owner {
                RowOwner::User(user) => Owner::User(user.0),
                RowOwner::Tags(tags) => Owner::Tags(tags.clone()),
            },
            name: row.name.clone(),
            chosen: row.name_origin == NameOrigin::Chosen,
            hostname: row.hostname.clone(),
            addresses: row.addresses().iter().map(|prefix| prefix.addr()).collect(),
            created: row.created.as_secs(),
            expiry: row.expiry.map(UnixTime::as_secs),
            expired: row.expired,
            logged_out: row.logged_out,
            ephemeral: row.ephemeral,
            approved: row.approved,
            kept_out: row.kept_out,
            registered: match row.registered {
                Registered::Key(id) => format!("key {id}"),
                Registered::Approved => "approved".into(),
                Registered::SignIn => "sign-in".into(),
            },
            routes: row.approved_routes.clone(),
            hidden: row.hides_endpoints,
        }
    }

    /// As [`super::model::Model::map_of`] has it, but for the networks that are passed over.
    pub fn map(&self, map: &NetMap, passed_over: &BTreeSet<String>) -> Vec<String> {
        let nodes = std::iter::once(&map.self_node).chain(map.peers.values());
        nodes.map(|node| self.in_map(map, node, passed_over)).collect()
    }

    fn in_map(&self, map: &NetMap, node: &WireNode, passed_over: &BTreeSet<String>) -> String {
        let profile = map.profiles.get(&node.user).unwrap_or_else(|| panic!("no profile of {}", node.user));
        let owner = if node.tags.is_empty() { profile.login_name.clone() } else { node.tags.join(",") };
        let addresses: Vec<_> = node.addresses.iter().map(|prefix| prefix.addr()).collect();
        let endpoint = node.endpoints.first().map(|endpoint| endpoint.port() as u8);
        let mut routes: Vec<String> = Vec::new();
        if node.online == Some(true) {
            let all = node.allowed_ips.iter().flatten();
            routes.extend(all.filter(|prefix| !node.addresses.contains(prefix)).map(ToString::to_string));
            routes.retain(|route| !passed_over.contains(route));
        }
        format!(
            "{} {} key {} {addresses:?} of {owner}, expires {:?} {}, online {}, at {endpoint:?}, serves {routes:?}",
            node.id.0,
            node.name.strip_suffix(".mesh.test.").expect("in the domain"),
            self.number(&node.key),
            node.key_expiry.map(UnixTime::as_secs),
            node.expired,
            node.online == Some(true),
        )
    }
}

/// A sign-in that nobody has.
fn nobody(user: UserId) -> Arc<SignIn> {
    let checked = UnixTime::from_secs(0);
    Arc::new(SignIn { user, groups: BTreeSet::new(), refresh: None, checked, ended: false })
}

fn person(who: &Person) -> RealPerson {
    RealPerson {
        issuer: ISSUER.into(),
        subject: who.subject.to_string(),
        email: who.email.into(),
        groups: who.groups.clone(),
        ..RealPerson::default()
    }
}

/// An answer in the words of the model's verdicts.
pub fn verdict(answer: &Result<Answer, Refusal>) -> Result<String, String> {
    Ok(match answer {
        Ok(Answer::Register(RegisterAnswer::Authorized { node, .. })) => format!("in {}", node.id.0),
        Ok(Answer::Register(RegisterAnswer::KeyExpired { node: Some(node), .. })) => {
            format!("key expired {}", node.id.0)
        }
        Ok(Answer::Register(RegisterAnswer::KeyExpired { node: None, .. })) => "key expired".into(),
        Ok(Answer::Register(RegisterAnswer::Visit(_))) => "visit".into(),
        Ok(Answer::Register(RegisterAnswer::Wait(_))) => "wait".into(),
        Ok(Answer::Register(RegisterAnswer::TagsRefused(_))) => "tags refused".into(),
        Ok(Answer::Register(RegisterAnswer::Over)) => "over".into(),
        Ok(Answer::Node(node)) => format!("node {}", node.id.0),
        Ok(Answer::User(user)) => format!("user {}", user.id.0),
        Ok(Answer::Key { key, .. }) => format!("key {}", key.id),
        Ok(Answer::ApiKey { key, .. }) => format!("API key {}", key.id),
        Ok(Answer::Service(service)) => format!("service {}", service.id),
        Ok(Answer::Policy { .. }) => "policy".into(),
        Ok(Answer::Done) => "done".into(),
        Ok(Answer::Kept(_)) => "kept".into(),
        Ok(Answer::Refused(_)) => "refused".into(),
        Ok(Answer::Changes(lines)) => format!("changes {}", lines.len()),
        Err(Refusal::Policy(_)) => return Err("policy: …".into()),
        Err(refusal) => {
            let text = refusal.to_string();
            // What a name should look like is said in words that are no matter of the model's.
            return Err(text.split_once(" name: ").map_or(text.clone(), |(what, _)| format!("{what} name")));
        }
    })
}

/// How often each kind of thing happened.
#[derive(Default)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub fn count(&mut self, kind: impl Into<String>) {
        *self.0.entry(kind.into()).or_default() += 1;
    }

    pub fn add(&mut self, other: Self) {
        for (kind, count) in other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    pub fn kinds(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub fn print(&self) {
        for (kind, count) in &self.0 {
            println!("{count:>8}  {kind}");
        }
    }
}
