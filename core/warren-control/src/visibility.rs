//! Who may see and reach whom, from the policy in force.
//!
//! Without a policy everyone reaches everyone, as in the field (control-protocol.md §11.8).

use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_wire::{FilterRule, NodeId};

use crate::command::{Answer, Refusal};
use crate::node_set::NodeSet;
use crate::registry::Registry;
use crate::rows::User;
use crate::staged::Staged;

/// A compiled policy, or none.
#[derive(Clone, Debug)]
pub struct Reach {
    allow_all: Arc<Vec<FilterRule>>,
}

impl Reach {
    /// Compiles a policy for the nodes and users of `registry`.
    pub(crate) fn compile(policy: Option<&str>, _registry: &Registry) -> Result<Self, String> {
        match policy {
            None => Ok(Self { allow_all: Arc::new(vec![FilterRule::allow_all()]) }),
            Some(_) => Err("this build cannot compile policies yet".to_owned()),
        }
    }

    /// The same policy for other nodes or users.
    pub(crate) fn refreshed(&self, _registry: &Registry) -> Self {
        self.clone()
    }

    pub(crate) fn visible_to(&self, _node: NodeId, _registry: &Registry, everyone: &Arc<NodeSet>) -> Arc<NodeSet> {
        Arc::clone(everyone)
    }

    pub(crate) fn filter_of(&self, _node: NodeId, _registry: &Registry) -> Arc<Vec<FilterRule>> {
        Arc::clone(&self.allow_all)
    }

    /// Whether a person may give their own device this tag when they log in on it.
    pub(crate) fn may_own_tag(&self, _user: &User, _tag: &str) -> bool {
        false
    }
}

impl Staged {
    pub(crate) fn replace_policy(&mut self, text: String, _now: UnixTime) -> Result<Answer, Refusal> {
        Reach::compile(Some(&text), &self.state.registry).map_err(Refusal::Policy)?;
        Ok(Answer::Done)
    }
}
