//! A simulated internet: one clock, links, routers with address translation and firewalls, hosts.
//!
//! It knows nothing of Warren: datagrams are bytes, streams are messages in order. Everything happens in one thread under
//! one clock, and the same seed gives the same run.
//!
//! ```text
//!   host ── link ── router (NAT, firewall) ── link ──┐
//!   host ── link ──┘                                 ├── the public segment ── link ── host
//!   host ── link ── router ── link ── router ── link ┘
//! ```
//!
//! | idea | file |
//! |---|---|
//! | the value itself: topology, sending, the clock | [`Internet`] |
//! | what a link does to a packet | [`Link`] |
//! | address translation after RFC 4787 | [`Nat`], [`Dependence`], [`Ports`] |
//! | what a router lets in | [`Firewall`] |
//! | reliable streams, as TCP gives them | [`StreamId`] |
//! | whether two hosts could ever meet without a relay | [`Internet::direct_path_possible`] |
//!
//! Not modelled: fragmentation (what exceeds an MTU is lost), ICMP, routing protocols, congestion control.

#![forbid(unsafe_code)]

mod firewall;
mod internet;
mod link;
mod meeting;
mod nat;
mod random;
mod streams;

use std::time::Instant;

pub use firewall::Firewall;
pub use internet::{Arrival, Host, HostId, Internet, RouterConfig, RouterId, Segment};
pub use link::Link;
pub use nat::{Dependence, Nat, Ports};
pub use random::Dice;
pub use streams::{StreamEvent, StreamId};

/// A moment to begin with, for tests that need no internet. Which one means nothing; only differences do.
pub fn beginning() -> Instant {
    Instant::now()
}
