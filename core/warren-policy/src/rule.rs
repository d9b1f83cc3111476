//! One rule of a policy, whatever it was written as: the form that everything after parsing works on.
//!
//! `acls` and `grants` both become [`Rule`]s. An entry of `grants` is one rule. An entry of `acls` is one rule for each of
//! its destinations, because each may have its own ports, and because the order of filters follows from it
//! (user-surface.md §4.5). [`crate::Policy`] keeps them in the order in which they count: all of `grants`, then all of
//! `acls`.
//!
//! A rule speaks in [`Selector`]s and knows no nodes. Over one tailnet it becomes a [`crate::resolved::Resolved`].

use std::fmt;

use warren_ip::Protocol;
use warren_wire::{CapMap, PortRange};

use crate::selector::{Autogroup, Selector};

/// Whoever is in `sources` may send what `access` says to `destinations`, and ask what `app` says of programs there.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rule {
    pub(crate) origin: Origin,
    /// Any of them.
    pub(crate) sources: Vec<Selector>,
    /// Postures of which a source that is a node must meet at least one; empty asks nothing. The default of the policy
    /// is already filled in.
    pub(crate) postures: Vec<String>,
    /// Each of them. Ports are not here but in `access`, also for `acls`.
    pub(crate) destinations: Vec<Selector>,
    /// What packets may pass, each entry for all of `destinations`. Empty: none, the rule is about `app` alone.
    pub(crate) access: Vec<Access>,
    /// Application capabilities with their arguments, passed on as written.
    pub(crate) app: CapMap,
    /// Tags of routers. If there are any, destinations are networks that are reached through a node with one of these
    /// tags only, and nothing but the filter of such a node comes of this rule; `app` is then without effect.
    pub(crate) via: Vec<String>,
}

/// Packets that a rule lets pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    /// `None`: what the field means by saying nothing, which is TCP, UDP and ICMP of both families.
    pub(crate) protocol: Option<Protocol>,
    /// Any of them; [`PortRange::ANY`] where the protocol has no ports. Never empty.
    pub(crate) ports: Vec<PortRange>,
}

/// Where in the document a rule stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) section: Section,
    /// Which entry of the section, from 0.
    pub(crate) entry: usize,
    /// For `acls`: which destination of the entry, from 0, as written.
    pub(crate) destination: Option<usize>,
    /// Of the entry, from 1.
    pub(crate) line: usize,
}

/// The section that a rule was written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    Acls,
    Grants,
}

impl Rule {
    /// What a policy that says nothing of access says: every device, and whatever lies behind one, reaches everything.
    pub(crate) fn of_no_policy() -> Rule {
        Rule {
            origin: Origin { section: Section::Acls, entry: 0, destination: None, line: 1 },
            sources: vec![Selector::Everyone],
            postures: Vec::new(),
            destinations: vec![Selector::Everyone],
            access: vec![Access { protocol: None, ports: vec![PortRange::ANY] }],
            app: CapMap::new(),
            via: Vec::new(),
        }
    }

    /// Whether packets pass by this rule at all (`via` or not).
    pub(crate) fn passes_packets(&self) -> bool {
        !self.access.is_empty()
    }

    /// Whether what `autogroup:self` gives stands before the rest: where all destinations are autogroups their order is
    /// kept, else it comes last.
    pub(crate) fn has_own_first(&self) -> bool {
        self.destinations.first() == Some(&Selector::Autogroup(Autogroup::Selves))
            && self.destinations.iter().all(Selector::is_autogroup)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = match self.section {
            Section::Acls => "acls",
            Section::Grants => "grants",
        };
        write!(f, "{section}[{}]", self.entry)?;
        if let Some(destination) = self.destination {
            write!(f, ".dst[{destination}]")?;
        }
        write!(f, " (line {})", self.line)
    }
}
