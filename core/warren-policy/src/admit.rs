//! What can be said against a policy only where users and nodes are known.

use crate::compile::Compiled;
use crate::diagnostics::{Diagnostics, MAX_COMPLAINTS};
use crate::policy::Policy;
use crate::sources::Resolver;
use crate::tailnet::Tailnet;
use crate::test_reach::Judge;

impl Policy {
    /// Compiles a policy that somebody wants to put in force, and holds it against what it says of itself.
    ///
    /// `domains`: the e-mail domains whose people belong to this network, as the operator configured them. A rule of `ssh`
    /// that speaks of another domain is refused, because who its people are is somebody else's to say. Empty: the operator
    /// named none, and any will do.
    ///
    /// A policy in force is compiled with [`Policy::compile`], which cannot fail: a test that holds no longer because a
    /// person left must not take the network down.
    ///
    /// # Errors
    /// Every entry of `tests` and `sshTests` that does not hold, and every domain that is not this network's, each with its
    /// place in the text.
    pub fn admit(&self, tailnet: &Tailnet<'_>, domains: &[String]) -> Result<Compiled, Diagnostics> {
        let compiled = self.compile(tailnet);
        let mut failures = Vec::new();
        for (place, domain) in self.extras.ssh.iter().flat_map(|rule| &rule.domains) {
            // The case counts, as in the field.
            if !domains.is_empty() && !domains.contains(domain) {
                failures.push(place.complain(format!(
                    "[ssh] {domain} is not associated with this Tailnet and cannot be used in user:*@<domain> expressions"
                )));
            }
        }
        let mut resolver = Resolver::new(self, *tailnet);
        let mut judge = Judge { policy: self, compiled: &compiled, tailnet, resolver: &mut resolver };
        for test in &self.extras.tests {
            judge.run(test, &mut failures);
            if failures.len() >= MAX_COMPLAINTS {
                break;
            }
        }
        for test in &self.extras.ssh_tests {
            if failures.len() >= MAX_COMPLAINTS {
                break;
            }
            test.run(&compiled.ssh, tailnet, &mut resolver, &mut failures);
        }
        if failures.is_empty() {
            return Ok(compiled);
        }
        failures.truncate(MAX_COMPLAINTS);
        failures.sort_by_key(|failure| (failure.line, failure.column));
        Err(Diagnostics(failures))
    }
}
