//! A control server with a store that is plain data, a clock and machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_control::register::RegisterAnswer;
use warren_control::rows::{
    ApiKey, ApiKeyId, KeyId, Node, PolicyRow, PreAuthKey, Revision, RowChange, Rows, ServerFacts, Service, ServiceId,
    SignIn, User,
};
use warren_control::{Actor, Answer, Batch, ChannelId, Command, Control, Refusal, Settings, Snapshot, Staged, What};
use warren_crypto::{MachinePublic, MachineSecret, NodePublic, NodeSecret, Random, UnixTime};
use warren_wire::{AuthKey, CapabilityVersion, Hostinfo, NodeId, RegisterAuth, RegisterRequest, UserId};

/// The rows as a store would hold them, written by nothing but the changes of batches.
#[derive(Debug, Default)]
pub struct Tables {
    users: BTreeMap<UserId, Arc<User>>,
    sign_ins: BTreeMap<UserId, Arc<SignIn>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    keys: BTreeMap<KeyId, Arc<PreAuthKey>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    api_keys: BTreeMap<ApiKeyId, Arc<ApiKey>>,
    policy: Option<Arc<PolicyRow>>,
    facts: ServerFacts,
    revision: Revision,
}

impl Tables {
    pub fn commit(&mut self, batch: &Batch) {
        self.revision = batch.revision;
        for change in batch.rows.iter().cloned() {
            match change {
                RowChange::PutUser(user) => drop(self.users.insert(user.id, user)),
                RowChange::DeleteUser(id) => drop(self.users.remove(&id)),
                RowChange::PutSignIn(row) => drop(self.sign_ins.insert(row.user, row)),
                RowChange::DeleteSignIn(id) => drop(self.sign_ins.remove(&id)),
                RowChange::PutNode(node) => drop(self.nodes.insert(node.id, node)),
                RowChange::DeleteNode(id) => drop(self.nodes.remove(&id)),
                RowChange::PutKey(key) => drop(self.keys.insert(key.id, key)),
                RowChange::DeleteKey(id) => drop(self.keys.remove(&id)),
                RowChange::PutService(service) => drop(self.services.insert(service.id, service)),
                RowChange::DeleteService(id) => drop(self.services.remove(&id)),
                RowChange::PutApiKey(key) => drop(self.api_keys.insert(key.id, key)),
                RowChange::DeleteApiKey(id) => drop(self.api_keys.remove(&id)),
                RowChange::PutPolicy(policy) => self.policy = Some(policy),
                RowChange::PutFacts(facts) => self.facts = facts,
            }
        }
    }

    pub fn rows(&self) -> Rows {
        Rows {
            revision: self.revision,
            users: self.users.values().cloned().collect(),
            sign_ins: self.sign_ins.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            keys: self.keys.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            api_keys: self.api_keys.values().cloned().collect(),
            policy: self.policy.clone(),
            facts: self.facts,
            soft: Vec::new(),
        }
    }
}

pub struct World {
    pub control: Control,
    pub tables: Tables,
    pub random: Random,
    pub now: Instant,
    pub wall: UnixTime,
    pub settings: Settings,
}

pub fn settings() -> Settings {
    Settings::new("https://control.example", "control.example", "mesh.test")
}

/// The one real clock reading: instants cannot be made otherwise, and only differences matter.
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
pub fn some_instant() -> Instant {
    Instant::now()
}

