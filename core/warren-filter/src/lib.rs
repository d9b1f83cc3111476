//! The verdict on one packet, with its reason.
//!
//! [`Filter`] is what the control server's rules mean: a value that says whether a source may open a flow to a
//! destination. [`Guarded`] puts the flows that are running beside it and judges packets. [`Tsmp`] are the few messages
//! that nodes send each other in place of packets, among them "your connection was refused".
//!
//! Rules speak of what may come *in*. What the local host sends is never judged by a rule; it is noted, so that answers
//! find their way back. Order of the verdict, for a packet from a peer whose inner source was checked before:
//!
//! ```text
//! multicast, link-local          drop (but for the metadata address 169.254.169.254)
//! not addressed to this node     drop
//! later fragment                 accept: it is nothing without its first, which was judged
//! TSMP                           accept
//! ICMP error or echo reply       accept
//! other ICMP                     any rule from this source to this destination, whatever its ports
//! TCP that opens                 a rule; the flow is then tracked as theirs
//! other TCP                      accept, unless the flow was theirs and the policy has since taken it away
//! UDP, SCTP                      answer to a flow of ours, or a flow of theirs that still stands, or a rule
//! anything else                  a rule that names the protocol with all ports
//! ```
//!
//! **A policy that is taken away cuts what runs.** Where other nodes judge a TCP connection once, on its first segment,
//! [`Guarded::set_filter`] judges every tracked flow of theirs again. Flows that this node opened live on, and a TCP
//! connection that is not in the table (the daemon was restarted under it) is left alone.
//!
//! This crate does not know peers, keys or the host's own firewall, and does not log: it counts.

#![forbid(unsafe_code)]

mod flows;
mod guard;
mod rules;
mod tsmp;
mod verdict;

pub use guard::Guarded;
pub use rules::{Filter, RuleProblem};
pub use tsmp::{RejectReason, Tsmp, rejection_of};
pub use verdict::{Counters, DropReason, Verdict};
