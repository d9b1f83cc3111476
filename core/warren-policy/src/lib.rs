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
//! What of the language is built: `groups`, `hosts`, `tagOwners`, `acls` with ports and protocols, all selectors of
//! `acls`, `autoApprovers` for routes and exit nodes, `randomizeClientPort`. What is not, and would change who may reach whom (`grants`, `srcPosture`, `ipsets` …), is
//! refused by name. What is not built and gives nobody access (`ssh`, `nodeAttrs`, `tests` …) is accepted and
//! named in [`Policy::not_built`], so that whoever stores a policy can say so.
//!
//! Reference for behaviour: user-surface.md §4.

#![forbid(unsafe_code)]

mod approve;
mod compile;
mod diagnostics;
mod document;
mod node_set;
mod policy;
mod ports;
mod selector;
mod sources;
mod tailnet;

pub use compile::Compiled;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use policy::{MAX_POLICY_LEN, Policy};
pub use tailnet::{PolicyNode, PolicyUser, Tailnet};