impl World {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let now = some_instant();
        let tables = Tables::default();
        let control = Control::from_rows(&tables.rows(), settings.clone(), now).expect("an empty registry");
        let wall = UnixTime::from_secs(1_790_000_000);
        Self { control, tables, random: Random::from_seed([7; 32]), now, wall, settings }
    }

    /// Decides all on one overlay, commits, applies and publishes.
    pub fn batch(&mut self, commands: Vec<What>) -> Vec<Result<Answer, Refusal>> {
        let mut staged = Staged::begin(&self.control);
        let actor = || Actor::Operator { name: "test".to_owned(), door: "test" };
        let answers = commands
            .into_iter()
            .map(|what| staged.decide(Command { actor: actor(), what }, self.wall, &mut self.random))
            .collect();
        self.finish(staged);
        answers
    }

    /// Commits, applies and publishes what was decided.
    pub fn finish(&mut self, staged: Staged) {
        let batch = staged.finish();
        self.tables.commit(&batch);
        self.control.apply(batch, self.now).expect("one batch at a time");
        self.control.publish();
    }

    pub fn ask(&mut self, what: What) -> Result<Answer, Refusal> {
        self.batch(vec![what]).remove(0)
    }

    /// As after a crash: only what was committed is left.
    pub fn restart(&mut self) {
        self.control =
            Control::from_rows(&self.tables.rows(), self.settings.clone(), self.now).expect("rows that were committed");
    }

    /// Time passes, and what the server asks of itself is decided.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall = self.wall.saturating_add(time);
        self.control.handle_timeout(self.now, self.wall);
        while let Some(command) = self.control.poll_ask() {
            let _ = self.ask(command.what); // a node that came back is refused, which is right
        }
        self.control.publish();
    }

    pub fn user(&mut self, name: &str) -> UserId {
        let what = What::CreateUser {
            name: name.to_owned(),
            display_name: String::new(),
            email: String::new(),
            picture_url: String::new(),
        };
        match self.ask(what) {
            Ok(Answer::User(user)) => user.id,
            other => panic!("{other:?}"),
        }
    }

    pub fn key(&mut self, user: Option<UserId>, tags: &[&str], kind: KeyKind) -> String {
        let what = What::CreateKey {
            user,
            tags: tag_set(tags),
            reusable: kind.reusable,
            ephemeral: kind.ephemeral,
            preapproved: kind.preapproved,
            expiry: kind.expiry,
        };
        match self.ask(what) {
            Ok(Answer::Key { secret: Some(secret), .. }) => secret.reveal().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    pub fn join(&mut self, machine: u8, node_key: u8, auth_key: &str) -> Arc<Node> {
        match self.ask(register(machine, node_key, Some(auth_key), |_| {})) {
            Ok(Answer::Register(RegisterAnswer::Authorized { node, .. })) => node,
            other => panic!("{other:?}"),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.control.snapshot()
    }

    pub fn node(&self, id: NodeId) -> Arc<Node> {
        Arc::clone(self.control.registry().node(id).expect("the node is there"))
    }
}

/// The one connection of every machine that has no more.
pub const CHANNEL: ChannelId = ChannelId(1);

#[derive(Clone, Copy, Default)]
pub struct KeyKind {
    pub reusable: bool,
    pub ephemeral: bool,
    pub preapproved: bool,
    pub expiry: Option<UnixTime>,
}

pub const ONE_OFF: KeyKind = KeyKind { reusable: false, ephemeral: false, preapproved: false, expiry: None };
pub const REUSABLE: KeyKind = KeyKind { reusable: true, ephemeral: false, preapproved: false, expiry: None };
pub const EPHEMERAL: KeyKind = KeyKind { reusable: true, ephemeral: true, preapproved: false, expiry: None };

pub fn tag_set(tags: &[&str]) -> BTreeSet<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

pub fn machine(seed: u8) -> MachinePublic {
    MachineSecret::from_seed([seed; 32]).public()
}

pub fn node_key(seed: u8) -> NodePublic {
    NodeSecret::from_seed([seed; 32]).public()
}

/// The request of a machine called `host-<seed>`.
pub fn register(
    machine_seed: u8,
    node_key_seed: u8,
    auth_key: Option<&str>,
    change: impl FnOnce(&mut RegisterRequest),
) -> What {
    let mut request = RegisterRequest {
        version: CapabilityVersion::OLDEST_SERVED,
        node_key: node_key(node_key_seed),
        auth: auth_key.map(|key| RegisterAuth { auth_key: Some(AuthKey::new(key)) }),
        hostinfo: Some(Box::new(Hostinfo { hostname: format!("host-{machine_seed}"), ..Hostinfo::default() })),
        ..RegisterRequest::default()
    };
    change(&mut request);
    What::Register { machine: machine(machine_seed), request: Arc::new(request) }
}
