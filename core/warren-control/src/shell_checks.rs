//! Shell sessions that a rule lets in only after a check (control-protocol.md §4.4): which are open, who may answer them,
//! and which count as passed.
//!
//! ```text
//! begin ──▶ open ──answer──▶ answered ──take──▶ taken          each step once, all within 15 minutes
//!                   └─ let in: passed, for the rule's period, from the same node to the same node, whatever the
//!                   │          account there, while it is that person's
//!                   └─ turned away: neither is anything that was passed before
//! ```
//!
//! Soft: after a restart whoever wants in is given a new link. The policy is not asked here: whoever lets somebody in by
//! a passed check holds it against [`crate::Snapshot::ssh_check`] at that moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_ip::heaviest;
use warren_policy::CheckPeriod;
use warren_wire::{NodeId, UserId};

use crate::command::Actor;
use crate::pending::AuthId;
use crate::registry::Registry;

/// How long a link is good, and what was answered can be looked at.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// At once; the oldest of the node that asks most goes first, for any node can ask about itself as often as it likes.
const MOST_OPEN: usize = 1024;

/// Between the same two nodes: a person has some windows, the rest is a loop.
const MOST_OF_A_PAIR: usize = 16;

/// Passed checks that are remembered.
const MOST_PASSED: usize = 10_000;

/// Who wants in where, as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellSession {
    /// The node from which the person comes.
    pub from: NodeId,
    /// The node that is entered.
    pub to: NodeId,
    /// The account there, as the entered node says; anything may be in it.
    pub local_user: String,
}

/// What whoever may has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckVerdict {
    /// The session may begin.
    LetIn,
    /// It may not.
    TurnedAway,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// Nobody has said anything.
    Open,
    /// The entered node has not fetched it yet.
    Answered(CheckVerdict),
    /// It has, this once.
    Taken(CheckVerdict),
}

/// One check.
#[derive(Clone, Debug)]
pub struct ShellCheck {
    /// Of what.
    pub session: ShellSession,
    /// Whose the node at `session.from` was when it began.
    pub owner: UserId,
    /// How it stands.
    pub step: CheckStep,
    since: Instant,
}

/// Why an answer does not count. For the person and the log. The check is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckRefusal {
    /// Never begun, too long ago, before a restart, or about a node that has changed hands since.
    #[error("this check is not known (any more)")]
    Unknown,
    /// Each is answered once.
    #[error("this check has been answered before")]
    Answered,
    /// Somebody else signed in.
    #[error(
        "this shell is opened from {device}, which is not a device of yours: only the person whose it is can answer"
    )]
    NotTheirs {
        /// The name of the node.
        device: String,
    },
}

/// What the entered node hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// As [`CheckRefusal::Unknown`], or taken before.
    Unknown,
    /// Not yet.
    Open,
    /// And nobody hears it again.
    Verdict(CheckVerdict),
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    owner: UserId,
    at: Instant,
}

/// All checks.
#[derive(Debug, Default)]
pub struct ShellChecks {
    checks: BTreeMap<AuthId, ShellCheck>,
    passed: BTreeMap<(NodeId, NodeId), Passed>,
}

impl ShellChecks {
    /// Somebody wants in. `id` is unguessable; `owner` is whose the node is from which they come.
    pub fn begin(&mut self, id: AuthId, session: ShellSession, owner: UserId, now: Instant) {
        self.checks.retain(|_, check| !is_over(check, now));
        let pair = (session.from, session.to);
        self.make_room(MOST_OF_A_PAIR, |check| (check.session.from, check.session.to) == pair);
        if self.checks.len() >= MOST_OPEN
            && let Some(most) = heaviest(self.checks.values().map(|check| check.session.to))
        {
            let count = self.checks.values().filter(|check| check.session.to == most).count();
            self.make_room(count, |check| check.session.to == most);
        }
        self.checks.insert(id, ShellCheck { session, owner, step: CheckStep::Open, since: now });
    }

