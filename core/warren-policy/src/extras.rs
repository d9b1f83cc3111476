//! The sections that do not make packet filters: `ssh`, `sshTests`, `nodeAttrs`, `tests`, and what is only passed on.

use crate::diagnostics::Complaints;
use crate::document::Document;
use crate::policy::Policy;

/// What those sections say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Extras {
    not_built: Vec<String>,
}

/// Sections that are accepted and have no effect. None of them gives anybody access.
const NOT_BUILT: [&str; 8] =
    ["ssh", "nodeAttrs", "tests", "sshTests", "attrConfig", "derpMap", "disableIPv4", "OneCGNATRoute"];

impl Extras {
    /// Reads the sections. `policy` has its groups, hosts, sets, tags, postures and rules already.
    pub(crate) fn read(_policy: &Policy, document: &Document, _complaints: &mut Complaints<'_>) -> Extras {
        Extras { not_built: document.filled().filter(|name| NOT_BUILT.contains(name)).map(str::to_owned).collect() }
    }

    pub(crate) fn not_built(&self) -> &[String] {
        &self.not_built
    }
}
