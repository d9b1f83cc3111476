//! The registry in memory: the fold of all committed rows, with what is needed to find them.
//!
//! Copies share (see [`crate::table`]), so a staged overlay and a published snapshot are simply copies. Invariants,
//! checked by `check_invariants` in debug builds after every batch:
//! node keys, names and addresses are unique; an index has exactly the rows; owners exist; one person owns the network.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use warren_crypto::{MachinePublic, NodePublic};
use warren_ip::Prefix;
use warren_wire::{NodeId, UserId};

use crate::addresses::Pool;
use crate::roles::UserRole;
use crate::rows::{
    ApiKey, ApiKeyId, KeyId, Node, Owner, PolicyRow, PreAuthKey, Revision, Rows, ServerFacts, Service, ServiceId,
    SignIn, User,
};
use crate::settings::Settings;
use crate::table::Table;

/// All rows of the registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub(crate) revision: Revision,
    pub(crate) facts: ServerFacts,
    pub(crate) policy: Option<Arc<PolicyRow>>,
    users: Table<UserId, Arc<User>>,
    user_names: Table<String, UserId>,
    /// By [`identity`].
    identities: Table<String, UserId>,
    sign_ins: Table<UserId, Arc<SignIn>>,
    nodes: Table<NodeId, Arc<Node>>,
    node_keys: Table<NodePublic, NodeId>,
    machines: Table<MachinePublic, Arc<BTreeSet<NodeId>>>,
    names: Table<String, NodeId>,
    keys: Table<KeyId, Arc<PreAuthKey>>,
    key_prefixes: Table<String, KeyId>,
    services: Table<ServiceId, Arc<Service>>,
    service_names: Table<String, ServiceId>,
    api_keys: Table<ApiKeyId, Arc<ApiKey>>,
    api_key_prefixes: Table<String, ApiKeyId>,
    pub(crate) v4: Option<Pool>,
    pub(crate) v6: Option<Pool>,
}

