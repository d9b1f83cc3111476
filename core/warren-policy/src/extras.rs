//! The sections that make no packet filters: `ssh`, `sshTests`, `nodeAttrs`, `tests`, and what is accepted without effect.

use crate::diagnostics::Complaints;
use crate::document::Document;
use crate::node_attrs::{self, NodeAttrs};
use crate::policy::Policy;
use crate::policy_tests::{self, FAILED, PolicyTest};
use crate::ssh::{self, SshRule};
use crate::ssh_tests::{self, SshTest};

/// What those sections say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) ssh: Vec<SshRule>,
    pub(crate) ssh_tests: Vec<SshTest>,
    pub(crate) node_attrs: Vec<NodeAttrs>,
    pub(crate) tests: Vec<PolicyTest>,
    not_built: Vec<String>,
}

/// Sections that are accepted and have no effect. None of them gives anybody access.
const NOT_BUILT: [&str; 4] = ["attrConfig", "derpMap", "disableIPv4", "OneCGNATRoute"];

impl Extras {
    /// Reads the sections. `policy` has its groups, hosts, sets, tags, postures and rules already.
    pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> Extras {
        let node_attrs = node_attrs::read(policy, document, complaints);
        let not_built = document.filled().filter(|name| NOT_BUILT.contains(name)).map(str::to_owned).collect();
        let ssh = ssh::read(policy, document, complaints);
        complaints.set_heading(FAILED);
        let (ssh_tests, tests) =
            (ssh_tests::read(policy, document, complaints), policy_tests::read(policy, document, complaints));
        complaints.set_heading("");
        Extras { ssh, ssh_tests, node_attrs, tests, not_built }
    }

    pub(crate) fn not_built(&self) -> &[String] {
        &self.not_built
    }
}
