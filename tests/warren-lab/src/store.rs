//! The database as lists: written by nothing but committed batches, read back after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use warren_control::Batch;
use warren_control::rows::{
    ApiKey, ApiKeyId, KeyId, Node, PolicyRow, PreAuthKey, Revision, RowChange, Rows, ServerFacts, Service, ServiceId,
    SignIn, SoftRow, User,
};
use warren_wire::{NodeId, UserId};

#[derive(Debug, Default)]
pub struct Store {
    users: BTreeMap<UserId, Arc<User>>,
    sign_ins: BTreeMap<UserId, Arc<SignIn>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    keys: BTreeMap<KeyId, Arc<PreAuthKey>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    api_keys: BTreeMap<ApiKeyId, Arc<ApiKey>>,
    policy: Option<Arc<PolicyRow>>,
    facts: ServerFacts,
    revision: Revision,
    soft: BTreeMap<NodeId, SoftRow>,
}

impl Store {
    pub fn commit(&mut self, batch: &Batch) {
        self.revision = batch.revision;
        for change in batch.rows.iter().cloned() {
            match change {
                RowChange::PutUser(user) => drop(self.users.insert(user.id, user)),
                RowChange::DeleteUser(id) => drop(self.users.remove(&id)),
                RowChange::PutSignIn(row) => drop(self.sign_ins.insert(row.user, row)),
                RowChange::DeleteSignIn(id) => drop(self.sign_ins.remove(&id)),
                RowChange::PutNode(node) => drop(self.nodes.insert(node.id, node)),
                RowChange::DeleteNode(id) => {
                    self.nodes.remove(&id);
                    self.soft.remove(&id);
                }
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

    pub fn save_soft(&mut self, rows: Vec<SoftRow>) {
        for row in rows {
            if self.nodes.contains_key(&row.node) {
                self.soft.insert(row.node, row);
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
            soft: self.soft.values().cloned().collect(),
        }
    }
}
