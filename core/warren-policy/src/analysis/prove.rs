//! Whether a statement holds for every set of nodes that a policy admits.
//!
//! One packet is decided by the policy, by the node that sends it and by the node that receives it, and by nothing else of
//! the tailnet. So it is enough to look at two nodes: at every *kind* of the one and of the other. What a rule asks of a
//! node is that it have something (an owner, a tag, an address), never that it lack something; so `nothing` needs only the
//! smallest kinds that a rule and the statement name both ([`super::nothing`]), and `every` only the smallest that the
//! statement names ([`super::every`]). Addresses are cut into the finitely many pieces that the policy tells apart.
//!
//! What is assumed of nodes that nobody has seen is written down in `docs/operators/policy.md` and in
//! [`super::space::Space`], [`super::holders`].
//!
//! A counterexample is played over the compiled filter before it is told; one that does not play out is doubt, and a
//! doubt is said.

use crate::analysis::counterexample::Counterexample;
use crate::analysis::every;
use crate::analysis::holders::Population;
use crate::analysis::nothing;
use crate::analysis::statement::{Claim, ClaimKind, Statement};
use crate::policy::Policy;
use crate::selector::Selector;
use crate::tailnet::PolicyUser;

/// What is known about a statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// It holds for every set of nodes.
    Proved {
        /// What must be so beyond the policy; empty as a rule.
        assuming: Vec<String>,
        /// Nothing that the statement speaks of can exist, so it says nothing.
        is_vacuous: bool,
    },
    /// It does not hold for these nodes.
    Disproved(Box<Counterexample>),
    /// Neither was found out; or the statement cannot be understood. Why.
    Undecided(String),
}

/// Proves or disproves one statement.
///
/// `known`: the people who are there, if that is known; without them every word that may mean a person means somebody of
/// whom nothing else is known. More people than these may come.
pub fn prove(policy: &Policy, known: &[PolicyUser], statement: &Statement) -> Verdict {
    let claim = match &statement.claim {
        Ok(claim) => claim,
        Err(error) => return Verdict::Undecided(error.clone()),
    };
    let population = Population::new(policy, known);
    let checked = claim
        .check_defined(policy)
        .and_then(|()| [&claim.from, &claim.to].into_iter().try_for_each(|word| is_clear(&population, word)));
    if let Err(error) = checked {
        return Verdict::Undecided(error);
    }
    if is_vacuous(&population, claim) {
        return Verdict::Proved { assuming: Vec::new(), is_vacuous: true };
    }
    match claim.kind {
        ClaimKind::Nothing => nothing::prove(&population, claim),
        ClaimKind::Every => every::prove(&population, claim),
    }
}

/// A word that means two people means nobody, and a statement about nobody is not what was meant.
fn is_clear(population: &Population<'_>, word: &Selector) -> Result<(), String> {
    match word {
        Selector::User(token) if population.meant_by(token).len() > 1 => {
            Err(format!("{token} means more than one person, and so a policy takes it to mean nobody"))
        }
        _ => Ok(()),
    }
}

/// Whether one of the words can name nobody at all.
fn is_vacuous(population: &Population<'_>, claim: &Claim) -> bool {
    [&claim.from, &claim.to].into_iter().any(|word| match population.smallest(word) {
        Some(holders) => holders.is_empty(),
        None => crate::analysis::space::literal(population.policy, word).is_some_and(|set| set.is_empty()),
    })
}
