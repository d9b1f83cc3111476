//! A whole node as one value: who it is, what its person wants, what the control server says, and the engine.
//!
//! | question | file |
//! |---|---|
//! | what goes in and comes out | [`Command`], [`ControlEvent`], [`Action`], [`Notice`] |
//! | register, login page, renew, leave | `login` |
//! | map stream and updates | `map_stream` |
//! | wishes, and which are refused | [`Prefs`] |
//! | several networks on one device | [`ProfileId`], `profiles` |
//! | what engine and host shall be | [`plan`](plan()) |
//! | what time it is for keys that expire | [`Clock`] |
//! | what is the case, what is wrong | [`Status`], [`HealthItem`] |
//! | who is who | [`WhoIs`], [`Node::resolve_name`] |
//! | what survives a restart | [`NodeState`] |
//! | every call into the engine | `data_plane`, `ping` |
//!
//! # How to drive it
//! Call the `handle_*` method for what happened, then drain [`Node::poll_action`] and [`Node::poll_notice`]; call
//! [`Node::handle_timeout`] at [`Node::poll_timeout`]. Packets go through [`Node::engine_mut`], then
//! [`Node::handle_engine`]. `now` is monotonic and goes on while the machine sleeps; `wall` is the wall clock, which may
//! be wrong.
//!
//! # What it promises
//! - The last good map stays in use, whatever the server says or fails to say; a restart without the server uses it too.
//! - An expired key, ours or a peer's, is cut at that moment by the corrected clock; no restart or outage extends it.
//! - A new node key is written down before the server hears of it.
//!
//! # What it is not
//! No sockets, files, TLS, compression. Not built yet: exit nodes, served and accepted routes, DNS of the host, tailnet
//! lock signatures, SSH; wishes for them are refused by name.

#![forbid(unsafe_code)]

mod actions;
mod clock;
mod data_plane;
mod health;
mod login;
mod map_stream;
mod names;
mod node;
mod persisted;
mod ping;
mod plan;
mod prefs;
mod profile;
mod profiles;
mod status;

pub use actions::{
    Action, Command, CommandError, ControlEvent, ControlRequest, ControlTarget, Notice, OsFacts, PingKind, PingNumber,
    PingResult, Reply, RequestId,
};
pub use clock::{Clock, ClockMemory};
pub use health::{HealthItem, Severity};
pub use names::WhoIs;
pub use node::{Node, NodeSetup};
pub use persisted::{FORMAT, LoadStateError, NodeState};
pub use plan::{DEFAULT_MTU, EnginePlan, HostPlan, Plan, is_expired, mesh_ranges, plan};
pub use prefs::{Prefs, PrefsEdit, PrefsError, parse_control_url};
pub use profile::{CachedMap, Profile, ProfileId, ProfileSummary};
pub use status::{BackendState, MapFreshness, PeerStatus, Status};
pub use warren_wire::AuthKey;

/// A moment to begin a test at.
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's clock must begin somewhere")]
fn tests_start() -> std::time::Instant {
    std::time::Instant::now()
}