/// Rows that cannot be a registry: the database was changed by hand, or by something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Two nodes share what must be unique.
    #[error("nodes {0} and {1} have the same {2}")]
    Shared(i64, i64, &'static str),
    /// Two rows of another kind share what must be unique.
    #[error("two {0} have the same {1}")]
    SharedBy(&'static str, &'static str),
    /// A node's owner does not exist.
    #[error("node {0} belongs to user {1}, who does not exist")]
    NoOwner(i64, i64),
    /// A sign-in's person does not exist.
    #[error("a sign-in belongs to user {0}, who does not exist")]
    NoPerson(i64),
    /// A service shares a name or an address with a node or another service.
    #[error("service {0}: another node or service has its {1}")]
    SharedByService(i64, &'static str),
    /// A service's host does not exist.
    #[error("service {0} may be hosted by node {1}, which does not exist")]
    NoHost(i64, i64),
    /// A counter would hand out an id again.
    #[error("{0} {1} exists, but the next one would be {2}")]
    Counter(&'static str, i64, i64),
    /// The policy in the database does not compile with this build.
    #[error("the stored policy: {0}")]
    Policy(String),
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
}

impl Registry {
    /// Folds loaded rows.
    pub(crate) fn from_rows(rows: &Rows, settings: &Settings) -> Result<Self, RowsError> {
        let mut registry = Self {
            revision: rows.revision,
            facts: rows.facts,
            policy: rows.policy.clone(),
            v4: settings.v4_range.map(Pool::new),
            v6: settings.v6_range.map(Pool::new),
            ..Self::default()
        };
        for user in &rows.users {
            if registry.user_names.contains(&user.name) {
                return Err(RowsError::SharedBy("users", "name"));
            }
            if registry.identities.contains(&identity(&user.issuer, &user.subject)) {
                return Err(RowsError::SharedBy("users", "issuer and subject"));
            }
            if user.role == UserRole::OWNER && registry.users().any(|other| other.role == UserRole::OWNER) {
                return Err(RowsError::SharedBy("users", "role of owner"));
            }
            check_counter("user", user.id.0, rows.facts.next_user)?;
            registry.put_user(Arc::clone(user));
        }
        for sign_in in &rows.sign_ins {
            if !registry.users.contains(&sign_in.user) {
                return Err(RowsError::NoPerson(sign_in.user.0));
            }
            registry.put_sign_in(Arc::clone(sign_in));
        }
        let mut addresses = std::collections::BTreeMap::new();
        for node in &rows.nodes {
            let shared = |other: &NodeId, what| RowsError::Shared(other.0, node.id.0, what);
            if let Some(other) = registry.node_keys.get(&node.node_key) {
                return Err(shared(other, "node key"));
            }
            if let Some(other) = registry.names.get(&node.name) {
                return Err(shared(other, "name"));
            }
            for address in node.addresses() {
                if let Some(other) = addresses.insert(address, node.id) {
                    return Err(shared(&other, "address"));
                }
            }
            if let Owner::User(user) = node.owner
                && !registry.users.contains(&user)
            {
                return Err(RowsError::NoOwner(node.id.0, user.0));
            }
            check_counter("node", node.id.0, rows.facts.next_node)?;
            registry.put_node(Arc::clone(node));
        }
        let mut taken: BTreeSet<Prefix> = addresses.into_keys().collect();
        for key in &rows.keys {
            if registry.key_prefixes.contains(&key.prefix) {
                return Err(RowsError::SharedBy("keys", "prefix"));
            }
            check_counter("key", key.id.0, rows.facts.next_key)?;
            registry.put_key(Arc::clone(key));
        }
        for service in &rows.services {
            let addresses = service.addresses();
            if registry.is_name_taken(&service.name) {
                return Err(RowsError::SharedByService(service.id.0, "name"));
            }
            if addresses.iter().any(|address| taken.contains(address)) {
                return Err(RowsError::SharedByService(service.id.0, "address"));
            }
            taken.extend(addresses);
            if let Some(node) = service.approved.iter().find(|node| registry.node(**node).is_none()) {
                return Err(RowsError::NoHost(service.id.0, node.0));
            }
            check_counter("service", service.id.0, rows.facts.next_service)?;
            registry.put_service(Arc::clone(service));
        }
        for key in &rows.api_keys {
            if registry.api_key_prefixes.contains(&key.prefix) {
                return Err(RowsError::SharedBy("API keys", "prefix"));
            }
            check_counter("API key", key.id.0, rows.facts.next_api_key)?;
            registry.put_api_key(Arc::clone(key));
        }
        Ok(registry)
    }

    /// The rows again; the inverse of loading, but for soft facts, which are not the registry's.
    pub fn to_rows(&self) -> Rows {
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

    /// Of the last commit.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The policy in force, if there is one.
    pub fn policy(&self) -> Option<&Arc<PolicyRow>> {
        self.policy.as_ref()
    }

    /// A node by its id.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// The one node that has this key.
    pub fn node_by_key(&self, key: &NodePublic) -> Option<&Arc<Node>> {
        self.node(*self.node_keys.get(key)?)
    }

    /// The one node of this name.
    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.node(*self.names.get(&name.to_owned())?)
    }

    /// The nodes of a machine, one per person who logged in on it.
    pub fn nodes_of_machine(&self, machine: &MachinePublic) -> impl Iterator<Item = &Arc<Node>> {
        self.machines.get(machine).into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.node(*id))
    }

    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// A user by id.
    pub fn user(&self, id: UserId) -> Option<&Arc<User>> {
        self.users.get(&id)
    }

    /// A user by name.
    pub fn user_by_name(&self, name: &str) -> Option<&Arc<User>> {
        self.user(*self.user_names.get(&name.to_owned())?)
    }

    /// The one user whom `issuer` calls `subject`.
    pub fn user_by_identity(&self, issuer: &str, subject: &str) -> Option<&Arc<User>> {
        self.user(*self.identities.get(&identity(issuer, subject))?)
    }

    /// What an identity provider says about a user; `None` for people whom an operator made by hand.
    pub fn sign_in(&self, user: UserId) -> Option<&Arc<SignIn>> {
        self.sign_ins.get(&user)
    }

    /// All of these by user.
    pub fn sign_ins(&self) -> impl Iterator<Item = &Arc<SignIn>> {
        self.sign_ins.values()
    }

    /// All users by id.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// A join key by id.
    pub fn key(&self, id: KeyId) -> Option<&Arc<PreAuthKey>> {
        self.keys.get(&id)
    }

    /// All join keys by id.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<PreAuthKey>> {
        self.keys.values()
    }

    pub(crate) fn key_by_prefix(&self, prefix: &str) -> Option<&Arc<PreAuthKey>> {
        self.key(*self.key_prefixes.get(&prefix.to_owned())?)
    }

    /// An API key by id.
    pub fn api_key(&self, id: ApiKeyId) -> Option<&Arc<ApiKey>> {
        self.api_keys.get(&id)
    }

    /// The one API key of this prefix.
    pub fn api_key_by_prefix(&self, prefix: &str) -> Option<&Arc<ApiKey>> {
        self.api_key(*self.api_key_prefixes.get(&prefix.to_owned())?)
    }

    /// All API keys by id.
    pub fn api_keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.api_keys.values()
    }

    /// How many API keys there are, expired ones too.
    pub fn api_key_count(&self) -> usize {
        self.api_keys.len()
    }

    /// A service by id.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// The one service of this name, with or without `svc:`.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        let label = name.strip_prefix("svc:").unwrap_or(name);
        self.service(*self.service_names.get(&label.to_owned())?)
    }

    /// All services by id.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Nodes and services share one set of names.
    pub(crate) fn is_name_taken(&self, name: &str) -> bool {
        let name = name.to_owned();
        self.names.contains(&name) || self.service_names.contains(&name)
    }

    pub(crate) fn put_service(&mut self, service: Arc<Service>) {
        self.remove_service(service.id);
        self.service_names.insert(service.name.clone(), service.id);
        for (pool, address) in self.pools(&service) {
            pool.note(address);
        }
        self.services.insert(service.id, service);
    }

    pub(crate) fn remove_service(&mut self, id: ServiceId) {
        let Some(old) = self.services.remove(&id) else { return };
        self.service_names.remove(&old.name);
        for (pool, address) in self.pools(&old) {
            pool.free(address);
        }
    }

    /// The addresses of a service with the pools that they are from.
    fn pools(&mut self, service: &Service) -> impl Iterator<Item = (&mut Pool, IpAddr)> {
        let families = [(&mut self.v4, service.v4.map(IpAddr::from)), (&mut self.v6, service.v6.map(IpAddr::from))];
        families.into_iter().filter_map(|(pool, address)| Some((pool.as_mut()?, address?)))
    }

    pub(crate) fn put_user(&mut self, user: Arc<User>) {
        if let Some(old) = self.users.get(&user.id) {
            self.user_names.remove(&old.name.clone());
            self.identities.remove(&identity(&old.issuer, &old.subject));
        }
        self.user_names.insert(user.name.clone(), user.id);
        self.identities.insert(identity(&user.issuer, &user.subject), user.id);
        self.users.insert(user.id, user);
    }

    pub(crate) fn remove_user(&mut self, id: UserId) {
        if let Some(old) = self.users.remove(&id) {
            self.user_names.remove(&old.name);
            self.identities.remove(&identity(&old.issuer, &old.subject));
        }
        self.sign_ins.remove(&id);
    }

    pub(crate) fn put_sign_in(&mut self, sign_in: Arc<SignIn>) {
        self.sign_ins.insert(sign_in.user, sign_in);
    }

    pub(crate) fn put_node(&mut self, node: Arc<Node>) {
        self.unindex(node.id);
        self.node_keys.insert(node.node_key, node.id);
        let mut of_machine = self.machines.get(&node.machine_key).cloned().unwrap_or_default();
        Arc::make_mut(&mut of_machine).insert(node.id);
        self.machines.insert(node.machine_key, of_machine);
        self.names.insert(node.name.clone(), node.id);
        if let (Some(pool), Some(v4)) = (&mut self.v4, node.v4) {
            pool.note(v4.into());
        }
        if let (Some(pool), Some(v6)) = (&mut self.v6, node.v6) {
            pool.note(v6.into());
        }
        self.nodes.insert(node.id, node);
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        self.unindex(id);
        self.nodes.remove(&id);
    }

    /// Takes a node out of all indices; its row stays.
    fn unindex(&mut self, id: NodeId) {
        let Some(old) = self.nodes.get(&id).cloned() else { return };
        self.node_keys.remove(&old.node_key);
        self.names.remove(&old.name);
        if let Some(of_machine) = self.machines.get(&old.machine_key).cloned() {
            let mut rest = of_machine;
            Arc::make_mut(&mut rest).remove(&id);
            if rest.is_empty() {
                self.machines.remove(&old.machine_key);
            } else {
                self.machines.insert(old.machine_key, rest);
            }
        }
        let families = [(&mut self.v4, old.v4.map(IpAddr::from)), (&mut self.v6, old.v6.map(IpAddr::from))];
        for (pool, address) in families {
            if let (Some(pool), Some(address)) = (pool, address) {
                pool.free(address);
            }
        }
    }

    pub(crate) fn put_key(&mut self, key: Arc<PreAuthKey>) {
        self.key_prefixes.insert(key.prefix.clone(), key.id);
        self.keys.insert(key.id, key);
    }

    pub(crate) fn remove_key(&mut self, id: KeyId) {
        if let Some(old) = self.keys.remove(&id) {
            self.key_prefixes.remove(&old.prefix);
        }
    }

    pub(crate) fn put_api_key(&mut self, key: Arc<ApiKey>) {
        self.api_key_prefixes.insert(key.prefix.clone(), key.id);
        self.api_keys.insert(key.id, key);
    }

    pub(crate) fn remove_api_key(&mut self, id: ApiKeyId) {
        if let Some(old) = self.api_keys.remove(&id) {
            self.api_key_prefixes.remove(&old.prefix);
        }
    }

    /// Panics when an invariant does not hold. For tests and debug builds: it walks everything.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check_invariants(&self) {
        let count = self.nodes.len();
        assert_eq!((self.node_keys.len(), self.names.len()), (count, count), "every node has its own key and name");
        let mut addresses = BTreeSet::new();
        for node in self.nodes.values() {
            assert_eq!(self.node_keys.get(&node.node_key), Some(&node.id));
            assert_eq!(self.names.get(&node.name), Some(&node.id));
            assert!(self.machines.get(&node.machine_key).is_some_and(|ids| ids.contains(&node.id)));
            assert!(crate::names::is_label(&node.name), "{:?}", node.name);
            for address in node.addresses() {
                assert!(addresses.insert(address), "{address} twice");
            }
            match &node.owner {
                Owner::User(user) => assert!(self.users.contains(user), "owner of {} exists", node.id.0),
                Owner::Tags(tags) => assert!(!tags.is_empty()),
            }
            assert!(node.id.0 < self.facts.next_node);
        }
        assert_eq!(self.machines.values().map(|ids| ids.len()).sum::<usize>(), count);
        assert_eq!((self.user_names.len(), self.identities.len()), (self.users.len(), self.users.len()));
        let owners = self.users.values().filter(|user| user.role == UserRole::OWNER).count();
        assert!(owners <= 1, "{owners} owners");
        for sign_in in self.sign_ins.values() {
            assert!(self.users.contains(&sign_in.user), "the person {} exists", sign_in.user.0);
        }
        assert_eq!(self.service_names.len(), self.services.len());
        for service in self.services.values() {
            assert!(self.service_names.contains(&service.name) && !self.names.contains(&service.name));
            for address in service.addresses() {
                assert!(addresses.insert(address), "{address} twice");
            }
            assert!(service.approved.iter().all(|node| self.nodes.contains(node)), "hosts of {} exist", service.name);
            assert!(service.id.0 < self.facts.next_service);
        }
        assert_eq!(self.key_prefixes.len(), self.keys.len());
        assert_eq!(self.api_key_prefixes.len(), self.api_keys.len());
        for key in self.api_keys.values() {
            assert!(!key.scopes.is_empty() && key.id.0 < self.facts.next_api_key, "API key {}", key.id);
        }
        for key in self.keys.values() {
            assert!(key.user.is_none_or(|user| self.users.contains(&user)), "owner of key {} exists", key.id);
            assert!(key.user.is_some() || !key.tags.is_empty());
        }
    }
}

/// Both parts of an identity as one key. A line feed parts them: no URL has one.
fn identity(issuer: &str, subject: &str) -> String {
    format!("{issuer}\n{subject}")
}

fn check_counter(kind: &'static str, id: i64, next: i64) -> Result<(), RowsError> {
    if id < next { Ok(()) } else { Err(RowsError::Counter(kind, id, next)) }
}
