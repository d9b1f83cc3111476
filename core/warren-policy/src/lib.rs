//! From a policy file to what each node lets in and whom it sees.
//!
//! ```text
//! text ──Policy::parse──▶ Policy ──Policy::compile(&Tailnet)──▶ Compiled ──▶ filter_for(node), visible(a, b), peers_of(node)
//! ```
//!
//! A [`Policy`] is a text that was understood whole: every selector known, every port in range. It knows no nodes.
//! [`Compiled`] is that policy over one set of users and nodes. Rules are resolved to *sets of nodes* once, so that asking
//! costs bit operations and never a walk over pairs.
//!
//! The language is that of the field, whole, as HuJSON or YAML: `groups`, `hosts`, `ipsets`, `tagOwners`, `postures`, `acls`,
//! `grants`, `autoApprovers`. What another server writes differently is accepted if it can mean one thing only
//! ([`Policy::notes`]), else refused with what to write. Sections that have no effect yet give nobody access
//! ([`Policy::not_built`]).
//!
//! Inside, three forms follow each other, each documented where it is defined:
//!
//! ```text
//! document::Document   the text as a tree with positions (raw::Raw), whatever its syntax; sections by their names
//! rule::Rule           one rule, whether from `acls` or `grants`: selectors, packets, capabilities, `via`, postures
//! resolved::Resolved   one rule over one tailnet: sets of nodes and networks
//! ```
//!
//! A section that makes no packet filter (`ssh`, `nodeAttrs`, `tests` …) is read in a file of its own from its
//! [`Raw`](raw::Raw), called from `extras`. What walks rules (explaining, comparing, proving) walks `Policy::rules` if it
//! is about every tailnet, and `Compiled::resolved` if it is about one.
//!
//! What a control server does with it:
//!
//! | when | call |
//! |---|---|
//! | an operator brings a text | [`Policy::parse`], then [`Policy::admit`]: refuses what `tests` and `sshTests` contradict |
//! | users, nodes or the policy change | [`Policy::compile`], which cannot fail |
//! | for each node's map | [`Compiled::filter_for`], [`Compiled::peers_of`], [`Compiled::route_use`] |
//! | | [`Compiled::ssh_policy_for`]; [`Compiled::has_ssh`] if it is worth telling nodes that they may run a server |
//! | in the node's own record | [`Compiled::cap_map_for`], beside what the server tells every node |
//! | in its record for peers | [`Compiled::peer_cap_map_for`] |
//! | a node asks whether to let a session in | [`Compiled::ssh_check`]: for how long a sign-in holds, and what to answer after it |
//!
//! Reference for behaviour: user-surface.md §4.

#![forbid(unsafe_code)]

mod admit;
pub mod analysis;
mod approve;
mod compile;
mod definitions;
mod diagnostics;
mod document;
mod duration;
mod extras;
mod filter;
mod logins;
mod node_attrs;
mod node_set;
mod people;
mod place;
mod policy;
mod policy_tests;
mod ports;
mod posture;
mod raw;
mod resolved;
mod rewrites;
mod rule;
mod rules;
mod selector;
mod sources;
mod ssh;
mod ssh_table;
mod ssh_tests;
mod tailnet;
mod test_reach;
mod told;
mod visibility;
mod yaml;

pub use compile::Compiled;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use policy::{MAX_POLICY_LEN, Policy};
pub use ssh::CheckPeriod;
pub use ssh_table::SshCheck;
pub use tailnet::{Attribute, NoRole, PolicyNode, PolicyService, PolicyUser, Role, Tailnet};
pub use visibility::RouteUse;