    /// Somebody answers, this once: the person whose node it is, as their provider vouches for them, or an operator.
    ///
    /// # Errors
    /// [`CheckRefusal`]: nothing has changed.
    pub fn answer(
        &mut self,
        id: AuthId,
        verdict: CheckVerdict,
        by: &Actor,
        registry: &Registry,
        now: Instant,
    ) -> Result<ShellSession, CheckRefusal> {
        self.may_answer(id, by, registry, now)?;
        let check = self.checks.get_mut(&id).ok_or(CheckRefusal::Unknown)?;
        check.step = CheckStep::Answered(verdict);
        let (session, owner) = (check.session.clone(), check.owner);
        match verdict {
            CheckVerdict::LetIn => self.remember(&session, owner, now),
            // Whoever says no to what was let in before does not mean that either.
            CheckVerdict::TurnedAway => drop(self.passed.remove(&(session.from, session.to))),
        }
        Ok(session)
    }

    /// The entered node asks how its check stands; a verdict is taken by asking.
    pub fn take(&mut self, id: AuthId, session: &ShellSession, registry: &Registry, now: Instant) -> Taken {
        let Some(check) = self.checks.get_mut(&id).filter(|check| is_good(check, registry, now)) else {
            return Taken::Unknown;
        };
        match check.step {
            _ if check.session != *session => Taken::Unknown,
            CheckStep::Open => Taken::Open,
            CheckStep::Answered(verdict) => {
                check.step = CheckStep::Taken(verdict);
                Taken::Verdict(verdict)
            }
            CheckStep::Taken(_) => Taken::Unknown,
        }
    }

    /// Whether a check between these two nodes was passed so short a time ago that it still counts.
    pub fn has_passed(&self, session: &ShellSession, period: CheckPeriod, registry: &Registry, now: Instant) -> bool {
        let CheckPeriod::For(period) = period else { return false };
        let passed = self.passed.get(&(session.from, session.to));
        passed.is_some_and(|passed| {
            owner_of(registry, session.from) == Some(passed.owner) && now.saturating_duration_since(passed.at) < period
        })
    }

    /// The check, as long as its link is good or was.
    pub fn check(&self, id: AuthId, registry: &Registry, now: Instant) -> Option<&ShellCheck> {
        self.checks.get(&id).filter(|check| is_good(check, registry, now))
    }

    /// Whether an answer of theirs would count now.
    ///
    /// # Errors
    /// [`CheckRefusal`].
    pub fn may_answer(
        &self,
        id: AuthId,
        by: &Actor,
        registry: &Registry,
        now: Instant,
    ) -> Result<&ShellCheck, CheckRefusal> {
        let check = self.check(id, registry, now).ok_or(CheckRefusal::Unknown)?;
        let is_theirs = match by {
            Actor::Operator { .. } | Actor::ApiKey { .. } => true,
            Actor::Person { issuer, subject } => {
                registry.user_by_identity(issuer, subject).is_some_and(|user| user.id == check.owner)
            }
            Actor::Server | Actor::Machine { .. } => false,
        };
        if !is_theirs {
            let device = registry.node(check.session.from).map_or_else(String::new, |node| node.name.clone());
            return Err(CheckRefusal::NotTheirs { device });
        }
        if check.step == CheckStep::Open { Ok(check) } else { Err(CheckRefusal::Answered) }
    }

    fn remember(&mut self, session: &ShellSession, owner: UserId, now: Instant) {
        if self.passed.len() >= MOST_PASSED
            && let Some(oldest) = self.passed.iter().min_by_key(|(_, passed)| passed.at).map(|(pair, _)| *pair)
        {
            self.passed.remove(&oldest);
        }
        self.passed.insert((session.from, session.to), Passed { owner, at: now });
    }

    fn make_room(&mut self, most: usize, matches: impl Fn(&ShellCheck) -> bool) {
        while self.checks.values().filter(|check| matches(check)).count() >= most {
            let oldest = self.checks.iter().filter(|(_, check)| matches(check)).min_by_key(|(_, check)| check.since);
            let Some(id) = oldest.map(|(id, _)| *id) else { return };
            self.checks.remove(&id);
        }
    }
}

fn is_over(check: &ShellCheck, now: Instant) -> bool {
    now.saturating_duration_since(check.since) >= LIFETIME
}

fn is_good(check: &ShellCheck, registry: &Registry, now: Instant) -> bool {
    !is_over(check, now) && owner_of(registry, check.session.from) == Some(check.owner)
}

fn owner_of(registry: &Registry, node: NodeId) -> Option<UserId> {
    registry.node(node)?.owner.user()
}
